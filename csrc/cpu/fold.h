// The divergence family on the CPU: walks rows of classes in vectors, whatever the dtype and strides.
//
// Two layouts. Lanes are classes: a vector holds neighbouring classes of one row, and lanes merge at the
// row's end. Lanes are rows: a vector holds one class of neighbouring rows (images with dim=1, or few
// classes), and nothing merges. Both hand the same blocks to the same loops; a block that is not already
// plain numbers side by side is copied into a buffer, converted, and padded with -inf, which is a class that
// cannot occur and so adds nothing.
#pragma once

#include "../common/convert.h"
#include "../common/divergence.h"
#include "../common/level.h"

namespace kd {
namespace {

constexpr int64_t kBlock = 1024;      // classes of a block where lanes are classes
constexpr int64_t kTileRows = 128;    // rows of a tile where lanes are rows
constexpr int64_t kTileClasses = 32;  // classes of a block of a tile
constexpr int64_t kFewClasses = 48;   // up to here lanes are rows even if classes lie side by side
constexpr int64_t kBuffer = kTileRows * kTileClasses;
constexpr int kMixed = 2;  // lanes of both regimes in one vector

// `steps` vectors, `step` numbers apart.
template <class A>
struct Block {
  const A* data;
  int64_t step;
};

inline bool lanes_are_rows(const DivergenceArgs& args, int64_t lanes) {
  const RowShape& shape = args.shape;
  const int last = shape.dims - 1;
  if (shape.size[last] < lanes) return false;
  const bool apart = args.student.class_stride != 1 || args.teacher.class_stride != 1;
  return shape.classes <= kFewClasses || (apart && args.student.row_stride[last] == 1);
}

// Tiles do not cross the end of the last row dimension.
inline int64_t tiles_of_last_dim(const RowShape& shape) {
  return (shape.size[shape.dims - 1] + kTileRows - 1) / kTileRows;
}

template <class F, class A>
struct Fold {
  using V = typename VectorOf<A>::Type;
  static constexpr int64_t kLanes = Number<V>::kLanes;

  const DivergenceArgs& args;
  const F formula;
  const V inverse_temperature;

  explicit Fold(const DivergenceArgs& a)
      : args(a), formula{a.param}, inverse_temperature(fill<V>(1 / a.temperature)) {}

  // ---- Blocks
  // ------------------------------------------------------------------------------------------------------

  // n classes of one row from `first` on.
  KD_FN Block<A> classes(const RowView& view, int64_t row_at, int64_t first, int64_t n, A* buffer) const {
    const int64_t at = row_at + first * view.class_stride;
    if (view.dtype == dtype_of<A>() && view.class_stride == 1 && n % kLanes == 0)
      return {static_cast<const A*>(view.data) + at, kLanes};
    read(view.data, view.dtype, at, view.class_stride, n, buffer);
    for (int64_t i = n; i % kLanes != 0; ++i) buffer[i] = -__builtin_huge_val();
    return {buffer, kLanes};
  }

  // n classes of `rows` neighbouring rows; lane l of vector v of a class is row v * kLanes + l. Always
  // copied: images keep their classes a power of two apart, where they would push one another out of the
  // cache between the passes.
  KD_FN Block<A> tile(const RowView& view, int64_t row_at, int64_t rows, int64_t first, int64_t n,
                      A* buffer) const {
    const int64_t stride = view.row_stride[args.shape.dims - 1];
    const int64_t at = row_at + first * view.class_stride;
    for (int64_t c = 0; c < n; ++c) {
      read(view.data, view.dtype, at + c * view.class_stride, stride, rows, buffer + c * kTileRows);
      for (int64_t r = rows; r % kLanes != 0; ++r) buffer[c * kTileRows + r] = -__builtin_huge_val();
    }
    return {buffer, kTileRows};
  }

  // ---- The three passes over one block
  // -----------------------------------------------------------------------------

  KD_FN void gather(Statistics<V>& total, Block<A> s, Block<A> t, int64_t steps, V shift) const {
    V student_max = total.student_max, teacher_max = total.teacher_max;
    for (int64_t i = 0; i < steps; ++i) {
      student_max = larger(load<V>(s.data + i * s.step), student_max);
      teacher_max = larger(load<V>(t.data + i * t.step), teacher_max);
    }
    // Sums of a block are taken apart and joined once: fewer roundings than one long chain of additions.
    Statistics<V> part = no_statistics<V>();
    part.student_max = student_max;
    part.teacher_max = teacher_max;
    if (all_far(total.distance))
      add_block<true>(part, s, t, steps, shift);
    else
      add_block<false>(part, s, t, steps, shift);
    raise(total, student_max, teacher_max, inverse_temperature);
    total.student_sum += part.student_sum;
    total.teacher_sum += part.teacher_sum;
    total.excess += part.excess;
    total.distance = larger(part.distance, total.distance);
  }

  template <bool known_far>
  KD_FN void add_block(Statistics<V>& part, Block<A> s, Block<A> t, int64_t steps, V shift) const {
    for (int64_t i = 0; i < steps; ++i)
      add<known_far>(part, load<V>(s.data + i * s.step), load<V>(t.data + i * t.step), shift,
                     inverse_temperature);
  }

  static KD_FN bool all_far(V distance) {
    bool far = true;
    for (int l = 0; l < kLanes; ++l) far &= distance[l] > kNearLimit;
    return far;
  }

  struct Sums {
    V value, summand;
  };

  // An element in the regime of its lanes: all near, all far, or each its own.
  template <int regime>
  KD_FN Element<V> at(const Row<V>& row, V student, V teacher) const {
    if constexpr (regime == kNear) return element<true>(row, student, teacher, inverse_temperature);
    Element<V> far = element<false>(row, student, teacher, inverse_temperature);
    if constexpr (regime == kFar) return far;
    const Element<V> near = element<true>(row, student, teacher, inverse_temperature);
    const auto is_near = row.regime == fill<V>(kNear);
    far.d = select(is_near, near.d, far.d);
    far.q = select(is_near, near.q, far.q);
    return far;
  }

  // Values, and the gradient as well where the formula needs no sum for it.
  template <int regime, bool with_gradient>
  KD_FN void sum(Sums& total, const Row<V>& row, Block<A> s, Block<A> t, int64_t steps, V factor, A* grad,
                 int64_t grad_step) const {
    Sums part = {fill<V>(0), fill<V>(0)};
    for (int64_t i = 0; i < steps; ++i) {
      const Element<V> x = at<regime>(row, load<V>(s.data + i * s.step), load<V>(t.data + i * t.step));
      part.value += formula.value(x);
      if constexpr (F::kNeedsSum) part.summand += formula.summand(x);
      if constexpr (with_gradient)
        store(grad + i * grad_step, scaled(row, formula.gradient(x, row.sum), factor));
    }
    total.value += part.value;
    total.summand += part.summand;
  }

  template <int regime>
  KD_FN void differentiate(const Row<V>& row, Block<A> s, Block<A> t, int64_t steps, V factor, A* grad,
                           int64_t grad_step) const {
    for (int64_t i = 0; i < steps; ++i) {
      const Element<V> x = at<regime>(row, load<V>(s.data + i * s.step), load<V>(t.data + i * t.step));
      store(grad + i * grad_step, scaled(row, formula.gradient(x, row.sum), factor));
    }
  }

  // 0 by selection where a row is dropped: its factor is 0 and its elements may be NaN.
  static KD_FN V scaled(const Row<V>& row, V gradient, V factor) {
    const auto dropped = (row.regime == fill<V>(kUncounted)) | (factor == fill<V>(0));
    return select(dropped, fill<V>(0), gradient * factor);
  }
};

}  // namespace
}  // namespace kd
