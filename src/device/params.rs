//! kernels/params*.h, mirrored by bindgen. Do not edit: run scripts/regenerate-bindings.sh.
#![allow(missing_docs, non_camel_case_types, non_upper_case_globals, dead_code)]
use bytemuck::{Pod, Zeroable};

pub const GEMM_STAGES: _bindgen_ty_1 = 4;
pub const GEMM_CHUNK_BYTES: _bindgen_ty_1 = 16;
pub const GEMM_ROW_BYTES: _bindgen_ty_1 = 64;
pub const DEFORM_SAMPLE_BYTES: _bindgen_ty_1 = 24;
pub const DEFORM_SEGMENTS_OF_64: _bindgen_ty_1 = 12;
pub const DEFORM_SEGMENTS: _bindgen_ty_1 = 9;
pub const DEPTHWISE_STRIP: _bindgen_ty_1 = 4;
pub const DEPTHWISE_WIDE_STRIP: _bindgen_ty_1 = 2;
pub const DEPTHWISE_ANY_ROWS: _bindgen_ty_1 = 2;
pub const DEPTHWISE_ANY_COLUMNS: _bindgen_ty_1 = 8;
pub const DEPTHWISE_ANY_TAPS: _bindgen_ty_1 = 4;
pub const DEPTHWISE_ANY_SUM_PITCH: _bindgen_ty_1 = 17;
pub const TOEPLITZ_COLUMNS: _bindgen_ty_1 = 32;
pub const TOEPLITZ_BLOCK: _bindgen_ty_1 = 8;
pub const TOEPLITZ_STEP: _bindgen_ty_1 = 16;
pub const TOEPLITZ_MOVED_BYTES: _bindgen_ty_1 = 128;
pub const TOEPLITZ_WARPS: _bindgen_ty_1 = 4;
pub const GROUPED_WARPS: _bindgen_ty_1 = 8;
pub const GROUPED_WARP_PIXELS: _bindgen_ty_1 = 64;
pub const GROUPED_FRAGMENT_BYTES: _bindgen_ty_1 = 256;
pub const GROUPED_STAGING_WORDS_2: _bindgen_ty_1 = 384;
pub const GROUPED_STAGING_WORDS_3: _bindgen_ty_1 = 480;
pub const GROUPED_STAGING_WORDS_4: _bindgen_ty_1 = 640;
pub const SPATIAL_OUTPUTS: _bindgen_ty_1 = 4;
pub const SPATIAL_GEMM_ZERO_BYTES: _bindgen_ty_1 = 128;
pub const ROI_PLANE_CHANNELS: _bindgen_ty_1 = 8;
pub const ROI_TABLE_BYTES: _bindgen_ty_1 = 512;
pub const TRANSPOSE_TILE: _bindgen_ty_1 = 32;
pub const TRANSPOSE_PADDING_BYTES: _bindgen_ty_1 = 4;
pub type _bindgen_ty_1 = ::std::os::raw::c_uint;
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, Pod, Zeroable)]
pub struct Tensor4 {
    pub address: u64,
    pub stride_n: i64,
    pub stride_c: i32,
    pub stride_h: i32,
    pub stride_w: i32,
    pub reserved: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of Tensor4"][::std::mem::size_of::<Tensor4>() - 32usize];
    ["Alignment of Tensor4"][::std::mem::align_of::<Tensor4>() - 8usize];
    ["Offset of field: Tensor4::address"][::std::mem::offset_of!(Tensor4, address) - 0usize];
    ["Offset of field: Tensor4::stride_n"][::std::mem::offset_of!(Tensor4, stride_n) - 8usize];
    ["Offset of field: Tensor4::stride_c"][::std::mem::offset_of!(Tensor4, stride_c) - 16usize];
    ["Offset of field: Tensor4::stride_h"][::std::mem::offset_of!(Tensor4, stride_h) - 20usize];
    ["Offset of field: Tensor4::stride_w"][::std::mem::offset_of!(Tensor4, stride_w) - 24usize];
    ["Offset of field: Tensor4::reserved"][::std::mem::offset_of!(Tensor4, reserved) - 28usize];
};
pub const ActivationCode_ACTIVATION_NONE: ActivationCode = 0;
pub const ActivationCode_ACTIVATION_RELU: ActivationCode = 1;
pub const ActivationCode_ACTIVATION_RELU6: ActivationCode = 2;
pub const ActivationCode_ACTIVATION_LEAKY_RELU: ActivationCode = 3;
pub const ActivationCode_ACTIVATION_PRELU: ActivationCode = 4;
pub const ActivationCode_ACTIVATION_SIGMOID: ActivationCode = 5;
pub const ActivationCode_ACTIVATION_TANH: ActivationCode = 6;
pub const ActivationCode_ACTIVATION_SILU: ActivationCode = 7;
pub const ActivationCode_ACTIVATION_GELU: ActivationCode = 8;
pub const ActivationCode_ACTIVATION_HARDSWISH: ActivationCode = 9;
pub type ActivationCode = ::std::os::raw::c_uint;
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, Pod, Zeroable)]
pub struct EpilogueParams {
    pub bias: u64,
    pub slope: u64,
    pub residual: Tensor4,
    pub activation: i32,
    pub alpha: f32,
    pub vector_residual: i32,
    pub reserved: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of EpilogueParams"][::std::mem::size_of::<EpilogueParams>() - 64usize];
    ["Alignment of EpilogueParams"][::std::mem::align_of::<EpilogueParams>() - 8usize];
    ["Offset of field: EpilogueParams::bias"][::std::mem::offset_of!(EpilogueParams, bias) - 0usize];
    ["Offset of field: EpilogueParams::slope"][::std::mem::offset_of!(EpilogueParams, slope) - 8usize];
    ["Offset of field: EpilogueParams::residual"][::std::mem::offset_of!(EpilogueParams, residual) - 16usize];
    ["Offset of field: EpilogueParams::activation"][::std::mem::offset_of!(EpilogueParams, activation) - 48usize];
    ["Offset of field: EpilogueParams::alpha"][::std::mem::offset_of!(EpilogueParams, alpha) - 52usize];
    ["Offset of field: EpilogueParams::vector_residual"][::std::mem::offset_of!(EpilogueParams, vector_residual) - 56usize];
    ["Offset of field: EpilogueParams::reserved"][::std::mem::offset_of!(EpilogueParams, reserved) - 60usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, Pod, Zeroable)]
pub struct ConvGeometryParams {
    pub n: i32,
    pub c_in: i32,
    pub h: i32,
    pub w: i32,
    pub c_out: i32,
    pub h_out: i32,
    pub w_out: i32,
    pub kernel_h: i32,
    pub kernel_w: i32,
    pub stride_h: i32,
    pub stride_w: i32,
    pub pad_top: i32,
    pub pad_left: i32,
    pub dilation_h: i32,
    pub dilation_w: i32,
    pub groups: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of ConvGeometryParams"][::std::mem::size_of::<ConvGeometryParams>() - 64usize];
    ["Alignment of ConvGeometryParams"][::std::mem::align_of::<ConvGeometryParams>() - 4usize];
    ["Offset of field: ConvGeometryParams::n"][::std::mem::offset_of!(ConvGeometryParams, n) - 0usize];
    ["Offset of field: ConvGeometryParams::c_in"][::std::mem::offset_of!(ConvGeometryParams, c_in) - 4usize];
    ["Offset of field: ConvGeometryParams::h"][::std::mem::offset_of!(ConvGeometryParams, h) - 8usize];
    ["Offset of field: ConvGeometryParams::w"][::std::mem::offset_of!(ConvGeometryParams, w) - 12usize];
    ["Offset of field: ConvGeometryParams::c_out"][::std::mem::offset_of!(ConvGeometryParams, c_out) - 16usize];
    ["Offset of field: ConvGeometryParams::h_out"][::std::mem::offset_of!(ConvGeometryParams, h_out) - 20usize];
    ["Offset of field: ConvGeometryParams::w_out"][::std::mem::offset_of!(ConvGeometryParams, w_out) - 24usize];
    ["Offset of field: ConvGeometryParams::kernel_h"][::std::mem::offset_of!(ConvGeometryParams, kernel_h) - 28usize];
    ["Offset of field: ConvGeometryParams::kernel_w"][::std::mem::offset_of!(ConvGeometryParams, kernel_w) - 32usize];
    ["Offset of field: ConvGeometryParams::stride_h"][::std::mem::offset_of!(ConvGeometryParams, stride_h) - 36usize];
    ["Offset of field: ConvGeometryParams::stride_w"][::std::mem::offset_of!(ConvGeometryParams, stride_w) - 40usize];
    ["Offset of field: ConvGeometryParams::pad_top"][::std::mem::offset_of!(ConvGeometryParams, pad_top) - 44usize];
    ["Offset of field: ConvGeometryParams::pad_left"][::std::mem::offset_of!(ConvGeometryParams, pad_left) - 48usize];
    ["Offset of field: ConvGeometryParams::dilation_h"][::std::mem::offset_of!(ConvGeometryParams, dilation_h) - 52usize];
    ["Offset of field: ConvGeometryParams::dilation_w"][::std::mem::offset_of!(ConvGeometryParams, dilation_w) - 56usize];
    ["Offset of field: ConvGeometryParams::groups"][::std::mem::offset_of!(ConvGeometryParams, groups) - 60usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, Pod, Zeroable)]
pub struct SubPixelParams {
    pub run: i32,
    pub factor: i32,
    pub stride_h: i32,
    pub stride_w: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of SubPixelParams"][::std::mem::size_of::<SubPixelParams>() - 16usize];
    ["Alignment of SubPixelParams"][::std::mem::align_of::<SubPixelParams>() - 4usize];
    ["Offset of field: SubPixelParams::run"][::std::mem::offset_of!(SubPixelParams, run) - 0usize];
    ["Offset of field: SubPixelParams::factor"][::std::mem::offset_of!(SubPixelParams, factor) - 4usize];
    ["Offset of field: SubPixelParams::stride_h"][::std::mem::offset_of!(SubPixelParams, stride_h) - 8usize];
    ["Offset of field: SubPixelParams::stride_w"][::std::mem::offset_of!(SubPixelParams, stride_w) - 12usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, Pod, Zeroable)]
pub struct ConvParams {
    pub x: Tensor4,
    pub y: Tensor4,
    pub weight: u64,
    pub geometry: ConvGeometryParams,
    pub epilogue: EpilogueParams,
    pub sub_pixel: SubPixelParams,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of ConvParams"][::std::mem::size_of::<ConvParams>() - 216usize];
    ["Alignment of ConvParams"][::std::mem::align_of::<ConvParams>() - 8usize];
    ["Offset of field: ConvParams::x"][::std::mem::offset_of!(ConvParams, x) - 0usize];
    ["Offset of field: ConvParams::y"][::std::mem::offset_of!(ConvParams, y) - 32usize];
    ["Offset of field: ConvParams::weight"][::std::mem::offset_of!(ConvParams, weight) - 64usize];
    ["Offset of field: ConvParams::geometry"][::std::mem::offset_of!(ConvParams, geometry) - 72usize];
    ["Offset of field: ConvParams::epilogue"][::std::mem::offset_of!(ConvParams, epilogue) - 136usize];
    ["Offset of field: ConvParams::sub_pixel"][::std::mem::offset_of!(ConvParams, sub_pixel) - 200usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, Pod, Zeroable)]
pub struct ConvPatchParams {
    pub conv: ConvParams,
    pub tile_w_log2: i32,
    pub patch_h: i32,
    pub patch_columns: i32,
    pub reserved: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of ConvPatchParams"][::std::mem::size_of::<ConvPatchParams>() - 232usize];
    ["Alignment of ConvPatchParams"][::std::mem::align_of::<ConvPatchParams>() - 8usize];
    ["Offset of field: ConvPatchParams::conv"][::std::mem::offset_of!(ConvPatchParams, conv) - 0usize];
    ["Offset of field: ConvPatchParams::tile_w_log2"][::std::mem::offset_of!(ConvPatchParams, tile_w_log2) - 216usize];
    ["Offset of field: ConvPatchParams::patch_h"][::std::mem::offset_of!(ConvPatchParams, patch_h) - 220usize];
    ["Offset of field: ConvPatchParams::patch_columns"][::std::mem::offset_of!(ConvPatchParams, patch_columns) - 224usize];
    ["Offset of field: ConvPatchParams::reserved"][::std::mem::offset_of!(ConvPatchParams, reserved) - 228usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, Pod, Zeroable)]
pub struct ConvSplitParams {
    pub conv: ConvParams,
    pub parts: i32,
    pub reserved: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of ConvSplitParams"][::std::mem::size_of::<ConvSplitParams>() - 224usize];
    ["Alignment of ConvSplitParams"][::std::mem::align_of::<ConvSplitParams>() - 8usize];
    ["Offset of field: ConvSplitParams::conv"][::std::mem::offset_of!(ConvSplitParams, conv) - 0usize];
    ["Offset of field: ConvSplitParams::parts"][::std::mem::offset_of!(ConvSplitParams, parts) - 216usize];
    ["Offset of field: ConvSplitParams::reserved"][::std::mem::offset_of!(ConvSplitParams, reserved) - 220usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, Pod, Zeroable)]
pub struct ConvGroupedParams {
    pub conv: ConvParams,
    pub tile_h: i32,
    pub tile_w_log2: i32,
    pub patch_h: i32,
    pub patch_w: i32,
    pub pixel_bytes: i32,
    pub row_bytes: i32,
    pub block_groups: i32,
    pub group_quads: i32,
    pub row_slots: i32,
    pub steps: i32,
    pub n_tiles: i32,
    pub x_planes: i32,
    pub y_planes: i32,
    pub weight_bytes: i32,
    pub walk: i32,
    pub fresh_h: i32,
    pub fresh_bytes: i32,
    pub ring_bytes: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of ConvGroupedParams"][::std::mem::size_of::<ConvGroupedParams>() - 288usize];
    ["Alignment of ConvGroupedParams"][::std::mem::align_of::<ConvGroupedParams>() - 8usize];
    ["Offset of field: ConvGroupedParams::conv"][::std::mem::offset_of!(ConvGroupedParams, conv) - 0usize];
    ["Offset of field: ConvGroupedParams::tile_h"][::std::mem::offset_of!(ConvGroupedParams, tile_h) - 216usize];
    ["Offset of field: ConvGroupedParams::tile_w_log2"][::std::mem::offset_of!(ConvGroupedParams, tile_w_log2) - 220usize];
    ["Offset of field: ConvGroupedParams::patch_h"][::std::mem::offset_of!(ConvGroupedParams, patch_h) - 224usize];
    ["Offset of field: ConvGroupedParams::patch_w"][::std::mem::offset_of!(ConvGroupedParams, patch_w) - 228usize];
    ["Offset of field: ConvGroupedParams::pixel_bytes"][::std::mem::offset_of!(ConvGroupedParams, pixel_bytes) - 232usize];
    ["Offset of field: ConvGroupedParams::row_bytes"][::std::mem::offset_of!(ConvGroupedParams, row_bytes) - 236usize];
    ["Offset of field: ConvGroupedParams::block_groups"][::std::mem::offset_of!(ConvGroupedParams, block_groups) - 240usize];
    ["Offset of field: ConvGroupedParams::group_quads"][::std::mem::offset_of!(ConvGroupedParams, group_quads) - 244usize];
    ["Offset of field: ConvGroupedParams::row_slots"][::std::mem::offset_of!(ConvGroupedParams, row_slots) - 248usize];
    ["Offset of field: ConvGroupedParams::steps"][::std::mem::offset_of!(ConvGroupedParams, steps) - 252usize];
    ["Offset of field: ConvGroupedParams::n_tiles"][::std::mem::offset_of!(ConvGroupedParams, n_tiles) - 256usize];
    ["Offset of field: ConvGroupedParams::x_planes"][::std::mem::offset_of!(ConvGroupedParams, x_planes) - 260usize];
    ["Offset of field: ConvGroupedParams::y_planes"][::std::mem::offset_of!(ConvGroupedParams, y_planes) - 264usize];
    ["Offset of field: ConvGroupedParams::weight_bytes"][::std::mem::offset_of!(ConvGroupedParams, weight_bytes) - 268usize];
    ["Offset of field: ConvGroupedParams::walk"][::std::mem::offset_of!(ConvGroupedParams, walk) - 272usize];
    ["Offset of field: ConvGroupedParams::fresh_h"][::std::mem::offset_of!(ConvGroupedParams, fresh_h) - 276usize];
    ["Offset of field: ConvGroupedParams::fresh_bytes"][::std::mem::offset_of!(ConvGroupedParams, fresh_bytes) - 280usize];
    ["Offset of field: ConvGroupedParams::ring_bytes"][::std::mem::offset_of!(ConvGroupedParams, ring_bytes) - 284usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, Pod, Zeroable)]
pub struct ConvDepthwiseParams {
    pub conv: ConvParams,
    pub channels: i32,
    pub columns: i32,
    pub strips: i32,
    pub rows: i32,
    pub channel_tiles: i32,
    pub column_tiles: i32,
    pub patch_h: i32,
    pub patch_w: i32,
    pub band_words: i32,
    pub area_bytes: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of ConvDepthwiseParams"][::std::mem::size_of::<ConvDepthwiseParams>() - 256usize];
    ["Alignment of ConvDepthwiseParams"][::std::mem::align_of::<ConvDepthwiseParams>() - 8usize];
    ["Offset of field: ConvDepthwiseParams::conv"][::std::mem::offset_of!(ConvDepthwiseParams, conv) - 0usize];
    ["Offset of field: ConvDepthwiseParams::channels"][::std::mem::offset_of!(ConvDepthwiseParams, channels) - 216usize];
    ["Offset of field: ConvDepthwiseParams::columns"][::std::mem::offset_of!(ConvDepthwiseParams, columns) - 220usize];
    ["Offset of field: ConvDepthwiseParams::strips"][::std::mem::offset_of!(ConvDepthwiseParams, strips) - 224usize];
    ["Offset of field: ConvDepthwiseParams::rows"][::std::mem::offset_of!(ConvDepthwiseParams, rows) - 228usize];
    ["Offset of field: ConvDepthwiseParams::channel_tiles"][::std::mem::offset_of!(ConvDepthwiseParams, channel_tiles) - 232usize];
    ["Offset of field: ConvDepthwiseParams::column_tiles"][::std::mem::offset_of!(ConvDepthwiseParams, column_tiles) - 236usize];
    ["Offset of field: ConvDepthwiseParams::patch_h"][::std::mem::offset_of!(ConvDepthwiseParams, patch_h) - 240usize];
    ["Offset of field: ConvDepthwiseParams::patch_w"][::std::mem::offset_of!(ConvDepthwiseParams, patch_w) - 244usize];
    ["Offset of field: ConvDepthwiseParams::band_words"][::std::mem::offset_of!(ConvDepthwiseParams, band_words) - 248usize];
    ["Offset of field: ConvDepthwiseParams::area_bytes"][::std::mem::offset_of!(ConvDepthwiseParams, area_bytes) - 252usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, Pod, Zeroable)]
pub struct ConvTransposeParams {
    pub conv: ConvParams,
    pub period_h: i32,
    pub period_w: i32,
    pub reach_h: i32,
    pub reach_w: i32,
    pub inverse_h: i32,
    pub inverse_w: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of ConvTransposeParams"][::std::mem::size_of::<ConvTransposeParams>() - 240usize];
    ["Alignment of ConvTransposeParams"][::std::mem::align_of::<ConvTransposeParams>() - 8usize];
    ["Offset of field: ConvTransposeParams::conv"][::std::mem::offset_of!(ConvTransposeParams, conv) - 0usize];
    ["Offset of field: ConvTransposeParams::period_h"][::std::mem::offset_of!(ConvTransposeParams, period_h) - 216usize];
    ["Offset of field: ConvTransposeParams::period_w"][::std::mem::offset_of!(ConvTransposeParams, period_w) - 220usize];
    ["Offset of field: ConvTransposeParams::reach_h"][::std::mem::offset_of!(ConvTransposeParams, reach_h) - 224usize];
    ["Offset of field: ConvTransposeParams::reach_w"][::std::mem::offset_of!(ConvTransposeParams, reach_w) - 228usize];
    ["Offset of field: ConvTransposeParams::inverse_h"][::std::mem::offset_of!(ConvTransposeParams, inverse_h) - 232usize];
    ["Offset of field: ConvTransposeParams::inverse_w"][::std::mem::offset_of!(ConvTransposeParams, inverse_w) - 236usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, Pod, Zeroable)]
pub struct ConvSeparableParams {
    pub conv: ConvParams,
    pub depthwise: ConvParams,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of ConvSeparableParams"][::std::mem::size_of::<ConvSeparableParams>() - 432usize];
    ["Alignment of ConvSeparableParams"][::std::mem::align_of::<ConvSeparableParams>() - 8usize];
    ["Offset of field: ConvSeparableParams::conv"][::std::mem::offset_of!(ConvSeparableParams, conv) - 0usize];
    ["Offset of field: ConvSeparableParams::depthwise"][::std::mem::offset_of!(ConvSeparableParams, depthwise) - 216usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, Pod, Zeroable)]
pub struct SpatialSeparableParams {
    pub conv: ConvParams,
    pub column: ConvParams,
    pub channels: i32,
    pub tile_h: i32,
    pub tile_w: i32,
    pub mid_w: i32,
    pub channel_tiles: i32,
    pub column_tiles: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of SpatialSeparableParams"][::std::mem::size_of::<SpatialSeparableParams>() - 456usize];
    ["Alignment of SpatialSeparableParams"][::std::mem::align_of::<SpatialSeparableParams>() - 8usize];
    ["Offset of field: SpatialSeparableParams::conv"][::std::mem::offset_of!(SpatialSeparableParams, conv) - 0usize];
    ["Offset of field: SpatialSeparableParams::column"][::std::mem::offset_of!(SpatialSeparableParams, column) - 216usize];
    ["Offset of field: SpatialSeparableParams::channels"][::std::mem::offset_of!(SpatialSeparableParams, channels) - 432usize];
    ["Offset of field: SpatialSeparableParams::tile_h"][::std::mem::offset_of!(SpatialSeparableParams, tile_h) - 436usize];
    ["Offset of field: SpatialSeparableParams::tile_w"][::std::mem::offset_of!(SpatialSeparableParams, tile_w) - 440usize];
    ["Offset of field: SpatialSeparableParams::mid_w"][::std::mem::offset_of!(SpatialSeparableParams, mid_w) - 444usize];
    ["Offset of field: SpatialSeparableParams::channel_tiles"][::std::mem::offset_of!(SpatialSeparableParams, channel_tiles) - 448usize];
    ["Offset of field: SpatialSeparableParams::column_tiles"][::std::mem::offset_of!(SpatialSeparableParams, column_tiles) - 452usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, Pod, Zeroable)]
pub struct DeformConvParams {
    pub conv: ConvParams,
    pub offset: Tensor4,
    pub mask: Tensor4,
    pub offset_groups: i32,
    pub offset_in_f32: i32,
    pub mask_in_f32: i32,
    pub reserved: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of DeformConvParams"][::std::mem::size_of::<DeformConvParams>() - 296usize];
    ["Alignment of DeformConvParams"][::std::mem::align_of::<DeformConvParams>() - 8usize];
    ["Offset of field: DeformConvParams::conv"][::std::mem::offset_of!(DeformConvParams, conv) - 0usize];
    ["Offset of field: DeformConvParams::offset"][::std::mem::offset_of!(DeformConvParams, offset) - 216usize];
    ["Offset of field: DeformConvParams::mask"][::std::mem::offset_of!(DeformConvParams, mask) - 248usize];
    ["Offset of field: DeformConvParams::offset_groups"][::std::mem::offset_of!(DeformConvParams, offset_groups) - 280usize];
    ["Offset of field: DeformConvParams::offset_in_f32"][::std::mem::offset_of!(DeformConvParams, offset_in_f32) - 284usize];
    ["Offset of field: DeformConvParams::mask_in_f32"][::std::mem::offset_of!(DeformConvParams, mask_in_f32) - 288usize];
    ["Offset of field: DeformConvParams::reserved"][::std::mem::offset_of!(DeformConvParams, reserved) - 292usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, Pod, Zeroable)]
pub struct RoiParams {
    pub x: Tensor4,
    pub y: Tensor4,
    pub offset: Tensor4,
    pub mask: Tensor4,
    pub rois: u64,
    pub n: i32,
    pub h: i32,
    pub w: i32,
    pub pooled_h: i32,
    pub pooled_w: i32,
    pub offset_groups: i32,
    pub group_channels: i32,
    pub slices: i32,
    pub units: u32,
    pub spatial_scale: f32,
    pub gamma: f32,
    pub sampling_ratio: i32,
    pub aligned: i32,
    pub position_sensitive: i32,
    pub offset_in_f32: i32,
    pub mask_in_f32: i32,
    pub vector_stores: i32,
    pub reserved: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of RoiParams"][::std::mem::size_of::<RoiParams>() - 208usize];
    ["Alignment of RoiParams"][::std::mem::align_of::<RoiParams>() - 8usize];
    ["Offset of field: RoiParams::x"][::std::mem::offset_of!(RoiParams, x) - 0usize];
    ["Offset of field: RoiParams::y"][::std::mem::offset_of!(RoiParams, y) - 32usize];
    ["Offset of field: RoiParams::offset"][::std::mem::offset_of!(RoiParams, offset) - 64usize];
    ["Offset of field: RoiParams::mask"][::std::mem::offset_of!(RoiParams, mask) - 96usize];
    ["Offset of field: RoiParams::rois"][::std::mem::offset_of!(RoiParams, rois) - 128usize];
    ["Offset of field: RoiParams::n"][::std::mem::offset_of!(RoiParams, n) - 136usize];
    ["Offset of field: RoiParams::h"][::std::mem::offset_of!(RoiParams, h) - 140usize];
    ["Offset of field: RoiParams::w"][::std::mem::offset_of!(RoiParams, w) - 144usize];
    ["Offset of field: RoiParams::pooled_h"][::std::mem::offset_of!(RoiParams, pooled_h) - 148usize];
    ["Offset of field: RoiParams::pooled_w"][::std::mem::offset_of!(RoiParams, pooled_w) - 152usize];
    ["Offset of field: RoiParams::offset_groups"][::std::mem::offset_of!(RoiParams, offset_groups) - 156usize];
    ["Offset of field: RoiParams::group_channels"][::std::mem::offset_of!(RoiParams, group_channels) - 160usize];
    ["Offset of field: RoiParams::slices"][::std::mem::offset_of!(RoiParams, slices) - 164usize];
    ["Offset of field: RoiParams::units"][::std::mem::offset_of!(RoiParams, units) - 168usize];
    ["Offset of field: RoiParams::spatial_scale"][::std::mem::offset_of!(RoiParams, spatial_scale) - 172usize];
    ["Offset of field: RoiParams::gamma"][::std::mem::offset_of!(RoiParams, gamma) - 176usize];
    ["Offset of field: RoiParams::sampling_ratio"][::std::mem::offset_of!(RoiParams, sampling_ratio) - 180usize];
    ["Offset of field: RoiParams::aligned"][::std::mem::offset_of!(RoiParams, aligned) - 184usize];
    ["Offset of field: RoiParams::position_sensitive"][::std::mem::offset_of!(RoiParams, position_sensitive) - 188usize];
    ["Offset of field: RoiParams::offset_in_f32"][::std::mem::offset_of!(RoiParams, offset_in_f32) - 192usize];
    ["Offset of field: RoiParams::mask_in_f32"][::std::mem::offset_of!(RoiParams, mask_in_f32) - 196usize];
    ["Offset of field: RoiParams::vector_stores"][::std::mem::offset_of!(RoiParams, vector_stores) - 200usize];
    ["Offset of field: RoiParams::reserved"][::std::mem::offset_of!(RoiParams, reserved) - 204usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, Pod, Zeroable)]
pub struct TransposeParams {
    pub x: u64,
    pub y: u64,
    pub x_batch_stride: i64,
    pub y_batch_stride: i64,
    pub x_row_stride: i64,
    pub y_row_stride: i64,
    pub batch: i32,
    pub rows: i32,
    pub columns: i32,
    pub reserved: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of TransposeParams"][::std::mem::size_of::<TransposeParams>() - 64usize];
    ["Alignment of TransposeParams"][::std::mem::align_of::<TransposeParams>() - 8usize];
    ["Offset of field: TransposeParams::x"][::std::mem::offset_of!(TransposeParams, x) - 0usize];
    ["Offset of field: TransposeParams::y"][::std::mem::offset_of!(TransposeParams, y) - 8usize];
    ["Offset of field: TransposeParams::x_batch_stride"][::std::mem::offset_of!(TransposeParams, x_batch_stride) - 16usize];
    ["Offset of field: TransposeParams::y_batch_stride"][::std::mem::offset_of!(TransposeParams, y_batch_stride) - 24usize];
    ["Offset of field: TransposeParams::x_row_stride"][::std::mem::offset_of!(TransposeParams, x_row_stride) - 32usize];
    ["Offset of field: TransposeParams::y_row_stride"][::std::mem::offset_of!(TransposeParams, y_row_stride) - 40usize];
    ["Offset of field: TransposeParams::batch"][::std::mem::offset_of!(TransposeParams, batch) - 48usize];
    ["Offset of field: TransposeParams::rows"][::std::mem::offset_of!(TransposeParams, rows) - 52usize];
    ["Offset of field: TransposeParams::columns"][::std::mem::offset_of!(TransposeParams, columns) - 56usize];
    ["Offset of field: TransposeParams::reserved"][::std::mem::offset_of!(TransposeParams, reserved) - 60usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, Pod, Zeroable)]
pub struct CastParams {
    pub x: u64,
    pub y: u64,
    pub x_batch_stride: i64,
    pub y_batch_stride: i64,
    pub length: i64,
    pub batch: i64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of CastParams"][::std::mem::size_of::<CastParams>() - 48usize];
    ["Alignment of CastParams"][::std::mem::align_of::<CastParams>() - 8usize];
    ["Offset of field: CastParams::x"][::std::mem::offset_of!(CastParams, x) - 0usize];
    ["Offset of field: CastParams::y"][::std::mem::offset_of!(CastParams, y) - 8usize];
    ["Offset of field: CastParams::x_batch_stride"][::std::mem::offset_of!(CastParams, x_batch_stride) - 16usize];
    ["Offset of field: CastParams::y_batch_stride"][::std::mem::offset_of!(CastParams, y_batch_stride) - 24usize];
    ["Offset of field: CastParams::length"][::std::mem::offset_of!(CastParams, length) - 32usize];
    ["Offset of field: CastParams::batch"][::std::mem::offset_of!(CastParams, batch) - 40usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, Pod, Zeroable)]
pub struct CopyAxis {
    pub extent: i32,
    pub x_stride: i32,
    pub y_stride: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of CopyAxis"][::std::mem::size_of::<CopyAxis>() - 12usize];
    ["Alignment of CopyAxis"][::std::mem::align_of::<CopyAxis>() - 4usize];
    ["Offset of field: CopyAxis::extent"][::std::mem::offset_of!(CopyAxis, extent) - 0usize];
    ["Offset of field: CopyAxis::x_stride"][::std::mem::offset_of!(CopyAxis, x_stride) - 4usize];
    ["Offset of field: CopyAxis::y_stride"][::std::mem::offset_of!(CopyAxis, y_stride) - 8usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, Pod, Zeroable)]
pub struct PixelShuffleParams {
    pub x: u64,
    pub y: u64,
    pub x_batch_stride: i64,
    pub y_batch_stride: i64,
    pub a: [CopyAxis; 3usize],
    pub b: [CopyAxis; 3usize],
    pub outer: [CopyAxis; 3usize],
    pub batch: i32,
    pub tile_a: i32,
    pub tile_b: i32,
    pub lanes_a: i32,
    pub lanes_b: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of PixelShuffleParams"][::std::mem::size_of::<PixelShuffleParams>() - 160usize];
    ["Alignment of PixelShuffleParams"][::std::mem::align_of::<PixelShuffleParams>() - 8usize];
    ["Offset of field: PixelShuffleParams::x"][::std::mem::offset_of!(PixelShuffleParams, x) - 0usize];
    ["Offset of field: PixelShuffleParams::y"][::std::mem::offset_of!(PixelShuffleParams, y) - 8usize];
    ["Offset of field: PixelShuffleParams::x_batch_stride"][::std::mem::offset_of!(PixelShuffleParams, x_batch_stride) - 16usize];
    ["Offset of field: PixelShuffleParams::y_batch_stride"][::std::mem::offset_of!(PixelShuffleParams, y_batch_stride) - 24usize];
    ["Offset of field: PixelShuffleParams::a"][::std::mem::offset_of!(PixelShuffleParams, a) - 32usize];
    ["Offset of field: PixelShuffleParams::b"][::std::mem::offset_of!(PixelShuffleParams, b) - 68usize];
    ["Offset of field: PixelShuffleParams::outer"][::std::mem::offset_of!(PixelShuffleParams, outer) - 104usize];
    ["Offset of field: PixelShuffleParams::batch"][::std::mem::offset_of!(PixelShuffleParams, batch) - 140usize];
    ["Offset of field: PixelShuffleParams::tile_a"][::std::mem::offset_of!(PixelShuffleParams, tile_a) - 144usize];
    ["Offset of field: PixelShuffleParams::tile_b"][::std::mem::offset_of!(PixelShuffleParams, tile_b) - 148usize];
    ["Offset of field: PixelShuffleParams::lanes_a"][::std::mem::offset_of!(PixelShuffleParams, lanes_a) - 152usize];
    ["Offset of field: PixelShuffleParams::lanes_b"][::std::mem::offset_of!(PixelShuffleParams, lanes_b) - 156usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, Pod, Zeroable)]
pub struct UpsampleParams {
    pub x: Tensor4,
    pub y: Tensor4,
    pub n: i32,
    pub c: i32,
    pub h: i32,
    pub w: i32,
    pub h_out: i32,
    pub w_out: i32,
    pub scale_h: f32,
    pub scale_w: f32,
    pub align_corners: i32,
    pub reserved: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of UpsampleParams"][::std::mem::size_of::<UpsampleParams>() - 104usize];
    ["Alignment of UpsampleParams"][::std::mem::align_of::<UpsampleParams>() - 8usize];
    ["Offset of field: UpsampleParams::x"][::std::mem::offset_of!(UpsampleParams, x) - 0usize];
    ["Offset of field: UpsampleParams::y"][::std::mem::offset_of!(UpsampleParams, y) - 32usize];
    ["Offset of field: UpsampleParams::n"][::std::mem::offset_of!(UpsampleParams, n) - 64usize];
    ["Offset of field: UpsampleParams::c"][::std::mem::offset_of!(UpsampleParams, c) - 68usize];
    ["Offset of field: UpsampleParams::h"][::std::mem::offset_of!(UpsampleParams, h) - 72usize];
    ["Offset of field: UpsampleParams::w"][::std::mem::offset_of!(UpsampleParams, w) - 76usize];
    ["Offset of field: UpsampleParams::h_out"][::std::mem::offset_of!(UpsampleParams, h_out) - 80usize];
    ["Offset of field: UpsampleParams::w_out"][::std::mem::offset_of!(UpsampleParams, w_out) - 84usize];
    ["Offset of field: UpsampleParams::scale_h"][::std::mem::offset_of!(UpsampleParams, scale_h) - 88usize];
    ["Offset of field: UpsampleParams::scale_w"][::std::mem::offset_of!(UpsampleParams, scale_w) - 92usize];
    ["Offset of field: UpsampleParams::align_corners"][::std::mem::offset_of!(UpsampleParams, align_corners) - 96usize];
    ["Offset of field: UpsampleParams::reserved"][::std::mem::offset_of!(UpsampleParams, reserved) - 100usize];
};
pub const POOL_WIDE_ROWS: _bindgen_ty_2 = 2;
pub const POOL_NARROW_ROWS: _bindgen_ty_2 = 4;
pub const POOL_BLOCK_THREADS: _bindgen_ty_2 = 128;
pub type _bindgen_ty_2 = ::std::os::raw::c_uint;
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, Pod, Zeroable)]
pub struct PoolAxis {
    pub kernel: i32,
    pub stride: i32,
    pub padding: i32,
    pub dilation: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of PoolAxis"][::std::mem::size_of::<PoolAxis>() - 16usize];
    ["Alignment of PoolAxis"][::std::mem::align_of::<PoolAxis>() - 4usize];
    ["Offset of field: PoolAxis::kernel"][::std::mem::offset_of!(PoolAxis, kernel) - 0usize];
    ["Offset of field: PoolAxis::stride"][::std::mem::offset_of!(PoolAxis, stride) - 4usize];
    ["Offset of field: PoolAxis::padding"][::std::mem::offset_of!(PoolAxis, padding) - 8usize];
    ["Offset of field: PoolAxis::dilation"][::std::mem::offset_of!(PoolAxis, dilation) - 12usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, Pod, Zeroable)]
pub struct PoolParams {
    pub x: Tensor4,
    pub y: Tensor4,
    pub n: i32,
    pub c: i32,
    pub h: i32,
    pub w: i32,
    pub h_out: i32,
    pub w_out: i32,
    pub rows: PoolAxis,
    pub columns: PoolAxis,
    pub max: i32,
    pub divisor: i32,
    pub count_padding: i32,
    pub channels_inner: i32,
    pub lanes: i32,
    pub reserved: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of PoolParams"][::std::mem::size_of::<PoolParams>() - 144usize];
    ["Alignment of PoolParams"][::std::mem::align_of::<PoolParams>() - 8usize];
    ["Offset of field: PoolParams::x"][::std::mem::offset_of!(PoolParams, x) - 0usize];
    ["Offset of field: PoolParams::y"][::std::mem::offset_of!(PoolParams, y) - 32usize];
    ["Offset of field: PoolParams::n"][::std::mem::offset_of!(PoolParams, n) - 64usize];
    ["Offset of field: PoolParams::c"][::std::mem::offset_of!(PoolParams, c) - 68usize];
    ["Offset of field: PoolParams::h"][::std::mem::offset_of!(PoolParams, h) - 72usize];
    ["Offset of field: PoolParams::w"][::std::mem::offset_of!(PoolParams, w) - 76usize];
    ["Offset of field: PoolParams::h_out"][::std::mem::offset_of!(PoolParams, h_out) - 80usize];
    ["Offset of field: PoolParams::w_out"][::std::mem::offset_of!(PoolParams, w_out) - 84usize];
    ["Offset of field: PoolParams::rows"][::std::mem::offset_of!(PoolParams, rows) - 88usize];
    ["Offset of field: PoolParams::columns"][::std::mem::offset_of!(PoolParams, columns) - 104usize];
    ["Offset of field: PoolParams::max"][::std::mem::offset_of!(PoolParams, max) - 120usize];
    ["Offset of field: PoolParams::divisor"][::std::mem::offset_of!(PoolParams, divisor) - 124usize];
    ["Offset of field: PoolParams::count_padding"][::std::mem::offset_of!(PoolParams, count_padding) - 128usize];
    ["Offset of field: PoolParams::channels_inner"][::std::mem::offset_of!(PoolParams, channels_inner) - 132usize];
    ["Offset of field: PoolParams::lanes"][::std::mem::offset_of!(PoolParams, lanes) - 136usize];
    ["Offset of field: PoolParams::reserved"][::std::mem::offset_of!(PoolParams, reserved) - 140usize];
};
