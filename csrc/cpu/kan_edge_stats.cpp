// Edge statistics on the CPU. An item is one feature: all its edges' sums stay in a few rows of `work` while
// the samples pass in blocks; a strip of edges is registers for the length of a block.
#include "../kan_edge_stats.h"

#include "kan.h"
#include "kan_sort.h"
#include "kan_strips.h"

namespace kd {
namespace {

constexpr int64_t kBlock = 512;
constexpr int64_t kRun = 64;  // samples that are summed at once
constexpr int kMost = kRegisters == 32 ? 2 : 1;

int64_t items(const EdgeArgs& args) { return args.layer.features; }

// Row `which` of a feature's workspace: [padded out].
template <class A>
KD_FN A* work_row(const EdgeArgs& args, int64_t feature, int which) {
  return static_cast<A*>(args.work) + (feature * kEdgeWork + which) * padded<A>(args.layer.out);
}

template <class A>
KD_FN A number_at(const void* edges, const KanArgs& layer, int64_t o, int64_t i) {
  return o < layer.out ? static_cast<const A*>(edges)[o * layer.features + i] : A(0);
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

// ---- Forward
// ---------------------------------------------------------------------------------------------------------

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

// ---- Backward
// --------------------------------------------------------------------------------------------------------

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

void forward(const EdgeArgs& args, int64_t begin, int64_t end) {
  with_types(args.layer, [&]<int K, class A>() {
    for (int64_t i = begin; i < end; ++i) forward_feature<K, A>(args, i);
  });
}

void backward(const EdgeArgs& args, int64_t begin, int64_t end) {
  with_types(args.layer, [&]<int K, class A>() {
    for (int64_t i = begin; i < end; ++i) backward_feature<K, A>(args, i);
  });
}

}  // namespace
}  // namespace kd

extern "C" const kd::Kernels<kd::EdgeArgs> KD_JOIN(kd_, kan_edge_stats, KD_LEVEL);
const kd::Kernels<kd::EdgeArgs> KD_JOIN(kd_, kan_edge_stats, KD_LEVEL) = {kd::items, kd::forward,
                                                                          kd::backward};
