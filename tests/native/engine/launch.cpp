// A launch: the checks a real driver makes, then every block in turn.
#include <algorithm>
#include <map>
#include <numeric>
#include <random>
#include <vector>

#include "block.h"
#include "memory.h"

namespace emulated {

extern Index3 block_dim, grid_dim;

Settings& settings() {
  static Settings instance;
  return instance;
}

Counters& counters() {
  static Counters instance;
  return instance;
}

namespace {

std::uint32_t next_serial = 1;
std::map<const void*, unsigned> finished;  // kernels, and their largest blocks

void check_configuration(const Launch& launch) {
  const Index3 g = launch.grid, b = launch.block;
  const auto refuse = [&](const std::string& why) {
    throw Error("kernel " + function_at(launch.kernel) + ", grid " + to_text(g) + ", block " + to_text(b) +
                ": " + why);
  };
  if (current_block() != nullptr) refuse("launched from inside a kernel");
  if (g.x == 0 || g.y == 0 || g.z == 0) refuse("an empty grid is an invalid configuration");
  if (g.x > 0x7fffffffu || g.y > 65535 || g.z > 65535)
    refuse("the grid is larger than (2^31-1, 65535, 65535)");
  if (b.x == 0 || b.y == 0 || b.z == 0) refuse("an empty block is an invalid configuration");
  if (b.z > 64 || std::uint64_t{b.x} * b.y * b.z > 1024) refuse("the block has more than 1024 threads");
  if (launch.dynamic_shared_bytes > kDynamicSharedLimit)
    refuse("more dynamic shared memory than a device has");
}

// The blocks' numbers in the order in which they run.
std::vector<std::uint64_t> block_order(std::uint64_t count) {
  std::vector<std::uint64_t> order(count);
  std::iota(order.begin(), order.end(), 0);
  if (settings().order == Order::kReversed) return {order.rbegin(), order.rend()};
  if (settings().order == Order::kShuffled) {
    std::shuffle(order.begin(), order.end(), std::mt19937_64(settings().seed));
  }
  return order;
}

}  // namespace

void run(const Launch& launch) {
  check_configuration(launch);
  memory_of_new_launch(launch.parameters, launch.parameter_bytes);
  block_dim = launch.block;
  grid_dim = launch.grid;
  const Index3 g = launch.grid;
  const std::uint64_t count = std::uint64_t{g.x} * g.y * g.z;
  Block block(launch, next_serial);
  next_serial += static_cast<std::uint32_t>(count);
  for (const std::uint64_t number : block_order(count)) {
    block.run({static_cast<unsigned>(number % g.x), static_cast<unsigned>(number / g.x % g.y),
               static_cast<unsigned>(number / g.x / g.y)});
  }
  ++counters().launches;
  const Index3 b = launch.block;
  unsigned& most = finished[launch.kernel];
  most = std::max(most, b.x * b.y * b.z);
}

std::map<std::string, unsigned> kernels_run() {
  std::map<std::string, unsigned> threads;
  for (const auto& [kernel, most] : finished) {
    unsigned& known = threads[function_at(kernel)];
    known = std::max(known, most);
  }
  return threads;
}

}  // namespace emulated
