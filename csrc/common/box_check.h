// What boxes must hold, checked where their contents can be read: on the CPU.
#pragma once

#include "convert.h"
#include "op.h"

namespace kd {

// cxcywh boxes [n, 4]: no NaN, no negative size. Rows whose weight (A [n]) is 0 are let be.
inline void check_boxes(const char* name, const Tensor& boxes, const void* weight, DType weight_dtype) {
#ifdef KD_DEVICE_CPU
  for (int64_t i = 0; i < boxes.size(0); ++i) {
    double box[4] = {}, counted[1] = {1};
    read(boxes.data_ptr(), dtype_of(boxes), i * boxes.stride(0), boxes.stride(1), 4, box);
    if (weight != nullptr) read(weight, weight_dtype, i, 1, 1, counted);
    const double sum = box[0] + box[1] + box[2] + box[3];
    if (counted[0] == 0 || (sum == sum && box[2] >= 0 && box[3] >= 0)) continue;
    std::string said;
    for (const double x : box) said += (said.empty() ? "" : ", ") + std::to_string(x);
    throw std::invalid_argument(std::string(name) +
                                " must be cxcywh with sizes of 0 or above and no NaN, got [" + said + "]");
  }
#else
  (void)name, (void)boxes, (void)weight, (void)weight_dtype;
#endif
}

}  // namespace kd
