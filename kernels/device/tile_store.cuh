// Stores: how a block's sums get through the epilogue into the output. Each warp takes 32 rows at a time through shared memory,
// so that a thread holds neighbours in the output and writes them in 16 bytes where addresses allow.
#pragma once
#include "epilogue.cuh"
#include "gather.cuh"

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

// One channel of one pixel.
template <typename T> WC_DEVICE void store_element(const ConvParams& p, float sum, Pixel at, int32_t channel) {
    image<T>(p.y, at.n)[element(p.y, channel, at.h, at.w)] = epilogue<T>(p.epilogue, sum, at.n, channel, at.h, at.w);
}

// channels_last: a thread has a chunk of channels of one pixel.
template <typename T, typename Tile> WC_DEVICE void store_channels(const ConvParams& p, const float* staged, const TilePlace& tile, int32_t first_row, int32_t column) {
    constexpr int kChunk = kChunkBytes / sizeof(T), kChunks = Tile::kWarpN / kChunk, kRows = 32 / kChunks;
    const ConvGeometryParams& g = p.geometry;
    const int32_t group_channels = g.c_out / g.groups, n = column + lane_index() % kChunks * kChunk, channel = tile.group * group_channels + n;
    if (n >= group_channels) return;
    const bool whole = n + kChunk <= group_channels && channel % kChunk == 0, vectors = aligned_to_chunks<T>(p.y, true);
    for (int32_t row = lane_index() / kChunks; row < kStoreRows && first_row + row < tile.rows; row += kRows) {
        const float* from = staged + row * Tile::kChannelsStride + lane_index() % kChunks * kChunk;
        const Pixel at = tile.pixel(g, first_row + row);
        if (!whole) {
            for (int i = 0; i < kChunk && n + i < group_channels; ++i) store_element<T>(p, from[i], at, channel + i);
            continue;
        }
        float sum[kChunk];
        if constexpr (kChunk == 8) {
            // odd rows read their second half first: the strides of rows and chunks would meet in the same banks
            const int odd = row & 1;
            const Vector<float, 4> first = load_vector<4>(from + odd * 4), second = load_vector<4>(from + (odd ^ 1) * 4);
            for (int i = 0; i < 4; ++i) {
                sum[i] = odd ? second.at[i] : first.at[i];
                sum[i + 4] = odd ? first.at[i] : second.at[i];
            }
        } else {
            const Vector<float, 4> all = load_vector<4>(from);
            for (int i = 0; i < 4; ++i) sum[i] = all.at[i];
        }
        const Vector<T, kChunk> y = epilogue_channels<T, kChunk>(p.epilogue, sum, at.n, channel, at.h, at.w);
        T* to = image<T>(p.y, at.n) + element(p.y, channel, at.h, at.w);
        if (vectors && p.y.stride_c == 1) {
            store_vector<kChunk>(to, y);
        } else {
            for (int i = 0; i < kChunk; ++i) to[i * p.y.stride_c] = y.at[i];
        }
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
    for (int32_t c = lane_index() / kChunks; c < Tile::kWarpN && column + c < group_channels; c += kChannels) {
        const float* from = staged + c * Tile::kRowsStride + chunk;
        const int32_t channel = tile.group * group_channels + column + c;
        if (vectors) {
            float sum[kChunk];
            for (int i = 0; i < kChunk; i += 4) {
                const Vector<float, 4> four = load_vector<4>(from + i);
                for (int k = 0; k < 4; ++k) sum[i + k] = four.at[k];
            }
            const Vector<T, kChunk> y = epilogue_plane<T, kChunk>(p.epilogue, sum, first.n, channel, first.h, first.w, g.w_out);
            store_vector<kChunk>(image<T>(p.y, first.n) + element(p.y, channel, first.h, first.w), y);
        } else {
            for (int i = 0; i < kChunk && row + i < tile.rows; ++i) store_element<T>(p, from[i], tile.pixel(g, row + i), channel);
        }
    }
}

// The block's shared memory is free, as multiply_tiles leaves it.
template <typename T, typename Tile, typename Math> WC_DEVICE void store_tile(const ConvParams& p, const WarpSums<Math, Tile>& sums, const TilePlace& tile) {
    float* const staged = (float*)(shared_memory() + warp_index() * Tile::kStagingBytes);
    const int32_t row = tile.row + warp_index() / Tile::kWarpColumns * Tile::kWarpM;
    const int32_t column = tile.column + warp_index() % Tile::kWarpColumns * Tile::kWarpN;
    const bool channels_last = p.y.stride_c == 1;
    for (int block = 0; block < Tile::kWarpM / kStoreRows; ++block) {
        if (channels_last) {
            sums.template stage<true>(staged, block);
            sync_warp();
            store_channels<T, Tile>(p, staged, tile, row + block * kStoreRows, column);
        } else {
            sums.template stage<false>(staged, block);
            sync_warp();
            store_pixels<T, Tile>(p, staged, tile, row + block * kStoreRows, column);
        }
        sync_warp();
    }
}
