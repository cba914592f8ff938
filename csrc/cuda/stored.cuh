// A stored number, of any dtype, to and from the type that arithmetic is done in.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "launch.cuh"

namespace kd {
namespace {

KD_DEVICE float to_number(float x) { return x; }
KD_DEVICE double to_number(double x) { return x; }
KD_DEVICE float to_number(__half x) { return __half2float(x); }
KD_DEVICE float to_number(__nv_bfloat16 x) { return __bfloat162float(x); }

template <class T, class A>
KD_DEVICE T to_stored(A x) {
  return static_cast<T>(x);
}
template <>
KD_DEVICE __half to_stored<__half, float>(float x) {
  return __float2half_rn(x);
}
template <>
KD_DEVICE __half to_stored<__half, double>(double x) {
  return __float2half_rn(static_cast<float>(x));
}
template <>
KD_DEVICE __nv_bfloat16 to_stored<__nv_bfloat16, float>(float x) {
  return __float2bfloat16_rn(x);
}
template <>
KD_DEVICE __nv_bfloat16 to_stored<__nv_bfloat16, double>(double x) {
  return __float2bfloat16_rn(static_cast<float>(x));
}

}  // namespace
}  // namespace kd
