// The CPU kernels of one op at one instruction level, and how the op finds the level this process uses.
#pragma once

#include "platform.h"

// KD_LEVEL is baseline, avx2 or avx512 in the files of csrc/cpu, which are compiled once for each.
#define KD_JOIN_(a, b, c) a##b##_##c
#define KD_JOIN(a, b, c) KD_JOIN_(a, b, c)

namespace kd {

// What a level exports for an op with arguments Args: work is cut into `items(args)` pieces, any of which may
// run on any thread; `forward` and `backward` do the pieces [begin, end).
template <class Args>
struct Kernels {
  int64_t (*items)(const Args&);
  void (*forward)(const Args&, int64_t begin, int64_t end);
  void (*backward)(const Args&, int64_t begin, int64_t end);
};

enum class Level { kBaseline = 0, kAvx2 = 1, kAvx512 = 2 };

// The level in use: the best this processor has, or what KDFAST_CPU_LEVEL asked for when the library was
// loaded.
Level level();

}  // namespace kd
