#include "../../../csrc/scale_grad.h"

#include "bind.h"

extern "C" void kd_scale_grad_cuda(const kd::ScaleGradArgs& args, int backward, void* stream);

namespace {

void scale_grad(const py::array& grad, const py::array& factor) {
  Arguments arguments;
  void* data = arguments.out(grad, "grad");
  kd_scale_grad_cuda({data, dtype_of(grad), grad.size(), arguments.in(factor, "factor"), dtype_of(factor)}, 0,
                     nullptr);
}

void bind(py::module_& m) {
  m.def("scale_grad", &scale_grad, "grad"_a, "factor"_a, "grad *= factor, in place");
}

const Binding binding(bind);

}  // namespace
