// Pooling of regions of interest: every RoI (image, x1, y1, x2, y2) is cut into pooled_h x pooled_w bins, and each bin
// becomes one number for every channel.
//
//   align   y[k, o, i, j] = mask / (gh*gw) * sum over (q, r) of
//                           B(start_h + i*bin_h + (q + .5)*bin_h/gh, the same along the width)
//           start = x1*scale - (aligned ? .5 : 0), size = (x2 - x1)*scale, at least 1 if not aligned;
//           bin = size / pooled;
//           g = sampling_ratio, or ceil(bin) if that is not positive; a grid without samples gives 0;
//           where there are offsets, start moves by gamma * size * offset[k, 2c + (0: x, 1: y), i, j],
//           c = o / group_channels;
//           B is 0 where a coordinate is below -1 or above the image's size; otherwise the coordinate is clamped to
//           [0, size - 1], and B is bilinear
//   max     the largest value of the pixels of the bin, floor(i*bin) + start to ceil((i+1)*bin) + start, clipped to the
//           image; start and end are rounded half away from zero, size = max(end - start + 1, 1). NaN is the largest;
//           a bin without pixels gives 0
//   mean    as max, but the mean, with size = max(end - start, 1), clipped to [0, size - 1]: the last row and the last
//           column are never read (as in torchvision)
//   Channel o reads channel o, or in the position-sensitive forms channel (o * pooled_h + i) * pooled_w + j.
//
// Coordinates are f32, computed in torchvision's order of operations and compared before they become integers. A RoI is
// empty, that is zeros, if its image index is invalid or if a coordinate, after scaling, is not finite or beyond 2^24.
// Of a grid of more than kChunk samples only those inside the image are visited, so that no RoI takes longer than the
// image is large.
//
// Tiling: a lane takes kVector channels, which it reads in one access.
//   roi_pool_channels_last  a warp takes a bin and 32 * kVector channels. Its lanes compute positions and weights once
//           for all channels, a sample each, and keep them in shared memory: 16 rows and columns of the grid at a time.
//           Neighbouring warps take neighbouring bins, whose pixels overlap (L1).
//   roi_pool_planes         a thread takes a bin and kCount channels, which share the positions. Neighbouring threads
//           take neighbouring bins: writes are coalesced, but reads are not, since bins lie apart in the plane.
//
// Bound: bytes through L1 and L2, for align four times the samples (x itself is small and stays in L2). Ladder: (1) 16
// bytes of channels in a load; (2) the table of samples, which the lanes of a warp compute together, instead of every
// position in every lane; (3) samples outside the image are never visited.
#include "device/vector.cuh"
#include "device/warp.cuh"

enum class Pool { kAlign, kMax, kMean };

// ---- Where: RoIs, bins, samples. All of it is f32, in a fixed order, and compared before it becomes an integer.

constexpr float kFarthest = 16777216.0f; // 2^24: beyond it f32 does not tell pixels apart

// A region, in pixels of the image. For max and mean it is rounded to whole pixels.
struct Region {
    int32_t image; // -1 where the region is empty
    float top, left, height, width;
};
WC_DEVICE float at_least_one(float size) { return size > 1.0f ? size : 1.0f; }

template <Pool kPool> WC_DEVICE Region region_of(const RoiParams& p, int32_t k) {
    const float* roi = (const float*)p.rois + (int64_t)k * 5;
    Region region{-1, 0.0f, 0.0f, 0.0f, 0.0f};
    float corner[4];
    for (int i = 0; i < 4; ++i) corner[i] = roi[i + 1] * p.spatial_scale;
    for (int i = 0; i < 4; ++i)
        if (!(fabsf(corner[i]) <= kFarthest)) return region;
    if constexpr (kPool == Pool::kAlign) {
        const float shift = p.aligned ? 0.5f : 0.0f;
        region.left = corner[0] - shift;
        region.top = corner[1] - shift;
        region.width = corner[2] - shift - region.left;
        region.height = corner[3] - shift - region.top;
        if (!p.aligned) {
            region.width = at_least_one(region.width);
            region.height = at_least_one(region.height);
        }
    } else {
        const float more = kPool == Pool::kMax ? 1.0f : 0.0f;
        region.left = roundf(corner[0]);
        region.top = roundf(corner[1]);
        region.width = at_least_one(roundf(corner[2]) - region.left + more);
        region.height = at_least_one(roundf(corner[3]) - region.top + more);
    }
    if (roi[0] >= 0.0f && roi[0] < kFarthest && roi[0] == floorf(roi[0]) && (int32_t)roi[0] < p.n)
        region.image = (int32_t)roi[0];
    return region;
}

struct Span {
    int32_t begin, end;
};

// The pixels of a bin along one axis, clipped to [0, limit). The bound on corners keeps all of this below 2^27.
WC_DEVICE Span pixels_of(float start, float size, int32_t index, int32_t pooled, int32_t limit) {
    const float bin = size / (float)pooled;
    const int32_t begin = (int32_t)(floorf((float)index * bin) + start),
                  end = (int32_t)(ceilf((float)(index + 1) * bin) + start);
    return {begin < 0 ? 0 : (begin > limit ? limit : begin), end < 0 ? 0 : (end > limit ? limit : end)};
}

// A sample along one axis: its two neighbours, in elements from the start of the image, and their weights.
struct alignas(16) Neighbours {
    int32_t low, high; // low is -1 where the sample sees nothing
    float low_weight, high_weight;
};

// The samples of a bin along one axis.
struct GridAxis {
    float start, bin;
    int32_t count, size, stride;

    WC_DEVICE GridAxis(const RoiParams& p, float region_start, float extent, int32_t index, int32_t pooled,
                       int32_t image_size, int32_t image_stride)
        : bin(extent / (float)pooled), size(image_size), stride(image_stride) {
        start = region_start + (float)index * bin;
        const float adaptive = ceilf(bin);
        count = p.sampling_ratio > 0 ? p.sampling_ratio : (adaptive > 0.0f ? (int32_t)adaptive : 0);
    }
    WC_DEVICE float position(int32_t q) const { return start + ((float)q + 0.5f) * bin / (float)count; }
    WC_DEVICE Neighbours sample(int32_t q) const {
        float at = position(q);
        if (!(at >= -1.0f && at <= (float)size)) return {-1, -1, 0.0f, 0.0f}; // false for NaN, too
        if (at < 0.0f) at = 0.0f;
        const int32_t low = (int32_t)at;
        if (low >= size - 1) return {(size - 1) * stride, (size - 1) * stride, 1.0f, 0.0f};
        const float far = at - (float)low;
        return {low * stride, (low + 1) * stride, 1.0f - far, far};
    }
    // The first of begin..count whose position is at least `bound` or, with `above`, greater. Positions do not
    // decrease.
    WC_DEVICE int32_t first(float bound, bool above, int32_t begin) const {
        int32_t end = count;
        while (begin < end) {
            const int32_t middle = begin + (end - begin) / 2;
            const float at = position(middle);
            if (above ? at > bound : at >= bound)
                end = middle;
            else
                begin = middle + 1;
        }
        return begin;
    }
    // A part of the grid that holds all samples inside the image; all of it where it has no more than `small` samples.
    WC_DEVICE Span inside(int32_t small) const {
        if (count <= small || !(bin > 0.0f)) return {0, count};
        const int32_t begin = first(-1.0f, false, 0);
        return {begin, first((float)size, true, begin)};
    }
};

// ---- What: the channels of a thread.

// kCount channels of the pixel at an offset: neighbours in one access, or `count` channels that are `step` elements
// apart.
template <typename T, int kCount, bool kNeighbours> struct Channels {
    const T* from;
    int32_t step, count;

    WC_DEVICE void load(float (&value)[kCount], int32_t offset) const {
        if constexpr (kNeighbours) {
            const Vector<T, kCount> all = load_vector<kCount>(from + offset);
#pragma unroll
            for (int v = 0; v < kCount; ++v) value[v] = to_float(all.at[v]);
        } else {
#pragma unroll
            for (int v = 0; v < kCount; ++v) value[v] = v < count ? to_float(from[offset + v * step]) : 0.0f;
        }
    }
    WC_DEVICE void add(float (&sum)[kCount], int32_t offset, float weight) const {
        float value[kCount];
        load(value, offset);
#pragma unroll
        for (int v = 0; v < kCount; ++v) sum[v] = fmaf(weight, value[v], sum[v]);
    }
    WC_DEVICE void add(float (&sum)[kCount], const Neighbours& row, const Neighbours& column) const {
        add(sum, row.low + column.low, row.low_weight * column.low_weight);
        add(sum, row.low + column.high, row.low_weight * column.high_weight);
        add(sum, row.high + column.low, row.high_weight * column.low_weight);
        add(sum, row.high + column.high, row.high_weight * column.high_weight);
    }
    WC_DEVICE void maximum(float (&largest)[kCount], int32_t offset) const {
        float value[kCount];
        load(value, offset);
#pragma unroll
        for (int v = 0; v < kCount; ++v)
            if (value[v] > largest[v] || value[v] != value[v]) largest[v] = value[v];
    }
};

// A bin and some neighbouring output channels of one offset group.
struct Place {
    int32_t k, i, j, group, channel, count; // count: up to kCount, below 1 for a lane without channels
};

constexpr int kChunk = 16; // rows, and columns, of the grid that the table of a warp holds
static_assert(2 * kChunk * sizeof(Neighbours) == ROI_TABLE_BYTES, "the host counts the table's bytes");

// Each line of samples has a sum of its own: one sum of hundreds of similar samples would round all of them the same
// way.
template <int kCount> WC_DEVICE void add_line(float (&result)[kCount], const float (&line)[kCount]) {
#pragma unroll
    for (int v = 0; v < kCount; ++v) result[v] += line[v];
}

// Computes the bin's result in each channel. With kWarp all lanes of the warp have the same bin and share a table.
template <typename T, Pool kPool, int kCount, bool kNeighbours, bool kWarp>
WC_DEVICE void pool_bin(float (&result)[kCount], const RoiParams& p, const Place& at) {
#pragma unroll
    for (int v = 0; v < kCount; ++v) result[v] = 0.0f;
    Region region = region_of<kPool>(p, at.k);
    if (region.image < 0) return;
    const int32_t channel_step = p.position_sensitive ? p.pooled_h * p.pooled_w : 1;
    const int32_t first = at.channel * channel_step + (p.position_sensitive ? at.i * p.pooled_w + at.j : 0);
    const Channels<T, kCount, kNeighbours> x{image<const T>(p.x, region.image) + (int64_t)first * p.x.stride_c,
                                             channel_step * p.x.stride_c, at.count};
    const bool reads = at.count > 0;

    if constexpr (kPool == Pool::kAlign) {
        if (p.offset.address) {
            region.left +=
                p.gamma * region.width * offset_or_mask<T>(p.offset, p.offset_in_f32, at.k, 2 * at.group, at.i, at.j);
            region.top += p.gamma * region.height *
                          offset_or_mask<T>(p.offset, p.offset_in_f32, at.k, 2 * at.group + 1, at.i, at.j);
        }
        const GridAxis rows(p, region.top, region.height, at.i, p.pooled_h, p.h, p.x.stride_h);
        const GridAxis columns(p, region.left, region.width, at.j, p.pooled_w, p.w, p.x.stride_w);
        if (rows.count == 0 || columns.count == 0) return;
        const Span down = rows.inside(kChunk), across = columns.inside(kChunk);
        if constexpr (kWarp) {
            Neighbours* table = (Neighbours*)(shared_memory() + threadIdx.x / 32 * ROI_TABLE_BYTES);
            const int32_t lane = lane_index();
            for (int32_t q0 = down.begin; q0 < down.end; q0 += kChunk) {
                for (int32_t r0 = across.begin; r0 < across.end; r0 += kChunk) {
                    const int32_t q_end = down.end - q0 < kChunk ? down.end - q0 : kChunk,
                                  r_end = across.end - r0 < kChunk ? across.end - r0 : kChunk;
                    sync_warp();
                    store_vector<1>(table + lane,
                                    {{lane < kChunk ? rows.sample(q0 + lane) : columns.sample(r0 + lane - kChunk)}});
                    sync_warp();
                    if (!reads) continue;
                    for (int32_t q = 0; q < q_end; ++q) {
                        const Neighbours row = load_vector<1>(table + q).at[0];
                        if (row.low < 0) continue;
                        float line[kCount] = {};
#pragma unroll 1
                        for (int32_t r = 0; r < r_end; ++r) {
                            const Neighbours column = load_vector<1>(table + kChunk + r).at[0];
                            if (column.low >= 0) x.add(line, row, column);
                        }
                        add_line(result, line);
                    }
                }
            }
        } else {
            for (int32_t q = down.begin; q < down.end; ++q) {
                const Neighbours row = rows.sample(q);
                if (row.low < 0) continue;
                float line[kCount] = {};
#pragma unroll 1
                for (int32_t r = across.begin; r < across.end; ++r) {
                    const Neighbours column = columns.sample(r);
                    if (column.low >= 0) x.add(line, row, column);
                }
                add_line(result, line);
            }
        }
        const float samples = (float)rows.count * (float)columns.count;
        const float mask = p.mask.address ? offset_or_mask<T>(p.mask, p.mask_in_f32, at.k, at.group, at.i, at.j) : 1.0f;
#pragma unroll
        for (int v = 0; v < kCount; ++v) result[v] = result[v] / samples * mask;
    } else {
        const int32_t unread = kPool == Pool::kMean ? 1 : 0;
        const Span rows = pixels_of(region.top, region.height, at.i, p.pooled_h, p.h - unread);
        const Span columns = pixels_of(region.left, region.width, at.j, p.pooled_w, p.w - unread);
        if (rows.end <= rows.begin || columns.end <= columns.begin || !reads) return;
        if constexpr (kPool == Pool::kMax) {
#pragma unroll
            for (int v = 0; v < kCount; ++v) result[v] = -INFINITY;
        }
        for (int32_t h = rows.begin; h < rows.end; ++h) {
            for (int32_t w = columns.begin; w < columns.end; ++w) {
                const int32_t offset = h * p.x.stride_h + w * p.x.stride_w;
                if constexpr (kPool == Pool::kMax)
                    x.maximum(result, offset);
                else
                    x.add(result, offset, 1.0f);
            }
        }
        if constexpr (kPool == Pool::kMean) {
            const float pixels = (float)(rows.end - rows.begin) * (float)(columns.end - columns.begin);
#pragma unroll
            for (int v = 0; v < kCount; ++v) result[v] /= pixels;
        }
    }
}

// ---- Who: warps or threads over bins and channels.

// The place of a unit. Units run over (RoI, offset group, slice of the group's channels, bin), bins innermost.
WC_DEVICE Place place_of(const RoiParams& p, uint32_t unit, int32_t slice_channels) {
    const uint32_t columns = (uint32_t)p.pooled_w, rows = (uint32_t)p.pooled_h;
    const uint32_t bin = unit % (rows * columns), rest = unit / (rows * columns);
    const uint32_t slice = rest % (uint32_t)p.slices, above = rest / (uint32_t)p.slices;
    Place at;
    at.j = (int32_t)(bin % columns);
    at.i = (int32_t)(bin / columns);
    at.group = (int32_t)(above % (uint32_t)p.offset_groups);
    at.k = (int32_t)(above / (uint32_t)p.offset_groups);
    at.channel = at.group * p.group_channels + (int32_t)slice * slice_channels;
    at.count = p.group_channels - (int32_t)slice * slice_channels;
    return at;
}

// x is channels_last, and kVector divides the channels of an offset group.
template <typename T, Pool kPool, int kVector> WC_DEVICE void roi_pool_channels_last(const RoiParams& p) {
    const uint32_t unit = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (unit >= p.units) return;
    Place at = place_of(p, unit, 32 * kVector);
    at.channel += lane_index() * kVector;
    at.count -= lane_index() * kVector;
    float result[kVector];
    pool_bin<T, kPool, kVector, true, true>(result, p, at);
    if (at.count <= 0) return;
    T* to = image<T>(p.y, at.k) + element(p.y, at.channel, at.i, at.j);
    Vector<T, kVector> y;
#pragma unroll
    for (int v = 0; v < kVector; ++v) y.at[v] = from_float<T>(result[v]);
    if (p.vector_stores) {
        store_vector(to, y);
    } else {
#pragma unroll
        for (int v = 0; v < kVector; ++v) to[v * p.y.stride_c] = y.at[v];
    }
}

// Takes any formats and any number of channels.
template <typename T, Pool kPool, int kCount> WC_DEVICE void roi_pool_planes(const RoiParams& p) {
    const uint32_t unit = blockIdx.x * blockDim.x + threadIdx.x;
    if (unit >= p.units) return;
    const Place at = place_of(p, unit, kCount);
    float result[kCount];
    pool_bin<T, kPool, kCount, false, false>(result, p, at);
    T* to = image<T>(p.y, at.k) + element(p.y, at.channel, at.i, at.j);
#pragma unroll
    for (int v = 0; v < kCount; ++v)
        if (v < at.count) to[v * p.y.stride_c] = from_float<T>(result[v]);
}
