// Several neighbouring elements in one access of 2 to 16 bytes, aligned to its size.
#pragma once
#include "tensor.cuh"

template <typename T, int kCount> struct alignas(sizeof(T) * kCount) Vector {
    static_assert(sizeof(T) * kCount <= 16, "the widest access is 16 bytes");
    T at[kCount];
};
template <int kCount, typename T> WC_DEVICE Vector<T, kCount> load_vector(const T* from) {
    Vector<T, kCount> value = *(const Vector<T, kCount>*)from;
    WC_WHOLE(value);
    return value;
}
template <int kCount, typename T> WC_DEVICE void store_vector(T* to, const Vector<T, kCount>& value) {
    Vector<T, kCount> whole = value;
    WC_WHOLE(whole);
    *(Vector<T, kCount>*)to = whole;
}

// Of a contiguous tensor: whether its planes, or its rows as well, may be accessed in vectors that start at multiples of kCount.
template <int kCount, typename T> WC_DEVICE bool planes_aligned(const Tensor4& t) {
    constexpr uint32_t kBytes = sizeof(T) * kCount;
    const uint32_t strides = (uint32_t)t.stride_n | (uint32_t)t.stride_c;
    return ((uint32_t)t.address | strides * (uint32_t)sizeof(T)) % kBytes == 0;
}
template <int kCount, typename T> WC_DEVICE bool rows_aligned(const Tensor4& t) {
    return planes_aligned<kCount, T>(t) && t.stride_h % kCount == 0;
}

// kCount neighbours of a row of t, of which the first `count` exist, from one on whose column is a multiple of kCount: in
// accesses as wide as the rows' alignment allows. What does not exist is zero.
template <int kCount, typename T> WC_DEVICE Vector<T, kCount> load_row(const Tensor4& t, const T* from, int32_t count) {
    if (count >= kCount && t.stride_w == 1 && rows_aligned<kCount, T>(t)) return load_vector<kCount>(from);
    Vector<T, kCount> row = {};
    if constexpr (kCount > 1) {
        constexpr int kHalf = kCount / 2;
        const Vector<T, kHalf> first = load_row<kHalf>(t, from, count), second = load_row<kHalf>(t, from + kHalf * t.stride_w, count - kHalf);
#pragma unroll
        for (int i = 0; i < kCount; ++i) row.at[i] = i < kHalf ? first.at[i % kHalf] : second.at[i % kHalf];
    } else if (count > 0) {
        row.at[0] = *from;
    }
    return row;
}
template <int kCount, typename T> WC_DEVICE void store_row(const Tensor4& t, T* to, const Vector<T, kCount>& row, int32_t count) {
    if (count >= kCount && t.stride_w == 1 && rows_aligned<kCount, T>(t)) {
        store_vector(to, row);
    } else if constexpr (kCount > 1) {
        constexpr int kHalf = kCount / 2;
        Vector<T, kHalf> first, second;
#pragma unroll
        for (int i = 0; i < kHalf; ++i) {
            first.at[i] = row.at[i];
            second.at[i] = row.at[kHalf + i];
        }
        store_row(t, to, first, count);
        store_row(t, to + kHalf * t.stride_w, second, count - kHalf);
    } else if (count > 0) {
        *to = row.at[0];
    }
}
