// A happens-before race detector (FastTrack, Flanagan and Freund 2009, with the device's rules for what
// orders what).
//
// Two accesses to one byte, at least one of them a write and not both atomic, race unless something orders
// them:
//   the same thread; a block barrier between them; a chain of __syncwarp within one warp; another launch.
// Nothing orders two blocks of one launch. Per byte the last write and the last two unordered reads are kept,
// so a race is found on the path that runs, whatever the order in which threads happened to run.
#include <array>
#include <memory>
#include <string>
#include <unordered_map>

#include "block.h"
#include "memory.h"

namespace emulated {
namespace {

struct Event {
  std::uint32_t block = 0;  // 0: never
  std::uint32_t phase = 0;
  std::uint32_t clock = 0;
  std::uint16_t thread = 0;
  bool atomic = false;
  const void* pc = nullptr;
};

struct History {
  Event write;
  std::array<Event, 2> reads;
};

constexpr std::size_t kPageBytes = 256;
using Page = std::array<History, kPageBytes>;
std::unordered_map<std::uintptr_t, std::unique_ptr<Page>> pages;
std::uintptr_t last_key = 0;
Page* last_page = nullptr;

History& history_of(const void* address) {
  const auto at = reinterpret_cast<std::uintptr_t>(address);
  const std::uintptr_t key = at / kPageBytes;
  if (last_page == nullptr || key != last_key) {
    std::unique_ptr<Page>& page = pages[key];
    if (page == nullptr) page = std::make_unique<Page>();
    last_key = key;
    last_page = page.get();
  }
  return (*last_page)[at % kPageBytes];
}

bool ordered(const Event& before, const Block& block, bool shared) {
  if (before.block == 0) return true;
  if (before.block != block.name) return shared;  // another block's shared memory is other memory
  const Thread& now = *block.running;
  if (before.thread == now.number || before.phase < block.phase) return true;
  if (before.thread / kWarp != now.warp()) return false;
  return now.clock[before.thread % kWarp] >= before.clock;
}

void report(const Event& before, bool before_wrote, const ByteAccess& access, const Block& block) {
  const std::string who = before.block == block.name
                              ? "thread " + std::to_string(before.thread) + " of the block"
                              : "thread " + std::to_string(before.thread) + " of another block";
  fail("race on '" + std::string(access.name) + "', byte " + std::to_string(access.offset) +
       ": this thread " + (access.write ? "writes it (" : "reads it (") + line_at(access.pc) + "), " + who +
       (before_wrote ? " wrote it (" : " read it (") + line_at(before.pc) + "), and nothing orders the two");
}

}  // namespace

void forget_accesses() {
  pages.clear();
  last_page = nullptr;
}

void check_race(const ByteAccess& access) {
  const Block& block = *current_block();
  const Thread& thread = *block.running;
  History& history = history_of(access.address);
  const Event now{
      block.name,    block.phase, thread.clock[thread.lane()], static_cast<std::uint16_t>(thread.number),
      access.atomic, access.pc};
  if (!(access.atomic && history.write.atomic) && !ordered(history.write, block, access.shared)) {
    report(history.write, true, access, block);
  }
  if (!access.write) {
    auto& [latest, other] = history.reads;
    if (!ordered(latest, block, access.shared)) other = latest;
    latest = now;
    return;
  }
  for (const Event& read : history.reads) {
    if (!(access.atomic && read.atomic) && !ordered(read, block, access.shared))
      report(read, false, access, block);
  }
  history = {now, {}};
}

}  // namespace emulated
