// Deformable convolution, v1 (offsets) and v2 (offsets and a mask): one kernel, no im2col in memory.
//
//   y[n, o, p, q] = epilogue( sum over (i, j, c)
//                             w[o, c, i, j] * mask * S(p*sh - top + i*dh + dy, q*sw - left + j*dw + dx) )
//   S is bilinear between the pixels of channel c and zero outside the image; dy, dx and mask belong to (pixel, tap,
//   offset group of c). mask * S is computed in f32 and rounded once to T.
//
// Tiling: that of conv_gemm.cu. The samples (a position, four weights and the mask) of each pixel, tap and offset group
// of a tile are computed once and kept in shared memory, 12 or 9 segments of k at a time. For 3x3 with one offset group
// that is once for the whole sum.
//
// Gathers (device/deformable.cuh): kVectors (channels_last; 16-byte loads of each corner are in flight while the
// previous stage is multiplied), kChannels and kPixels (element by element, any format and any number of channels).
//
// Bound: loads from L1 and L2, four for each value, and the arithmetic of the interpolation. Tiles are wide, since each
// tile along the output channels samples anew. Ladder: (1) one table of samples instead of positions in each thread;
// (2) corners of weight 0 are not read, so that offsets of whole pixels load no more than a plain convolution.
//
// deform_conv_direct handles every configuration and is the fallback: a thread computes one output element, in the
// order of conv_direct.cu.
#include "device/deformable.cuh"
#include "device/direct.cuh"
#include "device/implicit_gemm.cuh"

template <typename T, typename Tile, GatherKind kKind> struct DeformableOf {
    using Type = DeformableElements<T, Tile, kKind == GatherKind::kPixels>;
};
template <typename T, typename Tile> struct DeformableOf<T, Tile, GatherKind::kVectors> {
    using Type = DeformableVectors<T, Tile>;
};

template <typename T, typename Tile, GatherKind kKind> WC_DEVICE void deform_conv_gemm(const DeformConvParams& p) {
    constexpr int kK = kRowBytes / sizeof(T);
    const ConvGeometryParams& g = p.conv.geometry;
    const int32_t tiles = column_tiles<Tile>(g);
    const int32_t column_tile = (int32_t)blockIdx.x % tiles, rest = (int32_t)blockIdx.x / tiles;
    const int32_t group = rest % g.groups, row = rest / g.groups * Tile::kM, rows = g.n * g.h_out * g.w_out;
    if (row >= rows) return;

    // Any tap may reach any pixel, so none is left out.
    const int32_t count = (g.kernel_h * g.kernel_w * (g.c_in / g.groups) + kK - 1) / kK;
    const Steps steps{{0, g.kernel_h}, {0, g.kernel_w}, count, 0, count, 0};
    typename DeformableOf<T, Tile, kKind>::Type a(p, steps, row, rows, group);
    WeightTiles<Tile> b(p.conv.weight, steps, group, count, tiles, column_tile);
    WarpSums<T, Tile> sums;
    sums.clear();
    multiply_tiles<T, Tile>(sums, a, b, count);
    store_tile<T, Tile>(p.conv, sums, TilePlace{row, rows, group, column_tile * Tile::kN});
}

template <typename T, bool kChannelsLast> WC_DEVICE void deform_conv_direct(const DeformConvParams& p) {
    const ConvGeometryParams& g = p.conv.geometry;
    const DirectOutput output = direct_output<kChannelsLast>(g);
    if (!output.exists) return;
    const int32_t channel = output.channel, first = output.first_channel;
    const int32_t group_channels = g.c_in / g.groups, offset_group_channels = g.c_in / p.offset_groups;

    for (int32_t n = blockIdx.y; n < g.n; n += gridDim.y) {
        const Pixel at{n, output.row, output.column};
        const T* x = image<const T>(p.conv.x, n);
        const T* weight = (const T*)p.conv.weight + channel;
        float sum = 0.0f;
        for (int32_t tap = 0; tap < g.kernel_h * g.kernel_w; ++tap) {
            for (int32_t c = first; c < first + group_channels;) {
                const int32_t offset_group = c / offset_group_channels;
                const Sample s = sample_of<T>(p, at, offset_group, tap);
                for (; c < first + group_channels && c / offset_group_channels == offset_group; ++c, weight += g.c_out)
                    sum = fmaf(to_float(sampled<T>(p.conv.x, s, x + s.offset + c * p.conv.x.stride_c)),
                               to_float(*weight), sum);
            }
        }
        const EpilogueParams& tail = p.conv.epilogue;
        image<T>(p.conv.y, n)[element(p.conv.y, channel, at.h, at.w)] = epilogue<T>(tail, sum, n, channel, at.h, at.w);
    }
}
