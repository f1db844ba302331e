// Sizes whose products leave 32 bits, without the memory that a tensor of such a size would take.
#include "device/mainloop.cuh"
#include "test.h"

// Where the weights of column tile `values[0]` begin: how many tiles lie before them.
WC_DEVICE void far_weights(const TestParams& p) {
    using Columns = Tile<64, 64, 32, 32>;
    const Steps steps{{0, 1}, {0, 1}, 1, 0, 1, 0};
    const WeightTiles<Columns> tiles(0, steps, 0, 1, p.values[0] + 1, p.values[0]);
    const int64_t begin = (int64_t)(uint64_t)tiles.next - (int64_t)threadIdx.x * kChunkBytes;
    buffer<float>(p, 0)[threadIdx.x] = (float)(begin / (Columns::kN * kRowBytes));
}
