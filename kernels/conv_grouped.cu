// Grouped convolution for narrow groups, on tensor cores (f16, bf16; f32 sums).
//
//   y[n, g*O + o, p, q] = epilogue( sum over (i, j, c)
//                                   x[n, g*C + c, p*sh + i*dh - top, q*sw + j*dw - left] * w[g, i, j, c, o] )
//   C = c_in / groups,  O = c_out / groups;  x is zero outside its image
//
// A group alone is too narrow for the k of an MMA, so several taps share it. The order of k is free as long as both
// operands have the same one. Each *quad* of 4 neighbouring channels of a tap gets a *slot*, and the k16 of one
// m16n8k16 is 4 slots, one for each of the four lanes of a row (lane t of them holds k = 2t, 2t+1, 2t+8 and 2t+9). A
// lane's share of A for one pixel is then one 8-byte load at [pixel + tap][quad], whatever the number of channels: with
// 4 channels four taps fill k16, with 8 two, with 16 one, with 32 half of one; with 12, 20, 24, ... taps and quads
// follow each other, and only the last step multiplies zeros. Groups of 2, 3, 5, ... channels are padded with zeros to
// whole quads. Slots without a quad are zero in both operands, and no MMA sees the channels of another group: an
// infinite x meets only its own weights, and zeros meet zeros.
//
// Tiling: a block computes `walk` tiles of pixels, one below the other, for some groups. The input that a tile sees
// lies in shared memory, channels_last and zero outside the image, and all taps and groups read it from there. Its rows
// form a ring: only those that the tile above has not seen are brought for the next tile. Asynchronous copies of them
// arrive while the tile above is multiplied. The row of a tap may lie beyond the end of the ring, at its beginning; a
// minimum for each load finds it. A warp computes 64 pixels x up to 24 output channels at a time: four groups of up to
// 8 channels (kOwn: each n8 has an A of its own), or one group. Weights are packed in the order of the lanes'
// fragments, [group][step][n8][lane][4]. Those of a block come to shared memory together with its first patch, unless
// fewer blocks would then fit: in that case they are read from L1.
//
// With kWide, channels_last tensors are accessed in 16 bytes (cp.async to load, one store for 8 channels), otherwise
// element by element. Contiguous tensors are accessed in runs of pixels as long as their alignment allows, up to 16
// bytes. Where the patch is as wide as the image, planes are read without regard to rows; otherwise runs start anew in
// each row. The four planes of a quad are transposed in registers.
//
// Bound: DRAM, as long as shared memory keeps up: a lane reads each input element from it once for each tap, 8 bytes at
// a time and without bank conflicts (the host chooses pixel_bytes and row_bytes for that). Ladder: (1) taps in k: a 3x3
// filter of 4 channels takes 3 MMAs along k instead of 9, three quarters of which would be zeros; (2) the patch: a
// block reads an input element from L2 once, not once for each tap; (3) the walk: rows that tiles share are read once
// as well, instead of 1.2 to 1.5 times for blocks as wide as the image, and a block loads while it multiplies; (4) runs
// of pixels: eight of a plane in one access instead of eight; (5) weights in shared memory: one wait, together with the
// patch's, instead of a load from L1 or L2 for which each step waits, at no cost in registers; (6) sums staged in
// pairs: few bank conflicts, which were a fifth of all passes.
#include "device/async_copy.cuh"
#include "device/mma.cuh"
#include "device/rows.cuh"
#include "device/warp.cuh"

struct GroupedTile {
    static constexpr int32_t kWarps = GROUPED_WARPS, kThreads = 32 * kWarps;
    static constexpr int32_t kRows = 4; // m16 fragments of pixels that a warp has
    static constexpr int32_t kPixels = 16 * kRows;
    static_assert(kPixels == GROUPED_WARP_PIXELS, "the host counts a warp's pixels");
    static constexpr int32_t kFragmentBytes = GROUPED_FRAGMENT_BYTES; // of B, for a warp
    // Words from one channel to the next in the staging area of a warp, for a contiguous y. Twice that is 8 modulo 32,
    // so that the columns of a fragment lie in different banks, and so do four words of 8 neighbouring channels.
    static constexpr int32_t kPlaneWords = 20;
};
// Words from one pixel to the next in the staging area, for a channels_last y. They are 8 or 24 modulo 32, so that
// pairs of channels of four rows of a fragment lie in different banks.
template <int kTiles> constexpr int32_t pixel_words() { return 8 * kTiles % 16 == 8 ? 8 * kTiles : 8 * kTiles + 8; }
template <int kTiles> constexpr int32_t staging_words() {
    constexpr int32_t kPixels = 16 * pixel_words<kTiles>(), kPlanes = 8 * kTiles * GroupedTile::kPlaneWords;
    return kPixels > kPlanes ? kPixels : kPlanes;
}
static_assert(staging_words<2>() == GROUPED_STAGING_WORDS_2 && staging_words<3>() == GROUPED_STAGING_WORDS_3 &&
                  staging_words<4>() == GROUPED_STAGING_WORDS_4,
              "the host counts the words of the staging areas");

// The place of a block.
struct GroupedBlock {
    int32_t first_group, groups; // of the block; groups: those that exist
    int32_t row, column;         // the first output pixel of the current tile
    int32_t left;                // the first input column, which may lie in the padding
    uint32_t place;              // of the tile's first input row, in the ring
};
// The shared memory of a block.
struct GroupedMemory {
    unsigned char* ring;
    unsigned char* weights;
    float* staging; // of the warp
    int32_t* offsets;
};
// Input rows that are brought to the ring together; some of them may be padding.
struct GroupedRows {
    int32_t top, count;
    uint32_t place; // of the first row, in the ring
};

// A place in the ring: `place` itself or, beyond the end, as far from the beginning. A difference below zero is a large
// number.
WC_DEVICE uint32_t wrap_in_ring(const ConvGroupedParams& p, uint32_t place) {
    const uint32_t turned = place - (uint32_t)p.ring_bytes;
    return turned < place ? turned : place;
}

// The distance in the patch from a pixel's first tap to the quad of a slot, or -1 for padding.
WC_DEVICE int32_t slot_offset(const ConvGroupedParams& p, int32_t slot) {
    const ConvGeometryParams& g = p.conv.geometry;
    const int32_t i = slot / p.row_slots, quad = slot % p.row_slots;
    const int32_t j = quad / p.group_quads;
    if (i >= g.kernel_h || j >= g.kernel_w) return -1;
    return i * g.dilation_h * p.row_bytes + j * g.dilation_w * p.pixel_bytes + quad % p.group_quads * 8;
}

// Fills the ring with zeros where the block sees padding beside the image. They stay there for all tiles and images.
WC_DEVICE void clear_ring(const ConvGroupedParams& p, const GroupedBlock& block, unsigned char* ring) {
    if (block.left >= 0 && block.left + p.patch_w <= p.conv.geometry.w) return;
    for (int32_t at = (int32_t)threadIdx.x * 16; at < p.ring_bytes; at += GroupedTile::kThreads * 16)
        store_vector((uint32_t*)(ring + at), Vector<uint32_t, 4>{{0, 0, 0, 0}});
}

// Fills the rows with zeros that lie above or below the image.
WC_DEVICE void clear_rows(const ConvGroupedParams& p, const GroupedRows& rows, unsigned char* ring) {
    const int32_t h = p.conv.geometry.h;
    if (rows.top >= 0 && rows.top + rows.count <= h) return;
    const int32_t vectors = p.row_bytes / 16;
    for (int32_t index = (int32_t)threadIdx.x; index < rows.count * vectors; index += GroupedTile::kThreads) {
        const int32_t row = index / vectors;
        if (rows.top + row >= 0 && rows.top + row < h) continue;
        const uint32_t place =
            wrap_in_ring(p, rows.place + (uint32_t)(row * p.row_bytes)) + (uint32_t)(index % vectors * 16);
        store_vector((uint32_t*)(ring + place), Vector<uint32_t, 4>{{0, 0, 0, 0}});
    }
}

// Brings rows of the block's input to the ring, as [row][patch_w][groups][quads of 4], and leaves the padding alone. x
// is contiguous: a thread reads kRun neighbours of each of the four planes of a quad and writes kRun pixels of the
// quad. `whole` says that the patch is as wide as the image and that rows of x follow each other without gaps: runs
// then cross their ends.
template <int kRun, typename T>
WC_DEVICE void fill_from_planes(const ConvGroupedParams& p, const GroupedBlock& block, const GroupedRows& rows,
                                const T* from, unsigned char* ring, bool whole) {
    const ConvGeometryParams& g = p.conv.geometry;
    const Tensor4& x = p.conv.x;
    // The part of the rows that lies in the image.
    struct {
        int32_t top, left, bottom, right;
    } inside = {rows.top, block.left, rows.top + rows.count, block.left + p.patch_w};
    if (inside.top < 0) inside.top = 0;
    if (inside.left < 0) inside.left = 0;
    if (inside.bottom > g.h) inside.bottom = g.h;
    if (inside.right > g.w) inside.right = g.w;
    if (inside.top >= inside.bottom || inside.left >= inside.right) return;
    const int32_t channels = g.c_in / g.groups, quads = block.groups * p.group_quads;
    // Runs start at multiples of kRun of a plane.
    const int32_t shift = (whole ? inside.top * x.stride_h : inside.left) % kRun;
    const int32_t length = whole ? (inside.bottom - inside.top) * g.w : inside.right - inside.left;
    const int32_t runs = (length + shift + kRun - 1) / kRun, lines = whole ? 1 : inside.bottom - inside.top;
    for (int32_t index = (int32_t)threadIdx.x; index < lines * runs * quads; index += GroupedTile::kThreads) {
        const int32_t quad = index % quads, run = index / quads % runs, top = inside.top + index / quads / runs;
        const int32_t line = top * x.stride_h, begin = line + inside.left, end = begin + length,
                      first = begin - shift + run * kRun;
        const int32_t exist = whole ? g.h * g.w : line + g.w; // elements of the plane
        const int32_t channel = quad % p.group_quads * 4;
        const T* plane =
            from + element(x, (block.first_group + quad / p.group_quads) * channels + channel, 0, 0) + first;
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
        // `first` may lie in the row above.
        int32_t row = whole ? first / g.w : top, column = first - row * x.stride_h;
        int32_t to[kRun]; // -1 for elements outside the rows
        uint32_t place =
            rows.place + (uint32_t)((row - rows.top) * p.row_bytes + (column - block.left) * p.pixel_bytes + quad * 8);
#pragma unroll
        for (int32_t e = 0; e < kRun; ++e) {
            to[e] = first + e >= begin && first + e < end ? (int32_t)wrap_in_ring(p, place) : -1;
            place += (uint32_t)p.pixel_bytes;
            if (++column == g.w) {
                column = 0;
                place += (uint32_t)(p.row_bytes - g.w * p.pixel_bytes);
            }
        }
        // Odd runs begin with their second half: pixels 8 apart share a bank, and pixels 4 apart are half of all banks
        // apart.
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

// Brings rows of the block's input to the ring; x is channels_last.
template <typename T, bool kWide>
WC_DEVICE void fill_from_pixels(const ConvGroupedParams& p, const GroupedBlock& block, const GroupedRows& rows,
                                const T* from, unsigned char* ring) {
    const ConvGeometryParams& g = p.conv.geometry;
    const Tensor4& x = p.conv.x;
    const int32_t pixels = rows.count * p.patch_w, channels = g.c_in / g.groups;
    const int32_t thread = (int32_t)threadIdx.x;
    // A pixel is whole vectors; the threads take as many pixels at once as they suffice for.
    const int32_t vectors = kWide ? block.groups * channels / 8 : block.groups * p.group_quads;
    const int32_t at_once = GroupedTile::kThreads / vectors, vector = thread % vectors;
    if (thread >= at_once * vectors) return;
    for (int32_t pixel = thread / vectors; pixel < pixels; pixel += at_once) {
        const int32_t row = pixel / p.patch_w, column = pixel % p.patch_w;
        const int32_t h = rows.top + row, w = block.left + column;
        if (h < 0 || h >= g.h || w < 0 || w >= g.w) continue;
        unsigned char* const to =
            ring + wrap_in_ring(p, rows.place + (uint32_t)(row * p.row_bytes)) + column * p.pixel_bytes;
        if constexpr (kWide) {
            copy_async<16>(to + vector * 16, from + element(x, block.first_group * channels + vector * 8, h, w), true);
        } else {
            const int32_t group = vector / p.group_quads, channel = vector % p.group_quads * 4;
            Vector<T, 4> values;
            for (int32_t c = 0; c < 4; ++c) {
                values.at[c] = T{0};
                if (channel + c < channels)
                    values.at[c] = from[element(x, (block.first_group + group) * channels + channel + c, h, w)];
            }
            store_vector((T*)(to + vector * 8), values);
        }
    }
}

// Contiguous and narrow inputs are loaded synchronously; wide channels_last copies arrive at the next wait.
template <typename T, bool kWide>
WC_DEVICE void fill_ring(const ConvGroupedParams& p, const GroupedBlock& block, const GroupedRows& rows, int32_t n,
                         unsigned char* ring) {
    const Tensor4& x = p.conv.x;
    const T* from = image<const T>(x, n);
    clear_rows(p, rows, ring);
    if (p.x_planes) {
        const bool whole =
            block.left <= 0 && block.left + p.patch_w >= p.conv.geometry.w && x.stride_h == p.conv.geometry.w;
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

// Writes 16 pixels x `run` channels of a warp's sums to a contiguous y; `pixel` is the index of the first one in the
// tile. The sums lie as [channel][kPlaneWords]. A lane takes 8 pixels of a channel, and neighbouring lanes take
// different channels, whose rows lie in different banks.
template <typename T>
WC_DEVICE void store_planes(const ConvGroupedParams& p, const GroupedBlock& block, int32_t n, const float* staging,
                            int32_t pixel, int32_t channel, int32_t run) {
    const ConvGeometryParams& g = p.conv.geometry;
    const Tensor4& y = p.conv.y;
    const EpilogueParams& tail = p.conv.epilogue;
    constexpr int32_t kLanes = 8; // lanes on different channels
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
        store_row(y, first, epilogue<T>(tail, sum, PixelRun{n, channel + c, h, w, g.w_out - w}), g.w_out - w, widest);
    }
}

// Writes 16 pixels x `run` channels of a warp's sums to a channels_last y. The sums lie as [pixel][kWords].
template <typename T, bool kWide, int kWords>
WC_DEVICE void store_channels(const ConvGroupedParams& p, const GroupedBlock& block, int32_t n, const float* staging,
                              int32_t pixel, int32_t channel, int32_t run) {
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
            // Odd pixels begin with their second half, since the first halves of the lanes would share half of the
            // banks.
            const bool second_first = m % 2 == 1;
            const Vector<float, 4> one = load_vector<4>(sums + (second_first ? 4 : 0)),
                                   other = load_vector<4>(sums + (second_first ? 0 : 4));
            float sum[8];
            for (int32_t c = 0; c < 4; ++c) {
                sum[c] = second_first ? other.at[c] : one.at[c];
                sum[c + 4] = second_first ? one.at[c] : other.at[c];
            }
            store_vector(to + element(y, channel + first, h, w),
                         epilogue<T>(tail, sum, ChannelRun{n, channel + first, h, w}));
        } else {
            for (int32_t c = first; c < first + kCount && c < run; ++c)
                to[element(y, channel + c, h, w)] = epilogue<T>(tail, staging[m * kWords + c], n, channel + c, h, w);
        }
    }
}

// Brings the weights of the block's groups to shared memory. Weights are whole steps, hence whole vectors.
WC_DEVICE void fetch_weights(const ConvGroupedParams& p, const GroupedBlock& block, unsigned char* to) {
    const int32_t group_bytes = p.steps * p.n_tiles * GroupedTile::kFragmentBytes;
    const unsigned char* from = (const unsigned char*)p.conv.weight + (int64_t)block.first_group * group_bytes;
    for (int32_t at = (int32_t)threadIdx.x * 16; at < block.groups * group_bytes; at += GroupedTile::kThreads * 16)
        copy_async<16>(to + at, from + at, true);
    copy_async_commit();
}

// Adds the products of a warp. `pixels` are the places in the ring of its fragments' rows, and a tap may lie beyond the
// ring's end; `weight` points to the lane's weights of the first step; `tiles` of the n8 exist.
template <typename T, bool kOwn, int kSets, int kRows, int kN>
WC_DEVICE void multiply(const ConvGroupedParams& p, float (&sum)[kSets][kRows][kN][4], const unsigned char* ring,
                        const uint32_t (&pixels)[kRows][2], const int32_t* offsets, const uint32_t* weight,
                        int32_t tiles) {
    const int32_t group_words = p.steps * p.n_tiles * 64;
    for (int32_t step = 0; step < p.steps; ++step, weight += p.n_tiles * 64) {
        const int32_t offset = offsets[step * 4];
        uint32_t b[kSets][kN][2];
#pragma unroll
        for (int32_t s = 0; s < kSets; ++s)
#pragma unroll
            for (int32_t t = 0; t < kN; ++t) {
                const bool there = (kOwn ? s : t) < tiles;
                const Vector<uint32_t, 2> two =
                    load_vector<2>(weight + (there ? (kOwn ? s * group_words : t * 64) : 0));
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
                    const uint32_t place =
                        wrap_in_ring(p, pixels[m][eight] + (uint32_t)(offset + s * p.group_quads * 8));
                    if (offset >= 0) two = load_vector<2>((const uint32_t*)(ring + place));
                    a[m][eight] = two.at[0];
                    a[m][eight + 2] = two.at[1];
                }
            }
            warp_mma<T, kRows, kN>(sum[s], a, b[s]);
        }
    }
}

// Computes the current tile for all groups of the block. A warp has kTiles n8 of output channels; with kOwn each is a
// group.
template <typename T, int kTiles, bool kOwn, bool kWide>
WC_DEVICE void compute_tile(const ConvGroupedParams& p, const GroupedBlock& block, const GroupedMemory& memory,
                            int32_t n) {
    const ConvGeometryParams& g = p.conv.geometry;
    constexpr int32_t kRows = GroupedTile::kRows, kPixels = GroupedTile::kPixels;
    constexpr int32_t kSets = kOwn ? kTiles : 1, kN = kOwn ? 1 : kTiles; // A operands, and n8 for each of them
    constexpr int32_t kWords = pixel_words<kTiles>();
    const int32_t lane = lane_index(), row = lane / 4, part = lane % 4;
    const int32_t tile_w = 1 << p.tile_w_log2, tile_pixels = p.tile_h << p.tile_w_log2;
    const int32_t outputs = g.c_out / g.groups;
    const int32_t chunks = (tile_pixels + kPixels - 1) / kPixels;
    const int32_t sets =
        kOwn ? (block.groups + kTiles - 1) / kTiles : block.groups * ((p.n_tiles + kTiles - 1) / kTiles);
    for (int32_t item = (int32_t)threadIdx.x / 32;; item += GroupedTile::kWarps) {
        const int32_t set = item / chunks, first_pixel = item % chunks * kPixels;
        if (set >= sets) break;
        if (block.row + (first_pixel >> p.tile_w_log2) >= g.h_out) continue;
        // The group within the block, its first n8, and how many groups or n8 there are.
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
                pixels[m][eight] =
                    wrap_in_ring(p, block.place + (uint32_t)line) +
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
            multiply<T, kOwn>(p, sum, memory.ring, pixels, memory.offsets + part,
                              (const uint32_t*)memory.weights + first, tiles);
        else
            multiply<T, kOwn>(
                p, sum, memory.ring, pixels, memory.offsets + part,
                (const uint32_t*)p.conv.weight + (int64_t)block.first_group * p.steps * p.n_tiles * 64 + first, tiles);

        const int32_t first_channel = (block.first_group + group) * outputs + first_tile * 8;
        const int32_t width = kOwn && outputs < 8 ? outputs : 8;
        const int32_t rest = kOwn ? tiles * outputs : outputs - first_tile * 8;
        const int32_t run = rest < 8 * kTiles ? rest : 8 * kTiles;
        const int32_t pixel_step = p.y_planes ? 1 : kWords, channel_step = p.y_planes ? GroupedTile::kPlaneWords : 1;
        const bool pairs = !p.y_planes && width % 2 == 0; // two neighbours in one access
#pragma unroll
        for (int32_t m = 0; m < kRows; ++m) {
            sync_warp(); // the previous sums are read; beyond `run` there is room for channels that do not exist
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

    for (int32_t slot = (int32_t)threadIdx.x; slot < p.steps * 4; slot += GroupedTile::kThreads)
        memory.offsets[slot] = slot_offset(p, slot);
    clear_ring(p, block, memory.ring);
    if (p.weight_bytes > 0) fetch_weights(p, block, memory.weights);

    for (int32_t n = (int32_t)blockIdx.y; n < g.n; n += (int32_t)gridDim.y) {
        block.place = (uint32_t)(p.ring_bytes - p.fresh_bytes);
        for (block.row = first_row - p.tile_h; block.row < end_row && block.row < g.h_out; block.row += p.tile_h) {
            const bool there = block.row >= first_row; // whether there is a tile to compute
            if (there) copy_async_wait<0>();           // the weights arrive here, too
            // This tile has arrived and the one above is done with; before the first tile, offsets and padding are written.
            __syncthreads();
            const uint32_t next = wrap_in_ring(p, block.place + (uint32_t)p.fresh_bytes);
            const int32_t next_row = block.row + p.tile_h;
            if (next_row < end_row && next_row < g.h_out) {
                const int32_t seen = there ? p.patch_h - p.fresh_h : 0, top = next_row * g.stride_h - g.pad_top;
                fill_ring<T, kWide>(
                    p, block, {top + seen, p.patch_h - seen, wrap_in_ring(p, next + (uint32_t)(seen * p.row_bytes))}, n,
                    memory.ring);
            }
            if (there) compute_tile<T, kTiles, kOwn, kWide>(p, block, memory, n);
            block.place = wrap_in_ring(p, block.place + (uint32_t)p.fresh_bytes);
        }
    }
}
