// The sample kernels of ../planted by name: module.run_sample(name, x, y, rows=, cols=, stride=).
#include "../planted/sample.h"
#include "bind.h"

std::map<std::string, Sample::Run>& Sample::all() {
  static std::map<std::string, Run> samples;
  return samples;
}

namespace {

void run_sample(const std::string& name, const py::array& x, const py::array& y, int64_t rows, int64_t cols,
                int64_t stride) {
  Arguments arguments;
  Sample::all().at(name)({static_cast<const float*>(arguments.in(x, "x")),
                          static_cast<float*>(arguments.out(y, "y")), rows, cols, stride});
}

void bind(py::module_& m) {
  m.def("run_sample", &run_sample, "name"_a, "x"_a, "y"_a, py::kw_only(), "rows"_a, "cols"_a, "stride"_a);
}

const Binding binding(bind);

}  // namespace
