// The norm-and-direction loss of one row: s and t the embeddings, m its class's mean.
//
//   value = 1 - c / n,  c = <s, m> / |m|,  n = |s| if |s| >= |t| else |t|  (a tie goes to the student)
//   gradient: n = |t|: -m / (|m| n);  n = |s|: the same + (c / n^3) s
//
// Everything follows from four sums over the row. A mean with a NaN is a class that is not known: the row is
// not counted. A norm of 0 in the denominator: value 1, gradient 0.
#pragma once

#include <math.h>

#include "common/math.h"
#include "common/rows.h"

namespace kd {

struct NdLossArgs {
  RowShape shape;                  // classes: the features
  RowView student, teacher, grad;  // grad.data is null if no gradient is wanted
  const void* means;               // [K, D]
  DType means_dtype;
  int64_t means_row_stride, means_stride;
  const int64_t* target;          // [rows]
  int64_t classes, ignore_index;  // K
  DType compute;                  // A
  const void* mask;               // A [rows] or null
  const void* presumed;           // A [1] or null: the weight that the forward pass divides the gradient by
  double grad_factor;             // forward: 1 or 1/batch
  const void* upstream;           // backward: A, one value or [rows]; null in the forward pass
  int64_t upstream_stride;
  const void* norm;  // backward: A [1]
  void* row_value;   // A [rows]; null in the backward pass
  void* row_weight;  // A [rows]
};

namespace {

KD_FN float kd_sqrt(float x) { return sqrtf(x); }
KD_FN double kd_sqrt(double x) { return sqrt(x); }

template <class A>
struct NdSums {
  A ss, tt, mm, sm;  // <s, s>, <t, t>, <m, m>, <s, m>
};

// The row's value, and its gradient as mean_factor * m + student_factor * s.
template <class A>
struct NdRow {
  A value, mean_factor, student_factor;
  bool known;
};

template <class A>
KD_FN NdRow<A> nd_row(const NdSums<A>& x) {
  if (x.mm != x.mm) return {A(0), A(0), A(0), false};
  const A student = kd_sqrt(x.ss), teacher = kd_sqrt(x.tt), mean = kd_sqrt(x.mm);
  const bool own = student >= teacher;
  const A longer = own ? student : teacher;
  if (mean == A(0) || longer == A(0)) return {A(1), A(0), A(0), true};
  const A along = x.sm / mean, cosine = along / longer;
  return {A(1) - cosine, A(-1) / (mean * longer), own ? cosine / (longer * longer) : A(0), true};
}

}  // namespace
}  // namespace kd
