// The emulated device: what the shim headers in ../device call, and what tests set and read.
//
// A launch runs its blocks one after another; inside a block every CUDA thread is a fiber that runs until it
// waits at a barrier or a warp collective, or returns. Which ready thread runs next is `Settings::order`.
// Anything a real device would answer with wrong numbers, a hang or a fault ends the launch with an Error
// that names the kernel, the block, the threads and the source lines.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <source_location>
#include <stdexcept>
#include <string>
#include <vector>

namespace emulated {

struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Index3 {
  unsigned x = 1, y = 1, z = 1;
};

enum class Order { kInOrder, kReversed, kShuffled };

struct Settings {
  Order order = Order::kInOrder;  // of the threads inside a block, and of the blocks
  std::uint64_t seed = 0;         // of the shuffled order
  bool check_races = true;        // needs the instrumented build (see hooks.cpp)
  int multiprocessors = 3;        // few, so that grid-stride loops take more than one step
};
Settings& settings();

struct Counters {  // since the last reset, for tests that ask whether a kernel really ran
  std::int64_t launches = 0, blocks = 0, threads = 0, barriers = 0, collectives = 0, accesses = 0;
};
Counters& counters();

// A place in a kernel's source, for messages. Shim functions take it as a defaulted last argument.
struct Site {
  const char* file = "";
  unsigned line = 0;
  static Site here(std::source_location at = std::source_location::current()) {
    return {at.file_name(), at.line()};
  }
  std::string text() const;
  bool operator==(const Site& other) const;
};

// Runs body(parameters) once per CUDA thread; `parameters` [bytes] is the only host memory that the kernel
// may read apart from the arrays given by DeviceArrays.
struct Launch {
  const void* kernel;  // its address: names the kernel in messages and in kernels_run()
  Index3 grid, block;
  std::size_t dynamic_shared_bytes = 0;
  const void* parameters = nullptr;
  std::size_t parameter_bytes = 0;
  void (*body)(const void* parameters) = nullptr;
};
void run(const Launch& launch);
// The kernels that have run to their end, and the threads of the largest block of each.
std::map<std::string, unsigned> kernels_run();

// Ends the launch with an Error; called on the running CUDA thread. Does not return.
[[noreturn]] void fail(const std::string& what);

// True while a CUDA thread runs (false in host code, also in host code inside run()).
bool on_device();

// ---- block-wide
// -----------------------------------------------------------------------------------------------------
enum class Barrier { kPlain, kCount, kAnd, kOr };
int barrier(Barrier kind, int predicate, Site site);  // __syncthreads and its three relatives

// Shared memory of the running block. `key` names the declaration; every thread of a block gets the same
// address.
void* static_shared(const void* key, std::size_t bytes, std::size_t alignment, const char* name);
void* dynamic_shared();

// ---- warp-wide
// ------------------------------------------------------------------------------------------------------
enum class Collective {
  kSync,
  kShuffle,
  kShuffleUp,
  kShuffleDown,
  kShuffleXor,
  kBallot,
  kAll,
  kAny,
  kAdd,
  kMinSigned,
  kMaxSigned,
  kMinUnsigned,
  kMaxUnsigned,
  kAnd,
  kOr,
  kXor,
};
// value: the calling lane's contribution, in the low bytes. argument: source lane, delta or lane mask of a
// shuffle.
std::uint64_t collective(Collective what, unsigned mask, std::uint64_t value, unsigned argument, int width,
                         Site site);

// ---- memory
// ---------------------------------------------------------------------------------------------------------
// Arrays that kernels may touch while this object lives: [begin, begin + bytes), written only where
// `writable`.
class DeviceArrays {
 public:
  DeviceArrays() = default;
  DeviceArrays(const DeviceArrays&) = delete;
  DeviceArrays& operator=(const DeviceArrays&) = delete;
  ~DeviceArrays();
  void add(const void* begin, std::size_t bytes, bool writable, const std::string& name);

 private:
  int count_ = 0;
};
// Every access of a CUDA thread comes by here: from hooks.cpp, and from the atomics, which say so.
void on_access(const void* address, std::size_t bytes, bool write, bool atomic, const void* pc);

}  // namespace emulated
