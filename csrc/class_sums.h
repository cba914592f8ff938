// Sums and counts of rows by class. Rows of a class are added in their order, in double: the same bits
// whatever the threads, and no atomics.
#pragma once

#include "common/platform.h"

namespace kd {

struct ClassSumsArgs {
  int64_t rows, width, classes;
  const void* features;  // [rows, width]
  DType dtype;
  int64_t row_stride, stride;
  const int64_t* target;  // [rows]; CUDA
  bool ignores;
  int64_t ignored;       // a target that is passed over, if `ignores`
  const int64_t* order;  // CPU: rows sorted by class, [begin[classes]]
  const int64_t* begin;  // CPU: [classes + 1], where a class's rows begin in `order`
  DType out;             // of the sums: float or double
  void* sums;            // [classes, width]
  int64_t* counts;       // [classes]
};

}  // namespace kd
