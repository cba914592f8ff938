// Kernels without a bug: the emulated device must run them, in every order of threads, and give the right
// numbers.
#include "sample.h"

namespace {

using kd::kWarpThreads;
using kd::kWholeWarp;

__device__ float warp_sum(float value) {
  for (int delta = kWarpThreads / 2; delta > 0; delta /= 2)
    value += __shfl_xor_sync(kWholeWarp, value, delta);
  return value;
}

// y[row] = sum of the row; one block a row, two levels: lanes of a warp, warps of a block.
__global__ void row_sum(SampleArgs a) {
  KD_SHARED(float, part, 32);
  const int lane = threadIdx.x % kWarpThreads, warp = threadIdx.x / kWarpThreads;
  for (int64_t row = blockIdx.x; row < a.rows; row += gridDim.x) {
    float sum = 0;
    for (int64_t c = threadIdx.x; c < a.cols; c += blockDim.x) sum += a.x[row * a.stride + c];
    sum = warp_sum(sum);
    if (lane == 0) part[warp] = sum;
    __syncthreads();
    const int warps = blockDim.x / kWarpThreads;
    sum = warp_sum(lane < warps ? part[lane] : 0.0f);
    if (threadIdx.x == 0) a.y[row] = sum;
    __syncthreads();
  }
}

// The same through dynamic shared memory, as a tree over the threads.
__global__ void row_sum_tree(SampleArgs a) {
  KD_SHARED_DYNAMIC(float, part);
  for (int64_t row = blockIdx.x; row < a.rows; row += gridDim.x) {
    float sum = 0;
    for (int64_t c = threadIdx.x; c < a.cols; c += blockDim.x) sum += a.x[row * a.stride + c];
    part[threadIdx.x] = sum;
    for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {
      __syncthreads();
      if (threadIdx.x < half) part[threadIdx.x] += part[threadIdx.x + half];
    }
    if (threadIdx.x == 0) a.y[row] = part[0];
    __syncthreads();
  }
}

// Lanes hand a value on through shared memory, ordered by __syncwarp alone: y[i] = x[the next lane's i].
__global__ void rotate_in_warp(SampleArgs a) {
  KD_SHARED(float, slot, 1024);
  const int i = threadIdx.x, next = i / kWarpThreads * kWarpThreads + (i + 1) % kWarpThreads;
  slot[i] = a.x[i];
  __syncwarp();
  a.y[i] = slot[next];
}

// y [0, 64): how many values fall into each bin; integer atomics, in shared and in global memory.
__global__ void histogram(SampleArgs a) {
  KD_SHARED(int, bin, 64);
  int* total = reinterpret_cast<int*>(a.y);
  for (int b = threadIdx.x; b < 64; b += blockDim.x) bin[b] = 0;
  __syncthreads();
  for (int64_t i = blockIdx.x * blockDim.x + threadIdx.x; i < a.cols; i += gridDim.x * blockDim.x) {
    atomicAdd(&bin[static_cast<int>(a.x[i]) % 64], 1);
  }
  __syncthreads();
  for (int b = threadIdx.x; b < 64; b += blockDim.x) atomicAdd(&total[b], bin[b]);
}

const Sample run_row_sum("row_sum", [](const SampleArgs& a) { kd::launch(row_sum, {2, 256}, nullptr, a); });
const Sample run_row_sum_tree("row_sum_tree", [](const SampleArgs& a) {
  kd::launch(row_sum_tree, {2, 128, 128 * sizeof(float)}, nullptr, a);
});
const Sample run_rotate_in_warp("rotate_in_warp",
                                [](const SampleArgs& a) { kd::launch(rotate_in_warp, {1, 96}, nullptr, a); });
const Sample run_histogram("histogram",
                           [](const SampleArgs& a) { kd::launch(histogram, {3, 64}, nullptr, a); });

}  // namespace
