// The last stage of the losses over pairs: the items' sums to the values, in the order of the items.
#include "../common/pairs.h"
#include "team.cuh"

namespace kd {
namespace {

constexpr int kThreads = 512;

struct FinishPairs {
  PairArgs args;
  int values;
};

template <class A>
__global__ void __launch_bounds__(kThreads) finish_pairs(FinishPairs p) {
  Team<double> team(blockDim.x);
  const PairArgs& args = p.args;
  double sum[kMaxValues] = {};
  const int64_t items = pair_items(args);
  for (int64_t i = threadIdx.x; i < items; i += kThreads)
    for (int k = 0; k < p.values; ++k) sum[k] += static_cast<const A*>(args.part)[i * kMaxValues + k];
  team.sum(sum);
  if (threadIdx.x != 0) return;
  for (int k = 0; k < p.values; ++k)
    *static_cast<A*>(args.value[k]) = static_cast<A>(sum[k] * args.scale[k] * inverse_divisor<A>(args));
}

}  // namespace
}  // namespace kd

extern "C" void kd_finish_pairs_cuda(const kd::PairArgs& args, int values, void* stream) {
  const auto on = static_cast<cudaStream_t>(stream);
  const kd::LaunchShape shape = {1, kd::kThreads};
  if (args.compute == kd::DType::kFloat64)
    return kd::launch(kd::finish_pairs<double>, shape, on, {args, values});
  kd::launch(kd::finish_pairs<float>, shape, on, {args, values});
}
