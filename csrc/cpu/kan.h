// What the CPU kernels of kan_linear and kan_edge_stats share: the bases of a feature for a block of samples,
// and packing.
#pragma once

#include "../common/kan.h"
#include "../common/level.h"
#include "bspline.h"

namespace kd {
namespace {

constexpr int64_t kSpare = 64 / sizeof(float);  // whole vectors may be written past a block's end

// One feature's bases for up to kSamples samples, a row of numbers for each basis.
template <int K, class A, int64_t kSamples>
struct Bases {
  int32_t start[kSamples + kSpare];  // the first basis, as a packed row
  alignas(64) A value[K + 1][kSamples + kSpare];
  A slope[K + 1][kSamples + kSpare];  // where slopes are wanted
  A base[kSamples + kSpare];          // silu(x)
  A base_slope[kSamples + kSpare];    // silu'(x)
};

// Fills `to` for samples x[0], x[stride], ...; the numbers past n are some valid x's.
template <bool kSlope, int K, class A, int64_t kSamples>
KD_FN void fill_bases(const KanArgs& args, const Feature<K, A>& feature, const A* x, int64_t stride,
                      int64_t n, Bases<K, A, kSamples>* to) {
  using V = typename VectorOf<A>::Type;
  constexpr int64_t kLanes = Number<V>::kLanes;
  for (int64_t b = 0; b < n; b += kLanes) {
    V at;
    for (int64_t l = 0; l < kLanes; ++l) at[l] = x[(b + l < n ? b + l : n - 1) * stride];
    Local<K, V> value, slope;
    const auto start = feature.template evaluate<kSlope>(feature.locate(at), &value, &slope);
    for (int64_t l = 0; l < kLanes; ++l) to->start[b + l] = static_cast<int32_t>(start[l]);
    KD_UNROLL
    for (int r = 0; r <= K; ++r) {
      store(to->value[r] + b, value.value[r]);
      if (kSlope) store(to->slope[r] + b, slope.value[r]);
    }
    if (args.base_weight == nullptr) continue;
    store(to->base + b, silu(at));
    if (kSlope) store(to->base_slope + b, silu_slope(at));
  }
}

struct Range {
  int64_t begin, end;
  KD_FN int64_t size() const { return end - begin; }
};

KD_FN Range piece(int64_t item, int64_t size, int64_t total) {
  const int64_t end = (item + 1) * size;
  return {item * size, end < total ? end : total};
}

template <int K, class A>
KD_FN Feature<K, A> feature_of(const KanArgs& args, int64_t feature) {
  return {static_cast<const A*>(args.grid) + feature * args.knots, args.knots, args.extrapolation};
}

// Where feature `feature`'s rows lie in a packed tile.
template <class A>
KD_FN A* packed_rows(void* packed, const KanArgs& args, const OutTile& tile, int64_t feature) {
  return static_cast<A*>(packed) + tile.offset + feature * rows_of(args) * tile.width;
}

// ---- Packing: an item is some features of one tile

constexpr int64_t kPackedFeatures = 16;

inline int64_t packs_of(const KanArgs& args) {
  return (args.features + kPackedFeatures - 1) / kPackedFeatures;
}

template <class A, class Each>
KD_FN void each_packed(const KanArgs& args, int64_t item, Each each) {
  const OutTile tile = out_tile<A>(args, item / packs_of(args));
  const int64_t begin = item % packs_of(args) * kPackedFeatures;
  const int64_t end = begin + kPackedFeatures < args.features ? begin + kPackedFeatures : args.features;
  for (int64_t o = 0; o < tile.width; ++o)
    for (int64_t i = begin; i < end; ++i) each(tile, o, i);
}

template <class A>
void pack(const KanArgs& args, int64_t item) {
  const int64_t bases = bases_of(args);
  const auto *coef = static_cast<const A*>(args.coef), *scale = static_cast<const A*>(args.scale),
             *base = static_cast<const A*>(args.base_weight);
  each_packed<A>(args, item, [&](const OutTile& tile, int64_t o, int64_t i) {
    A* to = packed_rows<A>(args.packed, args, tile, i) + o;
    const bool there = tile.first + o < args.out;
    const int64_t edge = (tile.first + o) * args.features + i;
    const A by = there && scale != nullptr ? scale[edge] : A(1);
    for (int64_t m = 0; m < bases; ++m) to[m * tile.width] = there ? by * coef[edge * bases + m] : A(0);
    if (base != nullptr) to[bases * tile.width] = there ? base[edge] : A(0);
  });
}

// Adds up the splits, and the gradient of scale * coef becomes those of its factors.
template <class A>
void unpack(const KanArgs& args, int64_t item) {
  const int64_t bases = bases_of(args), split = packed_size<A>(args);
  const auto *coef = static_cast<const A*>(args.coef), *scale = static_cast<const A*>(args.scale);
  auto *grad_coef = static_cast<A*>(args.grad_coef), *grad_scale = static_cast<A*>(args.grad_scale),
       *grad_base = static_cast<A*>(args.grad_base_weight);
  each_packed<A>(args, item, [&](const OutTile& tile, int64_t o, int64_t i) {
    if (tile.first + o >= args.out) return;
    const A* from = packed_rows<A>(args.packed_grad, args, tile, i) + o;
    const auto sum = [&](int64_t row) {
      A total = 0;
      for (int64_t s = 0; s < args.splits; ++s) total += from[s * split + row * tile.width];
      return total;
    };
    const int64_t edge = (tile.first + o) * args.features + i;
    const A by = scale != nullptr ? scale[edge] : A(1);
    A of_scale = 0;
    for (int64_t m = 0; m < bases; ++m) {
      const A grad = sum(m);
      of_scale += grad * coef[edge * bases + m];
      grad_coef[edge * bases + m] = grad * by;
    }
    if (grad_scale != nullptr) grad_scale[edge] = of_scale;
    if (grad_base != nullptr) grad_base[edge] = sum(bases);
  });
}

// Calls use.template operator()<K, A>() for the degree and compute type at hand.
template <class A, class Use>
KD_FN void with_degree(int degree, Use use) {
  switch (degree) {
    case 0:
      return use.template operator()<0, A>();
    case 1:
      return use.template operator()<1, A>();
    case 2:
      return use.template operator()<2, A>();
    case 3:
      return use.template operator()<3, A>();
    case 4:
      return use.template operator()<4, A>();
    default:
      return use.template operator()<5, A>();
  }
}

template <class Use>
KD_FN void with_types(const KanArgs& args, Use use) {
  if (args.compute == DType::kFloat64) return with_degree<double>(args.degree, use);
  with_degree<float>(args.degree, use);
}

}  // namespace
}  // namespace kd
