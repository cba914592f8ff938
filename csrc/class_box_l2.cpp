#include "class_box_l2.h"

#include "common/pairs_op.h"

KD_DECLARE_KERNELS(class_box_l2, PairArgs)

namespace kd {

// Four deltas a class, without those of class 0 (background); a value is the sum over four.
constexpr RowPairs kHow = {4, 4};

static std::tuple<Tensor, Tensor> class_box_l2(const Tensor& student, const Tensor& teacher, bool with_grad) {
  return row_pairs(KD_KERNELS(class_box_l2), student, teacher, kHow, with_grad);
}

static Tensor class_box_l2_backward(const Tensor& upstream, const Tensor& student, const Tensor& teacher) {
  return row_pairs_backward(KD_KERNELS(class_box_l2), upstream, student, teacher, kHow);
}

}  // namespace kd

KD_SCHEMA(m) {
  m.def("class_box_l2(Tensor student, Tensor teacher, bool with_grad) -> (Tensor, Tensor)");
  m.def("class_box_l2_backward(Tensor grad_value, Tensor student, Tensor teacher) -> Tensor");
}
KD_IMPLEMENTATION(m) {
  m.impl("class_box_l2", TORCH_BOX(&kd::class_box_l2));
  m.impl("class_box_l2_backward", TORCH_BOX(&kd::class_box_l2_backward));
}
