//! Runs an exhibit's layer on the device, and compares the result with the oracle.

use super::exhibits::Exhibit;
use super::pictures::Planes;
use std::time::{Duration, Instant};
use warpconv::half::{bf16, f16};
use warpconv::numerics::Contract;
use warpconv::reference::{self, Array};
use warpconv::{
    Activation, AnyLayer, DType, Device, DeviceKind, Element, Error, Inputs, Layer, MemoryFormat, PlanRequest, Result, Stream, Tensor,
    Workspace,
};

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
pub fn run(
    device: &Device,
    layer: &AnyLayer,
    x: &Planes,
    residual: Option<&Planes>,
    dtype: DType,
    format: MemoryFormat,
) -> Result<Outcome> {
    match dtype {
        DType::F32 => run_as::<f32>(device, layer, x, residual, format),
        DType::F16 => run_as::<f16>(device, layer, x, residual, format),
        DType::Bf16 => run_as::<bf16>(device, layer, x, residual, format),
    }
}

fn run_as<T: Element>(device: &Device, layer: &AnyLayer, x: &Planes, residual: Option<&Planes>, format: MemoryFormat) -> Result<Outcome> {
    let upload = |planes: &Planes| {
        let [c, h, w] = planes.shape;
        Tensor::<f32>::from_slice(device, [1, c, h, w], &planes.values)?.cast::<T>()?.to_format(format)
    };
    let x = upload(x)?;
    let residual = residual.map(upload).transpose()?;
    let plan = layer.plan::<T>(device, &PlanRequest::new(x.shape()).format(format))?;
    let mut y = Tensor::<T>::zeros(device, plan.output_shape(), plan.output_format())?;
    let mut inputs = Inputs::new(&x);
    if let Some(residual) = &residual {
        inputs = inputs.residual(residual);
    }
    let stream = Stream::default_of(device);
    if device.kind() == DeviceKind::Cuda {
        // a GPU's first run is not like the others
        plan.run(&inputs, &mut y, Workspace::none(), &stream)?;
    }
    device.synchronize()?;
    let start = Instant::now();
    plan.run(&inputs, &mut y, Workspace::none(), &stream)?;
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
pub fn check(layer: &AnyLayer, x: &Planes, residual: Option<&Planes>, dtype: DType, y: &Planes) -> Result<Check> {
    let array = |planes: &Planes| {
        let [c, h, w] = planes.shape;
        Ok::<_, Error>(Array::from_slice([1, c, h, w], &planes.values)?.rounded(dtype))
    };
    let (x, residual) = (array(x)?, residual.map(array).transpose()?);
    let (expected, scale, contract) = definition(layer, &x, residual.as_ref(), dtype)?;
    let report = contract.check(&y.values, expected.data(), scale.data())?;
    let distance = y.values.iter().zip(expected.data()).map(|(&y, &e)| (f64::from(y) - e).abs());
    Ok(Check {
        error: distance.fold(0.0, f64::max),
        ratio: report.worst.map_or(0.0, |worst| worst.ratio),
        failures: report.failures,
        elements: report.elements,
    })
}

/// What the layer ought to give, the scale of its rounding errors, and what is demanded.
fn definition(layer: &AnyLayer, x: &Array, residual: Option<&Array>, dtype: DType) -> Result<(Array, Array, Contract)> {
    match layer {
        AnyLayer::Conv2d(layer) => {
            let spec = layer.attributes();
            let weight = Array::new(layer.weight().shape(), layer.weight().rounded(dtype))?;
            let vector = |p: &warpconv::Parameter| Array::from_slice(p.shape(), p.values());
            let (bias, slope) = (layer.bias().map(vector).transpose()?, layer.slope().map(vector).transpose()?);
            let y = reference::conv2d(spec, x, &weight, bias.as_ref(), slope.as_ref(), residual)?;
            let scale = reference::conv2d_scale(spec, x, &weight, bias.as_ref(), residual)?;
            let gain = match spec.activation {
                Activation::LeakyRelu { alpha } => f64::from(alpha.abs()),
                Activation::Prelu => layer.slope().map_or(1.0, |s| s.values().iter().fold(1.0, |most, v| f64::from(v.abs()).max(most))),
                _ => 1.0,
            };
            let products = layer.weight().shape()[1..].iter().product();
            Ok((y, scale, Contract::new(dtype, products).gain(gain)))
        }
        other => Err(Error::Attribute { name: "op", value: other.spec().op().into(), requirement: "one that the gallery can check" }),
    }
}

/// What a 1x1 layer on red, green and blue makes of a ramp from black to white: a curve for each output channel.
///
/// # Errors
/// As [`run`].
pub fn ramp(device: &Device, exhibit: &Exhibit) -> Result<Vec<Vec<f32>>> {
    const STEPS: usize = 101;
    let values = (0..3 * STEPS).map(|i| (i % STEPS) as f32 / (STEPS - 1) as f32).collect();
    let x = Planes { shape: [3, 1, STEPS], values };
    let y = run(device, &exhibit.layer, &x, None, exhibit.dtype, exhibit.format)?.y;
    Ok((0..y.shape[0]).map(|channel| y.channel(channel).to_vec()).collect())
}
