// Direct convolution: the kernel beneath every configuration.
//
//   y[n, o, p, q] = epilogue( sum over (i, j, c)  x[n, g*C + c, p*sh + i*dh - top, q*sw + j*dw - left] * w[i, j, c, o] )
//   C = c_in / groups,  g = o / (c_out / groups);  x is zero outside its image
//
// Tiling: one thread computes one output element, in f32, taps outermost and channels inside. Neighbouring threads take
// neighbours in the output's memory: pixels of a row (contiguous), channels of a pixel (channels_last). Hence x is read
// coalesced and the weight broadcast in the first case, the other way round in the second; weights are packed
// [tap][channel][c_out] for that. Images are spread over grid.y, a grid-stride loop takes what is above its limit.
//
// Bound: FFMA issue and L1 traffic. Every operand comes from cache for every product, so this is far from any floor: it
// is the general case that the tiled families stand above, and the one they are compared with.
#include "device/epilogue.cuh"
#include "device/output.cuh"

template <typename T, bool kChannelsLast> WC_DEVICE void conv_direct(const ConvParams& p) {
    const ConvGeometryParams& g = p.geometry;
    const uint32_t pixels = (uint32_t)(g.h_out * g.w_out);
    const uint32_t index = blockIdx.x * blockDim.x + threadIdx.x; // an image has fewer than 2^31 elements
    if (index >= pixels * (uint32_t)g.c_out) return;
    const int32_t channel = (int32_t)(kChannelsLast ? index % (uint32_t)g.c_out : index / pixels);
    const int32_t pixel = (int32_t)(kChannelsLast ? index / (uint32_t)g.c_out : index % pixels);
    const int32_t row = pixel / g.w_out, column = pixel % g.w_out;
    const int32_t group_channels = g.c_in / g.groups;
    const int32_t first = channel / (g.c_out / g.groups) * group_channels;
    const int32_t top = row * g.stride_h - g.pad_top, left = column * g.stride_w - g.pad_left;

    for (int32_t n = blockIdx.y; n < g.n; n += gridDim.y) {
        const T* x = image<const T>(p.x, n) + (int64_t)first * p.x.stride_c;
        const T* tap_weight = (const T*)p.weight + channel;
        float sum = 0.0f;
        for (int32_t i = 0; i < g.kernel_h; ++i) {
            const int32_t h = top + i * g.dilation_h;
            for (int32_t j = 0; j < g.kernel_w; ++j, tap_weight += (int64_t)group_channels * g.c_out) {
                const int32_t w = left + j * g.dilation_w;
                if (h < 0 || h >= g.h || w < 0 || w >= g.w) continue;
                const T* at = x + element(p.x, 0, h, w);
                const T* weight = tap_weight;
                for (int32_t c = 0; c < group_channels; ++c) {
                    sum = fmaf(to_float(*at), to_float(*weight), sum);
                    at += p.x.stride_c;
                    weight += g.c_out;
                }
            }
        }
        image<T>(p.y, n)[output_element(p, channel, row, column)] = epilogue<T>(p.epilogue, sum, n, channel, row, column);
    }
}
