// The CUDA kernels of the divergence family, with their arguments from numpy arrays [row dims ..., classes]
// of any strides. dtypes: float32, float64, float16, and uint16, which holds the bits of bfloat16.
#include "../../../csrc/common/divergence.h"

#include <map>
#include <optional>
#include <vector>

#include "rows.h"

#define KD_DIVERGENCE(name, Formula) \
  extern "C" void kd_##name##_cuda(const kd::DivergenceArgs& args, int backward, void* stream);
#include "divergences.inc"  // KD_DIVERGENCE(name, Formula) for every KD_CUDA_DIVERGENCE in csrc/cuda: written by CMake
#undef KD_DIVERGENCE
extern "C" void kd_reduce_rows_cuda(const kd::ReduceRowsArgs& args, void* stream);
extern "C" void kd_sum_mask_cuda(const void* mask, int64_t rows, kd::DType dtype, void* to, void* stream);

namespace {

using Kernels = void (*)(const kd::DivergenceArgs&, int, void*);
const std::map<std::string, Kernels>& kernels() {
  static const std::map<std::string, Kernels> all = {
#define KD_DIVERGENCE(name, Formula) {#name, &kd_##name##_cuda},
#include "divergences.inc"
#undef KD_DIVERGENCE
  };
  return all;
}

kd::DivergenceArgs common(Arguments& arguments, const py::array& student, const py::array& teacher,
                          const Maybe& grad, const Maybe& mask, double temperature, double scale,
                          double param) {
  kd::DivergenceArgs args = {};
  args.shape = shape_of(student);
  args.student = view_of(student);
  args.teacher = view_of(teacher);
  if (grad) args.grad = view_of(*grad);
  arguments.in(student, "student");
  arguments.in(teacher, "teacher");
  arguments.out(grad, "grad");
  const bool wide = args.student.dtype == kd::DType::kFloat64 || args.teacher.dtype == kd::DType::kFloat64;
  args.compute = wide ? kd::DType::kFloat64 : kd::DType::kFloat32;
  args.mask = arguments.in(mask, "mask");
  args.temperature = temperature;
  args.scale = scale;
  args.param = param;
  return args;
}

void forward(const std::string& name, const py::array& student, const py::array& teacher,
             const py::array& row_value, const Maybe& row_weight, const Maybe& state, const Maybe& grad,
             const Maybe& mask, const Maybe& mask_sum, double temperature, double scale, double param,
             double grad_factor) {
  Arguments arguments;
  kd::DivergenceArgs args = common(arguments, student, teacher, grad, mask, temperature, scale, param);
  args.mask_sum = arguments.in(mask_sum, "mask_sum");
  args.row_value = arguments.out(row_value, "row_value");
  args.row_weight = arguments.out(row_weight, "row_weight");
  args.state = arguments.out(state, "state");
  args.grad_factor = grad_factor;
  kernels().at(name)(args, 0, nullptr);
}

void backward(const std::string& name, const py::array& student, const py::array& teacher,
              const py::array& grad, const py::array& state, const py::array& upstream, const py::array& norm,
              const Maybe& mask, double temperature, double scale, double param) {
  Arguments arguments;
  kd::DivergenceArgs args = common(arguments, student, teacher, grad, mask, temperature, scale, param);
  args.state = const_cast<void*>(arguments.in(state, "state"));
  args.upstream = arguments.in(upstream, "upstream");
  args.upstream_stride = upstream.size() == 1 && args.shape.rows != 1 ? 0 : 1;
  args.norm = arguments.in(norm, "norm");
  kernels().at(name)(args, 1, nullptr);
}

void reduce_rows(const py::array& row_value, const py::array& row_weight, const py::array& loss,
                 const py::array& norm, int reduction, const Maybe& presumed, double presumed_count,
                 double batch) {
  Arguments arguments;
  kd::ReduceRowsArgs args = {};
  args.rows = row_value.size();
  args.compute = dtype_of(row_value);
  args.row_value = arguments.out(row_value, "row_value");
  args.row_weight = arguments.out(row_weight, "row_weight");
  args.presumed = arguments.in(presumed, "presumed");
  args.presumed_count = presumed_count;
  args.batch = batch;
  args.reduction = static_cast<kd::Reduction>(reduction);
  args.loss = arguments.out(loss, "loss");
  args.norm = arguments.out(norm, "norm");
  kd_reduce_rows_cuda(args, nullptr);
}

void sum_mask(const py::array& mask, const py::array& to) {
  Arguments arguments;
  const void* from = arguments.in(mask, "mask");
  kd_sum_mask_cuda(from, mask.size(), dtype_of(mask), arguments.out(to, "to"), nullptr);
}

std::vector<std::string> names() {
  std::vector<std::string> all;
  for (const auto& [name, run] : kernels()) all.push_back(name);
  return all;
}

void bind(py::module_& m) {
  m.attr("DIVERGENCES") = names();
  m.def("divergence_forward", &forward, "name"_a, "student"_a, "teacher"_a, py::kw_only(), "row_value"_a,
        "row_weight"_a = py::none(), "state"_a = py::none(), "grad"_a = py::none(), "mask"_a = py::none(),
        "mask_sum"_a = py::none(), "temperature"_a, "scale"_a, "param"_a, "grad_factor"_a);
  m.def("divergence_backward", &backward, "name"_a, "student"_a, "teacher"_a, py::kw_only(), "grad"_a,
        "state"_a, "upstream"_a, "norm"_a, "mask"_a = py::none(), "temperature"_a, "scale"_a, "param"_a);
  m.def("reduce_rows", &reduce_rows, "row_value"_a, "row_weight"_a, "loss"_a, "norm"_a, py::kw_only(),
        "reduction"_a, "presumed"_a = py::none(), "presumed_count"_a = 1.0, "batch"_a = 1.0);
  m.def("sum_mask", &sum_mask, "mask"_a, "to"_a);
}

const Binding binding(bind);

}  // namespace
