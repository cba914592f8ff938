#include "warm_blocks.h"

#include <stdlib.h>
#include <sys/mman.h>

#include <atomic>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

#include "op.h"

namespace kd {

namespace {

constexpr int64_t kHugePage = 2 << 20;

struct Block {
  void* data;
  int64_t bytes;
};

struct Idle {
  std::mutex mutex;  // only ever tried: a thread, or a forked child, that cannot have it goes without
  std::vector<Block> blocks;  // the longest idle first
  int64_t bytes = 0;
};

// Never destroyed: tensors outlive static objects.
Idle& idle() {
  static Idle* const all = new Idle;
  return *all;
}

int64_t read_limit() {
  const char* asked = getenv("KDFAST_CPU_CACHE_MB");
  if (asked == nullptr || *asked == '\0') return 512 << 20;
  char* end = nullptr;
  const long long megabytes = strtoll(asked, &end, 10);
  if (*end != '\0' || megabytes < 0 || megabytes > (1 << 30))
    throw std::runtime_error("KDFAST_CPU_CACHE_MB must be a whole number of megabytes, 0 or more, got " +
                             std::string(asked));
  return static_cast<int64_t>(megabytes) << 20;
}

// Bytes that may lie idle.
std::atomic<int64_t>& limit() {
  static std::atomic<int64_t> bytes{read_limit()};
  return bytes;
}

// Requests of nearly one size share blocks.
int64_t rounded(int64_t bytes) {
  const int64_t unit = bytes < 2 * kHugePage ? 64 << 10 : kHugePage;
  return (bytes + unit - 1) / unit * unit;
}

void release_down_to(Idle& all, int64_t most) {
  size_t gone = 0;
  for (; all.bytes > most; ++gone) {
    all.bytes -= all.blocks[gone].bytes;
    free(all.blocks[gone].data);
  }
  all.blocks.erase(all.blocks.begin(), all.blocks.begin() + static_cast<std::ptrdiff_t>(gone));
}

void* take_idle(int64_t bytes) {
  Idle& all = idle();
  const std::unique_lock<std::mutex> lock(all.mutex, std::try_to_lock);
  if (!lock) return nullptr;
  for (size_t i = all.blocks.size(); i-- > 0;) {  // the warmest first
    const Block block = all.blocks[i];
    if (block.bytes != bytes) continue;
    all.blocks.erase(all.blocks.begin() + static_cast<std::ptrdiff_t>(i));
    all.bytes -= bytes;
    return block.data;
  }
  return nullptr;
}

}  // namespace

// Huge pages make the first touch cheaper, where Linux has them; worth asking from 4 MB on.
void ask_for_huge_pages(void* data, int64_t bytes) {
  if (bytes < 2 * kHugePage) return;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + kHugePage - 1) & ~uintptr_t{kHugePage - 1};
  const uintptr_t end =
      (reinterpret_cast<uintptr_t>(data) + static_cast<uintptr_t>(bytes)) & ~uintptr_t{kHugePage - 1};
  if (end > begin) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
}

void* take_block(int64_t bytes) {
  if (bytes < kSmallestWarm || limit() == 0) return nullptr;
  const int64_t size = rounded(bytes);
  if (void* block = take_idle(size)) return block;
  const int64_t alignment = size < 2 * kHugePage ? 4096 : kHugePage;
  void* block = aligned_alloc(static_cast<size_t>(alignment), static_cast<size_t>(size));
  if (block != nullptr) ask_for_huge_pages(block, size);
  return block;
}

void give_block(void* block, int64_t bytes) {
  Idle& all = idle();
  const std::unique_lock<std::mutex> lock(all.mutex, std::try_to_lock);
  const int64_t size = rounded(bytes);
  if (!lock || size > limit()) return free(block);
  all.blocks.push_back({block, size});
  all.bytes += size;
  release_down_to(all, limit());
}

static int64_t cached_bytes() {
  Idle& all = idle();
  const std::lock_guard<std::mutex> lock(all.mutex);
  return all.bytes;
}

// The limit before.
static int64_t set_cache_limit(int64_t bytes) {
  const int64_t before = limit().exchange(bytes);
  Idle& all = idle();
  const std::lock_guard<std::mutex> lock(all.mutex);
  release_down_to(all, bytes);
  return before;
}

static void empty_cache() {
  Idle& all = idle();
  const std::lock_guard<std::mutex> lock(all.mutex);
  release_down_to(all, 0);
}

}  // namespace kd

KD_SCHEMA(m) {
  m.def("cached_bytes() -> int");
  m.def("set_cache_limit(int bytes) -> int");
  m.def("empty_cache() -> ()");
}
STABLE_TORCH_LIBRARY_IMPL(kdfast, CompositeExplicitAutograd, m) {
  m.impl("cached_bytes", TORCH_BOX(&kd::cached_bytes));
  m.impl("set_cache_limit", TORCH_BOX(&kd::set_cache_limit));
  m.impl("empty_cache", TORCH_BOX(&kd::empty_cache));
}
