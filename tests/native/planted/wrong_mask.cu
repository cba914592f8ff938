// Planted bugs in warp shuffles: a mask that leaves the caller out, and a full mask where half the warp has
// gone home.
#include "sample.h"

namespace {

__global__ void wrong_mask(SampleArgs a) {
  float sum = a.x[threadIdx.x];
  for (int delta = 16; delta > 0; delta /= 2) sum += __shfl_xor_sync(0x0000ffffu, sum, delta);
  a.y[threadIdx.x] = sum;
}

__global__ void absent_lanes(SampleArgs a) {
  if (threadIdx.x >= a.cols) return;
  float sum = a.x[threadIdx.x];
  for (int delta = 16; delta > 0; delta /= 2) sum += __shfl_xor_sync(kd::kWholeWarp, sum, delta);
  a.y[threadIdx.x] = sum;
}

const Sample run_wrong_mask("wrong_mask",
                            [](const SampleArgs& a) { kd::launch(wrong_mask, {1, 32}, nullptr, a); });
const Sample run_absent_lanes("absent_lanes",
                              [](const SampleArgs& a) { kd::launch(absent_lanes, {1, 32}, nullptr, a); });

}  // namespace
