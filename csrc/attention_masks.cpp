#include "attention_masks.h"

#include "common/attention_op.h"

KD_DECLARE_KERNELS(attention_masks, AttentionMasksArgs)

namespace kd {

using Three = std::tuple<Tensor, Tensor, Tensor>;

// A tensor [B, channels, positions] as a map.
static MapView view_channels_first(const Tensor& x) {
  return {x.data_ptr(), dtype_of(x), x.stride(0), x.stride(2), x.stride(1)};
}

// The inputs of both passes; masks are contiguous, `share` is of the compute type.
static AttentionMasksArgs attention_args(const Tensor& query, const Tensor& key, const Tensor& value,
                                         double scale, const MaybeTensor& query_mask,
                                         const MaybeTensor& share, const MaybeTensor& key_mask) {
  const bool fit = query.dim() == 3 && key.dim() == 3 && value.dim() == 3 && key.size(0) == query.size(0) &&
                   key.size(1) == query.size(1) && value.size(0) == key.size(0) &&
                   value.size(2) == key.size(2);
  if (!fit)
    throw std::invalid_argument("kdfast: query, key and value must be [B, d, N], [B, d, L], [B, M, L]");
  AttentionMasksArgs args = {};
  args.compute = compute_type(query, query);
  args.batch = query.size(0), args.width = query.size(1), args.queries = query.size(2);
  args.keys = key.size(2), args.masks = value.size(1);
  args.scale = scale;
  args.query = view_channels_first(query);
  args.key = view_channels_first(key);
  args.value = view_channels_first(value);
  args.query_mask = flags_of(query_mask), args.key_mask = flags_of(key_mask);
  args.share = pointer_of(share);
  args.splits = 1;
  return args;
}

static void run(AttentionMasksArgs& args, AttentionStage stage, int64_t work, const Tensor& on) {
  args.stage = stage;
  launch(KD_KERNELS(attention_masks), args, Pass::kForward, work, on);
}

static Three attention_masks(const Tensor& query, const Tensor& key, const Tensor& value, double scale,
                             const MaybeTensor& query_mask, const MaybeTensor& share,
                             const MaybeTensor& key_mask) {
  AttentionMasksArgs args = attention_args(query, key, value, scale, query_mask, share, key_mask);
  Tensor out = fresh(query, {args.batch, args.masks, args.queries}, args.compute);
  Tensor mean = fresh(query, {args.batch, args.keys}, args.compute);
  Tensor lse = fresh(query, {args.batch, args.queries}, args.compute);
  if (args.batch > 0) {
    args.out = out.data_ptr(), args.mean = mean.data_ptr(), args.lse = lse.data_ptr();
    const Tensor work = work_of(args, query);
    run(args, AttentionStage::kPack, 16384, query);
    run(args, AttentionStage::kForward, args.keys * args.queries, query);
    run(args, AttentionStage::kMean, 64 * args.splits, query);
  }
  return {out, mean, lse};
}

static Three attention_masks_backward(const Tensor& grad_out, const Tensor& grad_mean, const Tensor& out,
                                      const Tensor& lse, const Tensor& query, const Tensor& key,
                                      const Tensor& value, double scale, const MaybeTensor& query_mask,
                                      const MaybeTensor& share, const MaybeTensor& key_mask) {
  AttentionMasksArgs args = attention_args(query, key, value, scale, query_mask, share, key_mask);
  Tensor grad_query = fresh_like(query), grad_key = fresh_like(key), grad_value = fresh_like(value);
  if (args.batch > 0) {
    args.backward = true;
    args.out = out.data_ptr(), args.lse = lse.data_ptr();
    args.grad_out = grad_out.data_ptr(), args.grad_mean = grad_mean.data_ptr();
    args.grad_query = view_channels_first(grad_query);
    args.grad_key = view_channels_first(grad_key);
    args.grad_value = view_channels_first(grad_value);
    const Tensor work = work_of(args, query);
    run(args, AttentionStage::kPack, 16384, query);
    run(args, AttentionStage::kBackward, args.keys * args.queries, query);
    run(args, AttentionStage::kKeyGrad, 16384, query);
  }
  return {grad_query, grad_key, grad_value};
}

}  // namespace kd

KD_SCHEMA(m) {
  m.def(
      "attention_masks(Tensor query, Tensor key, Tensor value, float scale, Tensor? query_mask, "
      "Tensor? share, Tensor? key_mask) -> (Tensor, Tensor, Tensor)");
  m.def(
      "attention_masks_backward(Tensor grad_out, Tensor grad_mean, Tensor out, Tensor lse, Tensor query, "
      "Tensor key, Tensor value, float scale, Tensor? query_mask, Tensor? share, Tensor? key_mask) "
      "-> (Tensor, Tensor, Tensor)");
}
KD_IMPLEMENTATION(m) {
  m.impl("attention_masks", TORCH_BOX(&kd::attention_masks));
  m.impl("attention_masks_backward", TORCH_BOX(&kd::attention_masks_backward));
}
