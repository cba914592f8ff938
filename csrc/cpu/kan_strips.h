// Walks a tile's width in strips of vectors that fit the registers of this instruction level.
#pragma once

#include "../common/math.h"

namespace kd {
namespace {

#if defined(__AVX512F__)
constexpr int kRegisters = 32;
#else
constexpr int kRegisters = 16;
#endif

template <int n>
struct Count {
  static constexpr int value = n;
};

// use(Count<vectors>, first column) over `width` columns, in strips of at most kMost vectors (a power of two
// up to 8).
template <int kMost, class V, class Use>
KD_FN void each_strip(int64_t width, Use use) {
  constexpr int64_t kLanes = Number<V>::kLanes;
  int64_t at = 0;
  if constexpr (kMost >= 8)
    for (; at + 8 * kLanes <= width; at += 8 * kLanes) use(Count<8>{}, at);
  if constexpr (kMost >= 4)
    for (; at + 4 * kLanes <= width; at += 4 * kLanes) use(Count<4>{}, at);
  if constexpr (kMost >= 2)
    for (; at + 2 * kLanes <= width; at += 2 * kLanes) use(Count<2>{}, at);
  for (; at < width; at += kLanes) use(Count<1>{}, at);
}

// Every lane x: x - 0 is x, which the compiler knows of no other way to spell it for every width.
template <class V>
KD_FN V splat(ScalarOf<V> x) {
  return x - V{};
}

// Index vectors {0, 2, 4, ...} and {1, 3, 5, ...} over the lanes of two vectors.
template <class V>
struct Alternate {
  alignas(64) typename Number<ScalarOf<V>>::Int even[Number<V>::kLanes], odd[Number<V>::kLanes];
  constexpr Alternate() : even(), odd() {
    for (int l = 0; l < Number<V>::kLanes; ++l) even[l] = 2 * l, odd[l] = 2 * l + 1;
  }
};

// Lane l: the sum of the lanes of v[l], for as many vectors as a vector has lanes; v is used up.
template <class V>
KD_FN V sums_of(V* v) {
  constexpr int kLanes = Number<V>::kLanes;
  constexpr Alternate<V> kAlternate;
  typename Number<V>::Int even, odd;
  __builtin_memcpy(&even, kAlternate.even, sizeof even);
  __builtin_memcpy(&odd, kAlternate.odd, sizeof odd);
  KD_UNROLL
  for (int left = kLanes / 2; left > 0; left /= 2) {
    KD_UNROLL
    for (int i = 0; i < left; ++i)
      v[i] = __builtin_shuffle(v[2 * i], v[2 * i + 1], even) + __builtin_shuffle(v[2 * i], v[2 * i + 1], odd);
  }
  return v[0];
}

}  // namespace
}  // namespace kd
