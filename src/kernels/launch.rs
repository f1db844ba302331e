//! The choice among the kernels of an op, and the launch that all convolutions share.

use super::cost::Estimate;
use super::params::{
    ConvDepthwiseParams, ConvGeometryParams, ConvGroupedParams, ConvParams, ConvPatchParams, ConvSeparableParams, ConvSplitParams,
    ConvTransposeParams, DeformConvParams, SpatialSeparableParams, SubPixelParams, Tensor4,
};
use super::{
    Epilogue, Kernel, KernelInfo, MAX_PRODUCTS, Operands, Packed, PackedWeights, SubPixel, at_most, check_image, choose, conv_direct,
    conv_gemm, conv_transpose, deform_conv, field, field_operand, find, operand, tensor4, to_i32,
};
use crate::device::{Access, DeviceKind, Operand, Properties};
use crate::error::{Error, Result};
use crate::geometry::{BlockGeometry, ConvGeometry};
use crate::layers::{Choice, Executable, Inputs, Needs, Parameter, Plan, PlanRequest, Precision, Residual, Workspace, padded};
use crate::tensor::{Layout, TensorView, TensorViewMut};
use crate::{DType, Device, Element, MemoryFormat, Stream};
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

/// The y and z limit of a CUDA grid; what is beyond it is taken by the kernels' stride loops.
pub(crate) const MAX_GRID_Y: usize = 65_535;

/// What a kernel's selection depends on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Problem<'a> {
    pub geometry: ConvGeometry,
    /// Of a convolution whose result is the input of this one and which the same kernel computes.
    pub before: Option<ConvGeometry>,
    pub dtype: DType,
    pub x_format: MemoryFormat,
    pub y_format: MemoryFormat,
    pub precision: Precision,
    pub batch_invariant: bool,
    /// Whether every weight is finite in the dtype.
    pub finite_weights: bool,
    /// Bytes.
    pub workspace_limit: usize,
    pub kind: DeviceKind,
    pub device: &'a Properties,
    /// Which kernels are left out: see [`Device::leave_out`].
    pub owner: &'a Device,
}

impl<'a> Problem<'a> {
    pub fn new<T: Element>(device: &'a Device, request: &PlanRequest, geometry: ConvGeometry) -> Self {
        let (x_format, y_format) = (request.x_format, request.y_format);
        Self {
            geometry,
            before: None,
            dtype: T::DTYPE,
            x_format,
            y_format,
            precision: request.precision,
            batch_invariant: request.batch_invariant,
            finite_weights: true,
            workspace_limit: request.workspace_limit,
            kind: device.kind(),
            device: device.properties(),
            owner: device,
        }
    }

    /// The same for one image.
    pub fn of_one_image(&self) -> Self {
        let alone = |geometry: ConvGeometry| ConvGeometry { n: geometry.n.min(1), ..geometry };
        Self { geometry: alone(self.geometry), before: self.before.map(alone), ..*self }
    }

    /// What a kernel is configured for whose bits depend on its configuration: one image where they may not depend on the batch.
    pub fn for_configuration(&self) -> Self {
        if self.batch_invariant { self.of_one_image() } else { *self }
    }

    /// Whether no tap of a convolution lies in its padding.
    fn is_unpadded(&self) -> bool {
        let unpadded = |g: &ConvGeometry| g.padding == [0; 4] && !g.transposed;
        unpadded(&self.geometry) && self.before.iter().all(unpadded)
    }

    /// All that the times of its kernels depend on, but for the device and for the tail, which costs any kernel as much: by this
    /// text tuning tables know it.
    pub fn describe(&self, op: &str) -> String {
        let Self { geometry, before, dtype, x_format, y_format, precision, .. } = self;
        let first = before.as_ref().unwrap_or(geometry);
        let mut text = format!("{op} {dtype}, x {:?} {x_format}, y {:?} {y_format}", first.input_shape(), geometry.output_shape());
        for g in before.iter().chain([geometry]) {
            let ConvGeometry { c_out, kernel, stride, padding, dilation, groups, .. } = g;
            text +=
                &format!("; {c_out} filters {kernel:?}, stride {stride:?}, padding {padding:?}, dilation {dilation:?}, groups {groups}");
        }
        if geometry.offset_groups != 1 {
            text += &format!(", offset groups {}", geometry.offset_groups);
        }
        if *dtype == DType::F32 && *precision != Precision::Strict {
            text += &format!("; {precision:?}").to_lowercase();
        }
        text
    }
}

/// A convolution that a kernel computes on its way to another.
#[derive(Clone, Copy)]
pub(crate) struct Before<'a> {
    pub stage: Stage<'a>,
    /// Its weight, bias and slope as a kernel wants them.
    pub pack: fn(&KernelInfo, &Device, &Stage<'_>) -> Result<Arc<Packed>>,
    /// What findings call those.
    pub names: [&'static str; 3],
}

/// A family's two functions: the cost of a kernel of its file, or the reason why that does not apply; and its preparation.
pub(crate) struct Family<T> {
    pub name: &'static str,
    pub cost: fn(&KernelInfo, &Problem<'_>) -> Result<Estimate, String>,
    pub prepare: fn(&KernelInfo, &Problem<'_>) -> Prepared<T>,
}

/// The parameter struct of a kernel: what all of them take, and what a family adds.
#[derive(Debug, Clone, Copy)]
pub(crate) enum KernelParams {
    Conv(ConvParams),
    Patch(ConvPatchParams),
    Depthwise(ConvDepthwiseParams),
    Grouped(ConvGroupedParams),
    Transpose(ConvTransposeParams),
    Separable(ConvSeparableParams),
    SpatialSeparable(SpatialSeparableParams),
    Deform(DeformConvParams),
}

impl Default for KernelParams {
    fn default() -> Self {
        KernelParams::Conv(ConvParams::default())
    }
}

impl KernelParams {
    fn conv(&mut self) -> &mut ConvParams {
        match self {
            KernelParams::Conv(params) => params,
            KernelParams::Patch(params) => &mut params.conv,
            KernelParams::Depthwise(params) => &mut params.conv,
            KernelParams::Grouped(params) => &mut params.conv,
            KernelParams::Transpose(params) => &mut params.conv,
            KernelParams::Separable(params) => &mut params.conv,
            KernelParams::SpatialSeparable(params) => &mut params.conv,
            KernelParams::Deform(params) => &mut params.conv,
        }
    }

    /// Of the convolution before it.
    fn before(&mut self) -> Option<&mut ConvParams> {
        match self {
            KernelParams::Separable(params) => Some(&mut params.depthwise),
            KernelParams::SpatialSeparable(params) => Some(&mut params.column),
            _ => None,
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            KernelParams::Conv(params) => bytemuck::bytes_of(params),
            KernelParams::Patch(params) => bytemuck::bytes_of(params),
            KernelParams::Depthwise(params) => bytemuck::bytes_of(params),
            KernelParams::Grouped(params) => bytemuck::bytes_of(params),
            KernelParams::Transpose(params) => bytemuck::bytes_of(params),
            KernelParams::Separable(params) => bytemuck::bytes_of(params),
            KernelParams::SpatialSeparable(params) => bytemuck::bytes_of(params),
            KernelParams::Deform(params) => bytemuck::bytes_of(params),
        }
    }

    fn set_tensors(&mut self, x: Tensor4, y: Tensor4) {
        let conv = self.conv();
        (conv.x, conv.y) = (x, y);
        if let Some(before) = self.before() {
            before.x = x;
        }
    }
}

/// In which order a kernel adds up the products of an output. Kernels of an op that have it in common give the same bits; which
/// zeros they leave out does not matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SumOrder {
    /// Fused multiply-adds along (tap, channel), one after the other.
    Chain,
    /// The same with the taps of a row by their remainders modulo so many.
    ChainByPhases(usize),
    /// The same with the taps of a phase of a transposed convolution from the last to the first.
    ReversedChain,
    /// Tensor cores along (tap, channel).
    TensorCores,
    /// The same with operands of tf32.
    Tf32,
    /// The same in so many sums that are added up at the end.
    Slices(usize),
    /// Tensor cores along (64 bytes of channels, tap, channel of them).
    ChannelChunks,
    /// Tensor cores along the slots of narrow groups.
    Slots,
    /// Tensor cores along the bands of large depthwise kernels.
    Bands,
}

impl SumOrder {
    /// Of an implicit GEMM along (tap, channel).
    pub fn of_gemm(kernel: &KernelInfo) -> Self {
        match (kernel.dtype, kernel.tag("math")) {
            (_, Some(_)) => SumOrder::Tf32,
            (Some(DType::F32), None) => SumOrder::Chain,
            _ => SumOrder::TensorCores,
        }
    }
}

impl fmt::Display for SumOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SumOrder::Chain => f.write_str("multiply-adds along (tap, channel)"),
            SumOrder::ChainByPhases(phases) => write!(f, "multiply-adds along (row, column modulo {phases}, column)"),
            SumOrder::ReversedChain => f.write_str("multiply-adds along (tap, channel), the last tap first"),
            SumOrder::TensorCores => f.write_str("tensor cores along (tap, channel)"),
            SumOrder::Tf32 => f.write_str("tensor cores along (tap, channel), in tf32"),
            SumOrder::Slices(slices) => write!(f, "tensor cores along (tap, channel), in {slices} sums"),
            SumOrder::ChannelChunks => f.write_str("tensor cores along (64 bytes of channels, tap, channel)"),
            SumOrder::Slots => f.write_str("tensor cores along (row, column, 4 channels)"),
            SumOrder::Bands => f.write_str("tensor cores along (row, column)"),
        }
    }
}

/// Puts a layer's weight into the order of a kernel.
pub(crate) type Pack<T> = fn(&ConvGeometry, &Parameter) -> Result<Vec<T>>;

/// What a family prepares for one kernel: how it is launched and how it wants its weight.
pub(crate) struct Prepared<T> {
    pub grid: [u32; 3],
    /// Whether there may be fewer blocks along x, as many as the device runs at once, which then take what the others would.
    pub walks: bool,
    pub shared_bytes: u32,
    /// Only what the family adds is filled in.
    pub params: KernelParams,
    /// Bytes to which the addresses and strides of x and of y must be aligned. Where a view's are not, `run` takes the cheapest
    /// candidate that needs no more than an element's.
    pub alignment: [usize; 2],
    pub order: SumOrder,
    /// Names the order of the packed weight.
    pub layout: &'static str,
    /// From the layer's order ([C_out][C_in / groups][kh][kw], or [C_in][C_out / groups][kh][kw] of a transposed convolution) to
    /// that one, rounded once.
    pub pack: Pack<T>,
}

/// A convolution as a layer knows it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stage<'a> {
    pub geometry: ConvGeometry,
    pub weight: &'a Parameter,
    pub epilogue: Epilogue<'a>,
    pub packed: &'a PackedWeights,
}

/// Chooses among the families of an op, the last of which applies to every problem; packs and loads.
pub(crate) fn plan<T: Element>(
    op: &'static str,
    families: &[Family<T>],
    device: &Device,
    request: &PlanRequest,
    stage: Stage<'_>,
) -> Result<Plan<T>> {
    plan_after(op, families, device, request, None, stage)
}

/// The same for kernels that compute the convolution `before` it too. Some candidate of each applicable format has to take
/// views of any alignment.
pub(crate) fn plan_after<T: Element>(
    op: &'static str,
    families: &[Family<T>],
    device: &Device,
    request: &PlanRequest,
    before: Option<Before<'_>>,
    stage: Stage<'_>,
) -> Result<Plan<T>> {
    let Stage { geometry, weight, epilogue, packed } = stage;
    let (mut output, mut needs) = (geometry.output_shape(), Needs::residual(geometry.output_shape()));
    let mut params = ConvParams { geometry: geometry_params(&geometry)?, ..Default::default() };
    if let Some(SubPixel { run, factor, .. }) = epilogue.sub_pixel {
        (output, needs) = (BlockGeometry::deep(output, factor)?.wide_shape(), Needs::default());
        params.sub_pixel = SubPixelParams { run: to_i32("C_out", run)?, factor: to_i32("r", factor)?, stride_h: 0, stride_w: 0 };
    }
    let stages = [Some(stage), before.map(|before| before.stage)];
    let finite_weights = are_finite::<T>(stages.iter().flatten())?;
    let before_geometry = before.map(|before| before.stage.geometry);
    let problem = Problem { before: before_geometry, finite_weights, ..Problem::new::<T>(device, request, geometry) };
    let mut described = problem.describe(op);
    if let Some(SubPixel { run, factor, .. }) = epilogue.sub_pixel {
        described += &format!("; shuffled by {factor} in runs of {run}");
    }
    let mut choices = candidates(families, &problem);
    let one_order = if request.batch_invariant { keep_one_order(families, &problem, &mut choices) } else { None };
    let selection = choose(op, device, request, described, choices)?;
    let ready = |kernel: &'static KernelInfo, prepared: Prepared<T>| -> Result<Ready> {
        let weights = packed.get(device, prepared.layout, &epilogue, weight, |weight| {
            let permuted = epilogue.sub_pixel.map(|sub_pixel| sub_pixel.permuted(weight)).transpose()?;
            (prepared.pack)(&geometry, permuted.as_ref().unwrap_or(weight))
        })?;
        let Prepared { mut grid, walks, shared_bytes, alignment, params: mut all, .. } = prepared;
        *all.conv() = ConvParams { weight: weights.weight.address(), epilogue: weights.epilogue(), ..params };
        let first = before.map(|Before { stage, pack, names }| Ok::<_, Error>((stage.geometry, pack(kernel, device, &stage)?, names)));
        let first = first.transpose()?;
        if let Some((params, (geometry, weights, _))) = all.before().zip(first.as_ref()) {
            let (weight, epilogue) = (weights.weight.address(), weights.epilogue());
            *params = ConvParams { geometry: geometry_params(geometry)?, weight, epilogue, ..Default::default() };
        }
        let before = first.map(|(_, weights, names)| (weights, names));
        let loaded = device.load(kernel)?;
        if walks {
            grid[0] = grid[0].min(device.resident_blocks(&loaded, shared_bytes)?);
        }
        let split = if conv_gemm::is_split(kernel) { Some(Split::new(device, &geometry, T::DTYPE, grid[1])?) } else { None };
        Ok(Ready { kernel: loaded, grid, shared_bytes, alignment, params: all, weights, before, split })
    };
    let chosen = ready(selection.kernel, prepare(families, selection.kernel, &problem))?;
    let mut note = String::new();
    let mut workspace_bytes = 0;
    if let Some(split) = &chosen.split {
        workspace_bytes = split.bytes()?;
        note += &format!("; k in {} parts, whose sums take {workspace_bytes} bytes of workspace and a second launch", split.parts);
    }
    let mut narrow = None;
    let undemanding = [size_of::<T>(); 2];
    if chosen.alignment != undemanding {
        let applicable = selection.choices.iter().filter(|choice| choice.verdict.is_ok()).map(|choice| find(choice.kernel));
        let (kernel, prepared) = applicable
            .map(|kernel| (kernel, prepare(families, kernel, &problem)))
            .find(|(_, prepared)| prepared.alignment == undemanding)
            .ok_or_else(|| no_kernel_for_any_alignment(op, selection.kernel))?;
        note += &format!(
            "; {} for views that are not aligned to {} bytes",
            kernel.name,
            chosen.alignment.into_iter().max().unwrap_or_default()
        );
        narrow = Some(ready(kernel, prepared)?);
    }
    if let Some(order) = one_order {
        note += &format!("; batch-invariant: sums by {order} for every N and view");
    }
    let explanation = selection.explanation(chosen.grid, chosen.shared_bytes, note);
    let launch = ConvLaunch { device: device.clone(), chosen, narrow, dtype: PhantomData };
    Ok(Plan {
        op,
        device: device.clone(),
        request: request.clone(),
        output,
        needs,
        workspace_bytes,
        executable: Box::new(launch),
        explanation,
    })
}

/// Whether the weights of all stages are finite in T, or an error where they are not and may not be otherwise.
pub(crate) fn are_finite<'a, T: Element>(stages: impl IntoIterator<Item = &'a Stage<'a>>) -> Result<bool> {
    let mut all = true;
    for stage in stages {
        stage.weight.check_finite("weight", T::DTYPE)?;
        all &= stage.weight.is_finite_in(T::DTYPE);
    }
    Ok(all)
}

/// Beside a kernel that needs aligned views, a plan has another one of the same order of sums, for all others.
pub(super) fn no_kernel_for_any_alignment(op: &'static str, kernel: &KernelInfo) -> Error {
    Error::NoKernel { op, reasons: format!("{} takes aligned views only, and none of its order takes others", kernel.name) }
}

/// Every kernel of the families, with its estimated cost or the reason why it does not apply.
pub(crate) fn candidates<T>(families: &[Family<T>], problem: &Problem<'_>) -> Vec<Choice> {
    let choices = |family: &Family<T>| {
        let cost = family.cost;
        let verdict = move |kernel: &KernelInfo| {
            problem.owner.admits(kernel.name)?;
            let cost = cost(kernel, problem)?;
            if problem.finite_weights || problem.is_unpadded() || leaves_padding_out(kernel) {
                return Ok(cost);
            }
            Err("it multiplies the zeros of the padding, which a weight that is infinite or NaN would make NaN".into())
        };
        super::family(family.name).map(move |kernel| Choice { kernel: kernel.name, verdict: verdict(kernel) })
    };
    families.iter().flat_map(choices).collect()
}

/// Whether a kernel makes no product of what lies in the padding. Samples of a deformable convolution are none of it: outside the
/// image they are zeros by definition.
fn leaves_padding_out(kernel: &KernelInfo) -> bool {
    let direct = kernel.family == conv_transpose::FAMILY && kernel.tag("tile").is_none();
    direct || [conv_direct::FAMILY, deform_conv::FAMILY].contains(&kernel.family)
}

/// Leaves, of the candidates, those that add up in one order: that of the cheapest one for one image, of the orders in which some
/// kernel takes views of any alignment. What is decided here depends on neither the batch nor the views. None where no order has
/// such a kernel.
pub(crate) fn keep_one_order<T: Element>(families: &[Family<T>], problem: &Problem<'_>, choices: &mut [Choice]) -> Option<SumOrder> {
    let alone = problem.of_one_image();
    let mut kernels = Vec::new();
    for choice in candidates(families, &alone) {
        let Ok(cost) = choice.verdict else { continue };
        let Prepared { order, alignment, .. } = prepare(families, find(choice.kernel), &alone);
        kernels.push((choice.kernel, cost, order, alignment == [size_of::<T>(); 2]));
    }
    let takes_all = |order: SumOrder| kernels.iter().any(|&(_, _, other, any_view)| any_view && other == order);
    let cheapest = kernels.iter().filter(|(_, _, order, _)| takes_all(*order)).min_by(|a, b| a.1.seconds.total_cmp(&b.1.seconds));
    let order = cheapest.map(|&(_, _, order, _)| order);
    for choice in choices.iter_mut().filter(|choice| choice.verdict.is_ok()) {
        let own = kernels.iter().find(|(kernel, ..)| *kernel == choice.kernel).map(|&(_, _, order, _)| order);
        if own.is_none() || own != order {
            let [own, order] = [own, order].map(|order| order.map_or("an unknown order".into(), |order| order.to_string()));
            choice.verdict = Err(format!("it sums by {own}, batch-invariant plans of this layer by {order}"));
        }
    }
    order
}

/// The estimated time of the kernel that a plan would choose; infinite where none applies.
pub(crate) fn least_cost<T: Element>(
    families: &[Family<T>],
    device: &Device,
    request: &PlanRequest,
    geometry: ConvGeometry,
    finite_weights: bool,
) -> Estimate {
    let problem = Problem { finite_weights, ..Problem::new::<T>(device, request, geometry) }.for_configuration();
    let mut choices = candidates(families, &problem);
    if request.batch_invariant {
        keep_one_order(families, &problem, &mut choices);
    }
    let none = Estimate { seconds: f64::INFINITY, ..Default::default() };
    choices.into_iter().filter_map(|choice| choice.verdict.ok()).fold(none, Estimate::or_less)
}

fn prepare<T>(families: &[Family<T>], kernel: &KernelInfo, problem: &Problem<'_>) -> Prepared<T> {
    let family = families.iter().find(|family| family.name == kernel.family);
    (family.expect("a candidate is of one of the families").prepare)(kernel, problem)
}

/// The geometry as kernels take it: every size, and every position that they compute, in 32 bits.
pub(super) fn geometry_params(g: &ConvGeometry) -> Result<ConvGeometryParams> {
    let params = sizes(g)?;
    for axis in 0..2 {
        // of a transposed convolution, the larger tensor that is padded is the output
        let (what, image) = if g.transposed {
            ("(input size - 1) * stride + dilation * (kernel - 1) + padding, the farthest position that kernels compute,", g.input)
        } else {
            ("(output size - 1) * stride + dilation * (kernel - 1) + padding, the farthest position that kernels compute,", g.output)
        };
        let last = (image[axis] - 1).checked_mul(g.stride[axis]);
        let taps = (g.kernel[axis] - 1).checked_mul(g.dilation[axis]);
        let reach = last.zip(taps).and_then(|(last, taps)| last.checked_add(taps)?.checked_add(g.padding[axis]));
        let values =
            || format!("{} - 1, {}, {}, {} - 1, {}", image[axis], g.stride[axis], g.dilation[axis], g.kernel[axis], g.padding[axis]);
        to_i32(what, reach.ok_or_else(|| Error::Overflow { what, values: values() })?)?;
        if g.transposed {
            to_i32("the padded output size", g.output[axis].saturating_add(g.padding[axis]))?;
        }
    }
    check_image("the number of elements of an image of x", g.input_shape())?;
    check_image("the number of elements of an image of y", g.output_shape())?;
    let products = [g.kernel[0], g.kernel[1]].iter().try_fold(g.c_in / g.groups, |products, &taps| products.checked_mul(taps));
    at_most(MAX_PRODUCTS, "C_in / groups times the taps", products.unwrap_or(usize::MAX))?;
    Ok(params)
}

/// The sizes of [`geometry_params`], each by itself.
fn sizes(g: &ConvGeometry) -> Result<ConvGeometryParams> {
    Ok(ConvGeometryParams {
        n: to_i32("N", g.n)?,
        c_in: to_i32("C_in", g.c_in)?,
        h: to_i32("the input height", g.input[0])?,
        w: to_i32("the input width", g.input[1])?,
        c_out: to_i32("C_out", g.c_out)?,
        h_out: to_i32("the output height", g.output[0])?,
        w_out: to_i32("the output width", g.output[1])?,
        kernel_h: to_i32("the kernel height", g.kernel[0])?,
        kernel_w: to_i32("the kernel width", g.kernel[1])?,
        stride_h: to_i32("the vertical stride", g.stride[0])?,
        stride_w: to_i32("the horizontal stride", g.stride[1])?,
        pad_top: to_i32("the top padding", g.padding[0])?,
        pad_left: to_i32("the left padding", g.padding[1])?,
        dilation_h: to_i32("the vertical dilation", g.dilation[0])?,
        dilation_w: to_i32("the horizontal dilation", g.dilation[1])?,
        groups: to_i32("groups", g.groups)?,
    })
}

/// A kernel with all but the tensors.
#[derive(Debug)]
struct Ready {
    kernel: Kernel,
    grid: [u32; 3],
    shared_bytes: u32,
    alignment: [usize; 2],
    params: KernelParams,
    weights: Arc<Packed>,
    /// Of the convolution before it, and what findings call them.
    before: Option<(Arc<Packed>, [&'static str; 3])>,
    /// The launch after it.
    split: Option<Split>,
}

/// What adds up the sums of parts of k.
#[derive(Debug)]
struct Split {
    kernel: Kernel,
    blocks: u32,
    parts: i32,
    /// Of the sums: the parts are as many batches.
    layout: Layout,
}

impl Split {
    fn new(device: &Device, g: &ConvGeometry, dtype: DType, parts: u32) -> Result<Self> {
        let [n, c, h, w] = g.output_shape();
        Ok(Self {
            kernel: device.load(conv_gemm::sum_kernel(dtype))?,
            blocks: conv_gemm::sum_blocks(g, dtype) as u32,
            parts: parts as i32,
            layout: Layout::packed([n * parts as usize, c, h, w], MemoryFormat::ChannelsLast),
        })
    }

    fn bytes(&self) -> Result<usize> {
        padded(self.layout.extent() * size_of::<f32>())
    }
}

/// A convolution, ready to run.
#[derive(Debug)]
struct ConvLaunch<T> {
    device: Device,
    chosen: Ready,
    /// Where the chosen kernel needs an alignment that a view may not have.
    narrow: Option<Ready>,
    dtype: PhantomData<T>,
}

/// Whether the address and every stride are multiples of so many bytes; along one axis elements are neighbours.
pub(crate) fn is_aligned<T: Element>(view: &TensorView<'_, T>, bytes: usize) -> bool {
    let strides = view.layout().strides();
    (view.address() as usize).is_multiple_of(bytes) && strides.iter().all(|&s| s == 1 || (s * size_of::<T>()).is_multiple_of(bytes))
}

/// Bytes of the widest access of a kernel.
const VECTOR_BYTES: usize = 16;

/// Whether it is, or is contiguous and planes are, which kernels then take as one run whatever the width of rows.
fn planes_aligned<T: Element>(view: &TensorView<'_, T>, bytes: usize) -> bool {
    let [n, c, ..] = view.layout().strides();
    let planes = view.format() == MemoryFormat::Contiguous
        && (n * size_of::<T>()).is_multiple_of(bytes)
        && (c * size_of::<T>()).is_multiple_of(bytes);
    planes && (view.address() as usize).is_multiple_of(bytes) || is_aligned(view, bytes)
}

impl<T: Element> ConvLaunch<T> {
    /// The kernel for views of such an alignment.
    fn ready(&self, inputs: &Inputs<'_, T>, y: &TensorView<'_, T>) -> &Ready {
        let fits = |ready: &Ready| planes_aligned(&inputs.x, ready.alignment[0]) && is_aligned(y, ready.alignment[1]);
        match &self.narrow {
            Some(narrow) if !fits(&self.chosen) => narrow,
            _ => &self.chosen,
        }
    }
}

impl Ready {
    /// The kernel's parameters for these tensors.
    fn params<T: Element>(&self, inputs: &Inputs<'_, T>, y: &TensorView<'_, T>) -> Result<KernelParams> {
        let widest = self.alignment[0].max(self.alignment[1]);
        // beside planes in parts of a vector, the residual is read in whole ones
        let vector = if inputs.x.format() == MemoryFormat::Contiguous { VECTOR_BYTES } else { widest };
        let vectors = |view: &TensorView<'_, T>| (widest > size_of::<T>() && planes_aligned(view, vector)).into();
        let mut all = self.params;
        all.set_tensors(tensor4(&inputs.x)?, tensor4(y)?);
        let params = all.conv();
        if params.sub_pixel.run > 0 {
            let SubPixelParams { factor, stride_h, stride_w, .. } = &mut params.sub_pixel;
            (*stride_h, *stride_w) = (params.y.stride_h, params.y.stride_w);
            let blocks = |stride: i32| to_i32("the distance of blocks of pixels", stride as usize * *factor as usize);
            (params.y.stride_h, params.y.stride_w) = (blocks(*stride_h)?, blocks(*stride_w)?);
        }
        match &inputs.residual {
            Residual::None => {}
            Residual::Tensor(residual) => {
                params.epilogue.residual = tensor4(residual)?;
                params.epilogue.vector_residual = vectors(residual);
            }
            Residual::Output => {
                params.epilogue.residual = params.y;
                params.epilogue.vector_residual = vectors(y);
            }
        }
        if let KernelParams::Deform(params) = &mut all {
            // `Plan::run` has made sure that there are offsets
            if let Some(offset) = &inputs.offset {
                (params.offset, params.offset_in_f32) = field(offset)?;
            }
            if let Some(mask) = &inputs.mask {
                (params.mask, params.mask_in_f32) = field(mask)?;
            }
        }
        Ok(all)
    }

    /// What the kernel may touch beside x, which comes first, and the weight, which comes next.
    fn operands<T: Element>(&self, inputs: &Inputs<'_, T>, y: &TensorView<'_, T>) -> Operands {
        let mut operands = Operands::new();
        operands.push(operand("x", &inputs.x, Access::Read));
        operands.push(Operand::packed("weight", &self.weights.weight, size_of::<T>(), Access::Read));
        for (name, memory) in self.weights.bias_and_slope() {
            operands.push(Operand::packed(name, memory, size_of::<f32>(), Access::Read));
        }
        if let Some((weights, [weight, bias, slope])) = &self.before {
            operands.push(Operand::packed(weight, &weights.weight, size_of::<T>(), Access::Read));
            for (name, memory) in weights.bias_and_slope() {
                let name = if name == "bias" { bias } else { slope };
                operands.push(Operand::packed(name, memory, size_of::<f32>(), Access::Read));
            }
        }
        if let Residual::Tensor(residual) = &inputs.residual {
            operands.push(operand("residual", residual, Access::Read));
        }
        let access = if matches!(inputs.residual, Residual::Output) { Access::Update } else { Access::Write };
        operands.push(operand("y", y, access));
        for (name, field) in [("offset", &inputs.offset), ("mask", &inputs.mask)] {
            operands.extend(field.iter().map(|field| field_operand(name, field)));
        }
        operands
    }
}

impl<T: Element> Executable<T> for ConvLaunch<T> {
    fn run(&self, inputs: &Inputs<'_, T>, y: &mut TensorViewMut<'_, T>, workspace: &Workspace<'_>, stream: &Stream) -> Result<()> {
        let y = y.as_view();
        let ready = self.ready(inputs, &y);
        let mut params = ready.params(inputs, &y)?;
        let mut operands = self.device.is_checked().then(|| ready.operands(inputs, &y));
        let mut sum = None;
        if let Some(split) = &ready.split {
            let (sums, _) = workspace.split::<f32>(&self.device, split.layout)?;
            let sums = sums.as_view();
            let conv = params.conv();
            let second = ConvSplitParams { conv: ConvParams { x: tensor4(&sums)?, ..*conv }, parts: split.parts, reserved: 0 };
            (conv.y, conv.epilogue, conv.sub_pixel) = (tensor4(&sums)?, Default::default(), Default::default());
            let reads = operands.take().map(|all| {
                let (mut first, mut reads) = (Operands::new(), Operands::new());
                let [x, weight, rest @ ..] = all.as_slice() else { unreachable!("there are x, the weight and y") };
                first.extend([*x, *weight, operand("sums", &sums, Access::Write)]);
                reads.extend([operand("sums", &sums, Access::Read)].into_iter().chain(rest.iter().copied()));
                operands = Some(first);
                reads
            });
            sum = Some((split, second, reads));
        }
        // SAFETY: the plan was made for this kernel and its parameter struct; `Plan::run` has checked that the views have the
        // planned shapes and are on the device, views are valid as long as they exist, and the packed weights and the workspace are ours
        unsafe {
            self.device.launch(&ready.kernel, ready.grid, ready.shared_bytes, params.bytes(), Operands::of(&operands), stream)?;
            match &sum {
                Some((split, params, operands)) => {
                    self.device.launch(&split.kernel, [split.blocks, 1, 1], 0, bytemuck::bytes_of(params), Operands::of(operands), stream)
                }
                None => Ok(()),
            }
        }
    }

    #[cfg(feature = "cuda")]
    fn parameters(&self, inputs: &Inputs<'_, T>, y: &TensorView<'_, T>) -> Result<Vec<u8>> {
        Ok(self.ready(inputs, y).params(inputs, y)?.bytes().to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::{MAX_COUNT, MAX_PRODUCTS};
    use crate::{Conv2dSpec, ConvTranspose2dSpec};

    /// Limits of weights that no test has the memory for. tests/extremes.rs has the others.
    #[test]
    fn products_and_channels_are_limited() {
        let limit = |c_in: usize, c_out: usize, kernel: usize| {
            let geometry = ConvGeometry::conv2d(&Conv2dSpec::default(), [1, c_in, 1, kernel], [c_out, c_in, 1, kernel]);
            match geometry_params(&geometry.unwrap()) {
                Ok(_) => None,
                Err(Error::Limit { what, limit, .. }) => Some((what, limit as usize)),
                Err(other) => panic!("{other}"),
            }
        };
        assert_eq!(limit(1 << 10, 1, 1 << 20), None);
        assert_eq!(limit(1 << 10, 1, (1 << 20) + 1), Some(("C_in / groups times the taps", MAX_PRODUCTS)));
        assert_eq!(limit(1, MAX_COUNT, 1), None);
        assert_eq!(limit(1, MAX_COUNT + 1, 1), Some(("C_out", MAX_COUNT)));
    }

    /// An output's position with the padding before it fits 32 bits, also where an output_padding makes it larger than any tap.
    #[test]
    fn padded_outputs_are_limited() {
        let (stride, before) = (3 << 29, (1 << 29) - (1 << 16));
        let geometry = |after| {
            let spec = ConvTranspose2dSpec {
                stride: [1, stride],
                padding: [0, before, 0, after],
                output_padding: [0, stride - 1],
                ..Default::default()
            };
            geometry_params(&ConvGeometry::conv_transpose2d(&spec, [1, 1, 1, 2], [1, 1, 1, 1]).unwrap())
        };
        assert!(geometry((1 << 30) + (1 << 16)).is_ok());
        let refused = geometry(1 << 30);
        assert!(matches!(refused, Err(Error::Limit { what: "the padded output size", .. })), "{refused:?}");
    }
}
