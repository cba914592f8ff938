#include <sys/mman.h>

#include "op.h"

namespace kd {

// Worth it from 4 MB on; harmless where the kernel has huge pages off, or where the memory was touched
// before.
void advise_huge_pages(void* data, int64_t bytes) {
  constexpr uintptr_t kPage = 2 << 20;
  if (bytes < static_cast<int64_t>(2 * kPage)) return;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + kPage - 1) & ~(kPage - 1);
  const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + static_cast<uintptr_t>(bytes)) & ~(kPage - 1);
  if (end > begin) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
}

}  // namespace kd
