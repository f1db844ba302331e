// A stand-in for the CUDA runtime when the host's C++ compiler reads a kernel. A CUDA thread is a lane that the host
// device (src/device/host/) runs. What a lane cannot do alone, it requests from the host device through WcHostCalls.
// This file is included before the kernels' namespace is opened, so that these C names exist once.
#pragma once
#include <stddef.h>
#include <stdint.h>

// The functions of <math.h> that kernels use: C++'s header takes longer to read than all of a kernel.
extern "C" {
float ceilf(float);
float erfcf(float);
float expf(float);
float fabsf(float);
float floorf(float);
float fmaf(float, float, float);
float roundf(float);
float tanhf(float);
}
#define INFINITY __builtin_inff()
#if defined(__F16C__)
// The builtins that _cvtsh_ss and _cvtss_sh of <immintrin.h> wrap; that header takes long to read, too.
typedef float WcFloat4 __attribute__((vector_size(16)));
typedef short WcShort8 __attribute__((vector_size(16)));
inline __attribute__((always_inline)) float wc_half_to_float(uint16_t bits) {
    return __builtin_ia32_vcvtph2ps(WcShort8{(short)bits})[0];
}
inline __attribute__((always_inline)) uint16_t wc_float_to_half(float f) {
    return (uint16_t)__builtin_ia32_vcvtps2ph(WcFloat4{f}, 0)[0];
}
#endif

struct WcDim3 {
    uint32_t x, y, z;
};

struct WcLane;
// Functions of src/device/host/calls.rs, in this order.
struct WcHostCalls {
    void (*barrier)(WcLane*);
    void (*sync_warp)(WcLane*);
    // The last of a warp's 32 lanes to arrive runs `act` over the arguments of all. The address of `act` also
    // identifies the collective, so that the checker finds lanes that wait at different ones.
    void (*collective)(WcLane*, void (*act)(void**), void* argument);
    void (*copy_async)(WcLane*, void* shared, const void* global, uint32_t bytes, uint32_t valid);
    void (*copy_commit)(WcLane*);
    void (*copy_wait)(WcLane*, uint32_t pending);
    // Reports an access that the compiler's instrumentation does not see: one that a collective makes for this lane.
    void (*touch)(WcLane*, const void* address, uint64_t bytes, uint32_t write);
};
struct WcLane {
    WcDim3 thread, block, block_dim, grid_dim;
    unsigned char* shared;
    const WcHostCalls* calls;
    void* state; // the host device's own
    uint32_t linear, reserved;
    // Memory that belongs to the lane, for the checker: its stack and its parameters.
    uintptr_t stack, stack_bytes, params, params_bytes;
};

// Both names carry the crate's version, so that two versions can be linked into one program.
#define WC_JOIN_(a, b) a##b
#define WC_JOIN(a, b) WC_JOIN_(a, b)
#define wc_lane WC_JOIN(WC_PREFIX, lane)
extern "C" __thread WcLane* wc_lane; // the lane that this OS thread runs now

#define threadIdx (wc_lane->thread)
#define blockIdx (wc_lane->block)
#define blockDim (wc_lane->block_dim)
#define gridDim (wc_lane->grid_dim)
// A finding names the line in the kernel's own file, which is known as long as all of a kernel is one function. Other
// builds leave inlining to the compiler: the copies that forced inlining makes take half of its time.
#ifdef WC_CHECKED
#define WC_DEVICE inline __attribute__((always_inline))
#else
#define WC_DEVICE inline
#endif
#define __restrict__ __restrict
// Keeps a vector in one piece, so that the checker sees one access: the compiler would split a vector of which it uses
// parts.
#ifdef WC_CHECKED
#define WC_WHOLE(value) __asm__("" : "+m"(value))
#else
#define WC_WHOLE(value)
#endif
// Functions that work on the memory of several lanes at once are not instrumented.
#if defined(WC_CHECKED) && defined(__clang__)
#define WC_UNCHECKED __attribute__((no_sanitize("thread", "coverage")))
#elif defined(WC_CHECKED) && __GNUC__ >= 12
#define WC_UNCHECKED __attribute__((no_sanitize("thread"), no_sanitize_coverage))
#elif defined(WC_CHECKED)
#define WC_UNCHECKED __attribute__((no_sanitize("thread")))
#else
#define WC_UNCHECKED
#endif

WC_DEVICE unsigned char* shared_memory() { return wc_lane->shared; }
WC_DEVICE void __syncthreads() { wc_lane->calls->barrier(wc_lane); }
