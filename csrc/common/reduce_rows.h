// Row values to a loss, and a mask to its sum, on the device this file is compiled for.
#pragma once

#include "op.h"

namespace kd {

#ifdef KD_DEVICE_CPU

template <class A>
double sum_numbers(const void* data, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += static_cast<const A*>(data)[i];
  return sum;
}

template <class A>
void reduce_rows_as(const ReduceRowsArgs& args) {
  const A presumed =
      args.presumed != nullptr ? *static_cast<const A*>(args.presumed) : static_cast<A>(args.presumed_count);
  if (args.reduction == Reduction::kNone) {
    *static_cast<A*>(args.norm) = presumed;
    return;
  }
  const double value = sum_numbers<A>(args.row_value, args.rows),
               weight = sum_numbers<A>(args.row_weight, args.rows);
  reduced<A>(args, static_cast<A>(value), static_cast<A>(weight), presumed, static_cast<A*>(args.loss),
             static_cast<A*>(args.norm));
}

inline void reduce_rows(const ReduceRowsArgs& args, const Tensor&) {
  if (args.compute == DType::kFloat64) return reduce_rows_as<double>(args);
  reduce_rows_as<float>(args);
}

inline void sum_mask(const Tensor& mask, Tensor& to) {
  const int64_t rows = mask.numel();
  if (dtype_of(mask) == DType::kFloat64)
    *static_cast<double*>(to.data_ptr()) = sum_numbers<double>(mask.data_ptr(), rows);
  else
    *static_cast<float*>(to.data_ptr()) = static_cast<float>(sum_numbers<float>(mask.data_ptr(), rows));
}

#else

extern "C" void kd_reduce_rows_cuda(const ReduceRowsArgs& args, void* stream);
extern "C" void kd_sum_mask_cuda(const void* mask, int64_t rows, DType dtype, void* to, void* stream);

inline void reduce_rows(const ReduceRowsArgs& args, const Tensor& on) {
  const torch::stable::accelerator::DeviceGuard guard(on.get_device_index());
  kd_reduce_rows_cuda(args, current_stream(on));
}

inline void sum_mask(const Tensor& mask, Tensor& to) {
  const torch::stable::accelerator::DeviceGuard guard(mask.get_device_index());
  kd_sum_mask_cuda(mask.data_ptr(), mask.numel(), dtype_of(mask), to.data_ptr(), current_stream(mask));
}

#endif

}  // namespace kd
