// Depthwise convolution of any size: any filter, stride, dilation and channel multiplier.
//
//   y[n, o, p, q] = epilogue( sum over (i, j)  x[n, o / m, p*sh + i*dh - top, q*sw + j*dw - left] * w[o, i, j] )
//   m = c_out / c_in, the channel multiplier;  x is zero outside its image;  sums are f32
//
// Tiling: a block stages the input that its outputs see in shared memory, and a thread computes a rectangle of output
// pixels from there. Neighbouring taps of a row share a window of pixels in registers: always in channels_last, in
// contiguous where stride and dilation are 1. The comment above each kernel has the details.
//
// Bound: FFMA and the loads from shared memory; DRAM for small filters, for which the unrolled kernels are faster.
// Ladder: (1) the patch: an input element is read from L2 once by a block; (2) the window: a pixel is read from shared
// memory and converted once for all products with it in a row; (3) outputs of a block that are a dilation apart, so
// that a dilated filter reads no more than any other; (4) wide rectangles, 2 x 8 pixels, which share weights as well as
// pixels.
#include "device/async_copy.cuh"
#include "device/depthwise.cuh"
#include "device/warp.cuh"

// One axis with its dilation taken out, for the channels_last kernel. Outputs that are dilation / gcd(stride, dilation)
// apart see pixels that are a dilation apart. Among those pixels there is no dilation, and the stride is stride / gcd.
struct UndilatedAxis {
    int32_t pixels, outputs; // distances in the image
    int32_t stride;          // from one such output to the next, in such pixels
};
WC_DEVICE UndilatedAxis undilated(int32_t kernel, int32_t stride, int32_t dilation) {
    const int32_t pixels = kernel == 1 ? stride : dilation; // for a single tap any dilation will do
    int32_t divisor = stride, rest = pixels;
    while (rest > 0) {
        const int32_t next = divisor % rest;
        divisor = rest;
        rest = next;
    }
    return {pixels, pixels / divisor, stride / divisor};
}

// The outputs of a thread of the channels_last kernel, and how it reads.
template <int kVector> struct AnyStrip {
    static constexpr int kChannels = kVector == 1 ? 1 : 2, kStore = kVector == 1 ? 1 : 4;
    static constexpr int kRows = DEPTHWISE_ANY_ROWS, kColumns = DEPTHWISE_ANY_COLUMNS;
    static constexpr int kTaps = DEPTHWISE_ANY_TAPS, kPixels = kRows * kColumns;
    // Pixels from the sums of one strip to those of the next: one more than it has, so that the strips of a warp lie in
    // different banks.
    static constexpr int kSumPitch = DEPTHWISE_ANY_SUM_PITCH;
    static_assert(kSumPitch == kPixels + 1, "one more than a strip has");
    static_assert(kVector % kStore == 0 && kStore % kChannels == 0, "whole stores");
};

// Pixels of the patch one after the other, as neighbouring output columns and the taps of one phase see them.
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

// Adds the products of kCount taps of a row to the output rows that see it. On entry the last pixels of `window` are
// those that the first tap sees in all columns but the last.
template <int kCount, typename T, typename Strip, int kWindow>
WC_DEVICE void add_taps(float (&sum)[Strip::kRows][Strip::kColumns][Strip::kChannels],
                        float (&window)[kWindow][Strip::kChannels], PixelWalk<T, Strip::kChannels>& pixels,
                        const float* const (&weight)[Strip::kRows], const bool (&seen)[Strip::kRows], int32_t lanes) {
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
                for (int q = 0; q < Strip::kColumns; ++q)
                    sum[r][q][v] = fmaf(window[q + e][v], taps.at[e], sum[r][q][v]);
        }
    }
}

// The patch of a block in the image: its first pixel, the distance of its pixels, and the pixels of a row; its first
// channel and the channels of a pixel.
struct PatchPlace {
    int32_t top, left, step_h, step_w, columns, channel, channels;
};
// Fills the patch, with zeros outside the image, in accesses of kVector channels. The block sees it after a barrier.
template <typename T, int kVector>
WC_DEVICE void stage_pixels(T* patch, const ConvDepthwiseParams& d, const PatchPlace& at, const T* x) {
    constexpr int kBatch = 4; // loads under way through registers
    const Tensor4& t = d.conv.x;
    const ConvGeometryParams& g = d.conv.geometry;
    const int32_t vectors = at.channels / kVector, threads = (int32_t)blockDim.x, thread = (int32_t)threadIdx.x;
    int32_t lanes = 1; // lanes that share a pixel
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

// Channels_last. Above kVector = 1 there is one output for each input channel, and kVector divides their number.
//
//   outputs  the outputs of a block are as far apart as `undilated` says, so that a dilated filter reads no more than
//            any other.
//   patch    their input, [row][column][channel] of T, with zeros outside the image. With a channel multiplier every
//            input channel is there once. cp.async brings 16 bytes of channels at a time.
//   weights  f32, [row][phase][four of taps][channel of the thread][lane][4], so that four taps are one access. The
//            taps of a phase are a stride apart; each sees the next column of the window.
//   thread   2 rows x 8 columns of 2 channels; 32 lanes read 128 bytes of 16-bit pixels. A pixel is read and converted
//            once for 16 sums, a weight once for 8. With 4 x 4 pixels the weights alone would take all the bandwidth of
//            shared memory, and 8 channels (16 bytes) would leave registers for 4 pixels only. A product costs 0.3
//            instructions beside its FFMA where a phase has 8 taps or more, in up to 118 registers.
//   sums     go through the memory of the patch, so that one short loop does the epilogue, 4 channels at a time.
// Taps are summed row by row, and those of a row phase by phase.
template <typename T, int kVector> WC_DEVICE void conv_depthwise_any_channels_last(const ConvDepthwiseParams& d) {
    using Strip = AnyStrip<kVector>;
    constexpr int kChannels = Strip::kChannels, kRows = Strip::kRows, kColumns = Strip::kColumns, kTaps = Strip::kTaps;
    const ConvParams& p = d.conv;
    const ConvGeometryParams& g = p.geometry;
    const UndilatedAxis vertical = undilated(g.kernel_h, g.stride_h, g.dilation_h);
    const UndilatedAxis horizontal = undilated(g.kernel_w, g.stride_w, g.dilation_w);
    const int32_t channels = d.channels * kVector, lanes = channels / kChannels, thread = (int32_t)threadIdx.x;
    // Strips below each other are neighbours; the pitch of the patch's rows keeps them in different banks.
    const int32_t lane = thread % lanes, slot = thread / lanes, strip = slot % d.strips, strip_column = slot / d.strips;
    const int32_t block = (int32_t)blockIdx.x, channel_tile = block % d.channel_tiles;
    const int32_t column_tile = block / d.channel_tiles % d.column_tiles,
                  row_tile = block / d.channel_tiles / d.column_tiles;
    const int32_t row_phases = vertical.outputs < g.h_out ? vertical.outputs : g.h_out;
    const int32_t column_phases = horizontal.outputs < g.w_out ? horizontal.outputs : g.w_out;
    // The first output of the block, then that of the thread.
    const int32_t block_row = row_tile % row_phases + row_tile / row_phases * d.strips * kRows * vertical.outputs;
    const int32_t block_column =
        column_tile % column_phases + column_tile / column_phases * d.columns * kColumns * horizontal.outputs;
    const int32_t block_channel = channel_tile * channels;
    const int32_t row = block_row + strip * kRows * vertical.outputs,
                  column = block_column + strip_column * kColumns * horizontal.outputs;
    const int32_t multiplier = kVector == 1 ? g.c_out / g.c_in : 1, channel = block_channel + lane * kChannels;
    const bool active = strip_column < d.columns && channel < g.c_out && column < g.w_out && row < g.h_out;

    const int32_t phases = horizontal.stride < g.kernel_w ? horizontal.stride : g.kernel_w; // of the taps of a row
    const int32_t fours = ((g.kernel_w + horizontal.stride - 1) / horizontal.stride + kTaps - 1) / kTaps;
    const int32_t row_weights = phases * fours * kTaps * channels;
    float* const weights = (float*)shared_memory();
    T* const patch = (T*)(weights + g.kernel_h * row_weights);
    float* const sums = (float*)patch + slot * Strip::kSumPitch * channels;
    // The first channel of a pixel of the patch, and how many it has.
    const int32_t first_input = block_channel / multiplier,
                  inputs = kVector == 1 ? (channels + multiplier - 2) / multiplier + 1 : channels;
    const T* const mine = patch + strip * kRows * vertical.stride * d.patch_w +
                          strip_column * kColumns * horizontal.stride * inputs +
                          (kVector == 1 ? channel / multiplier - first_input : lane * kChannels);
    const int32_t rows = row + vertical.outputs < g.h_out ? kRows : 1;
    const PatchPlace place = {block_row * g.stride_h - g.pad_top,
                              block_column * g.stride_w - g.pad_left,
                              vertical.pixels,
                              horizontal.pixels,
                              (d.columns * kColumns - 1) * horizontal.stride + g.kernel_w,
                              first_input,
                              inputs};

    for (int32_t four = thread; four < g.kernel_h * row_weights / kTaps; four += (int32_t)blockDim.x) {
        const int32_t o = block_channel + four % lanes * kChannels + four / lanes % kChannels, at = four / channels;
        const int32_t i = at / (phases * fours), j = at / fours % phases + at % fours * kTaps * horizontal.stride;
        Vector<float, kTaps> taps;
#pragma unroll
        for (int e = 0; e < kTaps; ++e) {
            const int32_t tap = j + e * horizontal.stride;
            taps.at[e] = o < g.c_out && tap < g.kernel_w
                             ? to_float(((const T*)p.weight)[((int64_t)i * g.kernel_w + tap) * g.c_out + o])
                             : 0.0f;
        }
        store_vector(weights + four * kTaps, taps);
    }
    for (int32_t n = blockIdx.y; n < g.n; n += gridDim.y) {
        __syncthreads(); // every thread is done with the previous image's shared memory
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
#pragma unroll 2 // the window moves half as often
                for (; taps >= kTaps; taps -= kTaps) {
                    add_taps<kTaps, T, Strip>(sum, window, pixels, next, seen, lanes);
#pragma unroll
                    for (int r = 0; r < kRows; ++r) next[r] += kTaps * channels;
                }
                // The rest is less than four taps: a zero beyond the last tap times an infinity would be NaN.
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
        sync_warp(); // a strip belongs to one warp
        const int32_t stores = channels / Strip::kStore, first = lane % stores * Strip::kStore,
                      o = block_channel + first;
        for (int32_t pixel = lane / stores; pixel < Strip::kPixels; pixel += lanes / stores) {
            const int32_t h = row + pixel / kColumns * vertical.outputs,
                          w = column + pixel % kColumns * horizontal.outputs;
            if (strip_column >= d.columns || o >= g.c_out || h >= g.h_out || w >= g.w_out) continue;
            const Vector<float, Strip::kStore> of = load_vector<Strip::kStore>(sums + pixel * channels + first);
            float z[Strip::kStore];
#pragma unroll
            for (int v = 0; v < Strip::kStore; ++v) z[v] = of.at[v];
            store_vector(image<T>(p.y, n) + element(p.y, o, h, w), epilogue<T>(p.epilogue, z, ChannelRun{n, o, h, w}));
        }
    }
}

// Contiguous. A thread computes 4 x 4 pixels, so `rows` is 4. The weights of the block's channels lie behind the patch;
// a row of them takes a multiple of 16 bytes.
template <typename T> WC_DEVICE void conv_depthwise_any_contiguous(const ConvDepthwiseParams& d) {
    constexpr int kColumns = kStripColumns<1>, kRows = DEPTHWISE_STRIP, kTaps = 4;
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
    const float* mine = patch + (at.channel * d.patch_h + at.strip * kRows * g.stride_h) * d.patch_w +
                        at.column * kColumns * g.stride_w;
    const float* weight = weights + at.channel * g.kernel_h * weight_w;

    for (int32_t line = (int32_t)threadIdx.x; line < d.channels * g.kernel_h; line += (int32_t)blockDim.x) {
        const bool exists = block_channel + line / g.kernel_h < g.c_out;
        const T* from = (const T*)p.weight + ((int64_t)block_channel * g.kernel_h + line) * g.kernel_w;
        for (int32_t j = 0; j < weight_w; ++j)
            weights[line * weight_w + j] = exists && j < g.kernel_w ? to_float(from[j]) : 0.0f;
    }
    for (int32_t n = blockIdx.y; n < g.n; n += gridDim.y) {
        __syncthreads(); // every thread is done with the previous image's shared memory
        stage_patch<T>(patch, d, n, block_channel, block_row * g.stride_h - g.pad_top,
                       block_column * g.stride_w - g.pad_left);
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
                            if (j + e >= g.kernel_w) continue; // a zero times an infinity would be NaN
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
