// The gradients of a feature's edge statistics: phi is made anew, and samples of one span come together, so
// that its rows of gradients are registers.
#pragma once

#include "kan_edges.h"
#include "kan_sort.h"

namespace kd {
namespace {

template <class A>
KD_FN A number_at(const void* edges, const KanArgs& layer, int64_t o, int64_t i) {
  return o < layer.out ? static_cast<const A*>(edges)[o * layer.features + i] : A(0);
}

// The samples order[0 .. n) of one block: adds to a strip of gradient rows, and to each sample's slope, lane
// by lane.
template <int kVectors, int K, class A, class V>
KD_FN void add_grads(const EdgeArgs& args, const Bases<K, A, kBlock>& bases, const uint16_t* order, int64_t n,
                     const EdgeSlope<V> (&slopes)[kVectors], const A* rows, A* grads, int64_t width,
                     V* partial) {
  constexpr int64_t kLanes = Number<V>::kLanes;
  const int64_t base_row = args.layer.base_weight != nullptr ? bases_of(args.layer) : 0;
  V of_base[kVectors] = {};
  for (int64_t at = 0; at < n;) {
    const int32_t start = bases.start[order[at]];
    const A* row = rows + start * width;
    V sum[K + 1][kVectors] = {};
    for (; at < n && bases.start[order[at]] == start; ++at) {
      const int64_t b = order[at];
      V phi[kVectors];
      evaluate<kVectors>(bases, b, rows, width, base_row, phi);
      KD_UNROLL
      for (int v = 0; v < kVectors; ++v) {
        const V grad = slopes[v].at(phi[v]);
        V inner = {};
        KD_UNROLL
        for (int r = 0; r <= K; ++r) {
          sum[r][v] += bases.value[r][b] * grad;
          inner += bases.slope[r][b] * load<V>(row + r * width + v * kLanes);
        }
        if (base_row > 0) {
          of_base[v] += bases.base[b] * grad;
          inner += bases.base_slope[b] * load<V>(rows + base_row * width + v * kLanes);
        }
        partial[b] += grad * inner;
      }
    }
    KD_UNROLL
    for (int r = 0; r <= K; ++r) {
      KD_UNROLL
      for (int v = 0; v < kVectors; ++v) {
        A* to = grads + (start + r) * width + v * kLanes;
        store(to, load<V>(to) + sum[r][v]);
      }
    }
  }
  for (int v = 0; v < kVectors && base_row > 0; ++v) {
    A* to = grads + base_row * width + v * kLanes;
    store(to, load<V>(to) + of_base[v]);
  }
}

// What each edge's slope needs, as rows of the feature's workspace.
template <class A>
KD_FN void prepare(const EdgeArgs& args, int64_t i) {
  const A n = static_cast<A>(args.layer.samples), freedom = n > 1 ? A(2) / (n - 1) : A(0);
  for (int64_t o = 0; o < padded<A>(args.layer.out); ++o) {
    work_row<A>(args, i, 0)[o] = number_at<A>(args.grad_abs, args.layer, o, i) / n;
    work_row<A>(args, i, 1)[o] = number_at<A>(args.grad_square, args.layer, o, i) * 2 / n;
    work_row<A>(args, i, 2)[o] = number_at<A>(args.grad_variance, args.layer, o, i) * freedom;
    work_row<A>(args, i, 3)[o] = number_at<A>(args.mean, args.layer, o, i);
  }
  for (int64_t t = 0; t < tiles_of<A>(args.layer); ++t) {
    const OutTile tile = out_tile<A>(args.layer, t);
    A* rows = packed_rows<A>(args.layer.packed_grad, args.layer, tile, i);
    for (int64_t k = 0; k < rows_of(args.layer) * tile.width; ++k) rows[k] = 0;
  }
}

template <int K, class A>
void backward_feature(const EdgeArgs& args, int64_t i) {
  using V = typename VectorOf<A>::Type;
  constexpr int64_t kLanes = Number<V>::kLanes;
  const KanArgs& layer = args.layer;
  const Feature<K, A> feature = feature_of<K, A>(layer, i);
  prepare<A>(args, i);
  Bases<K, A, kBlock> bases;
  uint16_t order[kBlock];
  V partial[kBlock];
  for (int64_t first = 0; first < layer.samples; first += kBlock) {
    const int64_t n = first + kBlock < layer.samples ? kBlock : layer.samples - first,
                  at = first * layer.features + i;
    fill_bases<true>(layer, feature, static_cast<const A*>(layer.x) + at, layer.features, n, &bases);
    sort_by_start(bases, n, bases_of(layer) - K, order);
    for (int64_t b = 0; b < kBlock; ++b) partial[b] = V{};
    for (int64_t t = 0; t < tiles_of<A>(layer); ++t) {
      const OutTile tile = out_tile<A>(layer, t);
      const A* rows = packed_rows<const A>(layer.packed, layer, tile, i);
      A* grads = packed_rows<A>(layer.packed_grad, layer, tile, i);
      each_strip<kMost, V>(tile.width, [&](auto strip, int64_t column) {
        constexpr int kVectors = decltype(strip)::value;
        EdgeSlope<V> slopes[kVectors];
        for (int v = 0; v < kVectors; ++v) {
          const int64_t o = tile.first + column + v * kLanes;
          slopes[v] = {load<V>(work_row<A>(args, i, 0) + o), load<V>(work_row<A>(args, i, 1) + o),
                       load<V>(work_row<A>(args, i, 2) + o), load<V>(work_row<A>(args, i, 3) + o)};
        }
        add_grads<kVectors>(args, bases, order, n, slopes, rows + column, grads + column, tile.width,
                            partial);
      });
    }
    for (int64_t b = 0; b < n; b += kLanes) {
      const V sums = sums_of(partial + b);
      for (int64_t l = 0; l < kLanes && b + l < n; ++l)
        static_cast<A*>(layer.grad_x)[at + (b + l) * layer.features] = sums[l];
    }
  }
}

}  // namespace
}  // namespace kd
