// What the sample kernels share: each reads x [rows, cols] (rows `stride` apart) and writes y.
#pragma once

#include <map>
#include <string>

#include "../../../csrc/cuda/launch.cuh"

struct SampleArgs {
  const float* x;  // [rows, cols]
  float* y;        // see each kernel
  int64_t rows, cols, stride;
};

// A launch of a sample kernel, found by its name.
struct Sample {
  using Run = void (*)(const SampleArgs&);
  Sample(const char* name, Run run) { all()[name] = run; }
  static std::map<std::string, Run>& all();  // bind/samples.cpp
};
