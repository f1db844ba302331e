// The body of every implicit GEMM: for one tile after the other, the gather, the mainloop, the epilogue and the store.
#pragma once
#include "mainloop.cuh"
#include "tile_store.cuh"

template <typename T, typename Tile, GatherKind kKind> struct GatherOf {
    using Type = GatherElements<T, Tile, kKind == GatherKind::kPixels>;
};
template <typename T, typename Tile> struct GatherOf<T, Tile, GatherKind::kVectors> {
    using Type = GatherVectors<T, Tile>;
};
template <typename T, typename Tile> struct GatherOf<T, Tile, GatherKind::kMatrix> {
    using Type = GatherMatrix<T, Tile>;
};
template <typename T, typename Tile> struct GatherOf<T, Tile, GatherKind::kPlanes> {
    using Type = GatherPlanes<T, Tile>;
};

// Tiles of output channels in a group.
template <typename Tile> WC_DEVICE int32_t column_tiles(const ConvGeometryParams& g) {
    return (g.c_out / g.groups + Tile::kN - 1) / Tile::kN;
}

// One of the `count` blocks that share the steps of a tile.
struct Part {
    int32_t index = 0, count = 1;
    WC_DEVICE Steps of(Steps steps) const {
        const int32_t begin = (int32_t)((int64_t)steps.count * index / count),
                      end = (int32_t)((int64_t)steps.count * (index + 1) / count);
        steps.skip = begin;
        steps.count = end - begin;
        return steps;
    }
};

// Where a tile begins. Column tiles of a group follow each other, then groups, then tiles of pixels.
struct TileOrigin {
    int32_t row, group, column_tile;
};
template <typename Tile> WC_DEVICE TileOrigin tile_origin(const ConvGeometryParams& g, int32_t index) {
    const int32_t tiles = column_tiles<Tile>(g), rest = index / tiles;
    return {rest / g.groups * Tile::kM, rest % g.groups, index % tiles};
}

// The steps of the tile that this block takes: none where the filter has no taps, or where all of them lie in the
// padding.
template <typename T, typename Tile>
WC_DEVICE Steps part_of_tile(const ConvGeometryParams& g, const TileOrigin& tile, const Part& part) {
    const int32_t rows = g.n * g.h_out * g.w_out, end = tile.row + Tile::kM;
    return part.of(tile_steps<T>(g, tile.row, (end < rows ? end : rows) - 1));
}
template <typename Y, typename Tile, typename Math, typename Outputs>
WC_DEVICE void store_sums(const ConvParams& p, const WarpSums<Math, Tile>& sums, const Outputs& outputs,
                          const TileOrigin& tile, int32_t begin) {
    const ConvGeometryParams& g = p.geometry;
    store_tile<Y, Tile>(
        p, sums, place_of(outputs, tile.row, g.n * g.h_out * g.w_out, tile.group, tile.column_tile * Tile::kN), begin);
}

// Computes tile `index` or, with kPersistent, every gridDim.x-th tile from there on. A group has `total_steps` of
// packed weights; `outputs` says where the pixels lie in p.y (OutputSteps or OutputClasses); `part` is the share of a
// tile's steps that the block takes. T is the type of x and of the weights, Math the type that is multiplied, Y the
// type of y.
template <typename T, typename Tile, GatherKind kKind, bool kPersistent = false, typename Math = T, typename Y = T,
          typename Outputs = OutputSteps>
WC_DEVICE void implicit_gemm(const ConvParams& p, int32_t index, int32_t total_steps, Outputs outputs = {},
                             Part part = {}) {
    using Gather = typename GatherOf<T, Tile, kKind>::Type;
    const ConvGeometryParams& g = p.geometry;
    const int32_t rows = g.n * g.h_out * g.w_out, tiles = column_tiles<Tile>(g);
    WarpSums<Math, Tile> sums;
    if constexpr (!kPersistent) {
        const TileOrigin tile = tile_origin<Tile>(g, index);
        const Steps steps = part_of_tile<T, Tile>(g, tile, part);
        sums.clear();
        if (steps.count > 0) {
            Gather a(p, steps, tile.row, rows, tile.group);
            WeightTiles<Tile> b(p.weight, steps, tile.group, total_steps, tiles, tile.column_tile);
            multiply_tiles<Math, Tile>(sums, a, b, steps.count);
        }
        store_sums<Y>(p, sums, outputs, tile, 0);
    } else {
        const int32_t step = (int32_t)gridDim.x, end = (rows + Tile::kM - 1) / Tile::kM * g.groups * tiles;
        for (const int32_t first = index;; index += step) {
            const bool exists = index < end;
            const TileOrigin tile = exists ? tile_origin<Tile>(g, index) : TileOrigin{};
            const Steps steps = exists ? part_of_tile<T, Tile>(g, tile, part) : Steps{};
            Gather a(p, steps, tile.row, exists ? rows : 0, tile.group);
            WeightTiles<Tile> b(p.weight, steps, tile.group, total_steps, tiles, tile.column_tile);
            begin_stages(a, b, steps.count, 0, Tile::kAhead); // while the sums of the previous tile are stored
            if (index != first) {
                store_sums<Y>(p, sums, outputs, tile_origin<Tile>(g, index - step), Tile::kStagingBegin);
                if (!exists) return;
                __syncthreads(); // every thread is done with the staged sums of the previous tile
            }
            sums.clear();
            multiply_tiles<Math, Tile>(sums, a, b, steps.count, Tile::kAhead);
        }
    }
}
