// Rows of classes on the GPU: who works on a row, and how its numbers get in and out.
//
// Team: the threads that share one row (a power of two lanes of a warp, or a whole block), and their
// reductions: lanes by shuffles, then warps through shared memory; always in the same order, so that results
// do not depend on timing. Layout: how a team's threads read and write the classes of a row, a chunk of
// kElements numbers at a time.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "../common/divergence.h"
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

// V neighbouring numbers that move in one instruction.
template <class T, int V>
struct alignas(sizeof(T) * V) Pack {
  T item[V];
};

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

// Classes side by side, in 16-byte packs, every tensor of dtype T. A row need not begin at a multiple of 16
// bytes: packs are counted from the last such address before it, `lead` numbers earlier, and what lies
// outside the row is never touched.
template <class T, class A>
struct PackedLayout {
  using Number = A;
  using Raw = Pack<T, 16 / sizeof(T)>;
  static constexpr int kPack = 16 / sizeof(T);
  static constexpr int kPacks = sizeof(T) == 2 ? 1 : 2;
  static constexpr int kElements = kPack * kPacks;

  int64_t classes;
  int lead;

  KD_DEVICE PackedLayout(const DivergenceArgs& args, int64_t student_at)
      : classes(args.shape.classes),
        lead(misalignment(static_cast<const T*>(args.student.data) + student_at)) {}

  KD_DEVICE static int misalignment(const T* address) {
    return static_cast<int>(reinterpret_cast<uintptr_t>(address) % 16 / sizeof(T));
  }

  KD_DEVICE int steps(int team) const {
    const int64_t span = static_cast<int64_t>(team) * kElements;
    return static_cast<int>((lead + classes + span - 1) / span);
  }
  // The class that pack j of a step begins with; negative where the row begins inside the pack.
  KD_DEVICE int64_t first_class(int step, int j, int team, int rank) const {
    return ((static_cast<int64_t>(step) * kPacks + j) * team + rank) * kPack - lead;
  }

  KD_DEVICE A one(const RowView& view, int64_t row_at, int64_t c) const {
    return to_number(static_cast<const T*>(view.data)[row_at + c]);
  }
  KD_DEVICE Raw load(const RowView& view, int64_t row_at, int64_t c) const {
    const T* from = static_cast<const T*>(view.data) + row_at;
    if (c >= 0 && c + kPack <= classes) return *reinterpret_cast<const Raw*>(from + c);
    Raw raw;
    for (int e = 0; e < kPack; ++e) {
      raw.item[e] = c + e >= 0 && c + e < classes ? from[c + e] : to_stored<T>(minus_infinity<A>());
    }
    return raw;
  }
  KD_DEVICE static A number(const Raw& raw, int e) { return to_number(raw.item[e]); }

  KD_DEVICE void store(const RowView& view, int64_t row_at, int64_t c, const A* numbers) const {
    T* to = static_cast<T*>(view.data) + row_at;
    Raw raw;
    for (int e = 0; e < kPack; ++e) raw.item[e] = to_stored<T>(numbers[e]);
    if (c >= 0 && c + kPack <= classes) {
      *reinterpret_cast<Raw*>(to + c) = raw;
      return;
    }
    for (int e = 0; e < kPack; ++e) {
      if (c + e >= 0 && c + e < classes) to[c + e] = raw.item[e];
    }
  }
};

// Any dtypes and any strides, one number at a time.
template <class A>
struct StridedLayout {
  using Number = A;
  using Raw = A;
  static constexpr int kPack = 1;
  static constexpr int kPacks = sizeof(A) == 4 ? 8 : 4;
  static constexpr int kElements = kPacks;

  int64_t classes;

  KD_DEVICE StridedLayout(const DivergenceArgs& args, int64_t) : classes(args.shape.classes) {}

  KD_DEVICE int steps(int team) const {
    const int64_t span = static_cast<int64_t>(team) * kElements;
    return static_cast<int>((classes + span - 1) / span);
  }
  KD_DEVICE int64_t first_class(int step, int j, int team, int rank) const {
    return (static_cast<int64_t>(step) * kPacks + j) * team + rank;
  }

  KD_DEVICE A one(const RowView& view, int64_t row_at, int64_t c) const {
    const int64_t at = row_at + c * view.class_stride;
    switch (view.dtype) {
      case DType::kFloat32:
        return static_cast<const float*>(view.data)[at];
      case DType::kFloat64:
        return static_cast<A>(static_cast<const double*>(view.data)[at]);
      case DType::kFloat16:
        return __half2float(static_cast<const __half*>(view.data)[at]);
      default:
        return __bfloat162float(static_cast<const __nv_bfloat16*>(view.data)[at]);
    }
  }
  KD_DEVICE Raw load(const RowView& view, int64_t row_at, int64_t c) const {
    return c < classes ? one(view, row_at, c) : minus_infinity<A>();
  }
  KD_DEVICE static A number(const Raw& raw, int) { return raw; }

  KD_DEVICE void store(const RowView& view, int64_t row_at, int64_t c, const A* numbers) const {
    if (c >= classes) return;
    const int64_t at = row_at + c * view.class_stride;
    switch (view.dtype) {
      case DType::kFloat32:
        static_cast<float*>(view.data)[at] = static_cast<float>(*numbers);
        break;
      case DType::kFloat64:
        static_cast<double*>(view.data)[at] = *numbers;
        break;
      case DType::kFloat16:
        static_cast<__half*>(view.data)[at] = to_stored<__half>(*numbers);
        break;
      case DType::kBFloat16:
        static_cast<__nv_bfloat16*>(view.data)[at] = to_stored<__nv_bfloat16>(*numbers);
        break;
    }
  }
};

}  // namespace
}  // namespace kd
