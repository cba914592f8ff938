// The part of CUDA's language and runtime that csrc/cuda uses, for a host compiler: found before the
// toolkit's header of this name when kernels are compiled for the emulated device. What is missing here does
// not compile, on purpose.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "../engine/engine.h"
#include "vector_types.h"

#define __global__
#define __device__
#define __host__
#define __constant__ const
#define __forceinline__ inline
#define __launch_bounds__(...)

namespace emulated {
extern Index3 thread_index, block_index, block_dim, grid_dim;
}
inline const uint3& threadIdx = emulated::thread_index;
inline const uint3& blockIdx = emulated::block_index;
inline const dim3& blockDim = emulated::block_dim;
inline const dim3& gridDim = emulated::grid_dim;
inline constexpr int warpSize = 32;

#include "atomics.h"
#include "intrinsics.h"
#include "runtime_api.h"
#include "warp.h"
