// -1/K sum over the teacher's K classes of q log p~: q = softmax(teacher); p~ = softmax(student) with its
// classes from K on added to class 0. Gradient: (p - q^) / K, where q^ spreads q_0 over {0, K ...} in
// proportion to p. param: K.
#pragma once

#include "common/row_loss.h"

namespace kd {
namespace {

template <class W>
struct UnbiasedKlDiv {
  using A = typename W::A;
  using N = typename W::N;
  static constexpr int kOutputs = 1;
  static constexpr double kTeacherPadding = -__builtin_huge_val();

  KD_FN static RowResult<A> run(W& w, const RowLossArgs& args, const A* factor) {
    const int64_t known = static_cast<int64_t>(args.param[0]);
    const auto in_group = [&](auto i) { return w.below(i, 1) | !w.below(i, known); };
    const Mass<A> mass = student_mass(w, A(1), [&](auto i) { return w.all(i); });
    N teacher_most = minus_infinity<N>();
    w.each([&](auto i, N, N t) {
      teacher_most = larger(select(w.below(i, known), t, minus_infinity<N>()), teacher_most);
    });
    const A teacher_max = w.largest(teacher_most);
    if (impossible(mass.max) || impossible(teacher_max)) return uncounted_row<A>();
    const Mass<A> group = student_mass(w, A(1), in_group);
    const N none = minus_infinity<N>(), max = spread<N>(mass.max), t_max = spread<N>(teacher_max);
    const A lse = log(mass.sum);
    const N lses = spread<N>(lse);
    N cross = fill<N>(0), total = fill<N>(0);
    w.each([&](auto i, N s, N t) {
      const N e = exp_below(select(w.below(i, known), t, none) - t_max);
      total = total + e;
      const auto adds = !(in_group(i) | (e == fill<N>(0)));
      cross = cross + select(adds, e * (lses - (s - max)), fill<N>(0));
    });
    const A sum = w.sum(total), first = exp_below(w.teacher(0) - teacher_max);
    // -log p~_0; the group has a maximum of its own, since it may lie far below the row's.
    const A loss = impossible(group.max) ? -group.max : lse - log(group.sum) - (group.max - mass.max);
    const A value = (w.sum(cross) + (first == A(0) ? A(0) : first * loss)) / (sum * static_cast<A>(known));
    if (w.wants_grad()) {
      const A by = factor[0] / static_cast<A>(known);
      const N p = spread<N>(A(1) / mass.sum), q = spread<N>(A(1) / sum), factors = spread<N>(by);
      const N share = spread<N>(group.sum == A(0) ? A(0) : first / sum / group.sum);
      const N group_max = spread<N>(reference(group.max));
      w.each_grad([&](auto i, N s, N t) {
        const N of_group = exp_below(s - group_max) * share, of_class = exp_below(t - t_max) * q;
        return (exp_below(s - max) * p - select(in_group(i), of_group, of_class)) * factors;
      });
    }
    return {true, {value, 0}, {1, 0}};
  }
};

}  // namespace
}  // namespace kd
