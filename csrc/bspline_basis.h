// B_m(x), or its derivative of some order, for every base of a feature's knots: [samples, features, bases].
#pragma once

#include "common/bspline.h"

namespace kd {

// Pointers are of the compute type A, arrays contiguous.
struct BasisArgs {
  DType compute;
  int64_t samples, features, knots;
  int degree, derivative;
  Extrapolation extrapolation;
  const void* x;     // [samples, features]
  const void* grid;  // [features, knots]
  void* out;         // [samples, features, knots - degree - 1]
};

}  // namespace kd
