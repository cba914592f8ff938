// Planted bug: the first warp reads the other warps' sums without waiting for them.
#include "sample.h"

namespace {

__global__ void missing_barrier(SampleArgs a) {
  KD_SHARED(float, part, 32);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  float sum = 0;
  for (int64_t c = threadIdx.x; c < a.cols; c += blockDim.x) sum += a.x[blockIdx.x * a.stride + c];
  for (int delta = 16; delta > 0; delta /= 2) sum += __shfl_xor_sync(kd::kWholeWarp, sum, delta);
  if (lane == 0) part[warp] = sum;
  // __syncthreads() is missing here.
  if (threadIdx.x == 0) {
    sum = 0;
    for (unsigned w = 0; w < blockDim.x / 32; ++w) sum += part[w];
    a.y[blockIdx.x] = sum;
  }
}

const Sample run_missing_barrier("missing_barrier", [](const SampleArgs& a) {
  kd::launch(missing_barrier, {static_cast<unsigned>(a.rows), 256}, nullptr, a);
});

}  // namespace
