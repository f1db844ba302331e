// cp.async copies from global to shared memory without passing through registers. A thread's copies form groups, which
// complete in order. The thread itself sees them after the wait that covers their group, the rest of the block after a
// barrier that follows that wait.
#pragma once
#include "platform.cuh"

// Copies kBytes (4, 8 or 16; both addresses are aligned to them) or, where `valid` is false, writes zeros and reads
// nothing.
template <int kBytes> WC_DEVICE void copy_async(void* shared, const void* global, bool valid) {
    static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16, "cp.async moves 4, 8 or 16 bytes");
#ifdef __CUDACC__
    const uint32_t to = (uint32_t)__cvta_generic_to_shared(shared);
    const int32_t bytes = valid ? kBytes : 0;
    if constexpr (kBytes == 16)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(to), "l"(global), "r"(bytes) : "memory");
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;\n" ::"r"(to), "l"(global), "n"(kBytes), "r"(bytes)
                     : "memory");
#else
    wc_lane->calls->copy_async(wc_lane, shared, global, kBytes, valid ? kBytes : 0);
#endif
}
WC_DEVICE void copy_async_commit() {
#ifdef __CUDACC__
    asm volatile("cp.async.commit_group;\n" ::: "memory");
#else
    wc_lane->calls->copy_commit(wc_lane);
#endif
}
// Waits until at most the kPending latest groups of this thread are still under way.
template <int kPending> WC_DEVICE void copy_async_wait() {
#ifdef __CUDACC__
    asm volatile("cp.async.wait_group %0;\n" ::"n"(kPending) : "memory");
#else
    wc_lane->calls->copy_wait(wc_lane, kPending);
#endif
}
