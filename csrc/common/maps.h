// Features seen as [batch, positions, channels], whatever the tensor's shape and strides: maps [B, C, H, W]
// and tokens [B, L, C] alike.
#pragma once

#include "platform.h"

namespace kd {

struct MapShape {
  int64_t batch, positions, channels;
};

// One tensor under that view. Strides count elements.
struct MapView {
  void* data;  // null: not wanted
  DType dtype;
  int64_t batch_stride, position_stride, channel_stride;
};

namespace {

KD_FN int64_t offset_of(const MapView& view, int64_t b, int64_t p, int64_t c) {
  return b * view.batch_stride + p * view.position_stride + c * view.channel_stride;
}

}  // namespace
}  // namespace kd
