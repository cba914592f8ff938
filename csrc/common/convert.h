// float16 and bfloat16 to and from float by integer arithmetic, in loops the compiler turns into vectors at
// every instruction level; rounding is to nearest, ties to even.
#pragma once

#include "math.h"

namespace kd {
namespace {

struct Half {
  uint16_t bits;
};
struct BFloat {
  uint16_t bits;
};

KD_FN float widen(float x) { return x; }
KD_FN double widen(double x) { return x; }

KD_FN float widen(BFloat x) { return bit_cast<float>(static_cast<uint32_t>(x.bits) << 16); }

// Shifting a half's exponent and mantissa into a float leaves the exponent 112 too small, denormals included.
KD_FN float widen(Half x) {
  const uint32_t magnitude_bits = static_cast<uint32_t>(x.bits & 0x7fff) << 13;
  const float finite = bit_cast<float>(magnitude_bits) * 5.192296858534828e33f;  // 2^112
  const uint32_t special = (x.bits & 0x7c00) == 0x7c00 ? 0x7f800000u : 0u;       // infinity or NaN
  return bit_cast<float>(bit_cast<uint32_t>(finite) | special |
                         (static_cast<uint32_t>(x.bits & 0x8000) << 16));
}

KD_FN void narrow(float x, float* to) { *to = x; }
KD_FN void narrow(double x, double* to) { *to = x; }
KD_FN void narrow(double x, float* to) { *to = static_cast<float>(x); }
KD_FN void narrow(float x, double* to) { *to = x; }

KD_FN void narrow(float x, BFloat* to) {
  const uint32_t bits = bit_cast<uint32_t>(x);
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  to->bits = static_cast<uint16_t>(x != x ? 0x7fc0 : rounded);
}

// Adding a power of two whose last place is the half's last place makes the processor round there.
KD_FN void narrow(float x, Half* to) {
  const uint32_t bits = bit_cast<uint32_t>(x), sign = bits & 0x80000000u;
  const float size = bit_cast<float>(bits ^ sign);
  const uint32_t exponent = bit_cast<uint32_t>(size) & 0x7f800000u;
  const uint32_t lowest = 0x38800000u;  // 2^-14: below it the half's last place no longer shrinks
  const uint32_t magic = (exponent < lowest ? lowest : exponent) + (13u << 23);
  const float rounded = (size + bit_cast<float>(magic)) - bit_cast<float>(magic);
  const uint32_t scaled = bit_cast<uint32_t>(rounded * 1.925929944387236e-34f) >> 13;  // 2^-112
  const uint32_t finite = size >= 65520.0f ? 0x7c00u : scaled;
  to->bits = static_cast<uint16_t>((x != x ? 0x7e00u : finite) | (sign >> 16));
}

KD_FN void narrow(double x, BFloat* to) { narrow(static_cast<float>(x), to); }
KD_FN void narrow(double x, Half* to) { narrow(static_cast<float>(x), to); }

template <class A, class T>
KD_FN void read_as(const T* from, int64_t stride, int64_t n, A* to) {
  if (stride == 1) {
    for (int64_t i = 0; i < n; ++i) to[i] = static_cast<A>(widen(from[i]));
  } else {
    for (int64_t i = 0; i < n; ++i) to[i] = static_cast<A>(widen(from[i * stride]));
  }
}

template <class A, class T>
KD_FN void write_as(const A* from, T* to, int64_t stride, int64_t n) {
  if (stride == 1) {
    for (int64_t i = 0; i < n; ++i) narrow(from[i], to + i);
  } else {
    for (int64_t i = 0; i < n; ++i) narrow(from[i], to + i * stride);
  }
}

// n elements of a tensor of any dtype, from `offset` on, `stride` apart, into numbers of the compute type.
template <class A>
inline void read(const void* data, DType dtype, int64_t offset, int64_t stride, int64_t n, A* to) {
  switch (dtype) {
    case DType::kFloat32:
      return read_as(static_cast<const float*>(data) + offset, stride, n, to);
    case DType::kFloat64:
      return read_as(static_cast<const double*>(data) + offset, stride, n, to);
    case DType::kFloat16:
      return read_as(static_cast<const Half*>(data) + offset, stride, n, to);
    case DType::kBFloat16:
      return read_as(static_cast<const BFloat*>(data) + offset, stride, n, to);
  }
}

template <class A>
inline void write(const A* from, int64_t n, void* data, DType dtype, int64_t offset, int64_t stride) {
  switch (dtype) {
    case DType::kFloat32:
      return write_as(from, static_cast<float*>(data) + offset, stride, n);
    case DType::kFloat64:
      return write_as(from, static_cast<double*>(data) + offset, stride, n);
    case DType::kFloat16:
      return write_as(from, static_cast<Half*>(data) + offset, stride, n);
    case DType::kBFloat16:
      return write_as(from, static_cast<BFloat*>(data) + offset, stride, n);
  }
}

template <class A>
constexpr DType dtype_of();
template <>
constexpr DType dtype_of<float>() {
  return DType::kFloat32;
}
template <>
constexpr DType dtype_of<double>() {
  return DType::kFloat64;
}

}  // namespace
}  // namespace kd
