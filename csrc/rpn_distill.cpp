#include "rpn_distill.h"

#include "common/pairs_op.h"

KD_DECLARE_KERNELS(rpn_distill, PairArgs)

namespace kd {

// Number j of an anchor's five, from logits [B, A, P] and deltas [B, 4 A, P].
static PairView view_number(const Tensor& logits, const Tensor& deltas, int j) {
  if (j == 0)
    return {logits.data_ptr(), dtype_of(logits), logits.stride(0), logits.stride(1), logits.stride(2)};
  const int64_t skipped = (j - 1) * deltas.stride(1) * static_cast<int64_t>(deltas.element_size());
  return {static_cast<char*>(deltas.data_ptr()) + skipped, dtype_of(deltas), deltas.stride(0),
          4 * deltas.stride(1), deltas.stride(2)};
}

struct Rpn {
  const Tensor &student_logits, &teacher_logits, &student_deltas, &teacher_deltas;
};

static PairArgs rpn_args(const Rpn& in, double threshold) {
  PairArgs args = {};
  args.rows = in.student_logits.size(0), args.groups = in.student_logits.size(1);
  args.points = in.student_logits.size(2);
  for (int j = 0; j < RpnDistill::kPairs; ++j) {
    args.student[j] = view_number(in.student_logits, in.student_deltas, j);
    args.teacher[j] = view_number(in.teacher_logits, in.teacher_deltas, j);
  }
  args.compute = compute_type(in.student_logits, in.teacher_logits);
  if (compute_type(in.student_deltas, in.teacher_deltas) == DType::kFloat64) args.compute = DType::kFloat64;
  args.param[0] = threshold;
  const int64_t anchors = args.rows * args.groups * args.points;
  for (double& scale : args.scale) scale = anchors > 0 ? 1 / static_cast<double>(anchors) : 0;
  return args;
}

static void want_grad(PairArgs& args, const Tensor& logits, const Tensor& deltas) {
  for (int j = 0; j < RpnDistill::kPairs; ++j) args.grad[j] = view_number(logits, deltas, j);
}

using Four = std::tuple<Tensor, Tensor, Tensor, Tensor>;

static Four rpn_distill(const Tensor& student_logits, const Tensor& teacher_logits,
                        const Tensor& student_deltas, const Tensor& teacher_deltas, double threshold,
                        bool with_grad) {
  PairArgs args = rpn_args({student_logits, teacher_logits, student_deltas, teacher_deltas}, threshold);
  Tensor objectness = fresh(student_logits, {}, args.compute),
         boxes = fresh(student_logits, {}, args.compute);
  Tensor grad_logits = with_grad ? fresh_like(student_logits) : fresh(student_logits, {0}, args.compute);
  Tensor grad_deltas = with_grad ? fresh_like(student_deltas) : fresh(student_deltas, {0}, args.compute);
  if (with_grad) want_grad(args, grad_logits, grad_deltas);
  run_pairs(KD_KERNELS(rpn_distill), args, RpnDistill::kPairs, {&objectness, &boxes}, student_logits);
  return {objectness, boxes, grad_logits, grad_deltas};
}

static std::tuple<Tensor, Tensor> rpn_distill_backward(const Tensor& up_objectness, const Tensor& up_boxes,
                                                       const Tensor& student_logits,
                                                       const Tensor& teacher_logits,
                                                       const Tensor& student_deltas,
                                                       const Tensor& teacher_deltas, double threshold) {
  PairArgs args = rpn_args({student_logits, teacher_logits, student_deltas, teacher_deltas}, threshold);
  Tensor grad_logits = fresh_like(student_logits), grad_deltas = fresh_like(student_deltas);
  want_grad(args, grad_logits, grad_deltas);
  args.upstream[0] = up_objectness.data_ptr(), args.upstream[1] = up_boxes.data_ptr();
  run_pairs(KD_KERNELS(rpn_distill), args, RpnDistill::kPairs, {}, student_logits);
  return {grad_logits, grad_deltas};
}

}  // namespace kd

KD_SCHEMA(m) {
  m.def(
      "rpn_distill(Tensor student_logits, Tensor teacher_logits, Tensor student_deltas, Tensor "
      "teacher_deltas, float threshold, bool with_grad) -> (Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "rpn_distill_backward(Tensor grad_objectness, Tensor grad_boxes, Tensor student_logits, Tensor "
      "teacher_logits, Tensor student_deltas, Tensor teacher_deltas, float threshold) -> (Tensor, Tensor)");
}
KD_IMPLEMENTATION(m) {
  m.impl("rpn_distill", TORCH_BOX(&kd::rpn_distill));
  m.impl("rpn_distill_backward", TORCH_BOX(&kd::rpn_distill_backward));
}
