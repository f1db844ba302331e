//! How exactly an f32 layer multiplies.

/// How f32 layers multiply. Layers of 16-bit types always multiply exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Precision {
    /// IEEE f32 products and sums.
    #[default]
    Strict,
    /// Kernels on tensor cores may round both factors of a product to tf32 (10 bits of mantissa, to
    /// nearest). Errors are up to 2^-10 of the sum of absolute products. Subnormal numbers lose
    /// digits and may become zero.
    Tf32,
}
