#include "selection_masks.h"

#include "common/maps_op.h"

KD_DECLARE_KERNELS(selection_masks, SelectionMasksArgs)

namespace kd {

using MaybeTensor = std::optional<Tensor>;

static SelectionMasksArgs selection_args(const Tensor& fused, const Tensor& units, const MaybeTensor& valid,
                                         const Tensor& share) {
  if (fused.dim() != 3 || units.dim() != 2 || units.size(1) != fused.size(1))
    throw std::invalid_argument("kdfast: fused and units must be [B, C, P] and [M, C]");
  SelectionMasksArgs args = {};
  args.compute = compute_type(fused, fused);
  args.batch = fused.size(0), args.channels = fused.size(1), args.positions = fused.size(2);
  args.masks = units.size(0);
  args.fused = {fused.data_ptr(), dtype_of(fused), fused.stride(0), fused.stride(2), fused.stride(1)};
  args.units = units.data_ptr(), args.share = share.data_ptr();
  args.valid = valid.has_value() ? static_cast<const bool*>(valid->data_ptr()) : nullptr;
  // Few images are cut into parts; how many depends on the shape alone.
  const int64_t runs = (args.positions + kSelectionRun - 1) / kSelectionRun;
  const int64_t wanted = args.batch > 0 ? (15 + args.batch) / args.batch : 1;
  args.splits = wanted < runs ? wanted : runs;
  return args;
}

static void run(SelectionMasksArgs& args, SelectionStage stage, int64_t work, const Tensor& on) {
  args.stage = stage;
  launch(KD_KERNELS(selection_masks), args, Pass::kForward, work, on);
}

static std::tuple<Tensor, Tensor> selection_masks(const Tensor& fused, const Tensor& units,
                                                  const MaybeTensor& valid, const Tensor& share) {
  SelectionMasksArgs args = selection_args(fused, units, valid, share);
  Tensor spatial = fresh(fused, {args.batch, args.masks, args.positions}, args.compute);
  Tensor mean = fresh(fused, {args.batch, args.channels}, args.compute);
  if (args.batch > 0) {
    Tensor parts = fresh(fused, {args.batch, args.splits, args.channels}, args.compute);
    args.spatial = spatial.data_ptr(), args.mean = mean.data_ptr(), args.mean_parts = parts.data_ptr();
    const int64_t work = args.channels * args.positions * args.masks / args.splits;
    run(args, SelectionStage::kForward, work, fused);
    run(args, SelectionStage::kJoinMean, args.splits * args.channels, fused);
  }
  return {spatial, mean};
}

static std::tuple<Tensor, Tensor> selection_masks_backward(const Tensor& grad_spatial,
                                                           const Tensor& grad_mean, const Tensor& spatial,
                                                           const Tensor& fused, const Tensor& units,
                                                           const MaybeTensor& valid, const Tensor& share) {
  SelectionMasksArgs args = selection_args(fused, units, valid, share);
  Tensor grad_fused = fresh_like(fused);
  Tensor grad_units = fresh(fused, {args.masks, args.channels}, args.compute);
  Tensor logit_grad = fresh(fused, {args.batch, args.masks, args.positions}, args.compute);
  Tensor parts = fresh(fused, {args.batch, args.splits, args.masks, args.channels}, args.compute);
  args.spatial = spatial.data_ptr(), args.logit_grad = logit_grad.data_ptr();
  args.grad_spatial = grad_spatial.data_ptr(), args.grad_mean = grad_mean.data_ptr();
  args.grad_fused = {grad_fused.data_ptr(), dtype_of(grad_fused), grad_fused.stride(0), grad_fused.stride(2),
                     grad_fused.stride(1)};
  args.grad_units = grad_units.data_ptr(), args.unit_parts = parts.data_ptr();
  if (args.batch == 0) {
    torch::stable::zero_(grad_units);
    return {grad_fused, grad_units};
  }
  run(args, SelectionStage::kBackward, args.channels * args.positions * args.masks / args.splits, fused);
  run(args, SelectionStage::kJoinUnits, args.splits * args.channels * args.batch, fused);
  return {grad_fused, grad_units};
}

}  // namespace kd

KD_SCHEMA(m) {
  m.def("selection_masks(Tensor fused, Tensor units, Tensor? valid, Tensor share) -> (Tensor, Tensor)");
  m.def(
      "selection_masks_backward(Tensor grad_spatial, Tensor grad_mean, Tensor spatial, Tensor fused, "
      "Tensor units, Tensor? valid, Tensor share) -> (Tensor, Tensor)");
}
KD_IMPLEMENTATION(m) {
  m.impl("selection_masks", TORCH_BOX(&kd::selection_masks));
  m.impl("selection_masks_backward", TORCH_BOX(&kd::selection_masks_backward));
}
