// Bilinear samples at learned positions, and the gathers that put them into the A tile of an implicit GEMM.
//
// A tap reads the input at its regular place plus an offset (dy, dx). Each output pixel and each offset group has an
// offset of its own for every tap, and with it a position and four weights that all channels of the group share. k runs
// over (tap, channel); the channels of one tap and one offset group are a *segment* of it.
#pragma once
#include "mainloop.cuh"

// A position as it is read: four neighbouring pixels from `offset` on, in elements from the first one of the image, and
// the weight of each. A neighbour of weight 0 is not read, since it may lie outside the image or hold an infinity.
struct Sample {
    Vector<float, 4> weights; // (y, x), (y, x + 1), (y + 1, x), (y + 1, x + 1)
    uint32_t offset;
    float mask;
};
WC_DEVICE int32_t corner_offset(const Tensor4& x, int corner) {
    return (corner & 1) * x.stride_w + (corner >> 1) * x.stride_h;
}

// One axis of a position: the first pixel inside the image that the position sees, and the weights of it and of the
// next.
struct AxisSample {
    int32_t first;
    float near, far;
};
// Positions are compared as floats before they become integers, so that huge, infinite and NaN ones see nothing. In an
// image without pixels no position sees anything.
WC_DEVICE AxisSample axis_sample(float at, int32_t size) {
    if (!(at > -1.0f && at < (float)size) || size == 0) return {0, 0.0f, 0.0f};
    const float low = floorf(at), far = at - low;
    const int32_t first = (int32_t)low;
    if (first < 0) return {0, far, 0.0f};
    return {first, 1.0f - far, first + 1 < size ? far : 0.0f};
}

template <typename T>
WC_DEVICE Sample sample_of(const DeformConvParams& p, Pixel at, int32_t offset_group, int32_t tap) {
    const ConvGeometryParams& g = p.conv.geometry;
    const int32_t i = tap / g.kernel_w, j = tap % g.kernel_w, channel = offset_group * g.kernel_h * g.kernel_w + tap;
    const float y = (float)(at.h * g.stride_h - g.pad_top + i * g.dilation_h) +
                    offset_or_mask<T>(p.offset, p.offset_in_f32, at.n, 2 * channel, at.h, at.w);
    const float x = (float)(at.w * g.stride_w - g.pad_left + j * g.dilation_w) +
                    offset_or_mask<T>(p.offset, p.offset_in_f32, at.n, 2 * channel + 1, at.h, at.w);
    const AxisSample rows = axis_sample(y, g.h), columns = axis_sample(x, g.w);
    return {{{rows.near * columns.near, rows.near * columns.far, rows.far * columns.near, rows.far * columns.far}},
            (uint32_t)(rows.first * p.conv.x.stride_h + columns.first * p.conv.x.stride_w),
            p.mask.address ? offset_or_mask<T>(p.mask, p.mask_in_f32, at.n, channel, at.h, at.w) : 1.0f};
}

// The operand of a product: mask * sample of the channel that `from` points to, rounded once.
template <typename T> WC_DEVICE T sampled(const Tensor4& x, const Sample& s, const T* from) {
    float sum = 0.0f;
#pragma unroll
    for (int corner = 0; corner < 4; ++corner)
        if (s.weights.at[corner] != 0.0f)
            sum = fmaf(s.weights.at[corner], to_float(from[corner_offset(x, corner)]), sum);
    return from_float<T>(sum * s.mask);
}

// The common part of the deformable gathers: a table in shared memory, behind the stages of the pipeline, with the
// samples of all pixels of the tile for some consecutive segments. All threads fill it anew when a step needs a segment
// beyond it.
template <typename T, typename Tile> struct DeformableBase : GatherBase<T, Tile> {
    using Base = GatherBase<T, Tile>;
    static constexpr int kSegments = Tile::kM == 64 ? DEFORM_SEGMENTS_OF_64 : DEFORM_SEGMENTS;
    static_assert(sizeof(Vector<float, 4>) + sizeof(Vector<float, 2>) == DEFORM_SAMPLE_BYTES,
                  "the host counts the table's bytes");
    static_assert(Tile::kThreads % Tile::kM == 0, "a thread fills the table for one pixel");
    const DeformConvParams& deform;
    int32_t group_channels, first_group,
        tap_segments;      // channels of an offset group; the block's first offset group; segments of a tap
    int32_t k, end, ready; // k of the next step, of the end, and up to which the table reaches
    int32_t first_segment; // of the table

    WC_DEVICE DeformableBase(const DeformConvParams& params, const Steps& steps, int32_t tile_row, int32_t total_rows,
                             int32_t group, bool along_rows)
        : Base(params.conv, steps, tile_row, total_rows, group, along_rows), deform(params), k(0), ready(0),
          first_segment(0) {
        const ConvGeometryParams& g = params.conv.geometry;
        group_channels = g.c_in / params.offset_groups;
        first_group = this->first_channel / group_channels;
        tap_segments = (this->first_channel + this->channels - 1) / group_channels - first_group + 1;
        end = g.kernel_h * g.kernel_w * this->channels;
    }
    static WC_DEVICE Vector<float, 4>* weights() {
        return (Vector<float, 4>*)(shared_memory() + kStages * Tile::kStageBytes);
    }
    static WC_DEVICE Vector<float, 2>* places() {
        return (Vector<float, 2>*)(weights() + kSegments * Tile::kM);
    } // (bits of the offset, mask)
    static WC_DEVICE Sample read(int32_t entry) {
        const Vector<float, 2> place = load_vector<2>((const float*)(places() + entry));
        return {load_vector<4>((const float*)(weights() + entry)), float_bits(place.at[0]), place.at[1]};
    }

    WC_DEVICE int32_t segment_of(int32_t tap, int32_t channel) const {
        return tap * tap_segments + (this->first_channel + channel) / group_channels - first_group;
    }
    // The entry of the table that belongs to row 0 of the tile.
    WC_DEVICE int32_t entry_of(const TapWalk& at) const {
        return (segment_of(at.i * this->p.geometry.kernel_w + at.j, at.channel) - first_segment) * Tile::kM;
    }
    // Makes sure that the table covers the next step. All threads call it before they fetch that step.
    WC_DEVICE void cover_step() {
        if (k + Base::kK > ready && ready < end) {
            __syncthreads(); // every thread is done with the old entries
            first_segment = segment_of(k / this->channels, k % this->channels);
            const ConvGeometryParams& g = this->p.geometry;
            const int32_t row = (int32_t)threadIdx.x % Tile::kM, taps = g.kernel_h * g.kernel_w;
            const bool exists = this->first_row + row < this->rows;
            const Pixel at = exists ? output_pixel(g, this->first_row + row) : Pixel{0, 0, 0};
            for (int32_t index = (int32_t)threadIdx.x / Tile::kM; index < kSegments;
                 index += Tile::kThreads / Tile::kM) {
                const int32_t segment = first_segment + index, tap = segment / tap_segments;
                if (tap >= taps) break;
                Sample s{{{0.0f, 0.0f, 0.0f, 0.0f}}, 0, 1.0f};
                if (exists) s = sample_of<T>(deform, at, first_group + segment % tap_segments, tap);
                store_vector<4>((float*)(weights() + index * Tile::kM + row), s.weights);
                store_vector<2>((float*)(places() + index * Tile::kM + row),
                                Vector<float, 2>{{bits_float(s.offset), s.mask}});
            }
            const int32_t next = first_segment + kSegments, within = next % tap_segments;
            ready = next / tap_segments * this->channels +
                    (within == 0 ? 0 : (first_group + within) * group_channels - this->first_channel);
            __syncthreads();
        }
        k += Base::kK;
    }
};

// Gathers runs of channels in loads of 16 bytes. x is channels_last, its address and strides are multiples of 16 bytes,
// and so are the channels of a group and of an offset group. The loads of one stage are under way while another is
// multiplied.
template <typename T, typename Tile> struct DeformableVectors : DeformableBase<T, Tile> {
    using Base = GatherBase<T, Tile>;
    uint64_t images[Base::kRows];
    Vector<T, Base::kChunk> corners[Base::kRows][4];
    int32_t entry; // in the table; below 0 beyond the last tap

    WC_DEVICE DeformableVectors(const DeformConvParams& params, const Steps& steps, int32_t tile_row,
                                int32_t total_rows, int32_t group)
        : DeformableBase<T, Tile>(params, steps, tile_row, total_rows, group, false), entry(-1) {
#pragma unroll
        for (int r = 0; r < Base::kRows; ++r) {
            const int32_t row = this->first_row + this->row + r * Base::kStride;
            images[r] = (uint64_t)(image<const T>(
                                       this->p.x,
                                       row < this->rows ? row / (this->p.geometry.h_out * this->p.geometry.w_out) : 0) +
                                   this->first_channel);
        }
    }
    WC_DEVICE void fetch(unsigned char*) {
        this->cover_step();
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
                    if (s.weights.at[corner] != 0.0f)
                        corners[r][corner] = load_vector<Base::kChunk>(from + corner_offset(this->p.x, corner));
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
                    for (int corner = 0; corner < 4; ++corner)
                        sum = fmaf(s.weights.at[corner], to_float(corners[r][corner].at[e]), sum);
                    values.at[e] = from_float<T>(sum * s.mask);
                }
            }
            store_vector<Base::kChunk>((T*)(to + chunk_at(this->row + r * Base::kStride, this->chunk)), values);
        }
    }
};

// Gathers element by element, for any strides and any number of channels. With kAlongRows neighbouring threads take
// neighbouring pixels (contiguous x), whose positions are mostly neighbours as well; otherwise neighbouring channels
// (channels_last x).
template <typename T, typename Tile, bool kAlongRows> struct DeformableElements : DeformableBase<T, Tile> {
    using Base = GatherBase<T, Tile>;
    uint64_t images[Base::kRows];
    Vector<T, Base::kChunk> values[Base::kRows];

    WC_DEVICE DeformableElements(const DeformConvParams& params, const Steps& steps, int32_t tile_row,
                                 int32_t total_rows, int32_t group)
        : DeformableBase<T, Tile>(params, steps, tile_row, total_rows, group, kAlongRows) {
#pragma unroll
        for (int r = 0; r < Base::kRows; ++r) {
            const int32_t row = this->first_row + this->row + r * Base::kStride;
            const int32_t n = row < this->rows ? row / (this->p.geometry.h_out * this->p.geometry.w_out) : 0;
            images[r] = (uint64_t)(image<const T>(this->p.x, n) + (int64_t)this->first_channel * this->p.x.stride_c);
        }
    }
    WC_DEVICE void fetch(unsigned char*) {
        this->cover_step();
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
                values[r].at[e] = exists
                                      ? sampled<T>(this->p.x, s[r],
                                                   (const T*)images[r] + s[r].offset + at.channel * this->p.x.stride_c)
                                      : T{};
            at.advance(this->steps, this->channels, 1);
        }
        this->walk.advance(this->steps, this->channels, Base::kK);
    }
    WC_DEVICE void deposit(unsigned char* to) { this->deposit_chunks(to, values); }
};
