// Rearranging moves elements without computing anything: every byte is read once and written once. Bound: memory
// bandwidth.
//
// transpose: y[b, j, i] = x[b, i, j]. With channels as rows and pixels as columns it turns contiguous into
// channels_last, the other way round it turns channels_last into contiguous. A block moves a tile of 32x32 through
// shared memory, so that the reads and the writes of a warp are both consecutive. Each row of the tile is padded by one
// 4-byte word to an odd number of words (33 or 17), so that a warp which reads a column meets 32 different banks.
//   Ladder: (1) a tile instead of writes with gaps; (2) the padding, without which all of a column lies in one bank.
// cast: y[b, i] = round(x[b, i]), 16 bytes of the wider type at a time where both sides are aligned, otherwise one
// element.
//   Threads step through an image by the size of the grid.
#include "device/vector.cuh"

template <typename Bits> struct TransposeTile {
    static constexpr int32_t kSize = TRANSPOSE_TILE, kPitch = kSize + TRANSPOSE_PADDING_BYTES / (int32_t)sizeof(Bits);
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
    const int64_t x_start = (i0 + row0) * p.x_row_stride + j0 + lane,
                  y_start = (j0 + row0) * p.y_row_stride + i0 + lane;
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
    constexpr int kChunk = 16 / (sizeof(From) > sizeof(To) ? sizeof(From) : sizeof(To));
    const int64_t step = (int64_t)gridDim.x * blockDim.x, thread = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    const bool aligned = p.x % (kChunk * sizeof(From)) == 0 && p.y % (kChunk * sizeof(To)) == 0 &&
                         (p.x_batch_stride | p.y_batch_stride) % kChunk == 0;
    const int64_t chunks = aligned ? p.length / kChunk : 0;
    for (int64_t b = blockIdx.y; b < p.batch; b += gridDim.y) {
        const From* x = (const From*)p.x + b * p.x_batch_stride;
        To* y = (To*)p.y + b * p.y_batch_stride;
#pragma unroll 1
        for (int64_t i = thread; i < chunks; i += step) {
            const Vector<From, kChunk> from = load_vector<kChunk>(x + i * kChunk);
            Vector<To, kChunk> to;
            for (int k = 0; k < kChunk; ++k) to.at[k] = Convert<From, To>::apply(from.at[k]);
            store_vector<kChunk>(y + i * kChunk, to);
        }
#pragma unroll 1
        for (int64_t i = chunks * kChunk + thread; i < p.length; i += step) y[i] = Convert<From, To>::apply(x[i]);
    }
}

// Pixels into channels and back (PixelShuffle, PixelUnshuffle): deep [n, c r^2, h, w] <-> wide [n, c, h r, w r]. The
// place of element (n, c, i, j, h, w) is linear in each of the six on either side, whatever the order of the channels
// and the formats. The host gives the strides (src/kernels/pixel_shuffle.rs), and the kernels do not know the
// direction.
//
// pixel_runs: one access a thread along `a`, which is the order of y. With kWide 16 bytes, where both sides have runs
// of
//   channels; otherwise one element, which always works, and is fast where such runs are no multiple of 16 bytes.
// pixel_rows: both sides contiguous, r of 2 to 4. r rows of the deep side interleave to one row of the wide side; a
// thread
//   moves 16 bytes of each through registers.
// pixel_tile: neighbours in x (`a`) are not neighbours in y (`b`). A block moves a tile through shared memory, as
// transpose
//   does; the offsets of its rows and columns are computed once and lie in shared memory as well. Where an axis is
//   shorter than a warp, a warp takes several positions of the other axis at once.
// Ladder: (1) neighbouring threads write neighbours of y; (2) 16 bytes at a time where both sides have them (runs,
// rows); (3) the tile where they do not: without it each access of one side would touch a sector of its own.
struct CopyOffset {
    int32_t x, y;
};
WC_DEVICE int32_t extent_of(const CopyAxis (&axes)[3]) { return axes[0].extent * axes[1].extent * axes[2].extent; }
WC_DEVICE CopyOffset copy_offset(const CopyAxis (&axes)[3], int32_t index) {
    const int32_t rest = index / axes[2].extent, inner = index % axes[2].extent;
    const int32_t outer = rest / axes[1].extent, middle = rest % axes[1].extent;
    return {outer * axes[0].x_stride + middle * axes[1].x_stride + inner * axes[2].x_stride,
            outer * axes[0].y_stride + middle * axes[1].y_stride + inner * axes[2].y_stride};
}

// The place of the thread in a copy along `a`, for each position of `outer`. False for threads beyond the end.
WC_DEVICE bool copy_place(const PixelShuffleParams& p, CopyOffset& at) {
    const uint32_t index = blockIdx.x * blockDim.x + threadIdx.x, run = (uint32_t)extent_of(p.a);
    if (index / run >= (uint32_t)extent_of(p.outer)) return false;
    const CopyOffset a = copy_offset(p.a, (int32_t)(index % run)), outer = copy_offset(p.outer, (int32_t)(index / run));
    at = {a.x + outer.x, a.y + outer.y};
    return true;
}

template <typename Bits, bool kWide> WC_DEVICE void pixel_runs(const PixelShuffleParams& p) {
    constexpr int kCount = kWide ? 16 / (int)sizeof(Bits) : 1;
    CopyOffset at;
    if (!copy_place(p, at)) return;
    for (int32_t n = blockIdx.y; n < p.batch; n += gridDim.y)
        store_vector<kCount>((Bits*)p.y + n * p.y_batch_stride + at.y,
                             load_vector<kCount>((const Bits*)p.x + n * p.x_batch_stride + at.x));
}

// Element e of the wide row is element e / kFactor of deep row e % kFactor. The stride of b's innermost axis leads from
// one deep row to the next.
template <typename Bits, int kFactor, bool kToWide> WC_DEVICE void pixel_rows(const PixelShuffleParams& p) {
    constexpr int kCount = 16 / (int)sizeof(Bits);
    CopyOffset at;
    if (!copy_place(p, at)) return;
    for (int32_t n = blockIdx.y; n < p.batch; n += gridDim.y) {
        const Bits* x = (const Bits*)p.x + n * p.x_batch_stride + at.x;
        Bits* y = (Bits*)p.y + n * p.y_batch_stride + at.y;
        Vector<Bits, kCount> from[kFactor], to[kFactor];
#pragma unroll
        for (int k = 0; k < kFactor; ++k) from[k] = load_vector<kCount>(x + k * (kToWide ? p.b[2].x_stride : kCount));
#pragma unroll
        for (int e = 0; e < kFactor * kCount; ++e) {
            if constexpr (kToWide)
                to[e / kCount].at[e % kCount] = from[e % kFactor].at[e / kFactor];
            else
                to[e % kFactor].at[e / kFactor] = from[e / kCount].at[e % kCount];
        }
#pragma unroll
        for (int k = 0; k < kFactor; ++k) store_vector<kCount>(y + k * (kToWide ? kCount : p.b[2].y_stride), to[k]);
    }
}

template <typename Bits> WC_DEVICE void pixel_tile(const PixelShuffleParams& p) {
    constexpr int32_t kThreads = 256, kPerWord = 4 / (int32_t)sizeof(Bits);
    const int32_t pitch = ((p.tile_a + kPerWord - 1) / kPerWord | 1) * kPerWord; // an odd number of words
    CopyOffset* const a_at = (CopyOffset*)shared_memory();
    CopyOffset* const b_at = a_at + p.tile_a;
    Bits* const tile = (Bits*)(b_at + p.tile_b);

    const int32_t a_extent = extent_of(p.a), b_extent = extent_of(p.b), thread = (int32_t)threadIdx.x;
    const int32_t a_tiles = (a_extent + p.tile_a - 1) / p.tile_a, b_tiles = (b_extent + p.tile_b - 1) / p.tile_b;
    const int32_t rest = (int32_t)blockIdx.x / a_tiles;
    const int32_t a0 = (int32_t)blockIdx.x % a_tiles * p.tile_a, b0 = rest % b_tiles * p.tile_b;
    const int32_t a_count = a_extent - a0 < p.tile_a ? a_extent - a0 : p.tile_a;
    const int32_t b_count = b_extent - b0 < p.tile_b ? b_extent - b0 : p.tile_b;
    for (int32_t i = thread; i < a_count; i += kThreads) a_at[i] = copy_offset(p.a, a0 + i);
    for (int32_t i = thread; i < b_count; i += kThreads) b_at[i] = copy_offset(p.b, b0 + i);
    const CopyOffset outer = copy_offset(p.outer, rest / b_tiles);
    __syncthreads();

    const int32_t a_lane = thread & ((1 << p.lanes_a) - 1), b_row = thread >> p.lanes_a;
    const int32_t b_lane = thread & ((1 << p.lanes_b) - 1), a_row = thread >> p.lanes_b;
    for (int32_t n = blockIdx.y; n < p.batch; n += gridDim.y) {
        const Bits* x = (const Bits*)p.x + n * p.x_batch_stride + outer.x;
        for (int32_t b = b_row; b < b_count; b += kThreads >> p.lanes_a)
            for (int32_t a = a_lane; a < a_count; a += 1 << p.lanes_a) tile[b * pitch + a] = x[a_at[a].x + b_at[b].x];
        __syncthreads();
        Bits* y = (Bits*)p.y + n * p.y_batch_stride + outer.y;
        for (int32_t a = a_row; a < a_count; a += kThreads >> p.lanes_b)
            for (int32_t b = b_lane; b < b_count; b += 1 << p.lanes_b) y[a_at[a].y + b_at[b].y] = tile[b * pitch + a];
        __syncthreads();
    }
}
