#include "scale_grad.h"

#include <algorithm>

#include "common/op.h"

KD_DECLARE_KERNELS(scale_grad, ScaleGradArgs)

namespace kd {

// Whether x fills its memory without gaps or overlaps, so that it may be walked as one run of numbers.
static bool is_dense(const Tensor& x) {
  std::vector<std::pair<int64_t, int64_t>> dims;  // stride, size
  for (int64_t d = 0; d < x.dim(); ++d)
    if (x.size(d) != 1) dims.emplace_back(x.stride(d), x.size(d));
  std::sort(dims.begin(), dims.end());
  int64_t expected = 1;
  for (const auto& [stride, size] : dims) {
    if (stride != expected) return false;
    expected *= size;
  }
  return true;
}

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
