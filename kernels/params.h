// What the kernels and the host code share: constants, and the parameter structs that kernels take by value. bindgen
// mirrors this file to src/device/params.rs (scripts/regenerate-bindings.sh), so that neither side keeps a copy of its
// own. Structs have fixed-width integers and 64-bit device addresses only; strides are in elements.
#pragma once
#include <stdint.h>

// Sizes that a kernel is compiled with and that its host code counts on.
enum {
    // implicit GEMMs (device/gemm_tile.cuh)
    GEMM_STAGES = 4,       // of the pipeline from global to shared memory
    GEMM_CHUNK_BYTES = 16, // of a copy
    GEMM_ROW_BYTES = 64,   // of k that a step multiplies

    // deform_conv.cu: the table of samples
    DEFORM_SAMPLE_BYTES = 24,   // of a pixel and a segment: four weights, an offset, a mask
    DEFORM_SEGMENTS_OF_64 = 12, // segments of k that the table holds for a tile of 64 pixels
    DEFORM_SEGMENTS = 9,        // the same for a larger tile

    // depthwise_unrolled.cu, and the contiguous kernel of depthwise_any_size.cu
    DEPTHWISE_STRIP = 4,      // output columns of a thread; for any size also its output rows
    DEPTHWISE_WIDE_STRIP = 2, // output columns of a thread that has 4 or more channels

    // depthwise_any_size.cu, channels_last
    DEPTHWISE_ANY_ROWS = 2,       // output rows of a thread
    DEPTHWISE_ANY_COLUMNS = 8,    // output columns of a thread
    DEPTHWISE_ANY_TAPS = 4,       // taps whose weights a thread loads at once
    DEPTHWISE_ANY_SUM_PITCH = 17, // pixels from the sums of one strip to those of the next, in shared memory

    // depthwise_toeplitz.cu
    TOEPLITZ_COLUMNS = 32, // output columns of a block
    TOEPLITZ_BLOCK = 8,    // output columns of an MMA
    TOEPLITZ_STEP = 16,    // the k of an MMA: input columns
    TOEPLITZ_MOVED_BYTES =
        128,            // by which the areas of a block's channels are moved in all, to spread them over the banks
    TOEPLITZ_WARPS = 4, // of a block; each has a word behind the bands

    // conv_grouped.cu
    GROUPED_WARPS = 8,             // of a block
    GROUPED_WARP_PIXELS = 64,      // output pixels that a warp sums at once
    GROUPED_FRAGMENT_BYTES = 256,  // the weights of 8 output channels for one step
    GROUPED_STAGING_WORDS_2 = 384, // the staging area of a warp of 2 x 8 output channels
    GROUPED_STAGING_WORDS_3 = 480, // of 3 x 8
    GROUPED_STAGING_WORDS_4 = 640, // of 4 x 8

    // spatially separable convolutions
    SPATIAL_OUTPUTS = 4,           // spatial_separable.cu: outputs of a thread along the axis of a stage
    SPATIAL_GEMM_ZERO_BYTES = 128, // spatial_gemm.cu: zeros in front of the middle

    // roi_pool.cu
    ROI_PLANE_CHANNELS = 8, // channels of a thread of roi_pool_planes
    ROI_TABLE_BYTES = 512,  // the table of samples of a warp of roi_pool_channels_last

    // rearrange.cu
    TRANSPOSE_TILE = 32,         // rows and columns of the tile in shared memory
    TRANSPOSE_PADDING_BYTES = 4, // behind each row of it
};

// A tensor. Within an image 32 bits suffice for an offset; images are 64 bits apart.
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
    uint64_t bias;           // f32 [c_out]
    uint64_t slope;          // f32 [c_out], prelu only
    Tensor4 residual;        // T, shaped as the output
    int32_t activation;      // ActivationCode
    float alpha;             // leaky_relu only
    int32_t vector_residual; // 1 where the residual is aligned as the output is: neighbours may be read in one access
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

// Where the channels of a sub-pixel convolution are stored (device/output.cuh). All 0 where y has the convolution's own
// shape.
typedef struct SubPixelParams {
    int32_t run;                // neighbouring channels of one sub-pixel
    int32_t factor;             // r: each pixel becomes r x r pixels
    int32_t stride_h, stride_w; // of y itself; those of `ConvParams.y` lead from one r x r block to the next
} SubPixelParams;

// What every kernel of Conv2d takes. The weight is packed in the order that the kernel's family needs.
typedef struct ConvParams {
    Tensor4 x;
    Tensor4 y;
    uint64_t weight; // T
    ConvGeometryParams geometry;
    EpilogueParams epilogue;
    SubPixelParams sub_pixel;
} ConvParams;

// conv_gemm.cu, patches: the rectangle of output pixels of a block, and the input that it sees.
typedef struct ConvPatchParams {
    ConvParams conv;
    int32_t tile_w_log2;            // of the rectangle's width; its height follows from the pixels of a tile
    int32_t patch_h, patch_columns; // input rows, and input columns of each of the stride_w phases
    int32_t reserved;
} ConvPatchParams;

// split_sum.cu: x is f32 [parts][n][h][w][channel], the parts whose sum is y.
typedef struct ConvSplitParams {
    ConvParams conv;
    int32_t parts;
    int32_t reserved;
} ConvSplitParams;

// conv_grouped.cu: how a block works.
typedef struct ConvGroupedParams {
    ConvParams conv;
    int32_t tile_h, tile_w_log2;    // output pixels of a tile
    int32_t patch_h, patch_w;       // input pixels that a tile sees, those between dilated taps included
    int32_t pixel_bytes, row_bytes; // from one pixel or row of the patch to the next, in shared memory
    int32_t block_groups;           // groups of a block
    int32_t group_quads;            // quads of 4 input channels in a group; zeros fill up the last one
    int32_t row_slots;              // slots for the quads of a row of the filter, padding included
    int32_t steps;                  // of 4 slots each: the k16 of one MMA
    int32_t n_tiles;                // 8 output channels each, in a group; zeros fill up the last one
    int32_t x_planes, y_planes;     // 1 where x, where y is contiguous
    int32_t weight_bytes;           // of the block's weights in shared memory; 0 where they are read from L1
    int32_t walk;                   // tiles of a block, one below the other
    int32_t fresh_h, fresh_bytes;   // input rows of a tile that the tile above does not see
    int32_t ring_bytes;             // input in shared memory: the rows of a tile, and the fresh ones of the next tile
} ConvGroupedParams;

// The depthwise kernels: how a block works. Its threads are `channels` x `columns` x `strips`. A thread computes a
// strip of output pixels, as many columns wide as its kernel says and `rows` high.
typedef struct ConvDepthwiseParams {
    ConvParams conv;
    int32_t channels; // output channels (contiguous) or vectors of them (channels_last)
    int32_t columns, strips, rows;
    int32_t channel_tiles, column_tiles; // blocks of an image along its channels and along a row
    int32_t patch_h, patch_w;            // of the input in shared memory: contiguous: rows and columns of a channel;
                                         // channels_last: rows, and elements of a row
    int32_t band_words;                  // depthwise_toeplitz.cu: of one copy of a channel's band
    int32_t area_bytes;                  // depthwise_toeplitz.cu: of a channel's patch, and later its sums
} ConvDepthwiseParams;

// conv_transpose.cu. The geometry is the layer's: x is the small tensor, stride and dilation are those of the outputs,
// and the padding is cut off.
typedef struct ConvTransposeParams {
    ConvParams conv;
    int32_t period_h, period_w;   // stride / gcd(stride, dilation): the distance of the taps that an output sees
    int32_t reach_h, reach_w;     // dilation / gcd(stride, dilation): the distance of their inputs
    int32_t inverse_h, inverse_w; // the inverse of reach modulo period; both are below 2^16
} ConvTransposeParams;

// conv_separable.cu: a depthwise convolution and the pointwise one that reads its result.
typedef struct ConvSeparableParams {
    ConvParams conv;      // the pointwise convolution, but with the x of the depthwise one
    ConvParams depthwise; // without a y; bias, slope and weight [tap][channel] are padded to whole steps of 64 bytes
} ConvSeparableParams;

// spatial_separable.cu: a vertical and a horizontal convolution of each channel, and how a block works.
// spatial_gemm.cu: the same with convolutions of all channels.
typedef struct SpatialSeparableParams {
    ConvParams conv;                     // the horizontal convolution, but with the x of the vertical one
    ConvParams column;                   // the vertical convolution, without a y
    int32_t channels;                    // of a block: vectors of channels (channels_last) or planes (contiguous)
    int32_t tile_h, tile_w;              // output pixels of a block
    int32_t mid_w;                       // columns of the middle in shared memory
    int32_t channel_tiles, column_tiles; // blocks of an image along its channels and along a row
} SpatialSeparableParams;

// deform_conv.cu: the offset and the mask of each tap of each output pixel.
typedef struct DeformConvParams {
    ConvParams conv;
    Tensor4 offset; // [N, 2 * offset_groups * taps, H_out, W_out]: (dy, dx) of each tap
    Tensor4 mask;   // [N, offset_groups * taps, H_out, W_out]; an address of 0 means absent
    int32_t offset_groups;
    int32_t offset_in_f32, mask_in_f32; // 1 where the elements are f32, whatever T is
    int32_t reserved;
} DeformConvParams;

// roi_pool.cu: K regions of interest of x, each pooled to pooled_h x pooled_w. There are `offset_groups` times
// `group_channels` output channels; a warp or a thread takes one of `slices` of those of a group.
typedef struct RoiParams {
    Tensor4 x;
    Tensor4 y;       // [K, C_out, pooled_h, pooled_w]
    Tensor4 offset;  // [K, 2 * offset_groups, pooled_h, pooled_w]: (x, y) of each group; an address of 0 means absent
    Tensor4 mask;    // [K, offset_groups, pooled_h, pooled_w]; an address of 0 means absent
    uint64_t rois;   // f32 [K][5]: image, x1, y1, x2, y2
    int32_t n, h, w; // the shape of x
    int32_t pooled_h, pooled_w;
    int32_t offset_groups, group_channels, slices;
    uint32_t units; // K * offset_groups * slices * pooled_h * pooled_w
    float spatial_scale, gamma;
    int32_t sampling_ratio; // for align; 0 and below: adaptive
    int32_t aligned, position_sensitive;
    int32_t offset_in_f32, mask_in_f32; // 1 where the elements are f32, whatever T is
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

// An axis of a copy, with the strides of what is read (x) and of what is written (y).
typedef struct CopyAxis {
    int32_t extent, x_stride, y_stride;
} CopyAxis;

// rearrange.cu: pixels into channels and back. There are five axes: channel, row and column within a block, row and
// column of the block. They form three groups, in each of which the innermost axis is the last; axes that a group does
// not need have extent 1. The kernel decides what a group is for.
typedef struct PixelShuffleParams {
    uint64_t x, y;
    int64_t x_batch_stride, y_batch_stride;
    CopyAxis a[3], b[3], outer[3];
    int32_t batch;
    int32_t tile_a, tile_b;   // pixel_tile: positions of a block along a and along b
    int32_t lanes_a, lanes_b; // pixel_tile: log2 of the threads along a when reading, along b when writing
} PixelShuffleParams;

// upsample.cu: bilinear interpolation.
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
static_assert(sizeof(ConvDepthwiseParams) == sizeof(ConvParams) + 40, "ConvDepthwiseParams has no hidden padding");
static_assert(sizeof(ConvTransposeParams) == sizeof(ConvParams) + 24, "ConvTransposeParams has no hidden padding");
static_assert(sizeof(ConvSeparableParams) == 2 * sizeof(ConvParams), "ConvSeparableParams has no hidden padding");
static_assert(sizeof(SpatialSeparableParams) == 2 * sizeof(ConvParams) + 24,
              "SpatialSeparableParams has no hidden padding");
static_assert(sizeof(DeformConvParams) == sizeof(ConvParams) + 80, "DeformConvParams has no hidden padding");
static_assert(sizeof(RoiParams) == 208, "RoiParams has no hidden padding");
static_assert(sizeof(TransposeParams) == 64, "TransposeParams has no hidden padding");
static_assert(sizeof(CastParams) == 48, "CastParams has no hidden padding");
static_assert(sizeof(PixelShuffleParams) == 160, "PixelShuffleParams has no hidden padding");
static_assert(sizeof(UpsampleParams) == 104, "UpsampleParams has no hidden padding");
#endif
