// What attention_masks and attention_map_kl share beside their kernels: masks, and the kernels' work memory.
#pragma once

#include "../attention_masks.h"
#include "maps_op.h"
#ifdef KD_DEVICE_CPU
#include "../cpu/attention_plan.h"
#endif

namespace kd {

using MaybeTensor = std::optional<Tensor>;

inline const bool* flags_of(const MaybeTensor& mask) {
  return mask.has_value() ? static_cast<const bool*>(mask->data_ptr()) : nullptr;
}

#ifdef KD_DEVICE_CPU

// Allocates the kernels' work memory. A few images are split, into as many parts as many processors could
// take: their number depends on the shape alone.
template <class A>
Tensor work_as(AttentionMasksArgs& args, const Tensor& on) {
  const AttentionPlan<A> plan{args};
  const int64_t wanted = args.batch > 0 ? (2 * kMostSplits + args.batch - 1) / args.batch : 1;
  const int64_t most = wanted < kMostSplits ? wanted : kMostSplits;
  args.splits = most < plan.blocks() ? most : plan.blocks();
  return fresh(on, {plan.total()}, args.compute);
}

inline Tensor work_of(AttentionMasksArgs& args, const Tensor& on) {
  Tensor work = args.compute == DType::kFloat64 ? work_as<double>(args, on) : work_as<float>(args, on);
  args.work = work.data_ptr();
  return work;
}

#else

inline Tensor work_of(AttentionMasksArgs& args, const Tensor& on) {
  Tensor work = fresh(on, {args.backward ? args.batch * args.queries : 0}, args.compute);
  args.work = work.data_ptr();
  return work;
}

#endif

}  // namespace kd
