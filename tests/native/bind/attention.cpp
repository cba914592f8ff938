// The CUDA kernels of attention_masks, stage by stage, with their arguments from numpy arrays [B, channels,
// positions] of any strides.
#include "../../../csrc/attention_masks.h"
#include "bind.h"

extern "C" void kd_attention_masks_cuda(const kd::AttentionMasksArgs& args, int backward, void* stream);

namespace {

kd::MapView channels_first(const py::array& x) {
  const auto stride = [&](int d) { return static_cast<int64_t>(x.strides(d) / x.itemsize()); };
  return {const_cast<void*>(x.data()), dtype_of(x), stride(0), stride(2), stride(1)};
}

void run(kd::AttentionMasksArgs& args, kd::AttentionStage first, kd::AttentionStage second) {
  for (const auto stage : {first, second}) {
    args.stage = stage;
    kd_attention_masks_cuda(args, 0, nullptr);
  }
}

void attention_masks(const py::array& query, const py::array& key, const py::array& value, double scale,
                     const Maybe& query_mask, const Maybe& share, const Maybe& key_mask, const py::array& out,
                     const py::array& lse, const Maybe& mean, const Maybe& grad_out, const Maybe& grad_mean,
                     const Maybe& grad_query, const Maybe& grad_key, const Maybe& grad_value,
                     const Maybe& work) {
  Arguments arguments;
  kd::AttentionMasksArgs args = {};
  arguments.in(query, "query"), arguments.in(key, "key"), arguments.in(value, "value");
  args.query = channels_first(query), args.key = channels_first(key), args.value = channels_first(value);
  args.batch = query.shape(0), args.width = query.shape(1), args.queries = query.shape(2);
  args.keys = key.shape(2), args.masks = value.shape(1);
  const bool wide = dtype_of(query) == kd::DType::kFloat64;
  args.compute = wide ? kd::DType::kFloat64 : kd::DType::kFloat32;
  args.scale = scale;
  args.query_mask = static_cast<const bool*>(arguments.in(query_mask, "query_mask"));
  args.key_mask = static_cast<const bool*>(arguments.in(key_mask, "key_mask"));
  args.share = arguments.in(share, "share");
  if (!grad_out) {
    args.out = arguments.out(out, "out"), args.lse = arguments.out(lse, "lse");
    args.mean = arguments.out(mean, "mean");
    return run(args, kd::AttentionStage::kForward, kd::AttentionStage::kMean);
  }
  args.out = const_cast<void*>(arguments.in(out, "out"));
  args.lse = const_cast<void*>(arguments.in(lse, "lse"));
  args.grad_out = arguments.in(grad_out, "grad_out");
  args.grad_mean = arguments.in(grad_mean, "grad_mean");
  arguments.out(grad_query, "grad_query"), arguments.out(grad_key, "grad_key");
  arguments.out(grad_value, "grad_value");
  args.grad_query = channels_first(*grad_query), args.grad_key = channels_first(*grad_key);
  args.grad_value = channels_first(*grad_value);
  args.work = arguments.out(work, "work");
  run(args, kd::AttentionStage::kBackward, kd::AttentionStage::kKeyGrad);
}

void bind_attention(py::module_& m) {
  m.def("attention_masks", &attention_masks, "query"_a, "key"_a, "value"_a, py::kw_only(), "scale"_a,
        "query_mask"_a = py::none(), "share"_a = py::none(), "key_mask"_a = py::none(), "out"_a, "lse"_a,
        "mean"_a = py::none(), "grad_out"_a = py::none(), "grad_mean"_a = py::none(),
        "grad_query"_a = py::none(), "grad_key"_a = py::none(), "grad_value"_a = py::none(),
        "work"_a = py::none());
}
const Binding binding(bind_attention);

}  // namespace
