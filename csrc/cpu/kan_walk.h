// The walks of kan_linear over blocks of samples: outputs, and the gradient of x.
//
// A block of samples and a few features, whose rows of one tile stay in the first-level cache. Forward: every
// sample's outputs are registers while the features pass. Gradient of x: the same walk, with dot products
// over the outputs.
#pragma once

#include "kan.h"
#include "kan_strips.h"

namespace kd {
namespace {

constexpr int64_t kBlock = 128;           // samples at most
constexpr int64_t kLeast = 32;            // samples at least, where there are as many
constexpr int64_t kGroup = 4;             // features at most
constexpr int64_t kFastBytes = 20 << 10;  // of the first-level cache, for a group's rows
constexpr int kStrip = kRegisters / 4 > 4 && KD_VECTOR_BYTES == 64 ? 4 : 8;

KD_FN int64_t group_size(const KanArgs& args) {
  const int64_t fitting = kFastBytes / (rows_of(args) * kTileBytes);
  return fitting < 1 ? 1 : fitting < kGroup ? fitting : kGroup;
}

// Small batches are cut into smaller blocks, so that more than one thread has work.
KD_FN int64_t block_size(const KanArgs& args) {
  const int64_t quarter = args.samples / (4 * kLeast) * kLeast;
  return quarter < kLeast ? kLeast : quarter < kBlock ? quarter : kBlock;
}

// ---- Forward

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
  const Range samples = piece(item, block_size(args), args.samples);
  const int64_t width = padded<A>(args.out), group = group_size(args), tiles = tiles_of<A>(args);
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
  const Range samples = piece(item, block_size(args), args.samples);
  const int64_t width = padded<A>(args.out), group = group_size(args), tiles = tiles_of<A>(args);
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

}  // namespace
}  // namespace kd
