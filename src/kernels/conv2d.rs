//! Conv2d's kernels: candidates, their cost, and the launch. kernels/conv_direct.cu.

use super::params::{ConvDirectParams, ConvGeometryParams};
use super::{Epilogue, Kernel, KernelInfo, Operands, Packed, PackedWeights, choose, family, operand, tensor4, to_i32};
use crate::device::{Access, Operand};
use crate::error::Result;
use crate::geometry::{ConvGeometry, elements};
use crate::layers::{Choice, Executable, Explanation, Inputs, Parameter, Plan, PlanRequest, Residual};
use crate::tensor::TensorViewMut;
use crate::{DType, Device, Element, MemoryFormat, Stream};
use std::sync::Arc;

/// Images beyond the y limit of a CUDA grid are taken by the kernels' stride loop.
const MAX_GRID_Y: usize = 65_535;

/// Chooses, packs and loads.
pub(crate) fn plan<T: Element>(
    device: &Device,
    request: &PlanRequest,
    geometry: ConvGeometry,
    weight: &Parameter,
    epilogue: Epilogue<'_>,
    packed: &PackedWeights,
) -> Result<Plan<T>> {
    let choices = candidates(&geometry, T::DTYPE, request.y_format);
    let (info, choices) = choose("conv2d", request.kernel.as_deref(), choices)?;
    let direct = ConvDirect::<T>::new(device, info, geometry, weight, &epilogue, packed)?;
    let note = if request.batch_invariant { "; batch-invariant, as every candidate is" } else { "" }.to_string();
    let explanation = Explanation { kernel: info.name, choices, grid: direct.grid, threads: info.threads, shared_bytes: 0, note };
    Ok(Plan {
        device: device.clone(),
        request: request.clone(),
        output: geometry.output_shape(),
        executable: Box::new(direct),
        explanation,
    })
}

/// Every kernel that can compute a Conv2d, with its estimated cost or the reason why it does not apply.
fn candidates(geometry: &ConvGeometry, dtype: DType, y_format: MemoryFormat) -> Vec<Choice> {
    family("conv_direct")
        .map(|kernel| Choice { kernel: kernel.name, verdict: ConvDirect::<f32>::applies(kernel, geometry, dtype, y_format) })
        .collect()
}

/// The geometry as kernels take it.
fn geometry_params(g: &ConvGeometry) -> Result<ConvGeometryParams> {
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

/// kernels/conv_direct.cu, ready to run.
#[derive(Debug)]
struct ConvDirect<T> {
    device: Device,
    kernel: Kernel,
    grid: [u32; 3],
    packed: Arc<Packed>,
    weight_elements: usize,
    c_out: usize,
    params: ConvDirectParams,
    dtype: std::marker::PhantomData<T>,
}

impl<T: Element> ConvDirect<T> {
    /// The cost counts products, and a penalty where neighbouring threads do not write neighbours.
    fn applies(kernel: &KernelInfo, geometry: &ConvGeometry, dtype: DType, y_format: MemoryFormat) -> Result<f64, String> {
        if kernel.dtype != Some(dtype) {
            return Err(format!("it is for {}, not {dtype}", kernel.dtype.map_or("any", DType::name)));
        }
        const UNCOALESCED: f64 = 4.0;
        let macs = geometry.macs().map_err(|e| e.to_string())? as f64;
        Ok(macs * if kernel.format == Some(y_format) { 1.0 } else { UNCOALESCED })
    }

    fn new(
        device: &Device,
        info: &'static KernelInfo,
        geometry: ConvGeometry,
        weight: &Parameter,
        epilogue: &Epilogue<'_>,
        packed: &PackedWeights,
    ) -> Result<Self> {
        let params = geometry_params(&geometry)?;
        // positions are computed in 32 bits, padding and dilation included
        let reach = |axis: usize| {
            let last = (geometry.output[axis] - 1).checked_mul(geometry.stride[axis])?;
            let taps = (geometry.kernel[axis] - 1).checked_mul(geometry.dilation[axis])?;
            last.checked_add(taps)?.checked_add(geometry.padding[axis])
        };
        for axis in 0..2 {
            to_i32("the padded input size", reach(axis).unwrap_or(usize::MAX))?;
        }
        let image = elements(&geometry.output_shape()[1..])?;
        to_i32("the number of elements of an output image", image)?;
        let packed = packed.get(device, "[tap][c_in / groups][c_out]", epilogue, || pack::<T>(&geometry, weight))?;
        let grid = [image.div_ceil(info.threads as usize) as u32, geometry.n.clamp(1, MAX_GRID_Y) as u32, 1];
        Ok(Self {
            device: device.clone(),
            kernel: device.load(info)?,
            grid,
            weight_elements: weight.values().len(),
            c_out: geometry.c_out,
            params: ConvDirectParams {
                x: Default::default(),
                y: Default::default(),
                weight: packed.weight.address(),
                geometry: params,
                epilogue: packed.epilogue(),
            },
            packed,
            dtype: std::marker::PhantomData,
        })
    }
}

/// [C_out][C_in / groups][kh][kw] to [kh][kw][C_in / groups][C_out], rounded once.
fn pack<T: Element>(geometry: &ConvGeometry, weight: &Parameter) -> Vec<T> {
    let taps = geometry.kernel[0] * geometry.kernel[1];
    let channels = geometry.c_in / geometry.groups;
    let mut packed = Vec::with_capacity(weight.values().len());
    for tap in 0..taps {
        for channel in 0..channels {
            packed.extend((0..geometry.c_out).map(|o| T::from_f32(weight.values()[(o * channels + channel) * taps + tap])));
        }
    }
    packed
}

impl<T: Element> Executable<T> for ConvDirect<T> {
    fn run(&self, inputs: &Inputs<'_, T>, y: &mut TensorViewMut<'_, T>, stream: &Stream) -> Result<()> {
        let mut params = self.params;
        let y = y.as_view();
        params.x = tensor4(&inputs.x)?;
        params.y = tensor4(&y)?;
        let mut operands = Operands::new();
        operands.push(operand("x", &inputs.x, Access::Read));
        operands.push(Operand::packed("weight", params.weight, size_of::<T>(), self.weight_elements, Access::Read));
        for (name, memory) in self.packed.bias_and_slope() {
            operands.push(Operand::packed(name, memory.address(), 4, self.c_out, Access::Read));
        }
        let mut access = Access::Write;
        match &inputs.residual {
            Residual::None => {}
            Residual::Tensor(residual) => {
                params.epilogue.residual = tensor4(residual)?;
                operands.push(operand("residual", residual, Access::Read));
            }
            Residual::Output => {
                params.epilogue.residual = params.y;
                access = Access::Update;
            }
        }
        operands.push(operand("y", &y, access));
        // SAFETY: the plan was made for this kernel and its parameter struct; `Plan::run` has checked that the views have the
        // planned shapes and are on the device, views are valid as long as they exist, and the packed weights are ours
        unsafe { self.device.launch(&self.kernel, self.grid, 0, &params, operands.as_slice(), stream) }
    }
}
