// The ops of a loss on rows: schema, checks of contents, allocation, launch. A room's .cpp is one line:
// KD_ROW_LOSS_OP.
//
//   name(student, teacher?, index?, sparse?, class_weight?, mask?, dim, temperature, scale, a, b, c,
//   ignore_index,
//        reduction, with_grad) -> (value, second value, grad, state, norm, second norm)
//   name_backward(upstream, second upstream?, state, norm, second norm, <the same inputs>, ...) -> grad
//
// with_grad makes the gradient in the forward pass, where the loss is one number: see divergence_op.h.
#pragma once

#include "divergence_op.h"
#include "row_loss.h"

namespace kd {

struct RowLossInputs {
  const Tensor& student;
  const std::optional<Tensor>&teacher, &index, &sparse, &class_weight, &mask;
  const std::vector<int64_t>& dim;
  double temperature, scale, a, b, c;
  int64_t ignore_index;
};

inline DType compute_type(const RowLossInputs& in) {
  bool wide = dtype_of(in.student) == DType::kFloat64;
  if (in.teacher.has_value()) wide |= dtype_of(*in.teacher) == DType::kFloat64;
  if (in.sparse.has_value()) wide |= dtype_of(*in.sparse) == DType::kFloat64;
  return wide ? DType::kFloat64 : DType::kFloat32;
}

// index holds class numbers: on the CPU they are looked at here, where an exception can leave; rows that are
// dropped may hold anything.
template <class A>
void check_index(const RowLossArgs& args, const char* name) {
  const A* mask = static_cast<const A*>(args.mask);
  for (int64_t row = 0; row < args.shape.rows; ++row) {
    if (mask != nullptr && mask[row] == A(0)) continue;
    for (int64_t k = 0; k < args.indices; ++k) {
      const int64_t c = args.index[row * args.indices + k];
      if (c == args.ignore_index || (c >= 0 && c < args.shape.classes)) continue;
      throw std::invalid_argument(std::string(name) + " must hold class numbers in [0, " +
                                  std::to_string(args.shape.classes - 1) + "], got " + std::to_string(c));
    }
  }
}

inline RowLossArgs row_loss_args(const RowLossInputs& in, const Tensor* grad, const char* index_name) {
  RowLossArgs args = {};
  std::vector<const Tensor*> tensors = {&in.student};
  std::vector<RowView*> views = {&args.student};
  if (grad != nullptr) tensors.push_back(grad), views.push_back(&args.grad);
  if (in.teacher.has_value()) tensors.push_back(&*in.teacher), views.push_back(&args.teacher);
  const int64_t teacher_classes = in.teacher.has_value() ? in.teacher->size(in.dim[0]) : 0;
  // A teacher with fewer classes has the same rows: its view comes from its strides alone.
  args.shape = view_rows(tensors, in.dim, views);
  args.teacher_classes = teacher_classes;
  args.compute = compute_type(in);
  if (in.index.has_value()) {
    args.index = static_cast<const int64_t*>(in.index->data_ptr());
    args.indices = in.index->numel() / (args.shape.rows > 0 ? args.shape.rows : 1);
  }
  args.ignore_index = in.ignore_index;
  if (in.sparse.has_value()) args.sparse = in.sparse->data_ptr();
  if (in.class_weight.has_value()) args.class_weight = in.class_weight->data_ptr();
  if (in.mask.has_value()) args.mask = in.mask->data_ptr();
  args.temperature = in.temperature;
  args.scale = in.scale;
  args.param[0] = in.a, args.param[1] = in.b, args.param[2] = in.c;
#ifdef KD_DEVICE_CPU
  if (args.index != nullptr) {
    if (args.compute == DType::kFloat64)
      check_index<double>(args, index_name);
    else
      check_index<float>(args, index_name);
  }
#else
  (void)index_name;
#endif
  return args;
}

using RowLossResult = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

template <class K>
RowLossResult row_loss_forward(const K& kernels, int outputs, int state_numbers, const char* index_name,
                               const RowLossInputs& in, Reduction reduction, bool with_grad) {
  const bool scalar = reduction != Reduction::kNone, mean = reduction == Reduction::kMean;
  const DType type = compute_type(in);
  const Tensor& student = in.student;
  Tensor grad = with_grad ? fresh_like(student) : fresh(student, {0}, type);
  RowLossArgs args = row_loss_args(in, with_grad ? &grad : nullptr, index_name);
  const int64_t rows = args.shape.rows;
  Tensor mask_sum, state = fresh(student, {rows, state_numbers}, type);
  if (state_numbers > 0) args.state = state.data_ptr();
  double presumed = 1;
  if (with_grad && mean && in.mask.has_value()) {
    mask_sum = fresh(student, {1}, type);
    sum_mask(*in.mask, mask_sum);
    args.mask_sum = mask_sum.data_ptr();
  } else if (with_grad && scalar && reduction != Reduction::kSum) {
    presumed = mean ? static_cast<double>(rows) : static_cast<double>(student.size(0));
  }
  args.grad_factor = 1 / (presumed > 0 ? presumed : 1);

  std::vector<Tensor> value, weight, loss, norm;
  for (int o = 0; o < kMaxOutputs; ++o) {
    const bool used = o < outputs;
    value.push_back(fresh(student,
                          !used    ? std::vector<int64_t>{0}
                          : scalar ? std::vector<int64_t>{rows}
                                   : row_sizes(student, in.dim),
                          type));
    weight.push_back(fresh(student, {scalar && used ? rows : 0}, type));
    loss.push_back(scalar && used ? fresh(student, {}, type) : value[o]);
    norm.push_back(fresh(student, std::vector<int64_t>(used ? 0 : 1, 0), type));
    args.row_value[o] = value[o].data_ptr();
    args.row_weight[o] = scalar && used ? weight[o].data_ptr() : nullptr;
  }
  if (rows > 0) launch(kernels, args, Pass::kForward, args.shape.classes, student);
  for (int o = 0; o < outputs; ++o) {
    ReduceRowsArgs reduce = {};
    reduce.rows = rows;
    reduce.compute = type;
    reduce.row_value = value[o].data_ptr();
    reduce.row_weight = weight[o].data_ptr();
    reduce.reduction = reduction;
    reduce.batch = student.dim() > 0 ? static_cast<double>(student.size(0)) : 1.0;
    reduce.loss = loss[o].data_ptr();
    reduce.norm = norm[o].data_ptr();
    reduce.presumed = args.mask_sum;
    reduce.presumed_count = presumed;
    reduce_rows(reduce, student);
  }
  return {loss[0], loss[1], grad, state, norm[0], norm[1]};
}

template <class K>
Tensor row_loss_backward(const K& kernels, int outputs, const char* index_name, const RowLossInputs& in,
                         const Tensor& upstream, const std::optional<Tensor>& second, const Tensor& state,
                         const Tensor& norm, const Tensor& second_norm) {
  Tensor grad = fresh_like(in.student);
  RowLossArgs args = row_loss_args(in, &grad, index_name);
  if (state.numel() > 0) args.state = state.data_ptr();
  std::vector<Tensor> plain;
  for (int o = 0; o < outputs; ++o) {
    plain.push_back(torch::stable::contiguous(o == 0 ? upstream : *second));
    args.upstream[o] = plain[o].data_ptr();
    args.upstream_stride[o] = plain[o].dim() == 0 && args.shape.rows != 1 ? 0 : 1;
    args.norm[o] = (o == 0 ? norm : second_norm).data_ptr();
  }
  if (args.shape.rows > 0) launch(kernels, args, Pass::kBackward, args.shape.classes, in.student);
  return grad;
}

}  // namespace kd

#define KD_ROW_LOSS_OP(name, outputs, state_numbers, index_name)                                            \
  KD_DECLARE_KERNELS(name, RowLossArgs)                                                                     \
  namespace kd {                                                                                            \
  static RowLossResult name(const Tensor& student, const std::optional<Tensor>& teacher,                    \
                            const std::optional<Tensor>& index, const std::optional<Tensor>& sparse,        \
                            const std::optional<Tensor>& class_weight, const std::optional<Tensor>& mask,   \
                            const std::vector<int64_t>& dim, double temperature, double scale, double a,    \
                            double b, double c, int64_t ignore_index, int64_t reduction, bool with_grad) {  \
    return row_loss_forward(KD_KERNELS(name), outputs, state_numbers, index_name,                           \
                            {student, teacher, index, sparse, class_weight, mask, dim, temperature, scale,  \
                             a, b, c, ignore_index},                                                        \
                            static_cast<Reduction>(reduction), with_grad);                                  \
  }                                                                                                         \
  static Tensor name##_backward(const Tensor& upstream, const std::optional<Tensor>& second,                \
                                const Tensor& state, const Tensor& norm, const Tensor& second_norm,         \
                                const Tensor& student, const std::optional<Tensor>& teacher,                \
                                const std::optional<Tensor>& index, const std::optional<Tensor>& sparse,    \
                                const std::optional<Tensor>& class_weight,                                  \
                                const std::optional<Tensor>& mask, const std::vector<int64_t>& dim,         \
                                double temperature, double scale, double a, double b, double c,             \
                                int64_t ignore_index) {                                                     \
    return row_loss_backward(KD_KERNELS(name), outputs, index_name,                                         \
                             {student, teacher, index, sparse, class_weight, mask, dim, temperature, scale, \
                              a, b, c, ignore_index},                                                       \
                             upstream, second, state, norm, second_norm);                                   \
  }                                                                                                         \
  }                                                                                                         \
  KD_SCHEMA(m) {                                                                                            \
    m.def(#name                                                                                             \
          "(Tensor student, Tensor? teacher, Tensor? index, Tensor? sparse, Tensor? class_weight, "         \
          "Tensor? mask, int[] dim, float temperature, float scale, float a, float b, float c, "            \
          "int ignore_index, int reduction, bool with_grad) -> (Tensor, Tensor, Tensor, Tensor, Tensor, "   \
          "Tensor)");                                                                                       \
    m.def(#name                                                                                             \
          "_backward(Tensor upstream, Tensor? second, Tensor state, Tensor norm, Tensor second_norm, "      \
          "Tensor student, "                                                                                \
          "Tensor? teacher, Tensor? index, Tensor? sparse, Tensor? class_weight, Tensor? mask, int[] dim, " \
          "float temperature, float scale, float a, float b, float c, int ignore_index) -> Tensor");        \
  }                                                                                                         \
  KD_IMPLEMENTATION(m) {                                                                                    \
    m.impl(#name, TORCH_BOX(&kd::name));                                                                    \
    m.impl(#name "_backward", TORCH_BOX(&kd::name##_backward));                                             \
  }
