// Losses that are sums over points, where a point is one to five numbers of the student beside as many of the
// teacher: a mask's logit, a box, an anchor's objectness with its deltas. A room gives the formula of one
// point (values, and their slopes by the student's numbers); this frame walks the points.
//
//   value_k = scale_k / divisor * sum over points of w f_k(s, t)
//   gradient by s_j: upstream_k scale_k / divisor * w df_k/ds_j, where k is the value that j belongs to
//
// Points lie in [rows, groups, points]. A weight of 0 drops its point by selection, whatever it holds.
#pragma once

#include "math.h"

namespace kd {

constexpr int kMaxPairs = 5, kMaxValues = 2;
constexpr int64_t kPairRun = 1024;  // points of an item of work

// One of a point's numbers, over [rows, groups, points]. Strides count elements.
struct PairView {
  void* data;  // null: not wanted
  DType dtype;
  int64_t row_stride, group_stride, point_stride;
};

struct PairArgs {
  int64_t rows, groups, points;
  PairView student[kMaxPairs], teacher[kMaxPairs];
  PairView grad[kMaxPairs];  // data is null if no gradient is wanted
  int64_t before, after;     // numbers of a gradient's row before and after the points: they become 0
  DType compute;             // A
  double param[2];           // the formula's own
  double scale[kMaxValues];
  const void* divisor;               // A [1] or null (one); 0: nothing counts
  const void* weight;                // A [rows, groups, points] or null (ones)
  const void* upstream[kMaxValues];  // A, one or one a point; null: one
  int64_t upstream_stride;           // 0 or 1
  void* point_value;                 // A [rows, groups, points] or null: the first value, with its weight
  void* part;                        // A [items, kMaxValues] or null: sums of an item's values
  void* value[kMaxValues];           // A [1]
};

namespace {

KD_FN int64_t pair_runs(const PairArgs& args) { return (args.points + kPairRun - 1) / kPairRun; }
KD_FN int64_t pair_items(const PairArgs& args) { return args.rows * args.groups * pair_runs(args); }

KD_FN int64_t offset_of(const PairView& view, int64_t row, int64_t group, int64_t point) {
  return row * view.row_stride + group * view.group_stride + point * view.point_stride;
}

// 1 / divisor, 0 where nothing counts.
template <class A>
KD_FN A inverse_divisor(const PairArgs& args) {
  if (args.divisor == nullptr) return A(1);
  const A divisor = *static_cast<const A*>(args.divisor);
  return divisor == A(0) ? A(0) : A(1) / divisor;
}

}  // namespace
}  // namespace kd
