// KL(p || q), p = softmax(teacher / T), q = softmax(student / T).
//
// Value: sum p phi(-r) (the Bregman form: accurate near p = q, never negative). Gradient by student / T: q -
// p. p = 0: the class adds q. q = 0 < p: +inf, with the finite gradient -p.
#pragma once

#include "common/divergence.h"

namespace kd {
namespace {

template <class N>
struct KlDiv {
  static constexpr bool kNeedsSum = false;
  double param;

  KD_FN N value(const Element<N>& x) const {
    const N infinity = -minus_infinity<N>();
    const N possible = bregman(x.p, -x.r, x.d);
    return select(x.r == -infinity, x.q, select(x.r == infinity, infinity, possible));
  }
  KD_FN N summand(const Element<N>&) const { return fill<N>(0); }
  KD_FN N gradient(const Element<N>& x, N) const { return x.d; }
};

}  // namespace
}  // namespace kd
