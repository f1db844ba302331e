// Scalars. 16-bit floats are plain storage without operators, so that every conversion is visible where it happens and
// both compilers do the same one. Sums and products are f32.
#pragma once
#include "platform.cuh"

struct f16_t {
    uint16_t bits;
};
struct bf16_t {
    uint16_t bits;
};
// An f32 whose mantissa has 10 bits, which tensor cores multiply where the user allows it. No tensor holds this type.
struct tf32_t {
    uint32_t bits;
};

#ifdef __CUDACC__
WC_DEVICE uint32_t float_bits(float f) { return __float_as_uint(f); }
WC_DEVICE float bits_float(uint32_t u) { return __uint_as_float(u); }
WC_DEVICE float to_float(f16_t v) { return __half2float(__ushort_as_half(v.bits)); }
#else
WC_DEVICE uint32_t float_bits(float f) { return __builtin_bit_cast(uint32_t, f); }
WC_DEVICE float bits_float(uint32_t u) { return __builtin_bit_cast(float, u); }
WC_DEVICE float to_float(f16_t v) {
#if defined(__F16C__)
    return wc_half_to_float(v.bits);
#else
    // Shift exponent and mantissa into place. The multiplication by 2^112 corrects the bias of the exponent and makes
    // subnormals normal; infinity and NaN keep an exponent of all ones.
    uint32_t magnitude = (uint32_t)(v.bits & 0x7fff) << 13;
    uint32_t all_ones = magnitude >= 0x0f800000u ? 0x70000000u : 0u;
    float f = all_ones ? bits_float(magnitude + all_ones) : bits_float(magnitude) * 5.192296858534828e33f;
    return bits_float(float_bits(f) | (uint32_t)(v.bits & 0x8000) << 16);
#endif
}
#endif
WC_DEVICE float to_float(float v) { return v; }
WC_DEVICE float to_float(bf16_t v) { return bits_float((uint32_t)v.bits << 16); }

// Rounds to the nearest, ties to even. An overflow becomes infinity, NaN stays NaN.
template <typename T> WC_DEVICE T from_float(float f);
template <> WC_DEVICE float from_float<float>(float f) { return f; }
template <> WC_DEVICE f16_t from_float<f16_t>(float f) {
#if defined(__CUDACC__)
    return f16_t{__half_as_ushort(__float2half_rn(f))};
#elif defined(__F16C__)
    return f16_t{wc_float_to_half(f)};
#else
    uint32_t u = float_bits(f), sign = u >> 16 & 0x8000, a = u & 0x7fffffff;
    if (a > 0x7f800000) return f16_t{(uint16_t)(sign | 0x7e00)};
    if (a >= 0x47800000) return f16_t{(uint16_t)(sign | 0x7c00)};
    if (a < 0x38800000) { // below the smallest normal: adding 0.5 rounds to multiples of 2^-24
        uint32_t r = float_bits(bits_float(a) + 0.5f);
        return f16_t{(uint16_t)(sign | (r - 0x3f000000))};
    }
    a += 0xc8000fffu + (a >> 13 & 1); // subtract 112 from the exponent, for the smaller bias, and round
    return f16_t{(uint16_t)(sign | a >> 13)};
#endif
}
template <> WC_DEVICE bf16_t from_float<bf16_t>(float f) {
#if defined(__CUDACC__)
    return bf16_t{__bfloat16_as_ushort(__float2bfloat16_rn(f))};
#else
    uint32_t u = float_bits(f);
    if ((u & 0x7fffffff) > 0x7f800000) return bf16_t{(uint16_t)(u >> 16 | 0x40)};
    return bf16_t{(uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16)};
#endif
}
// Rounds the bits of an f32 to the nearest tf32, ties away from zero.
WC_DEVICE uint32_t round_to_tf32(uint32_t bits) {
#if defined(__CUDACC__)
    uint32_t rounded;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(__uint_as_float(bits)));
    return rounded;
#else
    return (bits & 0x7fffffff) > 0x7f800000 ? bits : (bits + 0x1000) & 0xffffe000u;
#endif
}
