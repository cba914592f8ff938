// Keys and values into the layout of the kernels, and their gradients out of it; an item is one panel of an
// image.
#pragma once

#include "attention_plan.h"
#include "segment.h"

namespace kd {
namespace {

// One panel of keys and values in the compute type, channel by channel; what is no key is 0.
template <class A>
void pack_keys(const AttentionPlan<A>& plan, int64_t item) {
  constexpr int64_t kPanel = AttentionPlan<A>::kPanel;
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

// The gradients of a panel's keys and values from the items' parts.
template <class A>
void join_key_grads(const AttentionPlan<A>& plan, int64_t item) {
  constexpr int64_t kPanel = AttentionPlan<A>::kPanel;
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

}  // namespace
}  // namespace kd
