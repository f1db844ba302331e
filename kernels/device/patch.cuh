// A as patches. The input that a rectangle of output pixels sees, halo included, lies in shared memory as rows of k,
// one row a pixel. A tap is then a distance between rows, and an element of x is loaded once for all taps.
//
// Column c of a patch lies at place c / stride of phase c % stride. Neighbours in the output are then neighbours in the
// patch at any stride, which keeps the swizzle of gemm_tile.cuh free of conflicts and makes the distance of a tap the
// same for all pixels.
#pragma once
#include "mainloop.cuh"

// The rows that the lanes of a warp multiply at a tap: their rows of the patch, moved on by the tap's distance.
template <int kFragments> struct PatchRows {
    const unsigned char* patch;
    const int32_t (&rows)[kFragments];
    int32_t tap;
    WC_DEVICE void load(uint32_t (&fragments)[kFragments][4], int k) const {
        const void* at[kFragments];
#pragma unroll
        for (int m = 0; m < kFragments; ++m) at[m] = patch + chunk_at(rows[m] + tap, k + lane_index() / 16);
        ldmatrix_x4<false>(fragments, at);
    }
};

// The patches of a block. While one is multiplied, the next one, of the next kK channels, is loaded: a share of its
// slices at each tap. A slice is kSlice neighbouring pixels, of which a thread has one and a chunk of channels. Behind
// the patches lies a table with the offset of each pixel in a plane of x, below 0 for the padding.
template <typename T, typename Tile> struct Patches {
    static constexpr int kChunk = kChunkBytes / sizeof(T), kK = kRowBytes / sizeof(T),
                         kSlice = Tile::kThreads / kRowChunks;
    static constexpr int kFragments = Tile::kWarpM / 16, kWeightBytes = kStages * Tile::kN * kRowBytes;
    static_assert(Tile::kStagingBytes * Tile::kWarps <= kWeightBytes + 2 * Tile::kABytes,
                  "sums fit the memory of weights and patches");
    const T* from;                 // the thread's next channels in the image
    int32_t left, stride_c;        // left: channels of the group from those on
    int32_t pixels, slices, share; // pixels and slices of a patch; slices for each tap
    int32_t slice, row, chunk;
    bool under_way;
    Vector<T, kChunk> values;
    int32_t rows[kFragments];

    // The output pixels of the block begin at `first`.
    WC_DEVICE Patches(const ConvPatchParams& p, const Pixel& first, int32_t group) : slice(0), under_way(false) {
        const ConvGeometryParams& g = p.conv.geometry;
        const Tensor4& x = p.conv.x;
        const int32_t width = p.patch_columns * g.stride_w, taps = g.kernel_h * g.kernel_w,
                      channels = g.c_in / g.groups;
        pixels = p.patch_h * width;
        slices = (pixels + kSlice - 1) / kSlice;
        share = (slices + taps - 1) / taps;
        row = warp_index() / kRowChunks * 32 + lane_index();
        chunk = warp_index() % kRowChunks;
        left = channels - chunk * kChunk;
        stride_c = x.stride_c;
        from = image<const T>(x, first.n) + (int64_t)(group * channels + chunk * kChunk) * stride_c;
        const int32_t top = first.h * g.stride_h - g.pad_top, start = first.w * g.stride_w - g.pad_left;
        for (int32_t pixel = (int32_t)threadIdx.x; pixel < pixels; pixel += Tile::kThreads) {
            const int32_t place = pixel % width, h = top + pixel / width,
                          w = start + place % p.patch_columns * g.stride_w + place / p.patch_columns;
            table()[pixel] = inside(h, 0, g.h) && inside(w, 0, g.w) ? element(x, 0, h, w) : -1;
        }
        const int32_t first_row = warp_index() / Tile::kWarpColumns * Tile::kWarpM + lane_index() % 16;
#pragma unroll
        for (int m = 0; m < kFragments; ++m) {
            const int32_t at = first_row + m * 16;
            rows[m] = (at >> p.tile_w_log2) * g.stride_h * width + (at & (1 << p.tile_w_log2) - 1);
        }
        __syncthreads();
    }
    WC_DEVICE unsigned char* patch(int32_t index) const {
        return shared_memory() + kWeightBytes + index % 2 * pixels * kRowBytes;
    }
    WC_DEVICE int32_t* table() const { return (int32_t*)patch(0) + 2 * pixels * (kRowBytes / 4); }

    WC_DEVICE void load() {
        const int32_t pixel = slice * kSlice + row, offset = pixel < pixels ? table()[pixel] : -1;
#pragma unroll
        for (int e = 0; e < kChunk; ++e) values.at[e] = offset >= 0 && e < left ? from[offset + e * stride_c] : T{};
    }
    WC_DEVICE void store(unsigned char* to) {
        const int32_t pixel = slice * kSlice + row;
        if (pixel < pixels) store_vector<kChunk>((T*)(to + chunk_at(pixel, chunk)), values);
        ++slice;
    }
    WC_DEVICE void advance() {
        slice = 0;
        from += (int64_t)kK * stride_c;
        left -= kK;
    }
    // Loads the whole first patch.
    WC_DEVICE void fill() {
        while (slice < slices) {
            load();
            store(patch(0));
        }
        advance();
    }
    // Loads one tap's share of the next patch. The last slice of a share stays under way until `deposit`.
    WC_DEVICE void fetch(unsigned char* to) {
        const int32_t end = slice + share < slices ? slice + share : slices;
        while (slice + 1 < end) {
            load();
            store(to);
        }
        under_way = slice < end;
        if (under_way) load();
    }
    WC_DEVICE void deposit(unsigned char* to) {
        if (under_way) store(to);
    }
};

// Adds the products of all channels, kK at a time, and within those of all taps; weights are packed in that order.
// Afterwards the shared memory is free.
template <typename T, typename Tile>
WC_DEVICE void multiply_patches(const ConvPatchParams& p, WarpSums<T, Tile>& sums, Patches<T, Tile>& a,
                                WeightTiles<Tile>& b, int32_t chunks) {
    constexpr int kSlot = Tile::kN * kRowBytes;
    const ConvGeometryParams& g = p.conv.geometry;
    unsigned char* const shared = shared_memory();
    const int32_t b_begin = warp_index() % Tile::kWarpColumns * Tile::kWarpN * kRowBytes;
    const int32_t steps = chunks * g.kernel_h * g.kernel_w, width = p.patch_columns * g.stride_w;
    const int32_t far = g.dilation_w / g.stride_w, phases = g.dilation_w % g.stride_w; // from tap to tap
#pragma unroll 1
    for (int step = 0; step < kStages - 1; ++step) {
        if (step < steps) b.fetch(shared + step * kSlot);
        copy_async_commit();
    }
    a.fill();
    int32_t step = 0;
    for (int32_t chunk = 0; chunk < chunks; ++chunk) {
        const bool more = chunk + 1 < chunks;
        for (int32_t i = 0; i < g.kernel_h; ++i) {
            int32_t column = 0, phase = 0;
#pragma unroll 1
            for (int32_t j = 0; j < g.kernel_w; ++j, ++step) {
                copy_async_wait<kStages - 2>();
                // Weights and patch have arrived for all threads, and all are done with what is filled next.
                __syncthreads();
                const int32_t coming = step + kStages - 1;
                if (coming < steps) b.fetch(shared + coming % kStages * kSlot);
                copy_async_commit();
                if (more) a.fetch(a.patch(chunk + 1));
                const PatchRows<Patches<T, Tile>::kFragments> rows{
                    a.patch(chunk), a.rows, i * g.dilation_h * width + phase * p.patch_columns + column};
                sums.multiply(rows, shared + step % kStages * kSlot + b_begin);
                if (more) a.deposit(a.patch(chunk + 1));
                column += far;
                phase += phases;
                if (phase >= g.stride_w) {
                    phase -= g.stride_w;
                    ++column;
                }
            }
        }
        a.advance();
    }
    copy_async_wait<0>();
    __syncthreads();
}
