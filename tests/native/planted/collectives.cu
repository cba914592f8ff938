// Every warp and block collective on one block of 96 threads: y [16, 96], a row for each.
#include "sample.h"

namespace {

using kd::kWholeWarp;

__global__ void collectives(SampleArgs a) {
  const int i = threadIdx.x, lane = i % 32, n = blockDim.x;
  const float value = a.x[i];
  const int number = static_cast<int>(value);
  const bool odd = number % 2 != 0;
  int row = 0;
  auto put = [&](float result) { a.y[row++ * n + i] = result; };
  put(__shfl_sync(kWholeWarp, value, 5));
  put(__shfl_sync(kWholeWarp, value, lane + 3, 8));
  put(__shfl_up_sync(kWholeWarp, value, 2));
  put(__shfl_down_sync(kWholeWarp, value, 3, 16));
  put(__shfl_xor_sync(kWholeWarp, value, 9));
  put(static_cast<float>(__shfl_xor_sync(kWholeWarp, static_cast<double>(value), 16)));
  put(static_cast<float>(__ballot_sync(kWholeWarp, odd) >> 8));
  put(static_cast<float>(__all_sync(kWholeWarp, odd)));
  put(static_cast<float>(__any_sync(kWholeWarp, odd)));
  put(static_cast<float>(__reduce_add_sync(kWholeWarp, number)));
  put(static_cast<float>(__reduce_min_sync(kWholeWarp, -number)));
  put(static_cast<float>(__reduce_max_sync(kWholeWarp, static_cast<unsigned>(number))));
  put(static_cast<float>(__reduce_xor_sync(kWholeWarp, static_cast<unsigned>(number))));
  put(static_cast<float>(__syncthreads_count(odd)));
  put(static_cast<float>(__syncthreads_or(number > 1000)));
  // Half a warp with its own mask, the other half elsewhere.
  float halves = value;
  if (lane < 16) {
    halves = __shfl_down_sync(0x0000ffffu, value, 1, 16);
  } else {
    halves = __shfl_xor_sync(0xffff0000u, value, 1);
  }
  put(halves);
}

const Sample run_collectives("collectives",
                             [](const SampleArgs& a) { kd::launch(collectives, {1, 96}, nullptr, a); });

}  // namespace
