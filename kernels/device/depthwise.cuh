// What the depthwise kernels have in common: the place of a thread, and the staging of a contiguous input.
#pragma once
#include "rows.cuh"

// The output pixels from one thread to the next along a row, where a thread takes kVector channels.
template <int kVector> constexpr int kStripColumns = kVector >= 4 ? DEPTHWISE_WIDE_STRIP : DEPTHWISE_STRIP;

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

// Fills the patch [channels][patch_h][patch_w] with the pixels of image x from (top, left) on as f32, with zeros
// outside the image. The threads that share a row are a power of two: lanes read neighbours, and no thread divides to
// find its place. A thread has several loads under way and reads kPair elements in one access.
template <typename T, int kPair>
WC_DEVICE void stage_patch(float* patch, const ConvDepthwiseParams& d, const T* x, int32_t channel, int32_t top,
                           int32_t left) {
    constexpr int kBatch = 4;
    constexpr int32_t kNothing = -2; // not -1, which an access that starts one column before the patch may have
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
WC_DEVICE void stage_patch(float* patch, const ConvDepthwiseParams& d, int32_t n, int32_t channel, int32_t top,
                           int32_t left) {
    const T* x = image<const T>(d.conv.x, n);
    if (sizeof(T) == 2 && d.conv.geometry.w % 2 == 0 && rows_aligned<2, T>(d.conv.x))
        stage_patch<T, 2>(patch, d, x, channel, top, left);
    else
        stage_patch<T, 1>(patch, d, x, channel, top, left);
}
