#include "../rpn_distill.h"

#include "pairs.h"

namespace kd {
namespace {

template <class A>
using RpnDistillKernel = PairKernel<RpnDistill, A>;

}  // namespace
}  // namespace kd

KD_CPU_KERNELS(rpn_distill, PairArgs, RpnDistillKernel)
