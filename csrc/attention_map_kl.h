// The divergence of two attention maps, row by row, from queries and keys:
//
//   p = softmax_j(teacher's logits), q = softmax_j(student's),   value_i = sum_j p log(p / q) = sum_j p
//   phi(log q/p) gradient by the student's logits: factor_i (q - p)
//
// phi(u) = e^u - 1 - u >= 0 (a Bregman form, as in common/divergence.h): nothing cancels where the maps are
// near each other. A row that is not counted, and every row of a map without a key, has the value 0.
#pragma once

#include "attention_masks.h"

namespace kd {

// Both sides have no values (M = 0). The student's grad_query and grad_key are what is asked for.
struct AttentionMapKlArgs {
  AttentionStage stage;
  DType compute;               // A
  AttentionMasksArgs student;  // lse: A [B, N], CUDA's
  AttentionMasksArgs teacher;
  const void* factor;  // A [B, N]: of the gradient
  void* value;         // A [B, N]
  bool with_grad;
};

}  // namespace kd
