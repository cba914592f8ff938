// Distillation of one anchor of a region proposal network, o its objectness logit and r its four deltas:
//
//   d = o_t - o_s;   value_0 = max(d, 0)^2, slope -2 max(d, 0)
//   value_1 = [d > threshold] |r_s - r_t|^2, slope 2 (r_s - r_t) where the gate is open
//
// The gate is a constant: no slope of value_1 by the logit.
#pragma once

#include "common/pairs.h"

namespace kd {
namespace {

struct RpnDistill {
  static constexpr int kPairs = 5, kValues = 2;
  static constexpr KD_FN int value_of(int pair) { return pair == 0 ? 0 : 1; }

  template <class N>
  static KD_FN void at(const N* s, const N* t, const double* param, N* value, N* slope) {
    const N zero = fill<N>(0), d = t[0] - s[0], missed = select(d < zero, zero, d);
    value[0] = missed * missed;
    slope[0] = fill<N>(-2) * missed;
    const auto open = d > fill<N>(param[0]);
    N square = zero;
    for (int j = 1; j < kPairs; ++j) {
      const N r = s[j] - t[j];
      square += r * r;
      slope[j] = select(open, r + r, zero);
    }
    value[1] = select(open, square, zero);
  }
};

}  // namespace
}  // namespace kd
