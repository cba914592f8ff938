// Planted bug: one shared buffer serves every row in turn, and nothing keeps fast warps from filling it for
// the next row while slow ones still read it for this one.
#include "sample.h"

namespace {

__global__ void shared_race(SampleArgs a) {
  KD_SHARED(float, part, 32);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int64_t row = 0; row < a.rows; ++row) {
    float sum = 0;
    for (int64_t c = threadIdx.x; c < a.cols; c += blockDim.x) sum += a.x[row * a.stride + c];
    for (int delta = 16; delta > 0; delta /= 2) sum += __shfl_xor_sync(kd::kWholeWarp, sum, delta);
    if (lane == 0) part[warp] = sum;
    __syncthreads();
    sum = 0;
    for (unsigned w = 0; w < blockDim.x / 32; ++w) sum += part[w];
    if (threadIdx.x == 0) a.y[row] = sum;
    // A second __syncthreads() belongs here.
  }
}

const Sample run_shared_race("shared_race",
                             [](const SampleArgs& a) { kd::launch(shared_race, {1, 128}, nullptr, a); });

}  // namespace
