// Binary cross-entropy of logit x against sigmoid(t):
//
//   value = max(x, 0) - x sigmoid(t) + log(1 + e^-|x|),   slope = sigmoid(x) - sigmoid(t)
//
// Finite however sure either side is.
#pragma once

#include "common/pairs.h"

namespace kd {
namespace {

// e^-|x| and the sigmoid that follows from it.
template <class N>
struct Sigmoid {
  N below, value;
};
template <class N>
KD_FN Sigmoid<N> sigmoid(N x) {
  const N e = exp_below(-magnitude(x)), one = fill<N>(1);
  return {e, select(x < fill<N>(0), e, one) / (one + e)};
}

struct SoftBce {
  static constexpr int kPairs = 1, kValues = 1;
  static constexpr KD_FN int value_of(int) { return 0; }

  template <class N>
  static KD_FN void at(const N* s, const N* t, const double*, N* value, N* slope) {
    const Sigmoid<N> x = sigmoid(s[0]), y = sigmoid(t[0]);
    value[0] = (larger(s[0], fill<N>(0)) - s[0] * y.value) + log1p(x.below);
    slope[0] = x.value - y.value;
  }
};

}  // namespace
}  // namespace kd
