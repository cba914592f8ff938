// Squared errors under weights of positions and channels, d = teacher - student over [B, P, C]:
//
//   e_bp = sum_c v_bc d^2,   g_bc = sum_p d^2,   value_position = sum a e,   value_channel = sum b g
//   gradient by student: -2 (u a_bp v_bc + w b_bc) d,   u and w the upstream gradients of the two values
//
// One pass over student and teacher; e and g are the gradients of the weights a and b. A weight of 0 drops
// what it belongs to: errors that are not finite count as 0 there (padding).
#pragma once

#include "common/maps.h"
#include "common/rows.h"

namespace kd {

struct WeightedMseArgs {
  MapShape shape;
  MapView student, teacher;
  MapView grad;                   // like the student; data is null if no gradient is wanted
  DType compute;                  // A
  const void* position;           // a: A [B, P] or null
  const void* channel;            // b: A [B, C] or null
  const void* gain;               // v: A [B, C] or null (ones)
  void* position_error;           // e: A [B, P] or null
  void* channel_part;             // A [B, blocks, C] or null: g by blocks of positions
  void* channel_error;            // g: A [B, C] or null
  const void* position_upstream;  // u: A [1] or null (one)
  const void* channel_upstream;   // w: A [1] or null (one)
  bool unless_equal;              // leave the gradient alone if u = w
  int64_t block, blocks;          // positions of a block, blocks of a sample
  void* value_position;           // A [1]
  void* value_channel;            // A [1]
};

}  // namespace kd
