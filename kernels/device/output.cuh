// Where a convolution stores its results: in a tensor of its own shape or, for a sub-pixel convolution, as r x r pixels
// for each of its own and r * r times fewer channels. The channels of a sub-pixel convolution are packed in blocks of
// `run` channels of one sub-pixel, [outer][row i][column j][run]: block (outer, i, j) gives channels outer * run and up
// of y, at pixels (h * r + i, w * r + j). The strides in p.y lead from one block of r x r pixels to the next, so that
// the place of a sub-pixel depends on the channel alone.
#pragma once
#include "tensor.cuh"

// The distance from a pixel's first element to a channel of the convolution.
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
// Whether kChunk neighbouring channels, counted in chunks from the first, are neighbours in a channels_last y.
template <int kChunk> WC_DEVICE bool runs_of_chunks(const ConvParams& p) { return p.sub_pixel.run % kChunk == 0; }
// Whether chunks of all sub-pixels are aligned to their size if those of the first sub-pixel are.
template <int kChunk> WC_DEVICE bool sub_pixels_aligned(const ConvParams& p) {
    return (p.sub_pixel.stride_h | p.sub_pixel.stride_w) % kChunk == 0;
}
