// The statistics of a feature's edges.
#pragma once

#include "kan_edges.h"

namespace kd {
namespace {

constexpr int64_t kRun = 64;  // samples that are summed at once

// Sums of samples [begin, end) of a block for a strip of edges, merged into those of the `before` samples
// before them.
template <int kVectors, int K, class A, class V>
KD_FN void add_samples(const Bases<K, A, kBlock>& bases, int64_t begin, int64_t end, int64_t before,
                       const A* rows, int64_t width, int64_t base_row, EdgeSums<V> (&sums)[kVectors]) {
  V abs[kVectors] = {}, square[kVectors] = {}, sum[kVectors] = {}, sum_square[kVectors] = {},
    shift[kVectors] = {};
  V phi[kVectors];
  const A n = static_cast<A>(end - begin);
  for (int64_t b = begin; b < end && before == 0; ++b) {  // the first samples are shifted by their own mean
    evaluate<kVectors>(bases, b, rows, width, base_row, phi);
    for (int v = 0; v < kVectors; ++v) shift[v] += phi[v] / n;
  }
  for (int v = 0; v < kVectors && before > 0; ++v) shift[v] = sums[v].mean;
  for (int64_t b = begin; b < end; ++b) {
    evaluate<kVectors>(bases, b, rows, width, base_row, phi);
    KD_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      const V away = phi[v] - shift[v];
      abs[v] += magnitude(phi[v]), square[v] += phi[v] * phi[v], sum[v] += away, sum_square[v] += away * away;
    }
  }
  for (int v = 0; v < kVectors; ++v)
    sums[v].merge(abs[v], square[v], shift[v], sum[v], sum_square[v], n, static_cast<A>(before));
}

// A block of samples, in short runs: the rounding error of a sum grows with its length.
template <int kVectors, int K, class A>
KD_FN void add_block(const EdgeArgs& args, const Bases<K, A, kBlock>& bases, int64_t n, int64_t before,
                     const A* rows, int64_t width, int64_t feature, int64_t first) {
  using V = typename VectorOf<A>::Type;
  constexpr int64_t kLanes = Number<V>::kLanes;
  const int64_t base_row = args.layer.base_weight != nullptr ? bases_of(args.layer) : 0;
  A* work[kEdgeWork];
  for (int w = 0; w < kEdgeWork; ++w) work[w] = work_row<A>(args, feature, w) + first;
  EdgeSums<V> sums[kVectors] = {};
  for (int64_t v = 0; v < kVectors && before > 0; ++v) {
    const int64_t at = v * kLanes;
    sums[v] = {load<V>(work[0] + at), load<V>(work[1] + at), load<V>(work[2] + at), load<V>(work[3] + at)};
  }
  for (int64_t b = 0; b < n; b += kRun)
    add_samples<kVectors>(bases, b, b + kRun < n ? b + kRun : n, before + b, rows, width, base_row, sums);
  for (int64_t v = 0; v < kVectors; ++v) {
    const int64_t at = v * kLanes;
    store(work[0] + at, sums[v].abs), store(work[1] + at, sums[v].square);
    store(work[2] + at, sums[v].mean), store(work[3] + at, sums[v].around);
  }
}

template <class A>
KD_FN void finish(const EdgeArgs& args, int64_t i) {
  const A n = static_cast<A>(args.layer.samples);
  for (int64_t o = 0; o < args.layer.out; ++o) {
    const int64_t edge = o * args.layer.features + i;
    static_cast<A*>(args.mean_abs)[edge] = work_row<A>(args, i, 0)[o] / n;
    static_cast<A*>(args.mean_square)[edge] = work_row<A>(args, i, 1)[o] / n;
    static_cast<A*>(args.mean)[edge] = work_row<A>(args, i, 2)[o];
    static_cast<A*>(args.variance)[edge] = n > 1 ? work_row<A>(args, i, 3)[o] / (n - 1) : A(0);
  }
}

template <int K, class A>
void forward_feature(const EdgeArgs& args, int64_t i) {
  using V = typename VectorOf<A>::Type;
  const KanArgs& layer = args.layer;
  const Feature<K, A> feature = feature_of<K, A>(layer, i);
  Bases<K, A, kBlock> bases;
  for (int64_t first = 0; first < layer.samples; first += kBlock) {
    const int64_t n = first + kBlock < layer.samples ? kBlock : layer.samples - first;
    fill_bases<false>(layer, feature, static_cast<const A*>(layer.x) + first * layer.features + i,
                      layer.features, n, &bases);
    for (int64_t t = 0; t < tiles_of<A>(layer); ++t) {
      const OutTile tile = out_tile<A>(layer, t);
      const A* rows = packed_rows<const A>(layer.packed, layer, tile, i);
      each_strip<kMost, V>(tile.width, [&](auto strip, int64_t column) {
        add_block<decltype(strip)::value>(args, bases, n, first, rows + column, tile.width, i,
                                          tile.first + column);
      });
    }
  }
  finish<A>(args, i);
}

}  // namespace
}  // namespace kd
