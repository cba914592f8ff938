// What the sample kernels share: each reads x [rows, cols] (rows `stride` apart) and writes y.
#pragma once

#include "../../../csrc/cuda/launch.cuh"

struct SampleArgs {
  const float* x;  // [rows, cols]
  float* y;        // see each kernel
  int64_t rows, cols, stride;
};
