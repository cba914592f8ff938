// Cross-attention whose values are M numbers a key, and the attention map's mean over the queries:
//
//   A_ij = softmax_j(scale q_i . k_j),   out_mi = sum_j A_ij u_mj,   mean_j = share sum_i A_ij
//
// With the row's log-sum-exp l_i from the forward pass, A_ij = exp(scale q_i . k_j - l_i) is made again tile
// by tile in the backward pass:
//
//   P_ij = sum_m grad_out_mi u_mj + share grad_mean_j,   D_i = sum_j A_ij P_ij,   S_ij = A_ij (P_ij - D_i)
//   grad_u_mj = sum_i grad_out_mi A_ij,   grad_q_i = scale sum_j S_ij k_j,   grad_k_j = scale sum_i S_ij q_i
//
// A query that does not attend, and every query of an image without a key, has l_i = +inf, so that its row of
// A is 0.
#pragma once

#include "common/maps.h"

namespace kd {

// What a launch does; the CPU kernels and the CUDA kernels each use some of these.
enum class AttentionStage : int32_t { kPack, kForward, kMean, kBackward, kKeyGrad };

// Positions of a map are those of MapView, its channels d or M.
struct AttentionMasksArgs {
  AttentionStage stage;
  DType compute;                 // A
  int64_t batch, width;          // width: d
  int64_t queries, keys, masks;  // N, L, M
  double scale;                  // of the logits
  MapView query, key, value;     // [B, N, d], [B, L, d], [B, L, M]
  const bool* query_mask;        // [B, N] or null: which attend
  const bool* key_mask;          // [B, L] or null: which are attended to
  const void* share;             // A [B] or null: 1 / the number of queries that attend
  void* out;                     // A [B, M, N]
  void* mean;                    // A [B, L]
  void* lse;                     // A [B, N]: l
  const void* grad_out;          // A [B, M, N]
  const void* grad_mean;         // A [B, L]
  MapView grad_query, grad_key, grad_value;
  bool backward;   // what the CPU's work memory is for
  int64_t splits;  // parts of an image's queries that are summed on their own
  void* work;      // A: CPU, see cpu/attention_plan.h; CUDA [B, N]: D
};

namespace {

template <class A>
KD_FN A share_of(const AttentionMasksArgs& args, int64_t b) {
  return args.share != nullptr ? static_cast<const A*>(args.share)[b] : A(1) / static_cast<A>(args.queries);
}

}  // namespace
}  // namespace kd
