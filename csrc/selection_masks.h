// Sigmoid selection units over a feature map, and the map's mean: the mask generation of ACAM-KD behind its
// fused map.
//
//   spatial_mp = sigmoid(sum_c w_mc f_cp),   mean_c = share sum_p f_cp
//   g_mp = grad_spatial_mp s (1 - s),   grad_f_cp = sum_m w_mc g_mp + share grad_mean_c,   grad_w_mc = sum
//   g_mp f_cp
//
// A position that is not valid has the mask 0, is not in the mean, and gets no gradient.
#pragma once

#include "common/maps.h"

namespace kd {

enum class SelectionStage : int32_t { kForward, kJoinMean, kBackward, kJoinUnits };

struct SelectionMasksArgs {
  SelectionStage stage;
  DType compute;                              // A
  int64_t batch, positions, channels, masks;  // B, P, C, M
  MapView fused;                              // [B, P, C]
  const void* units;                          // A [M, C]
  const bool* valid;                          // [B, P] or null
  const void* share;                          // A [B]: 1 / the number of valid positions
  void* spatial;                              // A [B, M, P]
  void* mean;                                 // A [B, C]
  const void* grad_spatial;                   // A [B, M, P]
  const void* grad_mean;                      // A [B, C]
  MapView grad_fused;                         // like fused
  void* grad_units;                           // A [M, C]
  void* logit_grad;                           // A [B, M, P]: g
  void* mean_parts;                           // A [B, splits, C]
  void* unit_parts;                           // A [B, splits, M, C]
  int64_t splits;                             // parts of an image's positions
};

namespace {

constexpr int64_t kSelectionRun = 256;  // positions that are taken at once

KD_FN int64_t runs_of_split(const SelectionMasksArgs& args) {
  const int64_t runs = (args.positions + kSelectionRun - 1) / kSelectionRun;
  return (runs + args.splits - 1) / args.splits;
}

}  // namespace
}  // namespace kd
