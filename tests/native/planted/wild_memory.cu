// Planted bugs in addresses: a misaligned vector load, a write to an input, a read past shared memory, shared
// memory read before it is written, and two blocks that write one place.
#include "sample.h"

namespace {

__global__ void misaligned_load(SampleArgs a) {
  const float4 v = *reinterpret_cast<const float4*>(a.x + 1);
  a.y[0] = v.x + v.y + v.z + v.w;
}

__global__ void written_input(SampleArgs a) { const_cast<float*>(a.x)[threadIdx.x] = 0; }

__global__ void past_shared(SampleArgs a) {
  KD_SHARED(float, part, 32);
  part[threadIdx.x] = a.x[threadIdx.x];
  __syncwarp();
  a.y[threadIdx.x] = part[threadIdx.x + 1];
}

__global__ void unset_shared(SampleArgs a) {
  KD_SHARED(float, part, 64);
  part[threadIdx.x] = a.x[threadIdx.x];
  __syncwarp();
  a.y[threadIdx.x] = part[threadIdx.x] + part[threadIdx.x + 32];
}

__global__ void race_of_blocks(SampleArgs a) {
  if (threadIdx.x == 0) a.y[0] = a.x[blockIdx.x];
}

const Sample run_misaligned_load("misaligned_load", [](const SampleArgs& a) {
  kd::launch(misaligned_load, {1, 1}, nullptr, a);
});
const Sample run_written_input("written_input",
                               [](const SampleArgs& a) { kd::launch(written_input, {1, 32}, nullptr, a); });
const Sample run_past_shared("past_shared",
                             [](const SampleArgs& a) { kd::launch(past_shared, {1, 32}, nullptr, a); });
const Sample run_unset_shared("unset_shared",
                              [](const SampleArgs& a) { kd::launch(unset_shared, {1, 32}, nullptr, a); });
const Sample run_race_of_blocks("race_of_blocks",
                                [](const SampleArgs& a) { kd::launch(race_of_blocks, {2, 32}, nullptr, a); });

}  // namespace
