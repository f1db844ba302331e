//! Launches the kernels of tests/kernels/ by name: the checker's own tests. Not part of the crate's
//! interface.

use crate::device::kernel::TEST_KERNELS;
use crate::device::{self, Access};
use crate::error::{Error, Result};
use crate::tensor::{TensorView, operand};
use crate::{Device, Element, Stream};

/// The parameter struct of every test kernel, `TestParams` of tests/kernels/test.h.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub struct TestParams {
    /// Addresses of the operands, in their order.
    pub buffers: [u64; 4],
    /// Whatever the kernel makes of them.
    pub values: [i32; 8],
}

/// A tensor of a launch and what the kernel declares to do with it.
#[derive(Debug, Clone, Copy)]
pub struct Operand(device::Operand);

impl Operand {
    /// The kernel reads it.
    pub fn read<'a, T: Element>(name: &'static str, view: impl Into<TensorView<'a, T>>) -> Self {
        Self(operand(name, &view.into(), Access::Read))
    }

    /// The kernel writes every element once.
    pub fn write<'a, T: Element>(name: &'static str, view: impl Into<TensorView<'a, T>>) -> Self {
        Self(operand(name, &view.into(), Access::Write))
    }

    /// The kernel reads and then writes every element.
    pub fn update<'a, T: Element>(name: &'static str, view: impl Into<TensorView<'a, T>>) -> Self {
        Self(operand(name, &view.into(), Access::Update))
    }
}

/// Launches the test kernel `name`.
///
/// # Errors
/// [`Error::Parse`] for an unknown name; what the launch finds.
///
/// # Safety
/// Test kernels are broken on purpose: on a device that is not checked, the kernel must be one that is not. Nobody else uses
/// the operands' memory meanwhile.
pub unsafe fn launch(device: &Device, name: &str, grid: [u32; 3], shared_bytes: u32, operands: &[Operand], values: &[i32]) -> Result<()> {
    let unknown =
        || Error::Parse { source_name: format!("test kernel {name:?}"), message: "tests/kernels/manifest.toml does not list it".into() };
    let kernel = device.load(TEST_KERNELS.iter().find(|k| k.name == name).ok_or_else(unknown)?)?;
    let mut params = TestParams::default();
    let operands: Vec<device::Operand> = operands.iter().map(|o| o.0).collect();
    for (buffer, operand) in params.buffers.iter_mut().zip(&operands) {
        *buffer = operand.address;
    }
    params.values[..values.len()].copy_from_slice(values);
    // SAFETY: the kernel takes TestParams; the rest is passed on to the caller
    unsafe { device.launch(&kernel, grid, shared_bytes, bytemuck::bytes_of(&params), &operands, &Stream::default_of(device)) }
}
