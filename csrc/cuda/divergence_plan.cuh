// How the rows of a divergence are laid over the device: the size of a team, of a block, of the grid, and how
// much of a row is kept in shared memory between the passes.
#pragma once

#include "../common/divergence.h"
#include "launch.cuh"

namespace kd {
namespace {

struct DivergenceLaunch {
  DivergenceArgs args;
  int team;          // threads that share a row: 1, 2, 4, ... 32 or the whole block
  int cached_steps;  // steps of a row that are kept in shared memory
};

struct DivergencePlan {
  LaunchShape shape;
  DivergenceLaunch launch;
};

// Of a block. Doubles take twice the registers.
template <class A>
constexpr int max_threads() {
  return sizeof(A) == 8 ? 512 : 1024;
}

// Whether every tensor has one dtype and its classes side by side, and the rows of all lie equally far from a
// multiple of 16 bytes, so that one pack of classes is one aligned load in each.
inline bool packs_fit(const DivergenceArgs& args) {
  const RowView& first = args.student;
  const int64_t bytes = first.dtype == DType::kFloat64 ? 8 : first.dtype == DType::kFloat32 ? 4 : 2;
  const RowView* views[] = {&args.student, &args.teacher, &args.grad};
  for (const RowView* view : views) {
    if (view->data == nullptr) continue;
    if (view->dtype != first.dtype || view->class_stride != 1) return false;
    if ((reinterpret_cast<uintptr_t>(view->data) - reinterpret_cast<uintptr_t>(first.data)) % 16 != 0)
      return false;
    for (int d = 0; d < args.shape.dims; ++d) {
      if (args.shape.size[d] > 1 && (view->row_stride[d] - first.row_stride[d]) * bytes % 16 != 0)
        return false;
    }
  }
  return true;
}

inline int64_t next_power_of_two(int64_t n) {
  int64_t power = 1;
  while (power < n) power *= 2;
  return power;
}

// Neighbouring rows lie closer together than neighbouring classes (images with dim=1): one thread a row reads
// them best.
inline bool rows_are_neighbours(const DivergenceArgs& args) {
  const int64_t row_stride = args.student.row_stride[args.shape.dims - 1];
  return args.student.class_stride != 1 && row_stride < args.student.class_stride &&
         args.shape.size[args.shape.dims - 1] > 1;
}

// Threads of a team: a thread gets one step of classes if a warp or less suffices, four steps if it takes a
// block.
template <class L>
int team_size(const DivergenceArgs& args) {
  constexpr int64_t kStepsOfBlock = 4, kSmallestBlock = 64;
  if (rows_are_neighbours(args)) return 1;
  const int64_t chunks = (args.shape.classes + L::kElements - 1) / L::kElements;
  if (chunks <= kStepsOfBlock * kWarpThreads) {
    const int64_t lanes = next_power_of_two(chunks);
    return static_cast<int>(lanes < kWarpThreads ? lanes : kWarpThreads);
  }
  const int64_t threads = next_power_of_two((chunks + kStepsOfBlock - 1) / kStepsOfBlock);
  const int64_t most = max_threads<typename L::Number>();
  return static_cast<int>(threads < kSmallestBlock ? kSmallestBlock : threads < most ? threads : most);
}

template <class L>
DivergencePlan plan_rows(const DivergenceArgs& args, bool backward) {
  constexpr int kThreadsOfSmallTeams = 256, kBlocksPerProcessor = 64;
  DivergencePlan plan = {{}, {args, team_size<L>(args), 0}};
  const int64_t team = plan.launch.team, threads = team > kWarpThreads ? team : kThreadsOfSmallTeams;
  const int64_t teams = threads / team, wanted = (args.shape.rows + teams - 1) / teams;
  const int64_t most =
      static_cast<int64_t>(device_attribute(cudaDevAttrMultiProcessorCount)) * kBlocksPerProcessor;
  plan.shape.threads = static_cast<unsigned>(threads);
  plan.shape.blocks = static_cast<unsigned>(wanted < most ? wanted : most);
  if (backward) return plan;  // reads a row once
  // A multiprocessor runs about max_threads() of these threads at a time; each block gets its share of the
  // memory.
  const int64_t memory = device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin) - 2048;
  const int64_t budget = memory * threads / max_threads<typename L::Number>();
  const int64_t step_bytes = 2 * L::kPacks * static_cast<int64_t>(sizeof(typename L::Raw)) * threads;
  const int64_t span = team * L::kElements,
                steps = (args.shape.classes + 2 * span - 2) / span;  // one more if misaligned
  // The last step stays in registers.
  const int64_t kept = steps - 1 < budget / step_bytes ? steps - 1 : budget / step_bytes;
  plan.launch.cached_steps = static_cast<int>(kept);
  plan.shape.shared_bytes = static_cast<size_t>(kept * step_bytes);
  return plan;
}

}  // namespace
}  // namespace kd
