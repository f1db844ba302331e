//! The plan of a convolution that one kernel computes, and the launch of that kernel.

use super::candidate::{ByAlignment, Candidate, Entry, LaunchConfig, LoadedLaunch, Reason, choose};
use super::conv_params::{KernelParams, geometry_params};
use super::order::keep_one_order;
use super::params::{ConvParams, ConvSplitParams, SubPixelParams};
use super::problem::ConvProblem;
use super::several::Several;
use super::{
    Epilogue, Kernel, KernelInfo, Operands, Packed, PackedWeights, SubPixel, conv_direct, conv_gemm, conv_transpose, deform_conv,
    offset_or_mask, offset_or_mask_operand, operand, tensor4, to_i32,
};
use crate::device::{Access, Operand};
use crate::error::{Error, Result};
use crate::geometry::{BlockGeometry, ConvGeometry};
use crate::plan::{Estimate, Executable, Inputs, Needs, Parameter, Plan, PlanRequest, Residual, Workspace, padded};
use crate::tensor::{Layout, TensorView, TensorViewMut};
use crate::{DType, Device, Element, MemoryFormat, Stream};
use std::marker::PhantomData;
use std::sync::Arc;

/// The largest number of blocks along y and z of a CUDA grid. Kernels process what is beyond it in
/// loops.
pub(crate) const MAX_GRID_Y: usize = 65_535;

/// The convolution whose result is the input of another one, if one kernel computes both.
#[derive(Clone, Copy)]
pub(crate) struct FusedProducer<'a> {
    pub conv: WeightedConv<'a>,
    /// Packs its weight, bias and slope in the layout of a kernel.
    pub pack: fn(&'static KernelInfo, &Device, &WeightedConv<'_>) -> Result<Arc<Packed>>,
    /// The names of these three in findings.
    pub names: [&'static str; 3],
}

/// The part of a convolution's launch in addition to grid and shared memory, and the layout of the
/// weight.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConvConfig<T> {
    /// The parameters, of which only those that the family adds are filled in.
    pub params: KernelParams,
    /// Whether the launch may have fewer blocks along x, as many as the device runs at once, which
    /// then also process the tiles of the others.
    pub persistent: bool,
    /// The name of the order of the packed weight.
    pub layout: &'static str,
    /// Converts the weight from the layer's order ([C_out][C_in / groups][kh][kw], or [C_in][C_out
    /// / groups][kh][kw] of a transposed convolution) to that order, rounding once.
    pub pack: Pack<T>,
}

pub(crate) type ConvCandidate<T> = Candidate<ConvConfig<T>>;
pub(crate) type ConvEntry<T> = Entry<ConvConfig<T>>;

/// A family: the kernels of one file.
pub(crate) struct Family<T> {
    pub name: &'static str,
    /// The estimated time of a kernel for a problem and its launch, or the reason why it does not
    /// apply.
    pub candidate: fn(&'static KernelInfo, &ConvProblem<'_>) -> Result<ConvCandidate<T>, Reason>,
}

/// Converts a layer's weight to the order of a kernel.
pub(crate) type Pack<T> = fn(&ConvGeometry, &Parameter) -> Result<Vec<T>>;

/// A convolution with its weight and tail, as a layer holds them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WeightedConv<'a> {
    pub geometry: ConvGeometry,
    pub weight: &'a Parameter,
    pub epilogue: Epilogue<'a>,
    pub packed: &'a PackedWeights,
}

/// Chooses among the families of an op, the last of which applies to every problem. Packs the
/// weights and loads the kernel.
pub(crate) fn plan<T: Element>(
    op: &'static str,
    families: &[Family<T>],
    device: &Device,
    request: &PlanRequest,
    conv: WeightedConv<'_>,
) -> Result<Plan<T>> {
    plan_among(op, families, device, request, None, conv, None)
}

/// Chooses among the kernels that compute `conv`, together with its `producer` if there is one, and
/// running the layer as `several` launches. For each format some candidate must take views of any
/// alignment.
pub(crate) fn plan_among<T: Element>(
    op: &'static str,
    families: &[Family<T>],
    device: &Device,
    request: &PlanRequest,
    producer: Option<FusedProducer<'_>>,
    conv: WeightedConv<'_>,
    several: Option<&Several<'_, T>>,
) -> Result<Plan<T>> {
    let WeightedConv { geometry, epilogue, .. } = conv;
    let (mut output, mut needs) = (geometry.output_shape(), Needs::residual(geometry.output_shape()));
    let mut params = ConvParams { geometry: geometry_params(&geometry)?, ..Default::default() };
    if let Some(SubPixel { run, factor, .. }) = epilogue.sub_pixel {
        (output, needs) = (BlockGeometry::deep(output, factor)?.wide_shape(), Needs::default());
        params.sub_pixel = SubPixelParams { run: to_i32("C_out", run)?, factor: to_i32("r", factor)?, stride_h: 0, stride_w: 0 };
    }
    let convs = [Some(conv), producer.map(|producer| producer.conv)];
    let finite_weights = are_finite::<T>(convs.iter().flatten())?;
    let producer_geometry = producer.map(|producer| producer.conv.geometry);
    let problem = ConvProblem { producer: producer_geometry, finite_weights, ..ConvProblem::new::<T>(device, request, geometry) };
    let mut described = problem.describe(op);
    if let Some(SubPixel { run, factor, .. }) = epilogue.sub_pixel {
        described += &format!("; shuffled by {factor} in runs of {run}");
    }
    let list = |problem: &ConvProblem<'_>| several.map(Several::entry).into_iter().chain(candidates(families, problem)).collect::<Vec<_>>();
    let mut entries = list(&problem);
    let one_order = if request.batch_invariant { keep_one_order::<T, _>(&mut entries, &list(&problem.of_one_image())) } else { None };
    let selection = choose(op, device, request, described, entries)?;
    if let Some(several) = several.filter(|_| selection.is_launches()) {
        return several.plan(selection);
    }
    let loading = Loading { device, conv, producer, params };
    let (launch, unaligned) = selection.load::<T, _>(|kernel, config| loading.load(kernel, config))?;
    let mut note = String::new();
    let mut workspace_bytes = 0;
    if let Some(split) = &launch.chosen.own.split {
        workspace_bytes = split.bytes()?;
        note += &format!("; k in {} parts, whose sums take {workspace_bytes} bytes of workspace and a second launch", split.parts);
    }
    note += &unaligned;
    if let Some(order) = one_order {
        note += &format!("; batch-invariant: sums by {order} for every N and view");
    }
    let explanation = selection.explain(&launch.chosen, note);
    Ok(Plan {
        op,
        device: device.clone(),
        request: request.clone(),
        output,
        needs,
        workspace_bytes,
        executable: Box::new(ConvLaunch { device: device.clone(), launch, dtype: PhantomData }),
        explanation,
    })
}

/// Whether the weights of all stages are finite in T. An error if they are not, and may not be
/// infinite or NaN.
pub(crate) fn are_finite<'a, T: Element>(convs: impl IntoIterator<Item = &'a WeightedConv<'a>>) -> Result<bool> {
    let mut all = true;
    for conv in convs {
        conv.weight.check_finite("weight", T::DTYPE)?;
        all &= conv.weight.is_finite_in(T::DTYPE);
    }
    Ok(all)
}

/// Every kernel of the families, with its estimated time and its launch, or the reason why it does
/// not apply.
pub(crate) fn candidates<T>(families: &[Family<T>], problem: &ConvProblem<'_>) -> Vec<ConvEntry<T>> {
    let entries = |family: &Family<T>| {
        let candidate = family.candidate;
        let verdict = move |kernel: &'static KernelInfo| {
            problem.owner.admits(kernel.name)?;
            if conv_gemm::is_split(kernel) {
                let sum = conv_gemm::sum_kernel(problem.dtype).name;
                problem.owner.admits(sum).map_err(|reason| format!("{sum}, which adds up its parts, {reason}"))?;
            }
            let candidate = candidate(kernel, problem)?;
            if problem.finite_weights || problem.is_unpadded() || leaves_padding_out(kernel) {
                return Ok(candidate);
            }
            Err("it multiplies the zeros of the padding, which a weight that is infinite or NaN would make NaN".into())
        };
        super::family(family.name).map(move |kernel| Entry::of_kernel(kernel, verdict(kernel)))
    };
    families.iter().flat_map(entries).collect()
}

/// Whether a kernel makes no product for taps in the padding. Samples of a deformable convolution
/// do not count as padding: outside the image they are zeros by definition.
fn leaves_padding_out(kernel: &KernelInfo) -> bool {
    let direct = kernel.family == conv_transpose::FAMILY && kernel.axes.tile.is_none();
    direct || [conv_direct::FAMILY, deform_conv::FAMILY].contains(&kernel.family)
}

/// The estimated time of the kernel that a plan would choose. Infinite if none applies. It is for
/// one image if the choice may not depend on the batch.
pub(crate) fn least_time<T: Element>(
    families: &[Family<T>],
    device: &Device,
    request: &PlanRequest,
    geometry: ConvGeometry,
    finite_weights: bool,
) -> Estimate {
    let problem = ConvProblem { finite_weights, ..ConvProblem::new::<T>(device, request, geometry) };
    let mut entries = candidates(families, &problem.for_configuration());
    if request.batch_invariant {
        let alone = candidates(families, &problem.of_one_image());
        keep_one_order::<T, _>(&mut entries, &alone);
    }
    least(&entries)
}

/// The estimated time of the cheapest entry. Infinite if none applies.
pub(crate) fn least<C>(entries: &[Entry<C>]) -> Estimate {
    let none = Estimate { seconds: f64::INFINITY, ..Default::default() };
    entries.iter().filter_map(Entry::estimate).fold(none, Estimate::or_less)
}

/// Everything that loading a convolution's kernel needs.
struct Loading<'a> {
    device: &'a Device,
    conv: WeightedConv<'a>,
    producer: Option<FusedProducer<'a>>,
    /// The parameters without weights.
    params: ConvParams,
}

impl Loading<'_> {
    fn load<T: Element>(&self, kernel: &'static KernelInfo, config: &LaunchConfig<ConvConfig<T>>) -> Result<LoadedLaunch<ConvLoad>> {
        let Self { device, conv: WeightedConv { geometry, weight, epilogue, packed }, producer, params } = self;
        let ConvConfig { params: mut all, persistent, layout, pack } = config.own;
        let weights = packed.get(device, layout, epilogue, weight, |weight| {
            let permuted = epilogue.sub_pixel.map(|sub_pixel| sub_pixel.permuted(weight)).transpose()?;
            pack(geometry, permuted.as_ref().unwrap_or(weight))
        })?;
        *all.conv() = ConvParams { weight: weights.weight.address(), epilogue: weights.epilogue(), ..*params };
        let first =
            producer.map(|FusedProducer { conv, pack, names }| Ok::<_, Error>((conv.geometry, pack(kernel, device, &conv)?, names)));
        let first = first.transpose()?;
        if let Some((params, (geometry, weights, _))) = all.producer().zip(first.as_ref()) {
            let (weight, epilogue) = (weights.weight.address(), weights.epilogue());
            *params = ConvParams { geometry: geometry_params(geometry)?, weight, epilogue, ..Default::default() };
        }
        let producer = first.map(|(_, weights, names)| (weights, names));
        let split = if conv_gemm::is_split(kernel) { Some(Split::new(device, geometry, T::DTYPE, config.grid[1])?) } else { None };
        let mut loaded = LoadedLaunch::new(device, kernel, config, ConvLoad { params: all, weights, producer, split })?;
        if persistent {
            loaded.grid[0] = loaded.grid[0].min(device.resident_blocks(&loaded.kernel, loaded.shared_bytes)?);
        }
        Ok(loaded)
    }
}

/// A convolution's launch without the tensors.
#[derive(Debug)]
struct ConvLoad {
    params: KernelParams,
    weights: Arc<Packed>,
    /// The weights of the producer, and their names in findings.
    producer: Option<(Arc<Packed>, [&'static str; 3])>,
    /// The launch that follows.
    split: Option<Split>,
}

/// The launch that adds the sums of the parts of k.
#[derive(Debug)]
struct Split {
    kernel: Kernel,
    blocks: u32,
    parts: i32,
    /// The layout of the sums: the parts are as many batches.
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
    launch: ByAlignment<ConvLoad>,
    dtype: PhantomData<T>,
}

impl<T: Element> ConvLaunch<T> {
    /// The kernel for views with this alignment.
    fn of_views(&self, inputs: &Inputs<'_, T>, y: &TensorView<'_, T>) -> &LoadedLaunch<ConvLoad> {
        let is_matrix = || inputs.x.layout().has_packed_planes() || inputs.x.layout().is_matrix();
        let fits = |bytes, matrix: bool| planes_aligned(&inputs.x, bytes) && (!matrix || is_matrix());
        self.launch.of_views(|[of_x, of_y], matrix| fits(of_x, matrix) && is_aligned(y, of_y))
    }
}

/// Whether the address and every stride are multiples of this number of bytes. Along one axis
/// elements are neighbours.
pub(crate) fn is_aligned<T: Element>(view: &TensorView<'_, T>, bytes: usize) -> bool {
    let strides = view.layout().strides();
    (view.address() as usize).is_multiple_of(bytes) && strides.iter().all(|&s| s == 1 || (s * size_of::<T>()).is_multiple_of(bytes))
}

/// The bytes of the widest access of a kernel.
const VECTOR_BYTES: usize = 16;

/// Whether every stride is aligned to `bytes`, or the view is of planes without gaps and these are
/// aligned: kernels read an aligned plane as one run, whatever the width of its rows.
fn planes_aligned<T: Element>(view: &TensorView<'_, T>, bytes: usize) -> bool {
    let [n, c, ..] = view.layout().strides();
    let planes =
        view.layout().has_packed_planes() && (n * size_of::<T>()).is_multiple_of(bytes) && (c * size_of::<T>()).is_multiple_of(bytes);
    planes && (view.address() as usize).is_multiple_of(bytes) || is_aligned(view, bytes)
}

impl LoadedLaunch<ConvLoad> {
    /// The kernel's parameters for these tensors.
    fn params<T: Element>(&self, inputs: &Inputs<'_, T>, y: &TensorView<'_, T>) -> Result<KernelParams> {
        let widest = self.alignment[0].max(self.alignment[1]);
        // Even if planes are read in parts of a vector, the residual is read in whole vectors.
        let vector = if inputs.x.format() == MemoryFormat::Contiguous { VECTOR_BYTES } else { widest };
        let vectors = |view: &TensorView<'_, T>| (widest > size_of::<T>() && planes_aligned(view, vector)).into();
        let mut all = self.own.params;
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
            // `Plan::run` has checked that there are offsets.
            if let Some(offset) = &inputs.offset {
                (params.offset, params.offset_in_f32) = offset_or_mask(offset)?;
            }
            if let Some(mask) = &inputs.mask {
                (params.mask, params.mask_in_f32) = offset_or_mask(mask)?;
            }
        }
        Ok(all)
    }

    /// The operands of the launch. x comes first, then the weight.
    fn operands<T: Element>(&self, inputs: &Inputs<'_, T>, y: &TensorView<'_, T>) -> Operands {
        let mut operands = Operands::new();
        operands.push(operand("x", &inputs.x, Access::Read));
        operands.push(Operand::packed("weight", &self.own.weights.weight, size_of::<T>(), Access::Read));
        for (name, memory) in self.own.weights.bias_and_slope() {
            operands.push(Operand::packed(name, memory, size_of::<f32>(), Access::Read));
        }
        if let Some((weights, [weight, bias, slope])) = &self.own.producer {
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
            operands.extend(field.iter().map(|field| offset_or_mask_operand(name, field)));
        }
        operands
    }
}

impl<T: Element> Executable<T> for ConvLaunch<T> {
    unsafe fn run(&self, inputs: &Inputs<'_, T>, y: &mut TensorViewMut<'_, T>, workspace: &Workspace<'_>, stream: &Stream) -> Result<()> {
        let y = y.as_view();
        let loaded = self.of_views(inputs, &y);
        let mut params = loaded.params(inputs, &y)?;
        let mut operands = self.device.is_checked().then(|| loaded.operands(inputs, &y));
        let mut sum = None;
        if let Some(split) = &loaded.own.split {
            let sums = workspace.part::<f32>(&self.device, 0, split.layout)?.into_view();
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
        // SAFETY: the plan was made for this kernel and its parameter struct; the views have the planned shapes and are on the device,
        // the caller says, and are valid as long as they exist. The packed weights live as long as the plan, and the part of the
        // workspace is as long as the sums. Freeing any of them is ordered behind work under way (`Backend::free`).
        unsafe {
            self.device.launch(&loaded.kernel, loaded.grid, loaded.shared_bytes, params.bytes(), Operands::of(&operands), stream)?;
            match &sum {
                Some((split, params, operands)) => {
                    self.device.launch(&split.kernel, [split.blocks, 1, 1], 0, bytemuck::bytes_of(params), Operands::of(operands), stream)
                }
                None => Ok(()),
            }
        }
    }

    #[cfg(all(feature = "cuda", feature = "bench"))]
    fn parameters(&self, inputs: &Inputs<'_, T>, y: &TensorView<'_, T>) -> Result<Vec<u8>> {
        Ok(self.of_views(inputs, y).params(inputs, y)?.bytes().to_vec())
    }
}
