// How the checked build reports to the checker. The compiler's instrumentation (-fsanitize=thread,
// -fsanitize-coverage=trace-pc) calls the functions at the end of this file, and a kernel's requests come through a
// table of thunks. All of them add their return address, the place in the kernel from which they were called, and pass
// it on to src/device/host/checker/. No sanitizer library is linked.
#include "cuda_host.h"
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
static const WcHostCalls thunks = {barrier, sync_warp, collective, copy_async, copy_commit, copy_wait, touch};

static inline __attribute__((always_inline)) bool within(const void* address, uintptr_t start, uintptr_t bytes) {
    return (uintptr_t)address - start < bytes;
}
// A lane may use its stack, its parameters, its description, the pointer to that, and the table of functions it may
// call.
static inline __attribute__((always_inline)) void access(const void* address, uint64_t bytes, uint32_t flags,
                                                         const void* place) {
    WcLane* lane = wc_lane;
    if (!lane || within(address, lane->stack, lane->stack_bytes) || within(address, lane->params, lane->params_bytes) ||
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
