// attention_masks on the CPU: matrix products of our own around a softmax that never leaves the cache.
//
// An item is a part of one image's queries. Its sums over queries (the map's mean, the gradients of keys and
// values) are its own and are joined in a last stage, so that the bits do not depend on the number of
// threads.
#include "attention_backward.h"
#include "attention_forward.h"
#include "attention_pack.h"

namespace kd {
namespace {

template <class A>
class AttentionMasks {
  static constexpr int64_t kPanel = AttentionPlan<A>::kPanel;

 public:
  static int64_t items(const AttentionMasksArgs& args) {
    const AttentionPlan<A> plan{args};
    const bool by_block = args.stage == AttentionStage::kForward || args.stage == AttentionStage::kBackward;
    return by_block ? plan.items() : args.batch * plan.panels();
  }

  static void run(const AttentionMasksArgs& args, int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      switch (args.stage) {
        case AttentionStage::kPack:
          pack_keys(AttentionPlan<A>{args}, item);
          break;
        case AttentionStage::kForward:
          AttentionForward<A>(args, item).run();
          break;
        case AttentionStage::kMean:
          mean(AttentionPlan<A>{args}, item);
          break;
        case AttentionStage::kBackward:
          AttentionBackward<A>(args, item).run();
          break;
        case AttentionStage::kKeyGrad:
          join_key_grads(AttentionPlan<A>{args}, item);
          break;
      }
    }
  }

 private:
  static void mean(const AttentionPlan<A>& plan, int64_t item) {
    const AttentionMasksArgs& args = plan.args;
    const int64_t b = item / plan.panels(), panel = item % plan.panels(), first = panel * kPanel;
    A* to = static_cast<A*>(args.mean) + b * args.keys + first;
    for (int64_t j = 0; j < kPanel && first + j < args.keys; ++j) {
      A sum = 0;
      for (int64_t split = 0; split < args.splits; ++split)
        sum += plan.mean_part_at(b * args.splits + split, panel)[j];
      to[j] = sum * share_of<A>(args, b);
    }
  }
};

}  // namespace
}  // namespace kd

KD_CPU_KERNELS(attention_masks, AttentionMasksArgs, AttentionMasks)
