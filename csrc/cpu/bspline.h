// Basis functions of one feature for a block of samples: a vector holds neighbouring samples.
//
// The span is the number of knots <= x, less one: counted knot by knot (two instructions each, whatever the
// spacing) or, for long knot vectors, by bisection. Where a feature's knots fit two vectors they are looked
// up by permutation, and the inverse knot distances with them; otherwise they are gathered.
#pragma once

#include "../common/bspline.h"

namespace kd {
namespace {

constexpr int64_t kCountedKnots = 64;

template <class V>
KD_FN V gather(const ScalarOf<V>* from, typename Number<V>::Int index) {
  V v;
  for (int l = 0; l < Number<V>::kLanes; ++l) v[l] = from[index[l]];
  return v;
}
#ifdef __AVX512F__
template <>
KD_FN VecF gather(const float* from, VecI index) {
  return (VecF)_mm512_i32gather_ps((__m512i)index, from, 4);
}
template <>
KD_FN VecD gather(const double* from, VecL index) {
  return (VecD)_mm512_i64gather_pd((__m512i)index, from, 8);
}
#endif

template <class I>
KD_FN I bounded(I x, int64_t low, int64_t high) {
  using Index = decltype(x[0] + 0);
  const I lo = I{} + static_cast<Index>(low), hi = I{} + static_cast<Index>(high);
  x = x < lo ? lo : x;
  return x > hi ? hi : x;
}

// As Near, with the inverses from a table.
template <int K, class N>
struct NearTable {
  N g[K > 0 ? 2 * K : 1];
  N inverses[K + 1][K + 1];  // [p][r]
  KD_FN N knot(int o) const { return g[o + K - 1]; }
  KD_FN N inverse(int p, int r) const { return inverses[p][r]; }
};

// Where x falls: the point that is evaluated, its span, and whether it is outside (of everything, or of the
// interior).
template <class V>
struct Place {
  V at, beyond;  // beyond: x - at
  typename Number<V>::Int span, outside;
};

template <int K, class A>
class Feature {
  using V = typename VectorOf<A>::Type;
  using I = typename Number<V>::Int;
  using Index = typename Number<A>::Int;
  static constexpr int64_t kLanes = Number<V>::kLanes, kTables = 4, kRoom = kTables * kLanes;

 public:
  Feature(const A* grid, int64_t knots, Extrapolation extrapolation)
      : grid_(grid), knots_(knots), extrapolation_(extrapolation), in_vectors_(knots + 2 * K <= kRoom) {
    first_ = 0, last_ = knots - 2;
    low_ = grid[0], high_ = grid[knots - 1];
    if (extrapolation != Extrapolation::kZero) bound_interior();
    if (in_vectors_) fill_tables();
  }

  KD_FN Place<V> locate(V x) const {
    const V low = fill<V>(low_), high = fill<V>(high_);
    const V at = x < low ? low : x > high ? high : x;
    Place<V> place = {at, x - at, bounded(count(at) - 1, first_, last_), (x < low) | (x > high)};
    if (extrapolation_ == Extrapolation::kZero) place.outside = (x < low) | (x >= high);
    return place;
  }

  // Bases and slopes at a place, and the first basis's index, in [0, bases - K - 1].
  template <bool kSlope>
  KD_FN I evaluate(const Place<V>& place, Local<K, V>* value, Local<K, V>* slope) const {
    const bool tangent = extrapolation_ == Extrapolation::kLinear;
    if (kSlope || tangent)
      with_near(place.span, [&](const auto& near) { value_and_slope(place.at, near, value, slope); });
    else
      with_near(place.span, [&](const auto& near) { *value = derivatives<K>(place.at, near, 0); });
    KD_UNROLL
    for (int r = 0; r <= K; ++r) {
      const V zero = fill<V>(0);
      if (tangent) value->value[r] += select(place.outside, place.beyond * slope->value[r], zero);
      if (extrapolation_ == Extrapolation::kZero)
        value->value[r] = select(place.outside, zero, value->value[r]);
      if (kSlope && !tangent) slope->value[r] = select(place.outside, zero, slope->value[r]);
    }
    const I start = first_basis(place.span), up = start - (place.span - K);
    shift(value, up);
    if (kSlope) shift(slope, up);
    return start;
  }

  // Derivatives of any order, under the same extrapolation.
  KD_FN I differentiate(const Place<V>& place, int order, Local<K, V>* value) const {
    Local<K, V> slope;
    if (order == 0) return evaluate<false>(place, value, &slope);
    with_near(place.span, [&](const auto& near) { *value = derivatives<K>(place.at, near, order); });
    const bool keep = extrapolation_ == Extrapolation::kLinear && order == 1;
    KD_UNROLL
    for (int r = 0; r <= K; ++r)
      if (!keep) value->value[r] = select(place.outside, fill<V>(0), value->value[r]);
    const I start = first_basis(place.span);
    shift(value, start - (place.span - K));
    return start;
  }

 private:
  // The interior [g_K, g_{n-1-K}] and its first and last non-empty spans: beyond its ends theirs are
  // continued.
  void bound_interior() {
    low_ = grid_[K], high_ = grid_[knots_ - 1 - K];
    first_ = K, last_ = knots_ - 2 - K;
    while (first_ < last_ && grid_[first_ + 1] <= low_) ++first_;
    while (last_ > first_ && grid_[last_] >= high_) --last_;
  }

  // Only the vectors that hold knots: with few samples a feature, this is much of the work.
  void fill_tables() {
    A table[kRoom + kMaxDegree + 1];
    const int used = static_cast<int>((knots_ + 2 * K + kLanes - 1) / kLanes);
    for (int64_t t = 0; t < K; ++t) table[t] = grid_[0];
    for (int64_t m = 0; m < knots_; ++m) table[K + m] = grid_[m];
    for (int64_t t = K + knots_; t <= used * kLanes + kMaxDegree; ++t) table[t] = grid_[knots_ - 1];
    for (int part = 0; part < kTables; ++part) {
      if (part >= used) {
        knot_[part] = knot_[0];
        for (int p = 1; p <= K; ++p) inverse_[p - 1][part] = inverse_[p - 1][0];
        continue;
      }
      knot_[part] = load<V>(table + part * kLanes);
      for (int p = 1; p <= K; ++p) {
        const V distance = load<V>(table + part * kLanes + p) - knot_[part];
        inverse_[p - 1][part] = select(distance > fill<V>(0), fill<V>(1) / distance, fill<V>(0));
      }
    }
  }

  KD_FN I count(V x) const {
    I n = {};
    if (knots_ <= kCountedKnots) {
      for (int64_t m = 0; m < knots_; ++m) n -= x >= fill<V>(grid_[m]);
      return n;
    }
    int64_t step = 1;
    while (step * 2 <= knots_) step *= 2;
    for (; step > 0; step /= 2) {
      const I next = n + static_cast<Index>(step);
      const I there = bounded(next, 1, knots_) - 1;
      n = (next <= I{} + static_cast<Index>(knots_)) & (gather<V>(grid_, there) <= x) ? next : n;
    }
    return n;
  }

  KD_FN I first_basis(I span) const { return bounded(span - K, 0, knots_ - 2 * K - 2); }

  // Two vectors are one permutation; four are two and a choice.
  template <bool kFew>
  KD_FN static V pick(const V* table, I index) {
    const V low = __builtin_shuffle(table[0], table[1], index);
    if (kFew) return low;
    return select(index >= static_cast<Index>(2 * kLanes), __builtin_shuffle(table[2], table[3], index), low);
  }

  template <class Use>
  KD_FN void with_near(I span, Use use) const {
    if (knots_ + 2 * K <= 2 * kLanes) return with_tables<true>(span, use);
    if (in_vectors_) return with_tables<false>(span, use);
    Near<K, V> near;
    KD_UNROLL
    for (int o = 1 - K; o <= K; ++o) near.g[o + K - 1] = gather<V>(grid_, bounded(span + o, 0, knots_ - 1));
    // An empty span is met only outside, where nothing is kept; its distances may be 0.
    use(near);
  }

  template <bool kFew, class Use>
  KD_FN void with_tables(I span, Use use) const {
    NearTable<K, V> near;
    KD_UNROLL
    for (int o = 1 - K; o <= K; ++o) near.g[o + K - 1] = pick<kFew>(knot_, span + (o + K));
    KD_UNROLL
    for (int p = 1; p <= K; ++p) {
      KD_UNROLL
      for (int r = 0; r < p; ++r) near.inverses[p][r] = pick<kFew>(inverse_[p - 1], span + (r + 1 - p + K));
    }
    use(near);
  }

  const A* grid_;
  int64_t knots_;
  Extrapolation extrapolation_;
  bool in_vectors_;
  int64_t first_, last_;
  A low_, high_;
  V knot_[kTables], inverse_[K > 0 ? K : 1][kTables];
};

}  // namespace
}  // namespace kd
