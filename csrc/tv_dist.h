// Total variation distance: sum |q - p| / 2, in [0, 1].
//
// Gradient by student / T: q (sgn(q - p) - sum q sgn(q - p)) / 2, with sgn(0) = 0.
#pragma once

#include "common/divergence.h"

namespace kd {
namespace {

template <class N>
struct TvDist {
  static constexpr bool kNeedsSum = true;
  double param;

  KD_FN N value(const Element<N>& x) const { return fill<N>(0.5) * magnitude(x.d); }
  KD_FN N summand(const Element<N>& x) const { return x.q * sign(x); }
  KD_FN N gradient(const Element<N>& x, N sum) const { return fill<N>(0.5) * x.q * (sign(x) - sum); }

 private:
  KD_FN N sign(const Element<N>& x) const {
    const N zero = fill<N>(0), one = fill<N>(1);
    return select(x.d > zero, one, select(x.d < zero, -one, zero));
  }
};

}  // namespace
}  // namespace kd
