// Rows of classes on the GPU: how a team's threads read and write the classes of a row, a chunk of kElements
// numbers at a time.
#pragma once

#include "../common/divergence.h"
#include "stored.cuh"
#include "team.cuh"

namespace kd {
namespace {

// V neighbouring numbers that move in one instruction.
template <class T, int V>
struct alignas(sizeof(T) * V) Pack {
  T item[V];
};

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
