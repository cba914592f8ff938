// The forward pass of DIST over one block of rows, a strip at a time: the strip's exponentials lie side by
// side in the cache while first each row's and then each class's moments are taken; the block's moments see
// one addition a strip.
#pragma once

#include <stdlib.h>

#include "../dist_loss.h"
#include "classes.h"
#include "segment.h"

namespace kd {
namespace {

template <class A>
class DistForward {
  using V = typename VectorOf<A>::Type;
  static constexpr int64_t kStrip = 16;              // rows, at most
  static constexpr int64_t kStripBytes = 512 << 10;  // of both sides, unless it is one row
  static constexpr int64_t kApart = 64 / sizeof(A);  // between rows: powers of two push each other out

 public:
  explicit DistForward(const DistLossArgs& args)
      : args_(args),
        classes_(args.shape.classes),
        pitch_(classes_.padded() + kApart),
        inverse_temperature_(fill<V>(1 / args.temperature)) {
    const int64_t fit = kStripBytes / (2 * pitch_ * static_cast<int64_t>(sizeof(A)));
    strip_ = fit < 1 ? 1 : fit < kStrip ? fit : kStrip;
    const int64_t numbers = (2 * strip_ * pitch_ + kApart - 1) / kApart * kApart;
    memory_ = static_cast<A*>(aligned_alloc(64, static_cast<size_t>(numbers) * sizeof(A)));
  }
  ~DistForward() { free(memory_); }
  DistForward(const DistForward&) = delete;
  DistForward& operator=(const DistForward&) = delete;

  void block(int64_t b) {
    const int64_t first = b * args_.block_rows, after = first + args_.block_rows;
    const int64_t end = after < args_.shape.rows ? after : args_.shape.rows;
    for (int i = 0; i < kDistMoments; ++i) {
      to_[i] = static_cast<A*>(args_.moments) + (b * kDistMoments + i) * classes_.count();
      for (int64_t c = 0; c < classes_.count(); ++c) to_[i][c] = 0;
    }
    int64_t held = 0, counted = 0;
    for (int64_t row = first; row < end; ++row) {
      held += of_row(row, held) ? 1 : 0;
      if (held < strip_ && row + 1 < end) continue;
      if (held > 0) add_strip(held, counted);
      counted += held;
      held = 0;
    }
    static_cast<A*>(args_.counts)[b] = static_cast<A>(counted);
  }

 private:
  A* q(int64_t r) const { return memory_ + r * pitch_; }
  A* p(int64_t r) const { return memory_ + (strip_ + r) * pitch_; }
  A& of(int index, int64_t row) const { return static_cast<A*>(args_.rows)[index * args_.shape.rows + row]; }

  // ---- Rows ----------------------------------------------------------------------------------------------

  // A row's exponentials into place r of the strip, its state and its value. False if it does not count.
  bool of_row(int64_t row, int64_t r) {
    const bool counts = exponentials(args_.student, row, q(r), of(kDistStudentMax, row), q_inverse_[r]) &&
                        exponentials(args_.teacher, row, p(r), of(kDistTeacherMax, row), p_inverse_[r]);
    of(kDistStudentInverse, row) = counts ? q_inverse_[r][0] : A(0);
    of(kDistTeacherInverse, row) = counts ? p_inverse_[r][0] : A(0);
    const Correlation<A> x = counts ? row_correlation(r) : Correlation<A>{0, 0, 0};
    static_cast<A*>(args_.row_value)[row] = x.value;
    of(kDistRowScale, row) = x.scale;
    of(kDistRowShare, row) = x.share;
    return counts;
  }

  // e^{(x - max) / T}, its maximum and 1 / its sum. False where no class is possible.
  bool exponentials(const RowView& view, int64_t row, A* to, A& max, V& inverse) {
    constexpr double kNone = -__builtin_huge_val();
    const A* x = classes_.row(view, row_offset(args_.shape, view, row), to);
    V most = minus_infinity<V>(), sum = fill<V>(0);
    classes_.each([&](int64_t i, auto v) {
      most = larger(classes_.template at<decltype(v)::kCut>(x, i, kNone), most);
    });
    max = reference(largest_lane(most));
    const V maxima = fill<V>(max);
    classes_.each([&](int64_t i, auto v) {
      const V logits = classes_.template at<decltype(v)::kCut>(x, i, kNone);
      const V e = exp_below((logits - maxima) * inverse_temperature_);
      store(to + i, e);
      sum += e;
    });
    const A total = sum_of_lanes(sum);
    inverse = fill<V>(A(1) / total);
    return total != A(0);
  }

  Correlation<A> row_correlation(int64_t r) const {
    const V of_q = q_inverse_[r], of_p = p_inverse_[r];
    const double mean = 1 / static_cast<double>(classes_.count());
    const V centre = fill<V>(mean);
    Moments<V> m = no_moments<V>();
    classes_.each([&](int64_t i, auto v) {
      V a = load<V>(q(r) + i) * of_q - centre, b = load<V>(p(r) + i) * of_p - centre;
      if constexpr (decltype(v)::kCut)
        for (int64_t l = classes_.count() - i; l < Number<V>::kLanes; ++l) a[l] = b[l] = 0;
      add(m, a, b);
    });
    const Moments<A> whole = {sum_of_lanes(m.aa), sum_of_lanes(m.bb), sum_of_lanes(m.ab), sum_of_lanes(m.dd)};
    return correlation(whole, static_cast<A>(classes_.count()), static_cast<A>(mean), static_cast<A>(mean));
  }

  // ---- Classes -------------------------------------------------------------------------------------------

  // The strip's n rows join the `before` rows that the block has seen.
  void add_strip(int64_t n, int64_t before) {
    const double all = static_cast<double>(before + n);
    const V of_one = fill<V>(1.0 / static_cast<double>(n)), share = fill<V>(static_cast<double>(n) / all);
    const V weight = fill<V>(static_cast<double>(before) * static_cast<double>(n) / all);
    classes_.each([&](int64_t i, auto v) {
      constexpr bool kCut = decltype(v)::kCut;
      const auto in = [&](int index) { return classes_.template at<kCut>(to_[index], i); };
      Column<V> x = {in(kDistMeanQ), in(kDistMeanP), {in(kDistAA), in(kDistBB), in(kDistAB), in(kDistDD)}};
      join(x, strip_column(i, n, of_one), share, weight);
      const V numbers[kDistMoments] = {x.q, x.p, x.about.aa, x.about.bb, x.about.ab, x.about.dd};
      for (int k = 0; k < kDistMoments; ++k) classes_.template put<kCut>(to_[k], i, numbers[k]);
    });
  }

  KD_FN Column<V> strip_column(int64_t i, int64_t n, V of_one) const {
    Column<V> x = {fill<V>(0), fill<V>(0), no_moments<V>()};
    for (int64_t r = 0; r < n; ++r) {
      x.q += load<V>(q(r) + i) * q_inverse_[r];
      x.p += load<V>(p(r) + i) * p_inverse_[r];
    }
    x.q *= of_one;
    x.p *= of_one;
    for (int64_t r = 0; r < n; ++r)
      add(x.about, load<V>(q(r) + i) * q_inverse_[r] - x.q, load<V>(p(r) + i) * p_inverse_[r] - x.p);
    return x;
  }

  const DistLossArgs& args_;
  const Classes<A> classes_;
  const int64_t pitch_;
  const V inverse_temperature_;
  int64_t strip_;
  A* memory_;  // [2, strip_, pitch_]
  A* to_[kDistMoments];
  V q_inverse_[kStrip], p_inverse_[kStrip];  // every lane the same
};

}  // namespace
}  // namespace kd
