// An item of a divergence, one row or one tile of neighbouring rows (blocks.h): where it lies, how its
// classes come in block by block, and where its gradient goes.
#pragma once

#include "fold.h"

namespace kd {
namespace {

template <class A>
class Item {
  using V = typename VectorOf<A>::Type;

 public:
  static constexpr int64_t kLanes = Number<V>::kLanes;
  static constexpr int64_t kGroups = kTileRows / kLanes;  // vectors of a tile

  explicit Item(const DivergenceArgs& args)
      : args_(args), blocks_{args}, rows_in_lanes_(lanes_are_rows(args, kLanes)) {}

  static int64_t count(const DivergenceArgs& args) {
    if (!lanes_are_rows(args, kLanes)) return args.shape.rows;
    const int64_t last = args.shape.size[args.shape.dims - 1];
    return last == 0 ? 0 : args.shape.rows / last * tiles_of_last_dim(args.shape);
  }

  void locate(int64_t item) {
    const RowShape& shape = args_.shape;
    row_ = item;
    rows_ = 1;
    if (rows_in_lanes_) {
      const int64_t tiles = tiles_of_last_dim(shape), last = shape.size[shape.dims - 1];
      const int64_t within = item % tiles * kTileRows;
      row_ = item / tiles * last + within;
      rows_ = last - within < kTileRows ? last - within : kTileRows;
    }
    groups_ = rows_in_lanes_ ? (rows_ + kLanes - 1) / kLanes : 1;
    student_at_ = row_offset(shape, args_.student, row_);
    teacher_at_ = row_offset(shape, args_.teacher, row_);
    if (args_.grad.data != nullptr) grad_at_ = row_offset(shape, args_.grad, row_);
    fetched_ = -1;
  }

  bool rows_in_lanes() const { return rows_in_lanes_; }
  int64_t groups() const { return groups_; }  // vectors of rows; one if lanes are classes

  // Calls body(group, lane, row) for every row of the item.
  template <class Body>
  KD_FN void each_row(Body body) const {
    for (int64_t r = 0; r < rows_; ++r) body(r / kLanes, r % kLanes, row_ + r);
  }

  // ---- Classes come in

  bool one_block() const { return args_.shape.classes <= block_size(); }

  // Calls body(first class, classes) for every block.
  template <class Body>
  KD_FN void each_block(Body body) const {
    const int64_t step = block_size();
    for (int64_t first = 0; first < args_.shape.classes; first += step)
      body(first, args_.shape.classes - first < step ? args_.shape.classes - first : step);
  }

  // Both sides of the block that starts at class `first`; nothing is read twice in a row.
  void fetch(int64_t first, int64_t n) {
    if (fetched_ == first) return;
    fetched_ = first;
    if (rows_in_lanes_) {
      student_ = blocks_.tile(args_.student, student_at_, rows_, first, n, student_buffer_);
      teacher_ = blocks_.tile(args_.teacher, teacher_at_, rows_, first, n, teacher_buffer_);
      steps_ = n;
    } else {
      student_ = blocks_.classes(args_.student, student_at_, first, n, student_buffer_);
      teacher_ = blocks_.classes(args_.teacher, teacher_at_, first, n, teacher_buffer_);
      steps_ = (n + kLanes - 1) / kLanes;
    }
  }

  // The vectors of the fetched block that belong to group g.
  Group<A> group(int64_t g) {
    const int64_t at = g * kLanes;
    return {student_.from(at),
            teacher_.from(at),
            student_exp_ + at,
            teacher_exp_ + at,
            rows_in_lanes_ ? kTileRows : kLanes,
            steps_};
  }

  // ---- The gradient goes out

  // Where a block's gradient goes: in place if plain numbers lie there side by side, else into a buffer that
  // write_grad() empties.
  GradBlock<A> grad_block(int64_t first, int64_t n) {
    const RowView& view = args_.grad;
    const int64_t at = grad_at_ + first * view.class_stride;
    A* data = static_cast<A*>(view.data) + at;
    const bool plain = view.dtype == dtype_of<A>();
    if (!rows_in_lanes_ && plain && view.class_stride == 1) return {data, kLanes, n / kLanes, n % kLanes};
    const bool side_by_side = view.row_stride[args_.shape.dims - 1] == 1 && rows_ % kLanes == 0;
    if (rows_in_lanes_ && plain && side_by_side) return {data, view.class_stride, n, 0};
    return {grad_buffer_, rows_in_lanes_ ? kTileRows : kLanes, steps_, 0};
  }

  void write_grad(GradBlock<A> block, int64_t first, int64_t n) {
    if (block.data != grad_buffer_) return;
    const RowView& view = args_.grad;
    const int64_t at = grad_at_ + first * view.class_stride;
    if (!rows_in_lanes_) return write(grad_buffer_, n, view.data, view.dtype, at, view.class_stride);
    for (int64_t c = 0; c < n; ++c)
      write(grad_buffer_ + c * kTileRows, rows_, view.data, view.dtype, at + c * view.class_stride,
            view.row_stride[args_.shape.dims - 1]);
  }

  void write_zero_grad() {
    for (int64_t i = 0; i < kBuffer; ++i) grad_buffer_[i] = 0;
    each_block([&](int64_t first, int64_t n) { write_grad({grad_buffer_, 0, 0, 0}, first, n); });
  }

  // The gradient of a tile is written soon, once pass 1 is done.
  void expect_grad() const {
    const RowView& view = args_.grad;
    if (!rows_in_lanes_ || view.row_stride[args_.shape.dims - 1] != 1) return;
    for (int64_t c = 0; c < args_.shape.classes; ++c)
      blocks_.template prefetch<1>(view, grad_at_ + c * view.class_stride, rows_);
  }

 private:
  int64_t block_size() const { return rows_in_lanes_ ? kTileClasses : kBlock; }

  const DivergenceArgs& args_;
  const Blocks<A> blocks_;
  const bool rows_in_lanes_;
  int64_t row_ = 0, rows_ = 0, groups_ = 0, student_at_ = 0, teacher_at_ = 0, grad_at_ = 0, fetched_ = -1,
          steps_ = 0;
  Block<A> student_, teacher_;
  alignas(64) A student_buffer_[kBuffer], teacher_buffer_[kBuffer], grad_buffer_[kBuffer];
  alignas(64) A student_exp_[kBuffer], teacher_exp_[kBuffer];
};

}  // namespace
}  // namespace kd
