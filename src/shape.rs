//! Shapes, checked arithmetic on sizes, and checks of single sizes.

use crate::error::{Error, Result};

/// A logical shape [N, C, H, W].
pub type Shape = [usize; 4];

/// `shape` as a [`Shape`], or an error that names the tensor.
pub fn rank4(name: &'static str, shape: &[usize]) -> Result<Shape> {
    shape.try_into().map_err(|_| Error::Rank { name, shape: shape.to_vec(), expected: 4, meaning: "[N, C, H, W]" })
}

/// The number of elements of a shape.
///
/// # Errors
/// [`Error::Overflow`] if the number of elements, or their size at 8 bytes each, does not fit 63
/// bits. For this check, sizes of 0 count as 1, so that the strides of an empty tensor fit as well.
pub fn elements(shape: &[usize]) -> Result<usize> {
    let extent = shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size.max(1)));
    if extent.is_none_or(|count| count > isize::MAX as usize / 8) {
        return Err(Error::Overflow { what: "the number of elements", values: format!("shape {shape:?}") });
    }
    Ok(shape.iter().product())
}

/// The extent of a dilated kernel, `dilation * (kernel - 1) + 1`, which is its receptive field on
/// its own input.
pub fn kernel_span(kernel: usize, dilation: usize) -> Result<usize> {
    let overflow = || Error::Overflow { what: "dilation * (kernel - 1) + 1", values: format!("dilation {dilation}, kernel {kernel}") };
    kernel.checked_sub(1).and_then(|k| k.checked_mul(dilation)).and_then(|s| s.checked_add(1)).ok_or_else(overflow)
}

/// Refuses a value of 0.
pub(crate) fn positive(name: &'static str, value: usize) -> Result<()> {
    if value == 0 {
        return Err(Error::Attribute { name, value: "0".into(), requirement: "at least 1" });
    }
    Ok(())
}

/// Refuses a number that is not divisible by the divisor.
pub(crate) fn divisible(name: &'static str, value: usize, divisor_name: &'static str, divisor: usize) -> Result<()> {
    if !value.is_multiple_of(divisor) {
        return Err(Error::Divisibility { name, value, divisor_name, divisor, context: String::new() });
    }
    Ok(())
}

/// Refuses a number of channels that is not divisible by the groups. `c_in` and `c_out` are the
/// channels of `weight` over all groups, as text, since such a product may not fit 64 bits.
pub(crate) fn grouped(name: &'static str, value: usize, groups: usize, weight: Shape, c_in: &str, c_out: &str) -> Result<()> {
    if !value.is_multiple_of(groups) {
        let context = format!("; the weight {weight:?} with groups = {groups} is for C_in = {c_in} and C_out = {c_out}");
        return Err(Error::Divisibility { name, value, divisor_name: "groups", divisor: groups, context });
    }
    Ok(())
}

/// The greatest common divisor of two positive numbers.
pub(crate) fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The largest number that kernels count to in 32 bits: sizes, strides, positions, the elements of
/// an image. Kernels may exceed it by less than 2^16: by the stride of a grid (65,535), or by rows
/// of a block that are below the image.
pub(crate) const MAX_COUNT: usize = (1 << 31) - (1 << 16);

/// Refuses a value above a limit.
pub(crate) fn at_most(limit: usize, what: &'static str, value: usize) -> Result<()> {
    if value > limit {
        return Err(Error::Limit { what, value: value as u128, limit: limit as u128 });
    }
    Ok(())
}

/// A size as the 32-bit integer of the kernels, or an error that names it.
pub(crate) fn to_i32(what: &'static str, value: usize) -> Result<i32> {
    at_most(MAX_COUNT, what, value)?;
    Ok(value as i32)
}
