// Depthwise separable convolution in one kernel: the result of the depthwise convolution never exists in global memory.
//
//   mid[m, c] = round( activation( bias[c] + sum over taps of x[pixel of the tap, c / multiplier] * d[tap, c] ) )
//   y[m, o]   = epilogue( sum over c of mid[m, c] * w[c, o] )                      m: output pixel of the batch
//
// Tiling: that of conv_gemm.cu for a 1x1 convolution, except that the A tile is computed where it would be copied. A
// thread sums the taps of 16 bytes of channels for its rows in f32, in the order of depthwise_unrolled.cu, finishes
// them, rounds them to T and deposits them in shared memory. All columns of a block share this work; with C_out above
// Tile::kN every tile of columns repeats it. Wide tiles therefore pay, and where there are many tiles of columns two
// launches are faster.
//
// Gathers: 16-byte loads of x (channels_last, aligned, one output for each input channel), or element by element.
//
// Bound: DRAM for few channels (x and y are moved once; two launches would also move the middle twice); with many
// channels, the FFMA lanes and the conversions of the taps. Ladder: (1) the weights of a tap are loaded and converted
// once for all rows of a thread; (2) weights, bias and slope are padded, so that only x is tested; (3) tiles of 256
// columns for C_out of 256 and more.
#include "device/mainloop.cuh"
#include "device/tile_store.cuh"

// A of the pointwise convolution: the results of the depthwise one.
template <typename T, typename Tile, GatherKind kKind> struct DepthwiseResults : GatherBase<T, Tile> {
    using Base = GatherBase<T, Tile>;
    static constexpr bool kVectors = kKind == GatherKind::kVectors;
    const ConvParams& depthwise;
    int32_t channel, multiplier;
    const T* images[Base::kRows]; // pointers throughout, so that the compiler knows that they are global memory
    Window window[Base::kRows];

    WC_DEVICE DepthwiseResults(const ConvSeparableParams& params, const Steps& steps, int32_t tile_row,
                               int32_t total_rows)
        : Base(params.conv, steps, tile_row, total_rows, 0, kKind == GatherKind::kPixels), depthwise(params.depthwise) {
        channel = this->chunk * Base::kChunk;
        multiplier = depthwise.geometry.c_out / depthwise.geometry.c_in;
#pragma unroll
        for (int r = 0; r < Base::kRows; ++r) {
            const int32_t row = this->first_row + this->row + r * Base::kStride;
            images[r] = image<const T>(depthwise.x, row < total_rows ? output_pixel(depthwise.geometry, row).n : 0);
            window[r] = window_of<T>(depthwise, row, total_rows, 0);
        }
    }
    // Reads x at a tap of a row for the channels of the thread, and zeros outside the image. `channels` are the offsets
    // of these channels, of which `count` exist.
    WC_DEVICE Vector<T, Base::kChunk> pixel(const T* from, bool valid, const uint32_t (&channels)[Base::kChunk],
                                            int32_t count) const {
        Vector<T, Base::kChunk> x{};
        if constexpr (kVectors) {
            if (valid && count > 0) x = load_vector<Base::kChunk>(from + channels[0]);
        } else {
#pragma unroll
            for (int e = 0; e < Base::kChunk; ++e)
                if (valid && e < count) x.at[e] = from[channels[e]];
        }
        return x;
    }
    // All loads are used here, so that `deposit` has nothing to do.
    WC_DEVICE void fetch(unsigned char* to) {
        const ConvGeometryParams& g = depthwise.geometry;
        const int32_t count = g.c_out - channel;
        uint32_t channels[Base::kChunk];
#pragma unroll
        for (int e = 0; e < Base::kChunk; ++e)
            channels[e] =
                kVectors ? channel + e : (uint32_t)((channel + e) / multiplier) * (uint32_t)depthwise.x.stride_c;
        float sum[Base::kRows][Base::kChunk];
#pragma unroll
        for (int r = 0; r < Base::kRows; ++r)
#pragma unroll
            for (int e = 0; e < Base::kChunk; ++e) sum[r][e] = 0.0f;

        const int32_t padded = this->steps.count * Base::kK; // channels
        const T* weight = (const T*)depthwise.weight + channel;
        for (int32_t i = 0; i < g.kernel_h; ++i)
#pragma unroll 1
            for (int32_t j = 0; j < g.kernel_w; ++j, weight += padded) {
                const Vector<T, Base::kChunk> w = load_vector<Base::kChunk>(weight);
                const uint32_t distance = tap_offset(depthwise, i, j);
                Vector<T, Base::kChunk> x[Base::kRows];
#pragma unroll
                for (int r = 0; r < Base::kRows; ++r) {
                    const bool valid =
                        inside(window[r].top, i * g.dilation_h, g.h) && inside(window[r].left, j * g.dilation_w, g.w);
                    x[r] = pixel(images[r] + (valid ? window[r].offset + distance : 0), valid, channels, count);
                }
#pragma unroll
                for (int e = 0; e < Base::kChunk; ++e) {
                    const float factor = to_float(w.at[e]);
#pragma unroll
                    for (int r = 0; r < Base::kRows; ++r) sum[r][e] = fmaf(to_float(x[r].at[e]), factor, sum[r][e]);
                }
            }
#pragma unroll
        for (int r = 0; r < Base::kRows; ++r)
            store_vector<Base::kChunk>((T*)(to + chunk_at(this->row + r * Base::kStride, this->chunk)),
                                       epilogue_without_residual<T>(depthwise.epilogue, sum[r], channel));
        channel += Base::kK;
    }
    WC_DEVICE void deposit(unsigned char*) {}
};

template <typename T, typename Tile, GatherKind kKind> WC_DEVICE void conv_separable(const ConvSeparableParams& p) {
    constexpr int kK = kRowBytes / sizeof(T);
    const ConvGeometryParams& g = p.conv.geometry;
    const int32_t tiles = (g.c_out + Tile::kN - 1) / Tile::kN, rows = g.n * g.h_out * g.w_out;
    const int32_t column_tile = (int32_t)blockIdx.x % tiles, row = (int32_t)blockIdx.x / tiles * Tile::kM;
    if (row >= rows) return;
    const int32_t count = (g.c_in + kK - 1) / kK;

    const Steps steps{{0, 1}, {0, 1}, count, 0, count, 0};
    DepthwiseResults<T, Tile, kKind> a(p, steps, row, rows);
    WeightTiles<Tile> b(p.conv.weight, steps, 0, count, tiles, column_tile);
    WarpSums<T, Tile> sums;
    sums.clear();
    multiply_tiles<T, Tile>(sums, a, b, count);
    store_tile<T, Tile>(p.conv, sums, TilePlace{row, rows, 0, column_tile * Tile::kN});
}
