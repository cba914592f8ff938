// A thread an inner number over a few outer rows, so that a number of the mask is drawn once for all of them.
#include "../random_mask.h"
#include "launch.cuh"

namespace kd {
namespace {

constexpr int kThreads = 256, kRows = 16;

template <class T>
__global__ void __launch_bounds__(kThreads) random_mask(RandomMaskArgs args) {
  KD_SHARED(int, kept, kRows);
  const int64_t runs = (args.inner + kThreads - 1) / kThreads, groups = (args.outer + kRows - 1) / kRows;
  const int64_t b = blockIdx.x / (runs * groups), rest = blockIdx.x % (runs * groups);
  const int64_t i = rest % runs * kThreads + threadIdx.x, first = rest / runs * kRows;
  const int rows = static_cast<int>(args.outer - first < kRows ? args.outer - first : kRows);
  if (!args.by_inner && threadIdx.x < static_cast<unsigned>(rows))
    kept[threadIdx.x] = is_kept(args, b, first + threadIdx.x);
  __syncthreads();
  if (i >= args.inner) return;
  const bool own = args.by_inner && is_kept(args, b, i);
  for (int r = 0; r < rows; ++r) {
    const int64_t at = b * args.x_stride[0] + (first + r) * args.x_stride[1] + i * args.x_stride[2];
    const int64_t to = b * args.out_stride[0] + (first + r) * args.out_stride[1] + i * args.out_stride[2];
    const bool keep = args.by_inner ? own : kept[r] != 0;
    static_cast<T*>(args.out)[to] = keep ? static_cast<const T*>(args.x)[at] : T(0);
  }
}

template <class T>
void run_random_mask(const RandomMaskArgs& args, cudaStream_t stream) {
  const int64_t runs = (args.inner + kThreads - 1) / kThreads, groups = (args.outer + kRows - 1) / kRows;
  launch(random_mask<T>, {static_cast<unsigned>(args.batch * runs * groups), kThreads}, stream, args);
}

}  // namespace
}  // namespace kd

extern "C" void kd_random_mask_cuda(const kd::RandomMaskArgs& args, int, void* stream) {
  const auto on = static_cast<cudaStream_t>(stream);
  if (args.bytes == 2) return kd::run_random_mask<uint16_t>(args, on);
  if (args.bytes == 4) return kd::run_random_mask<uint32_t>(args, on);
  kd::run_random_mask<uint64_t>(args, on);
}
