// DIST: Pearson's correlations of the student's probabilities q with the teacher's p, over the classes of a
// row and over the rows of a class.
//
//   T^2 (beta mean over rows (1 - rho_row) + gamma mean over classes (1 - rho_class))
//   rho = <a, b> / (|a| |b| + eps), a and b the centred q and p;  d rho / da = (b - rho |b|/|a| a) / (...)
//
// Both are made of a - b, which keeps its digits where q is near p:  |a| |b| - <a, b> =
// (|a - b|^2 - (|a| - |b|)^2) / 2, and b - rho |b|/|a| a = share a - (a - b). What a softmax's gradient adds
// is left to the backward pass, which computes q and p anew: it costs less than keeping them.
//
// Moments of a class are taken about the mean of a few rows, and sets of rows join as Chan, Golub and LeVeque
// (1979) do it, always in the same order: nothing cancels, whatever the classes' means are.
#pragma once

#include <math.h>

#include "common/divergence.h"

namespace kd {

// Rows of the state [kDistRow, rows]. student_inverse_sum is 0 in a row that does not count.
enum DistRowIndex {
  kDistStudentMax,
  kDistStudentInverse,
  kDistTeacherMax,
  kDistTeacherInverse,
  kDistRowScale,
  kDistRowShare,
  kDistRow
};
// Rows of the moments [blocks, kDistMoments, classes]: means of q and p, then the sums of Moments.
enum DistMomentIndex { kDistMeanQ, kDistMeanP, kDistAA, kDistBB, kDistAB, kDistDD, kDistMoments };
// Rows of the columns' state [kDistColumn, classes]: means of q and of q - p, then as in a row.
enum DistColumnIndex { kDistColumnMean, kDistColumnChange, kDistColumnScale, kDistColumnShare, kDistColumn };

// kRows: rows' sums and values, and moments of each block of rows; kColumns: blocks to columns; kFinish: the
// loss; kGradient.
enum class DistStage { kRows, kColumns, kFinish, kGradient };

struct DistLossArgs {
  DistStage stage;
  RowShape shape;
  RowView student, teacher, grad;  // grad: kGradient only
  DType compute;                   // A
  int64_t blocks, block_rows;      // of rows
  void* rows;                      // A [kDistRow, rows]
  void* row_value;                 // A [rows]: 1 - rho, or 0 in a row that does not count
  void* moments;                   // A [blocks, kDistMoments, classes]
  void* counts;                    // A [blocks]: rows that count
  void* columns;                   // A [kDistColumn, classes]
  void* column_value;              // A [classes]: 1 - rho
  void* loss;                      // A [1]
  void* norm;                      // A [1]: 1 / rows that count, or 0
  const void* upstream;            // A [1]
  double temperature, beta, gamma;
};

namespace {

constexpr double kDistEps = 1e-8;

KD_FN float square_root_of(float x) { return sqrtf(x); }
KD_FN double square_root_of(double x) { return sqrt(x); }

// Sums over classes or rows of a^2, b^2, a b and (a - b)^2.
template <class N>
struct Moments {
  N aa, bb, ab, dd;
};

template <class N>
KD_FN Moments<N> no_moments() {
  return {fill<N>(0), fill<N>(0), fill<N>(0), fill<N>(0)};
}

template <class N>
KD_FN void add(Moments<N>& m, N a, N b) {
  const N d = a - b;
  m.aa = m.aa + a * a;
  m.bb = m.bb + b * b;
  m.ab = m.ab + a * b;
  m.dd = m.dd + d * d;
}

// A class's mean q and p over some rows, and the moments about them.
template <class N>
struct Column {
  N q, p;
  Moments<N> about;
};

// Joins `other`, of as many rows as `share` says it is of both together; weight: n m / (n + m).
template <class N>
KD_FN void join(Column<N>& x, const Column<N>& other, N share, N weight) {
  const N q = other.q - x.q, p = other.p - x.p, d = q - p;
  x.q = x.q + q * share;
  x.p = x.p + p * share;
  x.about.aa = x.about.aa + other.about.aa + weight * q * q;
  x.about.bb = x.about.bb + other.about.bb + weight * p * p;
  x.about.ab = x.about.ab + other.about.ab + weight * q * p;
  x.about.dd = x.about.dd + other.about.dd + weight * d * d;
}

// 1 - rho, and its gradient by a: scale (d - share a) with d = a - b.
template <class A>
struct Correlation {
  A value, scale, share;
};

// Whether n numbers differ from `mean` by no more than its rounding, a few units in the last place: they are
// one number then, and dividing by eps would make a gradient of the rounding.
template <class A>
KD_FN bool constant(A square_sum, A n, A mean) {
  const A rounding = (sizeof(A) == sizeof(float) ? A(0x1p-21) : A(0x1p-50)) * mean;
  return square_sum <= n * (rounding * rounding);
}

// Of n numbers whose means are `a_mean` and `b_mean`.
template <class A>
KD_FN Correlation<A> correlation(const Moments<A>& m, A n, A a_mean, A b_mean) {
  const bool no_a = constant(m.aa, n, a_mean), no_b = constant(m.bb, n, b_mean);
  const A a = square_root_of(m.aa), b = square_root_of(m.bb), product = a * b, eps = static_cast<A>(kDistEps);
  const A apart = a - b, inverse = A(1) / (product + eps);
  const bool near = m.dd <= product * A(0.5);
  const A rest = near ? (m.dd - apart * apart) * A(0.5) : product - m.ab;
  Correlation<A> x;
  x.value = no_a || no_b ? A(1) : ((near && rest < A(0) ? A(0) : rest) + eps) * inverse;
  x.scale = no_b ? A(0) : inverse;
  x.share = no_a ? A(0) : (apart + x.value * b) / a;  // 1 - rho b / a
  return x;
}

// The loss from the sums over rows and classes, and what the gradient of a row's part is divided by.
template <class A>
KD_FN void dist_result(const DistLossArgs& args, double rows, double of_rows, double of_columns) {
  const double inverse = rows > 0 ? 1 / rows : 0, classes = static_cast<double>(args.shape.classes);
  const double parts = args.beta * (of_rows * inverse) + args.gamma * (of_columns / classes);
  *static_cast<A*>(args.loss) = static_cast<A>(rows > 0 ? args.temperature * args.temperature * parts : 0);
  *static_cast<A*>(args.norm) = static_cast<A>(inverse);
}

}  // namespace
}  // namespace kd
