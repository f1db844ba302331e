//! How exactly a layer multiplies.

/// How f32 layers multiply. The layers of 16-bit types multiply exactly in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Precision {
    /// IEEE f32 products and sums.
    #[default]
    Strict,
    /// Kernels on tensor cores may round what they multiply to tf32 (10 bits of mantissa, to nearest): errors up to 2^-10 of the
    /// absolute sum. Subnormal numbers lose digits, down to zero.
    Tf32,
}
