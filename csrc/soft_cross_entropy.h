// -sum p log q, q = softmax(student / T), p given. Gradient by student / T: q sum(p) - p.
// p = 0 adds nothing, whatever q is; q = 0 < p makes the row +inf, with the gradient -p.
#pragma once

#include "common/row_loss.h"

namespace kd {
namespace {

template <class W>
struct SoftCrossEntropy {
  using A = typename W::A;
  using N = typename W::N;
  static constexpr int kOutputs = 1;
  static constexpr double kTeacherPadding = 0;

  KD_FN static RowResult<A> run(W& w, const RowLossArgs& args, const A* factor) {
    const A inverse_temperature = static_cast<A>(1 / args.temperature);
    const Mass<A> mass = student_mass(w, inverse_temperature, [&](auto i) { return w.all(i); });
    if (impossible(mass.max)) return uncounted_row<A>();
    const N max = spread<N>(mass.max), inverse = spread<N>(inverse_temperature),
            lse = spread<N>(log(mass.sum));
    N value = fill<N>(0), total = fill<N>(0);
    w.each([&](auto, N s, N p) {
      value = value + select(p == fill<N>(0), fill<N>(0), p * (lse - (s - max) * inverse));
      total = total + p;
    });
    const A sum = w.sum(total), scale = static_cast<A>(args.scale);
    if (w.wants_grad()) {
      const N share = spread<N>(sum / mass.sum), by = spread<N>(factor[0] * scale * inverse_temperature);
      w.each_grad([&](auto i, N s, N p) {
        const N e = w.kept(kStudentExp, i, [&] { return exp_below((s - max) * inverse); });
        return (e * share - p) * by;
      });
    }
    return {true, {w.sum(value) * scale, 0}, {1, 0}};
  }
};

}  // namespace
}  // namespace kd
