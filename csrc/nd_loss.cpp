#include "nd_loss.h"

#include "common/maps_op.h"
#include "common/reduce_rows.h"

KD_DECLARE_KERNELS(nd_loss, NdLossArgs)

namespace kd {

using MaybeTensor = std::optional<Tensor>;

static NdLossArgs nd_loss_args(const Tensor& student, const Tensor& teacher, const Tensor& means,
                               const Tensor& target, const MaybeTensor& mask, int64_t ignore_index,
                               const Tensor* grad) {
  NdLossArgs args = {};
  std::vector<const Tensor*> tensors = {&student, &teacher};
  std::vector<RowView*> views = {&args.student, &args.teacher};
  if (grad != nullptr) tensors.push_back(grad), views.push_back(&args.grad);
  args.shape = view_rows(tensors, {1}, views);
  args.means = means.data_ptr();
  args.means_dtype = dtype_of(means);
  args.means_row_stride = means.stride(0);
  args.means_stride = means.stride(1);
  args.target = static_cast<const int64_t*>(target.data_ptr());
  args.classes = means.size(0);
  args.ignore_index = ignore_index;
  args.compute = compute_type(student, teacher);
  args.mask = pointer_of(mask);
  return args;
}

// The gradient is divided by the weight of all rows before it is known which count; `norm` holds what that
// leaves to correct.
static std::tuple<Tensor, Tensor, Tensor> nd_loss(const Tensor& student, const Tensor& teacher,
                                                  const Tensor& means, const Tensor& target,
                                                  const MaybeTensor& mask, int64_t ignore_index,
                                                  int64_t reduction, bool with_grad) {
  check_classes(target, means.size(0), &ignore_index);
  const Reduction how = static_cast<Reduction>(reduction);
  const bool mean = how == Reduction::kMean;
  const DType type = compute_type(student, teacher);
  const int64_t rows = student.size(0);
  Tensor grad = with_grad ? fresh_like(student) : fresh(student, {0}, type);
  NdLossArgs args =
      nd_loss_args(student, teacher, means, target, mask, ignore_index, with_grad ? &grad : nullptr);
  Tensor row_value = fresh(student, {rows}, type), row_weight = fresh(student, {rows}, type);
  Tensor loss = how == Reduction::kNone ? row_value : fresh(student, {}, type);
  Tensor norm = fresh(student, {}, type), mask_sum;

  ReduceRowsArgs reduce = {};
  reduce.rows = rows;
  reduce.compute = type;
  reduce.row_value = row_value.data_ptr();
  reduce.row_weight = row_weight.data_ptr();
  reduce.reduction = how;
  reduce.batch = static_cast<double>(rows);
  reduce.loss = loss.data_ptr();
  reduce.norm = norm.data_ptr();
  reduce.presumed_count = 1;
  if (with_grad && mean && mask.has_value()) {
    mask_sum = fresh(student, {1}, type);
    sum_mask(*mask, mask_sum);
    reduce.presumed = args.presumed = mask_sum.data_ptr();
  } else if (with_grad && (mean || how == Reduction::kBatchMean)) {
    reduce.presumed_count = static_cast<double>(rows);
  }
  args.grad_factor = 1 / (reduce.presumed_count > 0 ? reduce.presumed_count : 1);
  args.row_value = row_value.data_ptr();
  args.row_weight = row_weight.data_ptr();
  if (rows > 0) launch(KD_KERNELS(nd_loss), args, Pass::kForward, args.shape.classes, student);
  reduce_rows(reduce, student);
  return {loss, grad, norm};
}

static Tensor nd_loss_backward(const Tensor& upstream, const Tensor& norm, const Tensor& student,
                               const Tensor& teacher, const Tensor& means, const Tensor& target,
                               const MaybeTensor& mask, int64_t ignore_index) {
  Tensor grad = fresh_like(student);
  NdLossArgs args = nd_loss_args(student, teacher, means, target, mask, ignore_index, &grad);
  const Tensor plain = torch::stable::contiguous(upstream);
  args.upstream = plain.data_ptr();
  args.upstream_stride = plain.dim() == 0 ? 0 : 1;
  args.norm = norm.data_ptr();
  if (args.shape.rows > 0) launch(KD_KERNELS(nd_loss), args, Pass::kBackward, args.shape.classes, student);
  return grad;
}

}  // namespace kd

KD_SCHEMA(m) {
  m.def(
      "nd_loss(Tensor student, Tensor teacher, Tensor class_means, Tensor target, Tensor? mask, int "
      "ignore_index, "
      "int reduction, bool with_grad) -> (Tensor, Tensor, Tensor)");
  m.def(
      "nd_loss_backward(Tensor grad_value, Tensor norm, Tensor student, Tensor teacher, Tensor class_means, "
      "Tensor target, Tensor? mask, int ignore_index) -> Tensor");
}
KD_IMPLEMENTATION(m) {
  m.impl("nd_loss", TORCH_BOX(&kd::nd_loss));
  m.impl("nd_loss_backward", TORCH_BOX(&kd::nd_loss_backward));
}
