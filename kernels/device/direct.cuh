// The body of the direct kernels: one thread computes one output element. An Axis type says which taps it sees.
//
// Neighbouring threads take neighbours in the output's memory: pixels of a row (contiguous) or channels of a pixel
// (channels_last). In the first case they read neighbours of x and all the same weight, in the second case the same x
// and neighbouring weights, for which the weights are packed [tap][channel][c_out]. Images are spread over grid.y;
// where there are more than its limit, a block takes several. Sums are f32, taps outermost and channels inside.
#pragma once
#include "epilogue.cuh"
#include "output.cuh"

// The taps of one axis that an output sees: first, first + step, ... below `end`. The first one reads the input at
// `position`, each further one `distance` beyond the one before.
struct AxisTaps {
    int32_t first, step, end;
    int32_t position, distance;
};

// The output element of a thread within its image. The input channels of its group begin at `first_channel`.
struct DirectOutput {
    int32_t channel, row, column, first_channel;
    bool exists;
};
template <bool kChannelsLast> WC_DEVICE DirectOutput direct_output(const ConvGeometryParams& g) {
    const uint32_t pixels = (uint32_t)(g.h_out * g.w_out), channels = (uint32_t)g.c_out;
    const uint32_t index = blockIdx.x * blockDim.x + threadIdx.x; // an image has fewer than 2^31 elements
    if (index >= pixels * channels) return {0, 0, 0, 0, false};
    const int32_t channel = (int32_t)(kChannelsLast ? index % channels : index / pixels);
    const int32_t pixel = (int32_t)(kChannelsLast ? index / channels : index % pixels);
    return {channel, pixel / g.w_out, pixel % g.w_out, channel / (g.c_out / g.groups) * (g.c_in / g.groups), true};
}

// An Axis has one function, `AxisTaps taps(int32_t output)`: the taps that an output sees.
template <typename T, bool kChannelsLast, typename Axis>
WC_DEVICE void convolve_directly(const ConvParams& p, const Axis& vertical, const Axis& horizontal) {
    const ConvGeometryParams& g = p.geometry;
    const DirectOutput at = direct_output<kChannelsLast>(g);
    if (!at.exists) return;
    const int32_t channel = at.channel, group_channels = g.c_in / g.groups;
    const AxisTaps rows = vertical.taps(at.row), columns = horizontal.taps(at.column);

    for (int32_t n = blockIdx.y; n < g.n; n += gridDim.y) {
        const T* x = image<const T>(p.x, n) + (int64_t)at.first_channel * p.x.stride_c;
        float sum = 0.0f;
        for (int32_t i = rows.first, h = rows.position; i < rows.end; i += rows.step, h += rows.distance) {
            if (h < 0 || h >= g.h) continue;
            const T* row_weight = (const T*)p.weight + (int64_t)i * g.kernel_w * group_channels * g.c_out + channel;
            for (int32_t j = columns.first, w = columns.position; j < columns.end;
                 j += columns.step, w += columns.distance) {
                if (w < 0 || w >= g.w) continue;
                const T* input = x + element(p.x, 0, h, w);
                const T* weight = row_weight + (int64_t)j * group_channels * g.c_out;
                for (int32_t c = 0; c < group_channels; ++c) {
                    sum = fmaf(to_float(*input), to_float(*weight), sum);
                    input += p.x.stride_c;
                    weight += g.c_out;
                }
            }
        }
        image<T>(p.y, n)[output_element(p, channel, at.row, at.column)] =
            epilogue<T>(p.epilogue, sum, n, channel, at.row, at.column);
    }
}
