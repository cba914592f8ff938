// What both passes of kan_edge_stats share: an item is one feature, whose edges' numbers stay in a few rows
// of `work` while the samples pass in blocks; a strip of edges is registers for the length of a block.
#pragma once

#include "../kan_edge_stats.h"
#include "kan.h"
#include "kan_strips.h"

namespace kd {
namespace {

constexpr int64_t kBlock = 512;
constexpr int kMost = kRegisters == 32 ? 2 : 1;

// Row `which` of a feature's workspace: [padded out].
template <class A>
KD_FN A* work_row(const EdgeArgs& args, int64_t feature, int which) {
  return static_cast<A*>(args.work) + (feature * kEdgeWork + which) * padded<A>(args.layer.out);
}

// phi of one sample for a strip of edges.
template <int kVectors, int K, class A, class V>
KD_FN void evaluate(const Bases<K, A, kBlock>& bases, int64_t b, const A* rows, int64_t width,
                    int64_t base_row, V (&phi)[kVectors]) {
  constexpr int64_t kLanes = Number<V>::kLanes;
  const A* row = rows + bases.start[b] * width;
  KD_UNROLL
  for (int v = 0; v < kVectors; ++v) {
    phi[v] = V{};
    KD_UNROLL
    for (int r = 0; r <= K; ++r) phi[v] += bases.value[r][b] * load<V>(row + r * width + v * kLanes);
    if (base_row > 0) phi[v] += bases.base[b] * load<V>(rows + base_row * width + v * kLanes);
  }
}

}  // namespace
}  // namespace kd
