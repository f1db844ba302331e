// Grouped convolution for narrow groups, on tensor cores (f16, bf16; f32 sums).
//
//   y[n, g*O + o, p, q] = epilogue( sum over (i, j, c)  x[n, g*C + c, p*sh + i*dh - top, q*sw + j*dw - left] * w[g, i, j, c, o] )
//   C = c_in / groups,  O = c_out / groups;  x is zero outside its image
//
// A group alone is too narrow for the k of an MMA, so taps are packed into it. The order of k is free as long as both
// operands have the same one: each *quad* of 4 neighbouring channels of a tap gets a *slot*, and the k16 of one
// m16n8k16 is 4 slots, one for each lane of a row's four (a lane holds k = 2t, 2t+1, 2t+8, 2t+9). So a lane's share of A for
// one pixel is one 8-byte load at [pixel + tap][quad], whatever the number of channels: 4 channels: four taps fill k16;
// 8: two; 16: one; 32: half of one; 12, 20, 24, ...: taps and quads in a row, no products are zero but those of the last step.
// 2, 3, 5, ... channels are padded with zeros to a quad. Slots without a quad are zero in both operands, and no MMA
// ever sees another group's channels: an infinite x meets only its own weights, and zeros meet zeros.
//
// Tiling: a block computes tiles of pixels for some groups, `walk` of them one below the other. The input that a tile sees lies in
// shared memory, channels_last and zero outside the image: all taps and all groups read it from there. Its rows are a ring: to
// the next tile come only those that the tile above does not see. What is copied without registers comes while the tile above is
// multiplied. A tap's row may lie a turn behind its pixel's: a minimum for each load finds it.
// A warp computes 64 pixels x up to 24 output channels at a time: four groups of up to 8 (kOwn: each n8 has an A of its own), or one
// group. Weights are packed in the order of the lanes' fragments, [group][step][n8][lane][4]; a block's come to shared memory beside
// its first patch, but where that would leave room for fewer blocks they are read from L1.
//
// kWide: what is channels_last is accessed in 16 bytes (cp.async in, one store for 8 channels out), otherwise element by
// element. What is contiguous is accessed in runs of pixels as long as its alignment allows, 16 bytes at most: a patch that
// spans the image reads its planes without regard to rows, any other starts runs anew in each row. The four planes of a quad are
// transposed in registers.
//
// Bound: DRAM, as long as shared memory keeps up: each input element is read from it once for each tap, 8 bytes a lane
// without bank conflicts (the host chooses pixel_bytes and row_bytes so). Ladder: (1) taps in k: a 3x3 of 4 channels is 3 MMAs
// along k instead of 9 of which three quarters are zeros; (2) the patch: an input is read from L2 once by a block,
// not once for each tap; (3) the walk: rows that tiles share, too, come once, so that blocks as wide as the image read it once
// instead of 1.2 to 1.5 times, and a block loads while it multiplies; (4) runs of pixels: eight of a plane in one access instead
// of eight; (5) weights in shared memory: one wait beside the patch's instead of a load from L1 or L2 that each step of a warp's
// only item waits for, without a register more; (6) sums staged in pairs: few bank conflicts instead of a fifth of all passes.
#include "device/async_copy.cuh"
#include "device/mma.cuh"
#include "device/rows.cuh"
#include "device/warp.cuh"

struct GroupedTile {
    static constexpr int32_t kThreads = 256;
    static constexpr int32_t kWarps = kThreads / 32;
    static constexpr int32_t kRows = 4; // m16 fragments of pixels a warp
    static constexpr int32_t kPixels = 16 * kRows;
    static constexpr int32_t kFragmentBytes = 256; // of B, a warp's
    // Words of a channel in a warp's staging area for a contiguous y: twice that is 8 modulo 32, so that the columns of a
    // fragment lie in different banks, and four words of 8 neighbouring channels, too.
    static constexpr int32_t kPlaneWords = 20;
};
// Words of a pixel in it for a channels_last y: 8 or 24 modulo 32, so that pairs of channels of four rows of a fragment lie in
// different banks.
template <int kTiles> constexpr int32_t pixel_words() {
    return 8 * kTiles % 16 == 8 ? 8 * kTiles : 8 * kTiles + 8;
}
template <int kTiles> constexpr int32_t staging_words() {
    constexpr int32_t kPixels = 16 * pixel_words<kTiles>(), kPlanes = 8 * kTiles * GroupedTile::kPlaneWords;
    return kPixels > kPlanes ? kPixels : kPlanes;
}

// A block's place.
struct GroupedBlock {
    int32_t first_group, groups; // groups that exist
    int32_t row, column;         // the first output pixel of the tile at hand
    int32_t left;                // the first input column, which may lie in the padding
    uint32_t place;              // in the ring, of the tile's first input row
};
// Its shared memory.
struct GroupedMemory {
    unsigned char* ring;
    unsigned char* weights;
    float* staging; // the warp's
    int32_t* offsets;
};
// Rows of the input that come to the ring together, some of them padding.
struct GroupedRows {
    int32_t top, count;
    uint32_t place; // in the ring, of the first one
};

// Of what lies in the ring, or one turn behind it. A difference below zero is a large number.
WC_DEVICE uint32_t in_ring(const ConvGroupedParams& p, uint32_t place) {
    const uint32_t turned = place - (uint32_t)p.ring_bytes;
    return turned < place ? turned : place;
}

// The distance in the patch from a pixel's first tap to the quad of a slot, or -1 where the slot is padding.
WC_DEVICE int32_t slot_offset(const ConvGroupedParams& p, int32_t slot) {
    const ConvGeometryParams& g = p.conv.geometry;
    const int32_t i = slot / p.row_slots, quad = slot % p.row_slots;
    const int32_t j = quad / p.group_quads;
    if (i >= g.kernel_h || j >= g.kernel_w) return -1;
    return i * g.dilation_h * p.row_bytes + j * g.dilation_w * p.pixel_bytes + quad % p.group_quads * 8;
}

// Zeros for the ring of a block that sees padding beside the image: those of it stay there through all tiles and images.
WC_DEVICE void clear_ring(const ConvGroupedParams& p, const GroupedBlock& block, unsigned char* ring) {
    if (block.left >= 0 && block.left + p.patch_w <= p.conv.geometry.w) return;
    for (int32_t at = (int32_t)threadIdx.x * 16; at < p.ring_bytes; at += GroupedTile::kThreads * 16)
        store_vector((uint32_t*)(ring + at), Vector<uint32_t, 4>{{0, 0, 0, 0}});
}

// Zeros for those of the rows that lie above or below the image.
WC_DEVICE void clear_rows(const ConvGroupedParams& p, const GroupedRows& rows, unsigned char* ring) {
    const int32_t h = p.conv.geometry.h;
    if (rows.top >= 0 && rows.top + rows.count <= h) return;
    const int32_t vectors = p.row_bytes / 16;
    for (int32_t index = (int32_t)threadIdx.x; index < rows.count * vectors; index += GroupedTile::kThreads) {
        const int32_t row = index / vectors;
        if (rows.top + row >= 0 && rows.top + row < h) continue;
        const uint32_t place = in_ring(p, rows.place + (uint32_t)(row * p.row_bytes)) + (uint32_t)(index % vectors * 16);
        store_vector((uint32_t*)(ring + place), Vector<uint32_t, 4>{{0, 0, 0, 0}});
    }
}

// Brings rows of the block's input to the ring: [row][patch_w][groups][quads of 4], of which the padding is left alone.
// From a contiguous x: a thread reads kRun neighbours of each of a quad's four planes and writes kRun pixels of the quad. `whole`:
// the patch is as wide as the image, whose rows follow each other without gaps, and runs go over their ends.
template <int kRun, typename T>
WC_DEVICE void fill_from_planes(const ConvGroupedParams& p, const GroupedBlock& block, const GroupedRows& rows, const T* from,
                                unsigned char* ring, bool whole) {
    const ConvGeometryParams& g = p.conv.geometry;
    const Tensor4& x = p.conv.x;
    // what lies in the image
    struct {
        int32_t top, left, bottom, right;
    } inside = {rows.top, block.left, rows.top + rows.count, block.left + p.patch_w};
    if (inside.top < 0) inside.top = 0;
    if (inside.left < 0) inside.left = 0;
    if (inside.bottom > g.h) inside.bottom = g.h;
    if (inside.right > g.w) inside.right = g.w;
    if (inside.top >= inside.bottom || inside.left >= inside.right) return;
    const int32_t channels = g.c_in / g.groups, quads = block.groups * p.group_quads;
    // runs start at multiples of kRun of a plane
    const int32_t shift = (whole ? inside.top * x.stride_h : inside.left) % kRun;
    const int32_t length = whole ? (inside.bottom - inside.top) * g.w : inside.right - inside.left;
    const int32_t runs = (length + shift + kRun - 1) / kRun, lines = whole ? 1 : inside.bottom - inside.top;
    for (int32_t index = (int32_t)threadIdx.x; index < lines * runs * quads; index += GroupedTile::kThreads) {
        const int32_t quad = index % quads, run = index / quads % runs, top = inside.top + index / quads / runs;
        const int32_t line = top * x.stride_h, begin = line + inside.left, end = begin + length, first = begin - shift + run * kRun;
        const int32_t exist = whole ? g.h * g.w : line + g.w; // elements of the plane
        const int32_t channel = quad % p.group_quads * 4;
        const T* plane = from + element(x, (block.first_group + quad / p.group_quads) * channels + channel, 0, 0) + first;
        Vector<T, kRun> values[4];
#pragma unroll
        for (int32_t c = 0; c < 4; ++c) {
            values[c] = Vector<T, kRun>{};
            if (channel + c >= channels) continue;
            if (first + kRun <= exist) {
                values[c] = load_vector<kRun>(plane + c * x.stride_c);
            } else {
#pragma unroll
                for (int32_t e = 0; e < kRun; ++e)
                    if (first + e < exist) values[c].at[e] = plane[c * x.stride_c + e];
            }
        }
        // first may lie in the row above
        int32_t row = whole ? first / g.w : top, column = first - row * x.stride_h;
        int32_t to[kRun]; // -1 outside the rows
        uint32_t place = rows.place + (uint32_t)((row - rows.top) * p.row_bytes + (column - block.left) * p.pixel_bytes + quad * 8);
#pragma unroll
        for (int32_t e = 0; e < kRun; ++e) {
            to[e] = first + e >= begin && first + e < end ? (int32_t)in_ring(p, place) : -1;
            place += (uint32_t)p.pixel_bytes;
            if (++column == g.w) {
                column = 0;
                place += (uint32_t)(p.row_bytes - g.w * p.pixel_bytes);
            }
        }
        // every other run begins with its second half: pixels 8 apart share a bank, those 4 apart lie half of all banks apart
        constexpr int32_t kHalf = kRun == 8 ? 4 : kRun;
        const bool second_first = kRun == 8 && run % 2 == 1;
#pragma unroll
        for (int32_t part = 0; part < kRun; part += kHalf) {
#pragma unroll
            for (int32_t e = 0; e < kHalf; ++e) {
                const int32_t one = part + e, other = (one + kHalf) % kRun;
                Vector<T, 4> pixel;
#pragma unroll
                for (int32_t c = 0; c < 4; ++c) pixel.at[c] = second_first ? values[c].at[other] : values[c].at[one];
                const int32_t at = second_first ? to[other] : to[one];
                if (at >= 0) store_vector((T*)(ring + at), pixel);
            }
        }
    }
}

// From a channels_last x.
template <typename T, bool kWide>
WC_DEVICE void fill_from_pixels(const ConvGroupedParams& p, const GroupedBlock& block, const GroupedRows& rows, const T* from,
                                unsigned char* ring) {
    const ConvGeometryParams& g = p.conv.geometry;
    const Tensor4& x = p.conv.x;
    const int32_t pixels = rows.count * p.patch_w, channels = g.c_in / g.groups;
    const int32_t thread = (int32_t)threadIdx.x;
    // whole vectors a pixel, and as many pixels at once as the threads suffice for
    const int32_t vectors = kWide ? block.groups * channels / 8 : block.groups * p.group_quads;
    const int32_t at_once = GroupedTile::kThreads / vectors, vector = thread % vectors;
    if (thread >= at_once * vectors) return;
    for (int32_t pixel = thread / vectors; pixel < pixels; pixel += at_once) {
        const int32_t row = pixel / p.patch_w, column = pixel % p.patch_w;
        const int32_t h = rows.top + row, w = block.left + column;
        if (h < 0 || h >= g.h || w < 0 || w >= g.w) continue;
        unsigned char* const to = ring + in_ring(p, rows.place + (uint32_t)(row * p.row_bytes)) + column * p.pixel_bytes;
        if constexpr (kWide) {
            copy_async<16>(to + vector * 16, from + element(x, block.first_group * channels + vector * 8, h, w), true);
        } else {
            const int32_t group = vector / p.group_quads, channel = vector % p.group_quads * 4;
            Vector<T, 4> values;
            for (int32_t c = 0; c < 4; ++c) {
                values.at[c] = T{0};
                if (channel + c < channels) values.at[c] = from[element(x, (block.first_group + group) * channels + channel + c, h, w)];
            }
            store_vector((T*)(to + vector * 8), values);
        }
    }
}

// Of which what is contiguous or not kWide waits for its loads, and the rest lands by the next wait.
template <typename T, bool kWide>
WC_DEVICE void fill_ring(const ConvGroupedParams& p, const GroupedBlock& block, const GroupedRows& rows, int32_t n, unsigned char* ring) {
    const Tensor4& x = p.conv.x;
    const T* from = image<const T>(x, n);
    clear_rows(p, rows, ring);
    if (p.x_planes) {
        const bool whole = block.left <= 0 && block.left + p.patch_w >= p.conv.geometry.w && x.stride_h == p.conv.geometry.w;
        const int32_t run = whole ? widest_in_planes<T>(x) : widest_in_rows<T>(x);
        if (run == 8)
            fill_from_planes<8>(p, block, rows, from, ring, whole);
        else if (run == 4)
            fill_from_planes<4>(p, block, rows, from, ring, whole);
        else if (run == 2)
            fill_from_planes<2>(p, block, rows, from, ring, whole);
        else
            fill_from_planes<1>(p, block, rows, from, ring, whole);
    } else {
        fill_from_pixels<T, kWide>(p, block, rows, from, ring);
        copy_async_commit();
    }
}

// Writes 16 pixels x `run` channels of a warp's sums to y; `pixel` is the tile's index of the first pixel. To a contiguous y,
// from [channel][kPlaneWords]: 8 pixels of a channel at once, and neighbouring lanes on different channels, whose rows lie in
// different banks.
template <typename T>
WC_DEVICE void store_planes(const ConvGroupedParams& p, const GroupedBlock& block, int32_t n, const float* staging, int32_t pixel,
                            int32_t channel, int32_t run) {
    const ConvGeometryParams& g = p.conv.geometry;
    const Tensor4& y = p.conv.y;
    const EpilogueParams& tail = p.conv.epilogue;
    constexpr int32_t kLanes = 8; // on different channels
    T* to = image<T>(y, n);
    const int32_t widest = widest_in_rows<T>(y), count = p.tile_w_log2 >= 3 ? 8 : 1, runs = 16 / count;
    for (int32_t index = lane_index(); index < (run + kLanes - 1) / kLanes * kLanes * runs; index += 32) {
        const int32_t c = index / kLanes / runs * kLanes + index % kLanes, m = index / kLanes % runs * count;
        const int32_t h = block.row + (pixel + m >> p.tile_w_log2);
        const int32_t w = block.column + (pixel + m & (1 << p.tile_w_log2) - 1);
        if (c >= run || h >= g.h_out || w >= g.w_out || pixel + m >= p.tile_h << p.tile_w_log2) continue;
        const float* sums = staging + c * GroupedTile::kPlaneWords + m;
        T* const first = to + element(y, channel + c, h, w);
        if (count == 1) {
            *first = epilogue<T>(tail, *sums, n, channel + c, h, w);
            continue;
        }
        float sum[8];
        for (int32_t e = 0; e < 8; e += 4) {
            const Vector<float, 4> four = load_vector<4>(sums + e);
            for (int32_t i = 0; i < 4; ++i) sum[e + i] = four.at[i];
        }
        store_row(y, first, epilogue_pixels<T, 8>(tail, sum, n, channel + c, h, w, g.w_out - w), g.w_out - w, widest);
    }
}

// To a channels_last y, from [pixel][kWords].
template <typename T, bool kWide, int kWords>
WC_DEVICE void store_channels(const ConvGroupedParams& p, const GroupedBlock& block, int32_t n, const float* staging, int32_t pixel,
                            int32_t channel, int32_t run) {
    const ConvGeometryParams& g = p.conv.geometry;
    const Tensor4& y = p.conv.y;
    const EpilogueParams& tail = p.conv.epilogue;
    T* to = image<T>(y, n);
    constexpr int32_t kCount = kWide ? 8 : 1;
    const int32_t vectors = (run + kCount - 1) / kCount;
    for (int32_t index = lane_index(); index < 16 * vectors; index += 32) {
        const int32_t m = index / vectors, first = index % vectors * kCount;
        const int32_t h = block.row + (pixel + m >> p.tile_w_log2);
        const int32_t w = block.column + (pixel + m & (1 << p.tile_w_log2) - 1);
        if (h >= g.h_out || w >= g.w_out || pixel + m >= p.tile_h << p.tile_w_log2) continue;
        const float* sums = staging + m * kWords + first;
        if (kWide && first + kCount <= run) {
            // every other pixel begins with its second half: the lanes' first halves share half of the banks
            const bool second_first = m % 2 == 1;
            const Vector<float, 4> one = load_vector<4>(sums + (second_first ? 4 : 0)), other = load_vector<4>(sums + (second_first ? 0 : 4));
            float sum[8];
            for (int32_t c = 0; c < 4; ++c) {
                sum[c] = second_first ? other.at[c] : one.at[c];
                sum[c + 4] = second_first ? one.at[c] : other.at[c];
            }
            store_vector(to + element(y, channel + first, h, w), epilogue_channels<T>(tail, sum, n, channel + first, h, w));
        } else {
            for (int32_t c = first; c < first + kCount && c < run; ++c)
                to[element(y, channel + c, h, w)] = epilogue<T>(tail, staging[m * kWords + c], n, channel + c, h, w);
        }
    }
}

// Brings the weights of the block's groups to shared memory. They are whole steps, so whole vectors.
WC_DEVICE void fetch_weights(const ConvGroupedParams& p, const GroupedBlock& block, unsigned char* to) {
    const int32_t group_bytes = p.steps * p.n_tiles * GroupedTile::kFragmentBytes;
    const unsigned char* from = (const unsigned char*)p.conv.weight + (int64_t)block.first_group * group_bytes;
    for (int32_t at = (int32_t)threadIdx.x * 16; at < block.groups * group_bytes; at += GroupedTile::kThreads * 16)
        copy_async<16>(to + at, from + at, true);
    copy_async_commit();
}

// Adds a warp's products: `pixels` are the places in the ring of its fragments' rows, whose taps may lie a turn on, `weight` its
// lane's in the first step, and so many n8 of them exist.
template <typename T, bool kOwn, int kSets, int kRows, int kN>
WC_DEVICE void multiply(const ConvGroupedParams& p, float (&sum)[kSets][kRows][kN][4], const unsigned char* ring,
                        const uint32_t (&pixels)[kRows][2], const int32_t* offsets, const uint32_t* weight, int32_t tiles) {
    const int32_t group_words = p.steps * p.n_tiles * 64;
    for (int32_t step = 0; step < p.steps; ++step, weight += p.n_tiles * 64) {
        const int32_t offset = offsets[step * 4];
        uint32_t b[kSets][kN][2];
#pragma unroll
        for (int32_t s = 0; s < kSets; ++s)
#pragma unroll
            for (int32_t t = 0; t < kN; ++t) {
                const bool there = (kOwn ? s : t) < tiles;
                const Vector<uint32_t, 2> two = load_vector<2>(weight + (there ? (kOwn ? s * group_words : t * 64) : 0));
                b[s][t][0] = two.at[0];
                b[s][t][1] = two.at[1];
            }
#pragma unroll
        for (int32_t s = 0; s < kSets; ++s) {
            if (kOwn && s >= tiles) continue;
            uint32_t a[kRows][4];
#pragma unroll
            for (int32_t m = 0; m < kRows; ++m) {
#pragma unroll
                for (int32_t eight = 0; eight < 2; ++eight) {
                    Vector<uint32_t, 2> two = {{0, 0}};
                    const uint32_t place = in_ring(p, pixels[m][eight] + (uint32_t)(offset + s * p.group_quads * 8));
                    if (offset >= 0) two = load_vector<2>((const uint32_t*)(ring + place));
                    a[m][eight] = two.at[0];
                    a[m][eight + 2] = two.at[1];
                }
            }
            warp_mma<T, kRows, kN>(sum[s], a, b[s]);
        }
    }
}

// Computes the tile at hand for all groups of the block. kTiles n8 of output channels a warp; kOwn: each of them is a group.
template <typename T, int kTiles, bool kOwn, bool kWide>
WC_DEVICE void compute_tile(const ConvGroupedParams& p, const GroupedBlock& block, const GroupedMemory& memory, int32_t n) {
    const ConvGeometryParams& g = p.conv.geometry;
    constexpr int32_t kRows = GroupedTile::kRows, kPixels = GroupedTile::kPixels;
    constexpr int32_t kSets = kOwn ? kTiles : 1, kN = kOwn ? 1 : kTiles; // A operands, and n8 for each of them
    constexpr int32_t kWords = pixel_words<kTiles>();
    const int32_t lane = lane_index(), row = lane / 4, part = lane % 4;
    const int32_t tile_w = 1 << p.tile_w_log2, tile_pixels = p.tile_h << p.tile_w_log2;
    const int32_t outputs = g.c_out / g.groups;
    const int32_t chunks = (tile_pixels + kPixels - 1) / kPixels;
    const int32_t sets = kOwn ? (block.groups + kTiles - 1) / kTiles : block.groups * ((p.n_tiles + kTiles - 1) / kTiles);
    for (int32_t item = (int32_t)threadIdx.x / 32;; item += GroupedTile::kWarps) {
        const int32_t set = item / chunks, first_pixel = item % chunks * kPixels;
        if (set >= sets) break;
        if (block.row + (first_pixel >> p.tile_w_log2) >= g.h_out) continue;
        // the group in the block, its first n8, and how many of each there are
        const int32_t group_sets = kOwn ? 1 : (p.n_tiles + kTiles - 1) / kTiles;
        const int32_t group = kOwn ? set * kTiles : set / group_sets;
        const int32_t first_tile = kOwn ? 0 : set % group_sets * kTiles;
        const int32_t left = kOwn ? block.groups - group : p.n_tiles - first_tile;
        const int32_t tiles = left < kTiles ? left : kTiles;

        uint32_t pixels[kRows][2];
#pragma unroll
        for (int32_t m = 0; m < kRows; ++m) {
#pragma unroll
            for (int32_t eight = 0; eight < 2; ++eight) {
                const int32_t at = first_pixel + m * 16 + eight * 8 + row, pixel = at < tile_pixels ? at : 0;
                const int32_t line = (pixel >> p.tile_w_log2) * g.stride_h * p.row_bytes;
                pixels[m][eight] = in_ring(p, block.place + (uint32_t)line) +
                                   (uint32_t)((pixel & tile_w - 1) * g.stride_w * p.pixel_bytes + group * p.group_quads * 8);
            }
        }
        float sum[kSets][kRows][kN][4];
#pragma unroll
        for (int32_t s = 0; s < kSets; ++s)
#pragma unroll
            for (int32_t m = 0; m < kRows; ++m)
#pragma unroll
                for (int32_t t = 0; t < kN; ++t)
#pragma unroll
                    for (int32_t i = 0; i < 4; ++i) sum[s][m][t][i] = 0.0f;

        const int32_t first = (group * p.steps * p.n_tiles + first_tile) * 64 + lane * 2;
        if (p.weight_bytes > 0)
            multiply<T, kOwn>(p, sum, memory.ring, pixels, memory.offsets + part, (const uint32_t*)memory.weights + first, tiles);
        else
            multiply<T, kOwn>(p, sum, memory.ring, pixels, memory.offsets + part,
                              (const uint32_t*)p.conv.weight + (int64_t)block.first_group * p.steps * p.n_tiles * 64 + first, tiles);

        const int32_t first_channel = (block.first_group + group) * outputs + first_tile * 8;
        const int32_t width = kOwn && outputs < 8 ? outputs : 8;
        const int32_t rest = kOwn ? tiles * outputs : outputs - first_tile * 8;
        const int32_t run = rest < 8 * kTiles ? rest : 8 * kTiles;
        const int32_t pixel_step = p.y_planes ? 1 : kWords, channel_step = p.y_planes ? GroupedTile::kPlaneWords : 1;
        const bool pairs = !p.y_planes && width % 2 == 0; // of neighbours, in one access
#pragma unroll
        for (int32_t m = 0; m < kRows; ++m) {
            sync_warp(); // the sums before are read; behind `run` there is room for those of no channel
#pragma unroll
            for (int32_t t = 0; t < kTiles; ++t)
#pragma unroll
                for (int32_t i = 0; i < 4; i += 2) {
                    const float(&sums)[4] = sum[kOwn ? t : 0][m][kOwn ? 0 : t];
                    const int32_t column = part * 2;
                    float* const to = memory.staging + (row + i * 4) * pixel_step + (t * width + column) * channel_step;
                    if (column >= width) continue;
                    if (pairs) {
                        store_vector(to, Vector<float, 2>{{sums[i], sums[i + 1]}});
                    } else {
                        to[0] = sums[i];
                        if (column + 1 < width) to[channel_step] = sums[i + 1];
                    }
                }
            sync_warp();
            if (p.y_planes)
                store_planes<T>(p, block, n, memory.staging, first_pixel + m * 16, first_channel, run);
            else
                store_channels<T, kWide, kWords>(p, block, n, memory.staging, first_pixel + m * 16, first_channel, run);
        }
    }
}

template <typename T, int kTiles, bool kOwn, bool kWide> WC_DEVICE void conv_grouped(const ConvGroupedParams& p) {
    const ConvGeometryParams& g = p.conv.geometry;
    constexpr int32_t kStaging = staging_words<kTiles>();
    GroupedMemory memory;
    memory.ring = shared_memory();
    memory.weights = memory.ring + p.ring_bytes;
    float* const staging = (float*)(memory.weights + p.weight_bytes);
    memory.staging = staging + threadIdx.x / 32 * kStaging;
    memory.offsets = (int32_t*)(staging + GroupedTile::kWarps * kStaging);

    const int32_t tile_w = 1 << p.tile_w_log2, columns = (g.w_out + tile_w - 1) / tile_w;
    const int32_t group_blocks = (g.groups + p.block_groups - 1) / p.block_groups;
    const int32_t strip = (int32_t)blockIdx.x / group_blocks, first_row = strip / columns * p.walk * p.tile_h;
    const int32_t end_row = first_row + p.walk * p.tile_h;
    GroupedBlock block;
    block.first_group = (int32_t)blockIdx.x % group_blocks * p.block_groups;
    block.groups = g.groups - block.first_group < p.block_groups ? g.groups - block.first_group : p.block_groups;
    block.column = strip % columns * tile_w;
    block.left = block.column * g.stride_w - g.pad_left;

    for (int32_t slot = (int32_t)threadIdx.x; slot < p.steps * 4; slot += GroupedTile::kThreads) memory.offsets[slot] = slot_offset(p, slot);
    clear_ring(p, block, memory.ring);
    if (p.weight_bytes > 0) fetch_weights(p, block, memory.weights);

    for (int32_t n = (int32_t)blockIdx.y; n < g.n; n += (int32_t)gridDim.y) {
        block.place = (uint32_t)(p.ring_bytes - p.fresh_bytes);
        for (block.row = first_row - p.tile_h; block.row < end_row && block.row < g.h_out; block.row += p.tile_h) {
            const bool there = block.row >= first_row; // a tile to compute
            if (there) copy_async_wait<0>(); // for the weights, too
            __syncthreads(); // the tile is there, the one above is read; at first: the offsets and the padding are written
            const uint32_t next = in_ring(p, block.place + (uint32_t)p.fresh_bytes);
            const int32_t next_row = block.row + p.tile_h;
            if (next_row < end_row && next_row < g.h_out) {
                const int32_t seen = there ? p.patch_h - p.fresh_h : 0, top = next_row * g.stride_h - g.pad_top;
                fill_ring<T, kWide>(p, block, {top + seen, p.patch_h - seen, in_ring(p, next + (uint32_t)(seen * p.row_bytes))}, n, memory.ring);
            }
            if (there) compute_tile<T, kTiles, kOwn, kWide>(p, block, memory, n);
            block.place = in_ring(p, block.place + (uint32_t)p.fresh_bytes);
        }
    }
}
