// Rows of classes as blocks of vectors, whatever the dtype and strides.
//
// Two layouts. Lanes are classes: a vector holds neighbouring classes of one row, and lanes merge at the
// row's end. Lanes are rows: a vector holds one class of neighbouring rows (images with dim=1, or few
// classes), and nothing merges. Both give the same blocks to the same loops (fold.h); a block that is not
// already plain numbers side by side is copied into a buffer and converted. What is missing of a last vector
// is -inf, a class that cannot occur and so adds nothing.
#pragma once

#include "../common/convert.h"
#include "../common/divergence.h"

namespace kd {
namespace {

constexpr int64_t kBlock = 1024;      // classes of a block where lanes are classes
constexpr int64_t kTileRows = 128;    // rows of a tile where lanes are rows
constexpr int64_t kTileClasses = 32;  // classes of a block of a tile
constexpr int64_t kFewClasses = 48;   // up to here lanes are rows even if classes lie side by side
constexpr int64_t kBuffer = kTileRows * kTileClasses;

// Vectors of classes, `step` numbers apart: `whole` of them, and `last` where the row cuts the next one
// short.
template <class A>
struct Block {
  using V = typename VectorOf<A>::Type;
  const A* data;
  int64_t step, whole;
  V last;

  KD_FN V at(int64_t i) const { return i < whole ? load<V>(data + i * step) : last; }
  KD_FN Block from(int64_t numbers) const { return {data + numbers, step, whole, last}; }
};

// Where vectors of a gradient are to be written, `step` numbers apart: `whole` of them, and `left` numbers of
// the next.
template <class A>
struct GradBlock {
  using V = typename VectorOf<A>::Type;
  A* data;
  int64_t step, whole, left;

  KD_FN void put(int64_t i, V v) const {
    if (i < whole) return store(data + i * step, v);
    store_some(data + i * step, left, v);
  }
  KD_FN GradBlock from(int64_t numbers) const { return {data + numbers, step, whole, left}; }
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

// How the rows' blocks are brought in.
template <class A>
struct Blocks {
  using V = typename VectorOf<A>::Type;
  static constexpr int64_t kLanes = Number<V>::kLanes;

  const DivergenceArgs& args;

  // n classes of one row from `first` on.
  KD_FN Block<A> classes(const RowView& view, int64_t row_at, int64_t first, int64_t n, A* buffer) const {
    const int64_t at = row_at + first * view.class_stride, left = n % kLanes;
    const bool plain = view.dtype == dtype_of<A>() && view.class_stride == 1;
    const A* data = plain ? static_cast<const A*>(view.data) + at : buffer;
    if (!plain) read(view.data, view.dtype, at, view.class_stride, n, buffer);
    const V none = minus_infinity<V>();
    return {data, kLanes, n / kLanes, left == 0 ? none : load_some<V>(data + n - left, left, none[0])};
  }

  // Brings numbers that are about to be read (0) or written (1) nearer: tiles are short runs far apart, which
  // the processor does not foresee. A run that lies outside the tensor does no harm.
  template <int write>
  static KD_FN void prefetch(const RowView& view, int64_t at, int64_t numbers) {
    constexpr int64_t kLine = 64;
    const int64_t size = view.dtype == DType::kFloat64 ? 8 : view.dtype == DType::kFloat32 ? 4 : 2;
    const char* first = static_cast<const char*>(view.data) + at * size;
    for (int64_t b = 0; b < numbers * size; b += kLine) __builtin_prefetch(first + b, write);
  }

  // n classes of `rows` neighbouring rows; lane l of vector v of a class is row v * kLanes + l. Always
  // copied: images keep their classes a power of two apart, where they would push one another out of the
  // cache between the passes.
  KD_FN Block<A> tile(const RowView& view, int64_t row_at, int64_t rows, int64_t first, int64_t n,
                      A* buffer) const {
    const int64_t stride = view.row_stride[args.shape.dims - 1];
    const int64_t at = row_at + first * view.class_stride;
    for (int64_t c = 0; c < n; ++c) {
      prefetch<0>(view, at + c * view.class_stride + rows * stride, rows * stride);  // the next tile
      read(view.data, view.dtype, at + c * view.class_stride, stride, rows, buffer + c * kTileRows);
      for (int64_t r = rows; r % kLanes != 0; ++r) buffer[c * kTileRows + r] = -__builtin_huge_val();
    }
    return {buffer, kTileRows, n, minus_infinity<V>()};
  }
};

}  // namespace
}  // namespace kd
