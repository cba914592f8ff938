// B-spline basis functions on one span of a knot vector, by de Boor's triangular scheme, once for every
// number type.
//
// Knots g_0 <= ... <= g_{n-1}; bases B_0 .. B_{n-K-2} of degree K. On a non-empty span g_i <= x < g_{i+1} the
// only bases that are not 0 are B_{i-K} .. B_i. From degree p-1 to p, with d_r = g_{i+r+1} - g_{i+r+1-p} > 0:
//   t_r = N_r / d_r;   value: N_r gets (g_{i+r+1} - x) t_r, N_{r+1} gets (x - g_{i+r+1-p}) t_r
//                      derivative: N_r gets -p t_r, N_{r+1} gets +p t_r
// so that repeated knots need no 0/0 rule. Knots outside the vector repeat its ends: they reach only the
// bases of negative index and those past the last one, which do not exist and are dropped.
#pragma once

#include "math.h"

namespace kd {

constexpr int kMaxDegree = 5;

// What x outside [g_K, g_{n-1-K}] gives: what the definition says; the tangent of the nearest non-empty span;
// its value.
enum class Extrapolation : int32_t { kZero = 0, kLinear = 1, kClamp = 2 };

namespace {

// The knots around one span: knot(o) = g_{i+o} for o in [1-K, K], and 1/d_r of the step to degree p.
template <int K, class N>
struct Near {
  N g[K > 0 ? 2 * K : 1];
  KD_FN N knot(int o) const { return g[o + K - 1]; }
  KD_FN N inverse(int p, int r) const { return fill<N>(1) / (knot(r + 1) - knot(r + 1 - p)); }
};

// The K+1 bases of a span, or their derivatives of some order. Aligned so that 16 bytes may be copied at
// once.
template <int K, class N>
struct alignas((K + 1) * sizeof(N) == 16 ? 16 : alignof(N)) Local {
  N value[K + 1];

  template <class Knots>
  KD_FN void raise(int p, N x, const Knots& near) {
    N saved = fill<N>(0);
    KD_UNROLL
    for (int r = 0; r < p; ++r) {
      const N t = value[r] * near.inverse(p, r);
      value[r] = saved + (near.knot(r + 1) - x) * t;
      saved = (x - near.knot(r + 1 - p)) * t;
    }
    value[p] = saved;
  }

  template <class Knots>
  KD_FN void differentiate(int p, const Knots& near) {
    N saved = fill<N>(0);
    KD_UNROLL
    for (int r = 0; r < p; ++r) {
      const N t = value[r] * near.inverse(p, r) * fill<N>(p);
      value[r] = saved - t;
      saved = t;
    }
    value[p] = saved;
  }
};

// Degree 0: 1 on its span. x - x keeps a NaN.
template <int K, class N>
KD_FN Local<K, N> constant(N x) {
  Local<K, N> local;
  local.value[0] = fill<N>(1) + select(x == x, fill<N>(0), x);
  KD_UNROLL
  for (int r = 1; r <= K; ++r) local.value[r] = fill<N>(0);
  return local;
}

// The bases' derivatives of order `order` (0: the bases themselves) at x.
template <int K, class N, class Knots>
KD_FN Local<K, N> derivatives(N x, const Knots& near, int order) {
  Local<K, N> local = constant<K>(x);
  KD_UNROLL
  for (int p = 1; p <= K; ++p) {
    if (p <= K - order)
      local.raise(p, x, near);
    else
      local.differentiate(p, near);
  }
  if (order > K) {
    KD_UNROLL
    for (int r = 0; r <= K; ++r) local.value[r] = fill<N>(0);
  }
  return local;
}

// Bases and first derivatives at once: they share everything up to degree K-1.
template <int K, class N, class Knots>
KD_FN void value_and_slope(N x, const Knots& near, Local<K, N>* value, Local<K, N>* slope) {
  *value = constant<K>(x);
  KD_UNROLL
  for (int p = 1; p < K; ++p) value->raise(p, x, near);
  *slope = *value;
  if constexpr (K > 0) {
    slope->differentiate(K, near);
    value->raise(K, x, near);
  } else {
    slope->value[0] = fill<N>(0);
  }
}

// Bases with index below 0 or past the last one do not exist. Moves the others so that they start at a basis
// `up` higher (up > 0: the first `up` are dropped) or `-up` lower.
template <int K, class N, class I>
KD_FN void shift(Local<K, N>* local, I up) {
  KD_UNROLL
  for (int s = 1; s <= K; ++s) {
    KD_UNROLL
    for (int r = 0; r <= K; ++r)
      local->value[r] =
          select(up >= s, r < K ? local->value[r < K ? r + 1 : K] : fill<N>(0), local->value[r]);
    KD_UNROLL
    for (int r = K; r >= 0; --r)
      local->value[r] =
          select(up <= -s, r > 0 ? local->value[r > 0 ? r - 1 : 0] : fill<N>(0), local->value[r]);
  }
}

// silu(x) = x sigma(x), and silu'(x) = sigma (1 + x (1 - sigma)).
template <class N>
KD_FN N silu(N x) {
  return x / (fill<N>(1) + exp(-x));
}
template <class N>
KD_FN N silu_slope(N x) {
  const N sigma = fill<N>(1) / (fill<N>(1) + exp(-x));
  return sigma * (fill<N>(1) + x * (fill<N>(1) - sigma));
}

}  // namespace
}  // namespace kd
