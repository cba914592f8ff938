#include "dist_loss.h"

#include "common/op.h"

KD_DECLARE_KERNELS(dist_loss, DistLossArgs)

namespace kd {

#ifdef KD_DEVICE_CPU
constexpr int64_t kBlockRows = 64, kMostBlocks = 64;
#else
constexpr int64_t kBlockRows = 16, kMostBlocks = 256;
#endif

static DistLossArgs dist_loss_args(const Tensor& student, const Tensor& teacher, const Tensor* grad,
                                   double temperature, double beta, double gamma) {
  DistLossArgs args = {};
  std::vector<const Tensor*> tensors = {&student, &teacher};
  std::vector<RowView*> views = {&args.student, &args.teacher};
  if (grad != nullptr) tensors.push_back(grad), views.push_back(&args.grad);
  args.shape = view_rows(tensors, {student.dim() - 1}, views);
  args.compute = compute_type(student, teacher);
  args.temperature = temperature, args.beta = beta, args.gamma = gamma;
  return args;
}

static void run(DistLossArgs& args, DistStage stage, int64_t work, const Tensor& on) {
  args.stage = stage;
  launch(KD_KERNELS(dist_loss), args, Pass::kForward, work, on);
}

// loss, and what the gradient needs: the rows' state, the columns' state, 1 / rows that count.
static std::tuple<Tensor, Tensor, Tensor, Tensor> dist_loss(const Tensor& student, const Tensor& teacher,
                                                            double temperature, double beta, double gamma) {
  DistLossArgs args = dist_loss_args(student, teacher, nullptr, temperature, beta, gamma);
  const int64_t rows = args.shape.rows, classes = args.shape.classes;
  const int64_t least = (rows + kMostBlocks - 1) / kMostBlocks;
  args.block_rows = least > kBlockRows ? least : kBlockRows;
  args.blocks = (rows + args.block_rows - 1) / args.block_rows;
  const auto numbers = [&](const std::vector<int64_t>& size) { return fresh(student, size, args.compute); };
  Tensor loss = numbers({}), norm = numbers({}), state = numbers({kDistRow, rows});
  Tensor columns = numbers({kDistColumn, classes});
  const Tensor row_value = numbers({rows}), column_value = numbers({classes});
  const Tensor moments = numbers({args.blocks, kDistMoments, classes}), counts = numbers({args.blocks});
  args.rows = state.data_ptr(), args.row_value = row_value.data_ptr();
  args.moments = moments.data_ptr(), args.counts = counts.data_ptr();
  args.columns = columns.data_ptr(), args.column_value = column_value.data_ptr();
  args.loss = loss.data_ptr(), args.norm = norm.data_ptr();
  if (rows > 0) run(args, DistStage::kRows, args.block_rows * classes, student);
  run(args, DistStage::kColumns, args.blocks * classes, student);
  run(args, DistStage::kFinish, rows, student);
  return {loss, state, columns, norm};
}

static Tensor dist_loss_backward(const Tensor& upstream, const Tensor& student, const Tensor& teacher,
                                 const Tensor& state, const Tensor& columns, const Tensor& norm,
                                 double temperature, double beta, double gamma) {
  Tensor grad = fresh_like(student);
  DistLossArgs args = dist_loss_args(student, teacher, &grad, temperature, beta, gamma);
  args.rows = state.data_ptr(), args.columns = columns.data_ptr(), args.norm = norm.data_ptr();
  args.upstream = upstream.data_ptr();
  if (args.shape.rows > 0) run(args, DistStage::kGradient, args.shape.classes, student);
  return grad;
}

}  // namespace kd

KD_SCHEMA(m) {
  m.def(
      "dist_loss(Tensor student, Tensor teacher, float temperature, float beta, float gamma) "
      "-> (Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "dist_loss_backward(Tensor grad_value, Tensor student, Tensor teacher, Tensor rows, Tensor columns, "
      "Tensor norm, float temperature, float beta, float gamma) -> Tensor");
}
KD_IMPLEMENTATION(m) {
  m.impl("dist_loss", TORCH_BOX(&kd::dist_loss));
  m.impl("dist_loss_backward", TORCH_BOX(&kd::dist_loss_backward));
}
