// The CUDA kernels of attention_masks, attention_map_kl and selection_masks, stage by stage, with their
// arguments from numpy arrays of any strides.
#include "../../../csrc/attention_map_kl.h"
#include "../../../csrc/attention_masks.h"
#include "../../../csrc/selection_masks.h"
#include "bind.h"

extern "C" void kd_attention_map_kl_cuda(const kd::AttentionMapKlArgs& args, int backward, void* stream);
extern "C" void kd_attention_masks_cuda(const kd::AttentionMasksArgs& args, int backward, void* stream);

extern "C" void kd_selection_masks_cuda(const kd::SelectionMasksArgs& args, int backward, void* stream);

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

kd::MapView tokens(const py::array& x) {
  const auto stride = [&](int d) { return static_cast<int64_t>(x.strides(d) / x.itemsize()); };
  return {const_cast<void*>(x.data()), dtype_of(x), stride(0), stride(1), stride(2)};
}

kd::AttentionMasksArgs side_of(const py::array& query, const py::array& key, double scale, bool wide) {
  kd::AttentionMasksArgs args = {};
  args.query = tokens(query), args.key = tokens(key);
  args.batch = query.shape(0), args.queries = query.shape(1), args.width = query.shape(2);
  args.keys = key.shape(1);
  args.compute = wide ? kd::DType::kFloat64 : kd::DType::kFloat32;
  args.scale = scale;
  return args;
}

void attention_map_kl(const py::array& student_query, const py::array& student_key,
                      const py::array& teacher_query, const py::array& teacher_key, double student_scale,
                      double teacher_scale, const Maybe& query_mask, const Maybe& key_mask,
                      const py::array& factor, const py::array& value, const py::array& lse,
                      const Maybe& grad_query, const Maybe& grad_key) {
  Arguments arguments;
  kd::AttentionMapKlArgs args = {};
  for (const auto* x : {&student_query, &student_key, &teacher_query, &teacher_key})
    arguments.in(*x, "input");
  const bool wide = dtype_of(factor) == kd::DType::kFloat64;
  args.student = side_of(student_query, student_key, student_scale, wide);
  args.teacher = side_of(teacher_query, teacher_key, teacher_scale, wide);
  args.compute = args.student.compute;
  for (auto* side : {&args.student, &args.teacher}) {
    side->query_mask = static_cast<const bool*>(query_mask ? query_mask->data() : nullptr);
    side->key_mask = static_cast<const bool*>(key_mask ? key_mask->data() : nullptr);
  }
  arguments.in(query_mask, "query_mask"), arguments.in(key_mask, "key_mask");
  args.factor = arguments.in(factor, "factor");
  args.value = arguments.out(value, "value");
  args.student.lse = arguments.out(lse, "lse");  // [2, B, N]
  args.teacher.lse = static_cast<char*>(args.student.lse) + lse.nbytes() / 2;
  args.with_grad = grad_query.has_value();
  if (args.with_grad) {
    arguments.out(grad_query, "grad_query"), arguments.out(grad_key, "grad_key");
    args.student.grad_query = tokens(*grad_query), args.student.grad_key = tokens(*grad_key);
  }
  for (const auto stage : {kd::AttentionStage::kForward, kd::AttentionStage::kKeyGrad}) {
    args.stage = stage;
    if (stage == kd::AttentionStage::kForward || args.with_grad) kd_attention_map_kl_cuda(args, 0, nullptr);
  }
}

void selection_masks(const py::array& fused, const py::array& units, const Maybe& valid,
                     const py::array& share, const py::array& spatial, const Maybe& mean,
                     const Maybe& grad_spatial, const Maybe& grad_mean, const Maybe& grad_fused,
                     const Maybe& grad_units, const Maybe& logit_grad) {
  Arguments arguments;
  kd::SelectionMasksArgs args = {};
  arguments.in(fused, "fused");
  args.fused = channels_first(fused);
  args.batch = fused.shape(0), args.channels = fused.shape(1), args.positions = fused.shape(2);
  args.masks = units.shape(0);
  args.compute = dtype_of(fused) == kd::DType::kFloat64 ? kd::DType::kFloat64 : kd::DType::kFloat32;
  args.units = arguments.in(units, "units"), args.share = arguments.in(share, "share");
  args.valid = static_cast<const bool*>(arguments.in(valid, "valid"));
  const bool backward = grad_spatial.has_value();
  if (!backward) {
    args.spatial = arguments.out(spatial, "spatial"), args.mean = arguments.out(mean, "mean");
  } else {
    args.spatial = const_cast<void*>(arguments.in(spatial, "spatial"));
    args.grad_spatial = arguments.in(grad_spatial, "grad_spatial");
    args.grad_mean = arguments.in(grad_mean, "grad_mean");
    arguments.out(grad_fused, "grad_fused");
    args.grad_fused = channels_first(*grad_fused);
    args.grad_units = arguments.out(grad_units, "grad_units");
    args.logit_grad = arguments.out(logit_grad, "logit_grad");
  }
  using kd::SelectionStage;
  for (const auto stage : {backward ? SelectionStage::kBackward : SelectionStage::kForward,
                           backward ? SelectionStage::kJoinUnits : SelectionStage::kJoinMean}) {
    args.stage = stage;
    kd_selection_masks_cuda(args, 0, nullptr);
  }
}

void bind_attention(py::module_& m) {
  m.def("selection_masks", &selection_masks, "fused"_a, "units"_a, py::kw_only(), "valid"_a = py::none(),
        "share"_a, "spatial"_a, "mean"_a = py::none(), "grad_spatial"_a = py::none(),
        "grad_mean"_a = py::none(), "grad_fused"_a = py::none(), "grad_units"_a = py::none(),
        "logit_grad"_a = py::none());
  m.def("attention_map_kl", &attention_map_kl, "student_query"_a, "student_key"_a, "teacher_query"_a,
        "teacher_key"_a, py::kw_only(), "student_scale"_a, "teacher_scale"_a, "query_mask"_a = py::none(),
        "key_mask"_a = py::none(), "factor"_a, "value"_a, "lse"_a, "grad_query"_a = py::none(),
        "grad_key"_a = py::none());
  m.def("attention_masks", &attention_masks, "query"_a, "key"_a, "value"_a, py::kw_only(), "scale"_a,
        "query_mask"_a = py::none(), "share"_a = py::none(), "key_mask"_a = py::none(), "out"_a, "lse"_a,
        "mean"_a = py::none(), "grad_out"_a = py::none(), "grad_mean"_a = py::none(),
        "grad_query"_a = py::none(), "grad_key"_a = py::none(), "grad_value"_a = py::none(),
        "work"_a = py::none());
}
const Binding binding(bind_attention);

}  // namespace
