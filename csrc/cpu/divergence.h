// Drives the passes of fold.h over the items of a divergence.
#pragma once

#include "divergence_rows.h"

namespace kd {
namespace {

// One row's lanes of classes, which share their maxima, merged into every lane.
template <class V>
KD_FN Statistics<V> merge_lanes(const Statistics<V>& part) {
  return {part.student_max,
          fill<V>(sum_of_lanes(part.student_sum)),
          part.teacher_max,
          fill<V>(sum_of_lanes(part.teacher_sum)),
          fill<V>(sum_of_lanes(part.excess)),
          fill<V>(largest_lane(part.distance))};
}

template <class F, class A>
class Drive {
  using V = typename VectorOf<A>::Type;

 public:
  explicit Drive(const DivergenceArgs& a)
      : fold_(a), item_(a), rows_(a, item_), wants_grad_(a.grad.data != nullptr) {}

  void forward(int64_t item) {
    item_.locate(item);
    if (!rows_.weigh()) return drop();
    if (wants_grad_) item_.expect_grad();
    collect();
    rows_.save_state();
    const bool at_once = wants_grad_ && !F::kNeedsSum;
    item_.each_block([&](int64_t first, int64_t n) {
      if (at_once) return total<true>(first, n);
      total<false>(first, n);
    });
    rows_.finish_values();
    if (wants_grad_ && F::kNeedsSum)
      item_.each_block([&](int64_t first, int64_t n) { gradient(first, n, true); });
  }

  void backward(int64_t item) {
    item_.locate(item);
    rows_.load_state();
    rows_.weigh_upstream();
    item_.each_block([&](int64_t first, int64_t n) { gradient(first, n, false); });
  }

 private:
  // An item with no row that counts is not read.
  void drop() {
    rows_.drop();
    if (wants_grad_) item_.write_zero_grad();
  }

  // ---- Pass 1

  V shift_of(const Group<A>& block) const {
    const A *s = block.student.data, *t = block.teacher.data;
    if (item_.rows_in_lanes()) return first_shift(load<V>(s), load<V>(t));
    return first_shift(fill<V>(s[0]), fill<V>(t[0]));
  }

  void collect() {
    Statistics<V> part[Item<A>::kGroups];
    V shift[Item<A>::kGroups];
    item_.each_block([&](int64_t first, int64_t n) {
      item_.fetch(first, n);
      for (int64_t g = 0; g < item_.groups(); ++g) {
        const Group<A> block = item_.group(g);
        if (first == 0) part[g] = no_statistics<V>(), shift[g] = shift_of(block);
        if (item_.rows_in_lanes())
          gather<true>(part[g], block, shift[g]);
        else
          gather<false>(part[g], block, shift[g]);
      }
    });
    for (int64_t g = 0; g < item_.groups(); ++g) {
      if (!item_.rows_in_lanes()) part[g] = merge_lanes(part[g]);
      rows_.state[g] = finish(part[g], shift[g]);
      rows_.sums[g] = {fill<V>(0), fill<V>(0)};
    }
  }

  template <bool rows_in_lanes>
  KD_FN void gather(Statistics<V>& part, const Group<A>& block, V shift) {
    if (item_.one_block())
      fold_.template gather<rows_in_lanes, true>(part, block, shift);
    else
      fold_.template gather<rows_in_lanes, false>(part, block, shift);
  }

  // ---- Passes 2 and 3

  // Calls body(constant) with the regime of group g's lanes, once the exponentials it needs are there: an
  // item of one block has them from pass 1 (`gathered`).
  template <class Body>
  KD_FN void in_regime(int64_t g, bool gathered, Body body) {
    const Row<V>& row = rows_.state[g];
    const bool near = any_lane(row.regime == fill<V>(kNear)), far = any_lane(row.regime == fill<V>(kFar));
    const bool kept = gathered && item_.one_block();
    if (!near && !kept) return body(Constant<kFarAnew>{});
    if (!kept) fold_.exponentiate(row, item_.group(g));
    if (near && far) return body(Constant<kMixed>{});
    if (near) return body(Constant<kNear>{});
    body(Constant<kFar>{});
  }
  template <int value>
  struct Constant {
    static constexpr int kValue = value;
  };

  template <bool with_gradient>
  void total(int64_t first, int64_t n) {
    item_.fetch(first, n);
    GradBlock<A> grad = {};
    if constexpr (with_gradient) grad = item_.grad_block(first, n);
    for (int64_t g = 0; g < item_.groups(); ++g) {
      in_regime(g, true, [&](auto regime) {
        fold_.template sum<decltype(regime)::kValue, with_gradient>(
            rows_.sums[g], rows_.state[g], item_.group(g), rows_.factor[g], grad.from(g * Item<A>::kLanes));
      });
    }
    if constexpr (with_gradient) item_.write_grad(grad, first, n);
  }

  void gradient(int64_t first, int64_t n, bool gathered) {
    item_.fetch(first, n);
    const GradBlock<A> grad = item_.grad_block(first, n);
    for (int64_t g = 0; g < item_.groups(); ++g)
      in_regime(g, gathered, [&](auto regime) {
        fold_.template differentiate<decltype(regime)::kValue>(
            rows_.state[g], item_.group(g), rows_.factor[g], grad.from(g * Item<A>::kLanes));
      });
    item_.write_grad(grad, first, n);
  }

  const Fold<F, A> fold_;
  Item<A> item_;
  RowsOfItem<A> rows_;
  const bool wants_grad_;
};

// The kernels of one divergence at this level, for either compute type.
template <template <class> class Formula>
struct DivergenceKernels {
  using Single = Drive<Formula<VecF>, float>;
  using Double = Drive<Formula<VecD>, double>;

  template <class D>
  static void forward_with(const DivergenceArgs& args, int64_t begin, int64_t end) {
    D drive(args);
    for (int64_t item = begin; item < end; ++item) drive.forward(item);
  }
  template <class D>
  static void backward_with(const DivergenceArgs& args, int64_t begin, int64_t end) {
    D drive(args);
    for (int64_t item = begin; item < end; ++item) drive.backward(item);
  }

  static int64_t items(const DivergenceArgs& args) {
    return args.compute == DType::kFloat64 ? Item<double>::count(args) : Item<float>::count(args);
  }
  static void forward(const DivergenceArgs& args, int64_t begin, int64_t end) {
    if (args.compute == DType::kFloat64) return forward_with<Double>(args, begin, end);
    forward_with<Single>(args, begin, end);
  }
  static void backward(const DivergenceArgs& args, int64_t begin, int64_t end) {
    if (args.compute == DType::kFloat64) return backward_with<Double>(args, begin, end);
    backward_with<Single>(args, begin, end);
  }
};

}  // namespace
}  // namespace kd

#define KD_CPU_DIVERGENCE(name, Formula)                                                      \
  extern "C" const kd::Kernels<kd::DivergenceArgs> KD_JOIN(kd_, name, KD_LEVEL);              \
  const kd::Kernels<kd::DivergenceArgs> KD_JOIN(kd_, name, KD_LEVEL) = {                      \
      kd::DivergenceKernels<kd::Formula>::items, kd::DivergenceKernels<kd::Formula>::forward, \
      kd::DivergenceKernels<kd::Formula>::backward};
