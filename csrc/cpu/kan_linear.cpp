// A KAN layer on the CPU by local support: of a feature's rows of weights, a sample touches the degree+1
// whose bases are not 0, and the base row, so the work does not grow with the grid. There is no dense plan:
// docs/kan.md has the measured table. The walks are in kan_walk.h and kan_weight_grad.h.
//
// Each item writes numbers of its own: no atomics, and the bits do not depend on the number of threads.
#include "../kan_linear.h"

#include "kan.h"
#include "kan_pack.h"
#include "kan_walk.h"
#include "kan_weight_grad.h"

namespace kd {
namespace {

int64_t items(const KanArgs& args) {
  switch (args.stage) {
    case KanStage::kForward:
    case KanStage::kInputGrad:
      return (args.samples + block_size(args) - 1) / block_size(args);
    case KanStage::kWeightGrad:
      return feature_chunks(args) * args.splits;
    default:
      return packs_of(args) *
             (args.compute == DType::kFloat64 ? tiles_of<double>(args) : tiles_of<float>(args));
  }
}

template <int K, class A>
void run(const KanArgs& args, int64_t item) {
  switch (args.stage) {
    case KanStage::kPack:
      return pack<A>(args, item);
    case KanStage::kForward:
      return forward_block<K, A>(args, item);
    case KanStage::kInputGrad:
      return input_grad_block<K, A>(args, item);
    case KanStage::kWeightGrad:
      return weight_grad_chunk<K, A>(args, item);
    case KanStage::kUnpack:
      return unpack<A>(args, item);
  }
}

void forward(const KanArgs& args, int64_t begin, int64_t end) {
  with_types(args, [&]<int K, class A>() {
    for (int64_t item = begin; item < end; ++item) run<K, A>(args, item);
  });
}

}  // namespace
}  // namespace kd

extern "C" const kd::Kernels<kd::KanArgs> KD_JOIN(kd_, kan_linear, KD_LEVEL);
const kd::Kernels<kd::KanArgs> KD_JOIN(kd_, kan_linear, KD_LEVEL) = {kd::items, kd::forward, nullptr};
