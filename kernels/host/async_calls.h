// What a lane requests from the host device for the asynchronous operations of sm_90: mbarriers, proxy fences and wgmma.
// The table begins with the calls that every kernel knows, so that kernels without these operations are not compiled
// anew when it grows.
#pragma once
#include "cuda_host.h"

// One wgmma.mma_async, as one lane requests it.
struct WcWgmma {
    // Adds the products of 64 rows of A and `columns` rows of B to the sums of 128 lanes. A row is 32 bytes of k.
    // Without `accumulate` the sums begin at 0.
    void (*act)(float* const* sums, const unsigned char* a, const unsigned char* b, uint32_t accumulate);
    float* sums;
    uint64_t a, b; // matrix descriptors
    uint32_t columns, accumulate;
};

// Functions of src/device/host/calls.rs, after those of WcHostCalls and in this order.
struct WcAsyncCalls : WcHostCalls {
    void (*mbarrier_init)(WcLane*, const void* barrier, uint32_t count);
    void (*mbarrier_arrive)(WcLane*, const void* barrier, uint32_t count);
    // Arrives once the lane's asynchronous copies so far are complete.
    void (*mbarrier_arrive_copies)(WcLane*, const void* barrier);
    void (*mbarrier_wait)(WcLane*, const void* barrier, uint32_t parity);
    void (*fence_proxy)(WcLane*);
    void (*wgmma_fence)(WcLane*);
    void (*wgmma)(WcLane*, const WcWgmma*);
    void (*wgmma_commit)(WcLane*);
    void (*wgmma_wait)(WcLane*, uint32_t pending);
};
