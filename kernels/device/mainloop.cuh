// The mainloop of every implicit GEMM: A through a gather, B from packed weights, kStages stages in flight.
#pragma once
#include "gather.cuh"

// The B tiles of a block. Weights are packed [group][step][channel][k] with one row of kRowBytes a channel, the channels of a
// group padded with zeros to whole tiles and k to whole steps: a step's tile is one run of memory, and nothing is tested.
template <typename Tile> struct WeightTiles {
    static constexpr int kCopies = Tile::kN * kRowChunks / Tile::kThreads;
    const unsigned char* next;
    int64_t step_bytes;
    int32_t left; // steps until the gap
    int32_t run, gap;

    // `tiles` of Tile::kN channels in a group; `total_steps` of a group, those that the block leaves out included
    WC_DEVICE WeightTiles(uint64_t weight, const Steps& steps, int32_t group, int32_t total_steps, int32_t tiles, int32_t tile)
        : step_bytes((int64_t)tiles * Tile::kN * kRowBytes), left(steps.run), run(steps.run), gap(steps.gap) {
        const int64_t first = (int64_t)group * total_steps + steps.first;
        next = (const unsigned char*)weight + first * step_bytes + tile * Tile::kN * kRowBytes + threadIdx.x * kChunkBytes;
    }
    WC_DEVICE void fetch(unsigned char* to) {
#pragma unroll
        for (int i = 0; i < kCopies; ++i) {
            const int32_t chunk = (int32_t)threadIdx.x + i * Tile::kThreads;
            copy_async<kChunkBytes>(to + chunk_at(chunk / kRowChunks, chunk % kRowChunks), next + i * Tile::kThreads * kChunkBytes, true);
        }
        next += step_bytes;
        if (--left == 0) {
            next += gap * step_bytes;
            left = run;
        }
    }
};

// Adds all steps' products. Afterwards the shared memory is free.
template <typename Math, typename Tile, typename Gather>
WC_DEVICE void multiply_tiles(WarpSums<Math, Tile>& sums, Gather& a, WeightTiles<Tile>& b, int32_t steps) {
    unsigned char* const shared = shared_memory();
    const int32_t a_row = warp_index() / Tile::kWarpColumns * Tile::kWarpM;
    const int32_t b_begin = Tile::kABytes + warp_index() % Tile::kWarpColumns * Tile::kWarpN * kRowBytes;
#pragma unroll 1
    for (int step = 0; step < kStages - 1; ++step) {
        unsigned char* const slot = shared + step * Tile::kStageBytes;
        if (step < steps) {
            a.fetch(slot);
            b.fetch(slot + Tile::kABytes);
            a.deposit(slot);
        }
        copy_async_commit();
    }
    for (int32_t step = 0; step < steps; ++step) {
        copy_async_wait<kStages - 2>();
        __syncthreads(); // the stage is there for all, and all have done with the slot that is filled next
        const int32_t coming = step + kStages - 1;
        unsigned char* const slot = shared + coming % kStages * Tile::kStageBytes;
        if (coming < steps) {
            a.fetch(slot);
            b.fetch(slot + Tile::kABytes);
        }
        copy_async_commit();
        const unsigned char* const stage = shared + step % kStages * Tile::kStageBytes;
        sums.multiply(typename Gather::Rows(stage, a_row), stage + b_begin);
        if (coming < steps) a.deposit(slot);
    }
    copy_async_wait<0>();
    __syncthreads();
}
