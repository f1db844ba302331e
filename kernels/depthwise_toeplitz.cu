// Depthwise convolution of large filters on tensor cores, as products with Toeplitz matrices; its kernels are called
// `banded` (f16, bf16; stride 1, no dilation, one output for each input channel).
//
//   y[n, c, p, q] = epilogue( sum over (i, j)  x[n, c, p + i - top, q + j - left] * w[c, i, j] )
//
// For one channel and one row i of the filter, 16 x 8 output pixels are the product of 16 input rows as they lie, moved
// down by i, and of a band (a Toeplitz matrix) B[column][q] = w[i][column - q - shift]. The k of the MMA are the kWidth
// input columns that 8 outputs see.
//
// Tiling: a block computes kRows x 32 output pixels of some channels, and a warp one channel at a time.
//   patch  the block stages the input of these pixels, with zeros for the padding. ldmatrix starts at any row, and
//          neighbouring 16 x 8 fragments share their halves of 8 columns. Accesses start at even columns of the image:
//          `shift` is the column of the patch that the first output sees first, 0 or 1.
//   band   the weights of a row with zeros on both sides, in two copies: the pairs that an odd output column reads
//          start at even elements, and those of an even column at odd elements, so that the second copy is moved by
//          one. Both are made when weights are packed; a pair is one load.
//   sums   a warp owns a channel, so that its sums take the place of its patch. The block then stores them as y needs
//          them.
// An infinity or a NaN would meet the zeros of a band. A block that stages one therefore sums by FFMA, from the same
// patch and band.
//
// Bound: shared memory, by ldmatrix. Ladder: (1) bands instead of FFMA, from 7x7 up; (2) fragments that overlap are
// loaded once; (3) the second copy of a band, without which odd columns would put their pairs together from two words.
#include "device/async_copy.cuh"
#include "device/mma.cuh"
#include "device/rows.cuh"
#include "device/warp.cuh"

template <int kWidth, int kTileRows> struct Banded {
    static constexpr int32_t kWarps = TOEPLITZ_WARPS, kThreads = 32 * kWarps;
    static constexpr int32_t kRows = kTileRows, kColumns = TOEPLITZ_COLUMNS; // output pixels of a block in a channel
    static constexpr int32_t kTiles = kRows / 16, kBlocks = kColumns / TOEPLITZ_BLOCK;
    static constexpr int32_t kPitch = kColumns - TOEPLITZ_BLOCK + kWidth; // elements of a row of the patch
    static constexpr int32_t kPairs = kPitch / 2;                         // words of a row of the patch
    static constexpr int32_t kLoads = (kPitch / 8 + 1) / 2;               // ldmatrix loads of 16 columns for a row
    static constexpr int32_t kLead = TOEPLITZ_BLOCK - 1;                  // zeros before the weights of a band's row
    static_assert(kWidth % TOEPLITZ_STEP == 0 && kRows % 16 == 0, "whole MMAs");
    static_assert(kPitch / 8 % 2 == 1, "the 8 rows that an ldmatrix reads lie in different banks");

    // A channel's patch, and later its sums. Four channels at a time are moved on, so that the threads that share
    // channels by fours and neighbouring words use all banks.
    static WC_DEVICE unsigned char* area(const ConvDepthwiseParams& d, int32_t channel) {
        return shared_memory() + channel * d.area_bytes + channel / 4 * (TOEPLITZ_MOVED_BYTES * 4 / d.channels);
    }
    // The index of a sum in the area. 8 neighbours from a multiple of 8 stay together, and four rows that are written
    // at once use all banks.
    static WC_DEVICE int32_t sum_at(int32_t row, int32_t column) { return row * kColumns + (column ^ row % 4 * 8); }
};

// Bit 15 or 31 is set where an element of the pair is infinite or NaN.
template <typename T> constexpr uint32_t kInfinity = 0x7c00;
template <> constexpr uint32_t kInfinity<bf16_t> = 0x7f80;
template <typename T> WC_DEVICE uint32_t nonfinite_bits(uint32_t pair) {
    return (pair & 0x7fff7fffu) + (0x8000u - kInfinity<T>)*0x10001u;
}

// Whether 4 neighbouring channels of a pixel may be accessed at once.
template <typename T> WC_DEVICE bool channels_aligned(const Tensor4& t) {
    const uint32_t strides = (uint32_t)t.stride_n | (uint32_t)t.stride_h | (uint32_t)t.stride_w;
    return t.stride_c == 1 && ((uint32_t)t.address | strides * (uint32_t)sizeof(T)) % (4 * sizeof(T)) == 0;
}

// Fills the patches from pixel (top, left) of image x on, 4 channels and 2 pixels at a time. The result has bit 15 or
// 31 set where an element is infinite or NaN.
template <typename T, typename Tile>
WC_DEVICE uint32_t stage_channels(const ConvDepthwiseParams& d, const T* x, int32_t channel, int32_t top,
                                  int32_t left) {
    constexpr int kBatch = 4;
    const ConvParams& p = d.conv;
    const ConvGeometryParams& g = p.geometry;
    const int32_t vectors = d.channels / 4, vector = (int32_t)threadIdx.x % vectors * 4,
                  at_once = Tile::kThreads / vectors;
    const int32_t total = channel + vector < g.c_out ? d.patch_h * Tile::kPairs : 0, all = d.patch_h * Tile::kPairs;
    uint32_t nonfinite = 0;
    for (int32_t first = (int32_t)threadIdx.x / vectors; first < all; first += kBatch * at_once) {
        Vector<uint32_t, 2> pixel[kBatch][2];
#pragma unroll
        for (int b = 0; b < kBatch; ++b) {
            const int32_t pair = first + b * at_once, h = top + pair / Tile::kPairs, w = left + pair % Tile::kPairs * 2;
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                pixel[b][e] = Vector<uint32_t, 2>{};
                if (pair < total && h >= 0 && h < g.h && w + e >= 0 && w + e < g.w)
                    pixel[b][e] = load_vector<2>((const uint32_t*)(x + element(p.x, channel + vector, h, w + e)));
            }
        }
#pragma unroll
        for (int b = 0; b < kBatch; ++b) {
            const int32_t pair = first + b * at_once;
            if (pair >= all) continue;
#pragma unroll
            for (int c = 0; c < 4; ++c) {
                const uint32_t one = pixel[b][0].at[c / 2], other = pixel[b][1].at[c / 2];
                const uint32_t word = c % 2 ? one >> 16 | (other & 0xffff0000u) : (one & 0xffffu) | other << 16;
                nonfinite |= nonfinite_bits<T>(word);
                ((uint32_t*)Tile::area(d, vector + c))[pair] = word;
            }
        }
    }
    return nonfinite;
}

// Fills the patches from any x, with the same result; a warp takes a channel. Neighbouring pixels of a row are read two
// at a time where they are aligned.
template <typename T, typename Tile>
WC_DEVICE uint32_t stage_rows(const ConvDepthwiseParams& d, const T* x, int32_t channel, int32_t top, int32_t left) {
    constexpr int kBatch = 8;
    const ConvParams& p = d.conv;
    const ConvGeometryParams& g = p.geometry;
    const bool aligned = p.x.stride_w == 1 && g.w % 2 == 0 && rows_aligned<2, T>(p.x);
    uint32_t nonfinite = 0;
    for (int32_t c = (int32_t)threadIdx.x / 32; c < d.channels; c += Tile::kWarps) {
        uint32_t* to = (uint32_t*)Tile::area(d, c);
        const int32_t all = d.patch_h * Tile::kPairs, total = channel + c < g.c_out ? all : 0;
        for (int32_t first = lane_index(); first < all; first += kBatch * 32) {
            uint32_t word[kBatch];
#pragma unroll
            for (int b = 0; b < kBatch; ++b) {
                const int32_t pair = first + b * 32, h = top + pair / Tile::kPairs, w = left + pair % Tile::kPairs * 2;
                word[b] = 0;
                if (pair >= total || h < 0 || h >= g.h) continue;
                if (aligned) {
                    if (w >= 0 && w < g.w)
                        word[b] = load_vector<1>((const uint32_t*)(x + element(p.x, channel + c, h, w))).at[0];
                } else {
                    if (w >= 0 && w < g.w) word[b] = x[element(p.x, channel + c, h, w)].bits;
                    if (w + 1 >= 0 && w + 1 < g.w)
                        word[b] |= (uint32_t)x[element(p.x, channel + c, h, w + 1)].bits << 16;
                }
            }
#pragma unroll
            for (int b = 0; b < kBatch; ++b) {
                nonfinite |= nonfinite_bits<T>(word[b]);
                if (first + b * 32 < all) to[first + b * 32] = word[b];
            }
        }
    }
    return nonfinite;
}

// Adds the products of one channel to the sums of a warp, fragments of 16 x 8 pixels.
template <typename T, int kWidth, typename Tile, int kFragments>
WC_DEVICE void add_banded(float (&sum)[kFragments][1][4], const T* patch, const uint32_t* band, int32_t band_words,
                          int32_t kernel_h) {
    const int32_t lane = lane_index(), q = lane / 4, pair = Tile::kLead + lane % 4 * 2 - q;
    const uint32_t* weight = band + (q % 2 ? 0 : band_words) + pair / 2;
    const T* from = patch + lane % 16 * Tile::kPitch + lane / 16 * 8;
    for (int32_t i = 0; i < kernel_h; ++i, weight += kWidth / 2, from += Tile::kPitch) {
        const void* rows[Tile::kTiles * Tile::kLoads];
#pragma unroll
        for (int m = 0; m < Tile::kTiles; ++m)
#pragma unroll
            for (int load = 0; load < Tile::kLoads;
                 ++load) // the last load reads the last 8 columns twice: no more are there
                rows[m * Tile::kLoads + load] =
                    from + m * 16 * Tile::kPitch + load * 16 - (load == Tile::kLoads - 1 ? lane / 16 * 8 : 0);
        uint32_t x[Tile::kTiles * Tile::kLoads][4];
        ldmatrix_x4<false>(x, rows);
#pragma unroll
        for (int step = 0; step < kWidth / 16; ++step) {
            const uint32_t b[1][2] = {{weight[step * 8], weight[step * 8 + 4]}};
            uint32_t a[kFragments][4];
#pragma unroll
            for (int f = 0; f < kFragments; ++f)
#pragma unroll
                for (int r = 0; r < 4; ++r) {
                    const int eight = f % Tile::kBlocks + step * 2 + r / 2; // the index of 8 columns of the patch
                    a[f][r] = x[f / Tile::kBlocks * Tile::kLoads + eight / 2][eight % 2 * 2 + r % 2];
                }
            warp_mma<T, kFragments, 1>(sum, a, b);
        }
    }
}
// Adds the same products by FFMA: infinities and NaN meet no zero of a band.
template <typename T, int kWidth, typename Tile, int kFragments>
WC_DEVICE void add_banded_by_ffma(float (&sum)[kFragments][1][4], const T* patch, const T* band,
                                  const ConvGeometryParams& g) {
    const int32_t lane = lane_index(), shift = g.pad_left % 2;
    for (int32_t i = 0; i < g.kernel_h; ++i)
        for (int32_t j = 0; j < g.kernel_w; ++j) {
            const float tap = to_float(band[i * kWidth + Tile::kLead + shift + j]);
            const T* from = patch + (lane / 4 + i) * Tile::kPitch + lane % 4 * 2 + shift + j;
#pragma unroll
            for (int f = 0; f < kFragments; ++f)
#pragma unroll
                for (int e = 0; e < 4; ++e) {
                    const int32_t row = f / Tile::kBlocks * 16 + e / 2 * 8, column = f % Tile::kBlocks * 8 + e % 2;
                    sum[f][0][e] = fmaf(to_float(from[row * Tile::kPitch + column]), tap, sum[f][0][e]);
                }
        }
}

// Writes the sums of the block, from output (channel, row, column) on.
template <typename T, typename Tile>
WC_DEVICE void store_sums(const ConvDepthwiseParams& d, int32_t n, int32_t channel, int32_t row, int32_t column) {
    const ConvParams& p = d.conv;
    const ConvGeometryParams& g = p.geometry;
    const int32_t thread = (int32_t)threadIdx.x;
    if (p.y.stride_c == 1 && g.c_out > 1) {
        const int32_t vectors = d.channels / 4, vector = thread % vectors * 4, first = channel + vector;
        const bool aligned = channels_aligned<T>(p.y) && first + 4 <= g.c_out;
        for (int32_t pixel = thread / vectors; pixel < Tile::kRows * Tile::kColumns;
             pixel += Tile::kThreads / vectors) {
            const int32_t h = row + pixel / Tile::kColumns, w = column + pixel % Tile::kColumns;
            if (h >= g.h_out || w >= g.w_out) continue;
            float sum[4];
#pragma unroll
            for (int c = 0; c < 4; ++c)
                sum[c] = first + c < g.c_out
                             ? ((const float*)Tile::area(
                                   d, vector + c))[Tile::sum_at(pixel / Tile::kColumns, pixel % Tile::kColumns)]
                             : 0.0f;
            T* y = image<T>(p.y, n) + element(p.y, first, h, w);
            if (aligned) {
                store_vector(y, epilogue<T>(p.epilogue, sum, ChannelRun{n, first, h, w}));
            } else {
                for (int c = 0; c < 4; ++c)
                    if (first + c < g.c_out) y[c] = epilogue<T>(p.epilogue, sum[c], n, first + c, h, w);
            }
        }
    } else {
        const bool neighbours = p.y.stride_w == 1, by_8 = neighbours && rows_aligned<8, T>(p.y),
                   by_4 = neighbours && rows_aligned<4, T>(p.y);
        const int32_t channels = g.c_out - channel < d.channels ? g.c_out - channel : d.channels;
        for (int32_t index = thread; index < channels * Tile::kRows * Tile::kBlocks; index += Tile::kThreads) {
            const int32_t line = index / Tile::kBlocks % Tile::kRows, block = index % Tile::kBlocks * 8;
            const int32_t c = index / Tile::kBlocks / Tile::kRows, h = row + line, w = column + block;
            if (h >= g.h_out || w >= g.w_out) continue;
            // Odd rows read their second half first: the rows would otherwise meet in the same banks.
            const float* sums = (const float*)Tile::area(d, c) + Tile::sum_at(line, block);
            const int odd = line & 1;
            const Vector<float, 4> first = load_vector<4>(sums + odd * 4),
                                   second = load_vector<4>(sums + (odd ^ 1) * 4);
            float sum[2][4], both[8];
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                sum[0][e] = both[e] = odd ? second.at[e] : first.at[e];
                sum[1][e] = both[4 + e] = odd ? first.at[e] : second.at[e];
            }
            if (by_8 && w + 8 <= g.w_out) {
                store_pixels<T, 8>(p, both, n, channel + c, h, w, true);
            } else {
                store_pixels<T, 4>(p, sum[0], n, channel + c, h, w, by_4);
                if (w + 4 < g.w_out) store_pixels<T, 4>(p, sum[1], n, channel + c, h, w + 4, by_4);
            }
        }
    }
}

template <typename T, int kWidth, int kRows> WC_DEVICE void conv_depthwise_banded(const ConvDepthwiseParams& d) {
    using Tile = Banded<kWidth, kRows>;
    constexpr int kFragments = Tile::kTiles * Tile::kBlocks;
    const ConvParams& p = d.conv;
    const ConvGeometryParams& g = p.geometry;
    const int32_t block = (int32_t)blockIdx.x, warp = (int32_t)threadIdx.x / 32, lane = lane_index();
    const int32_t channel = block % d.channel_tiles * d.channels;
    const int32_t column = block / d.channel_tiles % d.column_tiles * Tile::kColumns;
    const int32_t row = block / d.channel_tiles / d.column_tiles * Tile::kRows;
    const int32_t top = row - g.pad_top, left = column - g.pad_left - g.pad_left % 2;
    const int32_t channels = g.c_out - channel < d.channels ? g.c_out - channel : d.channels;
    const bool by_channels = channels_aligned<T>(p.x) && g.c_in % 4 == 0;
    const int32_t band_words = d.band_words;
    uint32_t* const bands = (uint32_t*)Tile::area(d, d.channels);
    uint32_t* const nonfinite = bands + d.channels * 2 * band_words; // of each warp: whether it has staged such a value

    const uint32_t* packed = (const uint32_t*)p.weight + (int64_t)channel * 2 * band_words;
    for (int32_t word = (int32_t)threadIdx.x * 4; word < channels * 2 * band_words; word += Tile::kThreads * 4)
        copy_async<16>(bands + word, packed + word, true);
    copy_async_commit();

    for (int32_t n = blockIdx.y; n < g.n; n += gridDim.y) {
        __syncthreads(); // every thread is done with the previous image's shared memory
        const T* x = image<const T>(p.x, n);
        const uint32_t seen = by_channels ? stage_channels<T, Tile>(d, x, channel, top, left)
                                          : stage_rows<T, Tile>(d, x, channel, top, left);
        const bool any_nonfinite = any((seen & 0x80008000u) != 0);
        if (lane == 0) nonfinite[warp] = any_nonfinite ? 1 : 0;
        copy_async_wait<0>();
        __syncthreads();
        uint32_t block_nonfinite = 0;
#pragma unroll
        for (int w = 0; w < Tile::kWarps; ++w) block_nonfinite |= nonfinite[w];
        for (int32_t c = warp; c < channels; c += Tile::kWarps) {
            unsigned char* const area = Tile::area(d, c);
            const uint32_t* band = bands + c * 2 * band_words;
            float sum[kFragments][1][4] = {};
            if (block_nonfinite == 0)
                add_banded<T, kWidth, Tile>(sum, (const T*)area, band, band_words, g.kernel_h);
            else
                add_banded_by_ffma<T, kWidth, Tile>(sum, (const T*)area, (const T*)band, g);
            sync_warp(); // the patch is read
#pragma unroll
            for (int f = 0; f < kFragments; ++f)
#pragma unroll
                for (int lower = 0; lower < 2; ++lower) {
                    const int32_t line = f / Tile::kBlocks * 16 + lower * 8 + lane / 4,
                                  q = f % Tile::kBlocks * 8 + lane % 4 * 2;
                    store_vector((float*)area + Tile::sum_at(line, q),
                                 Vector<float, 2>{{sum[f][0][lower * 2], sum[f][0][lower * 2 + 1]}});
                }
        }
        __syncthreads();
        store_sums<T, Tile>(d, n, channel, row, column);
    }
}
