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
