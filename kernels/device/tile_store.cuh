// Stores: how a block's sums get through the epilogue into the output. Each warp takes 32 rows at a time through shared memory,
// so that a thread holds neighbours in the output and writes them in 16 bytes where addresses allow. Where slices have summed
// parts of k, they are added there, always in the same order, and each slice stores a part of the rows or channels.
#pragma once
#include "epilogue.cuh"
#include "gather.cuh"
#include "output.cuh"

// Where the pixels of a GEMM lie in the output: all of it, or every step-th pixel from (top, left) on.
struct OutputSteps {
    int32_t top = 0, left = 0, step_h = 1, step_w = 1;
    WC_DEVICE bool everywhere() const { return step_h == 1 && step_w == 1; }
};

// The block's place in the output: pixels from `row` on of `rows`, channels of `group` from `column` on.
struct TilePlace {
    int32_t row, rows, group, column;
    OutputSteps outputs = {};
    // Pixel m of the GEMM.
    WC_DEVICE Pixel pixel(const ConvGeometryParams& g, int32_t m) const {
        const Pixel at = output_pixel(g, m);
        return {at.n, outputs.top + at.h * outputs.step_h, outputs.left + at.w * outputs.step_w};
    }
};

template <typename T> WC_DEVICE bool aligned_to_chunks(const Tensor4& t, bool channels_last) {
    constexpr int kChunk = kChunkBytes / sizeof(T);
    const int64_t strides = channels_last ? t.stride_n | t.stride_h | t.stride_w : t.stride_n | t.stride_c;
    return (t.address | (uint64_t)strides * sizeof(T)) % kChunkBytes == 0 && strides % kChunk == 0;
}

// What all slices have staged, of one element and of four neighbours. `staged` is the first slice's.
template <typename Tile> WC_DEVICE float staged_sum(const float* staged) {
    float sum = *staged;
#pragma unroll
    for (int slice = 1; slice < Tile::kSlices; ++slice) sum += staged[slice * Tile::kSliceWarps * (Tile::kStagingBytes / 4)];
    return sum;
}
template <typename Tile> WC_DEVICE Vector<float, 4> staged_sums(const float* staged) {
    Vector<float, 4> sum = load_vector<4>(staged);
#pragma unroll
    for (int slice = 1; slice < Tile::kSlices; ++slice) {
        const Vector<float, 4> more = load_vector<4>(staged + slice * Tile::kSliceWarps * (Tile::kStagingBytes / 4));
        for (int i = 0; i < 4; ++i) sum.at[i] += more.at[i];
    }
    return sum;
}

// One channel of one pixel.
template <typename T> WC_DEVICE void store_element(const ConvParams& p, float sum, Pixel at, int32_t channel) {
    image<T>(p.y, at.n)[output_element(p, channel, at.h, at.w)] = epilogue<T>(p.epilogue, sum, at.n, channel, at.h, at.w);
}

// How chunks of channels, from `channel` on, get into the output: the same for all pixels.
template <typename T> struct ChannelStore {
    static constexpr int kChunk = kChunkBytes / sizeof(T);
    int32_t channel, place;
    bool vectors;

    WC_DEVICE ChannelStore(const ConvParams& p, int32_t first_channel)
        : channel(first_channel), place(output_channel(p, first_channel)),
          vectors(p.y.stride_c == 1 && aligned_to_chunks<T>(p.y, true) && sub_pixels_aligned<kChunk>(p)) {}
    // A whole chunk: neighbours in y, or at its channels' stride.
    WC_DEVICE void store(const ConvParams& p, float (&sum)[kChunk], Pixel at) const {
        const Vector<T, kChunk> y = epilogue_channels<T, kChunk>(p.epilogue, sum, at.n, channel, at.h, at.w);
        T* to = image<T>(p.y, at.n) + element(p.y, 0, at.h, at.w) + place;
        if (vectors) {
            store_vector<kChunk>(to, y);
        } else {
            for (int i = 0; i < kChunk; ++i) to[i * p.y.stride_c] = y.at[i];
        }
    }
};

// channels_last: a thread has a chunk of channels of one pixel.
template <typename T, typename Tile> WC_DEVICE void store_channels(const ConvParams& p, const float* staged, const TilePlace& tile, int32_t first_row, int32_t column) {
    constexpr int kChunk = kChunkBytes / sizeof(T), kChunks = Tile::kWarpN / kChunk, kRows = 32 / kChunks;
    const ConvGeometryParams& g = p.geometry;
    const int32_t group_channels = g.c_out / g.groups, n = column + lane_index() % kChunks * kChunk, channel = tile.group * group_channels + n;
    if (n >= group_channels) return;
    const bool whole = n + kChunk <= group_channels && channel % kChunk == 0 && runs_of_chunks<kChunk>(p);
    const ChannelStore<T> to(p, channel);
    const int32_t begin = slice_index<Tile>() * (kStoreRows / Tile::kSlices), end = begin + kStoreRows / Tile::kSlices;
    for (int32_t row = begin + lane_index() / kChunks; row < end && first_row + row < tile.rows; row += kRows) {
        const float* from = staged + row * Tile::kChannelsStride + lane_index() % kChunks * kChunk;
        const Pixel at = tile.pixel(g, first_row + row);
        if (!whole) {
            for (int i = 0; i < kChunk && n + i < group_channels; ++i) store_element<T>(p, staged_sum<Tile>(from + i), at, channel + i);
            continue;
        }
        float sum[kChunk];
        if constexpr (kChunk == 8) {
            // odd rows, and the second four chunks of a row, read their second half first: the strides of rows and chunks would meet
            // in the same banks
            const int odd = (row + lane_index() % kChunks / 4) & 1;
            const Vector<float, 4> first = staged_sums<Tile>(from + odd * 4), second = staged_sums<Tile>(from + (odd ^ 1) * 4);
            for (int i = 0; i < 4; ++i) {
                sum[i] = odd ? second.at[i] : first.at[i];
                sum[i + 4] = odd ? first.at[i] : second.at[i];
            }
        } else {
            const Vector<float, 4> all = staged_sums<Tile>(from);
            for (int i = 0; i < 4; ++i) sum[i] = all.at[i];
        }
        to.store(p, sum, at);
    }
}

// contiguous: a thread has a chunk of pixels of one channel. Chunks are whole, within an image and aligned, where planes are
// multiples of a chunk.
template <typename T, typename Tile> WC_DEVICE void store_pixels(const ConvParams& p, const float* staged, const TilePlace& tile, int32_t first_row, int32_t column) {
    constexpr int kChunk = kChunkBytes / sizeof(T), kChunks = kStoreRows / kChunk, kChannels = 32 / kChunks;
    const ConvGeometryParams& g = p.geometry;
    const int32_t group_channels = g.c_out / g.groups, chunk = lane_index() % kChunks * kChunk, row = first_row + chunk;
    if (row >= tile.rows) return;
    const bool vectors = tile.outputs.everywhere() && aligned_to_chunks<T>(p.y, false) && g.h_out * g.w_out % kChunk == 0 && p.y.stride_w == 1 && p.y.stride_h == g.w_out;
    const Pixel first = tile.pixel(g, row);
    const int32_t begin = slice_index<Tile>() * (Tile::kWarpN / Tile::kSlices), end = begin + Tile::kWarpN / Tile::kSlices;
    for (int32_t c = begin + lane_index() / kChunks; c < end && column + c < group_channels; c += kChannels) {
        const float* from = staged + c * Tile::kRowsStride + chunk;
        const int32_t channel = tile.group * group_channels + column + c;
        if (vectors) {
            float sum[kChunk];
            for (int i = 0; i < kChunk; i += 4) {
                const Vector<float, 4> four = staged_sums<Tile>(from + i);
                for (int k = 0; k < 4; ++k) sum[i + k] = four.at[k];
            }
            const Vector<T, kChunk> y = epilogue_plane<T, kChunk>(p.epilogue, sum, first.n, channel, first.h, first.w, g.w_out);
            store_vector<kChunk>(image<T>(p.y, first.n) + element(p.y, channel, first.h, first.w), y);
        } else {
            for (int i = 0; i < kChunk && row + i < tile.rows; ++i) store_element<T>(p, staged_sum<Tile>(from + i), tile.pixel(g, row + i), channel);
        }
    }
}

// Orders what the warps stage and read: each its own, but where slices are added up.
template <typename Tile> WC_DEVICE void sync_staging() {
    if constexpr (Tile::kSlices == 1)
        sync_warp();
    else
        __syncthreads();
}

// The block's shared memory is free, as multiply_tiles leaves it.
template <typename T, typename Tile, typename Math> WC_DEVICE void store_tile(const ConvParams& p, const WarpSums<Math, Tile>& sums, const TilePlace& tile) {
    float* const own = (float*)(shared_memory() + warp_index() * Tile::kStagingBytes);
    const float* const staged = (const float*)(shared_memory() + slice_warp<Tile>() * Tile::kStagingBytes);
    const int32_t row = tile.row + slice_warp<Tile>() / Tile::kWarpColumns * Tile::kWarpM;
    const int32_t column = tile.column + slice_warp<Tile>() % Tile::kWarpColumns * Tile::kWarpN;
    const bool channels_last = p.y.stride_c == 1;
    for (int block = 0; block < Tile::kWarpM / kStoreRows; ++block) {
        if (channels_last) {
            sums.template stage<true>(own, block);
            sync_staging<Tile>();
            store_channels<T, Tile>(p, staged, tile, row + block * kStoreRows, column);
        } else {
            sums.template stage<false>(own, block);
            sync_staging<Tile>();
            store_pixels<T, Tile>(p, staged, tile, row + block * kStoreRows, column);
        }
        sync_staging<Tile>();
    }
}
