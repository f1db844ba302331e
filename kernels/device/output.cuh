// Where a convolution's store puts its results: in a tensor of its own shape, or, sub-pixel convolution, r x r pixels for each
// one and as many fewer channels. The channels of such a convolution are packed in blocks of `run` of one sub-pixel,
// [outer][row i][column j][run], so that channel outer * run + k of y at (h * r + i, w * r + j) comes from one of them. As y has the
// strides from block to block of r x r pixels, a sub-pixel is an offset that depends on the channel alone.
#pragma once
#include "tensor.cuh"

// The distance of a channel's element from the first one of its pixel.
WC_DEVICE int32_t output_channel(const ConvParams& p, int32_t channel) {
    const SubPixelParams& s = p.sub_pixel;
    if (s.run == 0) return channel * p.y.stride_c;
    const int32_t block = channel / s.run, sub_pixel = block % (s.factor * s.factor);
    const int32_t c = block / (s.factor * s.factor) * s.run + channel % s.run;
    return c * p.y.stride_c + sub_pixel / s.factor * s.stride_h + sub_pixel % s.factor * s.stride_w;
}
WC_DEVICE int32_t output_element(const ConvParams& p, int32_t channel, int32_t h, int32_t w) {
    return element(p.y, 0, h, w) + output_channel(p, channel);
}
// Whether chunks of channels, counted from the first, are neighbours in a channels_last y.
template <int kChunk> WC_DEVICE bool runs_of_chunks(const ConvParams& p) { return p.sub_pixel.run % kChunk == 0; }
// Whether they are then aligned to their size if those of the first sub-pixel are.
template <int kChunk> WC_DEVICE bool sub_pixels_aligned(const ConvParams& p) {
    return (p.sub_pixel.stride_h | p.sub_pixel.stride_w) % kChunk == 0;
}
