// Spatially separable convolution of dense stages in one kernel: kh x 1 from C_in to C_mid channels, then 1 x kw to
// C_out.
//
//   mid[n, m, p, v] = round( bias[m] + sum over (i, c) of x[n, c, p*sh + i*dh - top, v] * column[m, c, i] ),
//                     0 for v outside
//   y[n, o, p, q]   = epilogue( sum over (j, m) of mid[n, m, p, q*sw + j*dw - left] * row[o, m, j] )
//
// The middle never exists in global memory. It is rounded once to T, and both sums run over k in the order of
// conv_gemm.cu.
//
// Tiling: a block takes a rectangle of tile_h x tile_w output pixels of one image, at most Tile::kM, with all their
// channels. First it computes what these pixels see of the middle, Tile::kM pixels x Tile::kN channels at a time. That
// is the vertical convolution of a part of x, with the gathers, weights and mainloop of any implicit GEMM. The results
// stay in shared memory as rows of k, one row a pixel ([32 channels][pixel], device/gemm_tile.cuh). Then, for one tile
// of output channels after the other, the steps of (tap, 32 channels) read their A from there: a tap is a distance
// between rows, as in device/patch.cuh, and only weights are copied. Columns of the middle outside the image are not
// computed; for those, lanes load a row of zeros, since the padding is zeros and not biases.
//
// Bound: DRAM up to about 64 channels (x and y are moved once; two launches would also move the middle twice). With
// more channels the tensor cores and L2, and the columns between neighbouring rectangles, which are computed twice,
// count. Ladder: (1) the loop over output channels surrounds the finished middle, which is computed once; (2)
// rectangles as wide as a narrow image, which need no halo; (3) otherwise widths that are multiples of 8: eight rows of
// ldmatrix are then neighbours, and no banks conflict; (4) sums go from registers to the middle two channels at a time,
// without conflicts; (5) taps that see padding only are left out in both stages.
#include "device/implicit_gemm.cuh"

// The block's rectangle of output pixels, row after row from `first` on. Some of them may lie beyond the output.
struct BlockPlace {
    Pixel first;
    int32_t rows, width, column;
    static constexpr int32_t row = 0, group = 0;
    static constexpr bool kClasses = false;
    WC_DEVICE Pixel pixel(const ConvGeometryParams&, int32_t m) const {
        return {first.n, first.h + m / width, first.w + m % width};
    }
    WC_DEVICE bool exists(const ConvGeometryParams& g, int32_t m) const {
        return m < rows * width && first.w + m % width < g.w_out;
    }
    template <int kChunk> WC_DEVICE bool runs(const ConvGeometryParams& g) const {
        return g.w_out % kChunk == 0 && width % kChunk == 0;
    }
    WC_DEVICE OutputColumn output_column(const ConvGeometryParams&, int32_t n) const { return {n, 0, 0}; }
    WC_DEVICE bool has(const Pixel&) const { return true; }
};

// The middle in shared memory. For each 32 channels every pixel has a row of k; pixels lie row after row, `columns` of
// them, which are in the image. Two rows of zeros in front of it cover every bank.
template <typename T, typename Tile> struct Middle {
    static constexpr int kK = kRowBytes / sizeof(T), kFragments = Tile::kWarpM / 16;
    static constexpr int kBegin = kStages * Tile::kStageBytes, kZeroBytes = SPATIAL_GEMM_ZERO_BYTES;
    static_assert(kZeroBytes == 2 * kRowBytes, "the zeros have every bank");
    static_assert(sizeof(T) == 2, "a warp's sums are stored in pairs of 32 bits");
    int32_t columns, chunk_bytes; // chunk_bytes: of 32 channels of all pixels
    int32_t lines[kFragments];    // the rows of the middle that the lane's output pixels see
    int32_t at[kFragments];       // the columns that their first taps see

    // `left` is the column of the middle that the first tap of the rectangle sees, where 0 is the first one in shared
    // memory.
    WC_DEVICE Middle(const SpatialSeparableParams& p, const BlockPlace& place, int32_t left, int32_t there)
        : columns(there) {
        chunk_bytes = (p.tile_h * p.mid_w + Tile::kM - 1) / Tile::kM * Tile::kM * kRowBytes;
        const int32_t first = slice_warp<Tile>() / Tile::kWarpColumns * Tile::kWarpM + lane_index() % 16;
#pragma unroll
        for (int m = 0; m < kFragments; ++m) {
            const int32_t row = first + m * 16;
            const bool exists = place.exists(p.conv.geometry, row);
            lines[m] = exists ? row / place.width * columns : 0;
            at[m] = exists ? row % place.width * p.conv.geometry.stride_w + left
                           : INT32_MIN; // with which no tap is inside the image
        }
        if (threadIdx.x < kZeroBytes / kChunkBytes)
            store_vector<4>((uint32_t*)(zeros() + threadIdx.x * kChunkBytes), Vector<uint32_t, 4>{});
    }
    WC_DEVICE unsigned char* zeros() const { return shared_memory() + kBegin; }
    WC_DEVICE unsigned char* chunk(int32_t index) const { return zeros() + kZeroBytes + index * chunk_bytes; }

    // Finishes a tile of sums: pixels from `row` on and channels from `column` on. Channels that only fill up a chunk
    // become zeros, whatever x holds.
    WC_DEVICE void deposit(const WarpSums<T, Tile>& sums, const ConvParams& p, int32_t row, int32_t column) const {
        const int32_t first_row = row + slice_warp<Tile>() / Tile::kWarpColumns * Tile::kWarpM + lane_index() / 4;
        const int32_t first_column = column + slice_warp<Tile>() % Tile::kWarpColumns * Tile::kWarpN;
        const int32_t channels = p.geometry.c_out, padded = (channels + kK - 1) / kK * kK;
#pragma unroll
        for (int n = 0; n < WarpSums<T, Tile>::kFragmentsN; ++n) {
            const int32_t vector = first_column + n * 8, channel = vector + lane_index() % 4 * 2;
            if (vector >= padded) continue;
            const bool low = channel < channels, high = channel + 1 < channels;
            const float low_bias = low ? bias_of(p.epilogue, channel) : 0.0f,
                        high_bias = high ? bias_of(p.epilogue, channel + 1) : 0.0f;
#pragma unroll
            for (int m = 0; m < kFragments; ++m)
#pragma unroll
                for (int below = 0; below < 2; ++below) {
                    const float* const sum = sums.sum[m][n] + below * 2;
                    const Vector<T, 2> pair{
                        {low ? from_float<T>(sum[0] + low_bias) : T{}, high ? from_float<T>(sum[1] + high_bias) : T{}}};
                    const int32_t to = chunk_at(first_row + m * 16 + below * 8, vector % kK / 8) + lane_index() % 4 * 4;
                    store_vector<2>((T*)(chunk(vector / kK) + to), pair);
                }
        }
    }
};

// The rows of a chunk of the middle that the lanes of a warp multiply, at the distance of a tap.
template <typename T, typename Tile> struct MiddleRows {
    const Middle<T, Tile>& middle;
    const unsigned char* chunk;
    int32_t distance;
    WC_DEVICE void load(uint32_t (&fragments)[Middle<T, Tile>::kFragments][4], int k) const {
        const void* rows[Middle<T, Tile>::kFragments];
#pragma unroll
        for (int m = 0; m < Middle<T, Tile>::kFragments; ++m) {
            const int32_t column = middle.at[m] + distance, row = middle.lines[m] + column;
            const int32_t place =
                chunk_at(row & 7, k + lane_index() / 16); // in the same bank whether the pixel or a zero is read
            const bool there = (uint32_t)column < (uint32_t)middle.columns;
            rows[m] =
                there ? chunk + (row & ~7) * kRowBytes + place : middle.zeros() + place % Middle<T, Tile>::kZeroBytes;
        }
        ldmatrix_x4<false>(fragments, rows);
    }
};

// Adds the products of the taps from `tap` on, `chunks` steps of channels for each. Afterwards the pipeline's memory is
// free.
template <typename T, typename Tile>
WC_DEVICE void multiply_middle(WarpSums<T, Tile>& sums, const Middle<T, Tile>& middle, WeightTiles<Tile>& b,
                               int32_t steps, int32_t tap, int32_t chunks, int32_t dilation) {
    constexpr int kSlot = Tile::kN * kRowBytes;
    unsigned char* const shared = shared_memory();
    const int32_t b_begin = slice_warp<Tile>() % Tile::kWarpColumns * Tile::kWarpN * kRowBytes;
#pragma unroll 1
    for (int step = 0; step < kStages - 1; ++step) {
        if (step < steps) b.fetch(shared + step * kSlot);
        copy_async_commit();
    }
    int32_t chunk = 0, distance = tap * dilation;
#pragma unroll 1
    for (int32_t step = 0; step < steps; ++step) {
        copy_async_wait<kStages - 2>();
        // Weights and middle have arrived for all threads, and all are done with the slot that is filled next.
        __syncthreads();
        const int32_t coming = step + kStages - 1;
        if (coming < steps) b.fetch(shared + coming % kStages * kSlot);
        copy_async_commit();
        sums.multiply(MiddleRows<T, Tile>{middle, middle.chunk(chunk), distance},
                      shared + step % kStages * kSlot + b_begin);
        if (++chunk == chunks) {
            chunk = 0;
            distance += dilation;
        }
    }
    copy_async_wait<0>();
    __syncthreads();
}

template <typename T, typename Tile, GatherKind kKind> WC_DEVICE void spatial_gemm(const SpatialSeparableParams& p) {
    static_assert(Tile::kSlices == 1, "a warp has whole sums");
    constexpr int kK = kRowBytes / sizeof(T);
    const ConvGeometryParams& g = p.conv.geometry;
    const int32_t row_tiles = (g.h_out + p.tile_h - 1) / p.tile_h, rest = (int32_t)blockIdx.x / p.column_tiles;
    BlockPlace place{{rest / row_tiles, rest % row_tiles * p.tile_h, (int32_t)blockIdx.x % p.column_tiles * p.tile_w},
                     p.tile_h,
                     p.tile_w,
                     0};
    const Pixel& first = place.first;
    if (first.h + place.rows > g.h_out) place.rows = g.h_out - first.h;

    // What the rectangle sees of the middle.
    const int32_t last = (first.w + p.tile_w < g.w_out ? first.w + p.tile_w : g.w_out) - 1;
    const int32_t left = first.w * g.stride_w - g.pad_left, last_left = last * g.stride_w - g.pad_left;
    const int32_t right = last_left + (g.kernel_w - 1) * g.dilation_w; // the last column
    const int32_t begin = left > 0 ? left : 0, columns = (right < g.w - 1 ? right : g.w - 1) - begin + 1;
    const Middle<T, Tile> middle(p, place, left - begin, columns);
    WarpSums<T, Tile> sums;
    if (columns > 0) {
        // The vertical convolution of these columns, as if there were no others.
        ConvParams column = p.column;
        ConvGeometryParams& vertical = column.geometry;
        column.x.address = (uint64_t)(image<const T>(p.column.x, first.n) + element(p.column.x, 0, 0, begin));
        vertical.n = 1;
        vertical.w = vertical.w_out = columns;
        vertical.h_out = place.rows;
        vertical.pad_top -= first.h * vertical.stride_h;
        const int32_t pixels = place.rows * columns, total_steps = (vertical.kernel_h * vertical.c_in + kK - 1) / kK,
                      tiles = column_tiles<Tile>(vertical);
        for (int32_t row = 0; row < pixels; row += Tile::kM) {
            const Steps steps = tile_steps<T>(vertical, row, (row + Tile::kM < pixels ? row + Tile::kM : pixels) - 1);
#pragma unroll 1
            for (int32_t tile = 0; tile < tiles; ++tile) {
                sums.clear();
                if (steps.count > 0) {
                    typename GatherOf<T, Tile, kKind>::Type a(column, steps, row, pixels, 0);
                    WeightTiles<Tile> b(column.weight, steps, 0, total_steps, tiles, tile);
                    multiply_tiles<T, Tile>(sums, a, b, steps.count);
                }
                middle.deposit(sums, column, row, tile * Tile::kN);
            }
        }
    }

    const int32_t chunks = (g.c_in + kK - 1) / kK, tiles = column_tiles<Tile>(g);
    const Range taps = live_taps(left, last_left, g.w, g.dilation_w, g.kernel_w);
    const int32_t count = (taps.end - taps.begin) * chunks;
    const Steps steps{{0, 1}, taps, count, taps.begin * chunks, count, 0};
#pragma unroll 1
    for (int32_t tile = 0; tile < tiles; ++tile) {
        sums.clear();
        if (count > 0) { // otherwise all taps lie in the padding
            WeightTiles<Tile> b(p.conv.weight, steps, 0, g.kernel_w * chunks, tiles, tile);
            multiply_middle<T, Tile>(sums, middle, b, count, taps.begin, chunks, g.dilation_w);
        }
        place.column = tile * Tile::kN;
        store_tile<T, Tile>(p.conv, sums, place);
        __syncthreads(); // the next weights take the place of these sums
    }
}
