// The one global that kernels on the host device need, its setter and its getter.
#include "cuda_host.h"
extern "C" {
__thread WcLane* wc_lane;
void WC_JOIN(WC_PREFIX, set_lane)(WcLane* lane) { wc_lane = lane; }
WcLane* WC_JOIN(WC_PREFIX, get_lane)() { return wc_lane; }
}
