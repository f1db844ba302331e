// Mbarriers of sm_90, by which some threads of a block tell others that a buffer in shared memory is full or empty, and
// the fence between the two proxies through which shared memory is accessed.
//
// An mbarrier counts arrivals. When as many as `mbarrier_init` said have come, its phase ends and the next one begins.
// Phases are numbered from 0, and a wait names the phase by its parity: that of a new barrier's phase "-1" is 1, so that
// a wait for parity 1 passes at once. What a thread did before it arrived, those see that waited for the phase to end
// (PTX ISA, "Parallel Synchronization and Communication Instructions: mbarrier").
#pragma once
#include "platform.cuh"
#ifndef __CUDACC__
#include "../host/async_calls.h"

WC_DEVICE const WcAsyncCalls* async_calls() { return (const WcAsyncCalls*)wc_lane->calls; }
#endif

// An address of shared memory as PTX has it. On the host device it is the end of the pointer, of as many bits as a
// matrix descriptor holds, so that it is aligned as the pointer is.
WC_DEVICE uint32_t shared_address(const void* shared) {
#ifdef __CUDACC__
    return (uint32_t)__cvta_generic_to_shared(shared);
#else
    return (uint32_t)(uintptr_t)shared & 0x3ffffu;
#endif
}

// One thread calls it. The others may use the barrier after a block-wide barrier.
WC_DEVICE void mbarrier_init(uint64_t* barrier, uint32_t count) {
#ifdef __CUDACC__
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(count) : "memory");
#else
    async_calls()->mbarrier_init(wc_lane, barrier, count);
#endif
}
// Counts as `count` arrivals.
WC_DEVICE void mbarrier_arrive(uint64_t* barrier, uint32_t count = 1) {
#ifdef __CUDACC__
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(count) : "memory");
#else
    async_calls()->mbarrier_arrive(wc_lane, barrier, count);
#endif
}
// One arrival, which comes once all copies are complete that this thread has started by `copy_async` so far. It tells
// of those copies and of nothing else that the thread did. The barrier's count includes it (.noinc).
WC_DEVICE void mbarrier_arrive_copies(uint64_t* barrier) {
#ifdef __CUDACC__
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(shared_address(barrier)) : "memory");
#else
    async_calls()->mbarrier_arrive_copies(wc_lane, barrier);
#endif
}
#ifdef __CUDACC__
WC_DEVICE bool mbarrier_try_wait(uint64_t* barrier, uint32_t parity) {
    uint32_t ended;
    asm volatile("{\n"
                 ".reg .pred ended;\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 ended, [%1], %2;\n"
                 "selp.u32 %0, 1, 0, ended;\n"
                 "}"
                 : "=r"(ended)
                 : "r"(shared_address(barrier)), "r"(parity)
                 : "memory");
    return ended != 0;
}
#endif
// Waits until the phase of this parity has ended: either the current one, or the one before it, which has.
WC_DEVICE void mbarrier_wait(uint64_t* barrier, uint32_t parity) {
#ifdef __CUDACC__
    while (!mbarrier_try_wait(barrier, parity)) {
    }
#else
    async_calls()->mbarrier_wait(wc_lane, barrier, parity);
#endif
}

// Orders what the thread has written to shared memory, or knows to be written, before what the asynchronous proxy (wgmma)
// reads from there. Stores and cp.async are of the generic proxy.
WC_DEVICE void fence_proxy_async() {
#ifdef __CUDACC__
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#else
    async_calls()->fence_proxy(wc_lane);
#endif
}
