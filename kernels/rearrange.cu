// Rearranging: nothing is computed, every byte is read once and written once. Bound: memory bandwidth.
//
// transpose: y[b, j, i] = x[b, i, j]. With rows = channels and columns = pixels it turns contiguous into channels_last,
//   the other way round it turns channels_last into contiguous. A block moves a 32x32 tile through shared memory, so that
//   both the reads and the writes of a warp are consecutive; a tile's row is padded by one 4-byte word, so that its length
//   in words is odd (33 or 17) and a warp that reads a column meets 32 different banks.
// cast: y[b, i] = round(x[b, i]), one element a thread, grid-stride.
#include "device/tensor.cuh"

template <typename Bits> struct TransposeTile {
    static constexpr int32_t kSize = 32, kPitch = kSize + 4 / (int32_t)sizeof(Bits);
    static constexpr int32_t kThreads = 256, kRowsAtOnce = kThreads / kSize;
    static_assert(kThreads % kSize == 0, "a pass moves whole rows");
};

template <typename Bits> WC_DEVICE void transpose(const TransposeParams& p) {
    using Tile = TransposeTile<Bits>;
    Bits* tile = (Bits*)shared_memory();
    const int32_t lane = threadIdx.x % Tile::kSize, row0 = threadIdx.x / Tile::kSize;
    const int32_t tile_columns = (p.columns + Tile::kSize - 1) / Tile::kSize;
    const int32_t i0 = (int32_t)(blockIdx.x / tile_columns) * Tile::kSize;
    const int32_t j0 = (int32_t)(blockIdx.x % tile_columns) * Tile::kSize;
    const int64_t x_start = (i0 + row0) * p.x_row_stride + j0 + lane, y_start = (j0 + row0) * p.y_row_stride + i0 + lane;
    for (int32_t b = blockIdx.y; b < p.batch; b += gridDim.y) {
        const Bits* x = (const Bits*)p.x + b * p.x_batch_stride + x_start;
        for (int32_t r = row0; r < Tile::kSize; r += Tile::kRowsAtOnce, x += Tile::kRowsAtOnce * p.x_row_stride)
            if (i0 + r < p.rows && j0 + lane < p.columns) tile[r * Tile::kPitch + lane] = *x;
        __syncthreads();
        Bits* y = (Bits*)p.y + b * p.y_batch_stride + y_start;
        for (int32_t r = row0; r < Tile::kSize; r += Tile::kRowsAtOnce, y += Tile::kRowsAtOnce * p.y_row_stride)
            if (j0 + r < p.columns && i0 + lane < p.rows) *y = tile[lane * Tile::kPitch + r];
        __syncthreads();
    }
}

template <typename From, typename To> struct Convert {
    static WC_DEVICE To apply(From v) { return from_float<To>(to_float(v)); }
};
template <typename T> struct Convert<T, T> {
    static WC_DEVICE T apply(T v) { return v; }
};

template <typename From, typename To> WC_DEVICE void cast(const CastParams& p) {
    const int64_t step = (int64_t)gridDim.x * blockDim.x;
    for (int64_t b = blockIdx.y; b < p.batch; b += gridDim.y)
        for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < p.length; i += step)
            ((To*)p.y)[b * p.y_batch_stride + i] = Convert<From, To>::apply(((const From*)p.x)[b * p.x_batch_stride + i]);
}
