// Brings together the samples that touch the same rows of weights, by counting.
#pragma once

#include "../common/platform.h"

namespace kd {
namespace {

constexpr int64_t kMostStarts = 1024;  // longer grids are walked unsorted

// The order in which samples of one start come together.
template <class B>
inline void sort_by_start(const B& bases, int64_t n, int64_t starts, uint16_t* order) {
  if (starts > kMostStarts) {
    for (int64_t b = 0; b < n; ++b) order[b] = static_cast<uint16_t>(b);
    return;
  }
  uint16_t next[kMostStarts + 1];
  for (int64_t s = 0; s <= starts; ++s) next[s] = 0;
  for (int64_t b = 0; b < n; ++b) ++next[bases.start[b] + 1];
  for (int64_t s = 0; s < starts; ++s) next[s + 1] = static_cast<uint16_t>(next[s + 1] + next[s]);
  for (int64_t b = 0; b < n; ++b) order[next[bases.start[b]]++] = static_cast<uint16_t>(b);
}

}  // namespace
}  // namespace kd
