// Addressing: the base address of an image has 64 bits, offsets within the image have 32 bits.
#pragma once
#include "scalar.cuh"

template <typename T> WC_DEVICE T* image(const Tensor4& t, int32_t n) {
    return (T*)t.address + (int64_t)n * t.stride_n;
}
WC_DEVICE int32_t element(const Tensor4& t, int32_t c, int32_t h, int32_t w) {
    return c * t.stride_c + h * t.stride_h + w * t.stride_w;
}
// An element of a tensor of offsets or of masks; their type is the layer's, T, or f32.
template <typename T>
WC_DEVICE float offset_or_mask(const Tensor4& t, int32_t in_f32, int32_t n, int32_t c, int32_t h, int32_t w) {
    const int32_t index = element(t, c, h, w);
    return in_f32 ? image<const float>(t, n)[index] : to_float(image<const T>(t, n)[index]);
}
