// The store of an implicit GEMM: the sums of a block go through the epilogue into the output. Each warp passes 32 rows
// at a time through shared memory, so that a thread gets neighbours in the output and writes 16 bytes where addresses
// allow it. Where slices have summed parts of k, their sums are added there, always in the same order, and each slice
// stores its share of the rows or channels.
#pragma once
#include "epilogue.cuh"
#include "gather.cuh"
#include "output.cuh"

// Where the pixels of a GEMM lie in the output: everywhere, or at every step-th pixel from (top, left) on.
struct OutputSteps {
    int32_t top = 0, left = 0, step_h = 1, step_w = 1;
    WC_DEVICE bool everywhere() const { return step_h == 1 && step_w == 1; }
};

// A column of the GEMM in the output: a channel, and the distance from a row's pixel to the column's.
struct OutputColumn {
    int32_t channel, down, right;
    WC_DEVICE Pixel of(Pixel at) const { return {at.n, at.h + down, at.w + right}; }
};

// The place of a block in the output: pixels from `row` on, of `rows`, and channels of `group` from `column` on.
struct TilePlace {
    int32_t row, rows, group, column;
    OutputSteps outputs = {};
    static constexpr bool kClasses = false; // a column is a channel, not a channel of a class of pixels
    // Whether pixel m of the GEMM exists, and where it lies.
    WC_DEVICE bool exists(const ConvGeometryParams&, int32_t m) const { return m < rows; }
    WC_DEVICE Pixel pixel(const ConvGeometryParams& g, int32_t m) const {
        const Pixel at = output_pixel(g, m);
        return {at.n, outputs.top + at.h * outputs.step_h, outputs.left + at.w * outputs.step_w};
    }
    // Whether chunks of pixels are neighbours in dense planes and exist as a whole or not at all.
    template <int kChunk> WC_DEVICE bool runs(const ConvGeometryParams& g) const {
        return outputs.everywhere() && g.h_out * g.w_out % kChunk == 0;
    }
    // Column n of the group, and whether its pixel at a row lies in the output.
    WC_DEVICE OutputColumn output_column(const ConvGeometryParams& g, int32_t n) const {
        return {group * (g.c_out / g.groups) + n, 0, 0};
    }
    WC_DEVICE bool has(const Pixel&) const { return true; }
};

// The place of a block that has a rectangle of pixels of one image, row after row from `first` on.
struct RectanglePlace {
    Pixel first;
    int32_t width_log2, group, column;
    static constexpr int32_t row = 0;
    static constexpr bool kClasses = false;
    WC_DEVICE Pixel pixel(const ConvGeometryParams&, int32_t m) const {
        return {first.n, first.h + (m >> width_log2), first.w + (m & (1 << width_log2) - 1)};
    }
    WC_DEVICE bool exists(const ConvGeometryParams& g, int32_t m) const {
        const Pixel at = pixel(g, m);
        return at.h < g.h_out && at.w < g.w_out;
    }
    template <int kChunk> WC_DEVICE bool runs(const ConvGeometryParams& g) const {
        return g.w_out % kChunk == 0 && 1 << width_log2 >= kChunk;
    }
    WC_DEVICE OutputColumn output_column(const ConvGeometryParams& g, int32_t n) const {
        return {group * (g.c_out / g.groups) + n, 0, 0};
    }
    WC_DEVICE bool has(const Pixel&) const { return true; }
};

// The place of a block where a column is a channel of one of step_h x step_w classes of pixels. Row m stands for a
// block of pixels, one of each class; in a block at the border some of them lie outside the output, which is h_out x
// w_out. Columns are [class's row][class's column][channel] or, with kAlongRows, [class's row][channel][class's
// column].
template <bool kAlongRows> struct ClassesPlace : TilePlace {
    int32_t channels, h_out, w_out; // channels: of a group
    static constexpr bool kClasses = true;
    WC_DEVICE OutputColumn output_column(const ConvGeometryParams&, int32_t n) const {
        const int32_t in_row = channels * outputs.step_w, rest = n % in_row;
        const int32_t channel = kAlongRows ? rest / outputs.step_w : rest % channels,
                      right = kAlongRows ? rest % outputs.step_w : rest / channels;
        return {group * channels + channel, n / in_row, right};
    }
    WC_DEVICE bool has(const Pixel& at) const {
        return (uint32_t)at.h < (uint32_t)h_out && (uint32_t)at.w < (uint32_t)w_out;
    }
    // Whether a chunk of columns is kChunk channels of one pixel.
    template <int kChunk> WC_DEVICE bool chunks() const { return !kAlongRows && channels % kChunk == 0; }
    // How many neighbouring threads take neighbouring columns: the largest power of two of columns that are close to
    // each other in y.
    template <bool kChannelsLast> WC_DEVICE int32_t lanes(int32_t columns) const {
        int32_t lanes = 1;
        if constexpr (kChannelsLast)
            while (lanes < columns && lanes < 32) lanes *= 2;
        else if (kAlongRows)
            while (lanes < 32 && outputs.step_w % (2 * lanes) == 0) lanes *= 2;
        return lanes;
    }
};

// Where the blocks of pixels of a GEMM lie in the output.
template <bool kAlongRows> struct OutputClasses {
    OutputSteps blocks;
    int32_t channels, h_out, w_out;
};

WC_DEVICE TilePlace place_of(const OutputSteps& outputs, int32_t row, int32_t rows, int32_t group, int32_t column) {
    return {row, rows, group, column, outputs};
}
template <bool kAlongRows>
WC_DEVICE ClassesPlace<kAlongRows> place_of(const OutputClasses<kAlongRows>& o, int32_t row, int32_t rows,
                                            int32_t group, int32_t column) {
    return {{row, rows, group, column, o.blocks}, o.channels, o.h_out, o.w_out};
}

template <typename T> WC_DEVICE bool aligned_to_chunks(const Tensor4& t, bool channels_last) {
    constexpr int kChunk = kChunkBytes / sizeof(T);
    const int64_t strides = channels_last ? t.stride_n | t.stride_h | t.stride_w : t.stride_n | t.stride_c;
    return (t.address | (uint64_t)strides * sizeof(T)) % kChunkBytes == 0 && strides % kChunk == 0;
}

// Adds what all slices have staged, of one element or of four neighbours. `staged` points to the first slice's.
template <typename Tile> WC_DEVICE float staged_sum(const float* staged) {
    float sum = *staged;
#pragma unroll
    for (int slice = 1; slice < Tile::kSlices; ++slice)
        sum += staged[slice * Tile::kSliceWarps * (Tile::kStagingBytes / 4)];
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

// Stores one channel of one pixel.
template <typename T> WC_DEVICE void store_element(const ConvParams& p, float sum, Pixel at, int32_t channel) {
    image<T>(p.y, at.n)[output_element(p, channel, at.h, at.w)] =
        epilogue<T>(p.epilogue, sum, at.n, channel, at.h, at.w);
}

// Stores classes of pixels one element at a time. Neighbouring threads have `lanes` neighbouring columns, then
// neighbouring rows.
template <typename T, typename Tile, bool kChannelsLast, typename Place>
WC_DEVICE void store_classes(const ConvParams& p, const float* staged, const Place& tile, int32_t first_row,
                             int32_t first_column) {
    static_assert(Tile::kSlices == 1, "a warp stores all of its sums");
    constexpr int kRow = kChannelsLast ? Tile::kChannelsStride : 1, kColumn = kChannelsLast ? 1 : Tile::kRowsStride;
    const ConvGeometryParams& g = p.geometry;
    const int32_t all = g.c_out / g.groups - first_column, columns = all < Tile::kWarpN ? all : Tile::kWarpN;
    const int32_t lanes = tile.template lanes<kChannelsLast>(columns);
    for (int32_t n = lane_index() % lanes; n < columns; n += lanes) {
        const OutputColumn column = tile.output_column(g, first_column + n);
        for (int32_t row = lane_index() / lanes; row < kStoreRows && tile.exists(g, first_row + row);
             row += 32 / lanes) {
            const Pixel at = column.of(tile.pixel(g, first_row + row));
            if (tile.has(at)) store_element<T>(p, staged[row * kRow + n * kColumn], at, column.channel);
        }
    }
}

// How chunks of channels are stored, from `channel` on. All pixels share it.
template <typename T> struct ChannelStore {
    static constexpr int kChunk = kChunkBytes / sizeof(T);
    int32_t channel, place;
    bool vectors;

    WC_DEVICE ChannelStore(const ConvParams& p, int32_t first_channel)
        : channel(first_channel), place(output_channel(p, first_channel)),
          vectors(p.y.stride_c == 1 && aligned_to_chunks<T>(p.y, true) && sub_pixels_aligned<kChunk>(p)) {}
    // Stores a whole chunk: in one access where its channels are neighbours in y, otherwise at their stride.
    WC_DEVICE void store(const ConvParams& p, float (&sum)[kChunk], Pixel at) const {
        const Vector<T, kChunk> y = epilogue<T>(p.epilogue, sum, ChannelRun{at.n, channel, at.h, at.w});
        T* to = image<T>(p.y, at.n) + element(p.y, 0, at.h, at.w) + place;
        if (vectors) {
            store_vector<kChunk>(to, y);
        } else {
            for (int i = 0; i < kChunk; ++i) to[i * p.y.stride_c] = y.at[i];
        }
    }
};

// Stores to channels_last: a thread has a chunk of channels of one pixel.
template <typename T, typename Tile, typename Place>
WC_DEVICE void store_channels(const ConvParams& p, const float* staged, const Place& tile, int32_t first_row,
                              int32_t column) {
    constexpr int kChunk = kChunkBytes / sizeof(T), kChunks = Tile::kWarpN / kChunk, kRows = 32 / kChunks;
    const ConvGeometryParams& g = p.geometry;
    if constexpr (Place::kClasses) {
        if (!tile.template chunks<kChunk>()) return store_classes<T, Tile, true>(p, staged, tile, first_row, column);
    }
    const int32_t columns = g.c_out / g.groups, n = column + lane_index() % kChunks * kChunk;
    if (n >= columns) return;
    const OutputColumn own = tile.output_column(g, n);
    const int32_t channel = own.channel;
    const bool whole = n + kChunk <= columns && channel % kChunk == 0 && runs_of_chunks<kChunk>(p);
    const ChannelStore<T> to(p, channel);
    const int32_t begin = slice_index<Tile>() * (kStoreRows / Tile::kSlices), end = begin + kStoreRows / Tile::kSlices;
    for (int32_t row = begin + lane_index() / kChunks; row < end; row += kRows) {
        if (!tile.exists(g, first_row + row)) continue;
        const float* from = staged + row * Tile::kChannelsStride + lane_index() % kChunks * kChunk;
        const Pixel at = own.of(tile.pixel(g, first_row + row));
        if (!tile.has(at)) continue;
        if (!whole) {
            for (int i = 0; i < kChunk && n + i < columns; ++i)
                store_element<T>(p, staged_sum<Tile>(from + i), at, channel + i);
            continue;
        }
        float sum[kChunk];
        if constexpr (kChunk == 8) {
            // Odd rows, and the second four chunks of a row, read their second half first: the strides of rows and
            // chunks would otherwise meet in the same banks.
            const int odd = (row + lane_index() % kChunks / 4) & 1;
            const Vector<float, 4> first = staged_sums<Tile>(from + odd * 4),
                                   second = staged_sums<Tile>(from + (odd ^ 1) * 4);
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

// Stores to contiguous: a thread has a chunk of pixels of one channel where chunks are whole and aligned, otherwise one
// pixel of every channel.
template <typename T, typename Tile, typename Place>
WC_DEVICE void store_pixels(const ConvParams& p, const float* staged, const Place& tile, int32_t first_row,
                            int32_t column) {
    constexpr int kChunk = kChunkBytes / sizeof(T), kChunks = kStoreRows / kChunk, kChannels = 32 / kChunks;
    static_assert(kStoreRows == 32, "a lane has a pixel");
    const ConvGeometryParams& g = p.geometry;
    const int32_t group_channels = g.c_out / g.groups;
    const int32_t begin = slice_index<Tile>() * (Tile::kWarpN / Tile::kSlices),
                  end = begin + Tile::kWarpN / Tile::kSlices;
    if (!(tile.template runs<kChunk>(g) && aligned_to_chunks<T>(p.y, false) && p.y.stride_w == 1 &&
          p.y.stride_h == g.w_out)) {
        if (!tile.exists(g, first_row + lane_index())) return;
        const Pixel at = tile.pixel(g, first_row + lane_index());
#pragma unroll 1
        for (int32_t c = begin; c < end && column + c < group_channels; ++c)
            store_element<T>(p, staged_sum<Tile>(staged + c * Tile::kRowsStride + lane_index()), at,
                             tile.group * group_channels + column + c);
        return;
    }
    const int32_t chunk = lane_index() % kChunks * kChunk;
    if (!tile.exists(g, first_row + chunk)) return;
    const Pixel first = tile.pixel(g, first_row + chunk);
    for (int32_t c = begin + lane_index() / kChunks; c < end && column + c < group_channels; c += kChannels) {
        const float* from = staged + c * Tile::kRowsStride + chunk;
        const int32_t channel = tile.group * group_channels + column + c;
        float sum[kChunk];
        for (int i = 0; i < kChunk; i += 4) {
            const Vector<float, 4> four = staged_sums<Tile>(from + i);
            for (int k = 0; k < 4; ++k) sum[i + k] = four.at[k];
        }
        const Vector<T, kChunk> y = epilogue<T>(p.epilogue, sum, PlaneRun{first.n, channel, first.h, first.w, g.w_out});
        store_vector<kChunk>(image<T>(p.y, first.n) + element(p.y, channel, first.h, first.w), y);
    }
}

// Separates what the warps stage from what they read: within a warp, or in the whole block where slices are added.
template <typename Tile> WC_DEVICE void sync_staging() {
    if constexpr (Tile::kSlices == 1)
        sync_warp();
    else
        __syncthreads();
}

// The shared memory of the block is free from `begin` on, as multiply_tiles leaves it.
template <typename T, typename Tile, typename Math, typename Place>
WC_DEVICE void store_tile(const ConvParams& p, const WarpSums<Math, Tile>& sums, const Place& tile, int32_t begin = 0) {
    unsigned char* const staging = shared_memory() + begin;
    float* const own = (float*)(staging + warp_index() * Tile::kStagingBytes);
    const float* const staged = (const float*)(staging + slice_warp<Tile>() * Tile::kStagingBytes);
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
            if constexpr (Place::kClasses)
                store_classes<T, Tile, false>(p, staged, tile, row + block * kStoreRows, column);
            else
                store_pixels<T, Tile>(p, staged, tile, row + block * kStoreRows, column);
        }
        sync_staging<Tile>();
    }
}
