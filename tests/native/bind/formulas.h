// What bind/formulas_of_level.cc exports for one CPU instruction level.
#pragma once

#include "../../../csrc/common/platform.h"

enum class Function { kExp, kExpBelow, kExpm1, kLog, kLog1p, kPhi, kPhiSeries };

struct FormulasOfLevel {
  // y [n] = function(x [n]), by scalars or by vectors; n is a multiple of 16.
  void (*single)(Function function, bool vector, const float* x, float* y, int64_t n);
  void (*wide)(Function function, bool vector, const double* x, double* y, int64_t n);
  void (*to_float)(const void* from, kd::DType dtype, float* to, int64_t n);
  void (*from_float)(const float* from, void* to, kd::DType dtype, int64_t n);
};
