// The frame of pairs.h on the CPU: a run of points at a time, in vectors of points.
#pragma once

#include "../common/pairs.h"
#include "segment.h"

namespace kd {
namespace {

// F: kPairs, kValues, value_of(j), and at(student, teacher, param, value, slope) for any number type.
template <class F, class A>
class PairKernel {
  using S = Segment<A>;
  using V = typename S::V;
  static constexpr int64_t kLanes = S::kLanes;

 public:
  static int64_t items(const PairArgs& args) { return pair_items(args); }

  static void run(const PairArgs& args, int64_t begin, int64_t end) {
    PairKernel kernel(args);
    for (int64_t item = begin; item < end; ++item) kernel.item(item);
  }

 private:
  explicit PairKernel(const PairArgs& args) : args_(args) {}

  void item(int64_t item) {
    const int64_t line = item / pair_runs(args_), row = line / args_.groups, group = line % args_.groups;
    const int64_t first = item % pair_runs(args_) * kPairRun, left = args_.points - first;
    const int64_t n = left < kPairRun ? left : kPairRun;
    const A *s[F::kPairs], *t[F::kPairs];
    for (int j = 0; j < F::kPairs; ++j) {
      s[j] = in(args_.student[j], row, group, first, n, s_[j]);
      t[j] = in(args_.teacher[j], row, group, first, n, t_[j]);
    }
    V sum[F::kValues] = {};
    fill_weights(line * args_.points + first, n);
    if (args_.grad[0].data != nullptr)
      with_gradient(s, t, row, group, first, n, sum);
    else
      points<false>(s, t, nullptr, n, sum);
    if (args_.point_value != nullptr)
      write(value_, n, args_.point_value, args_.compute, line * args_.points + first, 1);
    A* part = static_cast<A*>(args_.part);
    for (int k = 0; part != nullptr && k < F::kValues; ++k)
      part[item * kMaxValues + k] = sum_of_lanes(sum[k]);
  }

  static KD_FN const A* in(const PairView& view, int64_t row, int64_t group, int64_t first, int64_t n,
                           A* buffer) {
    return S::in(view.data, view.dtype, offset_of(view, row, group, first), view.point_stride, n, buffer);
  }

  // Weights, with zeros behind the last point, and what slopes are multiplied by.
  void fill_weights(int64_t at, int64_t n) {
    const A* weight = static_cast<const A*>(args_.weight);
    for (int64_t i = 0; i < S::padded(n); ++i) weight_[i] = i >= n ? A(0) : weight ? weight[at + i] : A(1);
    if (args_.grad[0].data == nullptr) return;
    for (int k = 0; k < F::kValues; ++k) {
      const A common = static_cast<A>(args_.scale[k]) * inverse_divisor<A>(args_);
      const A* up = static_cast<const A*>(args_.upstream[k]);
      for (int64_t i = 0; i < S::padded(n); ++i) {
        const A here = up == nullptr ? A(1) : i >= n ? A(0) : up[(at + i) * args_.upstream_stride];
        factor_[k][i] = weight_[i] * common * here;
      }
    }
  }

  void with_gradient(const A* const* s, const A* const* t, int64_t row, int64_t group, int64_t first,
                     int64_t n, V* sum) {
    A* grad[F::kPairs];
    int64_t at[F::kPairs];
    for (int j = 0; j < F::kPairs; ++j) {
      const PairView& view = args_.grad[j];
      at[j] = offset_of(view, row, group, first);
      grad[j] = S::out(view.data, view.dtype, at[j], view.point_stride, n, grad_[j]);
    }
    points<true>(s, t, grad, n, sum);
    for (int j = 0; j < F::kPairs; ++j) {
      const PairView& view = args_.grad[j];
      S::put(grad[j], view.data, view.dtype, at[j], view.point_stride, n);
    }
    const PairView& view = args_.grad[0];
    if (first == 0) clear(view, at[0] - args_.before * view.point_stride, args_.before);
    if (first + n == args_.points) clear(view, at[0] + n * view.point_stride, args_.after);
  }

  void clear(const PairView& view, int64_t at, int64_t count) const {
    for (int64_t i = 0; i < count; i += kLanes) {
      alignas(64) const A zeros[kLanes] = {};
      const int64_t n = count - i < kLanes ? count - i : kLanes;
      write(zeros, n, view.data, view.dtype, at + i * view.point_stride, view.point_stride);
    }
  }

  template <bool with_grad>
  KD_FN void points(const A* const* s, const A* const* t, A* const* grad, int64_t n, V* sum) {
    for (int64_t i = 0; i < n; i += kLanes) {
      V x[F::kPairs], y[F::kPairs], value[F::kValues], slope[F::kPairs];
      for (int j = 0; j < F::kPairs; ++j) x[j] = load<V>(s[j] + i), y[j] = load<V>(t[j] + i);
      F::at(x, y, args_.param, value, slope);
      const V weight = load<V>(weight_ + i), zero = fill<V>(0);
      const auto dropped = weight == zero;
      for (int k = 0; k < F::kValues; ++k) {
        value[k] = select(dropped, zero, value[k] * weight);
        sum[k] += value[k];
      }
      store(value_ + i, value[0] * fill<V>(args_.scale[0]));
      for (int j = 0; with_grad && j < F::kPairs; ++j)
        store(grad[j] + i, select(dropped, zero, slope[j] * load<V>(factor_[F::value_of(j)] + i)));
    }
  }

  const PairArgs& args_;
  alignas(64) A weight_[kPairRun], value_[kPairRun], factor_[F::kValues][kPairRun];
  alignas(64) A s_[F::kPairs][kPairRun], t_[F::kPairs][kPairRun], grad_[F::kPairs][kPairRun];
};

}  // namespace
}  // namespace kd
