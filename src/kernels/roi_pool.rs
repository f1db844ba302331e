//! kernels/roi_pool.cu: the choice among its kernels, and their launch.

use super::candidate::{ByAlignment, Candidate, Entry, LaunchConfig, LoadedLaunch, Reason, choose};
use super::cost::Work;
use super::launch::is_aligned;
use super::order::{SumOrder, keep_one_order};
use super::params::{ROI_PLANE_CHANNELS, ROI_TABLE_BYTES, RoiParams};
use super::{
    KernelInfo, MAX_POSITION, Operands, at_most, check_image, family, offset_or_mask, offset_or_mask_operand, operand, product, tensor4,
    to_i32,
};
use crate::device::Access;
use crate::error::Result;
use crate::geometry::RoiGeometry;
use crate::plan::{Executable, Inputs, Need, Needs, Plan, PlanRequest, Workspace};
use crate::spec::{Pool, Pooling};
use crate::tensor::TensorViewMut;
use crate::{Device, Element, MemoryFormat, Stream};
use std::marker::PhantomData;

const FAMILY: &str = "roi_pool";

/// The channels of a thread of the `planes` kernels.
const PLANE_CHANNELS: usize = ROI_PLANE_CHANNELS as usize;
/// The bytes of a warp's table of samples: 16 rows and 16 columns.
const TABLE_BYTES: usize = ROI_TABLE_BYTES as usize;

/// The bytes that one value costs in L1 if lanes read: 16 bytes each; neighbouring elements;
/// neighbouring pixels of a plane; pixels of one channel in channels_last.
const WHOLE_VECTORS: f64 = 1.0;
const ELEMENTS_BYTES: f64 = 4.0;
const PLANE_BYTES: f64 = 16.0;
const SCATTERED_BYTES: f64 = 32.0;
/// Instructions for each value: load, conversion, product, and a share of the positions.
const VECTOR_INSTRUCTIONS: f64 = 2.5;
const ELEMENT_INSTRUCTIONS: f64 = 6.0;

/// A kernel of the family.
#[derive(Debug, Clone, Copy)]
struct RoiKernel {
    info: &'static KernelInfo,
    /// The channels of a lane, in the channels_last kernels.
    vector: Option<usize>,
}

impl RoiKernel {
    fn of(info: &'static KernelInfo) -> Self {
        Self { info, vector: info.axes.vector }
    }

    /// The output channels of a warp or a thread.
    fn slice(&self) -> usize {
        self.vector.map_or(PLANE_CHANNELS, |vector| 32 * vector)
    }

    /// The number of slices of an offset group's channels.
    fn slices(&self, g: &RoiGeometry) -> usize {
        (g.c_out / g.offset_groups).div_ceil(self.slice())
    }

    /// The number of warps or threads that have work, and the number of blocks with them.
    fn units(&self, g: &RoiGeometry) -> Result<(i32, u32)> {
        let what = "the number of bins times slices of channels";
        let units = product(what, &[g.rois, g.offset_groups, self.slices(g), g.pooled[0], g.pooled[1]])?;
        let of_block = if self.vector.is_some() { self.info.threads / 32 } else { self.info.threads };
        Ok((to_i32(what, units)?, units.div_ceil(of_block as usize) as u32))
    }

    fn shared_bytes(&self) -> u32 {
        self.vector.map_or(0, |_| self.info.threads / 32 * TABLE_BYTES as u32)
    }

    /// The order in which the samples of a bin are added.
    fn order(&self) -> SumOrder {
        if self.vector.is_some() { SumOrder::SampleSquares } else { SumOrder::SampleRows }
    }

    /// Whether the kernel does this pooling in this dtype.
    fn is_for<T: Element>(&self, g: &RoiGeometry) -> bool {
        self.info.axes.pool == Some(g.pooling.pool) && self.info.dtype == Some(T::DTYPE)
    }

    /// The estimated time and the launch with `params`, or why the kernel does not apply.
    fn candidate<T: Element>(
        &self,
        g: &RoiGeometry,
        params: RoiParams,
        request: &PlanRequest,
        device: &Device,
    ) -> Result<Candidate<RoiParams>, Reason> {
        if let Some(pool) = self.info.axes.pool.filter(|pool| *pool != g.pooling.pool) {
            return Err(format!("it pools as {}, not {}", pool.name(), g.pooling.pool.name()));
        }
        self.info.check_dtype(T::DTYPE)?;
        let bytes = size_of::<T>() as f64;
        let class_channels = g.c_out / g.offset_groups;
        let channels_last = request.x_format == MemoryFormat::ChannelsLast;
        if let Some(vector) = self.vector {
            if !channels_last {
                return Err("it reads channels_last".into());
            }
            if g.pooling.position_sensitive {
                return Err("a bin's channels are no neighbours".into());
            }
            if !class_channels.is_multiple_of(vector) {
                return Err(format!("its loads are of {vector} channels, which do not divide {class_channels}"));
            }
        }
        let (units, blocks) = self.units(g).map_err(|e| e.to_string())?;
        let slices = to_i32("the slices of channels", self.slices(g)).map_err(|e| e.to_string())?;
        let reads = if g.pooling.pool == Pool::Align { 4.0 } else { 1.0 };
        let outputs = g.output_shape().iter().map(|&size| size as f64).product::<f64>();
        let values = outputs * g.samples() as f64 * reads;
        // Lanes without channels issue instructions as well.
        let issued = values * (self.slices(g) * self.slice()) as f64 / class_channels.max(1) as f64;
        let (l1, instructions) = match (self.vector, channels_last) {
            (Some(1), _) => (ELEMENTS_BYTES, ELEMENT_INSTRUCTIONS),
            (Some(_), _) => (WHOLE_VECTORS * bytes, VECTOR_INSTRUCTIONS),
            (None, false) => (PLANE_BYTES, ELEMENT_INSTRUCTIONS),
            (None, true) => (SCATTERED_BYTES, ELEMENT_INSTRUCTIONS),
        };
        let input = g.x.iter().map(|&size| size as f64).product::<f64>();
        let work = Work {
            blocks: f64::from(blocks),
            blocks_per_multiprocessor: 8.0,
            dram_bytes: (input + outputs) * bytes,
            l2_bytes: values * bytes,
            shared_bytes: values * l1,
            ffma: issued * instructions / 2.0, // two instructions a cycle and lane
            ..Default::default()
        };
        let config = LaunchConfig {
            grid: [blocks, 1, 1],
            shared_bytes: self.shared_bytes(),
            alignment: [self.vector.unwrap_or(1) * size_of::<T>(), size_of::<T>()],
            order: self.order(),
            own: RoiParams { units: units as u32, slices, ..params },
        };
        Ok(Candidate { estimate: work.estimate_on(device.kind(), device.properties()), config })
    }
}

/// Makes a plan: chooses a kernel and loads it.
pub(crate) fn plan<T: Element>(device: &Device, request: &PlanRequest, g: RoiGeometry) -> Result<Plan<T>> {
    let pooling = g.pooling;
    for size in [g.x[2], g.x[3]] {
        at_most(MAX_POSITION, "the height or width of x", size)?;
    }
    to_i32("C", g.x[1])?;
    check_image("the number of elements of an image of x", g.x)?;
    check_image("the number of elements of a RoI of y", g.output_shape())?;
    if pooling.deformable {
        check_image("the number of offsets of a RoI", g.offset_shape())?;
    }
    let params = RoiParams {
        n: to_i32("N", g.x[0])?,
        h: to_i32("the height of x", g.x[2])?,
        w: to_i32("the width of x", g.x[3])?,
        pooled_h: to_i32("the output height", g.pooled[0])?,
        pooled_w: to_i32("the output width", g.pooled[1])?,
        offset_groups: to_i32("offset_groups", g.offset_groups)?,
        group_channels: to_i32("C_out", g.c_out / g.offset_groups)?,
        spatial_scale: pooling.spatial_scale,
        gamma: pooling.gamma,
        sampling_ratio: pooling.sampling_ratio,
        aligned: pooling.aligned.into(),
        position_sensitive: pooling.position_sensitive.into(),
        ..Default::default()
    };
    // Bins are numbered in 32 bits.
    let what = "the number of bins";
    to_i32(what, product(what, &g.pooled)?)?;
    let list = |g: &RoiGeometry| -> Vec<Entry<RoiParams>> {
        let entry = |info| Entry::of_kernel(info, RoiKernel::of(info).candidate::<T>(g, params, request, device));
        family(FAMILY).map(entry).collect()
    };
    let mut entries = list(&g);
    let mut order = None;
    if request.batch_invariant {
        let alone = RoiGeometry { x: [g.x[0].min(1), g.x[1], g.x[2], g.x[3]], rois: g.rois.min(1), ..g };
        order = keep_one_order::<T, _>(&mut entries, &list(&alone));
    }
    // The kernel for any view is the fallback of all others. If it cannot count its threads, the
    // error says so.
    for planes in family(FAMILY).map(RoiKernel::of).filter(|variant| variant.vector.is_none() && variant.is_for::<T>(&g)) {
        planes.units(&g)?;
    }
    let selection = choose(pooling.op, device, request, describe::<T>(&g, request), entries)?;
    let (launch, mut note) = selection.load::<T, _>(|info, config| LoadedLaunch::new(device, info, config, config.own))?;
    if let Some(order) = order {
        note += &format!("; batch-invariant: sums by {order} for every number of images and RoIs and every view");
    }
    let explanation = selection.explain(&launch.chosen, note);
    let fields = |shape| if pooling.deformable { Need::Optional(shape) } else { Need::No };
    Ok(Plan {
        op: pooling.op,
        device: device.clone(),
        request: request.clone(),
        output: g.output_shape(),
        needs: Needs { offset: fields(g.offset_shape()), mask: fields(g.mask_shape()), rois: true, ..Default::default() },
        workspace_bytes: 0,
        executable: Box::new(RoiLaunch { device: device.clone(), launch, dtype: PhantomData }),
        explanation,
    })
}

/// Everything on which the times of the kernels depend, as far as it is known before the RoIs are.
fn describe<T: Element>(g: &RoiGeometry, request: &PlanRequest) -> String {
    let Pooling { op, spatial_scale, sampling_ratio, aligned, offset_groups, .. } = g.pooling;
    let (dtype, x, y, x_format, y_format) = (T::DTYPE, g.x, g.output_shape(), request.x_format, request.y_format);
    format!(
        "{op} {dtype}, x {x:?} {x_format}, y {y:?} {y_format}; scale {spatial_scale}, sampling {sampling_ratio}, aligned {aligned}, offset groups {offset_groups}"
    )
}

/// A pooling of RoIs, ready to run.
#[derive(Debug)]
struct RoiLaunch<T> {
    device: Device,
    launch: ByAlignment<RoiParams>,
    dtype: PhantomData<T>,
}

impl<T: Element> Executable<T> for RoiLaunch<T> {
    unsafe fn run(&self, inputs: &Inputs<'_, T>, y: &mut TensorViewMut<'_, T>, _: &Workspace<'_>, stream: &Stream) -> Result<()> {
        let y = y.as_view();
        // The kernel stores in vectors if y allows it, so the alignment of y does not matter here.
        let LoadedLaunch { kernel, grid, shared_bytes, alignment, own } = self.launch.of_views(|[of_x, _], _| is_aligned(&inputs.x, of_x));
        let rois = inputs.rois.expect("`Plan::run` has checked that there are RoIs");
        let mut params = RoiParams { x: tensor4(&inputs.x)?, y: tensor4(&y)?, rois: rois.address(), ..*own };
        if let Some(offset) = &inputs.offset {
            (params.offset, params.offset_in_f32) = offset_or_mask(offset)?;
        }
        if let Some(mask) = &inputs.mask {
            (params.mask, params.mask_in_f32) = offset_or_mask(mask)?;
        }
        params.vector_stores = (params.y.stride_c == 1 && is_aligned(&y, alignment[0])).into();
        let operands = self.device.is_checked().then(|| {
            let mut operands = Operands::new();
            operands.extend([operand("x", &inputs.x, Access::Read), rois.operand()]);
            for (name, field) in [("offset", &inputs.offset), ("mask", &inputs.mask)] {
                operands.extend(field.iter().map(|field| offset_or_mask_operand(name, field)));
            }
            operands.push(operand("y", &y, Access::Write));
            operands
        });
        // SAFETY: the plan was made for this kernel, whose parameters are RoiParams; the views have the planned shapes and are on the
        // device, the caller says, and are valid as long as they exist; the kernel makes nothing of a batch index that is no image's
        unsafe {
            let (params, operands) = (bytemuck::bytes_of(&params), Operands::of(&operands));
            self.device.launch(kernel, *grid, *shared_bytes, params, operands, stream)
        }
    }
}
