//! The attributes of each kind of layer, as a user writes them, and their JSON form. Data only:
//! what is wrong with attributes by themselves is refused here, what depends on shapes by
//! `geometry`.

pub(crate) mod activation;
pub(crate) mod attributes;
mod conv2d;
mod conv_transpose2d;
mod deform_conv2d;
mod deform_conv2d_block;
mod depthwise_separable;
mod focus;
mod pixel_shuffle;
mod pool;
mod precision;
mod roi;
mod spatially_separable;
mod sub_pixel;
mod upsample;

pub use activation::Activation;
pub use attributes::Padding;
pub use conv_transpose2d::ConvTranspose2dSpec;
pub use conv2d::Conv2dSpec;
pub use deform_conv2d::DeformConv2dSpec;
pub use deform_conv2d_block::DeformConv2dBlockSpec;
pub use depthwise_separable::DepthwiseSeparableSpec;
pub use focus::FocusSpec;
pub use pixel_shuffle::{ChannelOrder, PixelShuffleSpec};
pub use pool::{AdaptiveAvgPool2dSpec, AvgPool2dSpec, MaxPool2dSpec};
pub use precision::Precision;
pub use roi::{DeformRoiPoolSpec, PsRoiPoolSpec, RoiAlignSpec, RoiPoolSpec};
pub(crate) use roi::{Pool, Pooling};
pub use spatially_separable::SpatiallySeparableSpec;
pub use sub_pixel::SubPixelConv2dSpec;
pub use upsample::{UpsampleBilinearSpec, UpsampleSize};
