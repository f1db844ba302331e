// Bilinear samples at learned positions, and the gathers that put them into the A tile of an implicit GEMM.
//
// A tap reads the input at its place in the kernel plus an offset (dy, dx) that is its own at each output pixel and in each
// offset group. Position and weights belong to (pixel, tap, offset group); all channels of the group are read with them. Along
// k, (tap, channel), the channels of one tap and one offset group are a *segment*.
#pragma once
#include "mainloop.cuh"

// What one position reads: four neighbours from `offset` on (in elements from the image's first), and how much of each. A
// neighbour of weight 0 is not read: it may lie outside the image, or hold an infinity.
struct Sample {
    Vector<float, 4> weights; // (y, x), (y, x + 1), (y + 1, x), (y + 1, x + 1)
    uint32_t offset;
    float mask;
};
WC_DEVICE int32_t corner_offset(const Tensor4& x, int corner) { return (corner & 1) * x.stride_w + (corner >> 1) * x.stride_h; }

// One axis of a position: the first pixel inside the image that it sees, the weight of that and of the next.
struct AxisSample {
    int32_t first;
    float near, far;
};
// Compared as floats before they become integers: huge, infinite and NaN positions see nothing. Nor does any position of an image
// without pixels.
WC_DEVICE AxisSample axis_sample(float at, int32_t size) {
    if (!(at > -1.0f && at < (float)size) || size == 0) return {0, 0.0f, 0.0f};
    const float low = floorf(at), far = at - low;
    const int32_t first = (int32_t)low;
    if (first < 0) return {0, far, 0.0f};
    return {first, 1.0f - far, first + 1 < size ? far : 0.0f};
}

// An element of the offsets or the mask, which are of the layer's type or in f32.
template <typename T> WC_DEVICE float field_at(const Tensor4& t, int32_t in_f32, Pixel at, int32_t channel) {
    const int32_t index = element(t, channel, at.h, at.w);
    return in_f32 ? image<const float>(t, at.n)[index] : to_float(image<const T>(t, at.n)[index]);
}

template <typename T> WC_DEVICE Sample sample_of(const DeformConvParams& p, Pixel at, int32_t offset_group, int32_t tap) {
    const ConvGeometryParams& g = p.conv.geometry;
    const int32_t i = tap / g.kernel_w, j = tap % g.kernel_w, channel = offset_group * g.kernel_h * g.kernel_w + tap;
    const float y = (float)(at.h * g.stride_h - g.pad_top + i * g.dilation_h) + field_at<T>(p.offset, p.offset_in_f32, at, 2 * channel);
    const float x = (float)(at.w * g.stride_w - g.pad_left + j * g.dilation_w) + field_at<T>(p.offset, p.offset_in_f32, at, 2 * channel + 1);
    const AxisSample rows = axis_sample(y, g.h), columns = axis_sample(x, g.w);
    return {{{rows.near * columns.near, rows.near * columns.far, rows.far * columns.near, rows.far * columns.far}},
            (uint32_t)(rows.first * p.conv.x.stride_h + columns.first * p.conv.x.stride_w),
            p.mask.address ? field_at<T>(p.mask, p.mask_in_f32, at, channel) : 1.0f};
}

// mask * sample of the channel that `from` points to, as a product takes it: rounded once.
template <typename T> WC_DEVICE T sampled(const Tensor4& x, const Sample& s, const T* from) {
    float sum = 0.0f;
#pragma unroll
    for (int corner = 0; corner < 4; ++corner)
        if (s.weights.at[corner] != 0.0f) sum = fmaf(s.weights.at[corner], to_float(from[corner_offset(x, corner)]), sum);
    return from_float<T>(sum * s.mask);
}

// What the deformable gathers have in common: a table in shared memory, behind the pipeline's stages, of the samples of all the
// tile's pixels for some segments in a row. It is filled by all threads, as often as a step goes beyond it.
template <typename T, typename Tile> struct DeformableBase : GatherBase<T, Tile> {
    using Base = GatherBase<T, Tile>;
    static constexpr int kSegments = Tile::kM == 64 ? 12 : 9; // src/kernels/deform_conv.rs has the same
    static_assert(Tile::kThreads % Tile::kM == 0, "a thread fills the table for one pixel");
    const DeformConvParams& deform;
    int32_t group_channels, first_group, tap_segments; // of an offset group, of the block, of a tap
    int32_t k, end, ready;                              // of the next step, of all, covered by the table
    int32_t first_segment;                              // in the table

    WC_DEVICE DeformableBase(const DeformConvParams& params, const Steps& steps, int32_t tile_row, int32_t total_rows, int32_t group, bool along_rows)
        : Base(params.conv, steps, tile_row, total_rows, group, along_rows), deform(params), k(0), ready(0), first_segment(0) {
        const ConvGeometryParams& g = params.conv.geometry;
        group_channels = g.c_in / params.offset_groups;
        first_group = this->first_channel / group_channels;
        tap_segments = (this->first_channel + this->channels - 1) / group_channels - first_group + 1;
        end = g.kernel_h * g.kernel_w * this->channels;
    }
    static WC_DEVICE Vector<float, 4>* weights() { return (Vector<float, 4>*)(shared_memory() + kStages * Tile::kStageBytes); }
    static WC_DEVICE Vector<float, 2>* places() { return (Vector<float, 2>*)(weights() + kSegments * Tile::kM); } // offset's bits, mask
    static WC_DEVICE Sample read(int32_t entry) {
        const Vector<float, 2> place = load_vector<2>((const float*)(places() + entry));
        return {load_vector<4>((const float*)(weights() + entry)), float_bits(place.at[0]), place.at[1]};
    }

    WC_DEVICE int32_t segment_of(int32_t tap, int32_t channel) const {
        return tap * tap_segments + (this->first_channel + channel) / group_channels - first_group;
    }
    // The table's entry for the tile's row 0.
    WC_DEVICE int32_t entry_of(const TapWalk& at) const {
        return (segment_of(at.i * this->p.geometry.kernel_w + at.j, at.channel) - first_segment) * Tile::kM;
    }
    // All threads, before they fetch a step.
    WC_DEVICE void look_up() {
        if (k + Base::kK > ready && ready < end) {
            __syncthreads(); // all have done with what is there
            first_segment = segment_of(k / this->channels, k % this->channels);
            const ConvGeometryParams& g = this->p.geometry;
            const int32_t row = (int32_t)threadIdx.x % Tile::kM, taps = g.kernel_h * g.kernel_w;
            const bool exists = this->first_row + row < this->rows;
            const Pixel at = exists ? output_pixel(g, this->first_row + row) : Pixel{0, 0, 0};
            for (int32_t index = (int32_t)threadIdx.x / Tile::kM; index < kSegments; index += Tile::kThreads / Tile::kM) {
                const int32_t segment = first_segment + index, tap = segment / tap_segments;
                if (tap >= taps) break;
                Sample s{{{0.0f, 0.0f, 0.0f, 0.0f}}, 0, 1.0f};
                if (exists) s = sample_of<T>(deform, at, first_group + segment % tap_segments, tap);
                store_vector<4>((float*)(weights() + index * Tile::kM + row), s.weights);
                store_vector<2>((float*)(places() + index * Tile::kM + row), Vector<float, 2>{{bits_float(s.offset), s.mask}});
            }
            const int32_t next = first_segment + kSegments, within = next % tap_segments;
            ready = next / tap_segments * this->channels + (within == 0 ? 0 : (first_group + within) * group_channels - this->first_channel);
            __syncthreads();
        }
        k += Base::kK;
    }
};

// Runs of channels in loads of 16 bytes: channels_last, addresses and strides multiples of 16 bytes, and so are the channels of a
// group and of an offset group. The loads of a stage are under way while another is multiplied.
template <typename T, typename Tile> struct DeformableVectors : DeformableBase<T, Tile> {
    using Base = GatherBase<T, Tile>;
    uint64_t images[Base::kRows];
    Vector<T, Base::kChunk> corners[Base::kRows][4];
    int32_t entry; // below 0 beyond the last tap

    WC_DEVICE DeformableVectors(const DeformConvParams& params, const Steps& steps, int32_t tile_row, int32_t total_rows, int32_t group)
        : DeformableBase<T, Tile>(params, steps, tile_row, total_rows, group, false), entry(-1) {
#pragma unroll
        for (int r = 0; r < Base::kRows; ++r) {
            const int32_t row = this->first_row + this->row + r * Base::kStride;
            images[r] = (uint64_t)(image<const T>(this->p.x, row < this->rows ? row / (this->p.geometry.h_out * this->p.geometry.w_out) : 0) + this->first_channel);
        }
    }
    WC_DEVICE void fetch(unsigned char*) {
        this->look_up();
        const TapWalk& at = this->walk;
        entry = at.i < this->p.geometry.kernel_h ? this->entry_of(at) + this->row : -1;
        if (entry >= 0) {
#pragma unroll
            for (int r = 0; r < Base::kRows; ++r) {
                const Sample s = this->read(entry + r * Base::kStride);
                const T* from = (const T*)images[r] + s.offset + at.channel;
#pragma unroll
                for (int corner = 0; corner < 4; ++corner) {
                    corners[r][corner] = Vector<T, Base::kChunk>{};
                    if (s.weights.at[corner] != 0.0f) corners[r][corner] = load_vector<Base::kChunk>(from + corner_offset(this->p.x, corner));
                }
            }
        }
        this->walk.advance(this->steps, this->channels, Base::kK);
    }
    WC_DEVICE void deposit(unsigned char* to) {
#pragma unroll
        for (int r = 0; r < Base::kRows; ++r) {
            Vector<T, Base::kChunk> values{};
            if (entry >= 0) {
                const Sample s = this->read(entry + r * Base::kStride);
#pragma unroll
                for (int e = 0; e < Base::kChunk; ++e) {
                    float sum = 0.0f;
#pragma unroll
                    for (int corner = 0; corner < 4; ++corner) sum = fmaf(s.weights.at[corner], to_float(corners[r][corner].at[e]), sum);
                    values.at[e] = from_float<T>(sum * s.mask);
                }
            }
            store_vector<Base::kChunk>((T*)(to + chunk_at(this->row + r * Base::kStride, this->chunk)), values);
        }
    }
};

// Element by element, for any strides and any numbers of channels. kAlongRows: neighbouring threads take neighbouring pixels
// (contiguous), whose positions are mostly neighbours too, else neighbouring channels (channels_last).
template <typename T, typename Tile, bool kAlongRows> struct DeformableElements : DeformableBase<T, Tile> {
    using Base = GatherBase<T, Tile>;
    uint64_t images[Base::kRows];
    Vector<T, Base::kChunk> values[Base::kRows];

    WC_DEVICE DeformableElements(const DeformConvParams& params, const Steps& steps, int32_t tile_row, int32_t total_rows, int32_t group)
        : DeformableBase<T, Tile>(params, steps, tile_row, total_rows, group, kAlongRows) {
#pragma unroll
        for (int r = 0; r < Base::kRows; ++r) {
            const int32_t row = this->first_row + this->row + r * Base::kStride;
            const int32_t n = row < this->rows ? row / (this->p.geometry.h_out * this->p.geometry.w_out) : 0;
            images[r] = (uint64_t)(image<const T>(this->p.x, n) + (int64_t)this->first_channel * this->p.x.stride_c);
        }
    }
    WC_DEVICE void fetch(unsigned char*) {
        this->look_up();
        TapWalk at = this->walk;
        Sample s[Base::kRows];
        int32_t entry = -1;
#pragma unroll
        for (int e = 0; e < Base::kChunk; ++e) {
            const bool exists = at.i < this->p.geometry.kernel_h;
            if (exists) {
                const int32_t of = this->entry_of(at) + this->row;
                if (of != entry) {
                    entry = of;
#pragma unroll
                    for (int r = 0; r < Base::kRows; ++r) s[r] = this->read(of + r * Base::kStride);
                }
            }
#pragma unroll
            for (int r = 0; r < Base::kRows; ++r)
                values[r].at[e] = exists ? sampled<T>(this->p.x, s[r], (const T*)images[r] + s[r].offset + at.channel * this->p.x.stride_c) : T{};
            at.advance(this->steps, this->channels, 1);
        }
        this->walk.advance(this->steps, this->channels, Base::kK);
    }
    WC_DEVICE void deposit(unsigned char* to) { this->deposit_chunks(to, values); }
};
