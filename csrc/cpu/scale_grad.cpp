#include "../scale_grad.h"

#include "../common/convert.h"
#include "../common/level.h"

namespace kd {
namespace {

constexpr int64_t kChunk = 4096;

double factor_of(const ScaleGradArgs& args) {
  return args.factor_dtype == DType::kFloat64 ? *static_cast<const double*>(args.factor)
                                              : *static_cast<const float*>(args.factor);
}

int64_t items(const ScaleGradArgs& args) { return factor_of(args) == 1 ? 0 : (args.n + kChunk - 1) / kChunk; }

template <class A, class T>
void scale(T* grad, int64_t n, A factor) {
  for (int64_t i = 0; i < n; ++i) narrow(static_cast<A>(widen(grad[i])) * factor, grad + i);
}

void forward(const ScaleGradArgs& args, int64_t begin, int64_t end) {
  const double factor = factor_of(args);
  const int64_t first = begin * kChunk, last = end * kChunk < args.n ? end * kChunk : args.n,
                n = last - first;
  const float single = static_cast<float>(factor);
  switch (args.dtype) {
    case DType::kFloat32:
      return scale(static_cast<float*>(args.grad) + first, n, single);
    case DType::kFloat64:
      return scale(static_cast<double*>(args.grad) + first, n, factor);
    case DType::kFloat16:
      return scale(static_cast<Half*>(args.grad) + first, n, single);
    case DType::kBFloat16:
      return scale(static_cast<BFloat*>(args.grad) + first, n, single);
  }
}

}  // namespace
}  // namespace kd

extern "C" const kd::Kernels<kd::ScaleGradArgs> KD_JOIN(kd_, scale_grad, KD_LEVEL);
const kd::Kernels<kd::ScaleGradArgs> KD_JOIN(kd_, scale_grad, KD_LEVEL) = {kd::items, kd::forward, nullptr};
