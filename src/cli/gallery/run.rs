//! Runs an exhibit's layer on the device, and compares the result with the oracle.

use super::exhibits::{Exhibit, Model, ROIS};
use super::pictures::Planes;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use warpconv::reference::{self, Array};
use warpconv::{
    AnyLayer, DType, Device, DeviceKind, Element, Inputs, Layer, MemoryFormat, OffsetOrMask, PlanRequest, Result, RoIs, Shape, Stream,
    Tensor, WorkspaceMemory,
};

/// What a layer reads, by the names of its signature.
pub type Operands = BTreeMap<&'static str, Values>;

/// A tensor: images [1, C, H, W], RoIs [K, 5], and what belongs to them [K, C, H, W].
#[derive(Debug, Clone, PartialEq)]
pub struct Values {
    pub shape: Vec<usize>,
    /// Row-major.
    pub values: Vec<f32>,
}

impl Values {
    /// As a layer takes an image or offsets.
    pub fn shape4(&self) -> Shape {
        self.shape.as_slice().try_into().unwrap_or_default()
    }

    /// The RoIs that it holds.
    pub fn rois(&self) -> &[[f32; 5]] {
        self.values.as_chunks().0
    }
}

/// As a batch of one.
impl From<Planes> for Values {
    fn from(planes: Planes) -> Self {
        let [c, h, w] = planes.shape;
        Self { shape: vec![1, c, h, w], values: planes.values }
    }
}

/// What a plan for these operands is asked for.
pub fn request(operands: &Operands) -> PlanRequest {
    let request = PlanRequest::new(operands.get("x").map_or([0; 4], Values::shape4));
    match operands.get(ROIS) {
        Some(rois) => request.rois(rois.shape[0]),
        None => request,
    }
}

/// Operands that are f32 in every dtype.
const SAMPLING: [&str; 2] = ["offset", "mask"];

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
    warpconv::with_dtype!(dtype, T => run_as::<T>(device, layer, operands, format))
}

fn run_as<T: Element>(device: &Device, layer: &AnyLayer, operands: &Operands, format: MemoryFormat) -> Result<Outcome> {
    let f32s = |values: &Values| Tensor::<f32>::from_slice(device, values.shape4(), &values.values)?.to_format(format);
    let images = operands.iter().filter(|(name, _)| !SAMPLING.contains(name) && **name != ROIS);
    let tensors = images.map(|(name, values)| Ok((*name, f32s(values)?.cast::<T>()?))).collect::<Result<BTreeMap<_, _>>>()?;
    let views = tensors.iter().map(|(name, tensor)| (*name, tensor.view())).collect();
    let [offset, mask] = SAMPLING.map(|name| operands.get(name).map(f32s).transpose());
    let (offset, mask) = (offset?, mask?);
    let rois = operands.get(ROIS).map(|values| RoIs::from_slice(device, 1, values.rois())).transpose()?;
    let mut inputs = Inputs::from_named(&layer.spec(), &views, rois.as_ref().map(RoIs::view))?;
    inputs.offset = offset.as_ref().map(|tensor| OffsetOrMask::F32(tensor.view()));
    inputs.mask = mask.as_ref().map(|tensor| OffsetOrMask::F32(tensor.view()));
    let plan = layer.plan::<T>(device, &request(operands).format(format))?;
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
    // RoIs one behind the other
    let [n, c, h, w] = y.shape();
    let y = Planes { shape: [n * c, h, w], values: y.to_vec()?.into_iter().map(T::to_f32).collect() };
    Ok(Outcome { y, kernel: plan.explain().kernel, explanation: plan.explain().to_string(), time })
}

/// How far a result is from its definition.
#[derive(Debug, Clone, Copy)]
pub struct Check {
    /// The largest |y - reference|.
    pub error: f64,
    /// The largest error over the bound of the numerics contract, element by element: at most 1
    /// when it holds.
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
    for (&name, operand) in operands {
        let values = Array::from_slice(operand.shape.as_slice(), &operand.values)?;
        let exact = SAMPLING.contains(&name) || name == ROIS;
        tensors.insert(name.to_string(), if exact { values } else { values.rounded(dtype) });
    }
    for (name, parameter) in &model.parameters {
        let values = Array::from_slice(parameter.shape(), parameter.values())?;
        // vectors, such as a bias, stay f32 in every dtype
        tensors.insert(name.clone(), if parameter.shape().len() > 1 { values.rounded(dtype) } else { values });
    }
    let (expected, scale) = reference::layer(&model.layer.spec(), &tensors)?;
    // the bit-for-bit rule is for multiples of 1/64, which pixels are not
    let contract = model.layer.contract(dtype, &request(operands))?.exact(false);
    let report = contract.check(&y.values, expected.data(), scale.data())?;
    let distance = y.values.iter().zip(expected.data()).map(|(&y, &e)| (f64::from(y) - e).abs());
    Ok(Check {
        error: distance.fold(0.0, f64::max),
        ratio: report.worst.map_or(0.0, |worst| worst.ratio),
        failures: report.failures,
        elements: report.elements,
    })
}

/// What a 1x1 layer on red, green and blue makes of a ramp from black to white: a curve for each
/// output channel.
///
/// # Errors
/// As [`run`].
pub fn ramp(device: &Device, exhibit: &Exhibit) -> Result<Vec<Vec<f32>>> {
    const STEPS: usize = 101;
    let values = (0..3 * STEPS).map(|i| (i % STEPS) as f32 / (STEPS - 1) as f32).collect();
    let x = Planes { shape: [3, 1, STEPS], values };
    let operands = Operands::from([("x", x.into())]);
    let y = run(device, &exhibit.model.layer, &operands, exhibit.dtype, exhibit.format)?.y;
    Ok((0..y.shape[0]).map(|channel| y.channel(channel).to_vec()).collect())
}
