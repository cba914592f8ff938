// Cross entropy of the target at temperature 1 and KL(p || q) at T, of one student: one set of maxima and
// sums serves both.
//
// With class weights w and label smoothing e:  ce = (1 - e) w_y n + e/C sum_c w_c (lse - s_c),  n = lse -
// s_y. Gradient by s_c: (1 - e) w_y (q_c - [c = y]) + e/C (q_c sum w - w_c), and (q - p) of KL, each by its
// own factor. param: label smoothing.
#pragma once

#include "common/row_loss.h"
#include "kl_div.h"

namespace kd {
namespace {

template <class W>
struct CrossEntropyKlDiv {
  using A = typename W::A;
  using N = typename W::N;
  static constexpr int kOutputs = 2;
  static constexpr double kTeacherPadding = -__builtin_huge_val();

  // Sums at temperature 1, relative to the student's maximum.
  struct Hard {
    Target<A> target;
    A sum;              // over all classes
    A of_target;        // w_y
    A weights, smooth;  // sum w_c, sum w_c (lse - s_c)
  };

  KD_FN static N weight_of(W& w, const RowLossArgs& args, typename W::Index i) {
    const N in_row = select(w.below(i, w.classes()), fill<N>(1), fill<N>(0));
    return args.class_weight == nullptr ? in_row : w.of_classes(args.class_weight, i);
  }

  // e^{s - max}, from where it was kept: at temperature 1 KL has it too.
  KD_FN static int slot(const RowLossArgs& args) { return args.temperature == 1 ? kStudentExp : kOtherExp; }

  KD_FN static Hard hard(W& w, const RowLossArgs& args, A max, int64_t target) {
    const N maxima = spread<N>(max);
    N others = fill<N>(0);
    const auto add_others = [&](auto i, N e) { others = others + select(w.is(i, target), fill<N>(0), e); };
    if (args.temperature == 1) {
      w.each([&](auto i, N s, N) {
        add_others(i, w.kept(kStudentExp, i, [&] { return exp_below(s - maxima); }));
      });
    } else {
      w.each([&](auto i, N s, N) {
        const N e = exp_below(s - maxima);
        w.keep(kOtherExp, i, e);
        add_others(i, e);
      });
    }
    const A rest = w.sum(others), logit = w.student(target);
    const Mass<A> mass = {max, rest + exp_below(logit - max)};
    Hard x = {target_of(mass, rest, logit), mass.sum, 1, 0, 0};
    if (args.class_weight != nullptr) x.of_target = static_cast<const A*>(args.class_weight)[target];
    if (args.param[0] == 0) return x;
    const N lse = spread<N>(log(mass.sum));
    N weights = fill<N>(0), smooth = fill<N>(0);
    w.each([&](auto i, N s, N) {
      const N weight = weight_of(w, args, i);
      weights = weights + weight;
      smooth = smooth + select(weight == fill<N>(0), fill<N>(0), weight * (lse - (s - maxima)));
    });
    x.weights = w.sum(weights);
    x.smooth = w.sum(smooth);
    return x;
  }

  KD_FN static RowResult<A> run(W& w, const RowLossArgs& args, const A* factor) {
    const A inverse_temperature = static_cast<A>(1 / args.temperature), scale = static_cast<A>(args.scale);
    const Pair<A> pair = pair_of_rows(w, inverse_temperature, 0, [&](auto i) { return w.all(i); });
    if (!pair.student_possible || !pair.teacher_possible) return uncounted_row<A>();
    const int64_t target = args.index[w.row()];
    const Hard x = hard(w, args, pair.row.student_max, target);
    const A smoothing = static_cast<A>(args.param[0]), each = smoothing / static_cast<A>(w.classes());
    A kl = 0;
    if (!w.wants_grad()) {
      in_regime_of(pair.row, [&](auto regime) {
        kl = divergence<decltype(regime)::kNear>(w, pair.row, inverse_temperature);
      });
    } else {
      const A soft = factor[1] * scale * inverse_temperature;
      in_regime_of(pair.row, [&](auto regime) {
        gradient<decltype(regime)::kNear>(w, args, pair.row, x, target, factor[0], soft);
      });
    }
    const A picked =
        x.of_target == A(0) || smoothing == A(1) ? A(0) : (A(1) - smoothing) * x.of_target * x.target.loss;
    return {true, {picked + each * x.smooth, kl * scale}, {x.of_target, 1}};
  }

  template <bool near>
  KD_FN static A divergence(W& w, const Row<A>& row, A inverse_temperature) {
    const Row<N> rows = spread_row<N>(row);
    const N inverse = spread<N>(inverse_temperature);
    const KlDiv<N> formula{0};
    N value = fill<N>(0);
    w.each([&](auto i, N s, N t) {
      value = value + formula.value(element_of<near>(w, i, rows, s, t, inverse));
    });
    return w.sum(value);
  }

  template <bool near>
  KD_FN static void gradient(W& w, const RowLossArgs& args, const Row<A>& row, const Hard& x, int64_t target,
                             A by, A soft) {
    const A smoothing = static_cast<A>(args.param[0]), each = smoothing / static_cast<A>(w.classes());
    const A picked = (A(1) - smoothing) * x.of_target * by;
    const Row<N> rows = spread_row<N>(row);
    const N inverse = spread<N>(static_cast<A>(1 / args.temperature)), softs = spread<N>(soft);
    const N of_q = spread<N>((picked + each * x.weights * by) / x.sum), spread_weight = spread<N>(each * by);
    // At the target q - 1 is minus the others' share.
    const N at_target = spread<N>(-picked * x.target.rest + each * x.weights * by * x.target.p);
    const bool smooth = each != A(0);
    const int hard_slot = slot(args);
    w.each_grad([&](auto i, N s, N t) {
      const Element<N> e = element_of<near>(w, i, rows, s, t, inverse);
      const N q = w.kept(hard_slot, i, [&] { return exp_below(s - rows.student_max); });
      N hard = select(w.is(i, target), at_target, q * of_q);
      if (smooth) hard = hard - weight_of(w, args, i) * spread_weight;
      return hard + e.d * softs;
    });
  }
};

}  // namespace
}  // namespace kd
