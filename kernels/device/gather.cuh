// Gathers bring the A tile of an implicit GEMM from the input into shared memory. Row m of A is output pixel m of the
// batch, and k runs over (tap, channel of the group).
//
// The mainloop (mainloop.cuh) asks a gather for one stage after the other: `fetch(to)` starts a stage, `deposit(to)`
// completes what `fetch` did not copy asynchronously. Padding, rows beyond the last pixel and k beyond the last tap are
// filled with zeros, so that an infinity never meets a padded zero.
#pragma once
#include "async_copy.cuh"
#include "gemm_tile.cuh"

// How the elements of A are loaded:
//   kVectors    16 bytes of channels at a time (GatherVectors)
//   kMatrix     the same where x itself is the matrix A (GatherMatrix)
//   kChannels   element by element, neighbouring threads on neighbouring channels (GatherElements)
//   kPixels     element by element, neighbouring threads on neighbouring pixels (GatherElements)
//   kPlanes     16 or 8 bytes of neighbouring pixels at a time (GatherPlanes)
enum class GatherKind { kVectors, kMatrix, kChannels, kPixels, kPlanes };

// An output pixel: its image, row and column. Pixels of a batch are numbered image by image and row by row.
struct Pixel {
    int32_t n, h, w;
};
WC_DEVICE Pixel output_pixel(const ConvGeometryParams& g, int32_t m) {
    const int32_t plane = g.h_out * g.w_out, in_plane = m % plane;
    return {m / plane, in_plane / g.w_out, in_plane % g.w_out};
}

struct Range {
    int32_t begin, end;
};
// The taps of one axis that reach the input, [0, size), from at least one of the positions first..last. All other taps
// see padding only.
WC_DEVICE Range live_taps(int32_t first, int32_t last, int32_t size, int32_t dilation, int32_t kernel) {
    const int64_t begin = last >= 0 ? 0 : ((int64_t)-last - 1) / dilation + 1;
    const int64_t end = first >= size ? 0 : ((int64_t)size - 1 - first) / dilation + 1;
    const int32_t from = (int32_t)(begin < kernel ? begin : kernel), to = (int32_t)(end < kernel ? end : kernel);
    return {from, to > from ? to : from};
}

// The steps along k that a tile takes; a step fills one row of a stage. Where no step holds two taps, the taps that lie
// in the padding for the whole tile are left out: `count` steps remain, in runs of `run` steps with `gap` steps between
// them.
struct Steps {
    Range rows, columns; // taps
    int32_t count, first, run, gap;
    int32_t skip = 0; // steps that another block takes before the first one
};
template <typename T> WC_DEVICE Steps tile_steps(const ConvGeometryParams& g, int32_t first_row, int32_t last_row) {
    constexpr int kK = kRowBytes / sizeof(T);
    const int32_t channels = g.c_in / g.groups, per_tap = channels / kK;
    if (channels % kK != 0) {
        const int32_t count = (g.kernel_h * g.kernel_w * channels + kK - 1) / kK;
        return {{0, g.kernel_h}, {0, g.kernel_w}, count, 0, count, 0};
    }
    const Pixel first = output_pixel(g, first_row), last = output_pixel(g, last_row);
    const bool one_image = first.n == last.n, one_line = one_image && first.h == last.h;
    const int32_t top = one_image ? first.h : 0, bottom = one_image ? last.h : g.h_out - 1;
    const int32_t left = one_line ? first.w : 0, right = one_line ? last.w : g.w_out - 1;
    const Range rows =
        live_taps(top * g.stride_h - g.pad_top, bottom * g.stride_h - g.pad_top, g.h, g.dilation_h, g.kernel_h);
    const Range columns =
        live_taps(left * g.stride_w - g.pad_left, right * g.stride_w - g.pad_left, g.w, g.dilation_w, g.kernel_w);
    const int32_t run = (columns.end - columns.begin) * per_tap;
    return {rows,
            columns,
            (rows.end - rows.begin) * run,
            (rows.begin * g.kernel_w + columns.begin) * per_tap,
            run,
            g.kernel_w * per_tap - run};
}

// A thread's position along k: tap (i, j) and channel.
struct TapWalk {
    int32_t i, j, channel;
    WC_DEVICE void advance(const Steps& steps, int32_t channels, int32_t count) {
        channel += count;
        while (channel >= channels) {
            channel -= channels;
            if (++j == steps.columns.end) {
                j = steps.columns.begin;
                ++i;
            }
        }
    }
};

// What an output pixel sees of the input, from its first tap on. A window may begin outside the image; its offset is
// therefore modulo 2^32, and the sum of it and a tap's distance is right for every tap that lies inside the image.
struct Window {
    uint64_t image;
    uint32_t offset;
    int32_t top, left;
};
// The window of a row of A. `rows` is the number of pixels of the batch: no tap of a row beyond them lies inside the
// image.
template <typename T> WC_DEVICE Window window_of(const ConvParams& p, int32_t row, int32_t rows, int32_t channel) {
    const ConvGeometryParams& g = p.geometry;
    if (row >= rows) return {p.x.address, 0, INT32_MIN, INT32_MIN};
    const Pixel pixel = output_pixel(g, row);
    const int32_t top = pixel.h * g.stride_h - g.pad_top, left = pixel.w * g.stride_w - g.pad_left;
    const uint32_t offset = (uint32_t)top * (uint32_t)p.x.stride_h + (uint32_t)left * (uint32_t)p.x.stride_w +
                            (uint32_t)channel * (uint32_t)p.x.stride_c;
    return {(uint64_t)image<const T>(p.x, pixel.n), offset, top, left};
}
WC_DEVICE bool inside(int32_t start, int32_t distance, int32_t size) {
    return (uint32_t)start + (uint32_t)distance < (uint32_t)size;
}
WC_DEVICE uint32_t tap_offset(const ConvParams& p, int32_t i, int32_t j) {
    const uint32_t h = (uint32_t)i * (uint32_t)p.geometry.dilation_h, w = (uint32_t)j * (uint32_t)p.geometry.dilation_w;
    return h * (uint32_t)p.x.stride_h + w * (uint32_t)p.x.stride_w;
}
template <typename T> WC_DEVICE const T* in_image(uint64_t image, uint32_t offset) { return (const T*)image + offset; }

// The common part of the gathers. A thread owns one column of chunks; its rows are kStride apart.
template <typename T, typename Tile> struct GatherBase {
    static constexpr int kChunk = kChunkBytes / sizeof(T), kK = kRowBytes / sizeof(T);
    static constexpr bool kAsynchronous = false; // whether `fetch` alone brings a stage, without `deposit`
    static constexpr int kStride = Tile::kThreads / kRowChunks, kRows = Tile::kM / kStride;
    using Rows = RowsOfK; // the layout of A in a stage
    const ConvParams& p;
    const Steps& steps;
    int32_t channels, first_row, rows, first_channel;
    int32_t row, chunk;
    TapWalk walk;

    // Neighbouring threads have neighbouring chunks or, with along_rows, neighbouring rows.
    WC_DEVICE GatherBase(const ConvParams& params, const Steps& tile_steps, int32_t tile_row, int32_t total_rows,
                         int32_t group, bool along_rows)
        : p(params), steps(tile_steps), channels(params.geometry.c_in / params.geometry.groups), first_row(tile_row),
          rows(total_rows), first_channel(group * channels), walk{tile_steps.rows.begin, tile_steps.columns.begin, 0} {
        row = along_rows ? warp_index() / kRowChunks * 32 + lane_index() : (int32_t)threadIdx.x / kRowChunks;
        chunk = along_rows ? warp_index() % kRowChunks : (int32_t)threadIdx.x % kRowChunks;
        walk.advance(steps, channels, steps.skip * kK + chunk * kChunk);
    }
    // Stores the thread's chunk of each of its rows.
    WC_DEVICE void deposit_chunks(unsigned char* to, const Vector<T, kChunk> (&values)[kRows]) const {
#pragma unroll
        for (int r = 0; r < kRows; ++r) store_vector<kChunk>((T*)(to + chunk_at(row + r * kStride, chunk)), values[r]);
    }
};

// Gathers runs of channels in copies of 16 bytes. x is channels_last, its address and strides are multiples of 16
// bytes, and so are the channels of a group. A bit mask says which of 32 taps lie inside the image for a row.
template <typename T, typename Tile> struct GatherVectors : GatherBase<T, Tile> {
    using Base = GatherBase<T, Tile>;
    static constexpr bool kAsynchronous = true;
    uint64_t image[Base::kRows];
    uint32_t offset[Base::kRows], mask[Base::kRows];
    int32_t first_tap; // of the masks; below 0 before the first step

    WC_DEVICE GatherVectors(const ConvParams& params, const Steps& tile_steps, int32_t tile_row, int32_t total_rows,
                            int32_t group)
        : Base(params, tile_steps, tile_row, total_rows, group, false), first_tap(-1) {
#pragma unroll
        for (int r = 0; r < Base::kRows; ++r) {
            const Window window =
                window_of<T>(this->p, this->first_row + this->row + r * Base::kStride, this->rows, this->first_channel);
            image[r] = window.image;
            offset[r] = window.offset;
        }
    }
    // Sets the masks for the 32 taps of which `tap` is one.
    WC_DEVICE void set_masks(int32_t tap) {
        const ConvGeometryParams& g = this->p.geometry;
        first_tap = tap & ~31;
#pragma unroll
        for (int r = 0; r < Base::kRows; ++r) {
            const Window window =
                window_of<T>(this->p, this->first_row + this->row + r * Base::kStride, this->rows, this->first_channel);
            uint32_t bits = 0;
            int32_t i = first_tap / g.kernel_w, j = first_tap % g.kernel_w;
            for (int bit = 0; bit < 32 && i < g.kernel_h; ++bit) {
                if (inside(window.top, i * g.dilation_h, g.h) && inside(window.left, j * g.dilation_w, g.w))
                    bits |= 1u << bit;
                if (++j == g.kernel_w) {
                    j = 0;
                    ++i;
                }
            }
            mask[r] = bits;
        }
    }
    WC_DEVICE void fetch(unsigned char* to) {
        const TapWalk& at = this->walk;
        const int32_t tap = at.i * this->p.geometry.kernel_w + at.j;
        if ((tap ^ first_tap) >> 5) set_masks(tap);
        const uint32_t distance = tap_offset(this->p, at.i, at.j) + (uint32_t)at.channel;
#pragma unroll
        for (int r = 0; r < Base::kRows; ++r) {
            const bool valid = mask[r] >> (tap & 31) & 1;
            copy_async<kChunkBytes>(to + chunk_at(this->row + r * Base::kStride, this->chunk),
                                    in_image<T>(image[r], valid ? offset[r] + distance : 0), valid);
        }
        this->walk.advance(this->steps, this->channels, Base::kK);
    }
    WC_DEVICE void deposit(unsigned char*) {}
};

// Gathers runs of channels where an output pixel sees one input pixel, its own: 1x1 with stride 1 and without padding;
// x is as for GatherVectors. Such an x is already the matrix A, one row a pixel, and the next step lies 64 bytes
// further: there are no taps, masks or offsets.
template <typename T, typename Tile> struct GatherMatrix {
    static constexpr int kChunk = kChunkBytes / sizeof(T), kK = kRowBytes / sizeof(T);
    static constexpr int kStride = Tile::kThreads / kRowChunks, kRows = Tile::kM / kStride;
    static constexpr bool kAsynchronous = true;
    using Rows = RowsOfK;
    const ConvParams& p;
    const T* from;          // the thread's chunk of its first row
    int32_t rows, channels; // rows and channels that exist from there on

    WC_DEVICE GatherMatrix(const ConvParams& params, const Steps& steps, int32_t tile_row, int32_t total_rows,
                           int32_t group)
        : p(params) {
        const int32_t row = tile_row + (int32_t)threadIdx.x / kRowChunks,
                      channel = steps.skip * kK + (int32_t)threadIdx.x % kRowChunks * kChunk;
        const int32_t group_channels = p.geometry.c_in / p.geometry.groups;
        rows = total_rows - row;
        channels = group_channels - channel;
        from = (const T*)p.x.address + (int64_t)row * p.x.stride_w + group * group_channels + channel;
    }
    WC_DEVICE void fetch(unsigned char* to) {
        const int32_t row = (int32_t)threadIdx.x / kRowChunks, chunk = (int32_t)threadIdx.x % kRowChunks;
#pragma unroll
        for (int r = 0; r < kRows; ++r)
            copy_async<kChunkBytes>(to + chunk_at(row + r * kStride, chunk),
                                    from + (int64_t)p.x.stride_w * (r * kStride), r * kStride < rows && channels > 0);
        from += kK;
        channels -= kK;
    }
    WC_DEVICE void deposit(unsigned char*) {}
};

// Gathers runs of pixels of one channel in copies of 16 bytes, or of 8 where the size of a plane is no multiple of 16.
// x is contiguous, and the filter is 1x1 with stride 1 and without padding, so that a plane of x is a row of k as it
// lies. The address and the strides of channels and images are multiples of a copy, which then lies within one image. A
// thread copies the same pixels of several channels.
template <typename T, typename Tile> struct GatherPlanes {
    using Rows = PixelsOfK<Tile::kM>;
    static constexpr bool kAsynchronous = true;
    static constexpr int kPixels = Rows::kPixels, kK = kRowBytes / sizeof(T);
    static_assert(sizeof(T) == 2, "ldmatrix transposes elements of 16 bits");
    const T* from;          // in the thread's next channel
    int32_t left, stride_c; // left: channels of the group from that one on; 0 for pixels that do not exist
    bool whole;

    WC_DEVICE GatherPlanes(const ConvParams& p, const Steps& steps, int32_t tile_row, int32_t rows, int32_t group)
        : stride_c(p.x.stride_c) {
        const ConvGeometryParams& g = p.geometry;
        const int32_t plane = g.h * g.w, channels = g.c_in / g.groups;
        whole = plane % kPixels == 0;
        const int32_t width = whole ? kPixels : kPixels / 2, lanes = Tile::kM / width;
        const int32_t channel = steps.skip * kK + (int32_t)threadIdx.x / lanes,
                      pixel = tile_row + (int32_t)threadIdx.x % lanes * width;
        left = pixel < rows ? channels - channel : 0;
        from = image<const T>(p.x, pixel < rows ? pixel / plane : 0) +
               (int64_t)(group * channels + channel) * stride_c + (pixel < rows ? pixel % plane : 0);
    }
    template <int kWidth> WC_DEVICE void copy(unsigned char* to) const {
        constexpr int kLanes = Tile::kM / kWidth, kStride = Tile::kThreads / kLanes;
        static_assert(kK % kStride == 0, "every thread copies as many runs");
        const int32_t channel = (int32_t)threadIdx.x / kLanes, pixel = (int32_t)threadIdx.x % kLanes * kWidth;
#pragma unroll
        for (int r = 0; r < kK / kStride; ++r)
            copy_async<kWidth * sizeof(T)>(to + Rows::place(channel + r * kStride, pixel / kPixels) +
                                               pixel % kPixels * sizeof(T),
                                           from + (int64_t)(r * kStride) * stride_c, r * kStride < left);
    }
    WC_DEVICE void fetch(unsigned char* to) {
        if (whole)
            copy<kPixels>(to);
        else
            copy<kPixels / 2>(to);
        from += (int64_t)kK * stride_c;
        left -= kK;
    }
    WC_DEVICE void deposit(unsigned char*) {}
};

// Gathers element by element, for any strides and any number of channels; k has no gaps even where a tap has 3
// channels. The loads of one stage are under way while another is multiplied. With kAlongRows neighbouring threads take
// neighbouring pixels (contiguous x), otherwise neighbouring channels (channels_last x).
template <typename T, typename Tile, bool kAlongRows> struct GatherElements : GatherBase<T, Tile> {
    using Base = GatherBase<T, Tile>;
    Window window[Base::kRows];
    Vector<T, Base::kChunk> values[Base::kRows];

    WC_DEVICE GatherElements(const ConvParams& params, const Steps& tile_steps, int32_t tile_row, int32_t total_rows,
                             int32_t group)
        : Base(params, tile_steps, tile_row, total_rows, group, kAlongRows) {
#pragma unroll
        for (int r = 0; r < Base::kRows; ++r)
            window[r] =
                window_of<T>(this->p, this->first_row + this->row + r * Base::kStride, this->rows, this->first_channel);
    }
    WC_DEVICE void fetch(unsigned char*) {
        const ConvGeometryParams& g = this->p.geometry;
        TapWalk at = this->walk;
#pragma unroll
        for (int e = 0; e < Base::kChunk; ++e) {
            const uint32_t distance =
                tap_offset(this->p, at.i, at.j) + (uint32_t)at.channel * (uint32_t)this->p.x.stride_c;
#pragma unroll
            for (int r = 0; r < Base::kRows; ++r) {
                const bool valid = at.i < g.kernel_h && inside(window[r].top, at.i * g.dilation_h, g.h) &&
                                   inside(window[r].left, at.j * g.dilation_w, g.w);
                values[r].at[e] = valid ? *in_image<T>(window[r].image, window[r].offset + distance) : T{};
            }
            at.advance(this->steps, this->channels, 1);
        }
        this->walk.advance(this->steps, this->channels, Base::kK);
    }
    WC_DEVICE void deposit(unsigned char* to) { this->deposit_chunks(to, values); }
};
