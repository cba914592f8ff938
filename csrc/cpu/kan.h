// What the CPU kernels of kan_linear and kan_edge_stats share: the bases of a feature for a block of samples.
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
    alignas(64) A points[kLanes];
    const int64_t there = n - b < kLanes ? n - b : kLanes;
    for (int64_t l = 0; l < there; ++l) points[l] = x[(b + l) * stride];
    for (int64_t l = there; l < kLanes; ++l) points[l] = points[0];
    const V at = load<V>(points);
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
