// The forward pass: a block's logits, their softmax in place, then the block's outputs and its share of the
// map's mean.
#pragma once

#include "attention_block.h"

namespace kd {
namespace {

template <class A>
class AttentionForward : AttentionBlock<A> {
  using Base = AttentionBlock<A>;
  using Base::args_, Base::plan_, Base::b_, Base::item_, Base::kLanes, Base::kPanel;
  using typename Base::V;

 public:
  AttentionForward(const AttentionMasksArgs& args, int64_t item) : Base(args, item) {}

  void run() {
    A* mean = plan_.mean_part_at(item_, 0);
    for (int64_t j = 0; j < plan_.panels() * kPanel; ++j) mean[j] = 0;
    this->each_block([&](int64_t first, int64_t n) {
      this->load_queries(first, n);
      this->make_logits(n);
      for (int64_t i = 0; i < n; ++i) softmax(i, first + i, mean);
      for (int64_t i = 0; i < n; i += kFew) {
        int64_t m = 0;
        for (; m + kGroup <= args_.masks; m += kGroup) outputs<kGroup>(m, i, first, n);
        for (; m < args_.masks; ++m) outputs<1>(m, i, first, n);
      }
    });
  }

 private:
  static constexpr int kFew = 4;  // rows of a tile of outputs

  void softmax(int64_t i, int64_t query, A* mean) {
    A* row = this->logits(i, 0);
    const int64_t width = plan_.panels() * kPanel;
    const A most = this->largest(i);
    A* lse = static_cast<A*>(args_.lse) + b_ * args_.queries + query;
    if (most == minus_infinity<A>() || !this->attends(query)) {  // a row of zeros
      *lse = -minus_infinity<A>();
      for (int64_t j = 0; j < width; ++j) row[j] = 0;
      return;
    }
    V sums = fill<V>(0);
    for (int64_t j = 0; j < width; j += kLanes) {
      const V p = exp_below(load<V>(row + j) - splat<V>(most));
      sums += p;
      store(row + j, p);
    }
    const A total = sum_of_lanes(sums);
    *lse = most + log(total);
    const V inverse = splat<V>(A(1) / total);
    for (int64_t j = 0; j < width; j += kLanes) {
      const V a = load<V>(row + j) * inverse;
      store(row + j, a);
      store(mean + j, load<V>(mean + j) + a);
    }
  }

  // out[m ...][first + i ...] for kMasks masks and kFew rows: dot products along the keys. Rows past the
  // block's hold what an earlier block left there, which nobody reads.
  template <int kMasks>
  void outputs(int64_t m, int64_t i, int64_t first, int64_t n) {
    V sum[kMasks][kFew] = {};
    for (int64_t panel = 0; panel < plan_.panels(); ++panel) {
      const A* values = plan_.packed_value_at(b_, panel) + m * kPanel;
      const A* row = this->logits(i, panel);
      for (int64_t j = 0; j < kPanel; j += kLanes) {
        V a[kFew];
        KD_UNROLL
        for (int r = 0; r < kFew; ++r) a[r] = load<V>(row + r * this->stride_ + j);
        KD_UNROLL
        for (int k = 0; k < kMasks; ++k) {
          const V u = load<V>(values + k * kPanel + j);
          KD_UNROLL
          for (int r = 0; r < kFew; ++r) sum[k][r] += u * a[r];
        }
      }
    }
    A* out = static_cast<A*>(args_.out) + (b_ * args_.masks + m) * args_.queries + first;
    for (int k = 0; k < kMasks; ++k)
      for (int r = 0; r < kFew && i + r < n; ++r) out[k * args_.queries + i + r] = sum_of_lanes(sum[k][r]);
  }
};

}  // namespace
}  // namespace kd
