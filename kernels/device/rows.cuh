// Vector access along the rows of a contiguous tensor.
#pragma once
#include "epilogue.cuh"

// The widest vector, in elements, that can be used at multiples of its own width: within a plane, or within a row.
template <typename T> WC_DEVICE int32_t widest_in_planes(const Tensor4& t) {
    const uint32_t starts = (uint32_t)t.address / (uint32_t)sizeof(T) | (uint32_t)t.stride_n | (uint32_t)t.stride_c |
                            16 / (uint32_t)sizeof(T);
    return (int32_t)(starts & 0 - starts);
}
template <typename T> WC_DEVICE int32_t widest_in_rows(const Tensor4& t) {
    const uint32_t starts = (uint32_t)widest_in_planes<T>(t) | (uint32_t)t.stride_h;
    return (int32_t)(starts & 0 - starts);
}
template <int kCount, typename T> WC_DEVICE bool rows_aligned(const Tensor4& t) {
    static_assert(sizeof(T) * kCount <= 16, "the widest access is 16 bytes");
    return widest_in_rows<T>(t) >= kCount;
}

// Writes kCount neighbours of a row, of which the first `count` exist, in vectors of up to `widest` elements. The
// column of the first one is a multiple of kCount.
template <int kCount, typename T>
WC_DEVICE void store_row(const Tensor4& t, T* to, const Vector<T, kCount>& row, int32_t count, int32_t widest) {
    if (count >= kCount && widest >= kCount) {
        store_vector(to, row);
    } else if constexpr (kCount > 1) {
        constexpr int kHalf = kCount / 2;
        Vector<T, kHalf> first, second;
#pragma unroll
        for (int i = 0; i < kHalf; ++i) {
            first.at[i] = row.at[i];
            second.at[i] = row.at[kHalf + i];
        }
        store_row(t, to, first, count, widest);
        store_row(t, to + kHalf * t.stride_w, second, count - kHalf, widest);
    } else if (count > 0) {
        *to = row.at[0];
    }
}

// Writes kCount output pixels of a row; those beyond the image's width are left out.
template <typename T, int kCount>
WC_DEVICE void store_pixels(const ConvParams& p, float (&sum)[kCount], int32_t n, int32_t channel, int32_t row,
                            int32_t column, bool aligned) {
    const int32_t count = p.geometry.w_out - column < kCount ? p.geometry.w_out - column : kCount;
    const Vector<T, kCount> z = epilogue<T>(p.epilogue, sum, PixelRun{n, channel, row, column, count});
    T* y = image<T>(p.y, n) + element(p.y, channel, row, column);
    store_row(p.y, y, z, count, aligned ? kCount : 1);
}
