// The CUDA kernels of the losses on rows, with their arguments from numpy arrays [row dims ..., classes] of
// any strides.
#include "../../../csrc/common/row_loss.h"

#include <map>

#include "rows.h"

#define KD_ROW_LOSS(name) \
  extern "C" void kd_##name##_cuda(const kd::RowLossArgs& args, int backward, void* stream);
#include "row_losses.inc"  // KD_ROW_LOSS(name) for every KD_CUDA_ROW_LOSS in csrc/cuda: written by CMake
#undef KD_ROW_LOSS

namespace {

using Kernels = void (*)(const kd::RowLossArgs&, int, void*);
const std::map<std::string, Kernels>& kernels() {
  static const std::map<std::string, Kernels> all = {
#define KD_ROW_LOSS(name) {#name, &kd_##name##_cuda},
#include "row_losses.inc"
#undef KD_ROW_LOSS
  };
  return all;
}

// upstream: an array for each value, of one number or one a row; without it the forward pass is run.
void run(const std::string& name, const py::array& student, const Maybe& teacher, const Maybe& index,
         const Maybe& sparse, const Maybe& class_weight, const Maybe& mask, const Maybe& grad,
         const Maybe& state, const std::vector<py::array>& values, const std::vector<py::array>& weights,
         const std::vector<py::array>& upstream, double temperature, double scale, std::vector<double> param,
         int64_t ignore_index, bool wide) {
  Arguments arguments;
  kd::RowLossArgs args = {};
  args.shape = shape_of(student);
  args.student = view_of(student);
  arguments.in(student, "student");
  if (teacher) {
    args.teacher = view_of(*teacher);
    args.teacher_classes = teacher->shape(teacher->ndim() - 1);
    arguments.in(teacher, "teacher");
  }
  if (grad) args.grad = view_of(*grad);
  arguments.out(grad, "grad");
  args.compute = wide ? kd::DType::kFloat64 : kd::DType::kFloat32;
  args.index = static_cast<const int64_t*>(arguments.in(index, "index"));
  if (index && args.shape.rows > 0) args.indices = index->size() / args.shape.rows;
  args.ignore_index = ignore_index;
  args.sparse = arguments.in(sparse, "sparse");
  args.class_weight = arguments.in(class_weight, "class_weight");
  args.mask = arguments.in(mask, "mask");
  for (std::size_t o = 0; o < values.size(); ++o) {
    args.row_value[o] = arguments.out(values[o], "value");
    args.row_weight[o] = arguments.out(weights[o], "weight");
  }
  const double one[2] = {1, 0};
  const float one_single[2] = {1, 0};
  const py::array norm =
      wide ? py::array(py::array_t<double>(1, one)) : py::array(py::array_t<float>(1, one_single));
  for (std::size_t o = 0; o < upstream.size(); ++o) {
    args.upstream[o] = arguments.in(upstream[o], "upstream");
    args.upstream_stride[o] = upstream[o].size() == 1 && args.shape.rows != 1 ? 0 : 1;
    args.norm[o] = norm.data();
  }
  arguments.in(norm, "norm");
  args.state =
      upstream.empty() ? arguments.out(state, "state") : const_cast<void*>(arguments.in(state, "state"));
  args.temperature = temperature;
  args.scale = scale;
  for (std::size_t i = 0; i < param.size(); ++i) args.param[i] = param[i];
  args.grad_factor = 1;
  kernels().at(name)(args, !upstream.empty(), nullptr);
}

void bind(py::module_& m) {
  m.def("row_loss", &run, "name"_a, "student"_a, py::kw_only(), "teacher"_a = py::none(),
        "index"_a = py::none(), "sparse"_a = py::none(), "class_weight"_a = py::none(), "mask"_a = py::none(),
        "grad"_a = py::none(), "state"_a = py::none(), "values"_a = std::vector<py::array>(),
        "weights"_a = std::vector<py::array>(), "upstream"_a = std::vector<py::array>(),
        "temperature"_a = 1.0, "scale"_a = 1.0, "param"_a = std::vector<double>(),
        "ignore_index"_a = INT64_MIN, "wide"_a);
}

const Binding binding(bind);

}  // namespace
