#include "normalized_mse.h"

#include "common/maps_op.h"
#include "common/reduce_rows.h"

KD_DECLARE_KERNELS(normalized_mse, NormalizedMseArgs)

namespace kd {

static void run(NormalizedMseArgs& args, const Tensor& student, const Tensor& teacher, const Tensor* grad,
                Pass pass) {
  args.shape = map_shape(student);
  args.student = view_map(student);
  args.teacher = view_map(teacher);
  if (grad != nullptr) args.grad = view_map(*grad);
  args.compute = compute_type(student, teacher);
  const auto [batch, positions, channels] = args.shape;
  args.workspace_of_sample = 2 * channels + 6 * ((positions + 15) / 16 * 16);
  Tensor workspace = fresh(student, {batch * args.workspace_of_sample}, args.compute);
  args.workspace = workspace.data_ptr();
  if (batch * positions > 0) launch(KD_KERNELS(normalized_mse), args, pass, positions * channels, student);
}

static std::tuple<Tensor, Tensor> normalized_mse(const Tensor& student, const Tensor& teacher, bool center,
                                                 double eps, double scale, bool reduce, bool with_grad) {
  const DType type = compute_type(student, teacher);
  Tensor grad = with_grad ? fresh_like(student) : fresh(student, {0}, type);
  Tensor rows = fresh(student, {student.size(0), student.size(1)}, type);
  NormalizedMseArgs args = {};
  args.center = center;
  args.eps = eps;
  args.scale = scale;
  args.row_value = rows.data_ptr();
  run(args, student, teacher, with_grad ? &grad : nullptr, Pass::kForward);
  if (!reduce) return {rows, grad};
  Tensor loss = fresh(student, {}, type);
  sum_mask(rows, loss);
  return {loss, grad};
}

static Tensor normalized_mse_backward(const Tensor& upstream, const Tensor& student, const Tensor& teacher,
                                      bool center, double eps, double scale) {
  Tensor grad = fresh_like(student);
  const Tensor plain = torch::stable::contiguous(upstream);
  NormalizedMseArgs args = {};
  args.center = center;
  args.eps = eps;
  args.scale = scale;
  args.upstream = plain.data_ptr();
  args.upstream_stride = plain.dim() == 0 ? 0 : 1;
  run(args, student, teacher, &grad, Pass::kBackward);
  return grad;
}

}  // namespace kd

KD_SCHEMA(m) {
  m.def(
      "normalized_mse(Tensor student, Tensor teacher, bool center, float eps, float scale, bool reduce, "
      "bool with_grad) -> (Tensor, Tensor)");
  m.def(
      "normalized_mse_backward(Tensor grad_value, Tensor student, Tensor teacher, bool center, float eps, "
      "float scale) -> Tensor");
}
KD_IMPLEMENTATION(m) {
  m.impl("normalized_mse", TORCH_BOX(&kd::normalized_mse));
  m.impl("normalized_mse_backward", TORCH_BOX(&kd::normalized_mse_backward));
}
