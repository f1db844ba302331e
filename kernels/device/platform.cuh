// The ground under a kernel: CUDA's own names for nvcc, their stand-in for the host's compiler. Kernels see only the
// names below; every `#if` between the two machines lives in kernels/device and kernels/host.
#pragma once
#include "../params.h"
#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#define WC_DEVICE __device__ __forceinline__
#define WC_WHOLE(value)
// The block's dynamic shared memory, 128-byte aligned. Kernels use no other kind.
WC_DEVICE unsigned char* shared_memory() {
    extern __shared__ __align__(128) unsigned char wc_shared[];
    return wc_shared;
}
#else
#include "../host/cuda_host.h"
#endif
