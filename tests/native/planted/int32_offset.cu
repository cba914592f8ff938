// Planted bug: the offset of a row is computed in 32 bits and wraps beyond 2^31 elements.
#include "sample.h"

namespace {

__global__ void int32_offset(SampleArgs a) {
  const int at = static_cast<int>(static_cast<unsigned>(blockIdx.x) * static_cast<unsigned>(a.stride));
  float sum = 0;
  for (int c = threadIdx.x; c < a.cols; c += blockDim.x) sum += a.x[at + c];
  for (int delta = 16; delta > 0; delta /= 2) sum += __shfl_xor_sync(kd::kWholeWarp, sum, delta);
  if (threadIdx.x == 0) a.y[blockIdx.x] = sum;
}

const Sample run_int32_offset("int32_offset", [](const SampleArgs& a) {
  kd::launch(int32_offset, {static_cast<unsigned>(a.rows), 32}, nullptr, a);
});

}  // namespace
