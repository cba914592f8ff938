// grad *= factor, in place, for a gradient made in the forward pass. A factor of exactly 1 costs no pass over
// memory.
#pragma once

#include "common/platform.h"

namespace kd {

struct ScaleGradArgs {
  void* grad;  // [n], dense
  DType dtype;
  int64_t n;
  const void* factor;  // [1], float or double
  DType factor_dtype;
};

}  // namespace kd
