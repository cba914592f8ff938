// One weight a cell of a feature pyramid, from the boxes of an image: alpha / (cells of the smallest box over
// the cell), and outside of all boxes beta / (number of such cells of the level and image).
//
// Corners are taken in float; a box covers the cells floor(low n + 1e-3) ... ceil(high n - 1e-3) - 1 of n, at
// least one, within the grid. Cells that the mask drops weigh 0 and are not counted.
#pragma once

#include <math.h>

#include "common/platform.h"

namespace kd {

constexpr int kMaxImages = 64, kMaxLevels = 16;  // of one launch

struct BoxWeightsArgs {
  int images, levels;
  int64_t box_begin[kMaxImages + 1];  // an image's boxes
  int64_t cell_begin[kMaxLevels];     // a level's first cell
  int height[kMaxLevels], width[kMaxLevels];
  const float* boxes;  // [n, 4] cxcywh
  double alpha, beta;
  const bool* mask;  // [images, cells] or null
  DType compute;     // A
  void* weight;      // A [images, cells]
  int64_t cells;     // of an image, all levels
};

namespace {

// Cells low ... high of one axis.
struct Cells {
  int low, high;
  KD_FN int count() const { return high - low + 1; }
  KD_FN bool holds(int i) const { return i >= low && i <= high; }
};

// NaN, which only a GPU lets through, counts as 0, so that the result is defined.
KD_FN int cell_within(float x, int size) {
  return x >= static_cast<float>(size - 1) ? size - 1 : x > 0.0f ? static_cast<int>(x) : 0;
}

KD_FN Cells cells_of(float center, float extent, int size) {
  constexpr float kSlack = 1e-3f;  // of a cell: a corner this near a cell's border lies on it
  const float half = extent / 2, n = static_cast<float>(size);
  // Not contracted into fused operations: every backend must choose the same cells.
  volatile float low_edge = (center - half) * n, high_edge = (center + half) * n;
  const float low = floorf(low_edge + kSlack), high = ceilf(high_edge - kSlack) - 1;
  return {cell_within(low, size), cell_within(high < low ? low : high, size)};
}

struct BoxCells {
  Cells x, y;
};

KD_FN BoxCells box_cells(const float* box, int height, int width) {
  return {cells_of(box[0], box[2], width), cells_of(box[1], box[3], height)};
}

}  // namespace
}  // namespace kd
