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

#include "math.h"
#include "rows.h"

namespace kd {

// What a row's gradient needs, [rows, kRowState] numbers of the compute type.
enum RowStateIndex {
  kStudentMax,
  kStudentInverseSum,
  kTeacherMax,
  kTeacherInverseSum,
  kShift,
  kLogRatio,
  kRegime,
  kRowSum
};
constexpr int kRowState = 8;
// Values of kRegime.
constexpr int kFar = 0, kNear = 1, kUncounted = -1;

// Arguments of every kernel of the family. A is float or double, as `compute` says.
struct DivergenceArgs {
  RowShape shape;
  RowView student, teacher;
  RowView grad;  // like the student; data is null if no gradient is wanted
  DType compute;
  const void* mask;         // A [rows] or null; 0 drops a row
  const void* mask_sum;     // A [1] or null; the forward kernels' gradient is divided by it
  void* row_value;          // A [rows]: scale * divergence, times the mask
  void* row_weight;         // A [rows] or null: the mask, or 0 where a row is not counted
  void* state;              // A [rows, kRowState]; forward may leave it null
  const void* upstream;     // backward: A, one value or [rows]
  int64_t upstream_stride;  // 0 or 1
  const void* norm;         // backward: A [1], a factor of every row
  double temperature;
  double scale;        // T^2 or 1
  double param;        // beta or lambda
  double grad_factor;  // forward: scale / T / (rows or batch), what every row's gradient is multiplied by
};

namespace {

constexpr double kNearLimit = 0.25;

// Running statistics of a set of classes of one row (or, in a vector, of one lane). Two of them merge.
template <class N>
struct Statistics {
  N student_max, student_sum, teacher_max, teacher_sum;
  N excess;    // D, relative to student_max like student_sum
  N distance;  // max |d|; +inf once a class is possible on one side only
};

template <class N>
KD_FN Statistics<N> no_statistics() {
  const N none = minus_infinity<N>(), zero = fill<N>(0);
  return {none, zero, none, zero, zero, zero};
}

// A maximum to subtract: 0 while nothing possible has been seen, since -inf - -inf is not a number.
template <class N>
KD_FN N reference(N maximum) {
  return select(maximum == minus_infinity<N>(), fill<N>(0), maximum);
}

// What sums relative to one maximum become relative to a larger one. While nothing possible has been seen the
// sums are 0, and the new maximum may be far below the reference.
template <class N>
KD_FN N lowering(N from, N to, N inverse_temperature) {
  return exp_below(smaller((reference(from) - reference(to)) * inverse_temperature, fill<N>(0)));
}

// Moves the sums to new, larger maxima.
template <class N>
KD_FN void raise(Statistics<N>& part, N student_max, N teacher_max, N inverse_temperature) {
  const N student = lowering(part.student_max, student_max, inverse_temperature);
  const N teacher = lowering(part.teacher_max, teacher_max, inverse_temperature);
  part.student_sum = part.student_sum * student;
  part.excess = part.excess * student;
  part.teacher_sum = part.teacher_sum * teacher;
  part.student_max = student_max;
  part.teacher_max = teacher_max;
}

// t - s - shift, and what rounding t - s dropped: (high, low).
template <class N>
struct Difference {
  N high, low;
};

template <class N>
KD_FN Difference<N> difference(N student, N teacher, N shift) {
  const N h = teacher - student, subtracted = teacher - h, kept = h + subtracted;
  return {h - shift, (teacher - kept) - (student - subtracted)};
}

// e^{(s-m)/T} of one class on both sides, each with its own maximum m.
template <class N>
struct Exponentials {
  N student, teacher;
};

template <class N>
KD_FN Exponentials<N> exponentials(N student_max, N teacher_max, N student, N teacher,
                                   N inverse_temperature) {
  return {exp_below((student - student_max) * inverse_temperature),
          exp_below((teacher - teacher_max) * inverse_temperature)};
}

// Adds one class (one vector of classes) whose logits are not above the maxima. Once a row is known to be
// far, the excess is not wanted any more.
template <bool known_far, class N>
KD_FN Exponentials<N> add(Statistics<N>& part, N student, N teacher, N shift, N inverse_temperature) {
  const Exponentials<N> e = exponentials(reference(part.student_max), reference(part.teacher_max), student,
                                         teacher, inverse_temperature);
  part.student_sum = part.student_sum + e.student;
  part.teacher_sum = part.teacher_sum + e.teacher;
  if constexpr (known_far) return e;
  const N impossible = minus_infinity<N>();
  const auto neither = (student == impossible) & (teacher == impossible);
  const Difference<N> x = difference(student, teacher, shift);
  const N far = select(neither, fill<N>(0), x.high * inverse_temperature);
  part.distance = larger(magnitude(far), part.distance);
  // Outside the near regime the sum is not used; the clamp keeps it finite.
  const N d = select(neither, fill<N>(0), (x.high + x.low) * inverse_temperature);
  const N near = larger(smaller(d, fill<N>(kNearLimit)), fill<N>(-kNearLimit));
  part.excess = part.excess + e.student * (near + phi_series(near));
  return e;
}

template <class N>
KD_FN Statistics<N> merge(Statistics<N> a, Statistics<N> b, N inverse_temperature) {
  const N student = larger(a.student_max, b.student_max), teacher = larger(a.teacher_max, b.teacher_max);
  raise(a, student, teacher, inverse_temperature);
  raise(b, student, teacher, inverse_temperature);
  a.student_sum = a.student_sum + b.student_sum;
  a.teacher_sum = a.teacher_sum + b.teacher_sum;
  a.excess = a.excess + b.excess;
  a.distance = larger(a.distance, b.distance);
  return a;
}

// The shift k of a row: its first class's t - s where that is a number.
template <class N>
KD_FN N first_shift(N student, N teacher) {
  const N shift = teacher - student;
  return select(magnitude(shift) < fill<N>(__builtin_huge_val()), shift, fill<N>(0));
}

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
  return select(magnitude(u) <= fill<N>(0.5), weight * phi_series(u), change - weight * u);
}

}  // namespace
}  // namespace kd
