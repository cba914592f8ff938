// A block a class and a few features, a thread a feature. The block goes through the targets a chunk at a
// time, lists the chunk's rows of its class in their order, and adds them: every row is read by one class
// alone, and the order of the additions is that of the rows.
#include <assert.h>

#include "../class_sums.h"
#include "maps.cuh"

namespace kd {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarpThreads;

KD_DEVICE int64_t blocks_of_width(const ClassSumsArgs& args) {
  return args.width > 0 ? (args.width + kThreads - 1) / kThreads : 1;
}

// Lists in `row` the rows first ... first + kThreads - 1 of class k, in order; returns how many. Its first
// barrier also makes every reader of the last list finish before `row` is written again.
KD_DEVICE int list_rows(const ClassSumsArgs& args, int64_t k, int64_t first, int (&row)[kThreads],
                        int (&of_warp)[kWarps]) {
  const int lane = threadIdx.x % kWarpThreads, warp = threadIdx.x / kWarpThreads;
  const int64_t i = first + threadIdx.x;
  const int64_t target = i < args.rows ? args.target[i] : -1;
  const bool counted = i < args.rows && !(args.ignores && target == args.ignored);
  assert(!counted || (target >= 0 && target < args.classes));
  const unsigned found = __ballot_sync(kWholeWarp, counted && target == k);
  if (lane == 0) of_warp[warp] = __popc(found);
  __syncthreads();
  int before = __popc(found & ((1u << lane) - 1)), total = 0;
  for (int w = 0; w < kWarps; ++w) {
    if (w < warp) before += of_warp[w];
    total += of_warp[w];
  }
  if (found >> lane & 1u) row[before] = static_cast<int>(threadIdx.x);
  __syncthreads();
  return total;
}

__global__ void __launch_bounds__(kThreads) class_sums(ClassSumsArgs args) {
  KD_SHARED(int, row, kThreads);
  KD_SHARED(int, of_warp, kWarps);
  const int64_t k = blockIdx.x / blocks_of_width(args), part = blockIdx.x % blocks_of_width(args);
  const int64_t feature = part * kThreads + threadIdx.x;
  double sum = 0;
  int64_t count = 0;
  for (int64_t first = 0; first < args.rows; first += kThreads) {
    const int n = list_rows(args, k, first, row, of_warp);
    count += n;
    for (int i = 0; i < n && feature < args.width; ++i)
      sum += read_number(args.features, args.dtype,
                         (first + row[i]) * args.row_stride + feature * args.stride, 0.0);
  }
  if (feature < args.width) write_number(args.sums, args.out, k * args.width + feature, sum);
  if (part == 0 && threadIdx.x == 0) args.counts[k] = count;
}

}  // namespace
}  // namespace kd

extern "C" void kd_class_sums_cuda(const kd::ClassSumsArgs& args, int, void* stream) {
  using namespace kd;
  const int64_t parts = args.width > 0 ? (args.width + kThreads - 1) / kThreads : 1;
  launch(class_sums, {static_cast<unsigned>(args.classes * parts), kThreads},
         static_cast<cudaStream_t>(stream), args);
}
