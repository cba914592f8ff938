// The frame of pairs.h on the GPU: a block a run of points, a thread a point at a time. Sums of an item's
// values go to `part`; finish_pairs.cu joins them in the order of the items.
#pragma once

#include "../common/pairs.h"
#include "maps.cuh"

namespace kd {
namespace {

constexpr int kPairThreads = 256;

template <class A>
KD_DEVICE void clear_numbers(const PairView& view, int64_t at, int64_t count) {
  for (int64_t i = threadIdx.x; i < count; i += kPairThreads)
    write_number(view.data, view.dtype, at + i * view.point_stride, A(0));
}

template <class F, class A>
KD_DEVICE void one_point(const PairArgs& args, int64_t row, int64_t group, int64_t p, A (&sum)[F::kValues]) {
  const int64_t at = (row * args.groups + group) * args.points + p;
  A s[F::kPairs], t[F::kPairs], value[F::kValues], slope[F::kPairs];
  for (int j = 0; j < F::kPairs; ++j) {
    s[j] = read_number(args.student[j].data, args.student[j].dtype, offset_of(args.student[j], row, group, p),
                       A(0));
    t[j] = read_number(args.teacher[j].data, args.teacher[j].dtype, offset_of(args.teacher[j], row, group, p),
                       A(0));
  }
  F::at(s, t, args.param, value, slope);
  const A weight = args.weight != nullptr ? static_cast<const A*>(args.weight)[at] : A(1);
  for (int k = 0; k < F::kValues; ++k) {
    value[k] = weight == A(0) ? A(0) : weight * value[k];
    sum[k] += value[k];
  }
  if (args.point_value != nullptr)
    static_cast<A*>(args.point_value)[at] = value[0] * static_cast<A>(args.scale[0]);
  if (args.grad[0].data == nullptr) return;
  const A common = weight * inverse_divisor<A>(args);
  for (int j = 0; j < F::kPairs; ++j) {
    const int k = F::value_of(j);
    const A* up = static_cast<const A*>(args.upstream[k]);
    const A factor =
        common * static_cast<A>(args.scale[k]) * (up != nullptr ? up[at * args.upstream_stride] : A(1));
    write_number(args.grad[j].data, args.grad[j].dtype, offset_of(args.grad[j], row, group, p),
                 weight == A(0) ? A(0) : slope[j] * factor);
  }
}

template <class F, class A>
__global__ void __launch_bounds__(kPairThreads) walk_pairs(PairArgs args) {
  Team<A> team(blockDim.x);
  const int64_t line = blockIdx.x / pair_runs(args), row = line / args.groups, group = line % args.groups;
  const int64_t first = blockIdx.x % pair_runs(args) * kPairRun;
  const int64_t last = first + kPairRun < args.points ? first + kPairRun : args.points;
  A sum[F::kValues] = {};
  for (int64_t p = first + threadIdx.x; p < last; p += kPairThreads)
    one_point<F, A>(args, row, group, p, sum);
  const PairView& grad = args.grad[0];
  if (grad.data != nullptr) {
    const int64_t begin = offset_of(grad, row, group, 0), end = offset_of(grad, row, group, args.points);
    if (first == 0) clear_numbers<A>(grad, begin - args.before * grad.point_stride, args.before);
    if (last == args.points) clear_numbers<A>(grad, end, args.after);
  }
  if (args.part == nullptr) return;
  team.sum(sum);
  if (threadIdx.x != 0) return;
  for (int k = 0; k < F::kValues; ++k)
    static_cast<A*>(args.part)[static_cast<int64_t>(blockIdx.x) * kMaxValues + k] = sum[k];
}

template <class F>
void run_pairs(const PairArgs& args, cudaStream_t stream) {
  const LaunchShape shape = {static_cast<unsigned>(pair_items(args)), kPairThreads};
  if (args.compute == DType::kFloat64) return launch(walk_pairs<F, double>, shape, stream, args);
  launch(walk_pairs<F, float>, shape, stream, args);
}

}  // namespace
}  // namespace kd

#define KD_CUDA_PAIRS(name, Formula)                                              \
  extern "C" void kd_##name##_cuda(const kd::PairArgs& args, int, void* stream) { \
    kd::run_pairs<Formula>(args, static_cast<cudaStream_t>(stream));              \
  }
