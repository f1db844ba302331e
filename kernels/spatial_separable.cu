// Spatially separable convolution in one kernel, each channel on its own: a column of taps, then a row of taps.
//
//   mid[n, c, p, v] = round( bias[c] + sum over i of x[n, c, p*sh + i*dh - top, v] * column[c, i] ),
//                     0 for v outside the image
//   y[n, c, p, q] = epilogue( sum over j of mid[n, c, p, q*sw + j*dw - left] * row[c, j] )
//
// The middle never exists in global memory. It is rounded once to T, and its padding is zeros and not biases, so that
// the result is that of two launches, bit for bit.
//
// Tiling: a block takes channels x tile_h x tile_w outputs. First its threads share what these outputs see of the
// middle, tile_h rows of all columns that a tap reaches, and leave it in shared memory; then they share the outputs.
// Neighbouring blocks both compute the columns between them, so wide tiles pay. In both stages a thread computes 4
// outputs along the axis of the stage for kVector neighbours across it. With stride 1 and dilation 1 neighbouring taps
// share a window of pixels in registers, each loaded and converted once.
//   channels_last   kVector channels of a pixel: 16 bytes where aligned, otherwise one. The middle is T, laid out as
//                   [row][column][channel].
//   contiguous      columns of a plane: two of 16 bits where aligned, otherwise one. The middle is f32, laid out as
//                   [plane][row][column], where 4 outputs read their first taps in one access of 16 bytes. The taps are
//                   there as well, 4 in an access.
//
// Bound: DRAM for kernels of up to about 7 (x and y are moved once; two launches would also move the middle twice).
// Above, the FFMA lanes, with kh + kw products for an output instead of kh * kw. Ladder: (1) x is read straight into
// registers, and again only where groups of 4 outputs meet; (2) the window, in both stages; (3) the weight of a tap is
// converted once for 4 outputs.
#include "device/rows.cuh"

constexpr int kOutputs = SPATIAL_OUTPUTS; // of a thread, along the axis of a stage
constexpr int kTaps = SPATIAL_OUTPUTS;    // that share a window

// Adds `taps` products to each of the first `outputs` sums. Tap k of output o sees pixel o * stride + k * dilation of
// `line`.
template <int kVector, typename Line, typename Weights>
WC_DEVICE void convolve_line(float (&sum)[kOutputs][kVector], const Line& line, const Weights& weights, int32_t taps,
                             int32_t stride, int32_t dilation, int32_t outputs) {
    if (stride == 1 && dilation == 1) {
        const int32_t end = outputs - 1 + taps;
        float window[kOutputs + kTaps][kVector]; // pixels k .. k + 7
        line.four(window, 0, end);
        for (int32_t k = 0; k < taps; k += kTaps) {
            line.four(window + kOutputs, k + kOutputs, end);
            const typename Weights::Four four = weights.four(k);
#pragma unroll
            for (int e = 0; e < kTaps; ++e) {
                if (k + e >= taps) continue; // a zero times an infinity would be NaN
                float factor[kVector];
                weights.tap(factor, four, k, e);
#pragma unroll
                for (int o = 0; o < kOutputs; ++o)
#pragma unroll
                    for (int v = 0; v < kVector; ++v) sum[o][v] = fmaf(window[o + e][v], factor[v], sum[o][v]);
            }
#pragma unroll
            for (int o = 0; o < kOutputs; ++o)
#pragma unroll
                for (int v = 0; v < kVector; ++v) window[o][v] = window[o + kTaps][v];
        }
    } else {
        for (int32_t k = 0; k < taps; k += kTaps) {
            const typename Weights::Four four = weights.four(k);
#pragma unroll
            for (int e = 0; e < kTaps; ++e) {
                if (k + e >= taps) continue;
                float value[kOutputs][kVector], factor[kVector];
#pragma unroll
                for (int o = 0; o < kOutputs; ++o)
                    line.pixel(value[o], o < outputs ? o * stride + (k + e) * dilation : 0, o < outputs);
                weights.tap(factor, four, k, e);
#pragma unroll
                for (int o = 0; o < kOutputs; ++o)
#pragma unroll
                    for (int v = 0; v < kVector; ++v) sum[o][v] = fmaf(value[o][v], factor[v], sum[o][v]);
            }
        }
    }
}

// Reads kVector neighbours at steps of `stride` elements. Positions below 0 and from `count` on give zeros, and so do
// those that are not `wanted`.
template <typename T, int kVector> struct StridedLine {
    const T* from; // position 0 of the tensor
    int32_t stride, first, count;
    WC_DEVICE void pixel(float (&value)[kVector], int32_t position, bool wanted) const {
        const int32_t at = first + position;
        Vector<T, kVector> x{};
        if (wanted && at >= 0 && at < count) x = load_vector<kVector>(from + at * stride);
#pragma unroll
        for (int v = 0; v < kVector; ++v) value[v] = to_float(x.at[v]);
    }
    WC_DEVICE void four(float (*value)[kVector], int32_t position, int32_t end) const {
#pragma unroll
        for (int e = 0; e < 4; ++e) pixel(value[e], position + e, position + e < end);
    }
};
// Reads a row of f32 in shared memory, 16 bytes at a time, which may reach beyond the last pixel.
struct StagedLine {
    const float* from;
    WC_DEVICE void pixel(float (&value)[1], int32_t position, bool) const { value[0] = from[position]; }
    WC_DEVICE void four(float (*value)[1], int32_t position, int32_t) const {
        const Vector<float, 4> x = load_vector<4>(from + position);
#pragma unroll
        for (int e = 0; e < 4; ++e) value[e][0] = x.at[e];
    }
};

// Weights of kVector channels, [tap][channel].
template <typename T, int kVector> struct ChannelWeights {
    const T* from;
    int32_t step;
    struct Four {};
    WC_DEVICE Four four(int32_t) const { return {}; }
    WC_DEVICE void tap(float (&factor)[kVector], const Four&, int32_t k, int e) const {
        const Vector<T, kVector> w = load_vector<kVector>(from + (int64_t)(k + e) * step);
#pragma unroll
        for (int v = 0; v < kVector; ++v) factor[v] = to_float(w.at[v]);
    }
};
// Weights of one channel in shared memory, a multiple of four.
template <int kVector> struct StagedWeights {
    const float* from;
    using Four = Vector<float, 4>;
    WC_DEVICE Four four(int32_t k) const { return load_vector<4>(from + k); }
    WC_DEVICE void tap(float (&factor)[kVector], const Four& four, int32_t, int e) const {
#pragma unroll
        for (int v = 0; v < kVector; ++v) factor[v] = four.at[e];
    }
};

// The outputs of a block and what they see.
struct SeparableTile {
    int32_t channel, row, column;          // of the block's first output
    int32_t rows, columns, strips, groups; // that exist, and groups of four of both
    int32_t top, left, mid_columns;        // where its first tap reads, and the columns that all its taps see
    WC_DEVICE SeparableTile(const SpatialSeparableParams& p, int32_t vector) {
        const ConvGeometryParams& g = p.conv.geometry;
        const int32_t block = (int32_t)blockIdx.x;
        channel = block % p.channel_tiles * p.channels * vector;
        column = block / p.channel_tiles % p.column_tiles * p.tile_w;
        row = block / p.channel_tiles / p.column_tiles * p.tile_h;
        rows = g.h_out - row < p.tile_h ? g.h_out - row : p.tile_h;
        columns = g.w_out - column < p.tile_w ? g.w_out - column : p.tile_w;
        strips = (rows + kOutputs - 1) / kOutputs;
        groups = (columns + kOutputs - 1) / kOutputs;
        top = row * p.column.geometry.stride_h - p.column.geometry.pad_top;
        left = column * g.stride_w - g.pad_left;
        mid_columns = (columns - 1) * g.stride_w + (g.kernel_w - 1) * g.dilation_w + 1;
    }
};
WC_DEVICE int32_t up_to_four(int32_t count) { return count < kOutputs ? count : kOutputs; }

// kVector divides the number of channels.
template <typename T, int kVector> WC_DEVICE void spatial_separable_channels_last(const SpatialSeparableParams& p) {
    const ConvGeometryParams& g = p.conv.geometry;
    const ConvGeometryParams& vertical = p.column.geometry;
    const SeparableTile tile(p, kVector);
    T* mid = (T*)shared_memory();
    const int32_t threads = (int32_t)blockDim.x, pixel = p.channels * kVector; // elements of the middle
    const int32_t mid_items = p.channels * tile.mid_columns * tile.strips, items = p.channels * tile.groups * tile.rows;

    for (int32_t n = blockIdx.y; n < g.n; n += gridDim.y) {
        __syncthreads(); // every thread is done with the middle of the previous image
        for (int32_t item = threadIdx.x; item < mid_items; item += threads) {
            const int32_t vector = item % p.channels, column = item / p.channels % tile.mid_columns;
            const int32_t row = item / p.channels / tile.mid_columns * kOutputs;
            const int32_t channel = tile.channel + vector * kVector, w = tile.left + column,
                          rows = up_to_four(tile.rows - row);
            if (channel >= g.c_out) continue;
            const bool inside = w >= 0 && w < g.w;
            float sum[kOutputs][kVector] = {};
            if (inside) {
                const T* x = image<const T>(p.column.x, n) + element(p.column.x, 0, 0, w) + channel;
                const StridedLine<T, kVector> line{x, p.column.x.stride_h, tile.top + row * vertical.stride_h,
                                                   vertical.h};
                const ChannelWeights<T, kVector> weights{(const T*)p.column.weight + channel, g.c_out};
                convolve_line(sum, line, weights, vertical.kernel_h, vertical.stride_h, vertical.dilation_h, rows);
            }
            T* to = mid + (row * p.mid_w + column) * pixel + vector * kVector;
#pragma unroll
            for (int r = 0; r < kOutputs; ++r) {
                if (r >= rows) continue;
                const Vector<T, kVector> value = epilogue_without_residual<T>(p.column.epilogue, sum[r], channel);
                store_vector(to + r * p.mid_w * pixel, inside ? value : Vector<T, kVector>{});
            }
        }
        __syncthreads();
        for (int32_t item = threadIdx.x; item < items; item += threads) {
            const int32_t vector = item % p.channels, column = item / p.channels % tile.groups * kOutputs;
            const int32_t row = item / p.channels / tile.groups;
            const int32_t channel = tile.channel + vector * kVector, columns = up_to_four(tile.columns - column);
            if (channel >= g.c_out) continue;
            float sum[kOutputs][kVector] = {};
            const StridedLine<T, kVector> line{mid + row * p.mid_w * pixel + vector * kVector, pixel,
                                               column * g.stride_w, tile.mid_columns};
            const ChannelWeights<T, kVector> weights{(const T*)p.conv.weight + channel, g.c_out};
            convolve_line(sum, line, weights, g.kernel_w, g.stride_w, g.dilation_w, columns);
            const int32_t h = tile.row + row, w = tile.column + column;
            T* y = image<T>(p.conv.y, n) + channel;
#pragma unroll
            for (int q = 0; q < kOutputs; ++q)
                if (q < columns)
                    store_vector(y + element(p.conv.y, 0, h, w + q),
                                 epilogue<T>(p.conv.epilogue, sum[q], ChannelRun{n, channel, h, w + q}));
        }
    }
}

// Computes the middle of an image for a contiguous tile, in rows of p.mid_w. kPair neighbouring columns of x are read
// at once.
template <typename T, int kPair>
WC_DEVICE void stage_middle(float* mid, const float* taps, int32_t channel_taps, const SpatialSeparableParams& p,
                            const SeparableTile& tile, int32_t n) {
    const ConvGeometryParams& g = p.conv.geometry;
    const ConvGeometryParams& vertical = p.column.geometry;
    const int32_t shift = kPair == 1 ? 0 : tile.left & 1; // accesses start at even columns of the image
    const int32_t accesses = (p.mid_w + shift + kPair - 1) / kPair;
    for (int32_t item = threadIdx.x; item < accesses * tile.strips * p.channels; item += (int32_t)blockDim.x) {
        const int32_t column = item % accesses * kPair - shift, row = item / accesses % tile.strips * kOutputs;
        const int32_t plane = item / accesses / tile.strips, channel = tile.channel + plane, w = tile.left + column;
        if (channel >= g.c_out) continue;
        const int32_t rows = up_to_four(tile.rows - row);
        const bool inside = w >= 0 && w < g.w && column < tile.mid_columns;
        float sum[kOutputs][kPair] = {};
        if (inside) {
            const T* x = image<const T>(p.column.x, n) + element(p.column.x, channel, 0, w);
            const StridedLine<T, kPair> line{x, p.column.x.stride_h, tile.top + row * vertical.stride_h, vertical.h};
            const StagedWeights<kPair> weights{taps + plane * channel_taps};
            convolve_line(sum, line, weights, vertical.kernel_h, vertical.stride_h, vertical.dilation_h, rows);
        }
        float* to = mid + (plane * p.tile_h + row) * p.mid_w + column;
#pragma unroll
        for (int r = 0; r < kOutputs; ++r) {
            if (r >= rows) continue;
            const Vector<T, kPair> value =
                epilogue<T>(p.column.epilogue, sum[r], PixelRun{n, channel, tile.row + row + r, w, 0});
#pragma unroll
            for (int e = 0; e < kPair; ++e)
                if (column + e >= 0 && column + e < p.mid_w)
                    to[r * p.mid_w + e] = inside ? to_float(value.at[e]) : 0.0f;
        }
    }
}

template <typename T> WC_DEVICE void spatial_separable_contiguous(const SpatialSeparableParams& p) {
    const ConvGeometryParams& g = p.conv.geometry;
    const int32_t kernel_h = p.column.geometry.kernel_h;
    const SeparableTile tile(p, 1);
    const int32_t row_taps = (kernel_h + 3) / 4 * 4, channel_taps = row_taps + (g.kernel_w + 3) / 4 * 4;
    float* taps = (float*)shared_memory(); // of each plane: the column's, then the row's
    float* mid = taps + p.channels * channel_taps;
    const int32_t threads = (int32_t)blockDim.x, items = tile.groups * tile.rows * p.channels;
    const bool pairs = sizeof(T) == 2 && g.w % 2 == 0 && rows_aligned<2, T>(p.column.x),
               aligned = rows_aligned<4, T>(p.conv.y);
    for (int32_t item = threadIdx.x; item < p.channels * channel_taps; item += threads) {
        const int32_t channel = tile.channel + item / channel_taps, tap = item % channel_taps, j = tap - row_taps;
        float weight = 0.0f;
        if (channel < g.c_out && tap < kernel_h)
            weight = to_float(((const T*)p.column.weight)[(int64_t)tap * g.c_out + channel]);
        if (channel < g.c_out && j >= 0 && j < g.kernel_w)
            weight = to_float(((const T*)p.conv.weight)[(int64_t)j * g.c_out + channel]);
        taps[item] = weight;
    }
    for (int32_t n = blockIdx.y; n < g.n; n += gridDim.y) {
        __syncthreads(); // the taps have arrived, and every thread is done with the middle of the previous image
        if (pairs)
            stage_middle<T, 2>(mid, taps, channel_taps, p, tile, n);
        else
            stage_middle<T, 1>(mid, taps, channel_taps, p, tile, n);
        __syncthreads();
        for (int32_t item = threadIdx.x; item < items; item += threads) {
            const int32_t column = item % tile.groups * kOutputs, row = item / tile.groups % tile.rows;
            const int32_t plane = item / tile.groups / tile.rows, channel = tile.channel + plane;
            if (channel >= g.c_out) continue;
            float sum[kOutputs][1] = {};
            const StagedLine line{mid + (plane * p.tile_h + row) * p.mid_w + column * g.stride_w};
            const StagedWeights<1> weights{taps + plane * channel_taps + row_taps};
            convolve_line(sum, line, weights, g.kernel_w, g.stride_w, g.dilation_w, up_to_four(tile.columns - column));
            float z[kOutputs];
#pragma unroll
            for (int q = 0; q < kOutputs; ++q) z[q] = sum[q][0];
            store_pixels<T, 4>(p.conv, z, n, channel, tile.row + row, tile.column + column, aligned);
        }
    }
}
