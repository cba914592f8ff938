#include "box_loss.h"

#include "common/box_check.h"
#include "common/pairs_op.h"
#include "common/reduce_rows.h"

KD_DECLARE_KERNELS(box_loss, PairArgs)

namespace kd {

using MaybeTensor = std::optional<Tensor>;

static PairView view_coordinate(const Tensor& boxes, int j) {
  const int64_t skipped = j * boxes.stride(1) * static_cast<int64_t>(boxes.element_size());
  return {static_cast<char*>(boxes.data_ptr()) + skipped, dtype_of(boxes), 0, 0, boxes.stride(0)};
}

static PairArgs box_args(const Tensor& student, const Tensor& teacher, const MaybeTensor& weight, double l1,
                         double giou, double scale, const Tensor* grad) {
  PairArgs args = {};
  args.rows = args.groups = 1, args.points = student.size(0);
  for (int j = 0; j < BoxLoss::kPairs; ++j) {
    args.student[j] = view_coordinate(student, j);
    args.teacher[j] = view_coordinate(teacher, j);
    if (grad != nullptr) args.grad[j] = view_coordinate(*grad, j);
  }
  args.compute = compute_type(student, teacher);
  args.weight = pointer_of(weight);
  args.param[0] = l1, args.param[1] = giou;
  args.scale[0] = scale;
  return args;
}

// The sum of the weights, where the mean divides by it; empty where `scale` holds all there is to divide by.
static Tensor divide_by_weights(PairArgs& args, const MaybeTensor& weight, bool mean, const Tensor& on) {
  const bool wanted = mean && weight.has_value();
  Tensor sum = fresh(on, {wanted ? 1 : 0}, args.compute);
  if (wanted) sum_mask(*weight, sum);
  args.divisor = wanted ? sum.data_ptr() : nullptr;
  return sum;
}

static std::tuple<Tensor, Tensor> box_loss(const Tensor& student, const Tensor& teacher,
                                           const MaybeTensor& weight, double l1, double giou, double scale,
                                           bool by_weights, bool reduce, bool with_grad) {
  const DType type = compute_type(student, teacher);
  check_boxes("student_boxes", student, pointer_of(weight), type);
  check_boxes("teacher_boxes", teacher, pointer_of(weight), type);
  Tensor grad = with_grad ? fresh_like(student) : fresh(student, {0}, type);
  PairArgs args = box_args(student, teacher, weight, l1, giou, scale, with_grad ? &grad : nullptr);
  const Tensor sum = divide_by_weights(args, weight, by_weights, student);
  if (reduce) {
    Tensor value = fresh(student, {}, type);
    run_pairs(KD_KERNELS(box_loss), args, BoxLoss::kPairs, {&value}, student);
    return {value, grad};
  }
  Tensor rows = fresh(student, {student.size(0)}, type);
  args.point_value = rows.data_ptr();
  run_pairs(KD_KERNELS(box_loss), args, BoxLoss::kPairs, {}, student);
  return {rows, grad};
}

static Tensor box_loss_backward(const Tensor& upstream, const Tensor& student, const Tensor& teacher,
                                const MaybeTensor& weight, double l1, double giou, double scale,
                                bool by_weights) {
  Tensor grad = fresh_like(student);
  PairArgs args = box_args(student, teacher, weight, l1, giou, scale, &grad);
  const Tensor sum = divide_by_weights(args, weight, by_weights, student);
  const Tensor plain = torch::stable::contiguous(upstream);
  args.upstream[0] = plain.data_ptr();
  args.upstream_stride = plain.dim() == 0 ? 0 : 1;
  run_pairs(KD_KERNELS(box_loss), args, BoxLoss::kPairs, {}, student);
  return grad;
}

}  // namespace kd

KD_SCHEMA(m) {
  m.def(
      "box_loss(Tensor student, Tensor teacher, Tensor? weight, float l1, float giou, float scale, bool "
      "by_weights, bool reduce, bool with_grad) -> (Tensor, Tensor)");
  m.def(
      "box_loss_backward(Tensor grad_value, Tensor student, Tensor teacher, Tensor? weight, float l1, float "
      "giou, float scale, bool by_weights) -> Tensor");
}
KD_IMPLEMENTATION(m) {
  m.impl("box_loss", TORCH_BOX(&kd::box_loss));
  m.impl("box_loss_backward", TORCH_BOX(&kd::box_loss_backward));
}
