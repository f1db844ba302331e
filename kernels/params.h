// Parameter structs of the kernels, passed by value. Mirrored to Rust by bindgen (src/kernels/params.rs: feature
// `regenerate-bindings`). Fixed-width integers and 64-bit device addresses only; strides are in elements.
#pragma once
#include <stdint.h>

// How far a thread may reach in a tensor: 64 bits per image, 32 bits inside one.
typedef struct Tensor4 {
    uint64_t address;
    int64_t stride_n;
    int32_t stride_c, stride_h, stride_w;
    int32_t reserved;
} Tensor4;

typedef enum ActivationCode {
    ACTIVATION_NONE = 0,
    ACTIVATION_RELU = 1,
    ACTIVATION_RELU6 = 2,
    ACTIVATION_LEAKY_RELU = 3,
    ACTIVATION_PRELU = 4,
    ACTIVATION_SIGMOID = 5,
    ACTIVATION_TANH = 6,
    ACTIVATION_SILU = 7,
    ACTIVATION_GELU = 8,
    ACTIVATION_HARDSWISH = 9
} ActivationCode;

// y = activation(z + bias[c] + residual): the tail of every convolution. An address of 0 means absent.
typedef struct EpilogueParams {
    uint64_t bias;      // f32 [c_out]
    uint64_t slope;     // f32 [c_out], prelu only
    Tensor4 residual;   // T, shaped as the output
    int32_t activation; // ActivationCode
    float alpha;        // leaky_relu only
    // 1 where the residual has the output's alignment: channels_last kernels read it in vectors if its channels are neighbours
    int32_t vector_residual;
    int32_t reserved;
} EpilogueParams;

typedef struct ConvGeometryParams {
    int32_t n, c_in, h, w;
    int32_t c_out, h_out, w_out;
    int32_t kernel_h, kernel_w;
    int32_t stride_h, stride_w;
    int32_t pad_top, pad_left;
    int32_t dilation_h, dilation_w;
    int32_t groups;
} ConvGeometryParams;

// Where the store puts the channels of a sub-pixel convolution (device/output.cuh). All 0 where y has the convolution's own shape.
typedef struct SubPixelParams {
    int32_t run;                // channels that are neighbours in y: of one sub-pixel
    int32_t factor;             // r: each pixel becomes r x r of them
    int32_t stride_h, stride_w; // of y itself; `ConvParams.y` has the strides from one r x r block to the next
} SubPixelParams;

// What every kernel of Conv2d takes. Its weight is packed as its family wants it.
typedef struct ConvParams {
    Tensor4 x;
    Tensor4 y;
    uint64_t weight; // T
    ConvGeometryParams geometry;
    EpilogueParams epilogue;
    SubPixelParams sub_pixel;
} ConvParams;

// conv_gemm.cu, patches: the rectangle of output pixels of a block.
typedef struct ConvPatchParams {
    ConvParams conv;
    int32_t tile_w_log2;            // its width; its height is what the tile leaves
    int32_t patch_h, patch_columns; // the input that it sees: rows, and columns for each of stride_w phases
    int32_t reserved;
} ConvPatchParams;
// split_sum.cu: x is f32 [parts][n][h][w][channel], the parts of y.
typedef struct ConvSplitParams {
    ConvParams conv;
    int32_t parts;
    int32_t reserved;
} ConvSplitParams;

// conv_grouped.cu: how a block works.
typedef struct ConvGroupedParams {
    ConvParams conv;
    int32_t tile_h, tile_w_log2;     // output pixels of a block at a time
    int32_t patch_h, patch_w;        // input pixels that they see, taps between the dilated ones included
    int32_t pixel_bytes, row_bytes;  // distances in the patch in shared memory
    int32_t block_groups;            // groups of a block
    int32_t group_quads;             // quads of 4 input channels of a group, the last one padded with zeros
    int32_t row_slots;               // slots for the quads of a kernel row, some of them padding
    int32_t steps;                   // of 4 slots: the k16 of one MMA
    int32_t n_tiles;                 // of 8 output channels of a group, the last one padded with zeros
    int32_t x_planes, y_planes;      // 1 where x, where y is contiguous
    int32_t weight_bytes;            // of the weights of a block's groups in shared memory; 0 where they are read from L1
    int32_t walk;                    // tiles of a block, one below the other
    int32_t fresh_h, fresh_bytes;    // rows of a tile's input that the tile above does not see
    int32_t ring_bytes;              // of the input's ring in shared memory: a tile's rows, and the fresh ones of the next tile
} ConvGroupedParams;

// conv_depthwise.cu: how a block works. Its threads are `channels` x `columns` x `strips`; each computes a strip of output
// pixels, as many columns wide as its kernel says and `rows` high.
typedef struct ConvDepthwiseParams {
    ConvParams conv;
    int32_t channels; // vectors of output channels (channels_last) or output channels (contiguous)
    int32_t columns, strips, rows;
    int32_t channel_tiles, column_tiles; // blocks of an image along its channels and along a row
    int32_t patch_h, patch_w;            // of the input in shared memory: contiguous: a channel's pixels; channels_last: rows, elements of one
} ConvDepthwiseParams;

// conv_transpose.cu. The geometry is that of the layer: x is the small tensor, stride and dilation those of the outputs, padding
// what is cut off.
typedef struct ConvTransposeParams {
    ConvParams conv;
    int32_t period_h, period_w;   // stride / gcd(stride, dilation): the distance of the taps that an output sees
    int32_t reach_h, reach_w;     // dilation / gcd(stride, dilation): the distance of their inputs
    int32_t inverse_h, inverse_w; // of reach modulo period, below 2^16 like it
} ConvTransposeParams;

// conv_separable.cu: a depthwise convolution and the pointwise one that reads its result.
typedef struct ConvSeparableParams {
    ConvParams conv;      // the pointwise one, but with the depthwise one's x
    ConvParams depthwise; // its y is nowhere; bias, slope and weight [tap][channel] are padded to whole steps of 64 bytes
} ConvSeparableParams;

// spatial_separable.cu: a vertical and a horizontal convolution of each channel, and how a block works. spatial_gemm.cu: of all.
typedef struct SpatialSeparableParams {
    ConvParams conv;                     // the horizontal one, but with the vertical one's x
    ConvParams column;                   // the vertical one; its y is nowhere
    int32_t channels;                    // of a block: vectors of them (channels_last) or planes (contiguous)
    int32_t tile_h, tile_w;              // output pixels of a block
    int32_t mid_w;                       // columns of the middle in shared memory
    int32_t channel_tiles, column_tiles; // blocks of an image along its channels and along a row
} SpatialSeparableParams;

// deform_conv.cu: where each tap of each output pixel reads, and with what weight.
typedef struct DeformConvParams {
    ConvParams conv;
    Tensor4 offset; // [N, 2 * offset_groups * taps, H_out, W_out]: (dy, dx) of each tap
    Tensor4 mask;   // [N, offset_groups * taps, H_out, W_out]; an address of 0 means absent
    int32_t offset_groups;
    int32_t offset_in_f32, mask_in_f32; // 1 where its elements are f32 whatever T is
    int32_t reserved;
} DeformConvParams;

// roi_pool.cu: K regions of interest of x, each pooled to pooled_h x pooled_w. The output channels are `classes` times
// `class_channels`; a warp or a thread takes one of `slices` of those of a class.
typedef struct RoiParams {
    Tensor4 x;
    Tensor4 y;      // [K, C_out, pooled_h, pooled_w]
    Tensor4 offset; // [K, 2 * classes, pooled_h, pooled_w]: (x, y) of each class; an address of 0 means absent
    Tensor4 mask;   // [K, classes, pooled_h, pooled_w]; an address of 0 means absent
    uint64_t rois;  // f32 [K][5]: image, x1, y1, x2, y2
    int32_t n, h, w; // of x
    int32_t pooled_h, pooled_w;
    int32_t classes, class_channels, slices;
    uint32_t units; // K * classes * slices * pooled_h * pooled_w
    float spatial_scale, gamma;
    int32_t sampling_ratio; // of align; adaptive if not above 0
    int32_t aligned, position_sensitive;
    int32_t offset_in_f32, mask_in_f32; // 1 where its elements are f32 whatever T is
    int32_t vector_stores;              // 1 where a vector of channels of y may be written in one access
    int32_t reserved;
} RoiParams;

// rearrange.cu: a batch of matrices [rows][columns] -> [columns][rows], elements moved bit by bit
typedef struct TransposeParams {
    uint64_t x, y;
    int64_t x_batch_stride, y_batch_stride;
    int64_t x_row_stride, y_row_stride;
    int32_t batch, rows, columns;
    int32_t reserved;
} TransposeParams;

// rearrange.cu: `batch` runs of `length` elements, converted from one dtype to another
typedef struct CastParams {
    uint64_t x, y;
    int64_t x_batch_stride, y_batch_stride;
    int64_t length;
    int64_t batch;
} CastParams;

// An axis of a copy: strides are in elements, of what is read and of what is written.
typedef struct CopyAxis {
    int32_t extent, x_stride, y_stride;
} CopyAxis;

// rearrange.cu: pixels into channels and back. Five axes (channel, row and column in a block, row and column of the block) in
// three groups, the innermost axis of each last; those that a group does not need have extent 1. What a group is for depends
// on the kernel.
typedef struct PixelShuffleParams {
    uint64_t x, y;
    int64_t x_batch_stride, y_batch_stride;
    CopyAxis a[3], b[3], outer[3];
    int32_t batch;
    int32_t tile_a, tile_b;   // pixel_tile: positions of a block along a and along b
    int32_t lanes_a, lanes_b; // log2 of the threads along the one that is neighbours in x, in y
} PixelShuffleParams;

// upsample.cu
typedef struct UpsampleParams {
    Tensor4 x, y;
    int32_t n, c, h, w, h_out, w_out;
    float scale_h, scale_w; // input pixels for each output pixel
    int32_t align_corners;
    int32_t reserved;
} UpsampleParams;

#ifdef __cplusplus
static_assert(sizeof(Tensor4) == 32, "Tensor4 has no hidden padding");
static_assert(sizeof(EpilogueParams) == 64, "EpilogueParams has no hidden padding");
static_assert(sizeof(ConvGeometryParams) == 64, "ConvGeometryParams has no hidden padding");
static_assert(sizeof(ConvParams) == 216, "ConvParams has no hidden padding");
static_assert(sizeof(ConvPatchParams) == sizeof(ConvParams) + 16, "ConvPatchParams has no hidden padding");
static_assert(sizeof(ConvSplitParams) == sizeof(ConvParams) + 8, "ConvSplitParams has no hidden padding");
static_assert(sizeof(ConvGroupedParams) == sizeof(ConvParams) + 72, "ConvGroupedParams has no hidden padding");
static_assert(sizeof(ConvDepthwiseParams) == sizeof(ConvParams) + 32, "ConvDepthwiseParams has no hidden padding");
static_assert(sizeof(ConvTransposeParams) == sizeof(ConvParams) + 24, "ConvTransposeParams has no hidden padding");
static_assert(sizeof(ConvSeparableParams) == 2 * sizeof(ConvParams), "ConvSeparableParams has no hidden padding");
static_assert(sizeof(SpatialSeparableParams) == 2 * sizeof(ConvParams) + 24, "SpatialSeparableParams has no hidden padding");
static_assert(sizeof(DeformConvParams) == sizeof(ConvParams) + 80, "DeformConvParams has no hidden padding");
static_assert(sizeof(RoiParams) == 208, "RoiParams has no hidden padding");
static_assert(sizeof(TransposeParams) == 64, "TransposeParams has no hidden padding");
static_assert(sizeof(CastParams) == 48, "CastParams has no hidden padding");
static_assert(sizeof(PixelShuffleParams) == 160, "PixelShuffleParams has no hidden padding");
static_assert(sizeof(UpsampleParams) == 104, "UpsampleParams has no hidden padding");
#endif
