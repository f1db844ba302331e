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
// Tiling: a block computes a tile of pixels for some groups. The input that they see goes to shared memory once,
// channels_last and zero outside the image: all taps and all groups read it from there. A warp computes 64 pixels x up
// to 32 output channels at a time: four groups of up to 8 (kOwn: each n8 has an A of its own), or one group. Weights are packed
// in the order of the lanes' fragments, [group][step][n8][lane][4], and come from L1.
//
// kWide: x and y channels_last with 16-byte accesses (cp.async in, one store for 8 channels out). Otherwise element by element
// along whichever of channels and columns are neighbours, in any format and alignment.
//
// Bound: DRAM, as long as shared memory keeps up: each input element is read from it once for each tap, 8 bytes a lane
// without bank conflicts (the host chooses pixel_bytes and row_bytes so).
#include "device/async_copy.cuh"
#include "device/epilogue.cuh"
#include "device/mma.cuh"
#include "device/warp.cuh"

struct GroupedTile {
    static constexpr int32_t kThreads = 256;
    static constexpr int32_t kWarps = kThreads / 32;
    static constexpr int32_t kRows = 4; // m16 fragments of pixels a warp
    static constexpr int32_t kPixels = 16 * kRows;
};
// Words of a pixel in a warp's staging area: 8 or 24 modulo 32, so that the rows of a fragment lie in different banks.
template <int kTiles> constexpr int32_t staging_words() {
    return 8 * kTiles % 16 == 8 ? 8 * kTiles : 8 * kTiles + 8;
}

// A block's place.
struct GroupedBlock {
    int32_t first_group, groups; // groups that exist
    int32_t row, column;         // the first output pixel
    int32_t top, left;           // the first input pixel, which may lie in the padding
};

// The distance in the patch from a pixel's first tap to the quad of a slot, or -1 where the slot is padding.
WC_DEVICE int32_t slot_offset(const ConvGroupedParams& p, int32_t slot) {
    const ConvGeometryParams& g = p.conv.geometry;
    const int32_t i = slot / p.row_slots, quad = slot % p.row_slots;
    const int32_t j = quad / p.group_quads;
    if (i >= g.kernel_h || j >= g.kernel_w) return -1;
    return i * g.dilation_h * p.row_bytes + j * g.dilation_w * p.pixel_bytes + quad % p.group_quads * 8;
}

// Brings the block's input to shared memory: [patch_h][patch_w][groups][quads of 4].
template <typename T, bool kWide>
WC_DEVICE void fill_patch(const ConvGroupedParams& p, const GroupedBlock& block, int32_t n, unsigned char* patch) {
    const ConvGeometryParams& g = p.conv.geometry;
    const Tensor4& x = p.conv.x;
    const T* from = image<const T>(x, n);
    const int32_t pixels = p.patch_h * p.patch_w, channels = g.c_in / g.groups;
    const int32_t thread = (int32_t)threadIdx.x;
    if constexpr (kWide) {
        // whole vectors a pixel, and as many pixels at once as the threads suffice for
        const int32_t vectors = block.groups * channels / 8, at_once = GroupedTile::kThreads / vectors;
        const int32_t vector = thread % vectors, first = block.first_group * channels + vector * 8;
        if (thread < at_once * vectors) {
            for (int32_t pixel = thread / vectors; pixel < pixels; pixel += at_once) {
                const int32_t row = pixel / p.patch_w, column = pixel % p.patch_w;
                const int32_t h = block.top + row, w = block.left + column;
                const bool inside = h >= 0 && h < g.h && w >= 0 && w < g.w;
                copy_async<16>(patch + row * p.row_bytes + column * p.pixel_bytes + vector * 16,
                               from + (inside ? element(x, first, h, w) : first), inside);
            }
        }
        copy_async_commit();
        copy_async_wait<0>();
    } else {
        const int32_t quads = block.groups * p.group_quads;
        const bool channels_last = x.stride_c == 1;
        for (int32_t index = thread; index < pixels * quads; index += GroupedTile::kThreads) {
            const int32_t pixel = channels_last ? index / quads : index % pixels;
            const int32_t quad = channels_last ? index % quads : index / pixels;
            const int32_t row = pixel / p.patch_w, column = pixel % p.patch_w;
            const int32_t h = block.top + row, w = block.left + column;
            const int32_t group = quad / p.group_quads, channel = quad % p.group_quads * 4;
            const bool inside = h >= 0 && h < g.h && w >= 0 && w < g.w;
            Vector<T, 4> values;
            for (int32_t c = 0; c < 4; ++c) {
                values.at[c] = T{0};
                if (inside && channel + c < channels)
                    values.at[c] = from[element(x, (block.first_group + group) * channels + channel + c, h, w)];
            }
            store_vector((T*)(patch + row * p.row_bytes + column * p.pixel_bytes + quad * 8), values);
        }
    }
    __syncthreads();
}

// Writes 16 pixels x `run` channels of a warp's sums to y; `pixel` is the tile's index of the first pixel.
template <typename T, bool kWide, int kWords>
WC_DEVICE void store_pixels(const ConvGroupedParams& p, const GroupedBlock& block, int32_t n, const float* staging, int32_t pixel,
                            int32_t channel, int32_t run) {
    const ConvGeometryParams& g = p.conv.geometry;
    const Tensor4& y = p.conv.y;
    const EpilogueParams& tail = p.conv.epilogue;
    T* to = image<T>(y, n);
    constexpr int32_t kCount = kWide ? 8 : 1;
    const int32_t vectors = (run + kCount - 1) / kCount;
    const bool channels_first = !kWide && y.stride_c != 1;
    for (int32_t index = lane_index(); index < 16 * vectors; index += 32) {
        const int32_t m = channels_first ? index % 16 : index / vectors;
        const int32_t first = (channels_first ? index / 16 : index % vectors) * kCount;
        const int32_t h = block.row + (pixel + m >> p.tile_w_log2);
        const int32_t w = block.column + (pixel + m & (1 << p.tile_w_log2) - 1);
        if (h >= g.h_out || w >= g.w_out || pixel + m >= p.tile_h << p.tile_w_log2) continue;
        const float* sums = staging + m * kWords + first;
        if (kWide && first + kCount <= run) {
            float sum[8];
            for (int32_t c = 0; c < 8; c += 4) {
                const Vector<float, 4> four = load_vector<4>(sums + c);
                for (int32_t i = 0; i < 4; ++i) sum[c + i] = four.at[i];
            }
            store_vector(to + element(y, channel + first, h, w), epilogue_channels<T>(tail, sum, n, channel + first, h, w));
        } else {
            for (int32_t c = first; c < first + kCount && c < run; ++c)
                to[element(y, channel + c, h, w)] = epilogue<T>(tail, staging[m * kWords + c], n, channel + c, h, w);
        }
    }
}

// kTiles n8 of output channels a warp; kOwn: each of them is a group.
template <typename T, int kTiles, bool kOwn, bool kWide> WC_DEVICE void conv_grouped(const ConvGroupedParams& p) {
    const ConvGeometryParams& g = p.conv.geometry;
    constexpr int32_t kRows = GroupedTile::kRows, kPixels = GroupedTile::kPixels;
    constexpr int32_t kSets = kOwn ? kTiles : 1, kN = kOwn ? 1 : kTiles; // A operands, and n8 for each of them
    constexpr int32_t kWords = staging_words<kTiles>();

    unsigned char* const shared = shared_memory();
    float* const staging = (float*)shared + threadIdx.x / 32 * (16 * kWords);
    int32_t* const offsets = (int32_t*)shared + GroupedTile::kWarps * 16 * kWords;
    unsigned char* const patch = (unsigned char*)(offsets + p.steps * 4);

    const int32_t tile_w = 1 << p.tile_w_log2, tile_pixels = p.tile_h << p.tile_w_log2;
    const int32_t columns = (g.w_out + tile_w - 1) / tile_w;
    const int32_t group_blocks = (g.groups + p.block_groups - 1) / p.block_groups;
    const int32_t tile = (int32_t)blockIdx.x / group_blocks;
    GroupedBlock block;
    block.first_group = (int32_t)blockIdx.x % group_blocks * p.block_groups;
    block.groups = g.groups - block.first_group < p.block_groups ? g.groups - block.first_group : p.block_groups;
    block.row = tile / columns * p.tile_h;
    block.column = tile % columns * tile_w;
    block.top = block.row * g.stride_h - g.pad_top;
    block.left = block.column * g.stride_w - g.pad_left;

    for (int32_t slot = (int32_t)threadIdx.x; slot < p.steps * 4; slot += GroupedTile::kThreads) offsets[slot] = slot_offset(p, slot);

    const int32_t lane = lane_index(), row = lane / 4, part = lane % 4;
    const int32_t outputs = g.c_out / g.groups;
    const int32_t chunks = (tile_pixels + kPixels - 1) / kPixels;
    const int32_t sets = kOwn ? (block.groups + kTiles - 1) / kTiles : block.groups * ((p.n_tiles + kTiles - 1) / kTiles);
    const uint32_t* const weights = (const uint32_t*)p.conv.weight + lane * 2;

    for (int32_t n = (int32_t)blockIdx.y; n < g.n; n += (int32_t)gridDim.y) {
        __syncthreads(); // the patch of the image before is read, the offsets are written
        fill_patch<T, kWide>(p, block, n, patch);
        for (int32_t item = (int32_t)threadIdx.x / 32; item < sets * chunks; item += GroupedTile::kWarps) {
            const int32_t set = item / chunks, first_pixel = item % chunks * kPixels;
            if (block.row + (first_pixel >> p.tile_w_log2) >= g.h_out) continue;
            // the group in the block, its first n8, and how many of each there are
            const int32_t group_sets = kOwn ? 1 : (p.n_tiles + kTiles - 1) / kTiles;
            const int32_t group = kOwn ? set * kTiles : set / group_sets;
            const int32_t first_tile = kOwn ? 0 : set % group_sets * kTiles;
            const int32_t left = kOwn ? block.groups - group : p.n_tiles - first_tile;
            const int32_t tiles = left < kTiles ? left : kTiles;

            const unsigned char* pixels[kRows][2];
#pragma unroll
            for (int32_t m = 0; m < kRows; ++m) {
#pragma unroll
                for (int32_t eight = 0; eight < 2; ++eight) {
                    const int32_t at = first_pixel + m * 16 + eight * 8 + row, pixel = at < tile_pixels ? at : 0;
                    pixels[m][eight] = patch + group * p.group_quads * 8 + (pixel >> p.tile_w_log2) * g.stride_h * p.row_bytes +
                                      (pixel & tile_w - 1) * g.stride_w * p.pixel_bytes;
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

            const uint32_t* weight = weights + ((int64_t)(block.first_group + group) * p.steps * p.n_tiles + first_tile) * 64;
            const int32_t group_words = p.steps * p.n_tiles * 64;
            for (int32_t step = 0; step < p.steps; ++step, weight += p.n_tiles * 64) {
                const int32_t offset = offsets[step * 4 + part];
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
                            if (offset >= 0) two = load_vector<2>((const uint32_t*)(pixels[m][eight] + offset + s * p.group_quads * 8));
                            a[m][eight] = two.at[0];
                            a[m][eight + 2] = two.at[1];
                        }
                    }
                    warp_mma<T, kRows, kN>(sum[s], a, b[s]);
                }
            }

            const int32_t channel = (block.first_group + group) * outputs + first_tile * 8;
            const int32_t width = kOwn && outputs < 8 ? outputs : 8;
            const int32_t rest = kOwn ? tiles * outputs : outputs - first_tile * 8;
            const int32_t run = rest < 8 * kTiles ? rest : 8 * kTiles;
#pragma unroll
            for (int32_t m = 0; m < kRows; ++m) {
                sync_warp(); // the sums before are read
#pragma unroll
                for (int32_t t = 0; t < kTiles; ++t)
#pragma unroll
                    for (int32_t i = 0; i < 4; ++i) {
                        const int32_t column = part * 2 + i % 2;
                        if (column < width && t * width + column < run)
                            staging[(row + i / 2 * 8) * kWords + t * width + column] = sum[kOwn ? t : 0][m][kOwn ? 0 : t][i];
                    }
                sync_warp();
                store_pixels<T, kWide, kWords>(p, block, n, staging, first_pixel + m * 16, channel, run);
            }
        }
    }
}
