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
//                   The registers decide on kVector: k*k weights and k * columns sums for each channel. 3x3 affords 16 bytes, or 8
//                   and more blocks for small batches; 5x5 and 7x7 take 2 channels, where a load is one of more than 50
//                   instructions. (With 4 there is room for 2 columns instead of 4: 6 loads and 24 conversions, not 8 and 16, for
//                   the 200 products of a row of 5x5, in 225 registers, not 160; 7x7 spills.)
//   contiguous      a block takes channels x columns x strips; it stages the input that they see in shared memory, converted
//                   to f32, zeros for the padding included, in rows whose first pixel is 16-byte aligned: a thread's share of a
//                   row is a few 16-byte loads without conflicts. Small images share a block. Weights [c_out][tap].
// The kernels called `any` take kernel sizes, strides, dilations and channel multipliers as they come. Both stage the input in
// shared memory; neighbouring taps of a row share a window of pixels in registers. In channels_last they always do: what
// stands above `spread` and above the kernel says how, and why in those tiles.
// Those called `banded` do the products of large kernels on tensor cores; what stands above them says how.
//
// Ladder: (1) 16 bytes of channels, or staged rows, instead of single loads; (2) the window: an input row is loaded and converted once
// for all the output rows that see it; (3) weights in registers for the whole slide; (4) the next row under way; (5) strips of as
// many rows as fill the device; (6) bands instead of FFMA from 7x7 up.
#include "device/async_copy.cuh"
#include "device/mma.cuh"
#include "device/rows.cuh"
#include "device/warp.cuh"

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
    constexpr int kColumns = kVector >= 4 ? 2 : 4;
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

// One axis as the kernels for any size see it in channels_last. Outputs that are dilation / gcd(stride, dilation) apart see pixels
// that are a dilation apart: among those there is no dilation, and the stride is stride / gcd.
struct Spread {
    int32_t pixels, outputs; // their distance in the image
    int32_t stride;          // of such outputs in such pixels
};
WC_DEVICE Spread spread(int32_t kernel, int32_t stride, int32_t dilation) {
    const int32_t pixels = kernel == 1 ? stride : dilation; // one tap has whatever dilation suits
    int32_t divisor = stride, rest = pixels;
    while (rest > 0) {
        const int32_t next = divisor % rest;
        divisor = rest;
        rest = next;
    }
    return {pixels, pixels / divisor, stride / divisor};
}

// What a thread of those kernels computes, and how it reads; src/kernels/conv_any.rs has the same numbers.
template <int kVector> struct AnyStrip {
    static constexpr int kChannels = kVector == 1 ? 1 : 2, kStore = kVector == 1 ? 1 : 4;
    static constexpr int kRows = 2, kColumns = 8, kTaps = 4, kPixels = kRows * kColumns;
    static constexpr int kSumPitch = kPixels + 1; // pixels of a strip's sums: those of a warp's strips lie in different banks
    static_assert(kVector % kStore == 0 && kStore % kChannels == 0, "whole stores");
};

// Pixels of the patch from one on that neighbouring output columns, and taps of one phase, see one after the other.
template <typename T, int kChannels> struct PixelWalk {
    const T* at;
    int32_t step;
    WC_DEVICE void next(float (&value)[kChannels]) {
        const Vector<T, kChannels> x = load_vector<kChannels>(at);
#pragma unroll
        for (int v = 0; v < kChannels; ++v) value[v] = to_float(x.at[v]);
        at += step;
    }
};

// Adds the products of kCount taps of a row to the output rows that see it. The last pixels of `window` are those that the
// first tap sees in all but the last column.
template <int kCount, typename T, typename Strip, int kWindow>
WC_DEVICE void add_taps(float (&sum)[Strip::kRows][Strip::kColumns][Strip::kChannels], float (&window)[kWindow][Strip::kChannels],
                        PixelWalk<T, Strip::kChannels>& pixels, const float* const (&weight)[Strip::kRows], const bool (&seen)[Strip::kRows],
                        int32_t lanes) {
#pragma unroll
    for (int c = 0; c < Strip::kColumns - 1; ++c)
#pragma unroll
        for (int v = 0; v < Strip::kChannels; ++v) window[c][v] = window[c + Strip::kTaps][v];
#pragma unroll
    for (int e = 0; e < kCount; ++e) pixels.next(window[Strip::kColumns - 1 + e]);
#pragma unroll
    for (int r = 0; r < Strip::kRows; ++r) {
        if (!seen[r]) continue;
#pragma unroll
        for (int v = 0; v < Strip::kChannels; ++v) {
            const Vector<float, Strip::kTaps> taps = load_vector<Strip::kTaps>(weight[r] + v * lanes * Strip::kTaps);
#pragma unroll
            for (int e = 0; e < kCount; ++e)
#pragma unroll
                for (int q = 0; q < Strip::kColumns; ++q) sum[r][q][v] = fmaf(window[q + e][v], taps.at[e], sum[r][q][v]);
        }
    }
}

// Where the patch of a block lies: its first pixel and the distance of its pixels in the image, how many there are in a row, its first
// channel and the channels of a pixel.
struct PatchPlace {
    int32_t top, left, step_h, step_w, columns, channel, channels;
};
// Fills it, with zeros outside the image, in accesses of kVector channels. All is there after a barrier.
template <typename T, int kVector> WC_DEVICE void stage_pixels(T* patch, const ConvDepthwiseParams& d, const PatchPlace& at, const T* x) {
    constexpr int kBatch = 4; // loads under way, where they go through registers
    const Tensor4& t = d.conv.x;
    const ConvGeometryParams& g = d.conv.geometry;
    const int32_t vectors = at.channels / kVector, threads = (int32_t)blockDim.x, thread = (int32_t)threadIdx.x;
    int32_t lanes = 1; // that share a pixel
    while (lanes < vectors && lanes < 32) lanes *= 2;
    const int32_t at_once = threads / lanes, lines = at_once / at.columns, rest = at_once % at.columns;
    for (int32_t vector = thread % lanes; vector < vectors; vector += lanes) {
        const int32_t from = at.channel + vector * kVector;
        int32_t line = thread / lanes / at.columns, column = thread / lanes % at.columns;
        while (line < d.patch_h) {
            Vector<T, 1> value[kBatch];
            T* to[kBatch] = {};
#pragma unroll
            for (int b = 0; b < kBatch; ++b) {
                if (line < d.patch_h) {
                    const int32_t h = at.top + line * at.step_h, w = at.left + column * at.step_w;
                    const bool exists = from < g.c_in && h >= 0 && h < g.h && w >= 0 && w < g.w;
                    const T* pixel = exists ? x + element(t, from, h, w) : x;
                    to[b] = patch + line * d.patch_w + column * at.channels + vector * kVector;
                    if constexpr (kVector > 1)
                        copy_async<16>(to[b], pixel, exists);
                    else
                        value[b] = exists ? load_vector<1>(pixel) : Vector<T, 1>{};
                }
                column += rest;
                line += lines + (column >= at.columns ? 1 : 0);
                if (column >= at.columns) column -= at.columns;
            }
            if constexpr (kVector == 1) {
#pragma unroll
                for (int b = 0; b < kBatch; ++b)
                    if (to[b]) *to[b] = value[b].at[0];
            }
        }
    }
    if constexpr (kVector > 1) {
        static_assert(kVector * sizeof(T) == 16, "cp.async brings 16 bytes");
        copy_async_commit();
        copy_async_wait<0>();
    }
}

// Any kernel, stride, dilation and channel multiplier; with kVector above 1, one output of an input channel, and kVector divides
// their number.
//
//   outputs  those of a block are apart by what `spread` says, so that a dilated kernel reads no more than another.
//   patch    their input, [row][column][channel] of T, zeros outside the image; with a multiplier each input channel once.
//            cp.async brings 16 bytes of channels at a time.
//   weights  in f32, [row][phase][four of taps][channel of the thread][lane][4], so that a four is one access. The taps of a phase
//            are a stride apart, and one after the other see the next column of the window.
//   thread   2 rows x 8 columns of 2 channels, of which 32 lanes read 128 bytes of 16-bit pixels. A pixel is read and converted
//            once for 16 sums, a weight for 8: with 4 x 4 pixels the weights alone would take all that shared memory gives;
//            8 channels in 16 bytes would leave registers for 4 pixels. Besides FFMA a product takes 0.3 instructions where a
//            phase has 8 taps or more, in up to 118 registers.
//   sums     go through the memory of the patch: one short loop does the epilogue, 4 channels at a time.
// Taps are summed row by row, those of a row phase by phase.
template <typename T, int kVector> WC_DEVICE void conv_depthwise_any_channels_last(const ConvDepthwiseParams& d) {
    using Strip = AnyStrip<kVector>;
    constexpr int kChannels = Strip::kChannels, kRows = Strip::kRows, kColumns = Strip::kColumns, kTaps = Strip::kTaps;
    const ConvParams& p = d.conv;
    const ConvGeometryParams& g = p.geometry;
    const Spread vertical = spread(g.kernel_h, g.stride_h, g.dilation_h), horizontal = spread(g.kernel_w, g.stride_w, g.dilation_w);
    const int32_t channels = d.channels * kVector, lanes = channels / kChannels, thread = (int32_t)threadIdx.x;
    // strips below each other are neighbours: the pitch of rows keeps them in different banks
    const int32_t lane = thread % lanes, slot = thread / lanes, strip = slot % d.strips, strip_column = slot / d.strips;
    const int32_t block = (int32_t)blockIdx.x, channel_tile = block % d.channel_tiles;
    const int32_t column_tile = block / d.channel_tiles % d.column_tiles, row_tile = block / d.channel_tiles / d.column_tiles;
    const int32_t row_phases = vertical.outputs < g.h_out ? vertical.outputs : g.h_out;
    const int32_t column_phases = horizontal.outputs < g.w_out ? horizontal.outputs : g.w_out;
    // the block's first output, then the thread's
    const int32_t block_row = row_tile % row_phases + row_tile / row_phases * d.strips * kRows * vertical.outputs;
    const int32_t block_column = column_tile % column_phases + column_tile / column_phases * d.columns * kColumns * horizontal.outputs;
    const int32_t block_channel = channel_tile * channels;
    const int32_t row = block_row + strip * kRows * vertical.outputs, column = block_column + strip_column * kColumns * horizontal.outputs;
    const int32_t multiplier = kVector == 1 ? g.c_out / g.c_in : 1, channel = block_channel + lane * kChannels;
    const bool active = strip_column < d.columns && channel < g.c_out && column < g.w_out && row < g.h_out;

    const int32_t phases = horizontal.stride < g.kernel_w ? horizontal.stride : g.kernel_w; // of the taps of a row
    const int32_t fours = ((g.kernel_w + horizontal.stride - 1) / horizontal.stride + kTaps - 1) / kTaps;
    const int32_t row_weights = phases * fours * kTaps * channels;
    float* const weights = (float*)shared_memory();
    T* const patch = (T*)(weights + g.kernel_h * row_weights);
    float* const sums = (float*)patch + slot * Strip::kSumPitch * channels;
    // channels of a pixel of the patch
    const int32_t first_input = block_channel / multiplier, inputs = kVector == 1 ? (channels + multiplier - 2) / multiplier + 1 : channels;
    const T* const mine = patch + strip * kRows * vertical.stride * d.patch_w + strip_column * kColumns * horizontal.stride * inputs +
                          (kVector == 1 ? channel / multiplier - first_input : lane * kChannels);
    const int32_t rows = row + vertical.outputs < g.h_out ? kRows : 1;
    const PatchPlace place = {block_row * g.stride_h - g.pad_top, block_column * g.stride_w - g.pad_left, vertical.pixels, horizontal.pixels,
                              (d.columns * kColumns - 1) * horizontal.stride + g.kernel_w, first_input, inputs};

    for (int32_t four = thread; four < g.kernel_h * row_weights / kTaps; four += (int32_t)blockDim.x) {
        const int32_t o = block_channel + four % lanes * kChannels + four / lanes % kChannels, at = four / channels;
        const int32_t i = at / (phases * fours), j = at / fours % phases + at % fours * kTaps * horizontal.stride;
        Vector<float, kTaps> taps;
#pragma unroll
        for (int e = 0; e < kTaps; ++e) {
            const int32_t tap = j + e * horizontal.stride;
            taps.at[e] = o < g.c_out && tap < g.kernel_w ? to_float(((const T*)p.weight)[((int64_t)i * g.kernel_w + tap) * g.c_out + o]) : 0.0f;
        }
        store_vector(weights + four * kTaps, taps);
    }
    for (int32_t n = blockIdx.y; n < g.n; n += gridDim.y) {
        __syncthreads(); // of the image before, nobody needs anything
        stage_pixels<T, kVector>(patch, d, place, image<const T>(p.x, n));
        __syncthreads();
        float sum[kRows][kColumns][kChannels] = {};
        for (int32_t line = 0; active && line < (rows - 1) * vertical.stride + g.kernel_h; ++line) {
            bool seen[kRows];
            const float* weight[kRows];
#pragma unroll
            for (int r = 0; r < kRows; ++r) {
                const int32_t i = line - r * vertical.stride;
                seen[r] = i >= 0 && i < g.kernel_h && r < rows;
                weight[r] = weights + i * row_weights + lane * kTaps;
            }
            for (int32_t phase = 0; phase < phases; ++phase) {
                PixelWalk<T, kChannels> pixels = {mine + line * d.patch_w + phase * inputs, horizontal.stride * inputs};
                float window[kColumns + kTaps - 1][kChannels];
#pragma unroll
                for (int c = 0; c < kColumns - 1; ++c) pixels.next(window[kTaps + c]);
                int32_t taps = (g.kernel_w - phase + horizontal.stride - 1) / horizontal.stride;
                const float* next[kRows];
#pragma unroll
                for (int r = 0; r < kRows; ++r) next[r] = weight[r] + phase * fours * kTaps * channels;
#pragma unroll 2 // moves the window half as often
                for (; taps >= kTaps; taps -= kTaps) {
                    add_taps<kTaps, T, Strip>(sum, window, pixels, next, seen, lanes);
#pragma unroll
                    for (int r = 0; r < kRows; ++r) next[r] += kTaps * channels;
                }
                // the rest of a four: a zero beyond the last tap times infinity would be NaN
                if (taps == 3) add_taps<3, T, Strip>(sum, window, pixels, next, seen, lanes);
                if (taps == 2) add_taps<2, T, Strip>(sum, window, pixels, next, seen, lanes);
                if (taps == 1) add_taps<1, T, Strip>(sum, window, pixels, next, seen, lanes);
            }
        }
        __syncthreads(); // the patch is read
        if (active) {
#pragma unroll
            for (int r = 0; r < kRows; ++r)
#pragma unroll
                for (int q = 0; q < kColumns; ++q) {
                    Vector<float, kChannels> pixel;
#pragma unroll
                    for (int v = 0; v < kChannels; ++v) pixel.at[v] = sum[r][q][v];
                    store_vector(sums + (r * kColumns + q) * channels + lane * kChannels, pixel);
                }
        }
        sync_warp(); // the lanes of a strip are of one warp
        const int32_t stores = channels / Strip::kStore, first = lane % stores * Strip::kStore, o = block_channel + first;
        for (int32_t pixel = lane / stores; pixel < Strip::kPixels; pixel += lanes / stores) {
            const int32_t h = row + pixel / kColumns * vertical.outputs, w = column + pixel % kColumns * horizontal.outputs;
            if (strip_column >= d.columns || o >= g.c_out || h >= g.h_out || w >= g.w_out) continue;
            const Vector<float, Strip::kStore> of = load_vector<Strip::kStore>(sums + pixel * channels + first);
            float z[Strip::kStore];
#pragma unroll
            for (int v = 0; v < Strip::kStore; ++v) z[v] = of.at[v];
            store_vector(image<T>(p.y, n) + element(p.y, o, h, w), epilogue_channels<T, Strip::kStore>(p.epilogue, z, n, o, h, w));
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
                store_pixels<T, 4>(p, z, n, channel, row + out, column, aligned);
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
            if (row + r < g.h_out) store_pixels<T, 4>(p, sum[r], n, channel, row + r, column, aligned);
    }
}

// The banded form, on tensor cores (f16, bf16; stride 1, no dilation, one output of an input channel). For one channel and one
// kernel row i, 16 x 8 output pixels are the product of 16 rows of the input as they lie, moved down by i, and of a band
// (a Toeplitz matrix) B[c][q] = w[i][c - q - shift]: the k of the MMA are the kWidth input columns that 8 outputs see.
//
//   patch  a block stages the input of kRows x 32 output pixels of some channels, zeros for the padding included; ldmatrix starts
//          at any row, and neighbouring 16 x 8 blocks share their 8-column halves. Accesses start at even columns of the
//          image: `shift` is the column of the patch that the first output sees first, 0 or 1.
//   band   the weights of a row with zeros on both sides, twice: the pairs of an odd output column start at even elements, those
//          of an even one at odd elements, so the second copy is moved by one. Packed at plan time; a pair is one load.
//   sums   a warp owns a channel, so that its sums take the place of its patch; the block then stores them as y wants it.
//
// An infinity or NaN would meet the band's zeros: a block that stages one sums by FFMA, from the same patch and band.
// Bound: shared memory, by ldmatrix.
template <int kWidth, int kTileRows> struct Banded {
    static constexpr int32_t kThreads = 128, kWarps = kThreads / 32;
    static constexpr int32_t kRows = kTileRows, kColumns = 32; // output pixels of a block's channel
    static constexpr int32_t kTiles = kRows / 16, kBlocks = kColumns / 8;
    static constexpr int32_t kPitch = kColumns - 8 + kWidth; // elements of a row of the patch
    static constexpr int32_t kPairs = kPitch / 2;            // the same in words
    static constexpr int32_t kLoads = (kPitch / 8 + 1) / 2;  // of 16 columns
    static constexpr int32_t kLead = 7;                      // zeros before the weights of a band's row
    static_assert(kWidth % 16 == 0 && kRows % 16 == 0, "whole MMAs");
    static_assert(kPitch / 8 % 2 == 1, "8 rows that an ldmatrix reads lie in different banks");

    // Words of one copy of a band: the copies lie 8 or 24 banks apart, and a warp reads 7 neighbouring words of each.
    static WC_DEVICE int32_t band_words(const ConvDepthwiseParams& d) {
        return (d.conv.geometry.kernel_h * (kWidth / 16) + 1 | 1) * 8;
    }
    // A channel's patch, and later its sums. Those of 4 channels are moved so that the threads that share out channels by fours
    // and neighbouring words use all banks.
    static WC_DEVICE unsigned char* area(const ConvDepthwiseParams& d, int32_t channel) {
        const int32_t patch = (d.patch_h * kPitch * 2 + 31) / 32 * 32, sums = kRows * kColumns * 4;
        return shared_memory() + channel * (patch > sums ? patch : sums) + channel / 4 * (512 / d.channels);
    }
    // Where a sum lies in the area; 8 neighbours from a multiple of 8 stay together. Four rows that are written at once use all banks.
    static WC_DEVICE int32_t sum_at(int32_t row, int32_t column) { return row * kColumns + (column ^ row % 4 * 8); }
};

// Bit 15 or 31 is set where an element of the pair is infinite or NaN.
template <typename T> constexpr uint32_t kInfinity = 0x7c00;
template <> constexpr uint32_t kInfinity<bf16_t> = 0x7f80;
template <typename T> WC_DEVICE uint32_t special_values(uint32_t pair) { return (pair & 0x7fff7fffu) + (0x8000u - kInfinity<T>) * 0x10001u; }

// Whether 4 neighbouring channels of a pixel may be accessed at once.
template <typename T> WC_DEVICE bool channels_aligned(const Tensor4& t) {
    const uint32_t strides = (uint32_t)t.stride_n | (uint32_t)t.stride_h | (uint32_t)t.stride_w;
    return t.stride_c == 1 && ((uint32_t)t.address | strides * (uint32_t)sizeof(T)) % (4 * sizeof(T)) == 0;
}

// Fills the patches from pixel (top, left) of image x on, 4 channels and 2 pixels at a time. The result tells of special values.
template <typename T, typename Tile>
WC_DEVICE uint32_t stage_channels(const ConvDepthwiseParams& d, const T* x, int32_t channel, int32_t top, int32_t left) {
    constexpr int kBatch = 4;
    const ConvParams& p = d.conv;
    const ConvGeometryParams& g = p.geometry;
    const int32_t vectors = d.channels / 4, vector = (int32_t)threadIdx.x % vectors * 4, at_once = Tile::kThreads / vectors;
    const int32_t total = channel + vector < g.c_out ? d.patch_h * Tile::kPairs : 0, all = d.patch_h * Tile::kPairs;
    uint32_t special = 0;
    for (int32_t first = (int32_t)threadIdx.x / vectors; first < all; first += kBatch * at_once) {
        Vector<uint32_t, 2> pixel[kBatch][2];
#pragma unroll
        for (int b = 0; b < kBatch; ++b) {
            const int32_t pair = first + b * at_once, h = top + pair / Tile::kPairs, w = left + pair % Tile::kPairs * 2;
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                pixel[b][e] = Vector<uint32_t, 2>{};
                if (pair < total && h >= 0 && h < g.h && w + e >= 0 && w + e < g.w)
                    pixel[b][e] = load_vector<2>((const uint32_t*)(x + element(p.x, channel + vector, h, w + e)));
            }
        }
#pragma unroll
        for (int b = 0; b < kBatch; ++b) {
            const int32_t pair = first + b * at_once;
            if (pair >= all) continue;
#pragma unroll
            for (int c = 0; c < 4; ++c) {
                const uint32_t one = pixel[b][0].at[c / 2], other = pixel[b][1].at[c / 2];
                const uint32_t word = c % 2 ? one >> 16 | (other & 0xffff0000u) : (one & 0xffffu) | other << 16;
                special |= special_values<T>(word);
                ((uint32_t*)Tile::area(d, vector + c))[pair] = word;
            }
        }
    }
    return special;
}

// The same from any x, a warp a channel; neighbouring pixels of a row are read two at a time where they are aligned.
template <typename T, typename Tile>
WC_DEVICE uint32_t stage_rows(const ConvDepthwiseParams& d, const T* x, int32_t channel, int32_t top, int32_t left) {
    constexpr int kBatch = 8;
    const ConvParams& p = d.conv;
    const ConvGeometryParams& g = p.geometry;
    const bool aligned = p.x.stride_w == 1 && g.w % 2 == 0 && rows_aligned<2, T>(p.x);
    uint32_t special = 0;
    for (int32_t c = (int32_t)threadIdx.x / 32; c < d.channels; c += Tile::kWarps) {
        uint32_t* to = (uint32_t*)Tile::area(d, c);
        const int32_t all = d.patch_h * Tile::kPairs, total = channel + c < g.c_out ? all : 0;
        for (int32_t first = lane_index(); first < all; first += kBatch * 32) {
            uint32_t word[kBatch];
#pragma unroll
            for (int b = 0; b < kBatch; ++b) {
                const int32_t pair = first + b * 32, h = top + pair / Tile::kPairs, w = left + pair % Tile::kPairs * 2;
                word[b] = 0;
                if (pair >= total || h < 0 || h >= g.h) continue;
                if (aligned) {
                    if (w >= 0 && w < g.w) word[b] = load_vector<1>((const uint32_t*)(x + element(p.x, channel + c, h, w))).at[0];
                } else {
                    if (w >= 0 && w < g.w) word[b] = x[element(p.x, channel + c, h, w)].bits;
                    if (w + 1 >= 0 && w + 1 < g.w) word[b] |= (uint32_t)x[element(p.x, channel + c, h, w + 1)].bits << 16;
                }
            }
#pragma unroll
            for (int b = 0; b < kBatch; ++b) {
                special |= special_values<T>(word[b]);
                if (first + b * 32 < all) to[first + b * 32] = word[b];
            }
        }
    }
    return special;
}

// A warp's sums of one channel: fragments of 16 x 8 pixels.
template <typename T, int kWidth, typename Tile, int kFragments>
WC_DEVICE void add_banded(float (&sum)[kFragments][1][4], const T* patch, const uint32_t* band, int32_t band_words, int32_t kernel_h) {
    const int32_t lane = lane_index(), q = lane / 4, pair = Tile::kLead + lane % 4 * 2 - q;
    const uint32_t* weight = band + (q % 2 ? 0 : band_words) + pair / 2;
    const T* from = patch + lane % 16 * Tile::kPitch + lane / 16 * 8;
    for (int32_t i = 0; i < kernel_h; ++i, weight += kWidth / 2, from += Tile::kPitch) {
        const void* rows[Tile::kTiles * Tile::kLoads];
#pragma unroll
        for (int m = 0; m < Tile::kTiles; ++m)
#pragma unroll
            for (int load = 0; load < Tile::kLoads; ++load) // half of the last one lies beyond the row and is not wanted
                rows[m * Tile::kLoads + load] =
                    from + m * 16 * Tile::kPitch + load * 16 - (load == Tile::kLoads - 1 ? lane / 16 * 8 : 0);
        uint32_t x[Tile::kTiles * Tile::kLoads][4];
        ldmatrix_x4<false>(x, rows);
#pragma unroll
        for (int step = 0; step < kWidth / 16; ++step) {
            const uint32_t b[1][2] = {{weight[step * 8], weight[step * 8 + 4]}};
            uint32_t a[kFragments][4];
#pragma unroll
            for (int f = 0; f < kFragments; ++f)
#pragma unroll
                for (int r = 0; r < 4; ++r) {
                    const int eight = f % Tile::kBlocks + step * 2 + r / 2; // columns of the patch
                    a[f][r] = x[f / Tile::kBlocks * Tile::kLoads + eight / 2][eight % 2 * 2 + r % 2];
                }
            warp_mma<T, kFragments, 1>(sum, a, b);
        }
    }
}
// The same by FFMA.
template <typename T, int kWidth, typename Tile, int kFragments>
WC_DEVICE void add_special(float (&sum)[kFragments][1][4], const T* patch, const T* band, const ConvGeometryParams& g) {
    const int32_t lane = lane_index(), shift = g.pad_left % 2;
    for (int32_t i = 0; i < g.kernel_h; ++i)
        for (int32_t j = 0; j < g.kernel_w; ++j) {
            const float tap = to_float(band[i * kWidth + Tile::kLead + shift + j]);
            const T* from = patch + (lane / 4 + i) * Tile::kPitch + lane % 4 * 2 + shift + j;
#pragma unroll
            for (int f = 0; f < kFragments; ++f)
#pragma unroll
                for (int e = 0; e < 4; ++e) {
                    const int32_t row = f / Tile::kBlocks * 16 + e / 2 * 8, column = f % Tile::kBlocks * 8 + e % 2;
                    sum[f][0][e] = fmaf(to_float(from[row * Tile::kPitch + column]), tap, sum[f][0][e]);
                }
        }
}

// Writes the block's sums, from output (channel, row, column) on.
template <typename T, typename Tile>
WC_DEVICE void store_sums(const ConvDepthwiseParams& d, int32_t n, int32_t channel, int32_t row, int32_t column) {
    const ConvParams& p = d.conv;
    const ConvGeometryParams& g = p.geometry;
    const int32_t thread = (int32_t)threadIdx.x;
    if (p.y.stride_c == 1 && g.c_out > 1) {
        const int32_t vectors = d.channels / 4, vector = thread % vectors * 4, first = channel + vector;
        const bool aligned = channels_aligned<T>(p.y) && first + 4 <= g.c_out;
        for (int32_t pixel = thread / vectors; pixel < Tile::kRows * Tile::kColumns; pixel += Tile::kThreads / vectors) {
            const int32_t h = row + pixel / Tile::kColumns, w = column + pixel % Tile::kColumns;
            if (h >= g.h_out || w >= g.w_out) continue;
            float sum[4];
#pragma unroll
            for (int c = 0; c < 4; ++c)
                sum[c] = first + c < g.c_out ? ((const float*)Tile::area(d, vector + c))[Tile::sum_at(pixel / Tile::kColumns, pixel % Tile::kColumns)] : 0.0f;
            T* y = image<T>(p.y, n) + element(p.y, first, h, w);
            if (aligned) {
                store_vector(y, epilogue_channels<T, 4>(p.epilogue, sum, n, first, h, w));
            } else {
                for (int c = 0; c < 4; ++c)
                    if (first + c < g.c_out) y[c] = epilogue<T>(p.epilogue, sum[c], n, first + c, h, w);
            }
        }
    } else {
        const bool neighbours = p.y.stride_w == 1, by_8 = neighbours && rows_aligned<8, T>(p.y), by_4 = neighbours && rows_aligned<4, T>(p.y);
        const int32_t channels = g.c_out - channel < d.channels ? g.c_out - channel : d.channels;
        for (int32_t index = thread; index < channels * Tile::kRows * Tile::kBlocks; index += Tile::kThreads) {
            const int32_t line = index / Tile::kBlocks % Tile::kRows, block = index % Tile::kBlocks * 8;
            const int32_t c = index / Tile::kBlocks / Tile::kRows, h = row + line, w = column + block;
            if (h >= g.h_out || w >= g.w_out) continue;
            // odd rows read their second half first: the rows would meet in the same banks
            const float* sums = (const float*)Tile::area(d, c) + Tile::sum_at(line, block);
            const int odd = line & 1;
            const Vector<float, 4> first = load_vector<4>(sums + odd * 4), second = load_vector<4>(sums + (odd ^ 1) * 4);
            float sum[2][4], both[8];
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                sum[0][e] = both[e] = odd ? second.at[e] : first.at[e];
                sum[1][e] = both[4 + e] = odd ? first.at[e] : second.at[e];
            }
            if (by_8 && w + 8 <= g.w_out) {
                store_pixels<T, 8>(p, both, n, channel + c, h, w, true);
            } else {
                store_pixels<T, 4>(p, sum[0], n, channel + c, h, w, by_4);
                if (w + 4 < g.w_out) store_pixels<T, 4>(p, sum[1], n, channel + c, h, w + 4, by_4);
            }
        }
    }
}

template <typename T, int kWidth, int kRows> WC_DEVICE void conv_depthwise_banded(const ConvDepthwiseParams& d) {
    using Tile = Banded<kWidth, kRows>;
    constexpr int kFragments = Tile::kTiles * Tile::kBlocks;
    const ConvParams& p = d.conv;
    const ConvGeometryParams& g = p.geometry;
    const int32_t block = (int32_t)blockIdx.x, warp = (int32_t)threadIdx.x / 32, lane = lane_index();
    const int32_t channel = block % d.channel_tiles * d.channels;
    const int32_t column = block / d.channel_tiles % d.column_tiles * Tile::kColumns;
    const int32_t row = block / d.channel_tiles / d.column_tiles * Tile::kRows;
    const int32_t top = row - g.pad_top, left = column - g.pad_left - g.pad_left % 2;
    const int32_t channels = g.c_out - channel < d.channels ? g.c_out - channel : d.channels;
    const bool by_channels = channels_aligned<T>(p.x) && g.c_in % 4 == 0;
    const int32_t band_words = Tile::band_words(d);
    uint32_t* const bands = (uint32_t*)Tile::area(d, d.channels);
    uint32_t* const specials = bands + d.channels * 2 * band_words; // of each warp

    const uint32_t* packed = (const uint32_t*)p.weight + (int64_t)channel * 2 * band_words;
    for (int32_t word = (int32_t)threadIdx.x * 4; word < channels * 2 * band_words; word += Tile::kThreads * 4)
        copy_async<16>(bands + word, packed + word, true);
    copy_async_commit();

    for (int32_t n = blockIdx.y; n < g.n; n += gridDim.y) {
        __syncthreads(); // of the image before, nobody needs anything
        const T* x = image<const T>(p.x, n);
        const uint32_t seen = by_channels ? stage_channels<T, Tile>(d, x, channel, top, left) : stage_rows<T, Tile>(d, x, channel, top, left);
        const bool special = any((seen & 0x80008000u) != 0);
        if (lane == 0) specials[warp] = special ? 1 : 0;
        copy_async_wait<0>();
        __syncthreads();
        uint32_t special_block = 0;
#pragma unroll
        for (int w = 0; w < Tile::kWarps; ++w) special_block |= specials[w];
        for (int32_t c = warp; c < channels; c += Tile::kWarps) {
            unsigned char* const area = Tile::area(d, c);
            const uint32_t* band = bands + c * 2 * band_words;
            float sum[kFragments][1][4] = {};
            if (special_block == 0)
                add_banded<T, kWidth, Tile>(sum, (const T*)area, band, band_words, g.kernel_h);
            else
                add_special<T, kWidth, Tile>(sum, (const T*)area, (const T*)band, g);
            sync_warp(); // the patch is read
#pragma unroll
            for (int f = 0; f < kFragments; ++f)
#pragma unroll
                for (int lower = 0; lower < 2; ++lower) {
                    const int32_t line = f / Tile::kBlocks * 16 + lower * 8 + lane / 4, q = f % Tile::kBlocks * 8 + lane % 4 * 2;
                    store_vector((float*)area + Tile::sum_at(line, q), Vector<float, 2>{{sum[f][0][lower * 2], sum[f][0][lower * 2 + 1]}});
                }
        }
        __syncthreads();
        store_sums<T, Tile>(d, n, channel, row, column);
    }
}
