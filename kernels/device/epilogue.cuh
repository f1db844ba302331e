// The tail of every convolution, the epilogue: y = activation(z + bias + residual), computed in f32 and rounded once.
// Bias, residual, activation and rounding are in this file and nowhere else.
#pragma once
#include "vector.cuh"

WC_DEVICE float sigmoid(float z) { return 1.0f / (1.0f + expf(-z)); }
WC_DEVICE float clamp6(float z) { return z < 0.0f ? 0.0f : (z > 6.0f ? 6.0f : z); }

// NaN propagates through every activation, as in PyTorch.
template <ActivationCode kActivation> WC_DEVICE float activate(const EpilogueParams& p, float z, int32_t channel) {
    if constexpr (kActivation == ACTIVATION_RELU)
        return z < 0.0f ? 0.0f : z;
    else if constexpr (kActivation == ACTIVATION_RELU6)
        return clamp6(z);
    else if constexpr (kActivation == ACTIVATION_LEAKY_RELU)
        return z < 0.0f ? z * p.alpha : z;
    else if constexpr (kActivation == ACTIVATION_PRELU)
        return z < 0.0f ? z * ((const float*)p.slope)[channel] : z;
    else if constexpr (kActivation == ACTIVATION_SIGMOID)
        return sigmoid(z);
    else if constexpr (kActivation == ACTIVATION_TANH)
        return tanhf(z);
    else if constexpr (kActivation == ACTIVATION_SILU)
        return z * sigmoid(z);
    else if constexpr (kActivation == ACTIVATION_GELU)
        return 0.5f * z * erfcf(z * -0.70710678118654752f); // 1 + erf would cancel in the negative tail
    else if constexpr (kActivation == ACTIVATION_HARDSWISH)
        return z * (clamp6(z + 3.0f) * 0.16666667f); // z * 6 may overflow
    else {
        static_assert(kActivation == ACTIVATION_NONE, "every activation has a formula");
        return z;
    }
}
template <ActivationCode kActivation, int kCount, int kStep>
WC_DEVICE void activate_each(const EpilogueParams& p, float (&z)[kCount], int32_t channel) {
    for (int i = 0; i < kCount; ++i) z[i] = activate<kActivation>(p, z[i], channel + i * kStep);
}
// z[i] belongs to channel + i * kStep: neighbouring channels of a pixel (kStep 1), or pixels of one channel (kStep 0).
// The branch is taken once for all of them. There is no default: the host's compiler refuses a forgotten activation.
template <int kCount, int kStep>
WC_DEVICE void activate_all(const EpilogueParams& p, float (&z)[kCount], int32_t channel) {
    switch ((ActivationCode)p.activation) {
    case ACTIVATION_NONE: return;
    case ACTIVATION_RELU: return activate_each<ACTIVATION_RELU, kCount, kStep>(p, z, channel);
    case ACTIVATION_RELU6: return activate_each<ACTIVATION_RELU6, kCount, kStep>(p, z, channel);
    case ACTIVATION_LEAKY_RELU: return activate_each<ACTIVATION_LEAKY_RELU, kCount, kStep>(p, z, channel);
    case ACTIVATION_PRELU: return activate_each<ACTIVATION_PRELU, kCount, kStep>(p, z, channel);
    case ACTIVATION_SIGMOID: return activate_each<ACTIVATION_SIGMOID, kCount, kStep>(p, z, channel);
    case ACTIVATION_TANH: return activate_each<ACTIVATION_TANH, kCount, kStep>(p, z, channel);
    case ACTIVATION_SILU: return activate_each<ACTIVATION_SILU, kCount, kStep>(p, z, channel);
    case ACTIVATION_GELU: return activate_each<ACTIVATION_GELU, kCount, kStep>(p, z, channel);
    case ACTIVATION_HARDSWISH: return activate_each<ACTIVATION_HARDSWISH, kCount, kStep>(p, z, channel);
    }
}

// The bias of a channel; 0 where the convolution has none.
WC_DEVICE float bias_of(const EpilogueParams& p, int32_t channel) {
    return p.bias ? ((const float*)p.bias)[channel] : 0.0f;
}
template <int kCount, int kStep> WC_DEVICE void add_bias(const EpilogueParams& p, float (&z)[kCount], int32_t channel) {
    if (!p.bias) return;
    for (int i = 0; i < kCount; ++i) z[i] += bias_of(p, channel + i * kStep);
}

// Where the results of a thread lie in the output, from (n, channel, h, w) on: kCount neighbouring channels of a pixel,
// which all exist.
struct ChannelRun {
    int32_t n, channel, h, w;
    static constexpr int kStep = 1;        // channels from one result to the next
    static constexpr bool kVectors = true; // a residual may be read in one access
    WC_DEVICE bool neighbours(const Tensor4& t) const { return t.stride_c == 1; }
    WC_DEVICE bool exists(int) const { return true; }
    WC_DEVICE void advance() { ++channel; } // to the next result
};
// kCount neighbouring pixels of a row, of which the first `count` exist.
struct PixelRun {
    int32_t n, channel, h, w, count;
    static constexpr int kStep = 0;
    static constexpr bool kVectors = false;
    WC_DEVICE bool exists(int i) const { return i < count; }
    WC_DEVICE void advance() { ++w; }
};
// kCount neighbours of a plane that is `width` pixels wide, row after row, which all exist.
struct PlaneRun {
    int32_t n, channel, h, w, width;
    static constexpr int kStep = 0;
    static constexpr bool kVectors = true;
    WC_DEVICE bool neighbours(const Tensor4& t) const { return t.stride_w == 1 && t.stride_h == width; }
    WC_DEVICE bool exists(int) const { return true; }
    WC_DEVICE void advance() {
        if (++w != width) return;
        w = 0;
        ++h;
    }
};
template <typename T, int kCount, typename Run>
WC_DEVICE void add_residual(const EpilogueParams& p, float (&z)[kCount], Run at) {
    if (!p.residual.address) return;
    const T* const residual = image<const T>(p.residual, at.n);
    if constexpr (Run::kVectors && kCount > 1) {
        if (p.vector_residual && at.neighbours(p.residual)) {
            const Vector<T, kCount> r = load_vector<kCount>(residual + element(p.residual, at.channel, at.h, at.w));
            for (int i = 0; i < kCount; ++i) z[i] += to_float(r.at[i]);
            return;
        }
    }
    for (int i = 0; i < kCount; ++i) {
        if (at.exists(i)) z[i] += to_float(residual[element(p.residual, at.channel, at.h, at.w)]);
        at.advance();
    }
}

// Activates and rounds what bias and residual are added to already.
template <typename T, int kStep, int kCount>
WC_DEVICE Vector<T, kCount> round_activated(const EpilogueParams& p, float (&z)[kCount], int32_t channel) {
    activate_all<kCount, kStep>(p, z, channel);
    Vector<T, kCount> y;
    for (int i = 0; i < kCount; ++i) y.at[i] = from_float<T>(z[i]);
    return y;
}
// The epilogue without the bias, which the caller has added: some kernels keep the bias in registers.
template <typename T, int kCount, typename Run>
WC_DEVICE Vector<T, kCount> epilogue_after_bias(const EpilogueParams& p, float (&z)[kCount], const Run& at) {
    add_residual<T>(p, z, at);
    return round_activated<T, Run::kStep>(p, z, at.channel);
}
// The epilogue without a residual, for kCount neighbouring channels of any pixel.
template <typename T, int kCount>
WC_DEVICE Vector<T, kCount> epilogue_without_residual(const EpilogueParams& p, float (&z)[kCount], int32_t channel) {
    add_bias<kCount, 1>(p, z, channel);
    return round_activated<T, 1>(p, z, channel);
}
// The epilogue of the linear results z, which lie at `at`.
template <typename T, int kCount, typename Run>
WC_DEVICE Vector<T, kCount> epilogue(const EpilogueParams& p, float (&z)[kCount], const Run& at) {
    add_bias<kCount, Run::kStep>(p, z, at.channel);
    return epilogue_after_bias<T>(p, z, at);
}
// The epilogue of one result, that of output element (n, channel, h, w).
template <typename T>
WC_DEVICE T epilogue(const EpilogueParams& p, float sum, int32_t n, int32_t channel, int32_t h, int32_t w) {
    float z[1] = {sum};
    return epilogue<T>(p, z, ChannelRun{n, channel, h, w}).at[0];
}
