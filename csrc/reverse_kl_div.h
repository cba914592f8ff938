// KL(q || p), q = softmax(student / T), p = softmax(teacher / T).
//
// Value: sum q phi(r). Gradient by student / T: q (-r - KL(q || p)).
// q = 0: the class adds p. p = 0 < q: the row's value is +inf, and its gradient 0 by convention.
#pragma once

#include "common/divergence.h"

namespace kd {
namespace {

template <class N>
struct ReverseKlDiv {
  static constexpr bool kNeedsSum = true;
  double param;

  KD_FN N value(const Element<N>& x) const {
    const N infinity = -minus_infinity<N>();
    const N possible = bregman(x.q, x.r, -x.d);
    return select(x.r == infinity, x.p, select(x.r == -infinity, infinity, possible));
  }
  KD_FN N summand(const Element<N>& x) const { return value(x); }
  KD_FN N gradient(const Element<N>& x, N sum) const {
    const N infinity = -minus_infinity<N>();
    return select((x.r == infinity) | (sum == infinity), fill<N>(0), x.q * (-x.r - sum));
  }
};

}  // namespace
}  // namespace kd
