// attention_masks on the CPU: matrix products of our own around a softmax that never leaves the cache.
//
// An item is a part of one image's queries. Its sums over queries (the map's mean, the gradients of keys and
// values) are its own and are joined in a last stage, so that the bits do not depend on the number of
// threads.
#include "attention_backward.h"
#include "attention_forward.h"

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
          pack(AttentionPlan<A>{args}, item);
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
          key_grads(AttentionPlan<A>{args}, item);
          break;
      }
    }
  }

 private:
  // One panel of keys and values in the compute type, channel by channel; what is no key is 0.
  static void pack(const AttentionPlan<A>& plan, int64_t item) {
    const AttentionMasksArgs& args = plan.args;
    const int64_t b = item / plan.panels(), panel = item % plan.panels(), first = panel * kPanel;
    const int64_t n = args.keys - first < kPanel ? args.keys - first : kPanel;
    const bool* mask = args.key_mask != nullptr ? args.key_mask + b * args.keys + first : nullptr;
    const auto there = [&](int64_t j) { return j < n && (mask == nullptr || mask[j]); };
    A* bias = plan.key_bias_at(b, panel);
    for (int64_t j = 0; j < kPanel; ++j) bias[j] = there(j) ? A(0) : minus_infinity<A>();
    const auto rows = [&](const MapView& view, int64_t channels, A* to) {
      for (int64_t c = 0; c < channels; ++c, to += kPanel) {
        read(view.data, view.dtype, offset_of(view, b, first, c), view.position_stride, n, to);
        for (int64_t j = 0; j < kPanel; ++j) to[j] = there(j) ? to[j] : A(0);
      }
    };
    rows(args.key, args.width, plan.packed_key_at(b, panel));
    rows(args.value, args.masks, plan.packed_value_at(b, panel));
    if (!args.backward) return;
    const A* from = plan.packed_key_at(b, panel);
    A* to = plan.key_rows_at(b, panel);
    for (int64_t j = 0; j < kPanel; ++j, to += plan.padded_width())
      for (int64_t d = 0; d < plan.padded_width(); ++d) to[d] = d < args.width ? from[d * kPanel + j] : A(0);
  }

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

  static void key_grads(const AttentionPlan<A>& plan, int64_t item) {
    const AttentionMasksArgs& args = plan.args;
    const int64_t b = item / plan.panels(), panel = item % plan.panels(), first = panel * kPanel;
    const int64_t n = args.keys - first < kPanel ? args.keys - first : kPanel;
    const auto join = [&](const MapView& view, int64_t channels, auto part_at) {
      for (int64_t c = 0; c < channels; ++c) {
        A sum[kPanel] = {};
        for (int64_t split = 0; split < args.splits; ++split) {
          const A* part = part_at(b * args.splits + split) + c * kPanel;
          for (int64_t j = 0; j < kPanel; ++j) sum[j] += part[j];
        }
        write(sum, n, view.data, view.dtype, offset_of(view, b, first, c), view.position_stride);
      }
    };
    join(args.grad_key, args.width, [&](int64_t item) { return plan.key_part_at(item, panel); });
    join(args.grad_value, args.masks, [&](int64_t item) { return plan.value_part_at(item, panel); });
  }
};

}  // namespace
}  // namespace kd

KD_CPU_KERNELS(attention_masks, AttentionMasksArgs, AttentionMasks)
