// The rows of an item of a divergence: their weights, what pass 1 leaves of them, their values, and all of it
// in memory. If lanes are rows, a vector holds a number of each row of a group, else one row's in every lane.
#pragma once

#include "divergence_item.h"

namespace kd {
namespace {

template <class A>
class RowsOfItem {
  using V = typename VectorOf<A>::Type;
  static constexpr int64_t kGroups = Item<A>::kGroups;

 public:
  RowsOfItem(const DivergenceArgs& args, const Item<A>& item) : args_(args), item_(item) {}

  Row<V> state[kGroups];
  Sums<V> sums[kGroups];
  V factor[kGroups];  // of the gradient; 0 for a row that does not count

  // Weights of the rows, and the factors of their gradients. False if no row counts.
  bool weigh() {
    const A* mask = static_cast<const A*>(args_.mask);
    const A total = args_.mask_sum != nullptr ? *static_cast<const A*>(args_.mask_sum) : A(1);
    const A common = total == A(0) ? A(0) : static_cast<A>(args_.grad_factor) / total;
    bool any = false;
    for (int64_t g = 0; g < item_.groups(); ++g) weight_[g] = factor[g] = fill<V>(0);
    item_.each_row([&](int64_t g, int64_t lane, int64_t row) {
      const A weight = mask != nullptr ? mask[row] : A(1);
      any |= weight != A(0);
      put(weight_[g], lane, weight);
      put(factor[g], lane, weight * common);
    });
    return any;
  }

  // Factors of the gradients in the backward pass.
  void weigh_upstream() {
    const A* upstream = static_cast<const A*>(args_.upstream);
    const A* mask = static_cast<const A*>(args_.mask);
    const A common = static_cast<A>(args_.scale / args_.temperature) * *static_cast<const A*>(args_.norm);
    for (int64_t g = 0; g < item_.groups(); ++g) factor[g] = fill<V>(0);
    item_.each_row([&](int64_t g, int64_t lane, int64_t row) {
      const A weight = mask != nullptr ? mask[row] : A(1);
      put(factor[g], lane, weight == A(0) ? A(0) : weight * common * upstream[row * args_.upstream_stride]);
    });
  }

  // After pass 2.
  void finish_values() {
    for (int64_t g = 0; g < item_.groups(); ++g) {
      if (!item_.rows_in_lanes())
        sums[g] = {fill<V>(sum_of_lanes(sums[g].value)), fill<V>(sum_of_lanes(sums[g].summand))};
      const auto dropped = (state[g].regime == fill<V>(kUncounted)) | (weight_[g] == fill<V>(0));
      weight_[g] = select(dropped, fill<V>(0), weight_[g]);
      sums[g].value = select(dropped, fill<V>(0), sums[g].value * fill<V>(args_.scale) * weight_[g]);
      state[g].sum = sums[g].summand;
    }
    item_.each_row([&](int64_t g, int64_t lane, int64_t row) {
      write_row(row, sums[g].value[lane], weight_[g][lane]);
      if (args_.state != nullptr) saved(row)[kRowSum] = state[g].sum[lane];
    });
  }

  // No row counts.
  void drop() {
    item_.each_row([&](int64_t, int64_t, int64_t row) {
      write_row(row, 0, 0);
      if (args_.state != nullptr)
        for (int i = 0; i < kRowState; ++i) saved(row)[i] = i == kRegime ? kUncounted : 0;
    });
  }

  // What the backward pass needs of pass 1.
  void save_state() const {
    if (args_.state == nullptr) return;
    item_.each_row([&](int64_t g, int64_t lane, int64_t row) {
      const V* numbers = reinterpret_cast<const V*>(&state[g]);
      for (int i = 0; i < kRowState; ++i) saved(row)[i] = numbers[i][lane];
    });
  }

  void load_state() {
    for (int64_t g = 0; g < item_.groups(); ++g) {
      V* numbers = reinterpret_cast<V*>(&state[g]);
      for (int i = 0; i < kRowState; ++i) numbers[i] = fill<V>(i == kRegime ? kUncounted : 0);
    }
    item_.each_row([&](int64_t g, int64_t lane, int64_t row) {
      V* numbers = reinterpret_cast<V*>(&state[g]);
      for (int i = 0; i < kRowState; ++i) put(numbers[i], lane, saved(row)[i]);
    });
  }

 private:
  // A row's number in the lanes that belong to it.
  KD_FN void put(V& v, int64_t lane, A x) const {
    if (item_.rows_in_lanes())
      v[lane] = x;
    else
      v = fill<V>(x);
  }

  void write_row(int64_t row, A value, A weight) const {
    static_cast<A*>(args_.row_value)[row] = value;
    if (args_.row_weight != nullptr) static_cast<A*>(args_.row_weight)[row] = weight;
  }

  A* saved(int64_t row) const { return static_cast<A*>(args_.state) + row * kRowState; }

  const DivergenceArgs& args_;
  const Item<A>& item_;
  V weight_[kGroups];
};

}  // namespace
}  // namespace kd
