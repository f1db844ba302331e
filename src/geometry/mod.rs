//! Shape inference in checked arithmetic: from a spec and an input's shape to the output's shape.
//! All output sizes are computed here, except in the oracle, which computes its own.

mod axis;
mod block;
mod conv;
mod deform;
mod pool;
mod roi;
mod upsample;

pub use crate::shape::{Shape, elements, kernel_span, rank4};
pub(crate) use crate::shape::{divisible, gcd, positive};
pub use axis::Axis;
pub use block::BlockGeometry;
pub use conv::ConvGeometry;
pub use deform::DeformGeometry;
pub use pool::{PoolGeometry, Pooled, Windows};
pub use roi::RoiGeometry;
pub use upsample::UpsampleGeometry;
