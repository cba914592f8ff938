#include "level.h"

#include <stdlib.h>
#include <string.h>

#include <stdexcept>
#include <string>

#include "op.h"

namespace kd {

namespace {

Level best_level() {
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl");
  return avx512 ? Level::kAvx512 : avx2 ? Level::kAvx2 : Level::kBaseline;
}

Level choose_level() {
  const Level best = best_level();
  const char* asked = getenv("KDFAST_CPU_LEVEL");
  if (asked == nullptr || *asked == '\0') return best;
  const char* names[] = {"baseline", "avx2", "avx512"};
  for (int i = 0; i < 3; ++i) {
    if (strcmp(asked, names[i]) != 0) continue;
    if (i <= static_cast<int>(best)) return static_cast<Level>(i);
    throw std::runtime_error(std::string("KDFAST_CPU_LEVEL is ") + asked +
                             ", but this processor goes up to " + names[static_cast<int>(best)]);
  }
  throw std::runtime_error(std::string("KDFAST_CPU_LEVEL must be baseline, avx2 or avx512, got ") + asked);
}

}  // namespace

// Chosen at the first use and not at load: an exception in a static initialiser would end the process.
Level level() {
  static const Level chosen = choose_level();
  return chosen;
}

static int64_t cpu_level() { return static_cast<int64_t>(level()); }

}  // namespace kd

KD_SCHEMA(m) { m.def("cpu_level() -> int"); }
STABLE_TORCH_LIBRARY_IMPL(kdfast, CompositeExplicitAutograd, m) {
  m.impl("cpu_level", TORCH_BOX(&kd::cpu_level));
}
