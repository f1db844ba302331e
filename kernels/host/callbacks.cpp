// How the checked build reports to the checker. The compiler's instrumentation (-fsanitize=thread,
// -fsanitize-coverage=trace-pc) calls the functions at the end of this file, and a kernel's requests come through a
// table of thunks. All of them add their return address, the place in the kernel from which they were called, and pass
// it on to src/device/host/checker/. No sanitizer library is linked.
#include "async_calls.h"
#include <string.h>

// Functions of src/device/host/checker/, in this order.
struct WcChecker {
    void (*access)(WcLane*, const void* address, uint64_t bytes, uint32_t flags, const void* place);
    void (*barrier)(WcLane*, const void* place);
    void (*sync_warp)(WcLane*, const void* place);
    void (*collective)(WcLane*, void (*act)(void**), void* argument, const void* place);
    void (*copy_async)(WcLane*, void* shared, const void* global, uint32_t bytes, uint32_t valid, const void* place);
    void (*copy_commit)(WcLane*);
    void (*copy_wait)(WcLane*, uint32_t pending);
    void (*endless)(WcLane*, const void* place);
    void (*stack)(WcLane*, const void* address, uint64_t bytes, uint32_t flags, const void* place);
    void (*mbarrier_init)(WcLane*, const void* barrier, uint32_t count, const void* place);
    void (*mbarrier_arrive)(WcLane*, const void* barrier, uint32_t count, const void* place);
    void (*mbarrier_arrive_copies)(WcLane*, const void* barrier, const void* place);
    void (*mbarrier_wait)(WcLane*, const void* barrier, uint32_t parity, const void* place);
    void (*fence_proxy)(WcLane*);
    void (*wgmma_fence)(WcLane*);
    void (*wgmma)(WcLane*, const WcWgmma* operation, const void* place);
    void (*wgmma_commit)(WcLane*, const void* place);
    void (*wgmma_wait)(WcLane*, uint32_t pending, const void* place);
};

// Flags of an access. kUnaligned: the compiler knows that the access is unaligned, and splits it where it must.
enum { kRead = 0, kWrite = 1, kUnaligned = 2 };

static const WcChecker* checker;
static __thread uint64_t fuel; // basic blocks that this OS thread may still enter

#define WC_HERE __builtin_return_address(0)
static void barrier(WcLane* lane) { checker->barrier(lane, WC_HERE); }
static void sync_warp(WcLane* lane) { checker->sync_warp(lane, WC_HERE); }
static void collective(WcLane* lane, void (*act)(void**), void* argument) {
    checker->collective(lane, act, argument, WC_HERE);
}
static void copy_async(WcLane* lane, void* shared, const void* global, uint32_t bytes, uint32_t valid) {
    checker->copy_async(lane, shared, global, bytes, valid, WC_HERE);
}
static void copy_commit(WcLane* lane) { checker->copy_commit(lane); }
static void copy_wait(WcLane* lane, uint32_t pending) { checker->copy_wait(lane, pending); }
static void touch(WcLane* lane, const void* address, uint64_t bytes, uint32_t write) {
    checker->access(lane, address, bytes, write ? kWrite : kRead, WC_HERE);
}
static void mbarrier_init(WcLane* lane, const void* barrier, uint32_t count) {
    checker->mbarrier_init(lane, barrier, count, WC_HERE);
}
static void mbarrier_arrive(WcLane* lane, const void* barrier, uint32_t count) {
    checker->mbarrier_arrive(lane, barrier, count, WC_HERE);
}
static void mbarrier_arrive_copies(WcLane* lane, const void* barrier) {
    checker->mbarrier_arrive_copies(lane, barrier, WC_HERE);
}
static void mbarrier_wait(WcLane* lane, const void* barrier, uint32_t parity) {
    checker->mbarrier_wait(lane, barrier, parity, WC_HERE);
}
static void fence_proxy(WcLane* lane) { checker->fence_proxy(lane); }
static void wgmma_fence(WcLane* lane) { checker->wgmma_fence(lane); }
static void wgmma(WcLane* lane, const WcWgmma* operation) { checker->wgmma(lane, operation, WC_HERE); }
static void wgmma_commit(WcLane* lane) { checker->wgmma_commit(lane, WC_HERE); }
static void wgmma_wait(WcLane* lane, uint32_t pending) { checker->wgmma_wait(lane, pending, WC_HERE); }
static const WcAsyncCalls thunks = {
    {barrier, sync_warp, collective, copy_async, copy_commit, copy_wait, touch},
    mbarrier_init,
    mbarrier_arrive,
    mbarrier_arrive_copies,
    mbarrier_wait,
    fence_proxy,
    wgmma_fence,
    wgmma,
    wgmma_commit,
    wgmma_wait,
};

static inline __attribute__((always_inline)) bool within(const void* address, uintptr_t start, uintptr_t bytes) {
    return (uintptr_t)address - start < bytes;
}
// A lane may use its stack, its parameters, its description, the pointer to that, and the table of functions it may
// call.
static inline __attribute__((always_inline)) void access(const void* address, uint64_t bytes, uint32_t flags,
                                                         const void* place) {
    WcLane* lane = wc_lane;
    if (!lane) return;
    if (within(address, lane->stack, lane->stack_bytes)) {
        // set once the lane has requested a wgmma, whose sums are on its stack
        if (lane->reserved) checker->stack(lane, address, bytes, flags, place);
        return;
    }
    if (within(address, lane->params, lane->params_bytes) ||
        within(address, (uintptr_t)lane, sizeof(WcLane)) || address == &wc_lane ||
        within(address, (uintptr_t)&thunks, sizeof(thunks)))
        return;
    checker->access(lane, address, bytes, flags, place);
}
static inline __attribute__((always_inline)) void read_write(const void* p, uint64_t bytes, uint32_t flags,
                                                             const void* place) {
    access(p, bytes, kRead | flags, place);
    access(p, bytes, kWrite | flags, place);
}

extern "C" {
// The checker is always the same one, although several devices may ask for the table at once.
const WcHostCalls* WC_JOIN(WC_PREFIX, checked_calls)(const WcChecker* functions) {
    __atomic_store_n(&checker, functions, __ATOMIC_RELAXED);
    return &thunks;
}
void WC_JOIN(WC_PREFIX, set_fuel)(uint64_t steps) { fuel = steps; }

void __sanitizer_cov_trace_pc() {
    if (fuel != 0)
        --fuel;
    else if (wc_lane) // the compiler's own start-up code comes through here, too
        checker->endless(wc_lane, WC_HERE);
}
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
#define WC_ACCESS(n)                                                                                                   \
    void __tsan_read##n(void* p) { access(p, n, kRead, WC_HERE); }                                                     \
    void __tsan_write##n(void* p) { access(p, n, kWrite, WC_HERE); }                                                   \
    void __tsan_unaligned_read##n(void* p) { access(p, n, kRead | kUnaligned, WC_HERE); }                              \
    void __tsan_unaligned_write##n(void* p) { access(p, n, kWrite | kUnaligned, WC_HERE); }                            \
    void __tsan_read_write##n(void* p) { read_write(p, n, 0, WC_HERE); }                                               \
    void __tsan_unaligned_read_write##n(void* p) { read_write(p, n, kUnaligned, WC_HERE); }
WC_ACCESS(1)
WC_ACCESS(2)
WC_ACCESS(4)
WC_ACCESS(8)
WC_ACCESS(16)
void __tsan_read_range(void* p, size_t n) { access(p, n, kRead | kUnaligned, WC_HERE); }
void __tsan_write_range(void* p, size_t n) { access(p, n, kWrite | kUnaligned, WC_HERE); }
// Newer versions of clang turn the copy of a struct into one of these; kernels call no memcpy themselves. A copy of up
// to 16 bytes is one access, since nvcc makes one of a vector.
static inline __attribute__((always_inline)) void copy(void* to, const void* from, size_t n, const void* place) {
    const uint32_t flags = n <= 16 && (n & (n - 1)) == 0 ? 0 : kUnaligned;
    access(from, n, kRead | flags, place);
    access(to, n, kWrite | flags, place);
}
void* __tsan_memcpy(void* to, const void* from, size_t n) {
    copy(to, from, n, WC_HERE);
    return memcpy(to, from, n);
}
void* __tsan_memmove(void* to, const void* from, size_t n) {
    copy(to, from, n, WC_HERE);
    return memmove(to, from, n);
}
void* __tsan_memset(void* to, int value, size_t n) {
    access(to, n, kWrite | kUnaligned, WC_HERE);
    return memset(to, value, n);
}
}
