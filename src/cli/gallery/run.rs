//! Runs an exhibit's layer on the device, and compares the result with the oracle.

use super::exhibits::{Exhibit, Model};
use super::pictures::Planes;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use warpconv::half::{bf16, f16};
use warpconv::reference::{self, Array};
use warpconv::{
    AnyLayer, DType, Device, DeviceKind, Element, Inputs, Layer, MemoryFormat, PlanRequest, Result, Shape, Stream, Tensor, WorkspaceMemory,
};

/// What a layer reads, by the names of its signature.
pub type Operands = BTreeMap<&'static str, Planes>;

/// What came out of a layer.
#[derive(Debug)]
pub struct Outcome {
    pub y: Planes,
    /// The kernel's name.
    pub kernel: &'static str,
    /// Grid, block and every candidate, in words.
    pub explanation: String,
    /// Of one run, from the launch to the end of the work.
    pub time: Duration,
}

/// Runs `layer` once.
///
/// # Errors
/// What the layer or the device refuses.
pub fn run(device: &Device, layer: &AnyLayer, operands: &Operands, dtype: DType, format: MemoryFormat) -> Result<Outcome> {
    match dtype {
        DType::F32 => run_as::<f32>(device, layer, operands, format),
        DType::F16 => run_as::<f16>(device, layer, operands, format),
        DType::Bf16 => run_as::<bf16>(device, layer, operands, format),
    }
}

fn run_as<T: Element>(device: &Device, layer: &AnyLayer, operands: &Operands, format: MemoryFormat) -> Result<Outcome> {
    let upload = |(name, planes): (&&'static str, &Planes)| {
        let tensor = Tensor::<f32>::from_slice(device, shape(planes), &planes.values)?;
        Ok((*name, tensor.cast::<T>()?.to_format(format)?))
    };
    let tensors = operands.iter().map(upload).collect::<Result<BTreeMap<_, _>>>()?;
    let views = tensors.iter().map(|(name, tensor)| (*name, tensor.view())).collect();
    let inputs = Inputs::from_named(&layer.spec(), &views, None)?;
    let plan = layer.plan::<T>(device, &PlanRequest::new(inputs.x.shape()).format(format))?;
    let mut y = Tensor::<T>::zeros(device, plan.output_shape(), plan.output_format())?;
    let mut memory = WorkspaceMemory::new(device, plan.workspace_bytes())?;
    let stream = Stream::default_of(device);
    if device.kind() == DeviceKind::Cuda {
        // a GPU's first run is not like the others
        plan.run(&inputs, &mut y, memory.workspace(), &stream)?;
    }
    device.synchronize()?;
    let start = Instant::now();
    plan.run(&inputs, &mut y, memory.workspace(), &stream)?;
    stream.synchronize()?;
    let time = start.elapsed();
    let [_, c, h, w] = y.shape();
    let y = Planes { shape: [c, h, w], values: y.to_vec()?.into_iter().map(T::to_f32).collect() };
    Ok(Outcome { y, kernel: plan.explain().kernel, explanation: plan.explain().to_string(), time })
}

/// How far a result is from its definition.
#[derive(Debug, Clone, Copy)]
pub struct Check {
    /// The largest |y - reference|.
    pub error: f64,
    /// The largest error over the bound of the numerics contract, element by element: at most 1 when it holds.
    pub ratio: f64,
    /// Elements that break the contract.
    pub failures: usize,
    /// All of them.
    pub elements: usize,
}

/// Compares every element of `y` with the oracle, whose operands are rounded as the kernel's were.
///
/// # Errors
/// What the oracle refuses.
pub fn check(model: &Model, operands: &Operands, dtype: DType, y: &Planes) -> Result<Check> {
    let mut tensors = BTreeMap::new();
    for (&name, planes) in operands {
        tensors.insert(name.to_string(), Array::from_slice(shape(planes), &planes.values)?.rounded(dtype));
    }
    for (name, parameter) in &model.parameters {
        let values = Array::from_slice(parameter.shape(), parameter.values())?;
        // vectors, such as a bias, stay f32 in every dtype
        tensors.insert(name.clone(), if parameter.shape().len() > 1 { values.rounded(dtype) } else { values });
    }
    let (expected, scale) = reference::layer(&model.layer.spec(), &tensors)?;
    // the bit-for-bit rule is for multiples of 1/64, which pixels are not
    let contract = model.layer.contract(dtype, &operands.get("x").map_or([0; 4], shape).into())?.exact(false);
    let report = contract.check(&y.values, expected.data(), scale.data())?;
    let distance = y.values.iter().zip(expected.data()).map(|(&y, &e)| (f64::from(y) - e).abs());
    Ok(Check {
        error: distance.fold(0.0, f64::max),
        ratio: report.worst.map_or(0.0, |worst| worst.ratio),
        failures: report.failures,
        elements: report.elements,
    })
}

/// As a batch of one.
pub fn shape(planes: &Planes) -> Shape {
    let [c, h, w] = planes.shape;
    [1, c, h, w]
}

/// What a 1x1 layer on red, green and blue makes of a ramp from black to white: a curve for each output channel.
///
/// # Errors
/// As [`run`].
pub fn ramp(device: &Device, exhibit: &Exhibit) -> Result<Vec<Vec<f32>>> {
    const STEPS: usize = 101;
    let values = (0..3 * STEPS).map(|i| (i % STEPS) as f32 / (STEPS - 1) as f32).collect();
    let x = Planes { shape: [3, 1, STEPS], values };
    let operands = Operands::from([("x", x)]);
    let y = run(device, &exhibit.model.layer, &operands, exhibit.dtype, exhibit.format)?.y;
    Ok((0..y.shape[0]).map(|channel| y.channel(channel).to_vec()).collect())
}
