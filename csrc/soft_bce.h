// Binary cross-entropy of logit x against sigmoid(t), without a difference of nearly equal numbers:
//
//   value = sigmoid(t) log(1 + e^-x) + sigmoid(-t) log(1 + e^x)
//         = |x| sigmoid(x > 0 ? -t : t) + log(1 + e^-|x|)
//   slope = sigmoid(x) - sigmoid(t) = sigmoid(x) sigmoid(-t) (1 - e^(t - x)), or, where t is above x,
//           -sigmoid(t) sigmoid(-x) (1 - e^(x - t))
//
// Finite however sure either side is, and exact where both are sure of the same.
#pragma once

#include "common/pairs.h"

namespace kd {
namespace {

// e^-|x|, and the sigmoids of x and -x that follow from it.
template <class N>
struct Sigmoid {
  N below, value, rest;
};
template <class N>
KD_FN Sigmoid<N> sigmoid(N x) {
  const N e = exp_below(-magnitude(x)), most = fill<N>(1) / (fill<N>(1) + e), least = e * most;
  const auto negative = x < fill<N>(0);
  return {e, select(negative, least, most), select(negative, most, least)};
}

struct SoftBce {
  static constexpr int kPairs = 1, kValues = 1;
  static constexpr KD_FN int value_of(int) { return 0; }

  template <class N>
  static KD_FN void at(const N* s, const N* t, const double*, N* value, N* slope) {
    const Sigmoid<N> x = sigmoid(s[0]), y = sigmoid(t[0]);
    const N zero = fill<N>(0), d = s[0] - t[0], apart = -expm1(-magnitude(d));
    value[0] = magnitude(s[0]) * select(s[0] > zero, y.rest, y.value) + log1p(x.below);
    slope[0] = apart * select(d < zero, -(x.rest * y.value), x.value * y.rest);
  }
};

}  // namespace
}  // namespace kd
