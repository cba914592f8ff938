// A vector's lanes to one number.
#pragma once

#include "../common/vector.h"

namespace kd {
namespace {

// Joins a vector's lanes, the two halves each time: a chain of four where one after the other takes fifteen.
template <class V, class Join>
KD_FN typename Number<V>::Scalar over_lanes(V v, Join join) {
  typename Number<V>::Scalar x[Number<V>::kLanes];
  store(x, v);
  KD_UNROLL
  for (int width = Number<V>::kLanes / 2; width > 0; width /= 2)
    for (int l = 0; l < width; ++l) x[l] = join(x[l], x[l + width]);
  return x[0];
}
template <class V>
KD_FN typename Number<V>::Scalar sum_over_lanes(V v) {
  return over_lanes(v, [](typename Number<V>::Scalar a, typename Number<V>::Scalar b) { return a + b; });
}

}  // namespace
}  // namespace kd
