// A layer's weights into the packed layout of common/kan.h, and their gradients out of it.
//
// coef has a row of numbers for each output, the packed layout a row of outputs for each number: both ways
// are transposes, done in registers, as many outputs and numbers at a time as a vector has lanes.
#pragma once

#include "kan.h"
#include "kan_strips.h"

namespace kd {
namespace {

constexpr int64_t kPackedFeatures = 16;  // of an item, which is these features of one tile

inline int64_t packs_of(const KanArgs& args) {
  return (args.features + kPackedFeatures - 1) / kPackedFeatures;
}

// Index vectors over the lanes of two vectors that swap the upper half of each 2 * kHalf lanes of the first
// with the lower half of the second.
template <class V, int kHalf>
struct Swap {
  alignas(64) typename Number<ScalarOf<V>>::Int first[Number<V>::kLanes], second[Number<V>::kLanes];
  constexpr Swap() : first(), second() {
    constexpr int kLanes = Number<V>::kLanes;
    for (int l = 0; l < kLanes; ++l) {
      const bool upper = (l & kHalf) != 0;
      first[l] = upper ? kLanes + l - kHalf : l, second[l] = upper ? kLanes + l : l + kHalf;
    }
  }
};

// Lane l of v[r] becomes lane r of v[l].
template <class V, int kHalf = 1>
KD_FN void transpose(V* v) {
  constexpr int kLanes = Number<V>::kLanes;
  if constexpr (kHalf < kLanes) {
    constexpr Swap<V, kHalf> kSwap;
    typename Number<V>::Int first, second;
    __builtin_memcpy(&first, kSwap.first, sizeof first);
    __builtin_memcpy(&second, kSwap.second, sizeof second);
    KD_UNROLL
    for (int i = 0; i < kLanes; ++i) {
      if ((i & kHalf) != 0) continue;
      const V low = v[i], high = v[i + kHalf];
      v[i] = __builtin_shuffle(low, high, first), v[i + kHalf] = __builtin_shuffle(low, high, second);
    }
    transpose<V, 2 * kHalf>(v);
  }
}

// Some rows of a row-major matrix, from `at` on; the rows and columns that are there, up to a vector's lanes.
template <class A>
struct Block {
  A* at;
  int64_t stride, rows, columns;
};

// Its columns as vectors; 0 past the rows and columns that are there.
template <class A, class V>
KD_FN void load_columns(const Block<const A>& block, V* v) {
  constexpr int64_t kLanes = Number<V>::kLanes;
  for (int64_t r = 0; r < kLanes; ++r) {
    const A* row = block.at + r * block.stride;
    v[r] = V{};
    if (r >= block.rows) continue;
    if (block.columns >= kLanes)
      v[r] = load<V>(row);
    else
      __builtin_memcpy(&v[r], row, static_cast<uint64_t>(block.columns) * sizeof(A));
  }
  transpose(v);
}

// Vectors as its columns; v is used up.
template <class A, class V>
KD_FN void store_columns(V* v, const Block<A>& block) {
  constexpr int64_t kLanes = Number<V>::kLanes;
  transpose(v);
  for (int64_t r = 0; r < block.rows; ++r) {
    A* row = block.at + r * block.stride;
    if (block.columns >= kLanes)
      store(row, v[r]);
    else
      __builtin_memcpy(row, &v[r], static_cast<uint64_t>(block.columns) * sizeof(A));
  }
}

// As many outputs of a tile and features as a vector has lanes, or fewer at the ends.
template <class A>
struct Cell {
  OutTile tile;
  int64_t column;  // the first output within the tile
  int64_t outs, feature, features;
  int64_t stride;  // of features, from an output to the next

  // Numbers [first, first + n) of each output's row in a matrix of `depth` numbers an edge.
  template <class B>
  KD_FN Block<B> of(B* matrix, int64_t depth, int64_t first, int64_t n) const {
    const int64_t at = ((tile.first + column) * stride + feature) * depth + first;
    return {matrix + at, stride * depth, outs, n};
  }
};

template <class A, class Each>
KD_FN void each_cell(const KanArgs& args, int64_t item, Each each) {
  constexpr int64_t kLanes = Number<typename VectorOf<A>::Type>::kLanes;
  const OutTile tile = out_tile<A>(args, item / packs_of(args));
  const Range features = piece(item % packs_of(args), kPackedFeatures, args.features);
  for (int64_t o = 0; o < tile.width; o += kLanes) {
    const int64_t left = args.out - tile.first - o, outs = left < 0 ? 0 : left < kLanes ? left : kLanes;
    for (int64_t i = features.begin; i < features.end; i += kLanes) {
      const int64_t count = features.end - i < kLanes ? features.end - i : kLanes;
      each(Cell<A>{tile, o, outs, i, count, args.features});
    }
  }
}

// each(number of the coefficient within the chunk, packed row of the cell's features, its feature within the
// cell) for n coefficients from `first` on.
template <class Each>
KD_FN void each_number(int64_t first, int64_t n, int64_t bases, int64_t rows, Each each) {
  int64_t feature = first / bases, m = first % bases;
  for (int64_t l = 0; l < n; ++l) {
    each(l, feature * rows + m, feature);
    if (++m == bases) m = 0, ++feature;
  }
}

template <class A, class V>
KD_FN void load_scales(const Cell<A>& cell, const A* scale, V* by) {
  constexpr int64_t kLanes = Number<V>::kLanes;
  if (scale != nullptr) return load_columns(cell.of(scale, 1, 0, cell.features), by);
  for (int64_t f = 0; f < kLanes; ++f) by[f] = fill<V>(1);
}

template <class A>
void pack(const KanArgs& args, int64_t item) {
  using V = typename VectorOf<A>::Type;
  constexpr int64_t kLanes = Number<V>::kLanes;
  const int64_t bases = bases_of(args), rows = rows_of(args);
  const auto *coef = static_cast<const A*>(args.coef), *scale = static_cast<const A*>(args.scale),
             *base = static_cast<const A*>(args.base_weight);
  each_cell<A>(args, item, [&](const Cell<A>& cell) {
    A* const to = packed_rows<A>(args.packed, args, cell.tile, cell.feature) + cell.column;
    V by[kLanes], v[kLanes];
    load_scales(cell, scale, by);
    for (int64_t first = 0; first < cell.features * bases; first += kLanes) {
      const Range numbers = {first, smaller(first + kLanes, cell.features * bases)};
      load_columns(cell.of(coef, bases, first, numbers.size()), v);
      each_number(first, numbers.size(), bases, rows, [&](int64_t l, int64_t row, int64_t feature) {
        store(to + row * cell.tile.width, v[l] * by[feature]);
      });
    }
    if (base == nullptr) return;
    load_columns(cell.of(base, 1, 0, cell.features), v);
    for (int64_t f = 0; f < cell.features; ++f) store(to + (f * rows + bases) * cell.tile.width, v[f]);
  });
}

// Adds up the splits, and the gradient of scale * coef becomes those of its factors.
template <class A>
void unpack(const KanArgs& args, int64_t item) {
  using V = typename VectorOf<A>::Type;
  constexpr int64_t kLanes = Number<V>::kLanes;
  const int64_t bases = bases_of(args), rows = rows_of(args), split = packed_size<A>(args);
  const auto *coef = static_cast<const A*>(args.coef), *scale = static_cast<const A*>(args.scale);
  auto *grad_coef = static_cast<A*>(args.grad_coef), *grad_scale = static_cast<A*>(args.grad_scale),
       *grad_base = static_cast<A*>(args.grad_base_weight);
  each_cell<A>(args, item, [&](const Cell<A>& cell) {
    const A* const from = packed_rows<A>(args.packed_grad, args, cell.tile, cell.feature) + cell.column;
    const auto sum = [&](int64_t row) {
      V total = load<V>(from + row * cell.tile.width);
      for (int64_t s = 1; s < args.splits; ++s) total += load<V>(from + s * split + row * cell.tile.width);
      return total;
    };
    V by[kLanes], c[kLanes], grad[kLanes], of_scale[kLanes];
    load_scales(cell, scale, by);
    for (int64_t f = 0; f < kLanes; ++f) of_scale[f] = V{};
    for (int64_t first = 0; first < cell.features * bases; first += kLanes) {
      const Range numbers = {first, smaller(first + kLanes, cell.features * bases)};
      if (grad_scale != nullptr) load_columns(cell.of(coef, bases, first, numbers.size()), c);
      for (int64_t l = numbers.size(); l < kLanes; ++l) grad[l] = V{};
      each_number(first, numbers.size(), bases, rows, [&](int64_t l, int64_t row, int64_t feature) {
        const V of_product = sum(row);
        if (grad_scale != nullptr) of_scale[feature] += of_product * c[l];
        grad[l] = of_product * by[feature];
      });
      store_columns(grad, cell.of(grad_coef, bases, first, numbers.size()));
    }
    if (grad_scale != nullptr) store_columns(of_scale, cell.of(grad_scale, 1, 0, cell.features));
    if (grad_base == nullptr) return;
    for (int64_t f = 0; f < kLanes; ++f) grad[f] = f < cell.features ? sum(f * rows + bases) : V{};
    store_columns(grad, cell.of(grad_base, 1, 0, cell.features));
  });
}

}  // namespace
}  // namespace kd
