// The tail of every convolution: y = activation(z + bias + residual), computed in f32 and rounded once.
#pragma once
#include "vector.cuh"

WC_DEVICE float sigmoid(float z) { return 1.0f / (1.0f + expf(-z)); }
WC_DEVICE float clamp6(float z) { return z < 0.0f ? 0.0f : (z > 6.0f ? 6.0f : z); }

// NaN propagates through each of them, as in PyTorch.
template <int kActivation> WC_DEVICE float activate(const EpilogueParams& p, float z, int32_t channel) {
    if constexpr (kActivation == ACTIVATION_RELU) return z < 0.0f ? 0.0f : z;
    if constexpr (kActivation == ACTIVATION_RELU6) return clamp6(z);
    if constexpr (kActivation == ACTIVATION_LEAKY_RELU) return z < 0.0f ? z * p.alpha : z;
    if constexpr (kActivation == ACTIVATION_PRELU) return z < 0.0f ? z * ((const float*)p.slope)[channel] : z;
    if constexpr (kActivation == ACTIVATION_SIGMOID) return sigmoid(z);
    if constexpr (kActivation == ACTIVATION_TANH) return tanhf(z);
    if constexpr (kActivation == ACTIVATION_SILU) return z * sigmoid(z);
    // erfc keeps the relative accuracy of the negative tail, where 1 + erf would cancel
    if constexpr (kActivation == ACTIVATION_GELU) return 0.5f * z * erfcf(z * -0.70710678118654752f);
    if constexpr (kActivation == ACTIVATION_HARDSWISH) return z * (clamp6(z + 3.0f) * 0.16666667f); // z * 6 may overflow
    return z;
}
template <int kActivation, int kCount, int kStep> WC_DEVICE void activate_each(const EpilogueParams& p, float (&z)[kCount], int32_t channel) {
    for (int i = 0; i < kCount; ++i) z[i] = activate<kActivation>(p, z[i], channel + i * kStep);
}
// z[i] belongs to channel + i * kStep: neighbouring channels of a pixel (kStep 1), or pixels of one channel (kStep 0). The
// branch is taken once for all of them.
template <int kCount, int kStep> WC_DEVICE void activate_all(const EpilogueParams& p, float (&z)[kCount], int32_t channel) {
    switch (p.activation) {
    case ACTIVATION_RELU: return activate_each<ACTIVATION_RELU, kCount, kStep>(p, z, channel);
    case ACTIVATION_RELU6: return activate_each<ACTIVATION_RELU6, kCount, kStep>(p, z, channel);
    case ACTIVATION_LEAKY_RELU: return activate_each<ACTIVATION_LEAKY_RELU, kCount, kStep>(p, z, channel);
    case ACTIVATION_PRELU: return activate_each<ACTIVATION_PRELU, kCount, kStep>(p, z, channel);
    case ACTIVATION_SIGMOID: return activate_each<ACTIVATION_SIGMOID, kCount, kStep>(p, z, channel);
    case ACTIVATION_TANH: return activate_each<ACTIVATION_TANH, kCount, kStep>(p, z, channel);
    case ACTIVATION_SILU: return activate_each<ACTIVATION_SILU, kCount, kStep>(p, z, channel);
    case ACTIVATION_GELU: return activate_each<ACTIVATION_GELU, kCount, kStep>(p, z, channel);
    case ACTIVATION_HARDSWISH: return activate_each<ACTIVATION_HARDSWISH, kCount, kStep>(p, z, channel);
    default: return;
    }
}

template <typename T, int kCount> WC_DEVICE Vector<T, kCount> round_each(const float (&z)[kCount]) {
    Vector<T, kCount> y;
    for (int i = 0; i < kCount; ++i) y.at[i] = from_float<T>(z[i]);
    return y;
}

// `sum` is the linear result of output element (n, channel, h, w).
template <typename T>
WC_DEVICE T epilogue(const EpilogueParams& p, float sum, int32_t n, int32_t channel, int32_t h, int32_t w) {
    if (p.bias) sum += ((const float*)p.bias)[channel];
    if (p.residual.address) sum += to_float(image<const T>(p.residual, n)[element(p.residual, channel, h, w)]);
    float z[1] = {sum};
    activate_all<1, 0>(p, z, channel);
    return from_float<T>(z[0]);
}

// The rest of the epilogue for kCount neighbouring channels of pixel (n, h, w), which all exist, after the bias.
template <typename T, int kCount>
WC_DEVICE Vector<T, kCount> finish_channels(const EpilogueParams& p, float (&sum)[kCount], int32_t n, int32_t channel, int32_t h, int32_t w) {
    if (p.residual.address) {
        const T* residual = image<const T>(p.residual, n) + element(p.residual, channel, h, w);
        if (p.vector_residual && p.residual.stride_c == 1) {
            const Vector<T, kCount> r = load_vector<kCount>(residual);
            for (int i = 0; i < kCount; ++i) sum[i] += to_float(r.at[i]);
        } else {
            for (int i = 0; i < kCount; ++i) sum[i] += to_float(residual[i * p.residual.stride_c]);
        }
    }
    activate_all<kCount, 1>(p, sum, channel);
    return round_each<T>(sum);
}

// The whole of it, for the same.
template <typename T, int kCount>
WC_DEVICE Vector<T, kCount> epilogue_channels(const EpilogueParams& p, float (&sum)[kCount], int32_t n, int32_t channel, int32_t h,
                                              int32_t w) {
    if (p.bias)
        for (int i = 0; i < kCount; ++i) sum[i] += ((const float*)p.bias)[channel + i];
    return finish_channels<T, kCount>(p, sum, n, channel, h, w);
}

// The epilogue without a residual, for kCount neighbouring channels of any pixel.
template <typename T, int kCount> WC_DEVICE Vector<T, kCount> epilogue_values(const EpilogueParams& p, float (&sum)[kCount], int32_t channel) {
    if (p.bias)
        for (int i = 0; i < kCount; ++i) sum[i] += ((const float*)p.bias)[channel + i];
    activate_all<kCount, 1>(p, sum, channel);
    return round_each<T>(sum);
}

// For kCount neighbouring pixels of a row, from (n, channel, h, w) on, of which the first `count` exist.
template <typename T, int kCount>
WC_DEVICE Vector<T, kCount> epilogue_pixels(const EpilogueParams& p, float (&sum)[kCount], int32_t n, int32_t channel, int32_t h,
                                            int32_t w, int32_t count) {
    if (p.bias) {
        const float bias = ((const float*)p.bias)[channel];
        for (int i = 0; i < kCount; ++i) sum[i] += bias;
    }
    if (p.residual.address) {
        const T* residual = image<const T>(p.residual, n) + element(p.residual, channel, h, w);
        for (int i = 0; i < kCount; ++i)
            if (i < count) sum[i] += to_float(residual[i * p.residual.stride_w]);
    }
    activate_all<kCount, 0>(p, sum, channel);
    return round_each<T>(sum);
}

// For kCount neighbours of a plane that is `width` wide, row after row from (h, w) on, which all exist.
template <typename T, int kCount>
WC_DEVICE Vector<T, kCount> epilogue_plane(const EpilogueParams& p, float (&sum)[kCount], int32_t n, int32_t channel, int32_t h, int32_t w,
                                            int32_t width) {
    const float bias = p.bias ? ((const float*)p.bias)[channel] : 0.0f;
    if (p.bias)
        for (int i = 0; i < kCount; ++i) sum[i] += bias;
    if (p.residual.address) {
        const T* residual = image<const T>(p.residual, n) + element(p.residual, channel, 0, 0);
        if (p.vector_residual && p.residual.stride_w == 1 && p.residual.stride_h == width) {
            const Vector<T, kCount> r = load_vector<kCount>(residual + h * width + w);
            for (int i = 0; i < kCount; ++i) sum[i] += to_float(r.at[i]);
        } else {
            for (int i = 0; i < kCount; ++i) {
                sum[i] += to_float(residual[element(p.residual, 0, h, w)]);
                if (++w == width) {
                    w = 0;
                    ++h;
                }
            }
        }
    }
    activate_all<kCount, 0>(p, sum, channel);
    return round_each<T>(sum);
}
