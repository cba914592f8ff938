// Where a CUDA thread may read and write: its own stack, the block's shared memory, the arrays given to the
// kernel, the kernel's parameters, and constants of the program. Everything else is an error here, as it is
// on a device.
#include "memory.h"

#include <link.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "block.h"
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace emulated {
namespace {

struct Region {
  const char* begin = nullptr;
  std::size_t bytes = 0;
  bool writable = false;
  std::string name;

  bool holds(const char* address, std::size_t size) const {
    return begin <= address && address + size <= begin + bytes;
  }
};

struct StaticSlot {
  const void* key = nullptr;
  Region region;
};

// Static slots from the front, dynamic memory from the middle; gaps between them catch what runs over.
constexpr std::size_t kArenaBytes = 512 << 10;
constexpr std::size_t kDynamicStart = 256 << 10;
constexpr std::size_t kGap = 256;

char* arena = nullptr;
std::vector<StaticSlot> slots;
std::size_t static_end = 0;    // with gaps
std::size_t static_bytes = 0;  // without
Region dynamic;
Region parameters;
std::vector<Region> arrays;

void poison(char* begin, std::size_t bytes) {
#if defined(__SANITIZE_ADDRESS__)
  __asan_poison_memory_region(begin, bytes);
#else
  (void)begin, (void)bytes;
#endif
}

void open(const Region& region) {
  auto* begin = const_cast<char*>(region.begin);
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(begin, region.bytes);
#endif
  std::memset(begin, 0xFF, region.bytes);
}

void make_arena() {
  void* mapping = mmap(nullptr, kArenaBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping == MAP_FAILED) throw std::bad_alloc();
  arena = static_cast<char*>(mapping);
}

// The loaded segments of the shared library that the kernels are compiled into.
struct Program {
  const char* begin = nullptr;
  const char* end = nullptr;
};

int visit_library(dl_phdr_info* info, std::size_t, void* result) {
  Program program{reinterpret_cast<const char*>(~std::uintptr_t{0}), nullptr};
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const auto& segment = info->dlpi_phdr[i];
    if (segment.p_type != PT_LOAD) continue;
    const char* begin = reinterpret_cast<const char*>(info->dlpi_addr + segment.p_vaddr);
    program.begin = std::min(program.begin, begin);
    program.end = std::max(program.end, begin + segment.p_memsz);
  }
  const char* self = reinterpret_cast<const char*>(&slots);
  if (self < program.begin || self >= program.end) return 0;
  *static_cast<Program*>(result) = program;
  return 1;
}

// Constants, and threadIdx with its relatives, lie there.
bool in_program(const char* address) {
  static const Program program = [] {
    Program found;
    dl_iterate_phdr(visit_library, &found);
    return found;
  }();
  return program.begin <= address && address < program.end;
}

const Region* find_region(const char* address, std::size_t bytes) {
  for (const StaticSlot& slot : slots) {
    if (slot.region.holds(address, bytes)) return &slot.region;
  }
  if (dynamic.holds(address, bytes)) return &dynamic;
  const auto array =
      std::find_if(arrays.begin(), arrays.end(), [&](const Region& r) { return r.holds(address, bytes); });
  return array == arrays.end() ? nullptr : &*array;
}

bool in_arena(const char* address) { return arena <= address && address < arena + kArenaBytes; }

// "at byte 132 of 'part', which has 128": the nearest array within a megabyte.
std::string relation_to_nearest(const char* address) {
  std::vector<const Region*> known{&dynamic};
  for (const StaticSlot& slot : slots) known.push_back(&slot.region);
  for (const Region& array : arrays) known.push_back(&array);
  std::string text = "outside every array of the kernel";
  std::ptrdiff_t best = 1 << 20;
  for (const Region* region : known) {
    const std::ptrdiff_t offset = address - region->begin, size = static_cast<std::ptrdiff_t>(region->bytes);
    const std::ptrdiff_t distance = offset < 0 ? -offset : offset - size;
    if (region->begin == nullptr || distance >= best) continue;
    best = distance;
    text =
        "at byte " + std::to_string(offset) + " of '" + region->name + "', which has " + std::to_string(size);
  }
  return text;
}

std::string doing(bool write, std::size_t bytes, const void* pc) {
  return (write ? "writes " : "reads ") + std::to_string(bytes) + " bytes (" + line_at(pc) + ") ";
}

}  // namespace

void memory_of_new_launch(const void* parameter_begin, std::size_t parameter_bytes) {
  if (arena == nullptr) make_arena();
  slots.clear();
  static_end = static_bytes = 0;
  dynamic = {};
  poison(arena, kArenaBytes);
  parameters = {static_cast<const char*>(parameter_begin), parameter_bytes, false, "parameters"};
  forget_accesses();
}

void memory_of_new_block(std::size_t dynamic_bytes) {
  for (const StaticSlot& slot : slots) open(slot.region);
  dynamic = {arena + kDynamicStart, dynamic_bytes, true, "dynamic shared memory"};
  open(dynamic);
}

void* static_shared(const void* key, std::size_t bytes, std::size_t alignment, const char* name) {
  const InEngine inside;
  for (const StaticSlot& slot : slots) {
    if (slot.key == key) return const_cast<char*>(slot.region.begin);
  }
  static_bytes += bytes;
  if (static_bytes > kStaticSharedLimit) {
    fail("static shared memory of " + std::to_string(static_bytes) + " bytes, more than 48 KiB");
  }
  alignment = std::max<std::size_t>(alignment, 16);
  const std::size_t begin = (static_end + kGap + alignment - 1) / alignment * alignment;
  static_end = begin + bytes;
  slots.push_back({key, {arena + begin, bytes, true, name}});
  open(slots.back().region);
  return arena + begin;
}

void* dynamic_shared() { return arena + kDynamicStart; }

void DeviceArrays::add(const void* begin, std::size_t bytes, bool writable, const std::string& name) {
  arrays.push_back({static_cast<const char*>(begin), bytes, writable, name});
  ++count_;
}

DeviceArrays::~DeviceArrays() { arrays.resize(arrays.size() - count_); }

void on_access(const void* pointer, std::size_t bytes, bool write, bool atomic, const void* pc) {
  if (!on_device() || current_block()->running->fiber->owns(pointer)) return;
  const InEngine inside;
  ++counters().accesses;
  const auto* address = static_cast<const char*>(pointer);
  const Region* region = find_region(address, bytes);
  if (region == nullptr) {
    if (!write && (parameters.holds(address, bytes) || (!in_arena(address) && in_program(address)))) return;
    fail(doing(write, bytes, pc) + relation_to_nearest(address));
  }
  if (write && !region->writable)
    fail(doing(true, bytes, pc) + "in '" + region->name + "', which is read-only");
  if (!settings().check_races || !region->writable) return;
  const bool shared = in_arena(address);
  for (std::size_t i = 0; i < bytes; ++i) {
    const std::size_t offset = address + i - region->begin;
    check_race({address + i, shared, write, atomic, pc, region->name.c_str(), offset});
  }
}

}  // namespace emulated
