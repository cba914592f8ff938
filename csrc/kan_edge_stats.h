// Statistics over samples of each edge's output phi[b, o, i] = base[o, i] silu(x[b, i]) + scale spline: the
// means of |phi| and phi^2 and the unbiased variance, without an array of that size.
//
// Blocks of samples are shifted by the mean so far and merged (Chan, Golub and LeVeque 1983), so that a
// variance far smaller than the mean does not cancel. Backward: dL/dphi = g_abs sign(phi)/n + 2 g_square
// phi/n + 2 g_var (phi - mean)/(n-1), with phi made anew.
#pragma once

#include "common/kan.h"

namespace kd {

// Pointers are of the compute type A; [out, features] unless said otherwise.
struct EdgeArgs {
  KanArgs layer;
  void *mean_abs, *mean_square, *variance, *mean;
  const void *grad_abs, *grad_square, *grad_variance;
  void* work;  // [features, kEdgeWork, padded out]
};

constexpr int kEdgeWork = 4;

namespace {

// The sums of some samples of one edge.
template <class N>
struct EdgeSums {
  N abs, square, mean, around;  // around: sum of (phi - mean)^2

  // Adds n samples whose sums of phi - shift and its square are given, after `before` samples.
  KD_FN void merge(N more_abs, N more_square, N shift, N sum, N sum_square, ScalarOf<N> n,
                   ScalarOf<N> before) {
    const N theirs = shift + sum / n, between = theirs - mean;
    const N their_around = sum_square - sum * (sum / n);
    abs += more_abs, square += more_square;
    around += (their_around > fill<N>(0) ? their_around : fill<N>(0)) +
              between * between * (before * n / (before + n));
    mean += between * (n / (before + n));
  }
};

// dL/dphi of one sample of one edge.
template <class N>
struct EdgeSlope {
  N of_abs, of_square, of_variance, mean;  // the first three divided by their counts

  KD_FN N at(N phi) const {
    const N zero = fill<N>(0);
    const N sign = select(phi > zero, of_abs, select(phi < zero, -of_abs, zero));
    return sign + of_square * phi + of_variance * (phi - mean);
  }
};

}  // namespace
}  // namespace kd
