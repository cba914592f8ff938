#include "../soft_bce.h"

#include "pairs.h"

namespace kd {
namespace {

template <class A>
using SoftBceKernel = PairKernel<SoftBce, A>;

}  // namespace
}  // namespace kd

KD_CPU_KERNELS(soft_bce, PairArgs, SoftBceKernel)
