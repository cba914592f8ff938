#include "attention_map_kl.h"

#include "common/attention_op.h"

KD_DECLARE_KERNELS(attention_map_kl, AttentionMapKlArgs)

namespace kd {

// A side's queries and keys [B, length, d].
static AttentionMasksArgs side_args(const Tensor& query, const Tensor& key, double scale,
                                    const MaybeTensor& query_mask, const MaybeTensor& key_mask,
                                    DType compute) {
  const bool fit =
      query.dim() == 3 && key.dim() == 3 && key.size(0) == query.size(0) && key.size(2) == query.size(2);
  if (!fit) throw std::invalid_argument("kdfast: query and key must be [B, N, d] and [B, L, d]");
  AttentionMasksArgs args = {};
  args.compute = compute;
  args.batch = query.size(0), args.queries = query.size(1), args.width = query.size(2);
  args.keys = key.size(1);
  args.scale = scale;
  args.query = view_map(query), args.key = view_map(key);
  args.query_mask = flags_of(query_mask), args.key_mask = flags_of(key_mask);
  args.splits = 1;
  return args;
}

// value [B, N] and the gradients of sum(factor * value); they are [0] without with_grad.
static std::tuple<Tensor, Tensor, Tensor> attention_map_kl(
    const Tensor& student_query, const Tensor& student_key, const Tensor& teacher_query,
    const Tensor& teacher_key, double student_scale, double teacher_scale, const MaybeTensor& query_mask,
    const MaybeTensor& key_mask, const Tensor& factor, bool with_grad) {
  AttentionMapKlArgs args = {};
  args.compute = compute_type(student_query, teacher_query);
  args.student = side_args(student_query, student_key, student_scale, query_mask, key_mask, args.compute);
  args.teacher = side_args(teacher_query, teacher_key, teacher_scale, query_mask, key_mask, args.compute);
  const auto& [batch, rows] = std::tie(args.student.batch, args.student.queries);
  if (args.teacher.batch != batch || args.teacher.queries != rows || args.teacher.keys != args.student.keys)
    throw std::invalid_argument("kdfast: both sides' maps must have one shape");
  Tensor value = fresh(student_query, {batch, rows}, args.compute);
  const auto none = [&] { return fresh(student_query, {0}, args.compute); };
  Tensor grad_query = with_grad ? fresh_like(student_query) : none();
  Tensor grad_key = with_grad ? fresh_like(student_key) : none();
  if (batch == 0) return {value, grad_query, grad_key};
  args.value = value.data_ptr(), args.factor = factor.data_ptr();
  args.with_grad = args.student.backward = with_grad;
  if (with_grad) args.student.grad_query = view_map(grad_query), args.student.grad_key = view_map(grad_key);
  Tensor lse[2] = {fresh(student_query, {batch, rows}, args.compute),
                   fresh(student_query, {batch, rows}, args.compute)};
  args.student.lse = lse[0].data_ptr(), args.teacher.lse = lse[1].data_ptr();
  const Tensor work[2] = {work_of(args.student, student_query), work_of(args.teacher, student_query)};
  for (const auto stage : {AttentionStage::kPack, AttentionStage::kForward, AttentionStage::kKeyGrad}) {
    if (stage == AttentionStage::kKeyGrad && !with_grad) break;
    args.stage = stage;
    launch(KD_KERNELS(attention_map_kl), args, Pass::kForward, args.student.keys * rows, student_query);
  }
  return {value, grad_query, grad_key};
}

}  // namespace kd

KD_SCHEMA(m) {
  m.def(
      "attention_map_kl(Tensor student_query, Tensor student_key, Tensor teacher_query, Tensor teacher_key, "
      "float student_scale, float teacher_scale, Tensor? query_mask, Tensor? key_mask, Tensor factor, "
      "bool with_grad) -> (Tensor, Tensor, Tensor)");
}
KD_IMPLEMENTATION(m) { m.impl("attention_map_kl", TORCH_BOX(&kd::attention_map_kl)); }
