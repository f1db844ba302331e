// wgmma of sm_90a: a warpgroup, four warps from a multiple of four on, multiplies matrices that lie in shared memory, while
// its threads go on. Section and table names are those of the PTX ISA, "Asynchronous Warpgroup Level Matrix
// Instructions".
//
// A thread that wants the sums goes this way: `wgmma_fence` after it has touched them last; any number of `wgmma`;
// `wgmma_commit`, which makes one group of them; `wgmma_wait`, after which it may touch them again and what they read may
// be overwritten.
#pragma once
#include "mbarrier.cuh"
#include "scalar.cuh"

// ---- operands in shared memory
//
// An operand of 16-bit elements is rows of kSwizzle bytes of k: a row of A is a row of the product, a row of B a column.
// Eight rows that follow each other are a pattern, in which chunks of 16 bytes are exchanged: chunk c of row r lies at
// place c ^ r of its row where a row is 128 bytes, and at c ^ r / 2 where it is 64 ("Swizzling Modes"). Patterns begin at
// multiples of their size, `groups` bytes apart. One wgmma reads 32 bytes of each row.

// The descriptor of an operand from `rows` on ("Matrix Descriptor Format"): bits 0 to 13 hold the address, 16 to 29 the
// leading dimension's offset, which swizzled rows of k do not use and which is 1 then, 32 to 45 the distance of patterns,
// all in units of 16 bytes; 49 to 51 the pattern's begin, which is 0 at multiples of its size; 62 to 63 the swizzle.
template <int kSwizzle> WC_DEVICE uint64_t matrix_descriptor(const void* rows, uint32_t groups = 8 * kSwizzle) {
    static_assert(kSwizzle == 128 || kSwizzle == 64, "rows are 128 or 64 bytes of k");
    constexpr uint64_t kMode = kSwizzle == 128 ? 1 : 2;
    return (uint64_t)(shared_address(rows) >> 4 & 0x3fff) | (uint64_t)1 << 16 | (uint64_t)(groups >> 4) << 32 |
           kMode << 62;
}
// The descriptor of what lies `bytes` further on.
WC_DEVICE uint64_t advance_descriptor(uint64_t descriptor, uint32_t bytes) { return descriptor + (bytes >> 4); }

// The part of shared memory that begins at a multiple of 1024 bytes, which is the size of the largest pattern. Shared
// memory itself begins at a multiple of 128: up to kSharedPadding bytes are lost.
constexpr uint32_t kSharedPadding = 1024 - 128;
WC_DEVICE unsigned char* aligned_shared_memory() {
    unsigned char* const shared = shared_memory();
    return shared + (-shared_address(shared) & 1023);
}

// ---- the operation

#ifdef __CUDACC__
// The columns of the product are twice the sums of a thread.
template <typename T, int kSums>
WC_DEVICE void wgmma_m64(float (&d)[kSums], uint64_t a, uint64_t b, uint32_t accumulate);
template <> WC_DEVICE void wgmma_m64<f16_t>(float (&d)[32], uint64_t a, uint64_t b, uint32_t accumulate) {
    asm volatile("{\n"
                 ".reg .pred accumulate;\n"
                 "setp.ne.u32 accumulate, %34, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
                 "%32, %33, accumulate, 1, 1, 0, 0;\n"
                 "}"
                 : // clang-format off
          "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
          "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
          "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
          "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]) // clang-format on
                 : "l"(a), "l"(b), "r"(accumulate)
                 : "memory");
}
template <> WC_DEVICE void wgmma_m64<bf16_t>(float (&d)[32], uint64_t a, uint64_t b, uint32_t accumulate) {
    asm volatile("{\n"
                 ".reg .pred accumulate;\n"
                 "setp.ne.u32 accumulate, %34, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
                 "%32, %33, accumulate, 1, 1, 0, 0;\n"
                 "}"
                 : // clang-format off
          "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
          "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
          "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
          "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]) // clang-format on
                 : "l"(a), "l"(b), "r"(accumulate)
                 : "memory");
}
template <> WC_DEVICE void wgmma_m64<f16_t>(float (&d)[64], uint64_t a, uint64_t b, uint32_t accumulate) {
    asm volatile("{\n"
                 ".reg .pred accumulate;\n"
                 "setp.ne.u32 accumulate, %66, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
                 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
                 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
                 "%64, %65, accumulate, 1, 1, 0, 0;\n"
                 "}"
                 : // clang-format off
          "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
          "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
          "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
          "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]),
          "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]),
          "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]),
          "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]),
          "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63]) // clang-format on
                 : "l"(a), "l"(b), "r"(accumulate)
                 : "memory");
}
template <> WC_DEVICE void wgmma_m64<bf16_t>(float (&d)[64], uint64_t a, uint64_t b, uint32_t accumulate) {
    asm volatile("{\n"
                 ".reg .pred accumulate;\n"
                 "setp.ne.u32 accumulate, %66, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
                 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
                 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
                 "%64, %65, accumulate, 1, 1, 0, 0;\n"
                 "}"
                 : // clang-format off
          "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
          "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
          "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
          "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]),
          "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]),
          "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]),
          "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]),
          "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63]) // clang-format on
                 : "l"(a), "l"(b), "r"(accumulate)
                 : "memory");
}
#else
// The sums of a thread ("Register Fragments", accumulator D of m64nNk16): row 16 * warp + 8 * (i / 2 % 2) + lane / 4,
// column 8 * (i / 4) + 2 * (lane % 4) + i % 2.
template <typename T, int kColumns>
WC_UNCHECKED void wgmma_act(float* const* sums, const unsigned char* a, const unsigned char* b, uint32_t accumulate) {
    constexpr int kK = 32 / sizeof(T);
    static_assert(sizeof(T) == 2, "an element is a 16-bit float");
    alignas(64) float columns[kK][kColumns], row[kColumns];
    for (int n = 0; n < kColumns; ++n)
        for (int k = 0; k < kK; ++k) columns[k][n] = to_float(((const T*)b)[n * kK + k]);
    for (int m = 0; m < 64; ++m) {
        float* const* const lanes = sums + m / 16 * 32 + m % 8 * 4;
        const int half = m / 8 % 2 * 2;
        for (int n = 0; n < kColumns; ++n) row[n] = accumulate ? lanes[n % 8 / 2][n / 8 * 4 + half + n % 2] : 0.0f;
        for (int k = 0; k < kK; ++k) {
            const float element = to_float(((const T*)a)[m * kK + k]);
            for (int n = 0; n < kColumns; ++n) row[n] += element * columns[k][n];
        }
        for (int n = 0; n < kColumns; ++n) lanes[n % 8 / 2][n / 8 * 4 + half + n % 2] = row[n];
    }
}
#endif

// d += A * B, or d = A * B without `accumulate`: A has 64 rows, B has 2 * kSums, and 32 bytes of each count. All threads
// of a warpgroup call it with the same descriptors.
template <typename T, int kSums>
WC_DEVICE void wgmma(float (&d)[kSums], uint64_t a, uint64_t b, bool accumulate = true) {
#ifdef __CUDACC__
    wgmma_m64<T>(d, a, b, accumulate);
#else
    const WcWgmma operation = {wgmma_act<T, 2 * kSums>, d, a, b, 2 * kSums, accumulate};
    async_calls()->wgmma(wc_lane, &operation);
#endif
}
// Orders what the thread did to its sums before the next wgmma.
WC_DEVICE void wgmma_fence() {
#ifdef __CUDACC__
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#else
    async_calls()->wgmma_fence(wc_lane);
#endif
}
WC_DEVICE void wgmma_commit() {
#ifdef __CUDACC__
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#else
    async_calls()->wgmma_commit(wc_lane);
#endif
}
// Waits until at most the kPending latest groups of the warpgroup are still under way.
template <int kPending> WC_DEVICE void wgmma_wait() {
#ifdef __CUDACC__
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
#else
    async_calls()->wgmma_wait(wc_lane, kPending);
#endif
}

// ---- registers

// Gives registers of the warpgroup's threads back, or takes some that others gave back: each then has kRegisters. All
// threads of a warpgroup call it.
template <int kRegisters> WC_DEVICE void give_registers() {
    static_assert(kRegisters % 8 == 0 && kRegisters >= 24 && kRegisters <= 256, "what setmaxnreg can set");
#ifdef __CUDACC__
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
#endif
}
template <int kRegisters> WC_DEVICE void take_registers() {
    static_assert(kRegisters % 8 == 0 && kRegisters >= 24 && kRegisters <= 256, "what setmaxnreg can set");
#ifdef __CUDACC__
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
#endif
}
