// The body of the direct kernels: one output element a thread, whatever rule says which taps it sees.
//
// Neighbouring threads take neighbours in the output's memory: pixels of a row (contiguous), channels of a pixel
// (channels_last). Hence x is read coalesced and the weight broadcast in the first case, the other way round in the second;
// weights are packed [tap][channel][c_out] for that. Images are spread over grid.y, a grid-stride loop takes what is above its
// limit. Sums are f32, taps outermost and channels inside.
#pragma once
#include "epilogue.cuh"

// The taps of one axis that an output sees: first, first + step, ... below `end`; the first of them at `position` of the
// input, each further one `distance` beyond.
struct AxisTaps {
    int32_t first, step, end;
    int32_t position, distance;
};

// An Axis tells the taps of an output: `AxisTaps taps(int32_t output)`.
template <typename T, bool kChannelsLast, typename Axis>
WC_DEVICE void convolve_directly(const ConvParams& p, const Axis& vertical, const Axis& horizontal) {
    const ConvGeometryParams& g = p.geometry;
    const uint32_t pixels = (uint32_t)(g.h_out * g.w_out);
    const uint32_t index = blockIdx.x * blockDim.x + threadIdx.x; // an image has fewer than 2^31 elements
    if (index >= pixels * (uint32_t)g.c_out) return;
    const int32_t channel = (int32_t)(kChannelsLast ? index % (uint32_t)g.c_out : index / pixels);
    const int32_t pixel = (int32_t)(kChannelsLast ? index / (uint32_t)g.c_out : index % pixels);
    const int32_t row = pixel / g.w_out, column = pixel % g.w_out;
    const int32_t group_channels = g.c_in / g.groups;
    const int32_t first = channel / (g.c_out / g.groups) * group_channels;
    const AxisTaps rows = vertical.taps(row), columns = horizontal.taps(column);

    for (int32_t n = blockIdx.y; n < g.n; n += gridDim.y) {
        const T* x = image<const T>(p.x, n) + (int64_t)first * p.x.stride_c;
        float sum = 0.0f;
        for (int32_t i = rows.first, h = rows.position; i < rows.end; i += rows.step, h += rows.distance) {
            if (h < 0 || h >= g.h) continue;
            const T* row_weight = (const T*)p.weight + (int64_t)i * g.kernel_w * group_channels * g.c_out + channel;
            for (int32_t j = columns.first, w = columns.position; j < columns.end; j += columns.step, w += columns.distance) {
                if (w < 0 || w >= g.w) continue;
                const T* at = x + element(p.x, 0, h, w);
                const T* weight = row_weight + (int64_t)j * group_channels * g.c_out;
                for (int32_t c = 0; c < group_channels; ++c) {
                    sum = fmaf(to_float(*at), to_float(*weight), sum);
                    at += p.x.stride_c;
                    weight += g.c_out;
                }
            }
        }
        image<T>(p.y, n)[element(p.y, channel, row, column)] = epilogue<T>(p.epilogue, sum, n, channel, row, column);
    }
}
