// Depthwise convolution, unrolled: square filters of 3, 5 and 7 with stride 1 or 2 and without dilation.
//
//   y[n, o, p, q] = epilogue( sum over (i, j)  x[n, o / m, p*s + i - top, q*s + j - left] * w[o, i, j] )
//   m = c_out / c_in, the channel multiplier (1 in channels_last);  x is zero outside its image;  taps are summed row
//   by row, in f32
//
// Bound: DRAM up to 3x3, where a 16-bit element costs 4 bytes and 9 products; DRAM and FFMA about equally at 5x5; FFMA
// from 7x7 up. Input elements are therefore fetched and converted to f32 as rarely as possible, and the weights stay in
// registers.
//
// Tiling: a thread computes a strip of 2 or 4 neighbouring output columns and slides down its rows. It loads an input
// row once and adds it to all output rows that see it; their sums are in registers (`Window`): ceil(k / s) rows for
// stride s and a filter of k rows. Weights are loaded once.
//   channels_last   a thread reads kVector neighbouring channels of a pixel in one access. Neighbouring threads take
//                   neighbouring channels, then neighbouring strips, whose shared columns come from L1. The next row is
//                   under way while a row is summed. Weights are [tap][c_out].
//                   The registers limit kVector, since each channel has k*k weights and k * columns sums. 3x3 can
//                   afford 16 bytes, or 8 bytes and more blocks, which helps small batches. 5x5 and 7x7 take 2
//                   channels, where fewer than one instruction in 50 is a load. (4 channels leave room for 2 columns
//                   instead of 4: a row of 5x5, 200 products, takes 6 loads and 24 conversions instead of 8 and 16,
//                   but 225 registers instead of 160; 7x7 spills.)
//   contiguous      a block takes channels x columns x strips. It stages the input that they see in shared memory, as
//                   f32 with zeros for the padding, in rows whose first pixel is aligned to 16 bytes: a thread's share
//                   of a row is a few 16-byte loads without conflicts. Small images share a block. Weights are
//                   [c_out][tap].
//
// Ladder: (1) 16 bytes of channels, or staged rows, instead of single loads; (2) the window: an input row is loaded and
// converted once for all output rows that see it; (3) weights in registers for the whole slide; (4) the next row under
// way; (5) strips of as many rows as fill the device.
#include "device/depthwise.cuh"

// The sums of the output rows that see the current input row: kColumns pixels of kVector channels each. Step t brings
// input rows t * kStride + phase of the strip, and sum[a] belongs to output row t - a.
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
    WC_DEVICE void add(const float (&x)[kPixels][kVector], const float (&weight)[kSize * kSize][kVector], int phase,
                       int32_t t, int32_t rows) {
#pragma unroll
        for (int a = 0; a < kRows; ++a) {
            const int i = a * kStride + phase;
            if (i >= kSize) continue;
            // from 5x5 up, a branch costs less than summing rows above and below the strip
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
    // Moves on to the next step. The last row is complete and leaves the window.
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

// Channels_last, one output for each input channel; kVector divides the number of channels.
template <typename T, int kSize, int kStride, int kVector>
WC_DEVICE void conv_depthwise_channels_last(const ConvDepthwiseParams& d) {
    constexpr int kColumns = kStripColumns<kVector>;
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
    for (int v = 0; v < kVector; ++v) bias[v] = bias_of(p.epilogue, channel + v);
    uint32_t inside = 0; // one bit for each pixel of a row: whether it lies in the image
#pragma unroll
    for (int c = 0; c < kPixels; ++c) inside |= (left + c >= 0 && left + c < g.w ? 1u : 0u) << c;

    for (int32_t n = blockIdx.y; n < g.n; n += gridDim.y) {
        const T* x = image<const T>(p.x, n) + channel + (int64_t)left * p.x.stride_w;
        T* y = image<T>(p.y, n) + channel;
        Vector<T, kVector> pixels[kPixels] = {};
        Sums sums;
        sums.clear();
        // Loads are one row ahead of the sums: step -1 loads the first row.
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
                        pixels[c] = inside >> c & 1u ? load_vector<kVector>(x + h * p.x.stride_h + c * p.x.stride_w)
                                                     : Vector<T, kVector>{};
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
                                 epilogue_after_bias<T>(p.epilogue, z, ChannelRun{n, channel, row + out, column + q}));
                }
            }
            sums.advance();
        }
    }
}

// Contiguous, with any channel multiplier.
template <typename T, int kSize, int kStride> WC_DEVICE void conv_depthwise_contiguous(const ConvDepthwiseParams& d) {
    constexpr int kColumns = kStripColumns<1>;
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
    const float* mine =
        patch + (at.channel * d.patch_h + at.strip * d.rows * kStride) * d.patch_w + at.column * kColumns * kStride;

    float weight[kSize * kSize][1] = {};
    if (active) {
        const T* w = (const T*)p.weight + (int64_t)channel * (kSize * kSize);
#pragma unroll
        for (int tap = 0; tap < kSize * kSize; ++tap) weight[tap][0] = to_float(w[tap]);
    }
    for (int32_t n = blockIdx.y; n < g.n; n += gridDim.y) {
        __syncthreads(); // every thread is done with the previous image's shared memory
        stage_patch<T>(patch, d, n, block_channel, block_row * kStride - g.pad_top,
                       block_column * kStride - g.pad_left);
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
