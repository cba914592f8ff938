// Squared differences of box deltas, class by class: value (s - t)^2, slope 2 (s - t).
#pragma once

#include "common/pairs.h"

namespace kd {
namespace {

struct ClassBoxL2 {
  static constexpr int kPairs = 1, kValues = 1;
  static constexpr KD_FN int value_of(int) { return 0; }

  template <class N>
  static KD_FN void at(const N* s, const N* t, const double*, N* value, N* slope) {
    const N d = s[0] - t[0];
    value[0] = d * d;
    slope[0] = d + d;
  }
};

}  // namespace
}  // namespace kd
