// f(-log p) for the target's probability p, f(n) = w u^gamma n with u = 1 - p (or, weight_in_pt, w n in n's
// place). Gradient by logit c: f'(n) (q_c - [c = target]); u and q - 1 are sums over the other classes, never
// 1 - p. param: gamma, weight_in_pt.
#pragma once

#include "common/row_loss.h"

namespace kd {
namespace {

template <class A>
struct Focal {
  A value, slope;
};

// u^gamma n and its derivative by n, where u = 1 - e^-n and p = e^-n.
template <class A>
KD_FN Focal<A> focal(A n, A u, A p, A gamma) {
  const A power = gamma == A(2) ? u * u : gamma == A(0) ? A(1) : u == A(0) ? A(0) : exp(gamma * log(u));
  const A ratio = p == A(0) ? A(0) : u == A(0) ? A(1) : p * n / u;
  return {n == A(0) ? A(0) : power * n, power * (A(1) + gamma * ratio)};
}

template <class W>
struct FocalLoss {
  using A = typename W::A;
  using N = typename W::N;
  static constexpr int kOutputs = 1;
  static constexpr double kTeacherPadding = 0;

  KD_FN static RowResult<A> run(W& w, const RowLossArgs& args, const A* factor) {
    const int64_t target = args.index[w.row()];
    const A logit = w.student(target);
    const Mass<A> mass = student_mass(w, A(1), [&](auto i) { return w.all(i); });
    if (impossible(mass.max)) return uncounted_row<A>();
    const N max = spread<N>(mass.max);
    N others = fill<N>(0);
    w.each(
        [&](auto i, N s, N) { others = others + select(w.is(i, target), fill<N>(0), exp_below(s - max)); });
    const Target<A> x = target_of(mass, w.sum(others), logit);
    const A weight = args.class_weight != nullptr ? static_cast<const A*>(args.class_weight)[target] : A(1);
    const A gamma = static_cast<A>(args.param[0]);
    Focal<A> f;
    if (args.param[1] != 0) {
      const A n = weight == A(0) ? A(0) : weight * x.loss;
      f = focal(n, -expm1(-n), exp_below(-n), gamma);
      f.slope *= weight;
    } else {
      f = focal(x.loss, x.rest, x.p, gamma);
      f.value = weight == A(0) ? A(0) : f.value * weight;
      f.slope *= weight;
    }
    if (w.wants_grad()) {
      const A slope = f.slope * factor[0];
      const N by = spread<N>(slope / mass.sum), at_target = spread<N>(-slope * x.rest);
      w.each_grad(
          [&](auto i, N s, N) { return select(w.is(i, target), at_target, exp_below(s - max) * by); });
    }
    return {true, {f.value, 0}, {1, 0}};
  }
};

}  // namespace
}  // namespace kd
