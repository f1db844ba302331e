// Kernels that use mbarriers or wgmma and are each wrong in one way, as those of broken.cu. One block of two warpgroups;
// operands x (2048 floats, read) and y (256 floats, written). Matrices are 64 rows of 64 bytes.
#include "device/async_copy.cuh"
#include "device/vector.cuh"
#include "device/warp.cuh"
#include "device/wgmma.cuh"
#include "test.h"

constexpr int32_t kMatrixBytes = 64 * 64;

WC_DEVICE unsigned char* matrices() { return aligned_shared_memory(); }
WC_DEVICE uint64_t* barrier() { return (uint64_t*)(aligned_shared_memory() + 2 * kMatrixBytes); }
WC_DEVICE void make_barrier(uint32_t count) {
    if (threadIdx.x == 0) mbarrier_init(barrier(), count);
    __syncthreads();
}
// Stores `count` matrices of zeros.
WC_DEVICE void store_matrices(int32_t count) {
    for (int32_t at = threadIdx.x * 16; at < count * kMatrixBytes; at += 256 * 16)
        store_vector<4>((float*)(matrices() + at), Vector<float, 4>{});
}
// Stores both and makes them known to every wgmma.
WC_DEVICE void provide_matrices() {
    store_matrices(2);
    fence_proxy_async();
    __syncthreads();
}
WC_DEVICE uint64_t matrix_a() { return matrix_descriptor<64>(matrices()); }
WC_DEVICE uint64_t matrix_b() { return matrix_descriptor<64>(matrices() + kMatrixBytes); }
WC_DEVICE void finish(const TestParams& p, float value) { buffer<float>(p, 1)[threadIdx.x] = value; }

// ---- wgmma

WC_DEVICE void no_proxy_fence(const TestParams& p) {
    float sums[32];
    store_matrices(2);
    __syncthreads();
    wgmma_fence();
    wgmma<f16_t>(sums, matrix_a(), matrix_b(), false); // no_proxy_fence
    wgmma_commit();
    wgmma_wait<0>();
    finish(p, sums[0]);
}
WC_DEVICE void fence_before_stores(const TestParams& p) {
    float sums[32];
    fence_proxy_async();
    store_matrices(2);
    __syncthreads();
    wgmma_fence();
    wgmma<f16_t>(sums, matrix_a(), matrix_b(), false); // fence_before_stores
    wgmma_commit();
    wgmma_wait<0>();
    finish(p, sums[0]);
}
WC_DEVICE void no_barrier_before_wgmma(const TestParams& p) {
    float sums[32];
    store_matrices(2);
    fence_proxy_async();
    wgmma_fence();
    wgmma<f16_t>(sums, matrix_a(), matrix_b(), false); // no_barrier_before_wgmma
    wgmma_commit();
    wgmma_wait<0>();
    finish(p, sums[0]);
}
WC_DEVICE void no_wgmma_fence(const TestParams& p) {
    float sums[32];
    provide_matrices();
    wgmma<f16_t>(sums, matrix_a(), matrix_b(), false); // no_wgmma_fence
    wgmma_commit();
    wgmma_wait<0>();
    finish(p, sums[0]);
}
WC_DEVICE void no_second_wgmma_fence(const TestParams& p) {
    float sums[32];
    provide_matrices();
    wgmma_fence();
    wgmma<f16_t>(sums, matrix_a(), matrix_b(), false);
    wgmma_commit();
    wgmma_wait<0>();
    if (threadIdx.x == 77) sums[p.values[0]] += 1.0f;
    wgmma<f16_t>(sums, matrix_a(), matrix_b()); // no_second_wgmma_fence
    wgmma_commit();
    wgmma_wait<0>();
    finish(p, sums[0]);
}
WC_DEVICE void reads_sums_too_early(const TestParams& p) {
    float sums[32];
    provide_matrices();
    wgmma_fence();
    wgmma<f16_t>(sums, matrix_a(), matrix_b(), false);
    wgmma_commit();
    const float early = sums[p.values[0]]; // reads_sums_too_early
    wgmma_wait<0>();
    finish(p, early);
}
WC_DEVICE void waits_for_older_group(const TestParams& p) {
    float sums[32];
    provide_matrices();
    wgmma_fence();
    wgmma<f16_t>(sums, matrix_a(), matrix_b(), false);
    wgmma_commit();
    wgmma<f16_t>(sums, matrix_a(), matrix_b());
    wgmma_commit();
    wgmma_wait<1>();
    const float early = sums[p.values[0]]; // waits_for_older_group
    wgmma_wait<0>();
    finish(p, early);
}
WC_DEVICE void overwrites_operand(const TestParams& p) {
    float sums[32];
    provide_matrices();
    wgmma_fence();
    wgmma<f16_t>(sums, matrix_a(), matrix_b(), false);
    wgmma_commit();
    if (threadIdx.x == 3) ((float*)matrices())[1] = 1.0f; // overwrites_operand
    wgmma_wait<0>();
    finish(p, sums[0]);
}
// The second warpgroup is told before the first one has waited.
WC_DEVICE void tells_before_wait(const TestParams& p) {
    float sums[32] = {};
    make_barrier(128);
    provide_matrices();
    if (threadIdx.x < 128) {
        wgmma_fence();
        wgmma<f16_t>(sums, matrix_a(), matrix_b(), false);
        wgmma_commit();
        mbarrier_arrive(barrier());
        wgmma_wait<0>();
    } else {
        mbarrier_wait(barrier(), 0);
        if (threadIdx.x == 200) ((float*)matrices())[1025] = 1.0f; // tells_before_wait
    }
    finish(p, sums[0]);
}
WC_DEVICE void reads_unwritten_matrix(const TestParams& p) {
    float sums[32];
    store_matrices(1);
    fence_proxy_async();
    __syncthreads();
    wgmma_fence();
    wgmma<f16_t>(sums, matrix_a(), matrix_b(), false); // reads_unwritten_matrix
    wgmma_commit();
    wgmma_wait<0>();
    finish(p, sums[0]);
}
WC_DEVICE void reads_matrix_under_way(const TestParams& p) {
    float sums[32];
    store_matrices(1);
    copy_async<16>(matrices() + kMatrixBytes + 16 * threadIdx.x, buffer<float>(p, 0) + 4 * threadIdx.x, true);
    copy_async_commit();
    fence_proxy_async();
    __syncthreads();
    wgmma_fence();
    wgmma<f16_t>(sums, matrix_a(), matrix_b(), false); // reads_matrix_under_way
    wgmma_commit();
    wgmma_wait<0>();
    copy_async_wait<0>();
    finish(p, sums[0]);
}
WC_DEVICE void begins_within_pattern(const TestParams& p) {
    float sums[32];
    provide_matrices();
    wgmma_fence();
    wgmma<f16_t>(sums, matrix_descriptor<64>(matrices() + 64), matrix_b(), false); // begins_within_pattern
    wgmma_commit();
    wgmma_wait<0>();
    finish(p, sums[0]);
}
WC_DEVICE void counts_on_alignment(const TestParams& p) {
    float sums[32];
    provide_matrices();
    wgmma_fence();
    wgmma<f16_t>(sums, matrix_descriptor<64>(shared_memory()), matrix_b(), false); // counts_on_alignment
    wgmma_commit();
    wgmma_wait<0>();
    finish(p, sums[0]);
}
WC_DEVICE void leaves_shared_memory(const TestParams& p) {
    float sums[32];
    provide_matrices();
    wgmma_fence();
    wgmma<f16_t>(sums, matrix_a(), matrix_descriptor<64>(matrices() + kMatrixBytes, 1024), false); // leaves_shared_memory
    wgmma_commit();
    wgmma_wait<0>();
    finish(p, sums[0]);
}
WC_DEVICE void wgmma_in_branch(const TestParams& p) {
    float sums[32] = {};
    provide_matrices();
    wgmma_fence();
    if (threadIdx.x < 96) wgmma<f16_t>(sums, matrix_a(), matrix_b(), false); // wgmma_in_branch
    wgmma_commit();
    wgmma_wait<0>();
    finish(p, sums[0]);
}
WC_DEVICE void two_wgmmas(const TestParams& p) {
    float sums[32];
    provide_matrices();
    wgmma_fence();
    const uint64_t a = threadIdx.x % 128 < 32 ? matrix_a() : matrix_b();
    wgmma<f16_t>(sums, a, matrix_b(), false); // two_wgmmas
    wgmma_commit();
    wgmma_wait<0>();
    finish(p, sums[0]);
}
WC_DEVICE void never_waits(const TestParams& p) {
    float sums[32];
    provide_matrices();
    wgmma_fence();
    wgmma<f16_t>(sums, matrix_a(), matrix_b(), false);
    wgmma_commit();
    finish(p, 0.0f);
}

// ---- mbarriers

WC_DEVICE void arrives_at_nothing(const TestParams& p) {
    mbarrier_arrive(barrier()); // arrives_at_nothing
    finish(p, 0.0f);
}
WC_DEVICE void makes_barrier_twice(const TestParams& p) {
    make_barrier(256);
    if (threadIdx.x == 9) mbarrier_init(barrier(), 1); // makes_barrier_twice
    finish(p, 0.0f);
}
WC_DEVICE void misaligned_barrier(const TestParams& p) {
    if (threadIdx.x == 9) mbarrier_init((uint64_t*)((uint32_t*)barrier() + 1), 1); // misaligned_barrier
    finish(p, 0.0f);
}
WC_DEVICE void arrives_too_often(const TestParams& p) {
    make_barrier(3);
    if (threadIdx.x == 0) mbarrier_arrive(barrier(), 2);
    __syncthreads();
    if (threadIdx.x == 1) mbarrier_arrive(barrier(), 2); // arrives_too_often
    finish(p, 0.0f);
}
WC_DEVICE void loses_an_arrival(const TestParams& p) {
    make_barrier(256);
    if (threadIdx.x != 40) mbarrier_arrive(barrier());
    if (threadIdx.x != 0) mbarrier_wait(barrier(), 0); // loses_an_arrival
    finish(p, 0.0f);
}
// The first warpgroup waits for the second one, and the second for the first.
WC_DEVICE void waits_in_a_circle(const TestParams& p) {
    if (threadIdx.x == 0) mbarrier_init(barrier() + 1, 128);
    make_barrier(128);
    uint64_t* const other = barrier() + threadIdx.x / 128;
    mbarrier_wait(other, 0); // waits_in_a_circle
    mbarrier_arrive(barrier() + 1 - threadIdx.x / 128);
    finish(p, 0.0f);
}
WC_DEVICE void misses_a_phase(const TestParams& p) {
    make_barrier(255);
    if (threadIdx.x != 0) {
        mbarrier_arrive(barrier());
        mbarrier_wait(barrier(), 0);
        mbarrier_arrive(barrier());
    }
    __syncthreads();
    if (threadIdx.x == 0) mbarrier_wait(barrier(), 0); // misses_a_phase
    finish(p, 0.0f);
}
WC_DEVICE void reads_before_wait(const TestParams& p) {
    float* const tile = (float*)matrices();
    make_barrier(256);
    tile[threadIdx.x] = 1.0f;
    mbarrier_arrive(barrier());
    const float early = tile[threadIdx.x ^ 128]; // reads_before_wait
    mbarrier_wait(barrier(), 0);
    finish(p, early);
}
WC_DEVICE void stores_after_arrival(const TestParams& p) {
    float* const tile = (float*)matrices();
    make_barrier(256);
    mbarrier_arrive(barrier());
    tile[threadIdx.x] = 1.0f;
    mbarrier_wait(barrier(), 0);
    finish(p, tile[threadIdx.x ^ 128]); // stores_after_arrival
}
WC_DEVICE void arrives_before_copies(const TestParams& p) {
    float* const tile = (float*)matrices();
    make_barrier(256);
    copy_async<4>(tile + threadIdx.x, buffer<float>(p, 0) + threadIdx.x, true);
    mbarrier_arrive(barrier());
    mbarrier_wait(barrier(), 0);
    finish(p, tile[threadIdx.x ^ 128]); // arrives_before_copies
    copy_async_commit();
    copy_async_wait<0>();
}
// The arrival tells of copies, and not of stores.
WC_DEVICE void tells_of_copies_alone(const TestParams& p) {
    float* const tile = (float*)matrices();
    make_barrier(256);
    copy_async<4>(tile + threadIdx.x, buffer<float>(p, 0) + threadIdx.x, true);
    tile[256 + threadIdx.x] = 1.0f;
    mbarrier_arrive_copies(barrier());
    mbarrier_wait(barrier(), 0);
    const float copied = tile[threadIdx.x ^ 128];
    finish(p, copied + tile[256 + (threadIdx.x ^ 128)]); // tells_of_copies_alone
}
WC_DEVICE void overwrites_barrier(const TestParams& p) {
    make_barrier(256);
    if (threadIdx.x == 70) *(uint32_t*)barrier() = 0; // overwrites_barrier
    finish(p, 0.0f);
}
