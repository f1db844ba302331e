// Depthwise convolution: every output channel sees one input channel.
//
//   y[n, o, p, q] = epilogue( sum over (i, j)  x[n, o / m, p*sh + i*dh - top, q*sw + j*dw - left] * w[o, i, j] )
//   m = c_out / c_in, the channel multiplier;  x is zero outside its image;  taps are summed row by row, in f32
//
// Bound: DRAM up to 3x3, where a 16-bit element costs 4 bytes and 9 products; about level at 5x5; FFMA from 7x7 up. So an input
// element is fetched and converted to f32 as rarely as can be, and the weights stay in registers.
//
// Tiling: a thread computes a strip of 2 or 4 neighbouring output columns and slides down its rows. An input row is loaded
// once and added to all the output rows that see it, whose sums are in registers (`Window`): with stride s and a kernel of k
// rows, ceil(k / s) of them. A row of weights is never loaded again.
//   channels_last   a thread takes kVector neighbouring channels of each pixel in one access. Neighbouring threads take
//                   neighbouring channels, then strips beside each other: what their columns share comes from L1. The next row
//                   is under way while a row is summed. Weights [tap][c_out].
//                   The registers decide on kVector: k*k weights and k * columns sums for each channel. 3x3 affords 16 bytes;
//                   5x5 and 7x7 take 2 channels, where a load is one of more than 50 instructions.
//   contiguous      a block takes channels x columns x strips; it stages the input that they see in shared memory, converted
//                   to f32, zeros for the padding included, in rows whose first pixel is 16-byte aligned: a thread's share of a
//                   row is a few 16-byte loads without conflicts. Small images share a block. Weights [c_out][tap].
// The kernels called `any` take kernel sizes, strides, dilations and channel multipliers as they come. In the same tiles, four
// neighbouring taps of a row share a window of pixels in registers where neither stride nor dilation keeps them apart.
#include "device/epilogue.cuh"

// What a block and a thread work on.
struct Place {
    int32_t channel_tile, column_tile, row_tile;
    int32_t channel, column, strip; // within the block
};
template <bool kChannelsLast> WC_DEVICE Place place(const ConvDepthwiseParams& p) {
    Place at;
    const int32_t block = (int32_t)blockIdx.x, thread = (int32_t)threadIdx.x;
    at.channel_tile = block % p.channel_tiles;
    at.column_tile = block / p.channel_tiles % p.column_tiles;
    at.row_tile = block / p.channel_tiles / p.column_tiles;
    if constexpr (kChannelsLast) {
        at.channel = thread % p.channels;
        at.column = thread / p.channels % p.columns;
        at.strip = thread / p.channels / p.columns;
    } else {
        at.column = thread % p.columns;
        at.strip = thread / p.columns % p.strips;
        at.channel = thread / p.columns / p.strips;
    }
    return at;
}

// The sums of the output rows that the input row at hand contributes to: kColumns pixels of kVector channels each. In step t
// input rows t * kStride + phase of the strip come by, and sum[a] belongs to output row t - a.
template <int kSize, int kStride, int kColumns, int kVector> struct Window {
    static constexpr int kRows = (kSize + kStride - 1) / kStride;
    static constexpr int kPixels = (kColumns - 1) * kStride + kSize; // of an input row
    float sum[kRows][kColumns][kVector];

    WC_DEVICE void clear() {
#pragma unroll
        for (int a = 0; a < kRows; ++a) clear(a);
    }
    WC_DEVICE void clear(int a) {
#pragma unroll
        for (int q = 0; q < kColumns; ++q)
#pragma unroll
            for (int v = 0; v < kVector; ++v) sum[a][q][v] = 0.0f;
    }
    WC_DEVICE void add(const float (&x)[kPixels][kVector], const float (&weight)[kSize * kSize][kVector], int phase, int32_t t, int32_t rows) {
#pragma unroll
        for (int a = 0; a < kRows; ++a) {
            const int i = a * kStride + phase;
            if (i >= kSize) continue;
            // rows above and below the strip: more work than a branch from 5x5 up
            if (kSize > 3 && (t < a || t - a >= rows)) continue;
#pragma unroll
            for (int j = 0; j < kSize; ++j)
#pragma unroll
                for (int q = 0; q < kColumns; ++q)
#pragma unroll
                    for (int v = 0; v < kVector; ++v)
                        sum[a][q][v] = fmaf(x[q * kStride + j][v], weight[i * kSize + j][v], sum[a][q][v]);
        }
    }
    // Goes on to the next step; the last row is complete and gone.
    WC_DEVICE void advance() {
#pragma unroll
        for (int a = kRows - 1; a > 0; --a)
#pragma unroll
            for (int q = 0; q < kColumns; ++q)
#pragma unroll
                for (int v = 0; v < kVector; ++v) sum[a][q][v] = sum[a - 1][q][v];
        clear(0);
    }
};

// A square kernel of kSize with kStride in both directions, no dilation, one output for each input channel; kVector divides
// their number.
template <typename T, int kSize, int kStride, int kVector> WC_DEVICE void conv_depthwise_channels_last(const ConvDepthwiseParams& d) {
    constexpr int kColumns = sizeof(T) * kVector == 16 ? 2 : 4;
    using Sums = Window<kSize, kStride, kColumns, kVector>;
    constexpr int kPixels = Sums::kPixels;
    static_assert(kPixels <= 32, "one bit for each pixel of a row");
    const ConvParams& p = d.conv;
    const ConvGeometryParams& g = p.geometry;
    const Place at = place<true>(d);
    const int32_t channel = (at.channel_tile * d.channels + at.channel) * kVector;
    const int32_t column = (at.column_tile * d.columns + at.column) * kColumns;
    const int32_t row = (at.row_tile * d.strips + at.strip) * d.rows;
    if (at.strip >= d.strips || channel >= g.c_out || column >= g.w_out || row >= g.h_out) return;
    const int32_t rows = row + d.rows <= g.h_out ? d.rows : g.h_out - row;
    const int32_t input_rows = (rows - 1) * kStride + kSize;
    const int32_t top = row * kStride - g.pad_top, left = column * kStride - g.pad_left;

    float weight[kSize * kSize][kVector], bias[kVector];
#pragma unroll
    for (int tap = 0; tap < kSize * kSize; ++tap) {
        const Vector<T, kVector> w = load_vector<kVector>((const T*)p.weight + (int64_t)tap * g.c_out + channel);
#pragma unroll
        for (int v = 0; v < kVector; ++v) weight[tap][v] = to_float(w.at[v]);
    }
#pragma unroll
    for (int v = 0; v < kVector; ++v) bias[v] = p.epilogue.bias ? ((const float*)p.epilogue.bias)[channel + v] : 0.0f;
    uint32_t inside = 0; // the pixels of a row that are in the image
#pragma unroll
    for (int c = 0; c < kPixels; ++c) inside |= (left + c >= 0 && left + c < g.w ? 1u : 0u) << c;

    for (int32_t n = blockIdx.y; n < g.n; n += gridDim.y) {
        const T* x = image<const T>(p.x, n) + channel + (int64_t)left * p.x.stride_w;
        T* y = image<T>(p.y, n) + channel;
        Vector<T, kVector> pixels[kPixels] = {};
        Sums sums;
        sums.clear();
        // one row ahead of the sums: the first is loaded in step -1
        bool loaded = false;
        for (int32_t t = -1; t < rows + Sums::kRows - 1; ++t) {
#pragma unroll
            for (int phase = 0; phase < kStride; ++phase) {
                const bool now = loaded;
                float values[kPixels][kVector];
#pragma unroll
                for (int c = 0; c < kPixels; ++c)
#pragma unroll
                    for (int v = 0; v < kVector; ++v) values[c][v] = to_float(pixels[c].at[v]);
                const int32_t next = t * kStride + phase + 1, h = top + next;
                loaded = next >= 0 && next < input_rows && h >= 0 && h < g.h;
                if (loaded) {
#pragma unroll
                    for (int c = 0; c < kPixels; ++c)
                        pixels[c] = inside >> c & 1u ? load_vector<kVector>(x + h * p.x.stride_h + c * p.x.stride_w) : Vector<T, kVector>{};
                }
                if (now) sums.add(values, weight, phase, t, rows);
            }
            const int32_t out = t - (Sums::kRows - 1);
            if (out >= 0) {
#pragma unroll
                for (int q = 0; q < kColumns; ++q) {
                    if (column + q >= g.w_out) continue;
                    float z[kVector];
#pragma unroll
                    for (int v = 0; v < kVector; ++v) z[v] = sums.sum[Sums::kRows - 1][q][v] + bias[v];
                    store_vector(y + element(p.y, 0, row + out, column + q),
                                 finish_channels<T, kVector>(p.epilogue, z, n, channel, row + out, column + q));
                }
            }
            sums.advance();
        }
    }
}

// The inputs of kVector neighbouring output channels at column w of a row. With a channel multiplier several of them share one.
template <typename T, int kVector>
WC_DEVICE void load_channels(float (&value)[kVector], const ConvParams& p, const T* row, int32_t w, bool wanted, int32_t channel,
                             int32_t multiplier) {
    if (!wanted || w < 0 || w >= p.geometry.w) {
#pragma unroll
        for (int v = 0; v < kVector; ++v) value[v] = 0.0f;
    } else if (multiplier == 1) {
        const Vector<T, kVector> x = load_vector<kVector>(row + w * p.x.stride_w + channel);
#pragma unroll
        for (int v = 0; v < kVector; ++v) value[v] = to_float(x.at[v]);
    } else {
#pragma unroll
        for (int v = 0; v < kVector; ++v) value[v] = to_float(row[w * p.x.stride_w + (channel + v) / multiplier]);
    }
}
template <typename T, int kColumns, int kVector>
WC_DEVICE void add_tap(float (&sum)[kColumns][kVector], const float (*x)[kVector], const T* weight) {
    const Vector<T, kVector> w = load_vector<kVector>(weight);
#pragma unroll
    for (int v = 0; v < kVector; ++v) {
        const float factor = to_float(w.at[v]);
#pragma unroll
        for (int q = 0; q < kColumns; ++q) sum[q][v] = fmaf(x[q][v], factor, sum[q][v]);
    }
}

// Any kernel, stride, dilation and channel multiplier; kVector divides the number of output channels.
template <typename T, int kVector> WC_DEVICE void conv_depthwise_any_channels_last(const ConvDepthwiseParams& d) {
    constexpr int kColumns = 4, kTaps = 4;
    const ConvParams& p = d.conv;
    const ConvGeometryParams& g = p.geometry;
    const Place at = place<true>(d);
    const int32_t channel = (at.channel_tile * d.channels + at.channel) * kVector;
    const int32_t column = (at.column_tile * d.columns + at.column) * kColumns;
    const int32_t first = (at.row_tile * d.strips + at.strip) * d.rows;
    if (at.strip >= d.strips || channel >= g.c_out || column >= g.w_out) return;
    const int32_t end = first + d.rows <= g.h_out ? first + d.rows : g.h_out;
    const int32_t multiplier = g.c_out / g.c_in, left = column * g.stride_w - g.pad_left;
    const bool dense = g.stride_w == 1 && g.dilation_w == 1;

    for (int32_t n = blockIdx.y; n < g.n; n += gridDim.y) {
        for (int32_t row = first; row < end; ++row) {
            float sum[kColumns][kVector] = {};
            for (int32_t i = 0; i < g.kernel_h; ++i) {
                const int32_t h = row * g.stride_h - g.pad_top + i * g.dilation_h;
                if (h < 0 || h >= g.h) continue;
                const T* x = image<const T>(p.x, n) + h * p.x.stride_h;
                const T* weight = (const T*)p.weight + (int64_t)i * g.kernel_w * g.c_out + channel;
                if (dense) {
                    float window[kColumns + kTaps - 1][kVector]; // pixels j .. j + 6 of the row
#pragma unroll
                    for (int c = 0; c < kColumns - 1; ++c)
                        load_channels(window[c], p, x, left + c, true, channel, multiplier);
                    for (int32_t j = 0; j < g.kernel_w; j += kTaps) {
#pragma unroll
                        for (int e = 0; e < kTaps; ++e) {
                            const int c = kColumns - 1 + e;
                            load_channels(window[c], p, x, left + j + c, j + e < g.kernel_w, channel, multiplier);
                        }
#pragma unroll
                        for (int e = 0; e < kTaps; ++e)
                            if (j + e < g.kernel_w) add_tap(sum, window + e, weight + (int64_t)(j + e) * g.c_out);
#pragma unroll
                        for (int c = 0; c < kColumns - 1; ++c)
#pragma unroll
                            for (int v = 0; v < kVector; ++v) window[c][v] = window[c + kTaps][v];
                    }
                } else {
                    for (int32_t j = 0; j < g.kernel_w; ++j) {
                        float window[kColumns][kVector];
#pragma unroll
                        for (int q = 0; q < kColumns; ++q)
                            load_channels(window[q], p, x, left + q * g.stride_w + j * g.dilation_w, true, channel, multiplier);
                        add_tap(sum, window, weight + (int64_t)j * g.c_out);
                    }
                }
            }
            T* y = image<T>(p.y, n) + channel;
#pragma unroll
            for (int q = 0; q < kColumns; ++q)
                if (column + q < g.w_out)
                    store_vector(y + element(p.y, 0, row, column + q), epilogue_channels<T, kVector>(p.epilogue, sum[q], n, channel, row, column + q));
        }
    }
}

// Fills the patch [channels][patch_h][patch_w] with the pixels of image x from (top, left) on as f32, with zeros outside the
// image. The threads share the columns of a row by powers of two, so that lanes read neighbours and none divides; each has
// several loads under way. kPair elements are read in one access.
template <typename T, int kPair>
WC_DEVICE void stage_patch(float* patch, const ConvDepthwiseParams& d, const T* x, int32_t channel, int32_t top, int32_t left) {
    constexpr int kBatch = 4;
    constexpr int32_t kNothing = -2; // -1 is the access that starts one column before the patch
    const ConvParams& p = d.conv;
    const ConvGeometryParams& g = p.geometry;
    const int32_t multiplier = g.c_out / g.c_in;
    const int32_t shift = kPair == 1 ? 0 : left & 1; // accesses start at even columns of the image
    const int32_t accesses = (d.patch_w + shift + kPair - 1) / kPair;
    int32_t lanes = 4;
    while (lanes < accesses && lanes < 32) lanes *= 2;
    const int32_t lane = (int32_t)threadIdx.x % lanes, step = (int32_t)blockDim.x / lanes;
    for (int32_t access = lane; access < accesses; access += lanes) {
        const int32_t column = access * kPair - shift, w = left + column;
        int32_t plane = 0, line = (int32_t)threadIdx.x / lanes;
        while (plane < d.channels) {
            Vector<T, kPair> value[kBatch];
            int32_t to[kBatch]; // kNothing beyond the last channel
#pragma unroll
            for (int b = 0; b < kBatch; ++b) {
                for (; line >= d.patch_h; line -= d.patch_h) ++plane;
                to[b] = plane < d.channels ? (plane * d.patch_h + line) * d.patch_w + column : kNothing;
                const int32_t o = channel + plane, h = top + line;
                value[b] = Vector<T, kPair>{};
                if (to[b] != kNothing && o < g.c_out && h >= 0 && h < g.h && w >= 0 && w < g.w)
                    value[b] = load_vector<kPair>(x + element(p.x, multiplier == 1 ? o : o / multiplier, h, w));
                line += step;
            }
#pragma unroll
            for (int b = 0; b < kBatch; ++b) {
                if (to[b] == kNothing) continue;
#pragma unroll
                for (int e = 0; e < kPair; ++e)
                    if (column + e >= 0 && column + e < d.patch_w) patch[to[b] + e] = to_float(value[b].at[e]);
            }
        }
    }
}
template <typename T>
WC_DEVICE void stage(float* patch, const ConvDepthwiseParams& d, int32_t n, int32_t channel, int32_t top, int32_t left) {
    const T* x = image<const T>(d.conv.x, n);
    if (sizeof(T) == 2 && d.conv.geometry.w % 2 == 0 && rows_aligned<2, T>(d.conv.x))
        stage_patch<T, 2>(patch, d, x, channel, top, left);
    else
        stage_patch<T, 1>(patch, d, x, channel, top, left);
}

// Writes 4 output pixels of a row, of which those beyond the image's width do not exist.
template <typename T>
WC_DEVICE void store_pixels(const ConvParams& p, float (&sum)[4], int32_t n, int32_t channel, int32_t row, int32_t column, bool aligned) {
    const int32_t count = p.geometry.w_out - column < 4 ? p.geometry.w_out - column : 4;
    const Vector<T, 4> z = epilogue_pixels<T, 4>(p.epilogue, sum, n, channel, row, column, count);
    T* y = image<T>(p.y, n) + element(p.y, channel, row, column);
    if (aligned && count == 4) {
        store_vector(y, z);
    } else {
#pragma unroll
        for (int q = 0; q < 4; ++q)
            if (q < count) y[q] = z.at[q];
    }
}

// A square kernel of kSize with kStride in both directions and no dilation.
template <typename T, int kSize, int kStride> WC_DEVICE void conv_depthwise_contiguous(const ConvDepthwiseParams& d) {
    constexpr int kColumns = 4;
    using Sums = Window<kSize, kStride, kColumns, 1>;
    constexpr int kPixels = Sums::kPixels, kLoads = (kPixels + 3) / 4;
    const ConvParams& p = d.conv;
    const ConvGeometryParams& g = p.geometry;
    const Place at = place<false>(d);
    const int32_t block_channel = at.channel_tile * d.channels, block_column = at.column_tile * d.columns * kColumns;
    const int32_t block_row = at.row_tile * d.strips * d.rows;
    const int32_t channel = block_channel + at.channel, column = block_column + at.column * kColumns;
    const int32_t row = block_row + at.strip * d.rows;
    const int32_t rows = row + d.rows <= g.h_out ? d.rows : g.h_out - row;
    const bool active = at.channel < d.channels && channel < g.c_out && column < g.w_out && rows > 0;
    const bool aligned = rows_aligned<4, T>(p.y);
    float* patch = (float*)shared_memory();
    const float* mine = patch + (at.channel * d.patch_h + at.strip * d.rows * kStride) * d.patch_w + at.column * kColumns * kStride;

    float weight[kSize * kSize][1] = {};
    if (active) {
        const T* w = (const T*)p.weight + (int64_t)channel * (kSize * kSize);
#pragma unroll
        for (int tap = 0; tap < kSize * kSize; ++tap) weight[tap][0] = to_float(w[tap]);
    }
    for (int32_t n = blockIdx.y; n < g.n; n += gridDim.y) {
        __syncthreads(); // of the image before, nobody needs anything
        stage<T>(patch, d, n, block_channel, block_row * kStride - g.pad_top, block_column * kStride - g.pad_left);
        __syncthreads();
        if (!active) continue;
        Sums sums;
        sums.clear();
        for (int32_t t = 0; t < rows + Sums::kRows - 1; ++t) {
#pragma unroll
            for (int phase = 0; phase < kStride; ++phase) {
                if (t * kStride + phase >= (rows - 1) * kStride + kSize) continue;
                const float* line = mine + (t * kStride + phase) * d.patch_w;
                float values[kPixels][1];
#pragma unroll
                for (int load = 0; load < kLoads; ++load) {
                    const Vector<float, 4> four = load_vector<4>(line + load * 4);
#pragma unroll
                    for (int e = 0; e < 4; ++e)
                        if (load * 4 + e < kPixels) values[load * 4 + e][0] = four.at[e];
                }
                sums.add(values, weight, phase, t, rows);
            }
            const int32_t out = t - (Sums::kRows - 1);
            if (out >= 0) {
                float z[kColumns];
#pragma unroll
                for (int q = 0; q < kColumns; ++q) z[q] = sums.sum[Sums::kRows - 1][q][0];
                store_pixels<T>(p, z, n, channel, row + out, column, aligned);
            }
            sums.advance();
        }
    }
}

// Any kernel, stride, dilation and channel multiplier. A thread computes 4 x 4 pixels, so `rows` is 4; the weights of the
// block's channels lie behind the patch, a row of them in a multiple of 16 bytes.
template <typename T> WC_DEVICE void conv_depthwise_any_contiguous(const ConvDepthwiseParams& d) {
    constexpr int kColumns = 4, kRows = 4, kTaps = 4;
    const ConvParams& p = d.conv;
    const ConvGeometryParams& g = p.geometry;
    const Place at = place<false>(d);
    const int32_t block_channel = at.channel_tile * d.channels, block_column = at.column_tile * d.columns * kColumns;
    const int32_t block_row = at.row_tile * d.strips * kRows;
    const int32_t channel = block_channel + at.channel, column = block_column + at.column * kColumns;
    const int32_t row = block_row + at.strip * kRows;
    const bool active = at.channel < d.channels && channel < g.c_out && column < g.w_out && row < g.h_out;
    const bool aligned = rows_aligned<4, T>(p.y);
    const bool dense = g.stride_h == 1 && g.stride_w == 1 && g.dilation_h == 1 && g.dilation_w == 1;
    const int32_t weight_w = (g.kernel_w + kTaps - 1) / kTaps * kTaps;
    float* patch = (float*)shared_memory();
    float* weights = patch + d.channels * d.patch_h * d.patch_w;
    const float* mine = patch + (at.channel * d.patch_h + at.strip * kRows * g.stride_h) * d.patch_w + at.column * kColumns * g.stride_w;
    const float* weight = weights + at.channel * g.kernel_h * weight_w;

    for (int32_t line = (int32_t)threadIdx.x; line < d.channels * g.kernel_h; line += (int32_t)blockDim.x) {
        const bool exists = block_channel + line / g.kernel_h < g.c_out;
        const T* from = (const T*)p.weight + ((int64_t)block_channel * g.kernel_h + line) * g.kernel_w;
        for (int32_t j = 0; j < weight_w; ++j) weights[line * weight_w + j] = exists && j < g.kernel_w ? to_float(from[j]) : 0.0f;
    }
    for (int32_t n = blockIdx.y; n < g.n; n += gridDim.y) {
        __syncthreads(); // of the image before, nobody needs anything
        stage<T>(patch, d, n, block_channel, block_row * g.stride_h - g.pad_top, block_column * g.stride_w - g.pad_left);
        __syncthreads();
        if (!active) continue;
        float sum[kRows][kColumns] = {};
        if (dense) {
            for (int32_t line = 0; line < g.kernel_h + kRows - 1; ++line) {
                float window[kColumns + kTaps];
                const Vector<float, 4> head = load_vector<4>(mine + line * d.patch_w);
#pragma unroll
                for (int c = 0; c < 4; ++c) window[c] = head.at[c];
                for (int32_t j = 0; j < g.kernel_w; j += kTaps) {
                    const Vector<float, 4> next = load_vector<4>(mine + line * d.patch_w + j + 4);
#pragma unroll
                    for (int c = 0; c < 4; ++c) window[4 + c] = next.at[c];
#pragma unroll
                    for (int r = 0; r < kRows; ++r) {
                        const int32_t i = line - r;
                        if (i < 0 || i >= g.kernel_h) continue;
                        const Vector<float, 4> taps = load_vector<4>(weight + i * weight_w + j);
#pragma unroll
                        for (int e = 0; e < kTaps; ++e) {
                            if (j + e >= g.kernel_w) continue; // a zero times infinity would be NaN
#pragma unroll
                            for (int q = 0; q < kColumns; ++q) sum[r][q] = fmaf(window[q + e], taps.at[e], sum[r][q]);
                        }
                    }
#pragma unroll
                    for (int c = 0; c < 4; ++c) window[c] = window[4 + c];
                }
            }
        } else {
            for (int32_t i = 0; i < g.kernel_h; ++i)
                for (int32_t j = 0; j < g.kernel_w; ++j) {
                    const float tap = weight[i * weight_w + j];
                    const float* from = mine + i * g.dilation_h * d.patch_w + j * g.dilation_w;
#pragma unroll
                    for (int r = 0; r < kRows; ++r)
#pragma unroll
                        for (int q = 0; q < kColumns; ++q)
                            sum[r][q] = fmaf(from[r * g.stride_h * d.patch_w + q * g.stride_w], tap, sum[r][q]);
                }
        }
#pragma unroll
        for (int r = 0; r < kRows; ++r)
            if (row + r < g.h_out) store_pixels<T>(p, sum[r], n, channel, row + r, column, aligned);
    }
}
