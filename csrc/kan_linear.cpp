#include "kan_linear.h"

#include "common/kan_op.h"

KD_DECLARE_KERNELS(kan_linear, KanArgs)

namespace kd {

// What a basis costs, in outputs: with few outputs it is most of the work.
constexpr int64_t kBasisWork = 64;

static void run(KanArgs& args, KanStage stage, int64_t work, const Tensor& on) {
  args.stage = stage;
  launch(KD_KERNELS(kan_linear), args, Pass::kForward, work, on);
}

static Tensor kan_linear(const Tensor& x, const Tensor& coef, const Tensor& grid, int64_t degree,
                         const std::optional<Tensor>& scale, const std::optional<Tensor>& base_weight,
                         int64_t extrapolation) {
  KanInputs in(x, coef, grid, degree, scale, base_weight, extrapolation);
  KanArgs& args = in.args;
  Tensor y = fresh(in.x, {args.samples, in.padded_out()}, args.compute);
  if (args.samples > 0 && args.out > 0) {
    Tensor packed = fresh(in.x, {in.packed_numbers()}, args.compute);
    args.packed = packed.data_ptr(), args.y = y.data_ptr();
    run(args, KanStage::kPack, 16384, x);
    run(args, KanStage::kForward, args.features * args.out * 128, x);
  }
  return as_type_of(cut(y, args.out), x);
}

// A few features give few pieces of work; then long batches are split, and the parts added up in a fixed
// order.
static int64_t splits_of(const KanArgs& args) {
  const int64_t pieces = args.features < 16 ? args.features : 16, longest = args.samples / 4096;
  const int64_t wanted = 16 / (pieces > 0 ? pieces : 1);
  return wanted < longest ? wanted : longest > 0 ? longest : 1;
}

static WeightGrads kan_linear_backward(const Tensor& grad, const Tensor& x, const Tensor& coef,
                                       const Tensor& grid, int64_t degree, const std::optional<Tensor>& scale,
                                       const std::optional<Tensor>& base_weight, int64_t extrapolation,
                                       int64_t wanted) {
  KanInputs in(x, coef, grid, degree, scale, base_weight, extrapolation);
  KanArgs& args = in.args;
  const bool input = wanted & kWantsInput, weights = wanted & kWantsWeights;
  const Tensor grad_y = pad_out(grad, in.padded_out(), args.compute);
  const auto none = [&] { return fresh(in.x, {0}, args.compute); };
  Tensor grad_x = input ? fresh_like(in.x) : none(), grad_coef = weights ? fresh_like(in.coef) : none();
  Tensor grad_scale = weights && scale.has_value() ? fresh_like(*in.scale) : none();
  Tensor grad_base = weights && base_weight.has_value() ? fresh_like(*in.base_weight) : none();
  args.grad_y = grad_y.data_ptr();
  if (input) {
    Tensor packed = fresh(in.x, {in.packed_numbers()}, args.compute);
    args.packed = packed.data_ptr(), args.grad_x = grad_x.data_ptr();
    run(args, KanStage::kPack, 16384, x);
    run(args, KanStage::kInputGrad, args.features * args.out * 128, x);
  }
  if (weights) {
    args.splits = splits_of(args);
    Tensor packed_grad = fresh(in.x, {args.splits * in.packed_numbers()}, args.compute);
    args.packed_grad = packed_grad.data_ptr(), args.grad_coef = grad_coef.data_ptr();
    if (scale.has_value()) args.grad_scale = grad_scale.data_ptr();
    if (base_weight.has_value()) args.grad_base_weight = grad_base.data_ptr();
    run(args, KanStage::kWeightGrad, args.samples * (args.out + kBasisWork), x);
    run(args, KanStage::kUnpack, 16384, x);
  }
  return {input ? as_type_of(grad_x, x) : grad_x, weights ? as_type_of(grad_coef, coef) : grad_coef,
          weights && scale.has_value() ? as_type_of(grad_scale, *scale) : grad_scale,
          weights && base_weight.has_value() ? as_type_of(grad_base, *base_weight) : grad_base};
}

}  // namespace kd

KD_SCHEMA(m) {
  m.def(
      "kan_linear(Tensor x, Tensor coef, Tensor grid, int degree, Tensor? scale, Tensor? base_weight, "
      "int extrapolation) -> Tensor");
  m.def(
      "kan_linear_backward(Tensor grad, Tensor x, Tensor coef, Tensor grid, int degree, Tensor? scale, "
      "Tensor? base_weight, int extrapolation, int wanted) -> (Tensor, Tensor, Tensor, Tensor)");
}
KD_IMPLEMENTATION(m) {
  m.impl("kan_linear", TORCH_BOX(&kd::kan_linear));
  m.impl("kan_linear_backward", TORCH_BOX(&kd::kan_linear_backward));
}
