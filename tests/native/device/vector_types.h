// Vector types with CUDA's sizes and alignments.
#pragma once

#include "../engine/engine.h"

using dim3 = emulated::Index3;
using uint3 = emulated::Index3;

#define KD_VECTOR_TYPE(name, scalar)                                                                \
  struct alignas(2 * sizeof(scalar)) name##2 { scalar x, y; };                                      \
  struct alignas(4 * sizeof(scalar) > 16 ? 16 : 4 * sizeof(scalar)) name##4 { scalar x, y, z, w; }; \
  inline name##2 make_##name##2(scalar x, scalar y) { return {x, y}; }                              \
  inline name##4 make_##name##4(scalar x, scalar y, scalar z, scalar w) { return {x, y, z, w}; }

KD_VECTOR_TYPE(char, signed char)
KD_VECTOR_TYPE(uchar, unsigned char)
KD_VECTOR_TYPE(short, short)
KD_VECTOR_TYPE(ushort, unsigned short)
KD_VECTOR_TYPE(int, int)
KD_VECTOR_TYPE(uint, unsigned int)
KD_VECTOR_TYPE(longlong, long long)
KD_VECTOR_TYPE(float, float)
KD_VECTOR_TYPE(double, double)
#undef KD_VECTOR_TYPE
