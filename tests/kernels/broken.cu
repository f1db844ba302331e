// Kernels that are each wrong in one way. The checker must report the line that is marked with the kernel's name.
// One block of 64 threads; operands x (64 floats, read) and y (64 floats, written) unless said otherwise.
#include "device/async_copy.cuh"
#include "device/mma.cuh"
#include "device/vector.cuh"
#include "device/warp.cuh"
#include "test.h"

// ---- outside every tensor

WC_DEVICE void reads_past_end(const TestParams& p) {
    const float* x = buffer<float>(p, 0);
    buffer<float>(p, 1)[threadIdx.x] = x[threadIdx.x + 3]; // reads_past_end: threads 61 to 63
}
WC_DEVICE void writes_past_end(const TestParams& p) {
    buffer<float>(p, 1)[threadIdx.x] = 1.0f;
    if (threadIdx.x == 5) buffer<float>(p, 1)[65] = 1.0f; // writes_past_end
}
WC_DEVICE void writes_past_shared(const TestParams& p) {
    float* tile = (float*)shared_memory();
    tile[threadIdx.x + 1] = 1.0f; // writes_past_shared: thread 63, of 64 floats
    buffer<float>(p, 1)[threadIdx.x] = 1.0f;
}
// x: 4 of 8 channels, channels_last; values: channel stride
WC_DEVICE void leaves_view(const TestParams& p) {
    const float* x = buffer<float>(p, 0);
    const int32_t pixel = threadIdx.x / 4, channel = threadIdx.x % 4;
    float sum = x[pixel * p.values[0] + channel];
    if (threadIdx.x == 9) sum += x[2 * p.values[0] + 4]; // leaves_view: the fifth channel of the third pixel
    buffer<float>(p, 1)[threadIdx.x] = sum;
}
WC_DEVICE void writes_input(const TestParams& p) {
    float* x = buffer<float>(p, 0);
    if (threadIdx.x == 7) x[11] = 0.0f; // writes_input
    buffer<float>(p, 1)[threadIdx.x] = 1.0f;
}
WC_DEVICE void reads_output(const TestParams& p) {
    float* y = buffer<float>(p, 1);
    const float old = y[threadIdx.x]; // reads_output
    y[threadIdx.x] = old + 1.0f;
}

// ---- races in shared memory

WC_DEVICE void race_write_read(const TestParams& p) {
    float* tile = (float*)shared_memory();
    tile[threadIdx.x] = buffer<float>(p, 0)[threadIdx.x];
    buffer<float>(p, 1)[threadIdx.x] = tile[threadIdx.x ^ 32]; // race_write_read: a barrier is missing before it
}
WC_DEVICE void race_read_write(const TestParams& p) {
    float* tile = (float*)shared_memory();
    tile[threadIdx.x] = buffer<float>(p, 0)[threadIdx.x];
    __syncthreads();
    const float other = tile[threadIdx.x ^ 32];
    tile[threadIdx.x] = 2.0f * other; // race_read_write: a barrier is missing before it
    buffer<float>(p, 1)[threadIdx.x] = other;
}
WC_DEVICE void race_write_write(const TestParams& p) {
    float* tile = (float*)shared_memory();
    if (threadIdx.x % 32 == 3) tile[0] = (float)threadIdx.x; // race_write_write: threads 3 and 35
    __syncthreads();
    buffer<float>(p, 1)[threadIdx.x] = tile[0];
}
WC_DEVICE void race_in_warp(const TestParams& p) {
    float* tile = (float*)shared_memory();
    tile[threadIdx.x] = buffer<float>(p, 0)[threadIdx.x];
    const bool positive = any(tile[threadIdx.x] > 0.0f); // a vote orders no memory
    buffer<float>(p, 1)[threadIdx.x] = tile[threadIdx.x ^ 1] + (positive ? 1.0f : 0.0f); // race_in_warp: sync_warp is missing
}
WC_DEVICE void race_after_sync_warp(const TestParams& p) {
    float* tile = (float*)shared_memory();
    tile[threadIdx.x] = buffer<float>(p, 0)[threadIdx.x];
    sync_warp();
    const float near = tile[threadIdx.x ^ 1];
    buffer<float>(p, 1)[threadIdx.x] = near + tile[threadIdx.x ^ 32]; // race_after_sync_warp: of another warp
}
// Two bytes of one word by two threads are no race, the same two bytes are.
WC_DEVICE void race_of_halves(const TestParams& p) {
    uint16_t* tile = (uint16_t*)shared_memory();
    tile[threadIdx.x] = (uint16_t)threadIdx.x;
    if (threadIdx.x == 41) tile[40] = 0; // race_of_halves
    __syncthreads();
    buffer<float>(p, 1)[threadIdx.x] = (float)tile[threadIdx.x];
}

// ---- races in global memory

WC_DEVICE void global_write_write(const TestParams& p) {
    buffer<float>(p, 1)[threadIdx.x / 2] = 1.0f; // global_write_write
    buffer<float>(p, 1)[threadIdx.x / 2 + 32] = 1.0f;
}
// y is read and then written
WC_DEVICE void global_read_write(const TestParams& p) {
    float* y = buffer<float>(p, 1);
    const float next = y[(threadIdx.x + 1) % 64];
    __syncthreads();
    y[threadIdx.x] = next; // global_read_write: the element that thread - 1 read
}
// Two blocks
WC_DEVICE void global_across_blocks(const TestParams& p) {
    const int32_t shift = blockIdx.x == 0 ? 0 : 1;
    if (threadIdx.x + shift < 64) buffer<float>(p, 1)[threadIdx.x + shift] = 1.0f; // global_across_blocks
}
WC_DEVICE void writes_twice(const TestParams& p) {
    float* y = buffer<float>(p, 1);
    y[threadIdx.x] = buffer<float>(p, 0)[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = 1.0f; // writes_twice
}

// ---- shared memory that holds nothing yet

WC_DEVICE void reads_uninitialised(const TestParams& p) {
    float* tile = (float*)shared_memory();
    if (threadIdx.x != 20) tile[threadIdx.x] = 1.0f;
    __syncthreads();
    buffer<float>(p, 1)[threadIdx.x] = tile[63 - threadIdx.x]; // reads_uninitialised: thread 43
}
WC_DEVICE void reads_copy_under_way(const TestParams& p) {
    float* tile = (float*)shared_memory();
    copy_async<4>(tile + threadIdx.x, buffer<float>(p, 0) + threadIdx.x, true);
    copy_async_commit();
    __syncthreads();
    buffer<float>(p, 1)[threadIdx.x] = tile[threadIdx.x]; // reads_copy_under_way
}
WC_DEVICE void writes_copy_under_way(const TestParams& p) {
    float* tile = (float*)shared_memory();
    copy_async<4>(tile + threadIdx.x, buffer<float>(p, 0) + threadIdx.x, true);
    copy_async_commit();
    tile[threadIdx.x] = 1.0f; // writes_copy_under_way
    copy_async_wait<0>();
    __syncthreads();
    buffer<float>(p, 1)[threadIdx.x] = tile[threadIdx.x];
}
WC_DEVICE void reads_copy_of_newer_group(const TestParams& p) {
    float* tile = (float*)shared_memory();
    copy_async<4>(tile + threadIdx.x, buffer<float>(p, 0) + threadIdx.x, true);
    copy_async_commit();
    copy_async<4>(tile + 64 + threadIdx.x, buffer<float>(p, 0) + threadIdx.x, true);
    copy_async_commit();
    copy_async_wait<1>();
    __syncthreads();
    const float first = tile[threadIdx.x];
    buffer<float>(p, 1)[threadIdx.x] = first + tile[64 + threadIdx.x]; // reads_copy_of_newer_group
}
WC_DEVICE void reads_copy_without_barrier(const TestParams& p) {
    float* tile = (float*)shared_memory();
    copy_async<4>(tile + threadIdx.x, buffer<float>(p, 0) + threadIdx.x, true);
    copy_async_commit();
    copy_async_wait<0>();
    sync_warp();
    buffer<float>(p, 1)[threadIdx.x] = tile[threadIdx.x ^ 32]; // reads_copy_without_barrier: of another warp
}
WC_DEVICE void leaves_gap(const TestParams& p) {
    if (threadIdx.x != 13 && threadIdx.x != 14) buffer<float>(p, 1)[threadIdx.x] = 1.0f;
}

// ---- meetings

WC_DEVICE void barrier_in_branch(const TestParams& p) {
    if (threadIdx.x < 40) __syncthreads(); // barrier_in_branch
    buffer<float>(p, 1)[threadIdx.x] = 1.0f;
}
WC_DEVICE void two_barriers(const TestParams& p) {
    float* y = buffer<float>(p, 1);
    if (threadIdx.x < 32) {
        y[threadIdx.x] = buffer<float>(p, 0)[threadIdx.x];
        __syncthreads(); // two_barriers: one
    } else {
        __syncthreads(); // two_barriers: the other
        y[threadIdx.x] = 2.0f;
    }
}
WC_DEVICE void exits_before_barrier(const TestParams& p) {
    buffer<float>(p, 1)[threadIdx.x] = 1.0f;
    if (threadIdx.x == 63) return;
    __syncthreads(); // exits_before_barrier
}
WC_DEVICE void mixes_collectives(const TestParams& p) {
    uint32_t got;
    if (threadIdx.x % 32 < 16)
        got = ballot(true); // mixes_collectives: one
    else
        got = shuffle(threadIdx.x, 0); // mixes_collectives: the other
    buffer<float>(p, 1)[threadIdx.x] = (float)got;
}
WC_DEVICE void mixes_calls(const TestParams& p) {
    const uint32_t mine = p.values[0] + threadIdx.x;
    float got;
    if (threadIdx.x % 32 < 16)
        got = (float)shuffle(mine, 3); // mixes_calls: one
    else
        got = 2.0f * (float)shuffle(mine, 4); // mixes_calls: the other
    buffer<float>(p, 1)[threadIdx.x] = got;
}

// ---- alignment

WC_DEVICE void misaligned_load(const TestParams& p) {
    const float* x = buffer<float>(p, 0);
    if (threadIdx.x < 15) {
        const Vector<float, 4> v = load_vector<4>(x + 4 * threadIdx.x + p.values[0]); // misaligned_load
        buffer<float>(p, 1)[threadIdx.x] = v.at[0] + v.at[3];
    }
}
WC_DEVICE void misaligned_copy(const TestParams& p) {
    float* tile = (float*)shared_memory();
    copy_async<8>(tile + 2 * threadIdx.x + 1, buffer<float>(p, 0), true); // misaligned_copy
    copy_async_commit();
    copy_async_wait<0>();
}
WC_DEVICE void misaligned_ldmatrix(const TestParams& p) {
    uint16_t* tile = (uint16_t*)shared_memory();
    for (int32_t i = 0; i < 8; ++i) tile[8 * threadIdx.x + i] = 0;
    __syncthreads();
    uint32_t fragment[1][4];
    const void* rows[1] = {tile + 8 * (threadIdx.x % 32) + 2};
    ldmatrix_x4<false, 1>(fragment, rows); // misaligned_ldmatrix
    buffer<float>(p, 1)[threadIdx.x] = (float)fragment[0][0];
}

// ---- without end

WC_DEVICE void spins(const TestParams& p) {
    uint32_t state = threadIdx.x + 1, rounds = 0;
    for (; state != 0; ++rounds) { // spins: an xorshift generator never reaches 0
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
    }
    buffer<float>(p, 1)[threadIdx.x] = (float)rounds;
}
WC_DEVICE void waits_forever(const TestParams& p) {
    uint32_t state = 1;
    while (state != 0) {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        __syncthreads();
    }
    buffer<float>(p, 1)[threadIdx.x] = (float)state;
}

// ---- several at once

WC_DEVICE void fails_often(const TestParams& p) {
    float* tile = (float*)shared_memory();
    if (threadIdx.x < 60) tile[threadIdx.x] = 1.0f;
    float sum = tile[threadIdx.x ^ 32]; // fails_often: a race
    __syncthreads();
    sum += tile[threadIdx.x]; // fails_often: uninitialised
    if (threadIdx.x != 0) buffer<float>(p, 1)[threadIdx.x] = sum;
}

// ---- the example of docs/proof.md: two blocks, x and y of 128 floats

// y[i] = (x[i - 1] + x[i] + x[i + 1]) / 3, through a tile in shared memory
WC_DEVICE void smooths(const TestParams& p) {
    const float* x = buffer<const float>(p, 0);
    float* tile = (float*)shared_memory();
    const int32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    tile[threadIdx.x + 1] = x[i];
    if (threadIdx.x == 0) tile[0] = i > 0 ? x[i - 1] : 0.0f;
    if (threadIdx.x == 63) tile[65] = x[i + 1];
    const float sum = tile[threadIdx.x] + tile[threadIdx.x + 1] + tile[threadIdx.x + 2];
    buffer<float>(p, 1)[i] = sum / 3.0f;
}
