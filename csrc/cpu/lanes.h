// A vector's lanes to one number, or one answer.
#pragma once

#include "../common/math.h"

namespace kd {
namespace {

// Every lane gets the one `distance` away.
template <int distance, class V>
KD_FN V partner(V v) {
  using Int = typename Number<V>::Int;
  struct Partners {
    decltype(Int{}[0] + 0) lane[Number<V>::kLanes];
    constexpr Partners() : lane{} {
      for (int l = 0; l < Number<V>::kLanes; ++l) lane[l] = l ^ distance;
    }
  };
  static constexpr Partners kPartners;
  Int from;
  __builtin_memcpy(&from, kPartners.lane, sizeof from);
  return __builtin_shuffle(v, from);
}

// By halves: a chain of fifteen joins, lane after lane, would wait for each of them.
template <class V, class Join>
KD_FN ScalarOf<V> over_lanes(V v, Join join) {
  if constexpr (Number<V>::kLanes > 8) v = join(v, partner<8>(v));
  if constexpr (Number<V>::kLanes > 4) v = join(v, partner<4>(v));
  if constexpr (Number<V>::kLanes > 2) v = join(v, partner<2>(v));
  return join(v, partner<1>(v))[0];
}
template <class V>
KD_FN ScalarOf<V> sum_of_lanes(V v) {
  return over_lanes(v, [](V a, V b) { return a + b; });
}
template <class V>
KD_FN ScalarOf<V> largest_lane(V v) {
  return over_lanes(v, [](V a, V b) { return larger(a, b); });
}

// Of a comparison.
template <class M>
KD_FN bool any_lane(M mask) {
#if defined(__AVX512F__)
  return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask) != 0;
#elif defined(__AVX2__)
  return _mm256_testz_si256((__m256i)mask, (__m256i)mask) == 0;
#else
  constexpr int kLanes = sizeof(M) / sizeof(mask[0]);
  int some = 0;
  for (int l = 0; l < kLanes; ++l) some |= mask[l] != 0;
  return some != 0;
#endif
}
template <class M>
KD_FN bool every_lane(M mask) {
  return !any_lane(~mask);
}

}  // namespace
}  // namespace kd
