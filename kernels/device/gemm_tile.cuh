// The tile of a GEMM in shared memory, and the part of it that a warp multiplies.
//
// Both operands lie in shared memory as rows of 64 bytes of k (32 elements of 16 bits or 16 of 32 bits): a row of A is
// a pixel, a row of B an output channel. A row is four chunks of 16 bytes. Chunk c of row r lies at place c ^ (r / 2 %
// 4) of its row (the swizzle): chunk c of eight neighbouring rows then covers all 32 banks, so that a column of chunks
// is loaded and stored without bank conflicts. Some gathers lay A out the other way round, as rows of pixels
// (PixelsOfK).
#pragma once
#include "mma.cuh"
#include "vector.cuh"
#include "warp.cuh"

constexpr int kChunkBytes = GEMM_CHUNK_BYTES, kRowBytes = GEMM_ROW_BYTES, kRowChunks = kRowBytes / kChunkBytes;
static_assert(kRowChunks == 4, "the swizzle is for rows of four chunks");
// Stages of the pipeline from global to shared memory.
constexpr int kStages = GEMM_STAGES;
// Rows that a warp stores at once.
constexpr int kStoreRows = 32;

// A block computes kM pixels x kN output channels, and each of its warps kWarpM x kWarpN of them. Where such tiles are
// too few to fill the GPU, kSlices sets of warps share the steps of a block, and their sums are added before the store.
template <int kM_, int kN_, int kWarpM_, int kWarpN_, int kSlices_ = 1> struct Tile {
    static constexpr int kM = kM_, kN = kN_, kWarpM = kWarpM_, kWarpN = kWarpN_, kSlices = kSlices_;
    static constexpr int kWarpColumns = kN / kWarpN, kSliceWarps = kM / kWarpM * kWarpColumns;
    static constexpr int kWarps = kSliceWarps * kSlices, kThreads = 32 * kWarps;
    // A stage holds one step for each slice.
    static constexpr int kABytes = kM * kRowBytes, kStepBytes = (kM + kN) * kRowBytes,
                         kStageBytes = kSlices * kStepBytes;
    // The sums of a warp on their way to the output, as f32: [row][channel] or [channel][row], padded against bank
    // conflicts.
    static constexpr int kChannelsStride = kWarpN + 8, kRowsStride = kStoreRows + 4;
    static constexpr int kStagingBytes = kStoreRows * kChannelsStride * 4;
    // Staged sums take the end of the pipeline's memory. Before them is room for kAhead stages of the next tile, which
    // are copied meanwhile.
    static constexpr int kStagingBegin = kStages * kStageBytes - kStagingBytes * kWarps;
    static constexpr int kAhead = kStagingBegin / kStageBytes < kStages - 1 ? kStagingBegin / kStageBytes : kStages - 1;
    static_assert(kM % kWarpM == 0 && kN % kWarpN == 0, "warps tile the block");
    static_assert(kWarpM % kStoreRows == 0 && kWarpN % 16 == 0,
                  "a warp stores whole blocks of rows, ldmatrix loads 16 channels");
    static_assert(kStoreRows % kSlices == 0 && kWarpN % kSlices == 0, "each slice stores as much of its warps' part");
    static_assert(kM * kRowChunks % kThreads == 0 && kN * kRowChunks % kThreads == 0,
                  "every thread copies as many chunks");
    static_assert(kWarpN * kRowsStride * 4 <= kStagingBytes && kStagingBytes * kWarps <= kStages * kStageBytes,
                  "sums fit the pipeline's memory");
};

WC_DEVICE int32_t warp_index() { return (int32_t)(threadIdx.x / 32); }
// The slice that the warp belongs to, and the index of the warp within it.
template <typename Tile> WC_DEVICE int32_t slice_index() { return warp_index() / Tile::kSliceWarps; }
template <typename Tile> WC_DEVICE int32_t slice_warp() { return warp_index() % Tile::kSliceWarps; }
// The byte at which a chunk of a row begins, the swizzle included.
WC_DEVICE int32_t chunk_at(int32_t row, int32_t chunk) {
    return row * kRowBytes + (chunk ^ (row >> 1 & 3)) * kChunkBytes;
}

// A in a stage, as rows of k, from the first row of a warp on.
struct RowsOfK {
    const unsigned char* begin;
    WC_DEVICE RowsOfK(const unsigned char* stage, int32_t row) : begin(stage + row * kRowBytes) {}
    WC_DEVICE const unsigned char* chunk(int32_t row, int32_t chunk) const { return begin + chunk_at(row, chunk); }
    // Loads the fragments of kCount times 16 rows, of chunks k and k + 1.
    template <int kCount> WC_DEVICE void load(uint32_t (&fragments)[kCount][4], int k) const {
        const int32_t row = lane_index() % 16, chunk_of_lane = lane_index() / 16;
        const void* rows[kCount];
#pragma unroll
        for (int m = 0; m < kCount; ++m) rows[m] = chunk(m * 16 + row, k + chunk_of_lane);
        ldmatrix_x4<false>(fragments, rows);
    }
};

// A in a stage, as 32 rows of kM pixels of 16 bits, one row a channel. Chunk c of row r, eight pixels, lies at place c
// ^ (r % 8) of its row. Eight neighbours of a row, which are copied together, cover all 32 banks; so do eight
// neighbours of a column, which ldmatrix transposes.
template <int kM> struct PixelsOfK {
    static constexpr int kBytes = 2 * kM, kPixels = kChunkBytes / 2;
    static_assert(kBytes % 128 == 0, "every row begins in the first bank");
    const unsigned char* begin;
    int32_t first_chunk;
    WC_DEVICE PixelsOfK(const unsigned char* stage, int32_t row) : begin(stage), first_chunk(row / kPixels) {}
    static WC_DEVICE int32_t place(int32_t channel, int32_t chunk) {
        return channel * kBytes + (chunk ^ (channel & 7)) * kChunkBytes;
    }
    template <int kCount> WC_DEVICE void load(uint32_t (&fragments)[kCount][4], int k) const {
        const int32_t channel = lane_index() / 16 * 8 + lane_index() % 8, chunk = first_chunk + lane_index() / 8 % 2;
        const void* rows[kCount];
        // Eight rows further on the places repeat.
#pragma unroll
        for (int m = 0; m < kCount; ++m) rows[m] = begin + place(channel, chunk + m * 2) + k * kPixels * kBytes;
        ldmatrix_x4<true>(fragments, rows);
    }
};

// The sums of a warp. `multiply` adds the products of the warp's rows of one stage. `stage` writes rows [32 * block, 32
// * block + 32) to `to`, as [row][channel] with kChannelsLast, otherwise as [channel][row]. Math is the type that is
// multiplied: float by FFMA, all others by tensor cores. With tf32_t the rows hold f32: those of A are rounded here,
// the weights were rounded when they were packed.
template <typename Math, typename Tile> struct WarpSums {
    static constexpr int kFragmentsM = Tile::kWarpM / 16, kFragmentsN = Tile::kWarpN / 8;
    float sum[kFragmentsM][kFragmentsN][4];

    WC_DEVICE void clear() {
#pragma unroll
        for (int m = 0; m < kFragmentsM; ++m)
#pragma unroll
            for (int n = 0; n < kFragmentsN; ++n)
#pragma unroll
                for (int i = 0; i < 4; ++i) sum[m][n][i] = 0.0f;
    }
    template <typename Rows> WC_DEVICE void multiply(const Rows& a, const unsigned char* b) {
        const int32_t b_row = lane_index() % 8 + lane_index() / 16 * 8, b_chunk = lane_index() / 8 % 2;
#pragma unroll
        for (int k = 0; k < kRowChunks; k += 2) {
            const void* b_rows[kFragmentsN / 2];
#pragma unroll
            for (int n = 0; n < kFragmentsN / 2; ++n) b_rows[n] = b + chunk_at(n * 16 + b_row, k + b_chunk);
            uint32_t a_fragments[kFragmentsM][4], b_pairs[kFragmentsN / 2][4], b_fragments[kFragmentsN][2];
            a.load(a_fragments, k);
            ldmatrix_x4<false>(b_pairs, b_rows);
            if constexpr (sizeof(Math) == 4)
#pragma unroll
                for (int m = 0; m < kFragmentsM; ++m)
#pragma unroll
                    for (int i = 0; i < 4; ++i) a_fragments[m][i] = round_to_tf32(a_fragments[m][i]);
#pragma unroll
            for (int n = 0; n < kFragmentsN; ++n) {
                b_fragments[n][0] = b_pairs[n / 2][n % 2 * 2];
                b_fragments[n][1] = b_pairs[n / 2][n % 2 * 2 + 1];
            }
            warp_mma<Math>(sum, a_fragments, b_fragments);
        }
    }
    template <bool kChannelsLast> WC_DEVICE void stage(float* to, int block) const {
        const int32_t row = lane_index() / 4, column = lane_index() % 4 * 2;
#pragma unroll
        for (int m = 0; m < kFragmentsM; ++m) {
            if (m / 2 != block)
                continue; // the loop is unrolled although `block` is variable: the sums must stay in registers
#pragma unroll
            for (int n = 0; n < kFragmentsN; ++n)
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    const int32_t r = m % 2 * 16 + half * 8 + row, c = n * 8 + column;
                    const float low = sum[m][n][half * 2], high = sum[m][n][half * 2 + 1];
                    if constexpr (kChannelsLast) {
                        store_vector<2>(to + r * Tile::kChannelsStride + c, Vector<float, 2>{{low, high}});
                    } else {
                        to[c * Tile::kRowsStride + r] = low;
                        to[(c + 1) * Tile::kRowsStride + r] = high;
                    }
                }
        }
    }
};

// The sums of a warp by FFMA, for f32. A lane has every eighth row and every fourth channel, so that eight lanes load
// eight different rows of A and one row of B.
template <typename Tile> struct WarpSums<float, Tile> {
    static constexpr int kRows = Tile::kWarpM / 8, kColumns = Tile::kWarpN / 4;
    float sum[kRows][kColumns];

    WC_DEVICE void clear() {
#pragma unroll
        for (int i = 0; i < kRows; ++i)
#pragma unroll
            for (int j = 0; j < kColumns; ++j) sum[i][j] = 0.0f;
    }
    WC_DEVICE void multiply(const RowsOfK& a, const unsigned char* b) {
        const int32_t row = lane_index() % 8, column = lane_index() / 8;
#pragma unroll
        for (int chunk = 0; chunk < kRowChunks; ++chunk) {
            Vector<float, 4> b_values[kColumns];
#pragma unroll
            for (int j = 0; j < kColumns; ++j)
                b_values[j] = load_vector<4>((const float*)(b + chunk_at(column + 4 * j, chunk)));
#pragma unroll
            for (int i = 0; i < kRows; ++i) {
                const Vector<float, 4> a_values = load_vector<4>((const float*)a.chunk(row + 8 * i, chunk));
#pragma unroll
                for (int k = 0; k < 4; ++k)
#pragma unroll
                    for (int j = 0; j < kColumns; ++j) sum[i][j] = fmaf(a_values.at[k], b_values[j].at[k], sum[i][j]);
            }
        }
    }
    template <bool kChannelsLast> WC_DEVICE void stage(float* to, int block) const {
        const int32_t row = lane_index() % 8, column = lane_index() / 8;
#pragma unroll
        for (int i = 0; i < kRows; ++i) {
            if (i / 4 != block) continue; // the loop is unrolled, as above
            const int32_t r = i % 4 * 8 + row;
#pragma unroll
            for (int j = 0; j < kColumns; ++j) {
                const int32_t c = column + 4 * j;
                to[kChannelsLast ? r * Tile::kChannelsStride + c : c * Tile::kRowsStride + r] = sum[i][j];
            }
        }
    }
};
