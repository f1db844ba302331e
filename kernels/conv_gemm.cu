// Convolution as an implicit GEMM: the kernel for everything with enough channels.
//
//   y[m, o] = epilogue( sum over k of A[m, k] * B[k, o] )     m: output pixel of the batch, k: (tap, channel of the group)
//   A is gathered from the input while it is copied to shared memory and never exists in global memory; B is packed weights.
//
// Tiling: a block computes Tile::kM pixels x Tile::kN channels of one group; neighbouring blocks share their pixels, then
// neighbouring pixels follow. A step is 64 bytes of k (32 elements of 16 bits, 16 of f32), kStages steps are in flight.
// 16-bit types: a warp multiplies its part by mma.m16n8k16 on ldmatrix fragments, f32 sums. f32: strict FFMA, k in order; or,
// where the user allows tf32, mma.m16n8k8 on the same fragments, x rounded after it is loaded and the weights when packed.
//
// Gathers: ChannelVectors (channels_last, groups of a multiple of 16 bytes of channels: 16-byte cp.async), PixelVectors (the same for
// 1x1: a plain GEMM), Elements (any number of channels and either format: single loads through registers, packed to 16-byte stores),
// Planes (contiguous 1x1). K is (tap,
// channel) flattened, so that 3 channels fill k as well as 64. conv_gemm_patches (contiguous, 16 bits, several taps) has a k of its
// own, (32 channels, tap, channel of them), and so are its weights packed.
//
// Bound: tensor cores (FFMA for f32) for large tiles; below about 300 products a byte DRAM or L2. Ladder: (1) cp.async in
// stages instead of loads through registers; (2) the swizzle of gemm_tile.cuh: no bank conflict in copies and fragments;
// (3) bit masks of valid taps instead of bounds arithmetic; (4) taps that lie in the padding for the whole tile are left out
// (dilation); (5) 16-byte stores. Where there are fewer tiles than multiprocessors and k is long: (6) tiles of 32 pixels; (7) slices:
// sets of a block's warps take every so-manieth step, so that a barrier serves several and more bytes are in flight; (8) split: the
// blocks of the grid's y take a part of k each. Where there are many: (9) the grid is as large as the device, a block takes one tile
// after the other, and the first stages of the next one are copied while the sums of this one are stored.
//
// Contiguous inputs: neighbours in memory are pixels, not channels, and a tap's shift of a pixel is 2 bytes, where neither cp.async
// nor ldmatrix can begin. Ladder: (1) Elements, which loads an element for each tap; (2) 1x1: a channel's plane is a row of k already,
// copied in 16 or 8 bytes as it is and transposed by ldmatrix; (3) several taps: a block takes a rectangle of pixels of one image and
// loads what they see, halo included, once for all taps, to rows of channels, one a pixel (device/patch.cuh): a tap is then another
// row; (4) of the possible rectangles, the one that loads the fewest pixels; (5) the next channels' patch is loaded between the taps
// of this one.
#include "device/implicit_gemm.cuh"
#include "device/patch.cuh"

// Steps of packed weights of a group.
template <typename T> WC_DEVICE int32_t group_steps(const ConvGeometryParams& g) {
    constexpr int kK = kRowBytes / sizeof(T);
    return (g.kernel_h * g.kernel_w * (g.c_in / g.groups) + kK - 1) / kK;
}

template <typename T, typename Tile, GatherKind kKind, typename Math = T> WC_DEVICE void conv_gemm(const ConvParams& p) {
    implicit_gemm<T, Tile, kKind, kWalks<Tile, kKind>, Math>(p, (int32_t)blockIdx.x, group_steps<T>(p.geometry));
}

// The blocks of the grid's y each sum a part of k. p.y is f32 [gridDim.y][n][h][w][channel] without an epilogue; split_sum.cu adds
// the parts up.
template <typename T, typename Tile, GatherKind kKind> WC_DEVICE void conv_gemm_split(const ConvParams& p) {
    ConvParams part = p;
    part.y.address = (uint64_t)image<float>(p.y, (int32_t)blockIdx.y * p.geometry.n);
    const Part own{(int32_t)blockIdx.y, (int32_t)gridDim.y};
    implicit_gemm<T, Tile, kKind, false, T, float>(part, (int32_t)blockIdx.x, group_steps<T>(p.geometry), OutputSteps{}, own);
}

template <typename T, typename Tile> WC_DEVICE void conv_gemm_patches(const ConvPatchParams& p) {
    constexpr int kK = kRowBytes / sizeof(T);
    const ConvGeometryParams& g = p.conv.geometry;
    const int32_t tile_w = 1 << p.tile_w_log2, tile_h = Tile::kM >> p.tile_w_log2;
    const int32_t columns = (g.w_out + tile_w - 1) / tile_w, rows = (g.h_out + tile_h - 1) / tile_h;
    const int32_t tiles = column_tiles<Tile>(g), column_tile = (int32_t)blockIdx.x % tiles;
    int32_t rest = (int32_t)blockIdx.x / tiles;
    const int32_t group = rest % g.groups;
    rest /= g.groups;
    const Pixel first{rest / columns / rows, rest / columns % rows * tile_h, rest % columns * tile_w};

    const int32_t chunks = (g.c_in / g.groups + kK - 1) / kK, steps = chunks * g.kernel_h * g.kernel_w;
    Patches<T, Tile> a(p, first, group);
    WeightTiles<Tile> b(p.conv.weight, Steps{{0, g.kernel_h}, {0, g.kernel_w}, steps, 0, steps, 0}, group, steps, tiles, column_tile);
    WarpSums<T, Tile> sums;
    sums.clear();
    multiply_patches<T, Tile>(p, sums, a, b, chunks);
    store_tile<T, Tile>(p.conv, sums, RectanglePlace{first, p.tile_w_log2, group, column_tile * Tile::kN});
}
