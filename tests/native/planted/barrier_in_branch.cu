// Planted bugs in block barriers: one that only some threads reach, and two that meet each other.
#include "sample.h"

namespace {

__global__ void barrier_in_branch(SampleArgs a) {
  if (threadIdx.x < a.cols) {
    a.y[threadIdx.x] = a.x[threadIdx.x];
    __syncthreads();
  }
}

__global__ void two_barriers(SampleArgs a) {
  if (threadIdx.x < a.cols) {
    a.y[threadIdx.x] = a.x[threadIdx.x];
    __syncthreads();
  } else {
    __syncthreads();
  }
}

const Sample run_barrier_in_branch("barrier_in_branch", [](const SampleArgs& a) {
  kd::launch(barrier_in_branch, {1, 64}, nullptr, a);
});
const Sample run_two_barriers("two_barriers",
                              [](const SampleArgs& a) { kd::launch(two_barriers, {1, 64}, nullptr, a); });

}  // namespace
