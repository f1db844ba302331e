// Addressing: a base of 64 bits for an image, offsets of 32 bits inside it.
#pragma once
#include "scalar.cuh"

template <typename T> WC_DEVICE T* image(const Tensor4& t, int32_t n) {
    return (T*)t.address + (int64_t)n * t.stride_n;
}
WC_DEVICE int32_t element(const Tensor4& t, int32_t c, int32_t h, int32_t w) {
    return c * t.stride_c + h * t.stride_h + w * t.stride_w;
}
