//! `warpconv run`: one layer on the user's data.

use super::{
    DeviceArgs, LimitArgs, Verdict, dtype_parser, format_parser, layer_from_files, note, of_file, print, print_json, read_layer, watched,
};
use indicatif::{BinaryBytes, HumanCount};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use warpconv::analysis::{Limits, Operands, analyse};
use warpconv::geometry::rank4;
use warpconv::io::{TensorFile, save};
use warpconv::{
    AnyLayer, AnyTensor, DType, Device, Element, Error, Explanation, Inputs, Layer, LayerSpec, MemoryFormat, PlanRequest, Result, RoIs,
    Shape, Stream, Tensor, WorkspaceMemory,
};

const EXAMPLES: &str = "\
Examples:
  warpconv run --layer layer.json --weights w.safetensors --input x.safetensors \\
               --output y.safetensors
  warpconv run --layer layer.json --weights w.safetensors --input x.safetensors \\
               --output y.safetensors --dtype f16 --format channels-last --device cuda:0

layer.json holds the operation and its attributes:
  {\"op\": \"conv2d\", \"attrs\": {\"stride\": 2, \"padding\": [1, 1, 1, 1], \"activation\": \"relu\"}}

The weights are named as the layer's parameters, the inputs as its inputs:
  conv2d   weight [C_out, C_in / groups, kh, kw], bias [C_out], slope [C_out]; x [N, C, H, W], residual

A file with a single tensor is taken as x, whatever its name. The output file holds y, in NCHW order.";

/// Run a layer on tensors from safetensors files
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The layer's operation and attributes
    #[arg(long, value_name = "LAYER.json")]
    layer: PathBuf,
    /// The layer's parameters; not needed by a layer without
    #[arg(long, value_name = "W.safetensors")]
    weights: Option<PathBuf>,
    /// The layer's inputs
    #[arg(long, value_name = "X.safetensors")]
    input: PathBuf,
    /// Where the result goes; written whole or not at all
    #[arg(long, value_name = "Y.safetensors")]
    output: PathBuf,
    /// Dtype of the computation and of the result [default: that of x; f32 for an x in f64]
    #[arg(long, value_parser = dtype_parser())]
    dtype: Option<DType>,
    /// Memory format in which the kernel reads and writes
    #[arg(long, value_parser = format_parser(), default_value = "contiguous")]
    format: MemoryFormat,
    #[command(flatten)]
    limits: LimitArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The name of the input that is not an image.
const ROIS: &str = "rois";

/// The inputs in a file, with the names that the layer gives them.
struct InputFile {
    file: TensorFile,
    /// The layer's name of each input, and its name in the file.
    names: Vec<(&'static str, String)>,
}

impl InputFile {
    fn open(path: &PathBuf, spec: &LayerSpec) -> Result<Self> {
        let file = TensorFile::open(path)?;
        let known = spec.signature().inputs;
        let mut names = Vec::new();
        let single = file.names().count() == 1;
        for name in file.names() {
            match known.iter().find(|known| **known == name) {
                Some(input) => names.push((*input, name.to_string())),
                None if single => names.push((known[0], name.to_string())),
                None => {
                    let unexpected = Error::UnexpectedTensor { op: spec.op(), name: name.into(), known: known.join(", ") };
                    return Err(of_file(unexpected, spec, path));
                }
            }
        }
        for (input, name) in names.iter().filter(|(input, _)| *input != ROIS) {
            rank4(input, file.shape(name)?)?;
        }
        Ok(Self { file, names })
    }

    fn dtype(&self) -> Result<DType> {
        let x = self.names.iter().find(|(input, _)| *input == "x");
        Ok(x.map(|(_, name)| self.file.dtype(name)).transpose()?.flatten().unwrap_or(DType::F32))
    }
}

/// Refuses a run that exceeds the limits. For a run that will take a while, prints the cost, and
/// returns the text for a progress bar.
fn announce(layer: &AnyLayer, request: &PlanRequest, operands: Operands, limits: Limits) -> Result<Option<String>> {
    /// A run that needs at least one part in this many of the limits is worth a line.
    const LONG: u64 = 50;
    let report = analyse(&layer.spec(), &layer.parameter_shapes(), request, operands)?;
    limits.check(&report)?;
    let short = Limits { flops: limits.flops / LONG, bytes: limits.bytes / LONG };
    if short.check(&report).is_ok() {
        return Ok(None);
    }
    let (flops, moved) = (HumanCount(report.operations.flops), BinaryBytes(report.bytes.read + report.bytes.written));
    note(format_args!("work: {flops} FLOPs, {moved} to read and write"));
    Ok(Some(format!("running {}, {flops} FLOPs", report.op)))
}

/// The results of a run.
struct Outcome {
    y: AnyTensor,
    explanation: Explanation,
    x: Shape,
    planning: Duration,
    running: Duration,
}

fn run<T: Element>(layer: &AnyLayer, inputs: InputFile, format: MemoryFormat, device: &Device, limits: Limits) -> Result<Outcome> {
    let load = |(input, name): &(&'static str, String)| {
        let tensor = inputs.file.tensor::<T>(name, device)?;
        Ok((*input, if format == MemoryFormat::Contiguous { tensor } else { tensor.to_format(format)? }))
    };
    let named = inputs.names.iter().filter(|(input, _)| *input != ROIS);
    let tensors = named.map(load).collect::<Result<BTreeMap<&str, Tensor<T>>>>()?;
    let batch = tensors.get("x").map_or(0, |x| x.shape()[0]);
    let rois = inputs.names.iter().find(|(input, _)| *input == ROIS).map(|(_, name)| inputs.file.rois(name, batch, device)).transpose()?;
    let path = inputs.file.path().to_path_buf();
    drop(inputs); // the tensors have all of it
    let views = tensors.iter().map(|(name, tensor)| (*name, tensor.view())).collect();
    let named = Inputs::from_named(&layer.spec(), &views, rois.as_ref().map(RoIs::view));
    let inputs = named.map_err(|error| of_file(error, &layer.spec(), &path))?;
    let x = inputs.x.shape();
    let start = Instant::now();
    let mut request = PlanRequest::new(x).format(format);
    if let Some(rois) = &rois {
        request = request.rois(rois.len());
    }
    let operands = Operands::new(T::DTYPE).residual(tensors.contains_key("residual")).mask(tensors.contains_key("mask"));
    let plan = layer.plan::<T>(device, &request)?;
    let long = announce(layer, &request, operands, limits)?;
    let mut y = Tensor::zeros(device, plan.output_shape(), format)?;
    let mut memory = WorkspaceMemory::new(device, plan.workspace_bytes())?;
    device.synchronize()?;
    let planning = start.elapsed();
    let start = Instant::now();
    let mut work = || {
        plan.run(&inputs, &mut y, memory.workspace(), &Stream::default_of(device))?;
        device.synchronize()
    };
    match long {
        Some(what) => watched(device, plan.explain().blocks(), what, work),
        None => work(),
    }?;
    let running = start.elapsed();
    Ok(Outcome { y: y.into(), explanation: plan.explain().clone(), x, planning, running })
}

/// Completes an error about a missing tensor if there is no file of weights.
fn without_weights(error: Error) -> Error {
    match error {
        Error::MissingTensor { op, name, .. } => {
            Error::MissingTensor { op, name, available: ": name the file that has it with --weights".into() }
        }
        error => error,
    }
}

pub fn execute(args: Args) -> Result<Verdict> {
    let spec = read_layer(&args.layer)?;
    let layer = match &args.weights {
        Some(weights) => layer_from_files(spec, weights)?,
        None => AnyLayer::new(spec, BTreeMap::new()).map_err(without_weights)?,
    };
    let inputs = InputFile::open(&args.input, &spec)?;
    let dtype = args.dtype.map_or_else(|| inputs.dtype(), Ok)?;
    let device = args.device.device()?;
    let limits = args.limits.of(&device);
    let outcome = warpconv::with_dtype!(dtype, T => run::<T>(&layer, inputs, args.format, &device, limits))?;
    save(&args.output, &[("y", &outcome.y)])?;
    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
    let (kernel, shape) = (outcome.explanation.kernel, outcome.y.shape());
    if args.json {
        print_json(&json!({
            "device": device.to_string(), "op": spec.op(), "dtype": dtype, "format": args.format, "x": outcome.x, "y": shape,
            "kernel": kernel, "chosen_by": outcome.explanation.chosen_by.to_string(), "plan_ms": milliseconds(outcome.planning), "run_ms": milliseconds(outcome.running),
            "output": args.output,
        }))?;
    } else {
        print(format_args!(
            "{}: x {:?} to y {shape:?}, {dtype} {}, by {kernel} in {:.3} ms (planned in {:.3} ms), in {}",
            spec.op(),
            outcome.x,
            args.format,
            milliseconds(outcome.running),
            milliseconds(outcome.planning),
            args.output.display(),
        ))?;
    }
    Ok(Verdict::Passed)
}
