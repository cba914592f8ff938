// Squared distance of normalised features over [B, P, C], for every position, with z = x or x minus its mean
// over the positions:
//
//   a = z_s / max(|z_s|, eps),  b = z_t / max(|z_t|, eps),  r = a - b,  value = |r|^2
//   gradient by z_s: (2 / |z_s|) (r - <a, r> a), 0 where |z_s| <= eps;  by s: the same minus its mean over
//   the positions
//
// r is made element by element, not from <a, b>: near convergence both value and gradient keep their digits.
#pragma once

#include <math.h>

#include "common/maps.h"
#include "common/math.h"

namespace kd {

struct NormalizedMseArgs {
  MapShape shape;
  MapView student, teacher;
  MapView grad;   // like the student; data is null if no gradient is wanted
  DType compute;  // A
  bool center;
  double eps;
  double scale;          // of every row's value and gradient
  const void* upstream;  // A, one value or [B, P]; null: one
  int64_t upstream_stride;
  void* row_value;  // A [B, P] or null
  void* workspace;  // A [B, 2 C + 6 P'], P' = P in whole vectors of 16: means and sums of a sample
  int64_t workspace_of_sample;
};

namespace {

KD_FN float root(float x) { return sqrtf(x); }
KD_FN double root(double x) { return sqrt(x); }

// What a side is multiplied by: 1 / max(|z|, eps), 0 for 0/0.
template <class A>
KD_FN A inverse_norm(A square, A eps) {
  const A norm = root(square);
  const A at_least = norm > eps ? norm : norm != norm ? norm : eps;
  return at_least == A(0) ? A(0) : A(1) / at_least;
}

// r = scale (z_s - ratio z_t) and a = scale z_s: one rounding where z_s and z_t nearly cancel. A scale of 0
// belongs to z_s = 0.
template <class A>
struct Scales {
  A scale, ratio;
};
template <class A>
KD_FN Scales<A> scales(A student_square, A teacher_square, A eps) {
  const A of_s = inverse_norm(student_square, eps), of_t = inverse_norm(teacher_square, eps);
  return of_s == A(0) ? Scales<A>{of_t, A(1)} : Scales<A>{of_s, of_t / of_s};
}

// What the gradient is multiplied by: 2 / |z_s|, or 0.
template <class A>
KD_FN A slope(A square, A eps) {
  const A norm = root(square);
  return norm <= eps ? A(0) : A(2) / norm;
}

}  // namespace
}  // namespace kd
