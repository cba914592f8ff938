// The ops of a divergence: schema, allocation, launch. A room's .cpp is one line: KD_DIVERGENCE_OP(name).
//
//   name(student, teacher, mask?, dim, temperature, scale, param, reduction, with_grad) -> (value, grad,
//   state, norm) name_backward(grad_value, norm, student, teacher, mask?, state, dim, temperature, scale,
//   param) -> grad
//
// with_grad makes the gradient in the forward pass, where the loss is one number: three streams of memory
// (student, teacher, gradient) where recomputing it later takes five. What upstream multiplies it by is then
// grad_value * norm.
#pragma once

#include "divergence.h"
#include "op.h"
#include "reduce_rows.h"

namespace kd {

using ForwardResult = std::tuple<Tensor, Tensor, Tensor, Tensor>;

struct DivergenceOptions {
  std::vector<int64_t> dim;
  double temperature, scale, param;
};

inline std::vector<int64_t> row_sizes(const Tensor& student, const std::vector<int64_t>& dim) {
  std::vector<int64_t> sizes;
  for (int64_t d = 0; d < student.dim(); ++d) {
    bool is_class = false;
    for (const int64_t c : dim) is_class |= c == d;
    if (!is_class) sizes.push_back(student.size(d));
  }
  return sizes;
}

inline DivergenceArgs divergence_args(const Tensor& student, const Tensor& teacher,
                                      const std::optional<Tensor>& mask, const Tensor* grad,
                                      const DivergenceOptions& options) {
  DivergenceArgs args = {};
  std::vector<const Tensor*> tensors = {&student, &teacher};
  std::vector<RowView*> views = {&args.student, &args.teacher};
  if (grad != nullptr) tensors.push_back(grad), views.push_back(&args.grad);
  args.shape = view_rows(tensors, options.dim, views);
  args.compute = compute_type(student, teacher);
  args.mask = mask.has_value() ? mask->data_ptr() : nullptr;
  args.temperature = options.temperature;
  args.scale = options.scale;
  args.param = options.param;
  return args;
}

template <class K>
ForwardResult divergence_forward(const K& kernels, const Tensor& student, const Tensor& teacher,
                                 const std::optional<Tensor>& mask, const DivergenceOptions& options,
                                 Reduction reduction, bool with_grad) {
  const bool scalar = reduction != Reduction::kNone, mean = reduction == Reduction::kMean;
  const DType type = compute_type(student, teacher);
  Tensor grad = with_grad ? fresh_like(student) : fresh(student, {0}, type);
  DivergenceArgs args = divergence_args(student, teacher, mask, with_grad ? &grad : nullptr, options);
  const int64_t rows = args.shape.rows;
  Tensor row_value =
      fresh(student, scalar ? std::vector<int64_t>{rows} : row_sizes(student, options.dim), type);
  Tensor row_weight = fresh(student, {scalar ? rows : 0}, type);
  Tensor state = fresh(student, {with_grad ? 0 : rows, kRowState}, type);
  Tensor loss = scalar ? fresh(student, {}, type) : row_value, norm = fresh(student, {}, type), mask_sum;

  ReduceRowsArgs reduce = {};
  reduce.rows = rows;
  reduce.compute = type;
  reduce.row_value = row_value.data_ptr();
  reduce.row_weight = row_weight.data_ptr();
  reduce.reduction = reduction;
  reduce.batch = student.dim() > 0 ? static_cast<double>(student.size(0)) : 1.0;
  reduce.loss = loss.data_ptr();
  reduce.norm = norm.data_ptr();
  reduce.presumed_count = 1;
  if (with_grad && mean && mask.has_value()) {
    mask_sum = fresh(student, {1}, type);
    sum_mask(*mask, mask_sum);
    reduce.presumed = args.mask_sum = mask_sum.data_ptr();
  } else if (with_grad && scalar && reduction != Reduction::kSum) {
    reduce.presumed_count = mean ? static_cast<double>(rows) : reduce.batch;
  }
  args.row_value = row_value.data_ptr();
  args.row_weight = scalar ? row_weight.data_ptr() : nullptr;
  args.state = with_grad ? nullptr : state.data_ptr();
  args.grad_factor =
      options.scale / options.temperature / (reduce.presumed_count > 0 ? reduce.presumed_count : 1);
  if (rows > 0) launch(kernels, args, Pass::kForward, args.shape.classes, student);
  reduce_rows(reduce, student);
  return {loss, grad, state, norm};
}

template <class K>
Tensor divergence_backward(const K& kernels, const Tensor& upstream, const Tensor& norm,
                           const Tensor& student, const Tensor& teacher, const std::optional<Tensor>& mask,
                           const Tensor& state, const DivergenceOptions& options) {
  Tensor grad = fresh_like(student);
  DivergenceArgs args = divergence_args(student, teacher, mask, &grad, options);
  const Tensor plain = torch::stable::contiguous(upstream);
  args.upstream = plain.data_ptr();
  args.upstream_stride = plain.dim() == 0 && args.shape.rows != 1 ? 0 : 1;
  args.norm = norm.data_ptr();
  args.state = state.data_ptr();
  if (args.shape.rows > 0) launch(kernels, args, Pass::kBackward, args.shape.classes, student);
  return grad;
}

}  // namespace kd

#define KD_DIVERGENCE_OP(name)                                                                               \
  KD_DECLARE_KERNELS(name, DivergenceArgs)                                                                   \
  namespace kd {                                                                                             \
  static ForwardResult name(const Tensor& student, const Tensor& teacher, const std::optional<Tensor>& mask, \
                            const std::vector<int64_t>& dim, double temperature, double scale, double param, \
                            int64_t reduction, bool with_grad) {                                             \
    return divergence_forward(KD_KERNELS(name), student, teacher, mask, {dim, temperature, scale, param},    \
                              static_cast<Reduction>(reduction), with_grad);                                 \
  }                                                                                                          \
  static Tensor name##_backward(const Tensor& upstream, const Tensor& norm, const Tensor& student,           \
                                const Tensor& teacher, const std::optional<Tensor>& mask,                    \
                                const Tensor& state, const std::vector<int64_t>& dim, double temperature,    \
                                double scale, double param) {                                                \
    return divergence_backward(KD_KERNELS(name), upstream, norm, student, teacher, mask, state,              \
                               {dim, temperature, scale, param});                                            \
  }                                                                                                          \
  }                                                                                                          \
  KD_SCHEMA(m) {                                                                                             \
    m.def(#name                                                                                              \
          "(Tensor student, Tensor teacher, Tensor? mask, int[] dim, float temperature, float scale, "       \
          "float param, int reduction, bool with_grad) -> (Tensor, Tensor, Tensor, Tensor)");                \
    m.def(#name                                                                                              \
          "_backward(Tensor grad_value, Tensor norm, Tensor student, Tensor teacher, Tensor? mask, "         \
          "Tensor state, int[] dim, float temperature, float scale, float param) -> Tensor");                \
  }                                                                                                          \
  KD_IMPLEMENTATION(m) {                                                                                     \
    m.impl(#name, TORCH_BOX(&kd::name));                                                                     \
    m.impl(#name "_backward", TORCH_BOX(&kd::name##_backward));                                              \
  }
