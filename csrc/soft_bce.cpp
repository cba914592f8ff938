#include "soft_bce.h"

#include "common/pairs_op.h"

KD_DECLARE_KERNELS(soft_bce, PairArgs)

namespace kd {

// Every number of the teacher's classes is a pair; classes that only the student has get gradient 0.
constexpr RowPairs kHow = {0, 1};

static std::tuple<Tensor, Tensor> soft_bce(const Tensor& student, const Tensor& teacher, bool with_grad) {
  return row_pairs(KD_KERNELS(soft_bce), student, teacher, kHow, with_grad);
}

static Tensor soft_bce_backward(const Tensor& upstream, const Tensor& student, const Tensor& teacher) {
  return row_pairs_backward(KD_KERNELS(soft_bce), upstream, student, teacher, kHow);
}

}  // namespace kd

KD_SCHEMA(m) {
  m.def("soft_bce(Tensor student, Tensor teacher, bool with_grad) -> (Tensor, Tensor)");
  m.def("soft_bce_backward(Tensor grad_value, Tensor student, Tensor teacher) -> Tensor");
}
KD_IMPLEMENTATION(m) {
  m.impl("soft_bce", TORCH_BOX(&kd::soft_bce));
  m.impl("soft_bce_backward", TORCH_BOX(&kd::soft_bce_backward));
}
