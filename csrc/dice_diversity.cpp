#include "dice_diversity.h"

#include "common/maps_op.h"
#include "common/reduce_rows.h"

KD_DECLARE_KERNELS(dice_diversity, DiceDiversityArgs)

namespace kd {

// masks [B, P, M]: values of the samples into `rows`, the gradient into `grad`, either may be null.
static void run(const Tensor& masks, bool pairwise, Tensor* rows, Tensor* grad, const void* upstream) {
  DiceDiversityArgs args = {};
  args.shape = map_shape(masks);
  args.masks = view_map(masks);
  args.compute = compute_type(masks, masks);
  args.pairwise = pairwise;
  args.upstream = upstream;
  const int64_t batch = args.shape.batch;
  if (batch == 0) return;
  args.scale = 1 / static_cast<double>(batch);
#ifdef KD_DEVICE_CPU
  args.parts = 1;
#else
  args.parts = (args.shape.positions + kDiceRun - 1) / kDiceRun;
#endif
  Tensor sums = fresh(masks, {batch, args.parts, numbers_of_part(args)}, DType::kFloat64);
  Tensor weights = fresh(masks, {batch, weights_of_sample(args)}, args.compute);
  Tensor largest = fresh(masks, {batch, args.parts}, args.compute);
  args.sums = static_cast<double*>(sums.data_ptr());
  args.weights = weights.data_ptr(), args.largest = largest.data_ptr();
  if (rows != nullptr) args.row_value = rows->data_ptr();
  if (grad != nullptr) args.grad = view_map(*grad);
  launch(KD_KERNELS(dice_diversity), args, Pass::kForward, args.shape.positions * args.shape.channels, masks);
}

static std::tuple<Tensor, Tensor> dice_diversity(const Tensor& masks, bool pairwise, bool with_grad) {
  const DType type = compute_type(masks, masks);
  Tensor grad = with_grad ? fresh_like(masks) : fresh(masks, {0}, type);
  Tensor rows = fresh(masks, {masks.size(0)}, type), value = fresh(masks, {}, type);
  run(masks, pairwise, &rows, with_grad ? &grad : nullptr, nullptr);
  sum_mask(rows, value);
  return {value, grad};
}

static Tensor dice_diversity_backward(const Tensor& upstream, const Tensor& masks, bool pairwise) {
  Tensor grad = fresh_like(masks);
  run(masks, pairwise, nullptr, &grad, upstream.data_ptr());
  return grad;
}

}  // namespace kd

KD_SCHEMA(m) {
  m.def("dice_diversity(Tensor masks, bool pairwise, bool with_grad) -> (Tensor, Tensor)");
  m.def("dice_diversity_backward(Tensor grad_value, Tensor masks, bool pairwise) -> Tensor");
}
KD_IMPLEMENTATION(m) {
  m.impl("dice_diversity", TORCH_BOX(&kd::dice_diversity));
  m.impl("dice_diversity_backward", TORCH_BOX(&kd::dice_diversity_backward));
}
