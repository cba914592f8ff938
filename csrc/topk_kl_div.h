// KL(p || q) for a teacher that is known by k log-probabilities, q = softmax(student / T).
//
// bucket: the other classes are one class with p_r = 1 - sum p and q_r, which is summed over them and never 1
// - the rest. Value: the sum of p phi(-r) over the k + 1 classes, r = log p/q. Gradient by student / T: q - p
// on the k classes, q (1 - p_r / q_r) elsewhere. renormalize: p / sum p, and 0 elsewhere, where the gradient
// is q. param: 1 to renormalize; mass below param 1 is rounding; the same where q_r = 0 (from the dtype p
// came in).
#pragma once

#include "common/row_loss.h"

namespace kd {
namespace {

// p phi(-log p/q) = q - p + p log p/q from log-probabilities, and q - p.
template <class A>
struct Term {
  A value, change;
};

template <class A>
KD_FN Term<A> divergence_term(A log_p, A log_q) {
  const A infinity = -minus_infinity<A>();
  if (impossible(log_p)) return {exp_below(log_q), exp_below(log_q)};
  const A p = exp(log_p);
  if (impossible(log_q)) return {infinity, -p};
  const A u = log_q - log_p;
  if (magnitude(u) <= A(0.5)) return {p * phi_series(u), p * expm1(u)};
  const A change = exp(log_q) - p;
  return {change - p * u, change};
}

template <class W>
struct TopkKlDiv {
  using A = typename W::A;
  using N = typename W::N;
  static constexpr int kOutputs = 1;
  static constexpr double kTeacherPadding = 0;

  // What the teacher's log-probabilities of a row say.
  struct Sparse {
    A shift;     // subtracted from each of them: their logsumexp if they are renormalised
    A log_rest;  // log p_r, -inf if there is no tail
  };

  KD_FN static bool read_sparse(W& w, const RowLossArgs& args, bool tail_possible, Sparse& out) {
    A most = minus_infinity<A>();
    w.each_held([&](int64_t, A log_p) { most = larger(log_p, most); });
    most = w.largest_held(most);
    if (impossible(most)) return false;
    A sum = 0;
    w.each_held([&](int64_t, A log_p) { sum += exp_below(log_p - most); });
    const A total = most + log(w.sum_held(sum));
    out = {total, minus_infinity<A>()};
    if (args.param[0] != 0) return true;
    const A rest = -expm1(total);
    out.shift = 0;
    if (rest > static_cast<A>(tail_possible ? args.param[1] : args.param[2])) out.log_rest = log(rest);
    return true;
  }

  // Over every class, from that of the classes the teacher does not hold. A class that is named twice counts
  // once.
  KD_FN static Mass<A> with_held(W& w, const Mass<A>& rest, A inverse_temperature) {
    A most = minus_infinity<A>();
    w.each_held([&](int64_t c, A) { most = larger(w.student(c), most); });
    const A whole_max = larger(w.largest_held(most), rest.max);
    const N max = spread<N>(reference(whole_max)), inverse = spread<N>(inverse_temperature);
    N sum = fill<N>(0);
    w.each([&](auto i, N s, N) {
      const auto held = w.held(i);
      if (w.any(held)) sum = sum + select(held, exp_below((s - max) * inverse), fill<N>(0));
    });
    return {whole_max, w.sum(sum) + rest.sum * lowering(rest.max, whole_max, inverse_temperature)};
  }

  KD_FN static RowResult<A> run(W& w, const RowLossArgs& args, const A* factor) {
    const A inverse_temperature = static_cast<A>(1 / args.temperature), scale = static_cast<A>(args.scale);
    w.hold(true);
    const Mass<A> rest = student_mass(w, inverse_temperature, [&](auto i) { return !w.held(i); });
    const Mass<A> mass = with_held(w, rest, inverse_temperature);
    Sparse sparse;
    const bool counted = !impossible(mass.max) && read_sparse(w, args, !impossible(rest.max), sparse);
    if (counted) {
      const A lse = log(mass.sum);
      const A log_q_rest =
          impossible(rest.max) ? rest.max : log(rest.sum) + (rest.max - mass.max) * inverse_temperature - lse;
      const Term<A> tail = divergence_term(sparse.log_rest, log_q_rest);
      const auto term = [&](int64_t c, A log_p) {
        return divergence_term(impossible(log_p) ? log_p : log_p - sparse.shift,
                               (w.student(c) - mass.max) * inverse_temperature - lse);
      };
      A value = 0;
      w.each_held([&](int64_t c, A log_p) { value += term(c, log_p).value; });
      value = w.sum_held(value) + tail.value;
      if (w.wants_grad()) {
        const A by = factor[0] * scale * inverse_temperature;
        // q (1 - p_r / q_r) = e^{(s - rest.max) / T} (q_r - p_r) / rest.sum
        const N share = spread<N>(rest.sum == A(0) ? A(0) : tail.change / rest.sum * by);
        const N max = spread<N>(reference(rest.max)), inverse = spread<N>(inverse_temperature);
        w.each_grad([&](auto i, N s, N) {
          const N e = w.kept(kStudentExp, i, [&] { return exp_below((s - max) * inverse); });
          return select(w.held(i), fill<N>(0), e * share);
        });
        w.wait();
        w.each_held([&](int64_t c, A log_p) { w.set_grad(c, term(c, log_p).change * by); });
      }
      w.hold(false);
      return {true, {value * scale, 0}, {1, 0}};
    }
    w.hold(false);
    return uncounted_row<A>();
  }
};

}  // namespace
}  // namespace kd
