#include "../class_box_l2.h"

#include "pairs.h"

namespace kd {
namespace {

template <class A>
using ClassBoxL2Kernel = PairKernel<ClassBoxL2, A>;

}  // namespace
}  // namespace kd

KD_CPU_KERNELS(class_box_l2, PairArgs, ClassBoxL2Kernel)
