// The kernels of a divergence: teams of threads walk the rows (divergence_row.cuh), laid over the device as
// divergence_plan.cuh says.
#pragma once

#include "divergence_row.cuh"

namespace kd {
namespace {

template <template <class> class Formula, class L, bool backward>
__global__ void __launch_bounds__(max_threads<typename L::Number>()) divergence_rows(DivergenceLaunch p) {
  using A = typename L::Number;
  KD_SHARED_DYNAMIC(typename L::Raw, cache);
  Team<A> team(p.team);
  cache += static_cast<int64_t>(team.number_in_block()) * p.cached_steps * 2 * L::kPacks * team.size();
  for (int64_t row = team.first_row(); row < p.args.shape.rows; row += team.row_step()) {
    RowOfTeam<Formula<A>, L> work(p, team, cache, row);
    if constexpr (backward)
      work.backward();
    else
      work.forward();
  }
}

template <template <class> class Formula, class L>
void run_with(const DivergenceArgs& args, bool backward, cudaStream_t stream) {
  const DivergencePlan plan = plan_rows<L>(args, backward);
  if (backward)
    launch(divergence_rows<Formula, L, true>, plan.shape, stream, plan.launch);
  else
    launch(divergence_rows<Formula, L, false>, plan.shape, stream, plan.launch);
}

template <template <class> class Formula>
void run_divergence(const DivergenceArgs& args, bool backward, cudaStream_t stream) {
  const bool wide = args.compute == DType::kFloat64;
  if (args.shape.rows == 0) return;
  if (!packs_fit(args)) {
    if (wide) return run_with<Formula, StridedLayout<double>>(args, backward, stream);
    return run_with<Formula, StridedLayout<float>>(args, backward, stream);
  }
  switch (args.student.dtype) {
    case DType::kFloat32:
      return run_with<Formula, PackedLayout<float, float>>(args, backward, stream);
    case DType::kFloat64:
      return run_with<Formula, PackedLayout<double, double>>(args, backward, stream);
    case DType::kFloat16:
      return run_with<Formula, PackedLayout<__half, float>>(args, backward, stream);
    case DType::kBFloat16:
      return run_with<Formula, PackedLayout<__nv_bfloat16, float>>(args, backward, stream);
  }
}

}  // namespace
}  // namespace kd

#define KD_CUDA_DIVERGENCE(name, Formula)                                                        \
  extern "C" void kd_##name##_cuda(const kd::DivergenceArgs& args, int backward, void* stream) { \
    kd::run_divergence<kd::Formula>(args, backward != 0, static_cast<cudaStream_t>(stream));     \
  }
