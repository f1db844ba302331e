// Tensor cores. A call covers the whole tile of a warp, so that the host device switches lanes once for each tile; nvcc
// unrolls the call to the same instructions. PTX defines the layout of the fragments (mma.m16n8k16 for 16 bits,
// mma.m16n8k8 for tf32, ldmatrix).
#pragma once
#include "scalar.cuh"

#ifndef __CUDACC__
template <int kCount> struct LdmatrixArgs {
    const void* const* rows;
    uint32_t (*out)[4];
};
template <int kCount, bool kTranspose> WC_UNCHECKED void ldmatrix_act(void** lanes) {
    for (int n = 0; n < kCount; ++n)
        for (int m = 0; m < 4; ++m)
            for (int r = 0; r < 8; ++r) {
                const uint16_t* row = (const uint16_t*)((LdmatrixArgs<kCount>*)lanes[m * 8 + r])->rows[n];
                for (int c = 0; c < 8; ++c) {
                    const int lane = kTranspose ? c * 4 + r / 2 : r * 4 + c / 2, half = (kTranspose ? r : c) & 1;
                    uint32_t* word = &((LdmatrixArgs<kCount>*)lanes[lane])->out[n][m];
                    *word = half ? (*word & 0xffffu) | (uint32_t)row[c] << 16 : (*word & 0xffff0000u) | row[c];
                }
            }
}

// The host device gathers the fragments of all lanes into plain matrices, multiplies them, and scatters the sums.
template <int kM, int kN> struct MmaArgs {
    float (*d)[kN][4];
    const uint32_t (*a)[4];
    const uint32_t (*b)[2];
};
// A word of a fragment holds one tf32 or two 16-bit elements, neighbours along k.
template <typename T> WC_UNCHECKED float fragment_element(uint32_t word, int half) {
    if constexpr (sizeof(T) == 4)
        return bits_float(word);
    else
        return to_float(T{(uint16_t)(word >> 16 * half)});
}
template <typename T, int kM, int kN> WC_UNCHECKED void mma_act(void** lanes) {
    constexpr int kWord = 4 / sizeof(T), kK = 8 * kWord;
    alignas(64) float a[kM * 16][kK], b[kK][kN * 8], d[kM * 16][kN * 8];
    for (int l = 0; l < 32; ++l) {
        const MmaArgs<kM, kN>* p = (const MmaArgs<kM, kN>*)lanes[l];
        const int g = l / 4, t = l % 4 * 2, k = l % 4 * kWord;
        for (int i = 0; i < 4; ++i)
            for (int h = 0; h < kWord; ++h) {
                for (int m = 0; m < kM; ++m)
                    a[m * 16 + g + 8 * (i & 1)][k + h + kK / 2 * (i >> 1)] = fragment_element<T>(p->a[m][i], h);
                for (int n = 0; i < 2 && n < kN; ++n)
                    b[k + h + kK / 2 * i][n * 8 + g] = fragment_element<T>(p->b[n][i], h);
            }
        for (int m = 0; m < kM; ++m)
            for (int n = 0; n < kN; ++n)
                for (int i = 0; i < 4; ++i) d[m * 16 + g + 8 * (i >> 1)][n * 8 + t + (i & 1)] = p->d[m][n][i];
    }
    for (int i = 0; i < kM * 16; ++i)
        for (int k = 0; k < kK; ++k)
            for (int j = 0; j < kN * 8; ++j) d[i][j] += a[i][k] * b[k][j];
    for (int l = 0; l < 32; ++l) {
        const MmaArgs<kM, kN>* p = (const MmaArgs<kM, kN>*)lanes[l];
        const int g = l / 4, t = l % 4 * 2;
        for (int m = 0; m < kM; ++m)
            for (int n = 0; n < kN; ++n)
                for (int i = 0; i < 4; ++i) p->d[m][n][i] = d[m * 16 + g + 8 * (i >> 1)][n * 8 + t + (i & 1)];
    }
}
#endif

// kCount loads of four 8x8 matrices of 16-bit words from shared memory. Lane l gives the address of row l % 8 of matrix
// l / 8, aligned to 16 bytes.
template <bool kTranspose, int kCount>
WC_DEVICE void ldmatrix_x4(uint32_t (&out)[kCount][4], const void* const (&rows)[kCount]) {
#ifdef __CUDACC__
#pragma unroll
    for (int n = 0; n < kCount; ++n) {
        const uint32_t from = (uint32_t)__cvta_generic_to_shared(rows[n]);
        if constexpr (kTranspose)
            asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                         : "=r"(out[n][0]), "=r"(out[n][1]), "=r"(out[n][2]), "=r"(out[n][3])
                         : "r"(from)
                         : "memory");
        else
            asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                         : "=r"(out[n][0]), "=r"(out[n][1]), "=r"(out[n][2]), "=r"(out[n][3])
                         : "r"(from)
                         : "memory");
    }
#else
#ifdef WC_CHECKED
    for (int n = 0; n < kCount; ++n) wc_lane->calls->touch(wc_lane, rows[n], 16, 0);
#endif
    LdmatrixArgs<kCount> args{rows, out};
    wc_lane->calls->collective(wc_lane, ldmatrix_act<kCount, kTranspose>, &args);
#endif
}

#ifdef __CUDACC__
// One MMA of 16x8 sums; its k covers 32 bytes.
template <typename T> WC_DEVICE void mma_m16n8(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);
template <> WC_DEVICE void mma_m16n8<f16_t>(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
template <> WC_DEVICE void mma_m16n8<bf16_t>(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
template <> WC_DEVICE void mma_m16n8<tf32_t>(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#endif

// d[m][n] += a[m] * b[n] for the kM x kN fragments (16x8 sums each, 32 bytes along k) of a warp's tile, in f32.
template <typename T, int kM, int kN>
WC_DEVICE void warp_mma(float (&d)[kM][kN][4], const uint32_t (&a)[kM][4], const uint32_t (&b)[kN][2]) {
#ifdef __CUDACC__
#pragma unroll
    for (int m = 0; m < kM; ++m)
#pragma unroll
        for (int n = 0; n < kN; ++n) mma_m16n8<T>(d[m][n], a[m], b[n]);
#else
    MmaArgs<kM, kN> args{d, a, b};
    wc_lane->calls->collective(wc_lane, mma_act<T, kM, kN>, &args);
#endif
}
