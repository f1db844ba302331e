// The second launch of a convolution whose k is split over blocks (conv_gemm_split of conv_gemm.cu):
//
//   y[m, o] = epilogue( sum over parts of part[m, o] )     parts: f32 [part][n][h][w][channel], in the workspace
//
// Tiling: a thread has 16 bytes of neighbouring channels of a pixel, so C_out is a multiple of such a chunk. It adds
// the parts in their order, so that the result is the same in every run.
//
// Bound: latency; the parts are few enough to stay in L2. Ladder: (1) 16-byte loads and stores; (2) the loads of four
// parts at once.
#include "device/tile_store.cuh"

template <typename T> WC_DEVICE void split_sum(const ConvSplitParams& p) {
    constexpr int kChunk = kChunkBytes / sizeof(T);
    const ConvGeometryParams& g = p.conv.geometry;
    const int32_t chunks = g.c_out / kChunk, item = (int32_t)(blockIdx.x * blockDim.x + threadIdx.x);
    if (item >= g.n * g.h_out * g.w_out * chunks) return;
    const int32_t channel = item % chunks * kChunk;
    const Pixel at = output_pixel(g, item / chunks);

    float sum[kChunk] = {};
    const float* from = image<const float>(p.conv.x, at.n) + element(p.conv.x, channel, at.h, at.w);
#pragma unroll 4
    for (int32_t part = 0; part < p.parts; ++part, from += g.n * p.conv.x.stride_n)
#pragma unroll
        for (int i = 0; i < kChunk; i += 4) {
            const Vector<float, 4> four = load_vector<4>(from + i);
            for (int k = 0; k < 4; ++k) sum[i + k] += four.at[k];
        }
    if (runs_of_chunks<kChunk>(p.conv)) return ChannelStore<T>(p.conv, channel).store(p.conv, sum, at);
    for (int i = 0; i < kChunk; ++i) store_element<T>(p.conv, sum[i], at, channel + i);
}
