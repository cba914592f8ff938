// grad *= factor. Every block reads the factor first; if it is 1, nothing else is touched.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "../scale_grad.h"
#include "launch.cuh"

namespace kd {
namespace {

constexpr int kThreads = 256;
constexpr int kPerThread = 8;

template <class T, class A>
__global__ void __launch_bounds__(kThreads) scale_grad(ScaleGradArgs args) {
  const A factor = args.factor_dtype == DType::kFloat64
                       ? static_cast<A>(*static_cast<const double*>(args.factor))
                       : static_cast<A>(*static_cast<const float*>(args.factor));
  if (factor == A(1)) return;
  T* grad = static_cast<T*>(args.grad);
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kThreads * kPerThread + threadIdx.x;
  for (int i = 0; i < kPerThread; ++i) {
    const int64_t at = first + i * kThreads;
    if (at < args.n) grad[at] = static_cast<T>(static_cast<A>(grad[at]) * factor);
  }
}

}  // namespace
}  // namespace kd

extern "C" void kd_scale_grad_cuda(const kd::ScaleGradArgs& args, int, void* stream) {
  using namespace kd;
  const auto on = static_cast<cudaStream_t>(stream);
  const LaunchShape shape = {
      static_cast<unsigned>((args.n + kThreads * kPerThread - 1) / (kThreads * kPerThread)), kThreads};
  switch (args.dtype) {
    case DType::kFloat32:
      return launch(scale_grad<float, float>, shape, on, args);
    case DType::kFloat64:
      return launch(scale_grad<double, double>, shape, on, args);
    case DType::kFloat16:
      return launch(scale_grad<__half, float>, shape, on, args);
    case DType::kBFloat16:
      return launch(scale_grad<__nv_bfloat16, float>, shape, on, args);
  }
}
