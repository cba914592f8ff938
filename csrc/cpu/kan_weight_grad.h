// The gradient of kan_linear's weights: a feature's samples sorted by span, so that a span's rows are
// registers while its samples pass. A long batch is split, and the parts are added up in order by `unpack`.
#pragma once

#include "kan.h"
#include "kan_sort.h"
#include "kan_strips.h"

namespace kd {
namespace {

constexpr int64_t kSorted = 1024;       // samples that are sorted at once
constexpr int64_t kSortedFeatures = 4;  // an item's

// Adds samples order[0 .. n) to a strip of one feature's gradient rows.
template <int kVectors, int K, class A>
KD_FN void add_weight_grad(const Bases<K, A, kSorted>& bases, const uint16_t* order, int64_t n,
                           const A* grad_y, int64_t stride, A* rows, int64_t width, int64_t base_row) {
  using V = typename VectorOf<A>::Type;
  constexpr int64_t kLanes = Number<V>::kLanes;
  V base[kVectors] = {};
  for (int64_t at = 0; at < n;) {
    const int32_t start = bases.start[order[at]];
    V sum[K + 1][kVectors] = {};
    for (; at < n && bases.start[order[at]] == start; ++at) {
      const int64_t b = order[at];
      const A* from = grad_y + b * stride;
      V grad[kVectors];
      KD_UNROLL
      for (int v = 0; v < kVectors; ++v) grad[v] = load<V>(from + v * kLanes);
      KD_UNROLL
      for (int r = 0; r <= K; ++r) {
        const V weight = splat<V>(bases.value[r][b]);
        KD_UNROLL
        for (int v = 0; v < kVectors; ++v) sum[r][v] += weight * grad[v];
      }
      if (base_row == 0) continue;
      const V weight = splat<V>(bases.base[b]);
      KD_UNROLL
      for (int v = 0; v < kVectors; ++v) base[v] += weight * grad[v];
    }
    A* row = rows + start * width;
    KD_UNROLL
    for (int r = 0; r <= K; ++r) {
      KD_UNROLL
      for (int v = 0; v < kVectors; ++v) {
        A* to = row + r * width + v * kLanes;
        store(to, load<V>(to) + sum[r][v]);
      }
    }
  }
  if (base_row == 0) return;
  KD_UNROLL
  for (int v = 0; v < kVectors; ++v) {
    A* to = rows + base_row * width + v * kLanes;
    store(to, load<V>(to) + base[v]);
  }
}

inline int64_t feature_chunk(const KanArgs& args) {
  const int64_t sixteenth = args.features / 16;
  return sixteenth < 1 ? 1 : sixteenth < kSortedFeatures ? sixteenth : kSortedFeatures;
}
inline int64_t feature_chunks(const KanArgs& args) {
  return (args.features + feature_chunk(args) - 1) / feature_chunk(args);
}

template <int K, class A>
void weight_grad_chunk(const KanArgs& args, int64_t item) {
  using V = typename VectorOf<A>::Type;
  constexpr int kMost = kRegisters == 32 && K <= 3 ? 4 : K <= 3 || kRegisters == 32 ? 2 : 1;
  const int64_t chunks = feature_chunks(args), split = item / chunks;
  const Range features = piece(item % chunks, feature_chunk(args), args.features);
  const int64_t share = (args.samples + args.splits - 1) / args.splits;
  const Range samples = piece(split, share, args.samples);
  const int64_t width = padded<A>(args.out), tiles = tiles_of<A>(args), base_row = rows_of(args) - 1;
  A* const grads = static_cast<A*>(args.packed_grad) + split * packed_size<A>(args);
  for (int64_t t = 0; t < tiles; ++t) {
    const OutTile tile = out_tile<A>(args, t);
    A* rows = packed_rows<A>(grads, args, tile, features.begin);
    for (int64_t i = 0; i < features.size() * rows_of(args) * tile.width; ++i) rows[i] = 0;
  }
  Bases<K, A, kSorted> bases[kSortedFeatures];
  uint16_t order[kSortedFeatures][kSorted];
  for (int64_t first = samples.begin; first < samples.end; first += kSorted) {
    const int64_t n = first + kSorted < samples.end ? kSorted : samples.end - first;
    for (int64_t f = 0; f < features.size(); ++f) {
      const A* x = static_cast<const A*>(args.x) + first * args.features + features.begin + f;
      fill_bases<false>(args, feature_of<K, A>(args, features.begin + f), x, args.features, n, &bases[f]);
      sort_by_start(bases[f], n, bases_of(args) - K, order[f]);
    }
    for (int64_t t = 0; t < tiles; ++t) {
      const OutTile tile = out_tile<A>(args, t);
      const A* grad_y = static_cast<const A*>(args.grad_y) + first * width + tile.first;
      for (int64_t f = 0; f < features.size(); ++f) {
        A* rows = packed_rows<A>(grads, args, tile, features.begin + f);
        each_strip<kMost, V>(tile.width, [&](auto strip, int64_t column) {
          add_weight_grad<decltype(strip)::value>(bases[f], order[f], n, grad_y + column, width,
                                                  rows + column, tile.width,
                                                  args.base_weight != nullptr ? base_row : 0);
        });
      }
    }
  }
}

}  // namespace
}  // namespace kd
