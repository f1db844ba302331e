// C[M, N] = A[M, K] * B[K, N]: T in, f32 sums, T out, row-major. K and N are multiples of 8, so that every row starts at
// a multiple of 16 bytes.
//
// Tiling: a block of four warps (2 x 2) computes 128 x 64 of C in steps of 32 along K. The next step's tiles of A and B
// come by cp.async while the tensor cores work on this one's (two stages). A warp computes 64 x 32: 4 x 4 fragments of
// m16n8k16. Shared memory holds 16-byte chunks in rows; a chunk's place in its row is XORed with the number of the
// 128-byte line, so that neither the copies nor ldmatrix meet a bank conflict.
#include "device/async_copy.cuh"
#include "device/mma.cuh"
#include "device/vector.cuh"
#include "test.h"

struct GemmTile {
    static constexpr int32_t kM = 128, kN = 64, kK = 32;
    static constexpr int32_t kWarpM = 64, kWarpN = 32, kWarpsN = kN / kWarpN;
    static constexpr int32_t kThreads = 32 * (kM / kWarpM) * kWarpsN;
    static constexpr int32_t kStages = 2, kChunk = 8; // elements of 16 bytes
    static constexpr int32_t kElementsA = kM * kK, kElementsB = kK * kN, kStage = kElementsA + kElementsB;
    static_assert(kThreads == 128, "as in the manifest");
};

// The chunk `column` of row `row` in a tile of kChunks chunks a row.
template <int32_t kChunks, typename T> WC_DEVICE T* chunk_at(T* tile, int32_t row, int32_t column) {
    static_assert(kChunks == 4 || kChunks == 8, "a line of 8 chunks holds whole rows");
    const int32_t index = row * kChunks + column;
    return tile + (index ^ (index / 8 % kChunks)) * GemmTile::kChunk;
}

// Starts the copies of one kRows x kColumns tile from (row0, column0) of a rows x columns matrix; zeros beyond its edges.
template <int32_t kRows, int32_t kColumns, typename T>
WC_DEVICE void copy_tile(T* tile, const T* matrix, int32_t row0, int32_t column0, int32_t rows, int32_t columns) {
    constexpr int32_t kChunks = kColumns / GemmTile::kChunk;
    for (int32_t i = threadIdx.x; i < kRows * kChunks; i += GemmTile::kThreads) {
        const int32_t r = i / kChunks, c = i % kChunks;
        const int32_t row = row0 + r, column = column0 + c * GemmTile::kChunk;
        const bool inside = row < rows && column < columns;
        copy_async<16>(chunk_at<kChunks>(tile, r, c), matrix + (inside ? (int64_t)row * columns + column : 0), inside);
    }
}

template <typename T> WC_DEVICE void gemm(const TestParams& p) {
    using Tile = GemmTile;
    const T *a = buffer<const T>(p, 0), *b = buffer<const T>(p, 1);
    T* c = buffer<T>(p, 2);
    const int32_t m = p.values[0], n = p.values[1], k = p.values[2];
    const int32_t m0 = blockIdx.y * Tile::kM, n0 = blockIdx.x * Tile::kN;
    const int32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int32_t warp_m = warp / Tile::kWarpsN * Tile::kWarpM, warp_n = warp % Tile::kWarpsN * Tile::kWarpN;
    constexpr int32_t kFragmentsM = Tile::kWarpM / 16, kFragmentsN = Tile::kWarpN / 8;

    T* shared = (T*)shared_memory();
    const auto copy_step = [&](int32_t step) {
        T* stage = shared + step % Tile::kStages * Tile::kStage;
        copy_tile<Tile::kM, Tile::kK>(stage, a, m0, step * Tile::kK, m, k);
        copy_tile<Tile::kK, Tile::kN>(stage + Tile::kElementsA, b, step * Tile::kK, n0, k, n);
        copy_async_commit();
    };

    float sums[kFragmentsM][kFragmentsN][4] = {};
    const int32_t steps = (k + Tile::kK - 1) / Tile::kK;
    copy_step(0);
    for (int32_t step = 0; step < steps; ++step) {
        if (step + 1 < steps) {
            copy_step(step + 1);
            copy_async_wait<1>();
        } else {
            copy_async_wait<0>();
        }
        __syncthreads(); // this step's tiles are there for all
        const T* tile_a = shared + step % Tile::kStages * Tile::kStage;
        const T* tile_b = tile_a + Tile::kElementsA;
#pragma unroll
        for (int32_t kk = 0; kk < Tile::kK; kk += 16) {
            const void *rows_a[kFragmentsM], *rows_b[kFragmentsN / 2];
#pragma unroll
            for (int32_t i = 0; i < kFragmentsM; ++i)
                rows_a[i] = chunk_at<Tile::kK / 8>(tile_a, warp_m + i * 16 + lane % 16, kk / 8 + lane / 16);
#pragma unroll
            for (int32_t j = 0; j < kFragmentsN / 2; ++j)
                rows_b[j] = chunk_at<Tile::kN / 8>(tile_b, kk + lane % 16, warp_n / 8 + j * 2 + lane / 16);
            uint32_t fragments_a[kFragmentsM][4], pairs_b[kFragmentsN / 2][4];
            ldmatrix_x4<false>(fragments_a, rows_a);
            ldmatrix_x4<true>(pairs_b, rows_b);
            uint32_t fragments_b[kFragmentsN][2];
#pragma unroll
            for (int32_t j = 0; j < kFragmentsN; ++j)
#pragma unroll
                for (int32_t h = 0; h < 2; ++h) fragments_b[j][h] = pairs_b[j / 2][j % 2 * 2 + h];
            warp_mma<T>(sums, fragments_a, fragments_b);
        }
        __syncthreads(); // all are done with the tiles that the next copies overwrite
    }
#pragma unroll
    for (int32_t i = 0; i < kFragmentsM; ++i)
#pragma unroll
        for (int32_t j = 0; j < kFragmentsN; ++j)
#pragma unroll
            for (int32_t h = 0; h < 2; ++h) {
                const int32_t row = m0 + warp_m + i * 16 + lane / 4 + 8 * h, column = n0 + warp_n + j * 8 + lane % 4 * 2;
                if (row >= m || column >= n) continue;
                const Vector<T, 2> pair = {{from_float<T>(sums[i][j][2 * h]), from_float<T>(sums[i][j][2 * h + 1])}};
                store_vector<2>(c + (int64_t)row * n + column, pair);
            }
}
