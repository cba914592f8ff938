// The CUDA kernels of the losses on features, with their arguments from numpy arrays: maps [B, P, C] of any
// strides.
#include "../../../csrc/nd_loss.h"
#include "../../../csrc/normalized_mse.h"
#include "../../../csrc/weighted_mse.h"
#include "bind.h"

extern "C" void kd_nd_loss_cuda(const kd::NdLossArgs& args, int backward, void* stream);
extern "C" void kd_normalized_mse_cuda(const kd::NormalizedMseArgs& args, int backward, void* stream);
extern "C" void kd_weighted_mse_cuda(const kd::WeightedMseArgs& args, int backward, void* stream);
extern "C" void kd_weighted_mse_finish_cuda(const kd::WeightedMseArgs& args, void* stream);

namespace {

kd::DType compute_of(const py::array& student, const py::array& teacher) {
  const bool wide = dtype_of(student) == kd::DType::kFloat64 || dtype_of(teacher) == kd::DType::kFloat64;
  return wide ? kd::DType::kFloat64 : kd::DType::kFloat32;
}

kd::MapView map_of(const py::array& x) {
  const auto stride = [&](int d) { return static_cast<int64_t>(x.strides(d) / x.itemsize()); };
  return {const_cast<void*>(x.data()), dtype_of(x), stride(0), stride(1), stride(2)};
}

kd::RowView rows_of(const py::array& x) {
  kd::RowView view = {};
  view.data = const_cast<void*>(x.data());
  view.dtype = dtype_of(x);
  view.row_stride[0] = x.strides(0) / x.itemsize();
  view.class_stride = x.strides(1) / x.itemsize();
  return view;
}

void nd_loss(const py::array& student, const py::array& teacher, const py::array& means,
             const py::array& target, const Maybe& mask, const Maybe& value, const Maybe& weight,
             const Maybe& grad, const Maybe& upstream, const Maybe& norm, int64_t ignore_index,
             double grad_factor) {
  Arguments arguments;
  kd::NdLossArgs args = {};
  args.shape = {student.shape(0), student.shape(1), 1, {student.shape(0)}};
  arguments.in(student, "student"), arguments.in(teacher, "teacher");
  args.student = rows_of(student);
  args.teacher = rows_of(teacher);
  if (grad) arguments.out(grad, "grad"), args.grad = rows_of(*grad);
  args.means = arguments.in(means, "means");
  args.means_dtype = dtype_of(means);
  args.means_row_stride = means.strides(0) / means.itemsize();
  args.means_stride = means.strides(1) / means.itemsize();
  args.target = static_cast<const int64_t*>(arguments.in(target, "target"));
  args.classes = means.shape(0);
  args.ignore_index = ignore_index;
  args.compute = compute_of(student, teacher);
  args.mask = arguments.in(mask, "mask");
  args.grad_factor = grad_factor;
  args.upstream = arguments.in(upstream, "upstream");
  args.upstream_stride = upstream && upstream->size() > 1 ? 1 : 0;
  args.norm = arguments.in(norm, "norm");
  args.row_value = arguments.out(value, "value");
  args.row_weight = arguments.out(weight, "weight");
  kd_nd_loss_cuda(args, upstream.has_value(), nullptr);
}

void normalized_mse(const py::array& student, const py::array& teacher, bool center, double eps, double scale,
                    const Maybe& value, const Maybe& grad, const Maybe& upstream,
                    const py::array& workspace) {
  Arguments arguments;
  kd::NormalizedMseArgs args = {};
  args.shape = {student.shape(0), student.shape(1), student.shape(2)};
  arguments.in(student, "student"), arguments.in(teacher, "teacher");
  args.student = map_of(student);
  args.teacher = map_of(teacher);
  if (grad) arguments.out(grad, "grad"), args.grad = map_of(*grad);
  args.compute = compute_of(student, teacher);
  args.center = center;
  args.eps = eps;
  args.scale = scale;
  args.upstream = arguments.in(upstream, "upstream");
  args.upstream_stride = upstream && upstream->size() > 1 ? 1 : 0;
  args.row_value = arguments.out(value, "value");
  args.workspace = arguments.out(workspace, "workspace");
  args.workspace_of_sample = workspace.shape(1);
  kd_normalized_mse_cuda(args, upstream.has_value(), nullptr);
}

void weighted_mse(const py::array& student, const py::array& teacher, const Maybe& position,
                  const Maybe& channel, const Maybe& gain, const Maybe& e, const Maybe& part, const Maybe& g,
                  const Maybe& values, const Maybe& grad, const Maybe& upstream_position,
                  const Maybe& upstream_channel, bool unless_equal, int64_t block) {
  Arguments arguments;
  kd::WeightedMseArgs args = {};
  args.shape = {student.shape(0), student.shape(1), student.shape(2)};
  arguments.in(student, "student"), arguments.in(teacher, "teacher");
  args.student = map_of(student);
  args.teacher = map_of(teacher);
  if (grad) arguments.out(grad, "grad"), args.grad = map_of(*grad);
  args.compute = compute_of(student, teacher);
  args.position = arguments.in(position, "position");
  args.channel = arguments.in(channel, "channel");
  args.gain = arguments.in(gain, "gain");
  args.position_error = arguments.out(e, "e");
  args.channel_part = arguments.out(part, "part");
  args.channel_error = arguments.out(g, "g");
  args.position_upstream = arguments.in(upstream_position, "upstream_position");
  args.channel_upstream = arguments.in(upstream_channel, "upstream_channel");
  args.unless_equal = unless_equal;
  args.block = block;
  args.blocks = (args.shape.positions + block - 1) / block;
  kd_weighted_mse_cuda(args, upstream_position.has_value(), nullptr);
  if (!values) return;
  const int64_t width = values->itemsize();
  args.value_position = arguments.out(values, "values");
  args.value_channel = static_cast<char*>(args.value_position) + width;
  kd_weighted_mse_finish_cuda(args, nullptr);
}

void bind_features(py::module_& m) {
  m.def("nd_loss", &nd_loss, "student"_a, "teacher"_a, "means"_a, "target"_a, py::kw_only(),
        "mask"_a = py::none(), "value"_a = py::none(), "weight"_a = py::none(), "grad"_a = py::none(),
        "upstream"_a = py::none(), "norm"_a = py::none(), "ignore_index"_a = -100, "grad_factor"_a = 1.0);
  m.def("normalized_mse", &normalized_mse, "student"_a, "teacher"_a, py::kw_only(), "center"_a, "eps"_a,
        "scale"_a = 1.0, "value"_a = py::none(), "grad"_a = py::none(), "upstream"_a = py::none(),
        "workspace"_a);
  m.def("weighted_mse", &weighted_mse, "student"_a, "teacher"_a, py::kw_only(), "position"_a = py::none(),
        "channel"_a = py::none(), "gain"_a = py::none(), "e"_a = py::none(), "part"_a = py::none(),
        "g"_a = py::none(), "values"_a = py::none(), "grad"_a = py::none(),
        "upstream_position"_a = py::none(), "upstream_channel"_a = py::none(), "unless_equal"_a = false,
        "block"_a);
}
const Binding binding(bind_features);

}  // namespace
