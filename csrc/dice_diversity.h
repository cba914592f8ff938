// How much a sample's masks m [M, P] overlap, with q_i = |m_i|^2:
//
//   ratio of sums:  sum_{i != j} <m_i, m_j> / sum_i q_i. Through column sums: the numerator is
//                   sum_p 2 sum_i m_ip (sum_{j < i} m_jp), its gradient 2 (sum_j m_j - m_i)
//   pairwise mean:  the mean over i != j of 2 <m_i, m_j> / (q_i + q_j)
//
// Either gradient is a column sum with weights, sum_j W_ij m_jp, of M x M numbers a sample.
//
// Masks that training shrinks have squares below float32's range. The overlap does not depend on a sample's
// scale, so all is done on masks divided by the sample's largest magnitude (kSmallest at least); a
// denominator below kSmallestSquare counts as 0, and so does what it divides.
#pragma once

#include "common/maps.h"
#include "common/math.h"

namespace kd {

constexpr double kSmallest = 1e-18, kSmallestSquare = 1e-20;
constexpr int64_t kDiceRun = 256;  // positions of a part

struct DiceDiversityArgs {
  MapShape shape;       // positions; channels: the masks
  MapView masks, grad;  // grad.data is null if no gradient is wanted
  DType compute;        // A
  bool pairwise;
  double scale;          // of a sample's value and gradient
  const void* upstream;  // A [1] or null: one
  int64_t parts;         // of a sample's positions
  double* sums;          // [B, parts, numbers_of_part]
  void* weights;         // A [B, M, M], or [B, 2] (W off the diagonal and on it) unless pairwise
  void* largest;         // A [B, parts]
  void* row_value;       // A [B] or null
};

namespace {

// What a part of the positions adds up: all inner products, or numerator and denominator.
KD_FN int64_t numbers_of_part(const DiceDiversityArgs& args) {
  return args.pairwise ? args.shape.channels * args.shape.channels : 2;
}
KD_FN int64_t weights_of_sample(const DiceDiversityArgs& args) {
  return args.pairwise ? args.shape.channels * args.shape.channels : 2;
}

// 1 / x, or 0 where x counts as none; NaN stays.
KD_FN double inverse_mass(double x) { return x < kSmallestSquare ? 0 : 1 / x; }

// From a sample's sums: its value, and the weights of its gradient by the scaled masks.
struct RatioOverlap {
  double value, off_diagonal, diagonal;
};
KD_FN RatioOverlap ratio_overlap(double cross, double square) {
  const double inverse = inverse_mass(square), value = cross * inverse;
  return {value, 2 * inverse, -2 * value * inverse};
}

// One pair's share of the value, of W_ij, and of W_ii and W_jj.
struct PairOverlap {
  double value, off_diagonal, diagonal;
};
KD_FN PairOverlap pair_overlap(double dot, double square_i, double square_j, double pairs) {
  const double inverse = inverse_mass(square_i + square_j);
  const double value = 2 * dot * inverse;
  return {2 * value / pairs, 4 * inverse / pairs, -4 * value * inverse / pairs};
}

}  // namespace
}  // namespace kd
