// The mainloop of every implicit GEMM: A comes through a gather, B from packed weights, and kStages stages are in
// flight.
#pragma once
#include "gather.cuh"

// The B tiles of a block. Weights are packed [group][step][channel][k], a row of kRowBytes for each channel. The
// channels of a group are padded with zeros to whole tiles, and k to whole steps: the tile of a step is one run of
// memory, and nothing is tested.
template <typename Tile> struct WeightTiles {
    static constexpr int kCopies = Tile::kN * kRowChunks / Tile::kThreads;
    const unsigned char* next;
    int64_t step_bytes;
    int32_t left; // steps until the next gap
    int32_t run, gap;

    // A group has `tiles` tiles of Tile::kN channels and `total_steps` steps, of which this block may leave out some.
    WC_DEVICE WeightTiles(uint64_t weight, const Steps& steps, int32_t group, int32_t total_steps, int32_t tiles,
                          int32_t tile)
        : step_bytes((int64_t)tiles * Tile::kN * kRowBytes), left(steps.run), run(steps.run), gap(steps.gap) {
        int32_t skipped = steps.skip;
        if (skipped > 0) {
            left = run - skipped % run;
            skipped += skipped / run * gap;
        }
        const int64_t first = (int64_t)group * total_steps + steps.first + skipped;
        next =
            (const unsigned char*)weight + (first * tiles + tile) * (Tile::kN * kRowBytes) + threadIdx.x * kChunkBytes;
    }
    WC_DEVICE void fetch(unsigned char* to) {
#pragma unroll
        for (int i = 0; i < kCopies; ++i) {
            const int32_t chunk = (int32_t)threadIdx.x + i * Tile::kThreads;
            copy_async<kChunkBytes>(to + chunk_at(chunk / kRowChunks, chunk % kRowChunks),
                                    next + i * Tile::kThreads * kChunkBytes, true);
        }
        next += step_bytes;
        if (--left == 0) {
            next += gap * step_bytes;
            left = run;
        }
    }
};

// Starts the copies of one stage: `step` and the steps after it, one for each slice, as far as there are any.
template <typename Tile, typename Gather>
WC_DEVICE void fetch_stage(unsigned char* slot, Gather& a, WeightTiles<Tile>& b, int32_t step, int32_t steps) {
#pragma unroll
    for (int slice = 0; slice < Tile::kSlices; ++slice)
        if (step + slice < steps) {
            a.fetch(slot + slice * Tile::kStepBytes);
            b.fetch(slot + slice * Tile::kStepBytes + Tile::kABytes);
        }
}

// Starts stages [first, end) of a tile as far as there are steps for them. Each stage is one group of copies.
template <typename Tile, typename Gather>
WC_DEVICE void begin_stages(Gather& a, WeightTiles<Tile>& b, int32_t steps, int first, int end) {
#pragma unroll 1
    for (int stage = first; stage < end; ++stage) {
        unsigned char* const slot = shared_memory() + stage * Tile::kStageBytes;
        if (stage * Tile::kSlices < steps) {
            fetch_stage(slot, a, b, stage * Tile::kSlices, steps);
            a.deposit(slot);
        }
        copy_async_commit();
    }
}

// Adds the products of `steps` steps, of which `begun` stages are started already; where slices share them, a warp
// takes every kSlices-th step. Afterwards the shared memory is free.
template <typename Math, typename Tile, typename Gather>
WC_DEVICE void multiply_tiles(WarpSums<Math, Tile>& sums, Gather& a, WeightTiles<Tile>& b, int32_t steps,
                              int begun = 0) {
    static_assert(Tile::kSlices == 1 || Gather::kAsynchronous, "a gather through registers holds one step");
    unsigned char* const shared = shared_memory();
    const int32_t slice = slice_index<Tile>(), stages = (steps + Tile::kSlices - 1) / Tile::kSlices;
    const int32_t step_begin = slice * Tile::kStepBytes, a_row = slice_warp<Tile>() / Tile::kWarpColumns * Tile::kWarpM;
    const int32_t b_begin =
        step_begin + Tile::kABytes + slice_warp<Tile>() % Tile::kWarpColumns * Tile::kWarpN * kRowBytes;
    begin_stages(a, b, steps, begun, kStages - 1);
    for (int32_t stage = 0; stage < stages; ++stage) {
        copy_async_wait<kStages - 2>();
        __syncthreads(); // the stage has arrived for all threads, and all are done with the slot that is filled next
        const int32_t coming = stage + kStages - 1;
        unsigned char* const slot = shared + coming % kStages * Tile::kStageBytes;
        if (coming < stages) fetch_stage(slot, a, b, coming * Tile::kSlices, steps);
        copy_async_commit();
        const unsigned char* const filled = shared + stage % kStages * Tile::kStageBytes;
        if (Tile::kSlices == 1 || stage * Tile::kSlices + slice < steps)
            sums.multiply(typename Gather::Rows(filled + step_begin, a_row), filled + b_begin);
        if (coming < stages) a.deposit(slot);
    }
    copy_async_wait<0>();
    __syncthreads();
}
