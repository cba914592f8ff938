// The products of the attention kernels: tiles of six rows whose sums are registers, as in a matrix product's
// micro-kernel.
#pragma once

#include "kan_strips.h"

namespace kd {
namespace {

constexpr int kTileRows = 6;
constexpr int kTileVectors = kRegisters == 32 ? 4 : 2;

template <int kVectors, class V>
struct Tile {
  static constexpr int64_t kLanes = Number<V>::kLanes;
  using A = ScalarOf<V>;
  V sum[kTileRows][kVectors];

  KD_FN void fill_rows(V x) {
    KD_UNROLL
    for (int r = 0; r < kTileRows; ++r) {
      KD_UNROLL
      for (int v = 0; v < kVectors; ++v) sum[r][v] = x;
    }
  }

  KD_FN void load_rows(const A* from, int64_t stride) {
    KD_UNROLL
    for (int r = 0; r < kTileRows; ++r) {
      KD_UNROLL
      for (int v = 0; v < kVectors; ++v) sum[r][v] = load<V>(from + r * stride + v * kLanes);
    }
  }

  KD_FN void store_rows(A* to, int64_t stride) const {
    KD_UNROLL
    for (int r = 0; r < kTileRows; ++r) {
      KD_UNROLL
      for (int v = 0; v < kVectors; ++v) store(to + r * stride + v * kLanes, sum[r][v]);
    }
  }

  // sum[r] += sum_k a[r * a_row + k * a_step] b[k * b_step ...].
  KD_FN void add_product(const A* a, int64_t a_row, int64_t a_step, const A* b, int64_t b_step, int64_t n) {
    for (int64_t k = 0; k < n; ++k, a += a_step, b += b_step) {
      V row[kVectors];
      KD_UNROLL
      for (int v = 0; v < kVectors; ++v) row[v] = load<V>(b + v * kLanes);
      KD_UNROLL
      for (int r = 0; r < kTileRows; ++r) {
        const V by = splat<V>(a[r * a_row]);
        KD_UNROLL
        for (int v = 0; v < kVectors; ++v) sum[r][v] += by * row[v];
      }
    }
  }
};

}  // namespace
}  // namespace kd
