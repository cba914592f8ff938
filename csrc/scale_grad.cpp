#include "scale_grad.h"

#include "common/op.h"

KD_DECLARE_KERNELS(scale_grad, ScaleGradArgs)

namespace kd {

static void scale_grad_(Tensor grad, const Tensor& factor) {
  if (grad.numel() == 0) return;
  if (!is_dense(grad)) throw std::invalid_argument("scale_grad_: grad must fill its memory without gaps");
  const ScaleGradArgs args = {grad.data_ptr(), dtype_of(grad), grad.numel(), factor.data_ptr(),
                              dtype_of(factor)};
  launch(KD_KERNELS(scale_grad), args, Pass::kForward, 4096, grad);
}

}  // namespace kd

KD_SCHEMA(m) { m.def("scale_grad_(Tensor(a!) grad, Tensor factor) -> ()"); }
KD_IMPLEMENTATION(m) { m.impl("scale_grad_", TORCH_BOX(&kd::scale_grad_)); }
