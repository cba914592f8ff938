// What the ops on feature maps need of torch beside op.h: views, and optional weights.
#pragma once

#include "maps.h"
#include "op.h"

namespace kd {

inline MapView view_map(const Tensor& x) {
  return {x.data_ptr(), dtype_of(x), x.stride(0), x.stride(1), x.stride(2)};
}

inline MapShape map_shape(const Tensor& x) { return {x.size(0), x.size(1), x.size(2)}; }

inline const void* pointer_of(const std::optional<Tensor>& x) {
  return x.has_value() ? x->data_ptr() : nullptr;
}

// A class must lie in [0, classes), or be `ignored` where that is allowed. Read on the CPU only.
inline void check_classes(const Tensor& target, int64_t classes, const int64_t* ignored) {
#ifdef KD_DEVICE_CPU
  const int64_t* y = static_cast<const int64_t*>(target.data_ptr());
  for (int64_t i = 0; i < target.numel(); ++i) {
    if ((y[i] >= 0 && y[i] < classes) || (ignored != nullptr && y[i] == *ignored)) continue;
    throw std::invalid_argument("target must be in [0, " + std::to_string(classes - 1) + "], got " +
                                std::to_string(y[i]));
  }
#else
  (void)target, (void)classes, (void)ignored;
#endif
}

}  // namespace kd
