// Who works together: the threads that share one row, or one sum, and their reductions.
//
// Team: a power of two lanes of a warp, or a whole block. Lanes reduce by shuffles, then warps through shared
// memory; always in the same order, so that results do not depend on timing.
#pragma once

#include "../common/math.h"
#include "launch.cuh"

namespace kd {
namespace {

constexpr int kMaxReduced = 3;  // numbers that Team reduces in one call, at most
constexpr int kMaxWarps = 32;

template <class A>
class Team {
 public:
  // size: 1, 2, 4, ... 32 or blockDim.x, which is a power of two.
  KD_DEVICE explicit Team(int size) : size_(size) {}

  KD_DEVICE int size() const { return size_; }
  KD_DEVICE int rank() const { return threadIdx.x & (size_ - 1); }
  KD_DEVICE int number_in_block() const { return threadIdx.x / size_; }
  KD_DEVICE int64_t first_row() const { return blockIdx.x * teams_in_block() + number_in_block(); }
  KD_DEVICE int64_t row_step() const { return gridDim.x * teams_in_block(); }

  // Every thread of the team gets the result; all of them must call.
  template <int n>
  KD_DEVICE void sum(A (&x)[n]) {
    combine(x, [](A a, A b) { return a + b; }, A(0));
  }
  template <int n>
  KD_DEVICE void largest(A (&x)[n]) {
    combine(x, [](A a, A b) { return larger(a, b); }, minus_infinity<A>());
  }

 private:
  static constexpr int kSlots = kMaxWarps * kMaxReduced;

  KD_DEVICE int64_t teams_in_block() const { return blockDim.x / size_; }
  KD_DEVICE unsigned mask() const {
    if (size_ >= kWarpThreads) return kWholeWarp;
    return ((1u << size_) - 1) << (threadIdx.x % kWarpThreads & ~(size_ - 1));
  }

  template <int n, class Join>
  KD_DEVICE void butterfly(A (&x)[n], Join join, int width) const {
    const unsigned lanes = mask();
    for (int distance = width / 2; distance > 0; distance /= 2) {
      for (int i = 0; i < n; ++i) x[i] = join(x[i], __shfl_xor_sync(lanes, x[i], distance));
    }
  }

  // [2 * kSlots]: one array, whatever is reduced.
  KD_DEVICE static A* slots() {
    KD_SHARED(A, slot, 2 * kSlots);
    return slot;
  }

  template <int n, class Join>
  KD_DEVICE void combine(A (&x)[n], Join join, A none) {
    static_assert(n <= kMaxReduced);
    butterfly(x, join, size_ < kWarpThreads ? size_ : kWarpThreads);
    if (size_ <= kWarpThreads) return;
    const int lane = threadIdx.x % kWarpThreads, warp = threadIdx.x / kWarpThreads;
    A* slot = slots() + half_ * kSlots;
    if (lane == 0) {
      for (int i = 0; i < n; ++i) slot[warp * n + i] = x[i];
    }
    __syncthreads();
    const int warps = blockDim.x / kWarpThreads;
    for (int i = 0; i < n; ++i) x[i] = lane < warps ? slot[lane * n + i] : none;
    butterfly(x, join, kWarpThreads);
    // The next call writes the other half, and the one after that comes behind a barrier which every reader
    // of this half has passed.
    half_ ^= 1;
  }

  const int size_;
  int half_ = 0;
};

template <class A>
KD_DEVICE A sum_of_warp(A x) {
  for (int distance = kWarpThreads / 2; distance > 0; distance /= 2)
    x += __shfl_xor_sync(kWholeWarp, x, distance);
  return x;
}

}  // namespace
}  // namespace kd
