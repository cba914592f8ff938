// Vectors of the width of this translation unit's instruction level, as GCC vector types: +, *, <, ?: work on
// them as on numbers, so one template serves float, double and both vectors. A comparison gives a vector of
// integers (0 or -1).
#pragma once

#include "platform.h"

#if defined(__AVX2__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"  // GCC 12 warns of its own _mm512_undefined_ps
#include <immintrin.h>
#pragma GCC diagnostic pop
#endif

#if defined(__AVX512F__)
#define KD_VECTOR_BYTES 64
#elif defined(__AVX2__)
#define KD_VECTOR_BYTES 32
#else
#define KD_VECTOR_BYTES 16
#endif

namespace kd {
namespace {

typedef float VecF __attribute__((vector_size(KD_VECTOR_BYTES)));
typedef double VecD __attribute__((vector_size(KD_VECTOR_BYTES)));
typedef int32_t VecI __attribute__((vector_size(KD_VECTOR_BYTES)));
typedef int64_t VecL __attribute__((vector_size(KD_VECTOR_BYTES)));

// Number<N>: the scalar of a number type, the integer of the same shape, and its constants.
template <class N>
struct Number;
template <>
struct Number<float> {
  using Scalar = float;
  using Int = int32_t;
  static constexpr int kLanes = 1;
};
template <>
struct Number<double> {
  using Scalar = double;
  using Int = int64_t;
  static constexpr int kLanes = 1;
};
template <>
struct Number<VecF> {
  using Scalar = float;
  using Int = VecI;
  static constexpr int kLanes = KD_VECTOR_BYTES / sizeof(float);
};
template <>
struct Number<VecD> {
  using Scalar = double;
  using Int = VecL;
  static constexpr int kLanes = KD_VECTOR_BYTES / sizeof(double);
};

// VectorOf<A>::Type: the vector whose lanes are A.
template <class A>
struct VectorOf;
template <>
struct VectorOf<float> {
  using Type = VecF;
};
template <>
struct VectorOf<double> {
  using Type = VecD;
};

template <class V>
KD_FN V load(const typename Number<V>::Scalar* from) {
  V v;
  __builtin_memcpy(&v, from, sizeof(V));
  return v;
}

template <class V>
KD_FN void store(typename Number<V>::Scalar* to, V v) {
  __builtin_memcpy(to, &v, sizeof(V));
}

// The first n lanes of a vector, 0 < n < lanes, and `rest` in the others; nothing behind them is touched.
template <class V>
KD_FN V load_some(const typename Number<V>::Scalar* from, int64_t n, typename Number<V>::Scalar rest) {
  V v = V{} + rest;
#ifdef __AVX512F__
  if constexpr (sizeof(*from) == 4)
    return (V)_mm512_mask_loadu_ps((__m512)v, static_cast<__mmask16>((1u << n) - 1), from);
  else
    return (V)_mm512_mask_loadu_pd((__m512d)v, static_cast<__mmask8>((1u << n) - 1), from);
#else
  for (int64_t l = 0; l < n; ++l) v[l] = from[l];
  return v;
#endif
}

template <class V>
KD_FN void store_some(typename Number<V>::Scalar* to, int64_t n, V v) {
#ifdef __AVX512F__
  if constexpr (sizeof(*to) == 4)
    _mm512_mask_storeu_ps(to, static_cast<__mmask16>((1u << n) - 1), (__m512)v);
  else
    _mm512_mask_storeu_pd(to, static_cast<__mmask8>((1u << n) - 1), (__m512d)v);
#else
  for (int64_t l = 0; l < n; ++l) to[l] = v[l];
#endif
}

}  // namespace
}  // namespace kd
