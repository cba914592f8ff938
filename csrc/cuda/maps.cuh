// One number of a feature map of any dtype and strides, in and out, in the compute type.
#pragma once

#include "../common/maps.h"
#include "stored.cuh"
#include "team.cuh"

namespace kd {
namespace {

KD_DEVICE float read_number(const void* data, DType dtype, int64_t at, float) {
  switch (dtype) {
    case DType::kFloat32:
      return static_cast<const float*>(data)[at];
    case DType::kFloat64:
      return static_cast<float>(static_cast<const double*>(data)[at]);
    case DType::kFloat16:
      return to_number(static_cast<const __half*>(data)[at]);
    default:
      return to_number(static_cast<const __nv_bfloat16*>(data)[at]);
  }
}
KD_DEVICE double read_number(const void* data, DType dtype, int64_t at, double) {
  if (dtype == DType::kFloat64) return static_cast<const double*>(data)[at];
  return read_number(data, dtype, at, 0.0f);
}

template <class A>
KD_DEVICE void write_number(void* data, DType dtype, int64_t at, A x) {
  switch (dtype) {
    case DType::kFloat32:
      static_cast<float*>(data)[at] = static_cast<float>(x);
      return;
    case DType::kFloat64:
      static_cast<double*>(data)[at] = x;
      return;
    case DType::kFloat16:
      static_cast<__half*>(data)[at] = to_stored<__half>(x);
      return;
    default:
      static_cast<__nv_bfloat16*>(data)[at] = to_stored<__nv_bfloat16>(x);
      return;
  }
}

template <class A>
KD_DEVICE A number_at(const MapView& view, int64_t b, int64_t p, int64_t c) {
  return read_number(view.data, view.dtype, offset_of(view, b, p, c), A(0));
}
template <class A>
KD_DEVICE void put_number(const MapView& view, int64_t b, int64_t p, int64_t c, A x) {
  write_number(view.data, view.dtype, offset_of(view, b, p, c), x);
}

}  // namespace
}  // namespace kd
