// What the CUDA kernels of the B-spline ops share: the bases of one feature at one point, by one thread.
//
// The span is found by bisection of the feature's knots, which many samples share and so lie in the caches.
#pragma once

#include "../common/kan.h"
#include "launch.cuh"

namespace kd {
namespace {

// One feature's bases at one point: the first one's index, K+1 values and slopes.
template <int K, class A>
struct Point {
  int64_t start;
  Local<K, A> value, slope;
};

// A feature's knots, and where they are continued.
template <class A>
struct Knots {
  const A* grid;
  int64_t count;
  Extrapolation extrapolation;
  int degree;

  // The number of knots <= x (for a NaN: 0).
  KD_DEVICE int64_t below(A x) const {
    int64_t low = 0, high = count;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (grid[middle] <= x)
        low = middle + 1;
      else
        high = middle;
    }
    return low;
  }
  KD_DEVICE A at(int64_t m) const { return grid[m < 0 ? 0 : m < count ? m : count - 1]; }
  // The last span that begins below the interior's end.
  KD_DEVICE int64_t last_inside() const {
    int64_t span = count - 2 - degree;
    while (span > degree && grid[span] >= grid[count - 1 - degree]) --span;
    return span;
  }
};

KD_DEVICE int64_t clamped(int64_t x, int64_t low, int64_t high) {
  return x < low ? low : x > high ? high : x;
}

// order < 0: values and slopes; else the derivatives of that order, as values.
template <int K, class A>
KD_DEVICE Point<K, A> evaluate(const Knots<A>& knots, A x, int order) {
  const bool zero = knots.extrapolation == Extrapolation::kZero;
  const bool tangent = knots.extrapolation == Extrapolation::kLinear;
  const A low = zero ? knots.at(0) : knots.at(K),
          high = zero ? knots.at(knots.count - 1) : knots.at(knots.count - 1 - K);
  const A at = x < low ? low : x > high ? high : x;
  const bool outside = x < low || x > high || (zero && x == high);
  const int64_t first = zero ? 0 : K, last = zero ? knots.count - 2 : knots.last_inside();
  const int64_t span = clamped(knots.below(at) - 1, first, last > first ? last : first);
  Near<K, A> near;
  KD_UNROLL
  for (int o = 1 - K; o <= K; ++o) near.g[o + K - 1] = knots.at(span + o);
  Point<K, A> point;
  if (order > 0) {
    point.value = point.slope = derivatives<K>(at, near, order);
    if (outside && !(tangent && order == 1)) point.value = {};
  } else {
    value_and_slope<K>(at, near, &point.value, &point.slope);
    KD_UNROLL
    for (int r = 0; r <= K; ++r) {
      if (outside && tangent) point.value.value[r] += (x - at) * point.slope.value[r];
      if (outside && zero) point.value.value[r] = 0;
      if (outside && !tangent) point.slope.value[r] = 0;
    }
  }
  point.start = clamped(span - K, 0, knots.count - 2 * K - 2);
  const int up = static_cast<int>(point.start - (span - K));
  shift(&point.value, up);
  shift(&point.slope, up);
  return point;
}

template <class A>
KD_DEVICE Knots<A> knots_of(const KanArgs& args, int64_t feature) {
  return {static_cast<const A*>(args.grid) + feature * args.knots, args.knots, args.extrapolation,
          args.degree};
}

// A point in shared memory, with the base function: numbers of type A, the start among them.
template <int K, class A>
struct Stored {
  int64_t start;
  A value[K + 1], slope[K + 1], base, base_slope;
};

template <int K, class A>
KD_DEVICE void store_point(const KanArgs& args, int64_t sample, int64_t feature, Stored<K, A>* to) {
  const A x = static_cast<const A*>(args.x)[sample * args.features + feature];
  const Point<K, A> point = evaluate<K>(knots_of<A>(args, feature), x, -1);
  to->start = point.start;
  KD_UNROLL
  for (int r = 0; r <= K; ++r) to->value[r] = point.value.value[r], to->slope[r] = point.slope.value[r];
  to->base = args.base_weight != nullptr ? silu(x) : A(0);
  to->base_slope = args.base_weight != nullptr ? silu_slope(x) : A(0);
}

// Packed rows of one feature, from one output on.
template <class A>
KD_DEVICE A* rows_at(void* packed, const KanArgs& args, const OutTile& tile, int64_t feature, int64_t o) {
  return static_cast<A*>(packed) + tile.offset + feature * rows_of(args) * tile.width + o;
}

// phi of one edge at a stored point.
template <int K, class A>
KD_DEVICE A edge_value(const KanArgs& args, const Stored<K, A>& point, const A* rows, int64_t width) {
  A phi = 0;
  KD_UNROLL
  for (int r = 0; r <= K; ++r) phi += point.value[r] * rows[(point.start + r) * width];
  return args.base_weight != nullptr ? phi + point.base * rows[bases_of(args) * width] : phi;
}

// dphi/dx of one edge at a stored point.
template <int K, class A>
KD_DEVICE A edge_slope(const KanArgs& args, const Stored<K, A>& point, const A* rows, int64_t width) {
  A slope = 0;
  KD_UNROLL
  for (int r = 0; r <= K; ++r) slope += point.slope[r] * rows[(point.start + r) * width];
  return args.base_weight != nullptr ? slope + point.base_slope * rows[bases_of(args) * width] : slope;
}

// Adds grad * dphi/dweights of one edge to its gradient rows, which no other thread touches.
template <int K, class A>
KD_DEVICE void add_edge_grad(const KanArgs& args, const Stored<K, A>& point, A grad, A* rows, int64_t width) {
  KD_UNROLL
  for (int r = 0; r <= K; ++r) rows[(point.start + r) * width] += point.value[r] * grad;
  if (args.base_weight != nullptr) rows[bases_of(args) * width] += point.base * grad;
}

inline unsigned blocks_for(int64_t numbers, int64_t each) {
  return static_cast<unsigned>((numbers + each - 1) / each);
}

// Calls use.template operator()<K, A>() for the degree and compute type at hand.
template <class A, class Use>
void with_degree(int degree, Use use) {
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
void with_types(DType compute, int degree, Use use) {
  if (compute == DType::kFloat64) return with_degree<double>(degree, use);
  with_degree<float>(degree, use);
}

}  // namespace
}  // namespace kd
