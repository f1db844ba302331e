// Kernels whose threads never meet: the checked host device runs them one after the other.
#include "device/tensor.cuh"
#include "test.h"

WC_DEVICE void lonely_past_end(const TestParams& p) {
    const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    buffer<float>(p, 1)[i] = buffer<float>(p, 0)[i]; // lonely_past_end: the grid has more threads than elements
}
WC_DEVICE void lonely_spins(const TestParams& p) {
    uint32_t state = threadIdx.x + 1, rounds = 0;
    for (; state != 0; ++rounds) { // an xorshift generator never reaches 0
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
    }
    buffer<float>(p, 1)[threadIdx.x] = (float)rounds;
}
WC_DEVICE void undeclared_barrier(const TestParams& p) {
    buffer<float>(p, 1)[threadIdx.x] = 1.0f;
    __syncthreads(); // undeclared_barrier
}
WC_DEVICE void copies_once(const TestParams& p) {
    const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    buffer<float>(p, 1)[i] = buffer<float>(p, 0)[i];
}
