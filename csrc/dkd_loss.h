// Decoupled knowledge distillation: T^2 (alpha KL(P || Q) + beta KL(p^ || q^)).
//
// P, Q: the two-way distributions (target, all others); p^, q^: softmaxes over the others. With x the
// difference of the log-odds of P and Q, log P_y/Q_y = log(P_y + P_n e^x) and log P_n/Q_n = log(P_n + P_y
// e^-x): near x = 0 by expm1 and log1p, so that nothing cancels, elsewhere by log-sums, so that nothing
// overflows. Gradient by student / T: target: alpha (Q_y - P_y); others: -alpha (Q_y - P_y) q^ + beta (q^ -
// p^). param: alpha, beta.
#pragma once

#include "common/row_loss.h"
#include "kl_div.h"

namespace kd {
namespace {

// KL(P || Q) of two classes, and Q_y - P_y.
template <class A>
struct TwoWay {
  A value, change;
};

// -log(1 + e^-x): the log-probability of a class whose log-odds are x.
template <class A>
KD_FN A log_sigmoid(A x) {
  return x < A(0) ? x - log1p(exp_below(x)) : -log1p(exp_below(-x));
}

// odds: the teacher's log-odds b of the target; x = b - a, a the student's. Both finite.
template <class A>
KD_FN TwoWay<A> two_way(A odds, A x) {
  const A log_p = log_sigmoid(odds), log_n = log_sigmoid(-odds), p = exp_below(log_p), n = exp_below(log_n);
  const bool near = magnitude(x) <= A(0.5);
  const A r_p = near ? log1p(n * expm1(x)) : log_add(log_p, log_n + x);
  const A r_n = near ? log1p(p * expm1(-x)) : log_add(log_n, log_p - x);
  const A change = p > A(0.5) ? p * expm1(-r_p) : -n * expm1(-r_n);
  return {bregman(p, -r_p, change) + bregman(n, -r_n, -change), change};
}

// The same where a log-odds may be infinite: a class that cannot occur on one side.
template <class A>
KD_FN TwoWay<A> two_way_plain(A teacher_odds, A student_odds) {
  const A log_p[2] = {log_sigmoid(teacher_odds), log_sigmoid(-teacher_odds)};
  const A log_q[2] = {log_sigmoid(student_odds), log_sigmoid(-student_odds)};
  A value = 0;
  for (int i = 0; i < 2; ++i)
    if (!impossible(log_p[i])) value += exp_below(log_p[i]) * (log_p[i] - log_q[i]);
  return {value, exp_below(log_q[0]) - exp_below(log_p[0])};
}

template <class W>
struct DkdLoss {
  using A = typename W::A;
  using N = typename W::N;
  static constexpr int kOutputs = 1;
  static constexpr double kTeacherPadding = -__builtin_huge_val();

  KD_FN static RowResult<A> run(W& w, const RowLossArgs& args, const A* factor) {
    const A inverse_temperature = static_cast<A>(1 / args.temperature);
    const int64_t target = args.index[w.row()];
    const auto others = [&](auto i) { return !w.is(i, target); };
    const Pair<A> rest = pair_of_rows(w, inverse_temperature, target == 0 ? 1 : 0, others);
    const A s = w.student(target), t = w.teacher(target);
    if ((impossible(s) && !rest.student_possible) || (impossible(t) && !rest.teacher_possible))
      return uncounted_row<A>();
    const bool both = rest.student_possible && rest.teacher_possible;
    A student_sum = 0;
    const TwoWay<A> pair = of_target(w, args, rest, s, t, others, student_sum);
    const A alpha = static_cast<A>(args.param[0]), beta = static_cast<A>(args.param[1]);
    const A scale = static_cast<A>(args.scale), by = factor[0] * scale * inverse_temperature;
    A of_rest = 0;
    in_regime_of(rest.row, [&](auto regime) {
      constexpr bool kNear = decltype(regime)::kNear;
      const A on_target = alpha * pair.change * by, soft = both ? beta * by : A(0);
      if (w.wants_grad())
        of_rest = gradient<kNear>(w, args, rest.row, target, student_sum, on_target, soft);
      else if (both)
        of_rest = divergence<kNear>(w, rest.row, inverse_temperature, others);
    });
    if (!both) of_rest = 0;
    // A weight of 0 switches a part off even where it is infinite.
    const A first = alpha == A(0) ? A(0) : alpha * pair.value, second = beta == A(0) ? A(0) : beta * of_rest;
    return {true, {scale * (first + second), 0}, {1, 0}};
  }

  // student_sum: sum over the others of e^{(s - max) / T}, 0 where none is possible.
  template <class Others>
  KD_FN static TwoWay<A> of_target(W& w, const RowLossArgs& args, const Pair<A>& rest, A s, A t,
                                   Others others, A& student_sum) {
    const A inverse_temperature = static_cast<A>(1 / args.temperature), infinity = -minus_infinity<A>();
    if (rest.student_possible && rest.teacher_possible && !impossible(s) && !impossible(t)) {
      student_sum = A(1) / rest.row.student_inverse_sum;
      const A odds = (t - rest.row.teacher_max) * inverse_temperature + log(rest.row.teacher_inverse_sum);
      const Difference<A> d = difference(s, t, rest.row.shift);
      return two_way(odds, (d.high + d.low) * inverse_temperature - rest.row.log_ratio);
    }
    const N none = fill<N>(0), inverse = spread<N>(inverse_temperature);
    N student = none, teacher = none;
    const N s_max = spread<N>(rest.row.student_max), t_max = spread<N>(rest.row.teacher_max);
    w.each([&](auto i, N x, N y) {
      const auto in = others(i);
      student = student + select(in, exp_below((x - s_max) * inverse), none);
      teacher = teacher + select(in, exp_below((y - t_max) * inverse), none);
    });
    student_sum = w.sum(student);
    const A teacher_sum = w.sum(teacher);
    const auto odds = [&](A logit, A max, A sum) {
      if (impossible(logit)) return -infinity;
      return sum == A(0) ? infinity : (logit - max) * inverse_temperature - log(sum);
    };
    return two_way_plain(odds(t, rest.row.teacher_max, teacher_sum),
                         odds(s, rest.row.student_max, student_sum));
  }

  template <bool near, class Others>
  KD_FN static A divergence(W& w, const Row<A>& row, A inverse_temperature, Others others) {
    const Row<N> rows = spread_row<N>(row);
    const N inverse = spread<N>(inverse_temperature);
    const KlDiv<N> formula{0};
    N value = fill<N>(0);
    w.each([&](auto i, N s, N t) {
      const Element<N> x = element_of<near>(w, i, rows, s, t, inverse);
      value = value + select(others(i), formula.value(x), fill<N>(0));
    });
    return w.sum(value);
  }

  // Writes the gradient and returns the divergence of the others.
  template <bool near>
  KD_FN static A gradient(W& w, const RowLossArgs& args, const Row<A>& row, int64_t target, A student_sum,
                          A on_target, A soft) {
    const Row<N> rows = spread_row<N>(row);
    const N inverse = spread<N>(static_cast<A>(1 / args.temperature)), at_target = spread<N>(on_target);
    const N share = spread<N>(student_sum == A(0) ? A(0) : on_target / student_sum), softs = spread<N>(soft);
    const KlDiv<N> formula{0};
    N value = fill<N>(0);
    w.each_grad([&](auto i, N s, N t) {
      const auto is_target = w.is(i, target);
      const Element<N> x = element_of<near>(w, i, rows, s, t, inverse);
      value = value + select(is_target, fill<N>(0), formula.value(x));
      const N of_rest = select(softs == fill<N>(0), fill<N>(0), x.d * softs);
      const N e = w.kept(kStudentExp, i, [&] { return exp_below((s - rows.student_max) * inverse); });
      return select(is_target, at_target, of_rest - e * share);
    });
    return w.sum(value);
  }
};

}  // namespace
}  // namespace kd
