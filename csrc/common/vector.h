// Vectors of the width of this translation unit's instruction level, as GCC vector types: +, *, <, ?: work on
// them as on numbers, so one template serves float, double and both vectors. A comparison gives a vector of
// integers (0 or -1).
#pragma once

#include "platform.h"

#if defined(__AVX512F__)
#include <immintrin.h>
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

}  // namespace
}  // namespace kd
