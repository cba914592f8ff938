// Logits seen as rows of classes, whatever the tensor's shape and strides: [rows, classes], the classes one
// stride apart, the rows laid out by up to kMaxRowDims collapsed dimensions (the last one varies fastest).
#pragma once

#include "platform.h"

namespace kd {

constexpr int kMaxRowDims = 6;

// One tensor under that view. Strides count elements.
struct RowView {
  void* data;  // null: not wanted
  DType dtype;
  int64_t class_stride;
  int64_t row_stride[kMaxRowDims];
};

struct RowShape {
  int64_t rows, classes;
  int dims;                   // 1 .. kMaxRowDims
  int64_t size[kMaxRowDims];  // product = rows
};

enum class Reduction : int32_t { kNone = 0, kMean = 1, kSum = 2, kBatchMean = 3 };

// The last stage of a loss: rows to one number, in an order that depends on the number of rows alone.
struct ReduceRowsArgs {
  int64_t rows;
  DType compute;          // type A of every array here
  void* row_value;        // A [rows]; unless the reduction is none, sums may be left in it
  void* row_weight;       // A [rows] or null: 0 where a row does not count; sums may be left in it
  const void* presumed;   // A [1] or null: the weight the gradient was divided by in the forward pass already
  double presumed_count;  // the same where presumed is null: a constant of the host
  double batch;           // size(0)
  Reduction reduction;
  void* loss;  // A [1]
  void* norm;  // A [1]: what the gradient still has to be multiplied by
};

namespace {

// loss and norm from the sums over rows. 0 where nothing counts.
template <class A>
KD_FN void reduced(const ReduceRowsArgs& args, A value, A weight, A presumed, A* loss, A* norm) {
  const A count = args.reduction == Reduction::kMean ? weight : static_cast<A>(args.batch);
  const bool divide = args.reduction == Reduction::kMean || args.reduction == Reduction::kBatchMean;
  const A inverse = !divide ? A(1) : count == A(0) ? A(0) : A(1) / count;
  *loss = value * inverse;
  *norm = inverse * presumed;
}

// Offset of a row's first class, in elements.
KD_FN int64_t row_offset(const RowShape& shape, const RowView& view, int64_t row) {
  int64_t offset = 0;
  for (int d = shape.dims - 1; d > 0; --d) {
    const int64_t next = row / shape.size[d];
    offset += (row - next * shape.size[d]) * view.row_stride[d];
    row = next;
  }
  return offset + row * view.row_stride[0];
}

}  // namespace
}  // namespace kd
