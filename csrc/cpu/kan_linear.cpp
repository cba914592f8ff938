// A KAN layer on the CPU by local support: of a feature's rows of weights, a sample touches the degree+1
// whose bases are not 0, and the base row. So the work does not grow with the grid, and beats the dense
// product already at 5 intervals.
//
// Forward: a block of samples and a few features, whose rows of one tile stay in the first-level cache; every
// sample's outputs are registers while the features pass. Gradient of x: the same walk, with dot products
// over the outputs. Gradient of the weights: a feature's samples sorted by span, so that a span's rows are
// registers while its samples pass. Each item writes numbers of its own: no atomics, and the bits do not
// depend on the number of threads.
#include "../kan_linear.h"

#include "kan.h"
#include "kan_sort.h"
#include "kan_strips.h"

namespace kd {
namespace {

constexpr int64_t kBlock = 128;           // samples
constexpr int64_t kGroup = 4;             // features at most
constexpr int64_t kFastBytes = 20 << 10;  // of the first-level cache, for a group's rows
constexpr int kStrip = kRegisters / 4 > 4 && KD_VECTOR_BYTES == 64 ? 4 : 8;

template <class A>
KD_FN int64_t group_size(const KanArgs& args, int64_t tiles) {
  const int64_t fitting = kFastBytes / (rows_of(args) * kTileBytes * tiles);
  return fitting < 1 ? 1 : fitting < kGroup ? fitting : kGroup;
}

struct Range {
  int64_t begin, end;
  KD_FN int64_t size() const { return end - begin; }
};

KD_FN Range piece(int64_t item, int64_t size, int64_t total) {
  const int64_t end = (item + 1) * size;
  return {item * size, end < total ? end : total};
}

// ---- Forward
// ---------------------------------------------------------------------------------------------------------

// Adds one feature's share to a strip of one sample's outputs.
template <int kVectors, int K, class A, class V>
KD_FN void add_feature(const Bases<K, A, kBlock>& bases, int64_t b, const A* rows, int64_t width,
                       int64_t base_row, V (&sum)[kVectors]) {
  constexpr int64_t kLanes = Number<V>::kLanes;
  const A* row = rows + bases.start[b] * width;
  KD_UNROLL
  for (int r = 0; r <= K; ++r) {
    const V weight = splat<V>(bases.value[r][b]);
    KD_UNROLL
    for (int v = 0; v < kVectors; ++v) sum[v] += weight * load<V>(row + r * width + v * kLanes);
  }
  if (base_row == 0) return;
  const V weight = splat<V>(bases.base[b]);
  KD_UNROLL
  for (int v = 0; v < kVectors; ++v) sum[v] += weight * load<V>(rows + base_row * width + v * kLanes);
}

template <int K, class A>
void forward_block(const KanArgs& args, int64_t item) {
  using V = typename VectorOf<A>::Type;
  constexpr int64_t kLanes = Number<V>::kLanes;
  const Range samples = piece(item, kBlock, args.samples);
  const int64_t width = padded<A>(args.out), group = group_size<A>(args, 1), tiles = tiles_of<A>(args);
  const int64_t base_row = args.base_weight != nullptr ? bases_of(args) : 0;
  A* const y = static_cast<A*>(args.y) + samples.begin * width;
  for (int64_t i = 0; i < samples.size() * width; ++i) y[i] = 0;
  Bases<K, A, kBlock> bases[kGroup];
  for (int64_t first = 0; first < args.features; first += group) {
    const int64_t features = first + group < args.features ? group : args.features - first;
    for (int64_t f = 0; f < features; ++f) {
      const A* x = static_cast<const A*>(args.x) + samples.begin * args.features + first + f;
      fill_bases<false>(args, feature_of<K, A>(args, first + f), x, args.features, samples.size(), &bases[f]);
    }
    for (int64_t t = 0; t < tiles; ++t) {
      const OutTile tile = out_tile<A>(args, t);
      each_strip<kStrip, V>(tile.width, [&](auto strip, int64_t column) {
        constexpr int kVectors = decltype(strip)::value;
        const A* rows[kGroup];
        for (int64_t f = 0; f < features; ++f)
          rows[f] = packed_rows<const A>(args.packed, args, tile, first + f) + column;
        for (int64_t b = 0; b < samples.size(); ++b) {
          A* to = y + b * width + tile.first + column;
          V sum[kVectors];
          KD_UNROLL
          for (int v = 0; v < kVectors; ++v) sum[v] = load<V>(to + v * kLanes);
          for (int64_t f = 0; f < features; ++f)
            add_feature<kVectors>(bases[f], b, rows[f], tile.width, base_row, sum);
          KD_UNROLL
          for (int v = 0; v < kVectors; ++v) store(to + v * kLanes, sum[v]);
        }
      });
    }
  }
}

// ---- Gradient of x
// ---------------------------------------------------------------------------------------------------

// sum_o grad[o] dphi[o]/dx over a strip, lane by lane.
template <int kVectors, int K, class A, class V>
KD_FN V slope_dot(const Bases<K, A, kBlock>& bases, int64_t b, const A* rows, int64_t width, int64_t base_row,
                  const V (&grad)[kVectors]) {
  constexpr int64_t kLanes = Number<V>::kLanes;
  const A* row = rows + bases.start[b] * width;
  V total = {};
  KD_UNROLL
  for (int r = 0; r <= K; ++r) {
    V dot = grad[0] * load<V>(row + r * width);
    KD_UNROLL
    for (int v = 1; v < kVectors; ++v) dot += grad[v] * load<V>(row + r * width + v * kLanes);
    total += bases.slope[r][b] * dot;
  }
  if (base_row == 0) return total;
  V dot = grad[0] * load<V>(rows + base_row * width);
  KD_UNROLL
  for (int v = 1; v < kVectors; ++v) dot += grad[v] * load<V>(rows + base_row * width + v * kLanes);
  return total + bases.base_slope[b] * dot;
}

template <int K, class A>
void input_grad_block(const KanArgs& args, int64_t item) {
  using V = typename VectorOf<A>::Type;
  constexpr int64_t kLanes = Number<V>::kLanes;
  const Range samples = piece(item, kBlock, args.samples);
  const int64_t width = padded<A>(args.out), group = group_size<A>(args, 1), tiles = tiles_of<A>(args);
  const int64_t base_row = args.base_weight != nullptr ? bases_of(args) : 0;
  const A* const grad_y = static_cast<const A*>(args.grad_y) + samples.begin * width;
  A* const grad_x = static_cast<A*>(args.grad_x) + samples.begin * args.features;
  Bases<K, A, kBlock> bases[kGroup];
  V partial[kGroup][kBlock];
  for (int64_t first = 0; first < args.features; first += group) {
    const int64_t features = first + group < args.features ? group : args.features - first;
    for (int64_t f = 0; f < features; ++f) {
      const A* x = static_cast<const A*>(args.x) + samples.begin * args.features + first + f;
      fill_bases<true>(args, feature_of<K, A>(args, first + f), x, args.features, samples.size(), &bases[f]);
      for (int64_t b = 0; b < kBlock; ++b) partial[f][b] = V{};
    }
    for (int64_t t = 0; t < tiles; ++t) {
      const OutTile tile = out_tile<A>(args, t);
      each_strip<kStrip, V>(tile.width, [&](auto strip, int64_t column) {
        constexpr int kVectors = decltype(strip)::value;
        const A* rows[kGroup];
        for (int64_t f = 0; f < features; ++f)
          rows[f] = packed_rows<const A>(args.packed, args, tile, first + f) + column;
        for (int64_t b = 0; b < samples.size(); ++b) {
          const A* from = grad_y + b * width + tile.first + column;
          V grad[kVectors];
          KD_UNROLL
          for (int v = 0; v < kVectors; ++v) grad[v] = load<V>(from + v * kLanes);
          for (int64_t f = 0; f < features; ++f)
            partial[f][b] += slope_dot(bases[f], b, rows[f], tile.width, base_row, grad);
        }
      });
    }
    for (int64_t f = 0; f < features; ++f) {
      for (int64_t b = 0; b < samples.size(); b += kLanes) {
        const V sums = sums_of(partial[f] + b);
        for (int64_t l = 0; l < kLanes && b + l < samples.size(); ++l)
          grad_x[(b + l) * args.features + first + f] = sums[l];
      }
    }
  }
}

// ---- Gradient of the weights
// -------------------------------------------------------------------------------------------

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

// ---- Stages
// ------------------------------------------------------------------------------------------------------------

int64_t items(const KanArgs& args) {
  switch (args.stage) {
    case KanStage::kForward:
    case KanStage::kInputGrad:
      return (args.samples + kBlock - 1) / kBlock;
    case KanStage::kWeightGrad:
      return feature_chunks(args) * args.splits;
    default:
      return packs_of(args) *
             (args.compute == DType::kFloat64 ? tiles_of<double>(args) : tiles_of<float>(args));
  }
}

template <int K, class A>
void run(const KanArgs& args, int64_t item) {
  switch (args.stage) {
    case KanStage::kPack:
      return pack<A>(args, item);
    case KanStage::kForward:
      return forward_block<K, A>(args, item);
    case KanStage::kInputGrad:
      return input_grad_block<K, A>(args, item);
    case KanStage::kWeightGrad:
      return weight_grad_chunk<K, A>(args, item);
    case KanStage::kUnpack:
      return unpack<A>(args, item);
  }
}

void forward(const KanArgs& args, int64_t begin, int64_t end) {
  with_types(args, [&]<int K, class A>() {
    for (int64_t item = begin; item < end; ++item) run<K, A>(args, item);
  });
}

}  // namespace
}  // namespace kd

extern "C" const kd::Kernels<kd::KanArgs> KD_JOIN(kd_, kan_linear, KD_LEVEL);
const kd::Kernels<kd::KanArgs> KD_JOIN(kd_, kan_linear, KD_LEVEL) = {kd::items, kd::forward, nullptr};
