// The dense basis on the GPU: a thread for each sample and feature.
#include "../bspline_basis.h"
#include "kan.cuh"

namespace kd {
namespace {

constexpr int kThreads = 128;

template <int K, class A>
__global__ void __launch_bounds__(kThreads) basis(BasisArgs args) {
  const int64_t pair = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (pair >= args.samples * args.features) return;
  const int64_t bases = args.knots - K - 1;
  const A* grid = static_cast<const A*>(args.grid) + pair % args.features * args.knots;
  const A x = static_cast<const A*>(args.x)[pair];
  const Point<K, A> point =
      evaluate<K>(Knots<A>{grid, args.knots, args.extrapolation, K}, x, args.derivative);
  A* row = static_cast<A*>(args.out) + pair * bases;
  for (int64_t m = 0; m < bases; ++m) row[m] = x == x ? A(0) : x;
  if (x != x) return;
  KD_UNROLL
  for (int r = 0; r <= K; ++r) row[point.start + r] = point.value.value[r];
}

}  // namespace
}  // namespace kd

extern "C" void kd_bspline_basis_cuda(const kd::BasisArgs& args, int, void* stream) {
  using namespace kd;
  with_types(args.compute, args.degree, [&]<int K, class A>() {
    launch(basis<K, A>, {blocks_for(args.samples * args.features, kThreads), kThreads},
           static_cast<cudaStream_t>(stream), args);
  });
}
