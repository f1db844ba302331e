// The tail of every convolution: y = activation(z + bias + residual), computed in f32 and rounded once.
#pragma once
#include "tensor.cuh"

WC_DEVICE float sigmoid(float z) { return 1.0f / (1.0f + expf(-z)); }

// NaN propagates through each of them, as in PyTorch.
WC_DEVICE float activate(const EpilogueParams& p, float z, int32_t channel) {
    switch (p.activation) {
    case ACTIVATION_RELU: return z < 0.0f ? 0.0f : z;
    case ACTIVATION_RELU6: return z < 0.0f ? 0.0f : (z > 6.0f ? 6.0f : z);
    case ACTIVATION_LEAKY_RELU: return z < 0.0f ? z * p.alpha : z;
    case ACTIVATION_PRELU: return z < 0.0f ? z * ((const float*)p.slope)[channel] : z;
    case ACTIVATION_SIGMOID: return sigmoid(z);
    case ACTIVATION_TANH: return tanhf(z);
    case ACTIVATION_SILU: return z * sigmoid(z);
    // erfc keeps the relative accuracy of the negative tail, where 1 + erf would cancel
    case ACTIVATION_GELU: return 0.5f * z * erfcf(z * -0.70710678118654752f);
    case ACTIVATION_HARDSWISH: {
        float t = z + 3.0f;
        t = t < 0.0f ? 0.0f : (t > 6.0f ? 6.0f : t);
        return z * t / 6.0f;
    }
    default: return z;
    }
}

// `sum` is the linear result of output element (n, channel, h, w).
template <typename T>
WC_DEVICE T epilogue(const EpilogueParams& p, float sum, int32_t n, int32_t channel, int32_t h, int32_t w) {
    if (p.bias) sum += ((const float*)p.bias)[channel];
    if (p.residual.address) sum += to_float(image<const T>(p.residual, n)[element(p.residual, channel, h, w)]);
    return from_float<T>(activate(p, sum, channel));
}
