// The CUDA kernels of the losses over pairs (csrc/cuda/pairs.cuh), by name, with numpy arrays [rows, groups,
// points] for each number of a point.
#include "../../../csrc/common/pairs.h"

#include <map>

#include "bind.h"

#define KD_PAIRS(name) extern "C" void kd_##name##_cuda(const kd::PairArgs& args, int, void* stream);
KD_PAIRS(box_loss)
KD_PAIRS(class_box_l2)
KD_PAIRS(rpn_distill)
KD_PAIRS(soft_bce)
extern "C" void kd_finish_pairs_cuda(const kd::PairArgs& args, int values, void* stream);

namespace {

using Arrays = std::vector<py::array>;

kd::PairView view_of(const py::array& x) {
  const auto stride = [&](int d) { return static_cast<int64_t>(x.strides(d) / x.itemsize()); };
  return {const_cast<void*>(x.data()), dtype_of(x), stride(0), stride(1), stride(2)};
}

void pairs(const std::string& name, const Arrays& student, const Arrays& teacher, const Arrays& grad,
           const Maybe& whole_grad, int64_t before, int64_t after, const std::vector<double>& param,
           const std::vector<double>& scale, const Maybe& divisor, const Maybe& weight,
           const Arrays& upstream, const Maybe& point_value, const Maybe& part, const Arrays& values,
           bool wide) {
  const std::map<std::string, void (*)(const kd::PairArgs&, int, void*)> kernels = {
      {"box_loss", kd_box_loss_cuda},
      {"class_box_l2", kd_class_box_l2_cuda},
      {"rpn_distill", kd_rpn_distill_cuda},
      {"soft_bce", kd_soft_bce_cuda}};
  Arguments arguments;
  kd::PairArgs args = {};
  args.rows = student[0].shape(0), args.groups = student[0].shape(1), args.points = student[0].shape(2);
  for (size_t j = 0; j < student.size(); ++j) {
    arguments.in(student[j], "student"), arguments.in(teacher[j], "teacher");
    args.student[j] = view_of(student[j]), args.teacher[j] = view_of(teacher[j]);
    if (!grad.empty()) args.grad[j] = view_of(grad[j]);
  }
  arguments.out(whole_grad, "grad");
  for (size_t j = 0; !whole_grad && j < grad.size(); ++j) arguments.out(grad[j], "grad");
  args.before = before, args.after = after;
  args.compute = wide ? kd::DType::kFloat64 : kd::DType::kFloat32;
  for (size_t k = 0; k < param.size(); ++k) args.param[k] = param[k];
  for (size_t k = 0; k < scale.size(); ++k) args.scale[k] = scale[k];
  args.divisor = arguments.in(divisor, "divisor");
  args.weight = arguments.in(weight, "weight");
  for (size_t k = 0; k < upstream.size(); ++k) args.upstream[k] = arguments.in(upstream[k], "upstream");
  args.upstream_stride = !upstream.empty() && upstream[0].size() > 1 ? 1 : 0;
  args.point_value = arguments.out(point_value, "point_value");
  args.part = arguments.out(part, "part");
  kernels.at(name)(args, 0, nullptr);
  for (size_t k = 0; k < values.size(); ++k) args.value[k] = arguments.out(values[k], "value");
  if (!values.empty()) kd_finish_pairs_cuda(args, static_cast<int>(values.size()), nullptr);
}

void bind_pairs(py::module_& m) {
  m.def("pairs", &pairs, "name"_a, "student"_a, "teacher"_a, py::kw_only(), "grad"_a = Arrays{},
        "whole_grad"_a = py::none(), "before"_a = 0, "after"_a = 0, "param"_a = std::vector<double>{},
        "scale"_a, "divisor"_a = py::none(), "weight"_a = py::none(), "upstream"_a = Arrays{},
        "point_value"_a = py::none(), "part"_a = py::none(), "values"_a = Arrays{}, "wide"_a);
}
const Binding binding(bind_pairs);

}  // namespace
