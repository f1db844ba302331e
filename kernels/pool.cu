// Pooling: the largest pixel or the mean of a window, as PyTorch's max_pool2d, avg_pool2d and adaptive_avg_pool2d.
//
//   y[n, c, p, q] = max or sum / divisor over i, j of x[n, c, row(p) + i * dilation, column(q) + j * dilation]
//   row(p) = p * stride - padding; pixels in the padding are left out. A divisor counts the pixels of the window, with
//   those in the padding or without them, or is given. Adaptive windows reach from floor(p * h / h_out) to
//   ceil((p + 1) * h / h_out). NaN is larger than every number. Sums are f32, and the result is rounded once.
//
// Tiling: pool_windows: a thread has the windows of some output rows below one another, of one column and of 16 bytes of
// channels or of one element. It loads their pixels one by one. pool_blocks: for windows with many pixels, such as whole
// images. A block of 128 threads has one window of some channels; its threads (slots) share the pixels and then add up
// pairwise in shared memory. x and y may have any format, but 16 bytes of channels need x in channels_last.
//
// Bound: memory bandwidth: pixels that several windows see come from L1, y is written once. Ladder: (1) neighbouring
// threads have neighbours of x; (2) 16 bytes of channels at a time; (3) loads of several windows are under way at once,
// since no load depends on whether a pixel is in the window; (4) pool_blocks, without which a global pooling would have
// one thread for a whole image.
#include "device/vector.cuh"
#include "params_pixels.h"

// The pixels of x in a window, along one axis.
struct Span {
    int32_t first, count, step;
    int32_t padded; // pixels with those in the padding; for means, which have no dilation
};
WC_DEVICE Span span(int32_t output, int32_t size, int32_t outputs, const PoolAxis& axis) {
    if (axis.kernel == 0) { // adaptive
        const uint32_t start = (uint32_t)output * (uint32_t)size;
        const int32_t first = (int32_t)(start / (uint32_t)outputs);
        const int32_t end = (int32_t)((start + (uint32_t)size + (uint32_t)outputs - 1) / (uint32_t)outputs);
        return {first, end - first, 1, end - first};
    }
    const int32_t start = output * axis.stride - axis.padding, rest = size - start;
    const int32_t before = start < 0 ? (axis.dilation - 1 - start) / axis.dilation : 0;
    const int32_t inside = rest > 0 ? (rest + axis.dilation - 1) / axis.dilation : 0;
    const int32_t taps = inside < axis.kernel ? inside : axis.kernel;
    const int32_t padded = rest + axis.padding < axis.kernel ? rest + axis.padding : axis.kernel;
    return {start + before * axis.dilation, taps > before ? taps - before : 0, axis.dilation, padded};
}
WC_DEVICE Span row_span(const PoolParams& p, int32_t h) { return span(h, p.h, p.h_out, p.rows); }
WC_DEVICE Span column_span(const PoolParams& p, int32_t w) { return span(w, p.w, p.w_out, p.columns); }

template <bool kMax> struct Pooled {
    // What changes nothing: the value of a window without pixels.
    static WC_DEVICE float nothing() { return kMax ? bits_float(0xff800000u) : 0.0f; }
    static WC_DEVICE float with(float pooled, float value) {
        if constexpr (kMax)
            return value > pooled || value != value ? value : pooled;
        else
            return pooled + value;
    }
    static WC_DEVICE float result(const PoolParams& p, float pooled, const Span& row, const Span& column) {
        if constexpr (kMax) return pooled;
        const int32_t pixels = p.count_padding ? row.padded * column.padded : row.count * column.count;
        return pooled / (float)(p.divisor ? p.divisor : pixels);
    }
};

template <typename T, bool kWide> struct WindowTile {
    static constexpr int kCount = kWide ? 16 / (int)sizeof(T) : 1;                  // channels of a thread
    static constexpr int kRows = kWide ? POOL_WIDE_ROWS : POOL_NARROW_ROWS; // its output rows
};

template <typename T, bool kWide, bool kMax> WC_DEVICE void pool_windows_of(const PoolParams& p) {
    using Tile = WindowTile<T, kWide>;
    constexpr int kCount = Tile::kCount, kRows = Tile::kRows;
    const uint32_t chunks = (uint32_t)p.c / kCount, columns = (uint32_t)p.w_out,
                   strips = ((uint32_t)p.h_out + kRows - 1) / kRows;
    const uint32_t index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index / columns / chunks >= strips) return;
    const bool channels_inner = kWide || p.channels_inner;
    const uint32_t inner = channels_inner ? chunks : columns, rest = index / inner;
    const uint32_t chunk = channels_inner ? index % inner : rest / strips;
    const int32_t w = (int32_t)(channels_inner ? rest % columns : index % inner), channel = (int32_t)chunk * kCount;
    const int32_t h = (int32_t)(channels_inner ? rest / columns : rest % strips) * kRows;

    const Span column = column_span(p, w);
    Span rows[kRows];
    int32_t most = 0;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
        rows[r] = row_span(p, h + r < p.h_out ? h + r : h);
        most = rows[r].count > most ? rows[r].count : most;
    }
    for (int32_t n = blockIdx.y; n < p.n; n += gridDim.y) {
        const T* const x = image<const T>(p.x, n) + element(p.x, channel, 0, column.first);
        float pooled[kRows][kCount];
#pragma unroll
        for (int r = 0; r < kRows; ++r)
#pragma unroll
            for (int k = 0; k < kCount; ++k) pooled[r][k] = Pooled<kMax>::nothing();
#pragma unroll 1
        for (int32_t i = 0; i < most; ++i) {
#pragma unroll 1
            for (int32_t j = 0; j < column.count; ++j) {
#pragma unroll
                for (int r = 0; r < kRows; ++r) {
                    // Where the window has no such row, any pixel is loaded and not used.
                    const bool inside = i < rows[r].count;
                    const int32_t row = inside ? rows[r].first + i * rows[r].step : 0;
                    const Vector<T, kCount> v =
                        load_vector<kCount>(x + row * p.x.stride_h + j * column.step * p.x.stride_w);
#pragma unroll
                    for (int k = 0; k < kCount; ++k) {
                        const float value = inside ? to_float(v.at[k]) : Pooled<kMax>::nothing();
                        pooled[r][k] = Pooled<kMax>::with(pooled[r][k], value);
                    }
                }
            }
        }
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
            Vector<T, kCount> y;
#pragma unroll
            for (int k = 0; k < kCount; ++k)
                y.at[k] = from_float<T>(Pooled<kMax>::result(p, pooled[r][k], rows[r], column));
            if (h + r < p.h_out) store_vector<kCount>(image<T>(p.y, n) + element(p.y, channel, h + r, w), y);
        }
    }
}

template <typename T, bool kWide> WC_DEVICE void pool_windows(const PoolParams& p) {
    if (p.max)
        pool_windows_of<T, kWide, true>(p);
    else
        pool_windows_of<T, kWide, false>(p);
}

template <typename T, bool kWide, bool kMax> WC_DEVICE void pool_blocks_of(const PoolParams& p) {
    constexpr int kCount = WindowTile<T, kWide>::kCount, kThreads = POOL_BLOCK_THREADS;
    float* const partial = (float*)shared_memory(); // [kCount][kThreads]
    const int32_t lanes = 1 << p.lanes, slots = kThreads >> p.lanes, thread = (int32_t)threadIdx.x;
    const bool channels_inner = kWide || p.channels_inner;
    const int32_t lane = channels_inner ? thread % lanes : thread / slots;
    const int32_t slot = channels_inner ? thread / lanes : thread % slots, place = slot * lanes + lane;
    const int32_t chunks = p.c / kCount, groups = (chunks + lanes - 1) / lanes;
    const int32_t chunk = (int32_t)blockIdx.x % groups * lanes + lane, pixel = (int32_t)blockIdx.x / groups;
    const int32_t h = pixel / p.w_out, w = pixel % p.w_out, channel = chunk * kCount;
    const Span row = row_span(p, h), column = column_span(p, w);
    const int32_t pixels = chunk < chunks ? row.count * column.count : 0;
    for (int32_t n = blockIdx.y; n < p.n; n += gridDim.y) {
        const T* const x = image<const T>(p.x, n) + element(p.x, channel, row.first, column.first);
        float pooled[kCount];
#pragma unroll
        for (int k = 0; k < kCount; ++k) pooled[k] = Pooled<kMax>::nothing();
#pragma unroll 4
        for (int32_t q = slot; q < pixels; q += slots) {
            const int32_t i = q / column.count * row.step, j = q % column.count * column.step;
            const Vector<T, kCount> v = load_vector<kCount>(x + i * p.x.stride_h + j * p.x.stride_w);
#pragma unroll
            for (int k = 0; k < kCount; ++k) pooled[k] = Pooled<kMax>::with(pooled[k], to_float(v.at[k]));
        }
#pragma unroll 1
        for (int32_t active = slots / 2; active > 0; active /= 2) {
            if (slot >= active && slot < 2 * active)
#pragma unroll
                for (int k = 0; k < kCount; ++k) partial[k * kThreads + place] = pooled[k];
            __syncthreads();
            if (slot < active)
#pragma unroll
                for (int k = 0; k < kCount; ++k)
                    pooled[k] = Pooled<kMax>::with(pooled[k], partial[k * kThreads + place + active * lanes]);
        }
        if (slot == 0 && chunk < chunks)
#pragma unroll
            for (int k = 0; k < kCount; ++k)
                image<T>(p.y, n)[element(p.y, channel + k, h, w)] =
                    from_float<T>(Pooled<kMax>::result(p, pooled[k], row, column));
        __syncthreads();
    }
}

template <typename T, bool kWide> WC_DEVICE void pool_blocks(const PoolParams& p) {
    if (p.max)
        pool_blocks_of<T, kWide, true>(p);
    else
        pool_blocks_of<T, kWide, false>(p);
}
