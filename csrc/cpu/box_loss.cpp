#include "../box_loss.h"

#include "pairs.h"

namespace kd {
namespace {

template <class A>
using BoxLossKernel = PairKernel<BoxLoss, A>;

}  // namespace
}  // namespace kd

KD_CPU_KERNELS(box_loss, PairArgs, BoxLossKernel)
