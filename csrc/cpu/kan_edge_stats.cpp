// Edge statistics on the CPU: an item is one feature. The passes are in kan_edge_sums.h and kan_edge_grads.h.
#include "../kan_edge_stats.h"

#include "kan_edge_grads.h"
#include "kan_edge_sums.h"

namespace kd {
namespace {

int64_t items(const EdgeArgs& args) { return args.layer.features; }

void forward(const EdgeArgs& args, int64_t begin, int64_t end) {
  with_types(args.layer, [&]<int K, class A>() {
    for (int64_t i = begin; i < end; ++i) forward_feature<K, A>(args, i);
  });
}

void backward(const EdgeArgs& args, int64_t begin, int64_t end) {
  with_types(args.layer, [&]<int K, class A>() {
    for (int64_t i = begin; i < end; ++i) backward_feature<K, A>(args, i);
  });
}

}  // namespace
}  // namespace kd

extern "C" const kd::Kernels<kd::EdgeArgs> KD_JOIN(kd_, kan_edge_stats, KD_LEVEL);
const kd::Kernels<kd::EdgeArgs> KD_JOIN(kd_, kan_edge_stats, KD_LEVEL) = {kd::items, kd::forward,
                                                                          kd::backward};
