// Tiles of an attention map on the GPU: 256 threads as 16 x 16, each with kPer x kPer elements 16 apart, so
// that a warp reads shared memory without conflicts. Operands pass through shared memory kDepth channels at a
// time.
#pragma once

#include "../attention_masks.h"
#include "../common/math.h"
#include "maps.cuh"

namespace kd {
namespace {

constexpr int kSide = 16, kTileThreads = kSide * kSide, kDepth = 16;
template <class A>
constexpr int kPer = sizeof(A) == 4 ? 4 : 2;
template <class A>
constexpr int kTile = kSide * kPer<A>;  // queries and keys of a tile
template <class A>
constexpr int kTileStride = kTile<A> + 1;  // of a tile in shared memory

KD_DEVICE int tile_row() { return threadIdx.x / kSide; }
KD_DEVICE int tile_column() { return threadIdx.x % kSide; }

// What a tile's positions hold: zeros past the end and where a mask drops one.
struct Operand {
  MapView map;
  int64_t positions, channels;
  const bool* mask;  // [B, positions] or null
  int64_t b;

  KD_DEVICE bool there(int64_t p) const {
    return p < positions && (mask == nullptr || mask[b * positions + p]);
  }
  template <class A>
  KD_DEVICE A at(int64_t p, int64_t c) const {
    return c < channels && there(p) ? number_at<A>(map, b, p, c) : A(0);
  }
};

KD_DEVICE Operand queries_of(const AttentionMasksArgs& args, int64_t b) {
  return {args.query, args.queries, args.width, args.query_mask, b};
}
KD_DEVICE Operand keys_of(const AttentionMasksArgs& args, int64_t b) {
  return {args.key, args.keys, args.width, args.key_mask, b};
}
KD_DEVICE Operand values_of(const AttentionMasksArgs& args, int64_t b) {
  return {args.value, args.keys, args.masks, args.key_mask, b};
}
KD_DEVICE Operand upstream_of(const AttentionMasksArgs& args, int64_t b) {
  const MapView map = {const_cast<void*>(args.grad_out), args.compute, args.masks * args.queries, 1,
                       args.queries};
  return {map, args.queries, args.masks, args.query_mask, b};
}

// to[k * stride + p] = x[first + p, c + k] for kDepth channels k and `width` positions p, or the other way
// round.
template <class A>
KD_DEVICE void load_tile(const Operand& x, int64_t first, int64_t c, int width, int depth, A* to, int p_step,
                         int k_step) {
  const bool along_positions = x.map.position_stride <= x.map.channel_stride;
  for (int e = threadIdx.x; e < width * depth; e += kTileThreads) {
    const int p = along_positions ? e % width : e / depth, k = along_positions ? e / width : e % depth;
    to[k * k_step + p * p_step] = x.template at<A>(first + p, c + k);
  }
}

// sum[r][q] = sum_c rows[row + 16 r, c] columns[column + 16 q, c].
template <class A>
KD_DEVICE void tile_product(const Operand& rows, int64_t first_row, const Operand& columns,
                            int64_t first_column, A (&sum)[kPer<A>][kPer<A>]) {
  KD_SHARED(A, left, kDepth * kTile<A>);
  KD_SHARED(A, right, kDepth * kTile<A>);
  for (int r = 0; r < kPer<A>; ++r)
    for (int q = 0; q < kPer<A>; ++q) sum[r][q] = A(0);
  for (int64_t c = 0; c < rows.channels; c += kDepth) {
    __syncthreads();
    load_tile(rows, first_row, c, kTile<A>, kDepth, left, 1, kTile<A>);
    load_tile(columns, first_column, c, kTile<A>, kDepth, right, 1, kTile<A>);
    __syncthreads();
    for (int k = 0; k < kDepth; ++k) {
      A x[kPer<A>], y[kPer<A>];
      for (int r = 0; r < kPer<A>; ++r) x[r] = left[k * kTile<A> + tile_row() + kSide * r];
      for (int q = 0; q < kPer<A>; ++q) y[q] = right[k * kTile<A> + tile_column() + kSide * q];
      for (int r = 0; r < kPer<A>; ++r)
        for (int q = 0; q < kPer<A>; ++q) sum[r][q] += x[r] * y[q];
    }
  }
}

// sum[r][q] += sum_x tile(row + 16 r, x) from[first + x, channel + column + 16 q], where tile(p, x) =
// tile[p * p_step + x * x_step] was written before by the block's threads.
template <int kChannels, class A>
KD_DEVICE void add_gathered(const A* tile, int p_step, int x_step, const Operand& from, int64_t first,
                            int64_t channel, A (&sum)[kPer<A>][kChannels]) {
  constexpr int kWidth = kSide * kChannels;
  KD_SHARED(A, piece, kDepth * kWidth);
  for (int x = 0; x < kTile<A>; x += kDepth) {
    __syncthreads();
    load_tile(from, first + x, channel, kDepth, kWidth, piece, kWidth, 1);
    __syncthreads();
    for (int k = 0; k < kDepth; ++k) {
      A y[kChannels];
      for (int q = 0; q < kChannels; ++q) y[q] = piece[k * kWidth + tile_column() + kSide * q];
      for (int r = 0; r < kPer<A>; ++r) {
        const A weight = tile[(tile_row() + kSide * r) * p_step + (x + k) * x_step];
        for (int q = 0; q < kChannels; ++q) sum[r][q] += weight * y[q];
      }
    }
  }
}

// Over the 16 threads of a row, for all of them.
template <class A, class Join>
KD_DEVICE A over_row(A x, Join join) {
  for (int distance = kSide / 2; distance > 0; distance /= 2)
    x = join(x, __shfl_xor_sync(kWholeWarp, x, distance));
  return x;
}
template <class A>
KD_DEVICE A sum_over_row(A x) {
  return over_row(x, [](A a, A b) { return a + b; });
}

// This thread's elements of A, from the rows' log-sum-exps.
template <class A>
KD_DEVICE void attention_tile(const AttentionMasksArgs& args, int64_t b, int64_t first_query,
                              int64_t first_key, A (&a)[kPer<A>][kPer<A>]) {
  const Operand keys = keys_of(args, b);
  tile_product(queries_of(args, b), first_query, keys, first_key, a);
  for (int r = 0; r < kPer<A>; ++r) {
    const int64_t i = first_query + tile_row() + kSide * r;
    const A lse =
        i < args.queries ? static_cast<const A*>(args.lse)[b * args.queries + i] : -minus_infinity<A>();
    for (int q = 0; q < kPer<A>; ++q) {
      const bool there = keys.there(first_key + tile_column() + kSide * q);
      a[r][q] = there ? exp(static_cast<A>(args.scale) * a[r][q] - lse) : A(0);
    }
  }
}

// share * grad_mean of key j, 0 past the end.
template <class A>
KD_DEVICE A mean_upstream(const AttentionMasksArgs& args, int64_t b, int64_t j) {
  if (j >= args.keys) return A(0);
  return share_of<A>(args, b) * static_cast<const A*>(args.grad_mean)[b * args.keys + j];
}

}  // namespace
}  // namespace kd
