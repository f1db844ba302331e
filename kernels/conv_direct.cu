// Direct convolution: handles every configuration and is the fallback.
//
//   y[n, o, p, q] = epilogue( sum over (i, j, c)
//                             x[n, g*C + c, p*sh + i*dh - top, q*sw + j*dw - left] * w[i, j, c, o] )
//   C = c_in / groups,  g = o / (c_out / groups);  x is zero outside its image
//
// Tiling: one thread computes one output element (device/direct.cuh).
//
// Bound: FFMA issue and L1 traffic. Every operand of every product comes from cache, so this is far from any limit of
// the hardware. The tiled families are compared with it.
#include "device/direct.cuh"

// Axis of a convolution: an output sees every tap, `dilation` apart.
struct ConvolutionAxis {
    int32_t stride, padding, dilation, kernel;
    WC_DEVICE AxisTaps taps(int32_t output) const { return {0, 1, kernel, output * stride - padding, dilation}; }
};

template <typename T, bool kChannelsLast> WC_DEVICE void conv_direct(const ConvParams& p) {
    const ConvGeometryParams& g = p.geometry;
    const ConvolutionAxis vertical{g.stride_h, g.pad_top, g.dilation_h, g.kernel_h},
        horizontal{g.stride_w, g.pad_left, g.dilation_w, g.kernel_w};
    convolve_directly<T, kChannelsLast>(p, vertical, horizontal);
}
