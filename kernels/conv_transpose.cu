// Transposed convolution by stride phases. No zeros are inserted between the pixels of x, and none are multiplied.
//
//   y[n, o, p, q] = epilogue( sum over (i, j, c)
//                             x[n, g*C + c, (p + top - i*dh) / sh, (q + left - j*dw) / sw] * w[c, o, i, j] )
//   over the taps (i, j) for which both quotients are whole and inside x;  C = c_in / groups,  g = o / (c_out / groups)
//
// Along one axis with stride s and dilation d let q = gcd(s, d). Outputs that are s apart form a phase. All outputs of
// a phase see the same taps, those with i*d = p + top (mod s): a class of taps that are s/q apart, or no tap at all.
// Neighbouring taps of a class read inputs d/q apart, and neighbouring outputs read inputs 1 apart. With its taps
// reversed, each of the sh*sw phases is therefore a dense convolution of stride 1 and dilation d/q, with a small filter
// and a padding of its own, whose outputs lie s apart. A phase without taps (k < s, or q > 1) gives the epilogue of 0.
//
// conv_transpose: all phases as implicit GEMMs (device/implicit_gemm.cuh has tiling, gathers and bound) in one launch.
// Neighbouring blocks take the channel tiles of a group, then the phases, so that blocks that read the same pixels run
// together, and long phases mix with short ones. Weights are packed class after class, kernel_h * kernel_w taps in all.
// Phases may differ in size; blocks beyond the last tile of a smaller phase return at once. Stores: the pixels of a
// phase are not neighbours. channels_last has runs of channels, stored in 16 bytes as usual. A contiguous y with sw > 1
// gets single elements, sw apart, and the phases of a row meet in L2. Most of the traffic is the reading of x, once for
// each tap.
//
// conv_transpose_columns: where d = 1 and k is a multiple of s on both axes, all phases are one GEMM of stride 1. With
// p + top = s*Q + i (i < s), the s x s outputs of block Q see the same inputs Q - t, and each has k/s taps i + s*t of
// its own. Rows of the GEMM are the blocks of all images, k is (t, c), columns are (i, j, o); the sums and their order
// are those of the phases. x is read once for each tap, not once for each tap and phase, for as many columns as a tile
// has, and phases of few channels fill a tile together (3 channels with s = 2 give 12 columns in one tile instead of 3
// in each of four tiles). This pays where the channels of a phase are fewer than those of a tile, or no multiple of
// them. Otherwise both do the same work, except that the padding may cut off outputs of the outermost blocks, which are
// then computed in vain (an image of 8 x 8 with padding 1 has 9 x 9 blocks). Stores: channels_last in runs of channels,
// as above. Where these are no multiples of 16 bytes, and for contiguous, element by element: neighbouring threads take
// neighbouring outputs of a block's row, then the next block. For the latter the weights of the contiguous gather are
// packed in the order (i, o, j).
//
// conv_transpose_direct: any configuration; one thread computes one output element (device/direct.cuh).
#include "device/direct.cuh"
#include "device/implicit_gemm.cuh"

// One axis. `period` is stride / gcd(stride, dilation), the distance of the taps that an output sees. `reach` is
// dilation / gcd(stride, dilation), the distance of their inputs. `inverse` is the inverse of reach modulo period.
struct TransposedAxis {
    int32_t stride, padding, dilation, kernel;
    int32_t period, reach, inverse;
    WC_DEVICE AxisTaps taps(int32_t output) const {
        const int32_t position = output + padding, phase = position % stride, divisor = stride / period;
        const int32_t first = phase % divisor == 0
                                  ? (int32_t)((uint32_t)(phase / divisor) * (uint32_t)inverse % (uint32_t)period)
                                  : kernel;
        if (first >= kernel) return {kernel, period, kernel, 0, 0};
        return {first, period, kernel, (position - first * dilation) / stride, -reach};
    }
    WC_DEVICE int32_t classes() const { return period < kernel ? period : kernel; }
    // Counts the taps of the classes before the one that begins with tap `first`.
    WC_DEVICE int32_t taps_before(int32_t first) const {
        const int32_t rest = kernel % period;
        return first * (kernel / period) + (first < rest ? first : rest);
    }
};
WC_DEVICE TransposedAxis vertical_axis(const ConvTransposeParams& p) {
    const ConvGeometryParams& g = p.conv.geometry;
    return {g.stride_h, g.pad_top, g.dilation_h, g.kernel_h, p.period_h, p.reach_h, p.inverse_h};
}
WC_DEVICE TransposedAxis horizontal_axis(const ConvTransposeParams& p) {
    const ConvGeometryParams& g = p.conv.geometry;
    return {g.stride_w, g.pad_left, g.dilation_w, g.kernel_w, p.period_w, p.reach_w, p.inverse_w};
}

// A phase of one axis as a convolution of stride 1.
struct AxisPhase {
    int32_t outputs, taps, padding;
};
WC_DEVICE AxisPhase axis_phase(const TransposedAxis& axis, const AxisTaps& first_output, int32_t index,
                               int32_t outputs) {
    const int32_t taps = (axis.kernel - first_output.first + axis.period - 1) / axis.period;
    return {(outputs - index - 1) / axis.stride + 1, taps, (taps - 1) * axis.reach - first_output.position};
}

template <typename T, typename Tile, GatherKind kKind> WC_DEVICE void conv_transpose(const ConvTransposeParams& p) {
    constexpr int kK = kRowBytes / sizeof(T);
    const ConvGeometryParams& g = p.conv.geometry;
    const int32_t tiles = column_tiles<Tile>(g), phases_w = g.stride_w < g.w_out ? g.stride_w : g.w_out;
    const int32_t phases = (g.stride_h < g.h_out ? g.stride_h : g.h_out) * phases_w;
    int32_t rest = (int32_t)blockIdx.x;
    const int32_t column_tile = rest % tiles;
    rest /= tiles;
    const int32_t top = rest % phases / phases_w, left = rest % phases % phases_w; // the first output of the phase
    rest /= phases;
    const int32_t group = rest % g.groups, row_tile = rest / g.groups;

    const TransposedAxis vertical = vertical_axis(p), horizontal = horizontal_axis(p);
    const AxisTaps rows = vertical.taps(top), columns = horizontal.taps(left);
    const AxisPhase h = axis_phase(vertical, rows, top, g.h_out), w = axis_phase(horizontal, columns, left, g.w_out);
    // The steps of a class begin where the products before it end, plus one step for each class before it, whose last
    // step may be partial.
    const int32_t channels = g.c_in / g.groups, classes_w = horizontal.classes();
    const int32_t taps_before =
        vertical.taps_before(rows.first) * g.kernel_w + h.taps * horizontal.taps_before(columns.first);
    const int32_t first_step = taps_before * channels / kK + rows.first * classes_w + columns.first;
    const int32_t total_steps = g.kernel_h * g.kernel_w * channels / kK + vertical.classes() * classes_w;

    ConvParams phase = p.conv;
    phase.weight += (int64_t)first_step * tiles * (Tile::kN * kRowBytes);
    phase.geometry = {g.n,    g.c_in, g.h, g.w,       g.c_out,   h.outputs, w.outputs, h.taps,
                      w.taps, 1,      1,   h.padding, w.padding, p.reach_h, p.reach_w, g.groups};
    if (row_tile * Tile::kM >= g.n * h.outputs * w.outputs) return; // phases have as many tiles as the largest one
    implicit_gemm<T, Tile, kKind>(phase, (row_tile * g.groups + group) * tiles + column_tile, total_steps,
                                  OutputSteps{top, left, g.stride_h, g.stride_w});
}

// The blocks of outputs along an axis on which every class has equally many taps, one input apart. A block has one
// output of each class and sees the same inputs, like one output of a convolution of stride 1. The padding cuts off the
// first `inset` outputs of the first block.
struct AxisBlocks {
    int32_t outputs, taps, padding, inset;
};
WC_DEVICE AxisBlocks axis_blocks(int32_t stride, int32_t padding, int32_t kernel, int32_t outputs) {
    const int32_t first = padding / stride, taps = kernel / stride;
    return {(padding + outputs - 1) / stride - first + 1, taps, taps - 1 - first, padding % stride};
}

template <typename T, typename Tile, GatherKind kKind>
WC_DEVICE void conv_transpose_columns(const ConvTransposeParams& p) {
    constexpr int kK = kRowBytes / sizeof(T);
    const ConvGeometryParams& g = p.conv.geometry;
    const AxisBlocks h = axis_blocks(g.stride_h, g.pad_top, g.kernel_h, g.h_out),
                     w = axis_blocks(g.stride_w, g.pad_left, g.kernel_w, g.w_out);
    ConvParams all = p.conv;
    all.geometry = {g.n,       g.c_in,    g.h,       g.w,    g.stride_h * g.stride_w * g.c_out,
                    h.outputs, w.outputs, h.taps,    w.taps, 1,
                    1,         h.padding, w.padding, 1,      1,
                    g.groups};
    const int32_t total_steps = (h.taps * w.taps * (g.c_in / g.groups) + kK - 1) / kK;
    const OutputClasses<kKind == GatherKind::kPixels> classes{
        {-h.inset, -w.inset, g.stride_h, g.stride_w}, g.c_out / g.groups, g.h_out, g.w_out};
    implicit_gemm<T, Tile, kKind>(all, (int32_t)blockIdx.x, total_steps, classes);
}

template <typename T, bool kChannelsLast> WC_DEVICE void conv_transpose_direct(const ConvTransposeParams& p) {
    convolve_directly<T, kChannelsLast>(p.conv, vertical_axis(p), horizontal_axis(p));
}
