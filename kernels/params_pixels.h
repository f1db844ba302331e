// The part of params.h that only those kernels need that pool pixels: a change here does not compile the
// convolutions again.
#pragma once
#include "params.h"

// Sizes that a kernel is compiled with and that its host code counts on.
enum {
    // pool.cu
    POOL_WIDE_ROWS = 2,       // output rows of a thread of pool_windows that has 16 bytes of channels
    POOL_NARROW_ROWS = 4,     // output rows of a thread that has one channel
    POOL_BLOCK_THREADS = 128, // threads of a block of pool_blocks
};

// pool.cu: how the windows of a pooling lie along an axis. A kernel of 0: adaptive windows.
typedef struct PoolAxis {
    int32_t kernel, stride, padding, dilation;
} PoolAxis;

typedef struct PoolParams {
    Tensor4 x, y;
    int32_t n, c, h, w, h_out, w_out;
    PoolAxis rows, columns;
    int32_t max;            // 1: the largest pixel; 0: the mean
    int32_t divisor;        // of a mean; 0: the number of pixels of the window
    int32_t count_padding;  // 1: pixels in the padding count as well
    int32_t channels_inner; // 1: neighbouring threads have neighbouring channels; 0: neighbouring pixels
    int32_t lanes;          // pool_blocks: log2 of the threads that have channels of their own
    int32_t reserved;
} PoolParams;

#ifdef __cplusplus
static_assert(sizeof(PoolParams) == 144, "PoolParams has no hidden padding");
#endif
