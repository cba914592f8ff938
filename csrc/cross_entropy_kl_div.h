// Cross entropy of the target at temperature 1 and KL(p || q) at T, of one student: one set of maxima and
// sums serves both, and at T = 1, 2 and 4 one exponential, e^{s - m} = (e^{(s - m) / T})^T.
//
// With class weights w and label smoothing e:  ce = (1 - e) w_y n + e/C sum_c w_c (lse - s_c),  n = lse -
// s_y. Gradient by s_c: (1 - e) w_y (q_c - [c = y]) + e/C (q_c sum w - w_c), and (q - p) of KL, each by its
// own factor, which is not known before the backward pass: that goes over the row once, with its sums kept.
// param: label smoothing.
#pragma once

#include "common/row_loss.h"
#include "kl_div.h"

namespace kd {

// Numbers kept of a row: those of Row but its sum, then those of Hard.
constexpr int kCrossEntropyKlDivState = 9;

namespace {

template <class W>
struct CrossEntropyKlDiv {
  using A = typename W::A;
  using N = typename W::N;
  static constexpr int kOutputs = 2;
  static constexpr double kTeacherPadding = -__builtin_huge_val();

  // Sums at temperature 1, relative to the student's maximum.
  struct Hard {
    A others;   // over all classes but the target
    A weights;  // sum w_c, where labels are smoothed
  };
  struct Values {
    A kl, smooth;  // smooth: sum w_c (max - s_c)
    Hard hard;
  };

  // How e^{s - m} comes from e^{(s - m) / T}: squared so many times, or anew.
  struct HardExp {
    bool square, again, anew;
    KD_FN explicit HardExp(double temperature)
        : square(temperature == 2 || temperature == 4),
          again(temperature == 4),
          anew(temperature != 1 && !square) {}
    KD_FN N operator()(N soft, N s, N max) const {
      if (anew) return exp_below(s - max);
      if (square) soft = soft * soft;
      return again ? soft * soft : soft;
    }
  };

  KD_FN static N weight_of(W& w, const RowLossArgs& args, typename W::Index i) {
    const N in_row = select(w.below(i, w.classes()), fill<N>(1), fill<N>(0));
    return args.class_weight == nullptr ? in_row : w.of_classes(args.class_weight, i);
  }

  KD_FN static RowResult<A> run(W& w, const RowLossArgs& args, const A* factor) {
    const A inverse_temperature = static_cast<A>(1 / args.temperature), scale = static_cast<A>(args.scale);
    const int64_t target = args.index[w.row()];
    const bool backward = args.upstream[0] != nullptr;
    Row<A> row;
    Values x = {0, 0, {0, 0}};
    if (backward) {
      load_state(w, args, row, x.hard);
      if (row.regime == A(kUncounted)) return uncounted_row<A>();
    } else {
      const Pair<A> pair = pair_of_rows(w, inverse_temperature, 0, [&](auto i) { return w.all(i); });
      row = pair.row;
      if (!pair.student_possible || !pair.teacher_possible) {
        row.regime = A(kUncounted);
        save_state(w, args, row, x.hard);
        return uncounted_row<A>();
      }
      in_regime_of(row, [&](auto regime) { x = values<decltype(regime)::kNear>(w, args, row, target); });
      save_state(w, args, row, x.hard);
    }
    const A logit = w.student(target), sum = x.hard.others + exp_below(logit - row.student_max);
    const Target<A> hard = target_of(Mass<A>{row.student_max, sum}, x.hard.others, logit);
    const A of_target =
        args.class_weight == nullptr ? A(1) : static_cast<const A*>(args.class_weight)[target];
    const A smoothing = static_cast<A>(args.param[0]), each = smoothing / static_cast<A>(w.classes());
    if (w.wants_grad()) {
      const A soft = factor[1] * scale * inverse_temperature,
              picked = (A(1) - smoothing) * of_target * factor[0];
      const A spread_by = each * factor[0];
      // At the target q - 1 is minus the others' share.
      const Slope slope = {(picked + spread_by * x.hard.weights) / sum, spread_by,
                           spread_by * x.hard.weights * hard.p - picked * hard.rest, soft};
      in_regime_of(row, [&](auto regime) { gradient<decltype(regime)::kNear>(w, args, row, target, slope); });
    }
    const A picked =
        of_target == A(0) || smoothing == A(1) ? A(0) : (A(1) - smoothing) * of_target * hard.loss;
    const A smooth = smoothing == A(0) ? A(0) : each * (x.smooth + x.hard.weights * log(sum));
    return {true, {picked + smooth, x.kl * scale}, {of_target, 1}};
  }

  template <bool near>
  KD_FN static Values values(W& w, const RowLossArgs& args, const Row<A>& row, int64_t target) {
    const Row<N> rows = spread_row<N>(row);
    const N inverse = spread<N>(static_cast<A>(1 / args.temperature));
    const HardExp hard_exp(args.temperature);
    const KlDiv<N> formula{0};
    const bool smoothed = args.param[0] != 0;
    N kl = fill<N>(0), others = kl, weights = kl, smooth = kl;
    w.each([&](auto i, N s, N t) {
      kl = kl + formula.value(element_of<near>(w, i, rows, s, t, inverse));
      const N soft = w.kept(kStudentExp, i, [&] { return exp_below((s - rows.student_max) * inverse); });
      others = others + select(w.is(i, target), fill<N>(0), hard_exp(soft, s, rows.student_max));
      if (!smoothed) return;
      const N weight = weight_of(w, args, i);
      weights = weights + weight;
      smooth = smooth + select(weight == fill<N>(0), fill<N>(0), weight * (rows.student_max - s));
    });
    return {w.sum(kl), smoothed ? w.sum(smooth) : A(0), {w.sum(others), smoothed ? w.sum(weights) : A(0)}};
  }

  // The gradient is q hard + at the target its own, - w smooth, + (q - p) soft.
  struct Slope {
    A hard, smooth, at_target, soft;
  };

  template <bool near>
  KD_FN static void gradient(W& w, const RowLossArgs& args, const Row<A>& row, int64_t target,
                             const Slope& by) {
    const Row<N> rows = spread_row<N>(row);
    const N inverse = spread<N>(static_cast<A>(1 / args.temperature));
    const N of_hard = spread<N>(by.hard), of_weight = spread<N>(by.smooth), of_soft = spread<N>(by.soft);
    const N at_target = spread<N>(by.at_target);
    const HardExp hard_exp(args.temperature);
    const bool smoothed = by.smooth != A(0);
    w.each_grad([&](auto i, N s, N t) {
      const Exponentials<N> e = exponentials(rows.student_max, rows.teacher_max, s, t, inverse);
      const Element<N> x = element<near>(rows, s, t, e, inverse);
      const N q = hard_exp(e.student, s, rows.student_max) * of_hard;
      N hard = select(w.is(i, target), at_target, q);
      if (smoothed) hard = hard - weight_of(w, args, i) * of_weight;
      return hard + x.d * of_soft;
    });
  }

  KD_FN static A* state_of(W& w, const RowLossArgs& args) {
    return static_cast<A*>(args.state) + w.row() * kCrossEntropyKlDivState;
  }
  KD_FN static void save_state(W& w, const RowLossArgs& args, const Row<A>& row, const Hard& hard) {
    if (!w.leads()) return;
    const A numbers[kCrossEntropyKlDivState] = {
        row.student_max, row.student_inverse_sum, row.teacher_max, row.teacher_inverse_sum,
        row.shift,       row.log_ratio,           row.regime,      hard.others,
        hard.weights};
    for (int i = 0; i < kCrossEntropyKlDivState; ++i) state_of(w, args)[i] = numbers[i];
  }
  KD_FN static void load_state(W& w, const RowLossArgs& args, Row<A>& row, Hard& hard) {
    const A* x = state_of(w, args);
    row = {x[0], x[1], x[2], x[3], x[4], x[5], x[6], A(0)};
    hard = {x[7], x[8]};
  }
};

}  // namespace
}  // namespace kd
