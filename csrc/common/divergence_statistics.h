// Pass 1 of a divergence (divergence.h): the running statistics of a row, how a class joins them, how two of
// them merge, and how they move to larger maxima.
#pragma once

#include "divergence_args.h"
#include "math.h"

namespace kd {
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

}  // namespace
}  // namespace kd
