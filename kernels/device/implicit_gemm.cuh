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
template <typename T, typename Tile> struct GatherOf<T, Tile, GatherKind::kPlanes> {
    using Type = Planes<T, Tile>;
};

// Tiles of output channels of a group.
template <typename Tile> WC_DEVICE int32_t column_tiles(const ConvGeometryParams& g) {
    return (g.c_out / g.groups + Tile::kN - 1) / Tile::kN;
}

// Tile `row_tile` of the output's pixels times `column_tile` of a group's channels. `total_steps` of packed weights belong to a
// group; `outputs` is where the pixels lie in p.y. T: of the tensors; Math: what is multiplied. Every thread of the block has the
// same place.
template <typename T, typename Tile, GatherKind kKind, typename Math = T>
WC_DEVICE void implicit_gemm(const ConvParams& p, int32_t row_tile, int32_t group, int32_t column_tile, int32_t total_steps,
                             OutputSteps outputs = {}) {
    const ConvGeometryParams& g = p.geometry;
    const int32_t row = row_tile * Tile::kM, rows = g.n * g.h_out * g.w_out;
    if (row >= rows) return;
    const int32_t last_row = (row + Tile::kM < rows ? row + Tile::kM : rows) - 1;

    const Steps steps = tile_steps<T>(g, row, last_row);
    WarpSums<Math, Tile> sums;
    sums.clear();
    if (steps.count > 0) { // else the filter has no taps, or all lie in the padding
        typename GatherOf<T, Tile, kKind>::Type a(p, steps, row, rows, group);
        WeightTiles<Tile> b(p.weight, steps, group, total_steps, column_tiles<Tile>(g), column_tile);
        multiply_tiles<Math, Tile>(sums, a, b, steps.count);
    }
    store_tile<T, Tile>(p, sums, TilePlace{row, rows, group, column_tile * Tile::kN, outputs});
}
