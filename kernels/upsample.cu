// Bilinear upsampling, or downsampling without a filter against aliasing: PyTorch's interpolate(mode="bilinear").
//
//   y[n, c, p, q] = (1 - fh) * ((1 - fw) * x[top, left] + fw * x[top, right]) +
//                   fh * ((1 - fw) * x[bottom, left] + fw * x[bottom, right])
//   source = max((p + 0.5) * scale - 0.5, 0), or p * scale where corners are aligned;
//   top = floor(source), fh = source - top, bottom = min(top + 1, h - 1); columns alike. All of it is f32, and the
//   result is rounded once.
//
// Tiling: to channels_last, a thread has a chunk of channels of one output pixel, 16 bytes or one element, and loads
// the four neighbours whole. To contiguous, a thread has neighbouring output pixels of one channel, 16 bytes or one
// element; what neighbouring threads read overlaps and comes from L1. x may have any format, but the wide channels_last
// kernel needs x in channels_last, too.
//
// Bound: memory bandwidth: x is read from L2 once for each output that sees it, y is written once. Ladder: (1) a thread
// writes 16 bytes of y; (2) the position and weights of a pixel are computed once for all its channels, those of a row
// once for all its pixels.
#include "device/vector.cuh"

// The two input positions between which an output lies.
struct Between {
    int32_t low, high;
    float to_low, to_high; // their weights
};
WC_DEVICE Between between(int32_t output, int32_t size, float scale, bool align_corners) {
    const float offset = align_corners ? 0.0f : 0.5f;
    const float centre = scale * ((float)output + offset) - offset, source = centre < 0.0f ? 0.0f : centre;
    const int32_t low = source < (float)(size - 1) ? (int32_t)source : size - 1;
    const float to_high = source - (float)low;
    return {low, low + 1 < size ? low + 1 : low, 1.0f - to_high, to_high};
}
WC_DEVICE float blend(const Between& at, float low, float high) { return at.to_low * low + at.to_high * high; }

template <typename T, bool kWide> WC_DEVICE void upsample_channels_last(const UpsampleParams& p) {
    constexpr int kCount = kWide ? 16 / (int)sizeof(T) : 1;
    const uint32_t chunks = (uint32_t)p.c / kCount, index = blockIdx.x * blockDim.x + threadIdx.x,
                   pixel = index / chunks;
    if (pixel >= (uint32_t)(p.h_out * p.w_out)) return;
    const int32_t channel = (int32_t)(index % chunks) * kCount, h = (int32_t)pixel / p.w_out,
                  w = (int32_t)pixel % p.w_out;
    const Between row = between(h, p.h, p.scale_h, p.align_corners != 0),
                  column = between(w, p.w, p.scale_w, p.align_corners != 0);
    const int32_t top_left = element(p.x, channel, row.low, column.low),
                  top_right = element(p.x, channel, row.low, column.high);
    const int32_t bottom_left = element(p.x, channel, row.high, column.low),
                  bottom_right = element(p.x, channel, row.high, column.high);
    for (int32_t n = blockIdx.y; n < p.n; n += gridDim.y) {
        const T* x = image<const T>(p.x, n);
        const Vector<T, kCount> a = load_vector<kCount>(x + top_left), b = load_vector<kCount>(x + top_right);
        const Vector<T, kCount> c = load_vector<kCount>(x + bottom_left), d = load_vector<kCount>(x + bottom_right);
        Vector<T, kCount> y;
#pragma unroll
        for (int i = 0; i < kCount; ++i) {
            const float top = blend(column, to_float(a.at[i]), to_float(b.at[i]));
            const float bottom = blend(column, to_float(c.at[i]), to_float(d.at[i]));
            y.at[i] = from_float<T>(blend(row, top, bottom));
        }
        store_vector<kCount>(image<T>(p.y, n) + element(p.y, channel, h, w), y);
    }
}

template <typename T, bool kWide> WC_DEVICE void upsample_contiguous(const UpsampleParams& p) {
    constexpr int kCount = kWide ? 16 / (int)sizeof(T) : 1;
    const uint32_t chunks = (uint32_t)p.w_out / kCount, index = blockIdx.x * blockDim.x + threadIdx.x,
                   line = index / chunks;
    if (line >= (uint32_t)(p.c * p.h_out)) return;
    const int32_t w = (int32_t)(index % chunks) * kCount, h = (int32_t)line % p.h_out,
                  channel = (int32_t)line / p.h_out;
    const Between row = between(h, p.h, p.scale_h, p.align_corners != 0);
    const int32_t low = element(p.x, channel, row.low, 0), high = element(p.x, channel, row.high, 0);
    for (int32_t n = blockIdx.y; n < p.n; n += gridDim.y) {
        const T *top = image<const T>(p.x, n) + low, *bottom = image<const T>(p.x, n) + high;
        Vector<T, kCount> y;
#pragma unroll
        for (int i = 0; i < kCount; ++i) {
            const Between column = between(w + i, p.w, p.scale_w, p.align_corners != 0);
            const int32_t left = column.low * p.x.stride_w, right = column.high * p.x.stride_w;
            const float above = blend(column, to_float(top[left]), to_float(top[right]));
            const float below = blend(column, to_float(bottom[left]), to_float(bottom[right]));
            y.at[i] = from_float<T>(blend(row, above, below));
        }
        store_vector<kCount>(image<T>(p.y, n) + element(p.y, channel, h, w), y);
    }
}

template <typename T, bool kChannelsLast, bool kWide> WC_DEVICE void upsample(const UpsampleParams& p) {
    if constexpr (kChannelsLast)
        upsample_channels_last<T, kWide>(p);
    else
        upsample_contiguous<T, kWide>(p);
}
