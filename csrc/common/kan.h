// A KAN layer's arguments and the packed layout of its weights, for kan_linear and kan_edge_stats.
//
//   y[b, o] = sum_i ( base[o, i] silu(x[b, i]) + sum_m scale[o, i] coef[o, i, m] B_m(x[b, i]) )
//
// Weights are packed into tiles of kTile outputs, tile by tile [features][rows][tile's width]: rows 0 ..
// bases-1 are scale * coef, row `bases` is the base weight. A sample touches degree+1 neighbouring rows and
// the last one; the rows of a few features stay in the first-level cache while many samples pass.
#pragma once

#include "bspline.h"

namespace kd {

enum class KanStage : int32_t { kPack, kForward, kInputGrad, kWeightGrad, kUnpack };

// Pointers are of the compute type A. Weights [out, features, ...] and x are contiguous.
struct KanArgs {
  KanStage stage;
  DType compute;
  int64_t samples, features, out;
  int64_t knots;  // per feature
  int degree;
  Extrapolation extrapolation;
  const void* x;            // [samples, features]
  const void* grid;         // [features, knots]
  const void* coef;         // [out, features, bases]
  const void* scale;        // [out, features] or null: 1
  const void* base_weight;  // [out, features] or null: no base branch
  void* packed;             // weights, see above
  void* packed_grad;        // [splits] of the same: their gradients
  int64_t splits;           // of the samples, where features alone are too few to share out
  void* y;                  // [samples, padded out]
  const void* grad_y;       // [samples, padded out]
  void* grad_x;             // [samples, features]
  void* grad_coef;          // as coef
  void* grad_scale;         // as scale or null
  void* grad_base_weight;   // as base_weight or null
};

namespace {

constexpr int64_t kTileBytes = 256;  // of a packed row: 64 floats or 32 doubles
constexpr int64_t kChunkBytes = 64;  // the width of a tile is a multiple of this

KD_FN int64_t bases_of(const KanArgs& args) { return args.knots - args.degree - 1; }
KD_FN int64_t rows_of(const KanArgs& args) { return bases_of(args) + (args.base_weight != nullptr ? 1 : 0); }

template <class A>
KD_FN int64_t padded(int64_t out) {
  constexpr int64_t kChunk = kChunkBytes / sizeof(A);
  return (out + kChunk - 1) / kChunk * kChunk;
}

// One tile of outputs: its first output, its width, and where its packed weights start.
struct OutTile {
  int64_t first, width, offset;
};

template <class A>
KD_FN int64_t tiles_of(const KanArgs& args) {
  constexpr int64_t kTile = kTileBytes / sizeof(A);
  return (padded<A>(args.out) + kTile - 1) / kTile;
}

template <class A>
KD_FN OutTile out_tile(const KanArgs& args, int64_t tile) {
  constexpr int64_t kTile = kTileBytes / sizeof(A);
  const int64_t first = tile * kTile, left = padded<A>(args.out) - first;
  return {first, left < kTile ? left : kTile, first * args.features * rows_of(args)};
}

template <class A>
KD_FN int64_t packed_size(const KanArgs& args) {
  return padded<A>(args.out) * args.features * rows_of(args);
}

}  // namespace
}  // namespace kd
