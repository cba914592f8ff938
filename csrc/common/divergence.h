// The family of divergences between two softmaxes: what their kernels share on every device.
//
// p = softmax(t / T) and q = softmax(s / T) of a row of teacher and student logits, r = log p/q.
//
// Pass 1 (Statistics) takes maxima and sums of exponentials, and one thing more: with a fixed shift k (the
// first class's t - s) and d_i = (t_i - s_i - k) / T,
//     log sum e^{t/T} - log sum e^{s/T} = k/T + log1p(D / S),   D = sum e^{(s-m)/T} expm1(d),   S = sum
//     e^{(s-m)/T}.
// Where the two rows are near each other (every |d| <= 1/4) the right side keeps all digits that the left
// side cancels: t - s is taken with its rounding error (TwoSum), so r and q - p = p expm1(-r) stay accurate
// to 1e-6 relative at any distance. Elsewhere k = m_t - m_s and the plain sums serve.
//
// Pass 2 sums a formula's terms; pass 3 makes the gradient (in pass 2 already if it needs no sum). -inf
// logits are classes that cannot occur: `Element` holds p = 0 or q = 0 and r = -inf or +inf for them, and
// each formula says what that means. Values are Bregman forms, sums of terms that are never negative: see
// specs of phi in math.h.
#pragma once

#include "divergence_statistics.h"

namespace kd {
namespace {

// A row (or a vector of rows) after pass 1; kRowSum joins after pass 2. Numbers in the order of
// RowStateIndex.
template <class N>
struct Row {
  N student_max, student_inverse_sum, teacher_max, teacher_inverse_sum, shift, log_ratio, regime, sum;
};

template <class N>
KD_FN Row<N> finish(Statistics<N> part, N shift) {
  const N zero = fill<N>(0), one = fill<N>(1);
  // By the sums: the maximum of nothing but NaN is -inf too, and such a row counts.
  const auto uncounted = (part.student_sum == zero) | (part.teacher_sum == zero);
  const auto near = part.distance <= fill<N>(kNearLimit);
  const N student_sum = select(uncounted, one, part.student_sum),
          teacher_sum = select(uncounted, one, part.teacher_sum);
  Row<N> row;
  row.student_max = reference(part.student_max);
  row.teacher_max = reference(part.teacher_max);
  row.student_inverse_sum = one / student_sum;
  row.teacher_inverse_sum = one / teacher_sum;
  row.shift = select(near, shift, row.teacher_max - row.student_max);
  row.log_ratio =
      select(near, log1p(part.excess * row.student_inverse_sum), log(teacher_sum) - log(student_sum));
  row.regime = select(uncounted, fill<N>(kUncounted), select(near, fill<N>(kNear), zero));
  row.sum = zero;
  return row;
}

// One class of a row: p, q, r = log p/q, d = q - p, and the row's regime.
template <class N>
struct Element {
  N p, q, r, d, regime;
};

template <bool near, class N>
KD_FN Element<N> element(const Row<N>& row, N student, N teacher, Exponentials<N> e, N inverse_temperature) {
  const N impossible = minus_infinity<N>();
  const auto neither = (student == impossible) & (teacher == impossible);
  Element<N> x;
  x.regime = row.regime;
  x.p = e.teacher * row.teacher_inverse_sum;
  const Difference<N> d = difference(student, teacher, row.shift);
  x.r = (near ? d.high + d.low : d.high) * inverse_temperature - row.log_ratio;
  x.r = select(neither, fill<N>(0), x.r);
  if constexpr (near) {
    x.d = x.p * (phi_series(-x.r) - x.r);  // p expm1(-r)
    x.q = x.p + x.d;
  } else {
    x.q = e.student * row.student_inverse_sum;
    x.d = x.q - x.p;
  }
  return x;
}

template <bool near, class N>
KD_FN Element<N> element(const Row<N>& row, N student, N teacher, N inverse_temperature) {
  return element<near>(row, student, teacher,
                       exponentials(row.student_max, row.teacher_max, student, teacher, inverse_temperature),
                       inverse_temperature);
}

// Where r is below -kNothing, p is nothing beside q.
constexpr double kNothing = 60;

// q/p - 1 = expm1(-r), finite: what it is beyond kNothing stands beside a p that is 0 to every digit.
template <class N>
KD_FN N excess(N r) {
  return expm1(-larger(r, fill<N>(-kNothing)));
}

// weight * phi(u) where weight * expm1(u) = change is known: the series near 0, else change - weight * u. u =
// +-inf stands for a class that is impossible on one side: see the formulas.
template <class N>
KD_FN N bregman(N weight, N u, N change) {
  return select(u * u <= fill<N>(0.25), weight * phi_series(u), change - weight * u);
}

}  // namespace
}  // namespace kd
