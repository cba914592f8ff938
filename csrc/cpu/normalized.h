// What the layouts of normalized_mse share: the sample, or the run of its rows, that they work on.
#pragma once

#include "../normalized_mse.h"
#include "segment.h"

namespace kd {
namespace {

template <class A>
struct NormalizedItem {
  static constexpr int64_t kRun = 1024;

  const NormalizedMseArgs& args;
  const A eps;
  int64_t b = 0, first = 0, n = 0;  // sample, first position, positions
  A *means = nullptr, *sums[6] = {};
  alignas(64) A s[kRun], t[kRun], grad[kRun];

  explicit NormalizedItem(const NormalizedMseArgs& a) : args(a), eps(static_cast<A>(a.eps)) {}

  void begin(int64_t sample, int64_t first_position, int64_t positions) {
    b = sample, first = first_position, n = positions;
    means = static_cast<A*>(args.workspace) + b * args.workspace_of_sample;
    const int64_t sums_step = (args.shape.positions + 15) / 16 * 16;
    for (int i = 0; i < 6; ++i) sums[i] = means + 2 * args.shape.channels + i * sums_step + first;
  }

  A upstream(int64_t p) const {
    if (args.upstream == nullptr) return A(1);
    return static_cast<const A*>(args.upstream)[(b * args.shape.positions + p) * args.upstream_stride];
  }
  void put_value(int64_t p, A value) const {
    if (args.row_value == nullptr) return;
    static_cast<A*>(args.row_value)[b * args.shape.positions + p] = static_cast<A>(args.scale) * value;
  }
};

}  // namespace
}  // namespace kd
