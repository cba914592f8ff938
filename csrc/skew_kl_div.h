// KL(p || m), m = lambda p + (1 - lambda) q: finite wherever p and q are, since m > 0 where p > 0 (Ko et al.
// 2024).
//
// Value: sum p phi(u), u = log m/p. Gradient by student / T: (1 - lambda) q (b - sum q b), where b may be 1 -
// p/m or -p/m, since q sums to 1: the first keeps the digits of nearly equal rows, the second those of rows
// that share next to nothing.
#pragma once

#include "common/divergence.h"

namespace kd {
namespace {

template <class N>
struct SkewKlDiv {
  static constexpr bool kNeedsSum = true;
  double rest;  // 1 - lambda

  KD_FN explicit SkewKlDiv(double lambda) : rest(1 - lambda) {}

  KD_FN N value(const Element<N>& x) const {
    return bregman(x.p, log1p(fill<N>(rest) * excess(x.r)), fill<N>(rest) * x.d);
  }
  KD_FN N summand(const Element<N>& x) const { return x.q * score(x); }
  KD_FN N gradient(const Element<N>& x, N sum) const { return fill<N>(rest) * x.q * (score(x) - sum); }

 private:
  KD_FN N score(const Element<N>& x) const {
    const N change = fill<N>(rest) * excess(x.r), share = fill<N>(1) / (fill<N>(1) + change);  // share = p/m
    return select(x.regime == fill<N>(kNear), change * share, -share);
  }
};

}  // namespace
}  // namespace kd
