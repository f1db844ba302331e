// Vectors along the rows of a contiguous tensor.
#pragma once
#include "epilogue.cuh"

// Whether elements of a tensor may be accessed in vectors along a row that start at multiples of kCount.
template <int kCount, typename T> WC_DEVICE bool rows_aligned(const Tensor4& t) {
    constexpr uint32_t kBytes = sizeof(T) * kCount;
    const uint32_t strides = (uint32_t)t.stride_n | (uint32_t)t.stride_c | (uint32_t)t.stride_h;
    return ((uint32_t)t.address | strides * (uint32_t)sizeof(T)) % kBytes == 0;
}

// Writes kCount output pixels of a row, of which those beyond the image's width do not exist.
template <typename T, int kCount>
WC_DEVICE void store_pixels(const ConvParams& p, float (&sum)[kCount], int32_t n, int32_t channel, int32_t row, int32_t column,
                            bool aligned) {
    const int32_t count = p.geometry.w_out - column < kCount ? p.geometry.w_out - column : kCount;
    const Vector<T, kCount> z = epilogue_pixels<T, kCount>(p.epilogue, sum, n, channel, row, column, count);
    T* y = image<T>(p.y, n) + element(p.y, channel, row, column);
    if (aligned && count == kCount) {
        store_vector(y, z);
    } else {
#pragma unroll
        for (int q = 0; q < kCount; ++q)
            if (q < count) y[q * p.y.stride_w] = z.at[q];
    }
}
