// The last stage of a loss on the GPU: the rows' values and weights to a loss and a norm, a mask to its sum.
//
// Two launches where there are many rows: each block of the first sums kRowsOfBlock rows and leaves the
// result in place of the first of them; one block sums those. The order depends on the number of rows alone.
#include "../common/rows.h"
#include "team.cuh"

namespace kd {
namespace {

constexpr int kThreads = 512;
constexpr int64_t kRowsOfBlock = 8192;

// Sums n numbers `stride` apart, in double, over the block.
template <class A>
KD_DEVICE double sum_over_block(Team<double>& team, const void* data, int64_t n, int64_t stride) {
  double sum[1] = {0};
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) sum[0] += static_cast<const A*>(data)[i * stride];
  team.sum(sum);
  return sum[0];
}

struct SumInPlace {
  void* data;  // A [rows]; becomes one sum every kRowsOfBlock numbers
  int64_t rows;
};

template <class A>
__global__ void __launch_bounds__(kThreads) sum_in_place(SumInPlace args) {
  Team<double> team(blockDim.x);
  const int64_t first = blockIdx.x * kRowsOfBlock;
  A* numbers = static_cast<A*>(args.data) + first;
  const int64_t n = args.rows - first < kRowsOfBlock ? args.rows - first : kRowsOfBlock;
  const double sum =
      sum_over_block<A>(team, numbers, n, 1);  // its barrier lies between the reads and the write
  if (threadIdx.x == 0) *numbers = static_cast<A>(sum);
}

struct FinishRows {
  ReduceRowsArgs args;
  int64_t parts, stride;  // numbers that are left, and how far apart they lie
};

template <class A>
__global__ void __launch_bounds__(kThreads) finish_rows(FinishRows p) {
  Team<double> team(blockDim.x);
  const ReduceRowsArgs& args = p.args;
  const A presumed =
      args.presumed != nullptr ? *static_cast<const A*>(args.presumed) : static_cast<A>(args.presumed_count);
  if (args.reduction == Reduction::kNone) {
    if (threadIdx.x == 0) *static_cast<A*>(args.norm) = presumed;
    return;
  }
  const double value = sum_over_block<A>(team, args.row_value, p.parts, p.stride);
  const double weight = sum_over_block<A>(team, args.row_weight, p.parts, p.stride);
  if (threadIdx.x != 0) return;
  reduced<A>(args, static_cast<A>(value), static_cast<A>(weight), presumed, static_cast<A*>(args.loss),
             static_cast<A*>(args.norm));
}

struct SumMask {
  const void* mask;  // A [rows]
  int64_t rows;
  void* to;  // A [1]
};

template <class A>
__global__ void __launch_bounds__(kThreads) sum_mask(SumMask args) {
  Team<double> team(blockDim.x);
  const double sum = sum_over_block<A>(team, args.mask, args.rows, 1);
  if (threadIdx.x == 0) *static_cast<A*>(args.to) = static_cast<A>(sum);
}

template <class A>
void run_reduce_rows(const ReduceRowsArgs& args, cudaStream_t stream) {
  const int64_t blocks = (args.rows + kRowsOfBlock - 1) / kRowsOfBlock;
  const LaunchShape many = {static_cast<unsigned>(blocks), kThreads}, one = {1, kThreads};
  if (args.reduction == Reduction::kNone || blocks <= 1)
    return launch(finish_rows<A>, one, stream, {args, args.rows, 1});
  launch(sum_in_place<A>, many, stream, {args.row_value, args.rows});
  launch(sum_in_place<A>, many, stream, {args.row_weight, args.rows});
  launch(finish_rows<A>, one, stream, {args, blocks, kRowsOfBlock});
}

}  // namespace
}  // namespace kd

extern "C" void kd_reduce_rows_cuda(const kd::ReduceRowsArgs& args, void* stream) {
  const auto on = static_cast<cudaStream_t>(stream);
  if (args.compute == kd::DType::kFloat64) return kd::run_reduce_rows<double>(args, on);
  kd::run_reduce_rows<float>(args, on);
}

extern "C" void kd_sum_mask_cuda(const void* mask, int64_t rows, kd::DType dtype, void* to, void* stream) {
  const auto on = static_cast<cudaStream_t>(stream);
  const kd::SumMask args = {mask, rows, to};
  const kd::LaunchShape shape = {1, kd::kThreads};
  if (dtype == kd::DType::kFloat64) return kd::launch(kd::sum_mask<double>, shape, on, args);
  kd::launch(kd::sum_mask<float>, shape, on, args);
}
