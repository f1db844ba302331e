// Kernels whose traffic and bank conflicts are known from their text. 64 threads a block: two warps.
#include "device/mma.cuh"
#include "device/vector.cuh"
#include "device/warp.cuh"
#include "test.h"

// One warp writes and reads kCount floats a lane, `values[0]` times as far from the neighbour's.
template <int kCount> WC_DEVICE void strided(const TestParams& p) {
    float* at = (float*)shared_memory() + lane_index() * p.values[0] * kCount;
    const bool mine = threadIdx.x < 32;
    Vector<float, kCount> value = {};
    if (mine) store_vector<kCount>(at, value);
    __syncthreads();
    if (mine) value = load_vector<kCount>(at);
    buffer<float>(p, 0)[threadIdx.x] = value.at[0];
}
WC_DEVICE void strided_words(const TestParams& p) { strided<1>(p); }
WC_DEVICE void strided_pairs(const TestParams& p) { strided<2>(p); }
WC_DEVICE void strided_quads(const TestParams& p) { strided<4>(p); }
WC_DEVICE void strided_halves(const TestParams& p) {
    uint16_t* tile = (uint16_t*)shared_memory();
    if (threadIdx.x < 32) tile[threadIdx.x * p.values[0]] = 0;
    buffer<float>(p, 0)[threadIdx.x] = 0.0f;
}

// One ldmatrix of four 8x8 matrices whose rows are `values[0]` bytes apart.
WC_DEVICE void rows_of_ldmatrix(const TestParams& p) {
    unsigned char* tile = shared_memory();
    if (threadIdx.x < 32) store_vector<4>((float*)(tile + lane_index() * p.values[0]), Vector<float, 4>{});
    __syncthreads();
    uint32_t fragment[1][4] = {};
    const void* rows[1] = {tile + lane_index() * p.values[0]};
    if (threadIdx.x < 32) ldmatrix_x4<false, 1>(fragment, rows);
    buffer<float>(p, 0)[threadIdx.x] = (float)fragment[0][0];
}

// Lanes that take different ways: odd lanes skip the first access, so that the lanes' lists of accesses differ.
WC_DEVICE void uneven_lanes(const TestParams& p) {
    float* tile = (float*)shared_memory();
    const int32_t lane = lane_index();
    if (threadIdx.x < 32) {
        if (lane % 2 == 0) tile[lane] = 0.0f;
        tile[64 + lane * 2] = 0.0f; // 2 wavefronts
    }
    buffer<float>(p, 0)[threadIdx.x] = 0.0f;
}

WC_DEVICE void barriers(const TestParams& p) {
    for (int32_t i = 0; i < p.values[0]; ++i) __syncthreads();
    const uint32_t block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
    buffer<float>(p, 0)[block * blockDim.x + threadIdx.x] = any(true) ? 1.0f : 0.0f;
}

// Every block reads the same 64 floats of x as 16-byte vectors, each thread one of 16; then each thread writes one float.
WC_DEVICE void overlapping_reads(const TestParams& p) {
    const Vector<float, 4> v = load_vector<4>(buffer<const float>(p, 0) + threadIdx.x % 16 * 4);
    buffer<float>(p, 1)[blockIdx.x * 64 + threadIdx.x] = v.at[0] + v.at[1] + v.at[2] + v.at[3];
}
