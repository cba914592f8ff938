#include "kan_edge_stats.h"

#include "common/kan_op.h"

KD_DECLARE_KERNELS(kan_linear, KanArgs)
KD_DECLARE_KERNELS(kan_edge_stats, EdgeArgs)

namespace kd {

using EdgeStats = std::tuple<Tensor, Tensor, Tensor, Tensor>;

static void run_linear(KanArgs& args, KanStage stage, const Tensor& on) {
  args.stage = stage;
  launch(KD_KERNELS(kan_linear), args, Pass::kForward, 16384, on);
}

static void run(const EdgeArgs& args, Pass pass, const Tensor& on) {
  launch(KD_KERNELS(kan_edge_stats), args, pass, args.layer.samples * args.layer.out * 8, on);
}

static EdgeStats kan_edge_stats(const Tensor& x, const Tensor& coef, const Tensor& grid, int64_t degree,
                                const std::optional<Tensor>& scale, const std::optional<Tensor>& base_weight,
                                int64_t extrapolation) {
  KanInputs in(x, coef, grid, degree, scale, base_weight, extrapolation);
  EdgeArgs args = {};
  const std::vector<int64_t> edges = {in.args.out, in.args.features};
  const auto stat = [&] { return torch::stable::new_zeros(in.x, {edges.data(), edges.size()}); };
  Tensor mean_abs = stat(), mean_square = stat(), variance = stat(), mean = stat();
  if (in.args.samples == 0) return {mean_abs, mean_square, variance, mean};
  Tensor packed = fresh(in.x, {in.packed_numbers()}, in.args.compute);
  Tensor work = fresh(in.x, {in.args.features * kEdgeWork * in.padded_out()}, in.args.compute);
  in.args.packed = packed.data_ptr();
  run_linear(in.args, KanStage::kPack, x);
  args.layer = in.args, args.work = work.data_ptr();
  args.mean_abs = mean_abs.data_ptr(), args.mean_square = mean_square.data_ptr();
  args.variance = variance.data_ptr(), args.mean = mean.data_ptr();
  run(args, Pass::kForward, x);
  return {mean_abs, mean_square, variance, mean};
}

static WeightGrads kan_edge_stats_backward(const Tensor& grad_abs, const Tensor& grad_square,
                                           const Tensor& grad_variance, const Tensor& mean, const Tensor& x,
                                           const Tensor& coef, const Tensor& grid, int64_t degree,
                                           const std::optional<Tensor>& scale,
                                           const std::optional<Tensor>& base_weight, int64_t extrapolation) {
  KanInputs in(x, coef, grid, degree, scale, base_weight, extrapolation);
  EdgeArgs args = {};
  const auto none = [&] { return fresh(in.x, {0}, in.args.compute); };
  const Tensor of_abs = plain(grad_abs, in.args.compute), of_square = plain(grad_square, in.args.compute),
               of_variance = plain(grad_variance, in.args.compute), center = plain(mean, in.args.compute);
  Tensor grad_x = fresh_like(in.x), grad_coef = fresh_like(in.coef);
  Tensor grad_scale = scale.has_value() ? fresh_like(*in.scale) : none();
  Tensor grad_base = base_weight.has_value() ? fresh_like(*in.base_weight) : none();
  Tensor packed = fresh(in.x, {in.packed_numbers()}, in.args.compute);
  Tensor packed_grad = fresh(in.x, {in.packed_numbers()}, in.args.compute);
  Tensor work = fresh(in.x, {in.args.features * kEdgeWork * in.padded_out()}, in.args.compute);
  in.args.packed = packed.data_ptr(), in.args.packed_grad = packed_grad.data_ptr();
  in.args.grad_x = grad_x.data_ptr(), in.args.grad_coef = grad_coef.data_ptr();
  if (scale.has_value()) in.args.grad_scale = grad_scale.data_ptr();
  if (base_weight.has_value()) in.args.grad_base_weight = grad_base.data_ptr();
  run_linear(in.args, KanStage::kPack, x);
  args.layer = in.args, args.work = work.data_ptr(), args.mean = center.data_ptr();
  args.grad_abs = of_abs.data_ptr(), args.grad_square = of_square.data_ptr(),
  args.grad_variance = of_variance.data_ptr();
  run(args, Pass::kBackward, x);
  run_linear(in.args, KanStage::kUnpack, x);
  return {as_type_of(grad_x, x), as_type_of(grad_coef, coef),
          scale.has_value() ? as_type_of(grad_scale, *scale) : grad_scale,
          base_weight.has_value() ? as_type_of(grad_base, *base_weight) : grad_base};
}

}  // namespace kd

KD_SCHEMA(m) {
  m.def(
      "kan_edge_stats(Tensor x, Tensor coef, Tensor grid, int degree, Tensor? scale, Tensor? base_weight, "
      "int extrapolation) -> (Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "kan_edge_stats_backward(Tensor grad_abs, Tensor grad_square, Tensor grad_variance, Tensor mean, "
      "Tensor x, "
      "Tensor coef, Tensor grid, int degree, Tensor? scale, Tensor? base_weight, int extrapolation) "
      "-> (Tensor, Tensor, Tensor, Tensor)");
}
KD_IMPLEMENTATION(m) {
  m.impl("kan_edge_stats", TORCH_BOX(&kd::kan_edge_stats));
  m.impl("kan_edge_stats_backward", TORCH_BOX(&kd::kan_edge_stats_backward));
}
