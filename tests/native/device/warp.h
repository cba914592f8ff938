// __syncthreads and its relatives, warp shuffles, votes and reductions.
#pragma once

#include <cstring>
#include <type_traits>

#include "../engine/engine.h"

namespace emulated {

// A lane's value of 1 to 8 bytes travels through the engine as an integer.
template <class T>
T exchange(Collective what, unsigned mask, T value, unsigned argument, int width, Site site) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 8);
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = collective(what, mask, bits, argument, width, site);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

template <class T>
T reduce(Collective if_signed, Collective if_unsigned, unsigned mask, T value, Site site) {
  static_assert(std::is_integral_v<T> && sizeof(T) == 4, "CUDA's __reduce_*_sync take 32-bit integers");
  return exchange(std::is_signed_v<T> ? if_signed : if_unsigned, mask, value, 0, 32, site);
}

}  // namespace emulated

inline void __syncthreads(emulated::Site site = emulated::Site::here()) {
  emulated::barrier(emulated::Barrier::kPlain, 0, site);
}
inline int __syncthreads_count(int predicate, emulated::Site site = emulated::Site::here()) {
  return emulated::barrier(emulated::Barrier::kCount, predicate, site);
}
inline int __syncthreads_and(int predicate, emulated::Site site = emulated::Site::here()) {
  return emulated::barrier(emulated::Barrier::kAnd, predicate, site);
}
inline int __syncthreads_or(int predicate, emulated::Site site = emulated::Site::here()) {
  return emulated::barrier(emulated::Barrier::kOr, predicate, site);
}

inline void __syncwarp(unsigned mask = 0xffffffffu, emulated::Site site = emulated::Site::here()) {
  emulated::collective(emulated::Collective::kSync, mask, 0, 0, 32, site);
}

template <class T>
T __shfl_sync(unsigned mask, T value, int lane, int width = 32,
              emulated::Site site = emulated::Site::here()) {
  return emulated::exchange(emulated::Collective::kShuffle, mask, value, static_cast<unsigned>(lane), width,
                            site);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32,
                 emulated::Site site = emulated::Site::here()) {
  return emulated::exchange(emulated::Collective::kShuffleUp, mask, value, delta, width, site);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,
                   emulated::Site site = emulated::Site::here()) {
  return emulated::exchange(emulated::Collective::kShuffleDown, mask, value, delta, width, site);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32,
                  emulated::Site site = emulated::Site::here()) {
  return emulated::exchange(emulated::Collective::kShuffleXor, mask, value, static_cast<unsigned>(lane_mask),
                            width, site);
}

inline unsigned __ballot_sync(unsigned mask, int predicate, emulated::Site site = emulated::Site::here()) {
  return static_cast<unsigned>(
      emulated::collective(emulated::Collective::kBallot, mask, predicate != 0, 0, 32, site));
}
inline int __all_sync(unsigned mask, int predicate, emulated::Site site = emulated::Site::here()) {
  return static_cast<int>(
      emulated::collective(emulated::Collective::kAll, mask, predicate != 0, 0, 32, site));
}
inline int __any_sync(unsigned mask, int predicate, emulated::Site site = emulated::Site::here()) {
  return static_cast<int>(
      emulated::collective(emulated::Collective::kAny, mask, predicate != 0, 0, 32, site));
}

template <class T>
T __reduce_add_sync(unsigned mask, T value, emulated::Site site = emulated::Site::here()) {
  return emulated::reduce(emulated::Collective::kAdd, emulated::Collective::kAdd, mask, value, site);
}
template <class T>
T __reduce_min_sync(unsigned mask, T value, emulated::Site site = emulated::Site::here()) {
  return emulated::reduce(emulated::Collective::kMinSigned, emulated::Collective::kMinUnsigned, mask, value,
                          site);
}
template <class T>
T __reduce_max_sync(unsigned mask, T value, emulated::Site site = emulated::Site::here()) {
  return emulated::reduce(emulated::Collective::kMaxSigned, emulated::Collective::kMaxUnsigned, mask, value,
                          site);
}
inline unsigned __reduce_and_sync(unsigned mask, unsigned value,
                                  emulated::Site site = emulated::Site::here()) {
  return emulated::exchange(emulated::Collective::kAnd, mask, value, 0, 32, site);
}
inline unsigned __reduce_or_sync(unsigned mask, unsigned value,
                                 emulated::Site site = emulated::Site::here()) {
  return emulated::exchange(emulated::Collective::kOr, mask, value, 0, 32, site);
}
inline unsigned __reduce_xor_sync(unsigned mask, unsigned value,
                                  emulated::Site site = emulated::Site::here()) {
  return emulated::exchange(emulated::Collective::kXor, mask, value, 0, 32, site);
}
