// What the kernels of a divergence are told, and the numbers a row leaves for its backward pass.
#pragma once

#include "rows.h"

namespace kd {

// What a row's gradient needs, [rows, kRowState] numbers of the compute type.
enum RowStateIndex {
  kStudentMax,
  kStudentInverseSum,
  kTeacherMax,
  kTeacherInverseSum,
  kShift,
  kLogRatio,
  kRegime,
  kRowSum
};
constexpr int kRowState = 8;
// Values of kRegime.
constexpr int kFar = 0, kNear = 1, kUncounted = -1;

// Arguments of every kernel of the family. A is float or double, as `compute` says.
struct DivergenceArgs {
  RowShape shape;
  RowView student, teacher;
  RowView grad;  // like the student; data is null if no gradient is wanted
  DType compute;
  const void* mask;         // A [rows] or null; 0 drops a row
  const void* mask_sum;     // A [1] or null; the forward kernels' gradient is divided by it
  void* row_value;          // A [rows]: scale * divergence, times the mask
  void* row_weight;         // A [rows] or null: the mask, or 0 where a row is not counted
  void* state;              // A [rows, kRowState]; forward may leave it null
  const void* upstream;     // backward: A, one value or [rows]
  int64_t upstream_stride;  // 0 or 1
  const void* norm;         // backward: A [1], a factor of every row
  double temperature;
  double scale;        // T^2 or 1
  double param;        // beta or lambda
  double grad_factor;  // forward: scale / T / (rows or batch), what every row's gradient is multiplied by
};

}  // namespace kd
