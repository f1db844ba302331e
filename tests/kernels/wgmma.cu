// C[M, N] = A[M, K] * B[N, K]^T: T in, f32 sums, T out, row-major; K is a multiple of 8. One warpgroup brings tiles of A and
// B by cp.async, another multiplies them by wgmma, and mbarriers tell of full and of empty stages.
//
// Tiling: 64 x kColumns of C, steps of kSwizzle bytes of k, three stages.
#include "device/async_copy.cuh"
#include "device/vector.cuh"
#include "device/warp.cuh"
#include "device/wgmma.cuh"
#include "test.h"

template <int kSwizzle> struct WgmmaStages {
    static constexpr int32_t kStages = 3, kRows = 64, kChunks = kSwizzle / 16;
    // Chunk `chunk` of row `row`, from the begin of a pattern on.
    static WC_DEVICE int32_t place(int32_t row, int32_t chunk) {
        return row * kSwizzle + (chunk ^ (kSwizzle == 128 ? row % 8 : row / 2 % 4)) * 16;
    }
};

// Starts the copies of kRows rows of one step; zeros beyond the matrix.
template <int kSwizzle, int kRows, typename T>
WC_DEVICE void copy_rows(unsigned char* to, const T* matrix, int32_t first_row, int32_t rows, int32_t step, int32_t k) {
    using Stages = WgmmaStages<kSwizzle>;
    for (int32_t i = threadIdx.x % 128; i < kRows * Stages::kChunks; i += 128) {
        const int32_t row = i / Stages::kChunks, chunk = i % Stages::kChunks, column = (step * Stages::kChunks + chunk) * 8;
        const bool inside = first_row + row < rows && column < k;
        copy_async<16>(to + Stages::place(row, chunk), matrix + (inside ? (int64_t)(first_row + row) * k + column : 0), inside);
    }
}

template <typename T, int kSwizzle, int kColumns> WC_DEVICE void wgmma_gemm(const TestParams& p) {
    using Stages = WgmmaStages<kSwizzle>;
    constexpr int32_t kBytesA = Stages::kRows * kSwizzle, kStageBytes = kBytesA + kColumns * kSwizzle;
    const T *a = buffer<const T>(p, 0), *b = buffer<const T>(p, 1);
    T* c = buffer<T>(p, 2);
    const int32_t m = p.values[0], n = p.values[1], k = p.values[2];
    const int32_t m0 = blockIdx.y * Stages::kRows, n0 = blockIdx.x * kColumns, steps = (2 * k + kSwizzle - 1) / kSwizzle;
    unsigned char* const stages = aligned_shared_memory();
    uint64_t *full = (uint64_t*)(stages + Stages::kStages * kStageBytes), *empty = full + Stages::kStages;
    if (threadIdx.x == 0)
        for (int32_t s = 0; s < Stages::kStages; ++s) {
            mbarrier_init(full + s, 128);
            mbarrier_init(empty + s, 4);
        }
    __syncthreads();
    if (threadIdx.x < 128) {
        for (int32_t step = 0; step < steps; ++step) {
            const int32_t slot = step % Stages::kStages, round = step / Stages::kStages;
            mbarrier_wait(empty + slot, (round & 1) ^ 1);
            copy_rows<kSwizzle, Stages::kRows>(stages + slot * kStageBytes, a, m0, m, step, k);
            copy_rows<kSwizzle, kColumns>(stages + slot * kStageBytes + kBytesA, b, n0, n, step, k);
            mbarrier_arrive_copies(full + slot);
        }
        return;
    }
    float sums[kColumns / 2];
    for (int32_t step = 0; step < steps; ++step) {
        const int32_t slot = step % Stages::kStages, round = step / Stages::kStages;
        const unsigned char* const stage = stages + slot * kStageBytes;
        mbarrier_wait(full + slot, round & 1);
        fence_proxy_async();
        wgmma_fence();
        const uint64_t from_a = matrix_descriptor<kSwizzle>(stage), from_b = matrix_descriptor<kSwizzle>(stage + kBytesA);
        for (int32_t at = 0; at < kSwizzle; at += 32)
            wgmma<T>(sums, advance_descriptor(from_a, at), advance_descriptor(from_b, at), step > 0 || at > 0);
        wgmma_commit();
        wgmma_wait<1>(); // the operations of the step before are complete
        if (step > 0 && lane_index() == 0) mbarrier_arrive(empty + (step - 1) % Stages::kStages);
    }
    wgmma_wait<0>();
    for (int32_t i = 0; i < kColumns / 2; ++i) {
        const int32_t row = m0 + (int32_t)threadIdx.x / 32 % 4 * 16 + i / 2 % 2 * 8 + lane_index() / 4,
                      column = n0 + i / 4 * 8 + lane_index() % 4 * 2 + i % 2;
        if (row < m && column < n) c[(int64_t)row * n + column] = from_float<T>(steps > 0 ? sums[i] : 0.0f);
    }
}

// y: x of the thread on the other side of the block, through shared memory: half the threads tell the other half by one
// mbarrier that they have stored, and are told by another that it has been read. 128 threads; rounds: values[0].
WC_DEVICE void mbarrier_exchange(const TestParams& p) {
    float* tile = (float*)shared_memory();
    uint64_t* barriers = (uint64_t*)(tile + 64);
    const int32_t thread = threadIdx.x % 64, rounds = p.values[0];
    if (threadIdx.x == 5) {
        mbarrier_init(barriers, 64);
        mbarrier_init(barriers + 1, 64);
    }
    __syncthreads();
    for (int32_t round = 0; round < rounds; ++round)
        if (threadIdx.x < 64) {
            mbarrier_wait(barriers + 1, (round & 1) ^ 1);
            tile[thread] = buffer<float>(p, 0)[round * 64 + thread];
            mbarrier_arrive(barriers);
        } else {
            mbarrier_wait(barriers, round & 1);
            buffer<float>(p, 1)[round * 64 + thread] = tile[63 - thread];
            mbarrier_arrive(barriers + 1);
        }
}
