// Words for error messages.
#include <dlfcn.h>

#include <cstddef>
#include <cstdio>
#include <cstring>
#include <map>

#include "block.h"

namespace emulated {
namespace {

const char* name_of(Barrier barrier) {
  static const char* const names[] = {"__syncthreads", "__syncthreads_count", "__syncthreads_and",
                                      "__syncthreads_or"};
  return names[static_cast<int>(barrier)];
}

const char* name_of(Collective collective) {
  static const char* const names[] = {
      "__syncwarp",        "__shfl_sync",       "__shfl_up_sync",    "__shfl_down_sync",
      "__shfl_xor_sync",   "__ballot_sync",     "__all_sync",        "__any_sync",
      "__reduce_add_sync", "__reduce_min_sync", "__reduce_max_sync", "__reduce_min_sync",
      "__reduce_max_sync", "__reduce_and_sync", "__reduce_or_sync",  "__reduce_xor_sync"};
  return names[static_cast<int>(collective)];
}

// "0-31, 40"
std::string ranges(const std::vector<int>& numbers) {
  std::string text;
  for (std::size_t i = 0; i < numbers.size();) {
    std::size_t j = i;
    while (j + 1 < numbers.size() && numbers[j + 1] == numbers[j] + 1) ++j;
    if (!text.empty()) text += ", ";
    text += std::to_string(numbers[i]);
    if (j > i) text += "-" + std::to_string(numbers[j]);
    i = j + 1;
  }
  return text;
}

}  // namespace

bool Site::operator==(const Site& other) const {
  return line == other.line && std::strcmp(file, other.file) == 0;
}

std::string Site::text() const {
  const char* slash = std::strrchr(file, '/');
  return std::string(slash == nullptr ? file : slash + 1) + ":" + std::to_string(line);
}

std::string to_text(Index3 index) {
  return "(" + std::to_string(index.x) + "," + std::to_string(index.y) + "," + std::to_string(index.z) + ")";
}

std::string where(const Block& block, const Thread* thread) {
  std::string text = "kernel " + function_at(block.launch.kernel) + ", block " + to_text(block.index);
  if (thread != nullptr) text += ", thread " + to_text(thread->index);
  return text;
}

std::string describe(const Thread& thread) {
  char mask[24];
  switch (thread.state) {
    case State::kAtBarrier:
      return std::string("waits at ") + name_of(thread.barrier) + " (" + thread.site.text() + ")";
    case State::kAtCollective:
      std::snprintf(mask, sizeof mask, "mask 0x%08x", thread.mask);
      return std::string("calls ") + name_of(thread.collective) + " (" + thread.site.text() + ", " + mask +
             ")";
    case State::kReturned:
      return "has returned";
    default:
      return "runs";
  }
}

std::string describe_all(const std::vector<Thread>& threads) {
  std::map<std::string, std::vector<int>> groups;
  for (const Thread& thread : threads) groups[describe(thread)].push_back(thread.number);
  std::string text;
  for (const auto& [what, numbers] : groups) {
    if (!text.empty()) text += "; ";
    text += (numbers.size() == 1 ? "thread " : "each of threads ") + ranges(numbers) + " " + what;
  }
  return text;
}

namespace {

// What `addr2line options` prints for an address of this library, or "".
std::string ask_addr2line(const char* options, const void* address, std::ptrdiff_t shift) {
  Dl_info info{};
  if (address == nullptr || dladdr(address, &info) == 0 || info.dli_fname == nullptr) return "";
  const auto offset = static_cast<const char*>(address) - static_cast<const char*>(info.dli_fbase) + shift;
  char command[4200];
  std::snprintf(command, sizeof command, "addr2line %s -e '%s' 0x%zx 2>/dev/null", options, info.dli_fname,
                static_cast<std::size_t>(offset));
  FILE* pipe = popen(command, "r");
  if (pipe == nullptr) return "";
  char line[1024] = "";
  const bool read = std::fgets(line, sizeof line, pipe) != nullptr;
  pclose(pipe);
  line[std::strcspn(line, "\n")] = '\0';
  return read && line[0] != '?' ? line : "";
}

}  // namespace

std::string line_at(const void* pc) {
  const std::string line = ask_addr2line("-s", pc, -1);  // a return address: the call is just before it
  return line.empty() ? "an unknown line" : line.substr(0, line.find(' '));
}

std::string function_at(const void* address) {
  std::string name = ask_addr2line("-f -C", address, 0);
  const std::string noise = "(anonymous namespace)::";
  for (std::size_t at; (at = name.find(noise)) != std::string::npos;) name.erase(at, noise.size());
  if (name.rfind("void ", 0) == 0) name.erase(0, 5);
  name = name.substr(0, name.find('('));
  return name.empty() ? "without a name" : name;
}

}  // namespace emulated
