// Kernels whose threads meet in every way that a kernel may use. 96 threads a block: three warps.
#include "device/async_copy.cuh"
#include "device/tensor.cuh"
#include "device/warp.cuh"
#include "test.h"

WC_DEVICE uint32_t global_thread() {
    return (blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z)) * blockDim.x + threadIdx.x;
}

// y: the sum of x over the warp, in every lane
WC_DEVICE void warp_sum(const TestParams& p) {
    float sum = buffer<float>(p, 0)[global_thread()];
    for (int32_t mask = 16; mask > 0; mask /= 2) sum += shuffle_xor(sum, mask);
    buffer<float>(p, 1)[global_thread()] = sum;
}
// y: how many lanes before this one have a positive x; negative where no lane of the warp has
WC_DEVICE void votes(const TestParams& p) {
    const bool positive = buffer<float>(p, 0)[global_thread()] > 0.0f;
    const uint32_t ballots = ballot(positive);
    int32_t before = 0;
    for (int32_t l = 0; l < lane_index(); ++l) before += ballots >> l & 1;
    const bool none = !any(positive), every = all(positive);
    buffer<float>(p, 1)[global_thread()] = none ? -1.0f : (float)before + (every ? 100.0f : 0.0f);
}
// y: x of the lane on the other side of the warp, through shared memory that only warps share
WC_DEVICE void warp_exchange(const TestParams& p) {
    float* tile = (float*)shared_memory() + threadIdx.x / 32 * 32;
    float value = buffer<float>(p, 0)[global_thread()];
    for (int32_t round = 0; round < 3; ++round) {
        tile[lane_index()] = value;
        sync_warp();
        value = tile[31 - lane_index()];
        sync_warp();
    }
    buffer<float>(p, 1)[global_thread()] = value;
}
// y: x of the thread on the other side of the block
WC_DEVICE void block_reverse(const TestParams& p) {
    float* tile = (float*)shared_memory();
    tile[threadIdx.x] = buffer<float>(p, 0)[global_thread()];
    __syncthreads();
    buffer<float>(p, 1)[global_thread()] = tile[blockDim.x - 1 - threadIdx.x];
}
// y: where the thread is in a 3-D grid
WC_DEVICE void grid_coordinates(const TestParams& p) {
    const float where = (float)(blockIdx.x + 10 * blockIdx.y + 100 * blockIdx.z) + 0.5f * (float)(threadIdx.x % 2);
    buffer<float>(p, 1)[global_thread()] = where + buffer<float>(p, 0)[global_thread()];
}
// y: 1 + x of the thread on the other side of the block, copied in two groups; zeros where not valid
WC_DEVICE void late_copies(const TestParams& p) {
    float* tile = (float*)shared_memory();
    const float* x = buffer<const float>(p, 0) + (global_thread() - threadIdx.x);
    copy_async<4>(tile + threadIdx.x, x + threadIdx.x, threadIdx.x < 48);
    copy_async_commit();
    copy_async<4>(tile + 96 + threadIdx.x, x + threadIdx.x, threadIdx.x >= 48);
    copy_async_commit();
    copy_async_wait<1>();
    __syncthreads();
    const float first = tile[95 - threadIdx.x];
    copy_async_wait<0>();
    __syncthreads();
    buffer<float>(p, 1)[global_thread()] = 1.0f + first + tile[96 + 95 - threadIdx.x];
}
