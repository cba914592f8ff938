// Planted bug: off by one at the end of a row; the last row reads one element past its array.
#include "sample.h"

namespace {

__global__ void long_tail(SampleArgs a) {
  float sum = 0;
  for (int64_t c = threadIdx.x; c <= a.cols; c += blockDim.x) sum += a.x[blockIdx.x * a.stride + c];
  for (int delta = 16; delta > 0; delta /= 2) sum += __shfl_xor_sync(kd::kWholeWarp, sum, delta);
  if (threadIdx.x == 0) a.y[blockIdx.x] = sum;
}

const Sample run_long_tail("long_tail", [](const SampleArgs& a) {
  kd::launch(long_tail, {static_cast<unsigned>(a.rows), 32}, nullptr, a);
});

}  // namespace
