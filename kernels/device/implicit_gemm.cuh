// The body of every implicit GEMM: gather, mainloop, epilogue and store of one tile.
#pragma once
#include "mainloop.cuh"
#include "tile_store.cuh"

template <typename T, typename Tile, GatherKind kKind> struct GatherOf {
    using Type = Elements<T, Tile, kKind == GatherKind::kPixels>;
};
template <typename T, typename Tile> struct GatherOf<T, Tile, GatherKind::kVectors> {
    using Type = ChannelVectors<T, Tile>;
};
template <typename T, typename Tile> struct GatherOf<T, Tile, GatherKind::kMatrix> {
    using Type = PixelVectors<T, Tile>;
};
template <typename T, typename Tile> struct GatherOf<T, Tile, GatherKind::kPlanes> {
    using Type = Planes<T, Tile>;
};

// Tiles of output channels of a group.
template <typename Tile> WC_DEVICE int32_t column_tiles(const ConvGeometryParams& g) {
    return (g.c_out / g.groups + Tile::kN - 1) / Tile::kN;
}

// The steps of a tile shared by `count` blocks, of which this is the index-th.
struct Part {
    int32_t index = 0, count = 1;
    WC_DEVICE Steps of(Steps steps) const {
        const int32_t begin = (int32_t)((int64_t)steps.count * index / count), end = (int32_t)((int64_t)steps.count * (index + 1) / count);
        steps.skip = begin;
        steps.count = end - begin;
        return steps;
    }
};

// Tile `row_tile` of the output's pixels times `column_tile` of a group's channels. `total_steps` of packed weights belong to a
// group; `outputs` is where the pixels lie in p.y (OutputSteps or OutputClasses); of the tile's steps the block takes `part`. T: of x and the weights; Math: what
// is multiplied; Y: of y. Every thread of the block has the same place.
template <typename T, typename Tile, GatherKind kKind, typename Math = T, typename Y = T, typename Outputs = OutputSteps>
WC_DEVICE void implicit_gemm(const ConvParams& p, int32_t row_tile, int32_t group, int32_t column_tile, int32_t total_steps,
                             Outputs outputs = {}, Part part = {}) {
    const ConvGeometryParams& g = p.geometry;
    const int32_t row = row_tile * Tile::kM, rows = g.n * g.h_out * g.w_out;
    if (row >= rows) return;
    const int32_t last_row = (row + Tile::kM < rows ? row + Tile::kM : rows) - 1;

    const Steps steps = part.of(tile_steps<T>(g, row, last_row));
    WarpSums<Math, Tile> sums;
    sums.clear();
    if (steps.count > 0) { // else the filter has no taps, or all lie in the padding
        typename GatherOf<T, Tile, kKind>::Type a(p, steps, row, rows, group);
        WeightTiles<Tile> b(p.weight, steps, group, total_steps, column_tiles<Tile>(g), column_tile);
        multiply_tiles<Math, Tile>(sums, a, b, steps.count);
    }
    store_tile<Y, Tile>(p, sums, place_of(outputs, row, rows, group, column_tile * Tile::kN));
}
