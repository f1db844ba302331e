// The base of every kernel: CUDA's own names for nvcc, and a stand-in for them for the host's compiler. Kernels see
// only the names below; every `#if` between the two machines is in kernels/device and kernels/host.
#pragma once
#include "../params.h"
#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#define WC_DEVICE __device__ __forceinline__
#define WC_WHOLE(value)
// The dynamic shared memory of the block, aligned to 128 bytes. Kernels use no other kind.
WC_DEVICE unsigned char* shared_memory() {
    extern __shared__ __align__(128) unsigned char wc_shared[];
    return wc_shared;
}
#else
#include "../host/cuda_host.h"
#endif
