// Convolution as an implicit GEMM: the kernel for convolutions with enough channels.
//
//   y[m, o] = epilogue( sum over k of A[m, k] * B[k, o] )
//   m is an output pixel of the batch, k is (tap, channel of the group)
//   A is gathered from the input while it is copied to shared memory, and never exists in global memory;
//   B is packed weights.
//
// Tiling: a block computes Tile::kM pixels x Tile::kN channels of one group. Neighbouring blocks share their pixels,
// then neighbouring pixels follow. A step is 64 bytes of k (32 elements of 16 bits, 16 of f32), and kStages steps are
// in flight. 16-bit types: a warp multiplies its part by mma.m16n8k16 on ldmatrix fragments, with f32 sums. f32: strict
// FFMA, k in order; or, where the user allows tf32, mma.m16n8k8 on the same fragments, where x is rounded after it is
// loaded and the weights when they are packed.
//
// Gathers (device/gather.cuh): kVectors, kMatrix, kChannels, kPixels and kPlanes. k is (tap, channel) flattened, so
// that 3 channels fill k as well as 64. conv_gemm_patches (contiguous, 16 bits, several taps) has another order of k,
// (32 channels, tap, channel of them), in which its weights are packed.
//
// Bound: tensor cores (FFMA for f32) for large tiles; below about 300 products a byte DRAM or L2. Ladder: (1) cp.async
// in stages instead of loads through registers; (2) the swizzle of gemm_tile.cuh: no bank conflicts in copies and
// fragments; (3) bit masks of valid taps instead of bounds arithmetic; (4) taps that lie in the padding for the whole
// tile are left out (dilation); (5) 16-byte stores. Where there are fewer tiles than multiprocessors and k is long: (6)
// tiles of 32 pixels; (7) slices: sets of a block's warps take every kSlices-th step each, so that one barrier serves
// several steps and more bytes are in flight; (8) split: the blocks along the grid's y take a part of k each. Where
// there are many tiles: (9) a persistent grid, as large as the device: a block takes one tile after the other and
// copies the first stages of the next tile while it stores the sums of this one. The manifest says which kernels are
// persistent. Small tiles and slices are not, since there are fewer tiles than that; nor are gathers through registers,
// which would wait for the loads that they start early, nor 128x128, where nvcc spills.
//
// Contiguous inputs: neighbours in memory are pixels and not channels, and a tap moves a pixel by 2 bytes, where
// neither cp.async nor ldmatrix can begin. Ladder: (1) kPixels, which loads an element for each tap; (2) 1x1: the plane
// of a channel is already a row of k, copied as it lies in 16 or 8 bytes and transposed by ldmatrix; (3) several taps:
// a block takes a rectangle of pixels of one image and loads what they see, halo included, once for all taps, to rows
// of channels, one row a pixel (device/patch.cuh): a tap then selects another row; (4) among the possible rectangles,
// the one that loads the fewest pixels; (5) the patch of the next channels is loaded between the taps of this one.
#include "device/implicit_gemm.cuh"
#include "device/patch.cuh"

// Steps of the packed weights of a group.
template <typename T> WC_DEVICE int32_t group_steps(const ConvGeometryParams& g) {
    constexpr int kK = kRowBytes / sizeof(T);
    return (g.kernel_h * g.kernel_w * (g.c_in / g.groups) + kK - 1) / kK;
}

template <typename T, typename Tile, GatherKind kKind, bool kPersistent, typename Math = T>
WC_DEVICE void conv_gemm(const ConvParams& p) {
    implicit_gemm<T, Tile, kKind, kPersistent, Math>(p, (int32_t)blockIdx.x, group_steps<T>(p.geometry));
}

// The blocks along the grid's y each sum a part of k. p.y is f32 [gridDim.y][n][h][w][channel], without an epilogue;
// split_sum.cu adds the parts.
template <typename T, typename Tile, GatherKind kKind> WC_DEVICE void conv_gemm_split(const ConvParams& p) {
    ConvParams part = p;
    part.y.address = (uint64_t)image<float>(p.y, (int32_t)blockIdx.y * p.geometry.n);
    const Part own{(int32_t)blockIdx.y, (int32_t)gridDim.y};
    implicit_gemm<T, Tile, kKind, false, T, float>(part, (int32_t)blockIdx.x, group_steps<T>(p.geometry), OutputSteps{},
                                                   own);
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
    WeightTiles<Tile> b(p.conv.weight, Steps{{0, g.kernel_h}, {0, g.kernel_w}, steps, 0, steps, 0}, group, steps, tiles,
                        column_tile);
    WarpSums<T, Tile> sums;
    sums.clear();
    multiply_patches<T, Tile>(p, sums, a, b, chunks);
    store_tile<T, Tile>(p.conv, sums, RectanglePlace{first, p.tile_w_log2, group, column_tile * Tile::kN});
}
