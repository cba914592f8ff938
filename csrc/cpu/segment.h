// A run of numbers of any dtype and stride as vectors: where they lie plainly side by side they are used in
// place, else they pass through a buffer, padded with zeros to whole vectors.
#pragma once

#include "../common/convert.h"
#include "../common/level.h"
#include "../common/maps.h"
#include "lanes.h"

namespace kd {
namespace {

template <class A>
struct Segment {
  using V = typename VectorOf<A>::Type;
  static constexpr int64_t kLanes = Number<V>::kLanes;

  static KD_FN int64_t padded(int64_t n) { return (n + kLanes - 1) / kLanes * kLanes; }

  static KD_FN bool plain(DType dtype, int64_t stride, int64_t n) {
    return dtype == dtype_of<A>() && stride == 1 && n % kLanes == 0;
  }

  static KD_FN const A* in(const void* data, DType dtype, int64_t offset, int64_t stride, int64_t n,
                           A* buffer) {
    if (plain(dtype, stride, n)) return static_cast<const A*>(data) + offset;
    read(data, dtype, offset, stride, n, buffer);
    for (int64_t i = n; i < padded(n); ++i) buffer[i] = 0;
    return buffer;
  }

  // Where to compute n numbers that belong to `data`; `put` then brings them there.
  static KD_FN A* out(void* data, DType dtype, int64_t offset, int64_t stride, int64_t n, A* buffer) {
    return plain(dtype, stride, n) ? static_cast<A*>(data) + offset : buffer;
  }
  static KD_FN void put(const A* from, void* data, DType dtype, int64_t offset, int64_t stride, int64_t n) {
    if (!plain(dtype, stride, n)) write(from, n, data, dtype, offset, stride);
  }
};

template <class N>
KD_FN N square_root(N x) {
  if constexpr (Number<N>::kLanes == 1) {
    return __builtin_sqrt(x);
  } else {
    for (int l = 0; l < Number<N>::kLanes; ++l) x[l] = __builtin_sqrt(x[l]);
    return x;
  }
}

}  // namespace
}  // namespace kd

// The table an op exports for this level, from a class template over the compute type with items, forward and
// backward.
#define KD_CPU_KERNELS(name, Args, Class)                                                            \
  namespace kd {                                                                                     \
  namespace {                                                                                        \
  int64_t name##_items(const Args& args) {                                                           \
    return args.compute == DType::kFloat64 ? Class<double>::items(args) : Class<float>::items(args); \
  }                                                                                                  \
  void name##_run(const Args& args, int64_t begin, int64_t end) {                                    \
    if (args.compute == DType::kFloat64) return Class<double>::run(args, begin, end);                \
    Class<float>::run(args, begin, end);                                                             \
  }                                                                                                  \
  }                                                                                                  \
  }                                                                                                  \
  extern "C" const kd::Kernels<kd::Args> KD_JOIN(kd_, name, KD_LEVEL);                               \
  const kd::Kernels<kd::Args> KD_JOIN(kd_, name, KD_LEVEL) = {kd::name##_items, kd::name##_run,      \
                                                              kd::name##_run};
