//! `warpconv info`: what this build and this machine offer, or what a layer is and costs.

use super::{DeviceArgs, Verdict, dtype_parser, features, format_parser, note, print, print_json, read_layer};
use indicatif::{BinaryBytes, HumanCount};
use serde_json::{Value, json};
use std::path::PathBuf;
use warpconv::analysis::{LayerReport, Operands, ParameterShape, analyse};
use warpconv::io::TensorFile;
use warpconv::{DType, Device, Error, Explanation, LayerSpec, MemoryFormat, Outline, PlanRequest, Result, Shape, build_info};
#[cfg(feature = "host")]
use warpconv::{GpuModel, HostOptions};

const EXAMPLES: &str = "\
Examples:
  warpconv info
  warpconv info layer.json --input 1x64x56x56
  warpconv info layer.json --input 1x64x56x56 --weight 128x64x1x1 --device host
  warpconv info layer.json --input 8x3x224x224 --weights w.safetensors --dtype f16 --json
  warpconv info layer.json --input 8x64x56x56 --dtype f16 --gpu h200
  warpconv info layer.json --input 8x64x56x56 --tuning tuning-nvidia-h200.json

layer.json holds the operation and its attributes:
  {\"op\": \"conv2d\", \"attrs\": {\"stride\": 2, \"padding\": [1, 1, 1, 1], \"activation\": \"relu\"}}";

/// Show what a layer costs and which kernel runs it; without a layer: devices, operations, versions
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The layer's operation and attributes
    #[arg(value_name = "LAYER.json", requires = "input")]
    layer: Option<PathBuf>,
    /// Shape of the input
    #[arg(long, value_name = "NxCxHxW", value_parser = parse_shape, requires = "layer")]
    input: Option<Shape>,
    /// The layer's parameters, which give the shape of its weight
    #[arg(long, value_name = "W.safetensors", requires = "layer")]
    weights: Option<PathBuf>,
    /// Shape of the weight [default: a 3x3 filter with as many output as input channels]
    #[arg(long, value_name = "C_OUTxC_INxKHxKW", value_parser = parse_shape, conflicts_with = "weights", requires = "layer")]
    weight: Option<Shape>,
    /// Number of RoIs for a layer that pools them
    #[arg(long, value_name = "K", default_value_t = 512, requires = "layer")]
    rois: usize,
    /// Count the mask of a deformable layer
    #[arg(long, requires = "layer")]
    mask: bool,
    /// Dtype of the tensors
    #[arg(long, value_parser = dtype_parser(), default_value = "f32")]
    dtype: DType,
    /// Memory format of input and output
    #[arg(long, value_parser = format_parser(), default_value = "contiguous")]
    format: MemoryFormat,
    /// Show the plan for this GPU, which this machine need not have: the host device imitates it
    #[cfg(feature = "host")]
    #[arg(long, value_name = "GPU", value_parser = parse_gpu, conflicts_with = "device", requires = "layer")]
    gpu: Option<&'static GpuModel>,
    #[command(flatten)]
    device: DeviceArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Reads `1x64x56x56`.
fn parse_shape(text: &str) -> Result<Shape, String> {
    let sizes: Result<Vec<usize>, String> =
        text.split(['x', ',']).map(|size| size.trim().parse().map_err(|_| format!("{size:?} is no whole number, 0 or larger"))).collect();
    sizes?.try_into().map_err(|sizes: Vec<usize>| format!("it has {} sizes, but 4 are needed, as in 1x64x56x56", sizes.len()))
}

/// Reads the name of a GPU that the cost model knows.
#[cfg(feature = "host")]
fn parse_gpu(text: &str) -> Result<&'static GpuModel, String> {
    let known: Vec<&str> = GpuModel::ALL.iter().map(|model| model.name).collect();
    GpuModel::named(text).ok_or_else(|| format!("the cost model knows {}", known.join(", ")))
}

pub fn execute(args: Args) -> Result<Verdict> {
    match (&args.layer, args.input) {
        (Some(layer), Some(x)) => show_layer(&args, read_layer(layer)?, x)?,
        _ => show_machine(&args)?,
    }
    Ok(Verdict::Passed)
}

/// The layer with parameters of the shapes in a file, or of those that the user gave.
fn outline(args: &Args, spec: LayerSpec, x: Shape) -> Result<Outline> {
    let Some(path) = &args.weights else {
        let shapes = spec.typical_parameters(x, args.weight);
        if args.weight.is_none() && !shapes.is_empty() {
            let shapes: Vec<String> = shapes.iter().map(|(name, shape)| format!("{name} {shape:?}")).collect();
            let hint = "give the shape of the weight with --weight, or a file with --weights";
            note(format_args!("the parameters are taken as {}: {hint}", shapes.join(", ")));
        }
        return spec.outline(shapes);
    };
    let file = TensorFile::open(path)?;
    let shapes = file.names().map(|name| Ok((name, file.shape(name)?.to_vec()))).collect::<Result<Vec<_>>>()?;
    spec.outline(shapes)
}

impl Args {
    /// The device that was asked for, or the host device imitating the GPU that was asked for.
    fn device(&self) -> Result<Device> {
        #[cfg(feature = "host")]
        if self.gpu.is_some() {
            return self.device.announce(Device::host_with(HostOptions { imitates: self.gpu, ..Default::default() })?);
        }
        self.device.device()
    }
}

fn explain(layer: &Outline, request: &PlanRequest, args: &Args, device: &Device) -> Result<Explanation> {
    warpconv::with_dtype!(args.dtype, T => layer.explain::<T>(device, request))
}

fn show_layer(args: &Args, spec: LayerSpec, x: Shape) -> Result<()> {
    let layer = outline(args, spec, x)?;
    let mut request = PlanRequest::new(x).format(args.format);
    if spec.signature().inputs.contains(&"rois") {
        request = request.rois(args.rois);
    }
    let parameters = layer.parameter_shapes();
    let report = analyse(&spec, &parameters, &request, Operands::new(args.dtype).mask(args.mask))?;
    let device = args.device()?;
    let plan = explain(&layer, &request, args, &device)?;
    if args.json {
        let mut value = json!(report);
        value["layer"] = json!(spec);
        value["shapes"] = parameters.iter().map(|(name, shape)| (name.to_string(), json!(shape))).collect();
        value["format"] = json!(args.format);
        value["device"] = json!(device.to_string());
        value["plan"] = plan_json(&plan);
        return print_json(&value);
    }
    print(describe(&spec, &report, &parameters, &plan, args.format))
}

fn plan_json(plan: &Explanation) -> Value {
    let choices = plan.choices.iter().map(|choice| match &choice.verdict {
        Ok(estimate) => {
            let parts: serde_json::Map<_, _> = estimate.parts().iter().map(|(name, seconds)| (name.to_string(), json!(seconds))).collect();
            json!({ "kernel": choice.kernel, "estimated_seconds": estimate.seconds, "parts": parts })
        }
        Err(reason) => json!({ "kernel": choice.kernel, "rejected": reason }),
    });
    let choices: Vec<Value> = choices.collect();
    json!({
        "stages": plan.stages.iter().map(plan_json).collect::<Vec<_>>(), "kernel": plan.kernel, "grid": plan.grid, "threads": plan.threads, "shared_bytes": plan.shared_bytes, "choices": choices,
        "chosen_by": plan.chosen_by.to_string(), "problem": plan.problem,
    })
}

fn describe(spec: &LayerSpec, report: &LayerReport, shapes: &[ParameterShape], plan: &Explanation, format: MemoryFormat) -> String {
    let attributes = json!(spec)["attrs"].to_string();
    let (parameters, operations, bytes) = (&report.parameters, &report.operations, &report.bytes);
    let count = |n: u64| HumanCount(n).to_string();
    let [rows, columns] = report.receptive_size;
    let field = report.receptive_field.map_or(format!("at most {rows} x {columns} pixels, differs from output to output"), |field| {
        format!("{} x {} pixels, {} x {} apart", field.size[0], field.size[1], field.jump[0], field.jump[1])
    });
    let named: Vec<String> = shapes.iter().map(|(name, shape)| format!("{name} {shape:?}")).collect();
    let rows = [
        ("layer", format!("{} {attributes}", spec.op())),
        ("input", format!("{:?} {} {format}", report.input, report.dtype)),
        ("weights", if shapes.is_empty() { "none".into() } else { named.join(", ") }),
        ("output", format!("{:?}", report.output)),
        ("parameters", count(parameters.total)),
        ("multiply-adds", format!("{} ({} FLOPs)", count(operations.macs), count(operations.flops))),
        ("sampling", format!("{} FLOPs", count(operations.sampling_flops))),
        ("also", format!("{} additions of a bias, {} activations", count(operations.bias_additions), count(operations.activations))),
        ("reads", BinaryBytes(bytes.read).to_string()),
        ("writes", BinaryBytes(bytes.written).to_string()),
        ("intensity", format!("{:.1} FLOPs a byte", report.arithmetic_intensity)),
        ("receptive field", field),
        ("plan", plan.to_string().trim_end().replace('\n', "\n                 ")),
    ];
    let shown = rows.iter().filter(|(name, _)| *name != "sampling" || operations.sampling_flops > 0);
    shown.map(|(name, value)| format!("{name:<16} {value}")).collect::<Vec<_>>().join("\n")
}

/// The devices that this build knows. For those that cannot be used, the reason.
fn devices() -> Vec<(String, Result<Device>)> {
    let mut devices = vec![("host".to_string(), Device::host())];
    for ordinal in 0.. {
        let device = Device::cuda(ordinal);
        let end = device.is_err();
        // The first error says why there is no GPU at all; a later one only that there are no more.
        if !end || ordinal == 0 {
            devices.push((format!("cuda:{ordinal}"), device));
        }
        if end {
            break;
        }
    }
    devices
}

fn show_machine(args: &Args) -> Result<()> {
    let (devices, build) = (args.device.named()?.map_or_else(devices, |(name, device)| vec![(name, Ok(device))]), build_info());
    devices.iter().filter_map(|(_, device)| device.as_ref().ok()).try_for_each(|device| args.device.tune(device))?;
    let version = |(major, minor): (u32, u32)| format!("{major}.{minor}");
    if args.json {
        let devices = devices.iter().map(|(name, device)| match device {
            Ok(device) => {
                let p = device.properties();
                json!({
                    "device": name, "name": p.name, "multiprocessors": p.multiprocessors,
                    "shared_bytes_per_block": p.shared_bytes_per_block,
                    "compute_capability": version(p.compute_capability),
                    "tuning": device.tunings().iter().map(|(name, problems)| json!({ "table": name, "problems": problems })).collect::<Vec<_>>(),
                })
            }
            Err(error) => json!({ "device": name, "unavailable": error.to_string() }),
        });
        let (devices, features): (Vec<Value>, Vec<_>) = (devices.collect(), features().collect());
        return print_json(&json!({
            "version": build.version, "features": features, "operations": LayerSpec::OPS, "devices": devices,
            "host_variants": build.host_variants, "nvcc": build.nvcc.map(version), "cuda_code": build.cuda_code,
        }));
    }
    let none = |list: &[&str]| if list.is_empty() { "none".to_string() } else { list.join(", ") };
    let compiler = build.nvcc.map_or_else(String::new, |nvcc| format!(" (CUDA {})", version(nvcc)));
    let mut lines = vec![
        format!("warpconv   {}", super::VERSION.as_str()),
        format!("operations {}", LayerSpec::OPS.join(", ")),
        format!("kernels    for CPUs: {}; for GPUs: {}{compiler}", none(build.host_variants), none(build.cuda_code)),
        "devices".to_string(),
    ];
    lines.extend(devices.iter().map(|(name, device)| match device {
        Ok(device) => {
            let tables = device.tunings().into_iter().map(|(table, problems)| format!("; {table} knows {problems} problems"));
            format!("  {name:<8} {}{}", device.describe(), tables.collect::<String>())
        }
        Err(Error::MissingFeature { feature }) => format!("  {name:<8} not in this build: build with --features {feature}"),
        Err(error) => format!("  {name:<8} {error}"),
    }));
    print(lines.join("\n"))
}
