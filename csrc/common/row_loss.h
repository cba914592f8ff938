// The family of losses that take a row of logits at a time: cross entropies, focal, DKD, sparse teachers,
// folded classes.
//
// A formula is a struct whose `run` takes one row through its passes. It sees the row through a walker W,
// which is a vector of neighbouring classes on the CPU and a team of threads on the GPU:
//   w.each(body)                 body(i, s, t) for every i (a vector of class numbers) with both sides'
//   logits w.each_grad(body)            the same; what body returns is the gradient w.sum(x), w.largest(x)
//   over lanes or threads, as one scalar that all have w.student(c), w.teacher(c)   one class w.is(i, c),
//   w.below(i, c)    masks: i == c, i < c w.keep(slot, i, x), w.kept(slot, i, compute)   x again in a later
//   pass, from memory or computed anew
// So each formula is one text for every device. The backward pass computes a row anew from the inputs and, if
// the formula keeps a state, from a few numbers a row (`args.state`), which spares it all passes but one.
#pragma once

#include "divergence.h"

namespace kd {

constexpr int kMaxOutputs = 2;
constexpr int kKept = 3;  // slots of what a walker keeps of each class
constexpr int kStudentExp = 0, kTeacherExp = 1, kOtherExp = 2;

struct RowLossArgs {
  RowShape shape;            // of the student
  RowView student, teacher;  // teacher.data is null where the loss has none
  RowView grad;              // data is null if no gradient is wanted
  DType compute;             // type A
  int64_t teacher_classes;   // may be fewer than the student's: the rest are padding
  const int64_t*
      index;  // [rows, indices]: targets, or the classes of a sparse teacher; null if there are none
  int64_t indices;
  int64_t ignore_index;           // a row with this target is dropped
  const void* sparse;             // A [rows, indices]: log-probabilities of a sparse teacher
  const void* class_weight;       // A [classes, padded to a multiple of 16] or null
  const void* mask;               // A [rows] or null; 0 drops a row
  const void* mask_sum;           // A [1] or null: the forward kernel's gradient is divided by it
  void* row_value[kMaxOutputs];   // A [rows]
  void* row_weight[kMaxOutputs];  // A [rows] or null
  void* state;  // A [rows, numbers of the formula] or null: written by the forward pass, read by the backward
  const void* upstream[kMaxOutputs];  // backward: A, one value or [rows]; null: forward
  int64_t upstream_stride[kMaxOutputs];
  const void* norm[kMaxOutputs];  // backward: A [1]
  double temperature;
  double scale;  // T^2 or 1
  double param[3];
  double grad_factor;  // forward: 1 / (rows or batch)
};

namespace {

// What one row gives: values that carry scale but no mask, and what the mask is multiplied by in the count.
template <class A>
struct RowResult {
  bool counted;
  A value[kMaxOutputs], weight[kMaxOutputs];
};

template <class A>
KD_FN RowResult<A> uncounted_row() {
  return {false, {0, 0}, {0, 0}};
}

template <class A>
KD_FN bool impossible(A x) {
  return x == minus_infinity<A>();
}

// A constant of the row in every lane.
template <class N, class A>
KD_FN N spread(A x) {
  return N{} + x;
}

// What the gradient of each value is multiplied by in this row. False if by nothing: the gradient is 0 by
// selection.
template <class A>
KD_FN bool row_factors(const RowLossArgs& args, int64_t row, A weight, int outputs, A* factor) {
  bool any = false;
  for (int o = 0; o < outputs; ++o) {
    const A* upstream = static_cast<const A*>(args.upstream[o]);
    if (upstream != nullptr) {
      factor[o] = *static_cast<const A*>(args.norm[o]) * upstream[row * args.upstream_stride[o]] * weight;
    } else {
      const A total = args.mask_sum != nullptr ? *static_cast<const A*>(args.mask_sum) : A(1);
      factor[o] = total == A(0) ? A(0) : static_cast<A>(args.grad_factor) / total * weight;
    }
    any |= factor[o] != A(0);
  }
  return any && weight != A(0);
}

// Maximum and sum of exponentials of the student's classes that `wanted` picks: sum e^{(s - max) / T}. The
// exponentials are kept in `slot`.
template <class A>
struct Mass {
  A max, sum;
};

template <class W, class Wanted>
KD_FN Mass<typename W::A> student_mass(W& w, typename W::A inverse_temperature, Wanted wanted,
                                       int slot = kStudentExp) {
  using N = typename W::N;
  N most = minus_infinity<N>();
  w.each([&](auto i, N s, N) { most = larger(select(wanted(i), s, minus_infinity<N>()), most); });
  Mass<typename W::A> mass = {w.largest(most), 0};
  const N reference_max = spread<N>(reference(mass.max)), inverse = spread<N>(inverse_temperature);
  N sum = fill<N>(0);
  w.each([&](auto i, N s, N) {
    const N e = select(wanted(i), exp_below((s - reference_max) * inverse), fill<N>(0));
    w.keep(slot, i, e);
    sum = sum + e;
  });
  mass.sum = w.sum(sum);
  if (mass.sum != mass.sum) mass.max = mass.sum;  // nothing but NaN is not nothing
  return mass;
}

// log(e^a + e^b).
template <class A>
KD_FN A log_add(A a, A b) {
  const A most = larger(a, b), least = smaller(a, b);
  return impossible(most) ? most : most + log1p(exp_below(least - most));
}

// Both sides of the classes that `wanted` picks, after pass 1 of the divergences (see divergence.h). Their
// exponentials are kept.
template <class A>
struct Pair {
  Row<A> row;
  bool student_possible, teacher_possible;
};

template <class W, class Wanted>
KD_FN Pair<typename W::A> pair_of_rows(W& w, typename W::A inverse_temperature, int64_t first,
                                       Wanted wanted) {
  using N = typename W::N;
  using A = typename W::A;
  const N none = minus_infinity<N>();
  N student_max = none, teacher_max = none;
  w.each([&](auto i, N s, N t) {
    student_max = larger(select(wanted(i), s, none), student_max);
    teacher_max = larger(select(wanted(i), t, none), teacher_max);
  });
  const A s_max = w.largest(student_max), t_max = w.largest(teacher_max);
  const A shift = first < w.classes() ? first_shift(w.student(first), w.teacher(first)) : A(0);
  Statistics<N> part = no_statistics<N>();
  part.student_max = spread<N>(s_max);
  part.teacher_max = spread<N>(t_max);
  const N inverse = spread<N>(inverse_temperature), shifts = spread<N>(shift);
  bool far = false;  // is it known already?
  w.each([&](auto i, N s, N t) {
    const auto in = wanted(i);
    const N x = select(in, s, none), y = select(in, t, none);
    const Exponentials<N> e =
        far ? add<true>(part, x, y, shifts, inverse) : add<false>(part, x, y, shifts, inverse);
    if (!far) far = w.is_far(part.distance);
    w.keep(kStudentExp, i, e.student);
    w.keep(kTeacherExp, i, e.teacher);
  });
  const Statistics<A> whole = {s_max,
                               w.sum(part.student_sum),
                               t_max,
                               w.sum(part.teacher_sum),
                               w.sum(part.excess),
                               w.largest(part.distance)};
  return {finish(whole, shift), whole.student_sum != A(0), whole.teacher_sum != A(0)};
}

template <class N, class A>
KD_FN Row<N> spread_row(const Row<A>& row) {
  return {spread<N>(row.student_max), spread<N>(row.student_inverse_sum),
          spread<N>(row.teacher_max), spread<N>(row.teacher_inverse_sum),
          spread<N>(row.shift),       spread<N>(row.log_ratio),
          spread<N>(row.regime),      spread<N>(row.sum)};
}

// A class of the rows that pair_of_rows has seen.
template <bool near, class W, class N>
KD_FN Element<N> element_of(W& w, typename W::Index i, const Row<N>& row, N student, N teacher, N inverse) {
  const Exponentials<N> e = {
      w.kept(kStudentExp, i, [&] { return exp_below((student - row.student_max) * inverse); }),
      w.kept(kTeacherExp, i, [&] { return exp_below((teacher - row.teacher_max) * inverse); })};
  return element<near>(row, student, teacher, e, inverse);
}

// Calls body(constant) where constant.kNear tells the row's regime at compile time.
template <bool near>
struct Regime {
  static constexpr bool kNear = near;
};
template <class A, class Body>
KD_FN void in_regime_of(const Row<A>& row, Body body) {
  if (row.regime == A(kNear))
    body(Regime<true>{});
  else
    body(Regime<false>{});
}

// ---- One target among the classes
// ------------------------------------------------------------------------------------

// -log of the target's probability and its parts, none of them a difference of nearly equal numbers.
template <class A>
struct Target {
  A loss;  // -log p, +inf where the target cannot occur
  A p;     // its probability
  A rest;  // 1 - p
};

// mass: over every class; others: the sum without the target, relative to the same maximum; at T = 1.
template <class A>
KD_FN Target<A> target_of(const Mass<A>& mass, A others, A logit) {
  const A e = exp_below(logit - mass.max);
  Target<A> x;
  x.loss = e > A(0.125) ? log1p(others / e) : log(mass.sum) - (logit - mass.max);
  x.p = e / mass.sum;
  x.rest = others / mass.sum;
  return x;
}

}  // namespace
}  // namespace kd
