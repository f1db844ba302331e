// What the 32 lanes of a warp do together. Every lane of the warp must reach the same call: there is no partial mask.
#pragma once
#include "scalar.cuh"

#ifdef __CUDACC__
// Orders the lanes' accesses to shared memory before the call and after it.
WC_DEVICE void sync_warp() { __syncwarp(); }
WC_DEVICE uint32_t shuffle(uint32_t value, int32_t source_lane) { return __shfl_sync(0xffffffffu, value, source_lane); }
// The votes of all lanes; bit l is the vote of lane l.
WC_DEVICE uint32_t ballot(bool vote) { return __ballot_sync(0xffffffffu, vote); }
#else
WC_DEVICE void sync_warp() { wc_lane->calls->sync_warp(wc_lane); }

struct ShuffleArgs {
    uint32_t value, source, result;
};
WC_UNCHECKED inline void shuffle_act(void** lanes) {
    for (int l = 0; l < 32; ++l) {
        ShuffleArgs* a = (ShuffleArgs*)lanes[l];
        a->result = ((ShuffleArgs*)lanes[a->source % 32])->value;
    }
}
WC_DEVICE uint32_t shuffle(uint32_t value, int32_t source_lane) {
    ShuffleArgs a{value, (uint32_t)source_lane, 0};
    wc_lane->calls->collective(wc_lane, shuffle_act, &a);
    return a.result;
}

struct BallotArgs {
    uint32_t vote, result;
};
WC_UNCHECKED inline void ballot_act(void** lanes) {
    uint32_t votes = 0;
    for (int l = 0; l < 32; ++l) votes |= ((BallotArgs*)lanes[l])->vote << l;
    for (int l = 0; l < 32; ++l) ((BallotArgs*)lanes[l])->result = votes;
}
WC_DEVICE uint32_t ballot(bool vote) {
    BallotArgs a{vote ? 1u : 0u, 0};
    wc_lane->calls->collective(wc_lane, ballot_act, &a);
    return a.result;
}
#endif

WC_DEVICE int32_t lane_index() { return (int32_t)(threadIdx.x % 32); }
WC_DEVICE float shuffle(float value, int32_t source_lane) {
    return bits_float(shuffle(float_bits(value), source_lane));
}
WC_DEVICE float shuffle_xor(float value, int32_t lane_mask) { return shuffle(value, lane_index() ^ lane_mask); }
WC_DEVICE bool any(bool vote) { return ballot(vote) != 0; }
WC_DEVICE bool all(bool vote) { return ballot(vote) == 0xffffffffu; }
