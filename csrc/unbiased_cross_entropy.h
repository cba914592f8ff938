// -log of the target's probability, where classes 0 ... old (param 0) are one class, the background, which a
// row labelled 0 has. Gradient: q - share of the target's group; inside the group -share (1 - Q), Q the
// group's probability.
#pragma once

#include "common/row_loss.h"

namespace kd {
namespace {

template <class W>
struct UnbiasedCrossEntropy {
  using A = typename W::A;
  using N = typename W::N;
  static constexpr int kOutputs = 1;
  static constexpr double kTeacherPadding = 0;

  KD_FN static RowResult<A> run(W& w, const RowLossArgs& args, const A* factor) {
    const int64_t target = args.index[w.row()], old = static_cast<int64_t>(args.param[0]);
    const bool background = target == 0;
    const auto in_group = [&](auto i) { return background ? w.below(i, old + 1) : w.is(i, target); };
    const Mass<A> mass = student_mass(w, A(1), [&](auto i) { return w.all(i); });
    if (impossible(mass.max)) return uncounted_row<A>();
    if (!background && target <= old) {
      if (w.wants_grad()) w.each_grad([&](auto, N, N) { return fill<N>(0); });
      return {true, {0, 0}, {1, 0}};
    }
    const Mass<A> group = student_mass(w, A(1), in_group);
    const N max = spread<N>(mass.max);
    N outside = fill<N>(0);
    w.each([&](auto i, N s, N) { outside = outside + select(in_group(i), fill<N>(0), exp_below(s - max)); });
    const A others = w.sum(outside);
    // Relative to the row's maximum; 0 where the group lies far below it, which is why it has a maximum of
    // its own.
    const A e = impossible(group.max) ? A(0) : group.sum * exp_below(group.max - mass.max);
    const A value =
        e > A(0.125) * mass.sum
            ? log1p(others / e)
            : log(mass.sum) - (impossible(group.max) ? group.max : log(group.sum) + (group.max - mass.max));
    if (w.wants_grad()) {
      const N group_max = spread<N>(reference(group.max)), by = spread<N>(factor[0] / mass.sum);
      const N inside = spread<N>(group.sum == A(0) ? A(0) : -others / mass.sum / group.sum * factor[0]);
      w.each_grad([&](auto i, N s, N) {
        return select(in_group(i), exp_below(s - group_max) * inside, exp_below(s - max) * by);
      });
    }
    return {true, {value, 0}, {1, 0}};
  }
};

}  // namespace
}  // namespace kd
