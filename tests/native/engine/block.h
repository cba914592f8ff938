// The block that runs now: its threads, their states, and the scheduler. Private to the engine.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <random>
#include <string>
#include <vector>

#include "engine.h"
#include "fiber.h"

namespace emulated {

constexpr int kWarp = 32;

enum class State : std::uint8_t { kReady, kRunning, kAtBarrier, kAtCollective, kReturned };

struct Thread {
  int number = 0;  // x runs fastest, as in the numbering of warps
  Index3 index;
  State state = State::kReady;
  Fiber* fiber = nullptr;  // from the pool, from its first step until it returns
  // What it waits for:
  Site site;
  Barrier barrier{};
  bool predicate = false;
  Collective collective{};
  unsigned mask = 0;
  std::uint64_t value = 0;
  unsigned argument = 0;
  int width = kWarp;
  // and what it gets:
  std::uint64_t result = 0;
  // Vector clock over the lanes of its warp: clock[lane()] is its own time, clock[l] the last time of lane l
  // whose memory accesses it is sure to see. Block barriers order everything before them (Block::phase).
  std::array<std::uint32_t, kWarp> clock{};

  int lane() const { return number % kWarp; }
  int warp() const { return number / kWarp; }
};

class Block {
 public:
  Block(const Launch& launch, std::uint32_t serial);
  ~Block();
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;

  void run(Index3 index);

  // Called on the fiber of the running thread.
  std::uint64_t meet_at_barrier(Barrier kind, bool predicate, Site site);
  std::uint64_t meet_in_warp(Collective what, unsigned mask, std::uint64_t value, unsigned argument,
                             int width, Site site);
  [[noreturn]] void fail(const std::string& what);

  const Launch& launch;
  const std::uint32_t
      serial;              // the first block's; the race detector's name for a block is serial + its position
  std::uint32_t name = 0;  // of the running block, unique among all blocks ever run
  std::uint32_t phase = 0;  // counts the block's barriers
  Index3 index;
  std::vector<Thread> threads;
  Thread* running = nullptr;

 private:
  void start();
  void step(Thread& thread);
  void release(Thread& thread);
  void excuse(const Thread& returned);
  void finish_barrier();
  bool finish_collective(const Thread& member);  // false while a lane of its mask has not arrived
  std::vector<Thread*> warp_of(const Thread& thread);
  template <class Visit>
  void for_each_thread(Visit visit);  // in the direction of Settings::order
  [[noreturn]] void stuck() const;

  std::deque<int> ready_;  // numbers of the threads that can run
  int alive_ = 0;
  int at_barrier_ = 0;
  std::mt19937_64 random_;
  std::string failure_;
};

Block* current_block();  // nullptr outside run()

// Set while a CUDA thread is inside the engine. Kernels and engine share std's inline functions, and the
// linker may have kept the copies that were compiled with the hooks: what those report then is the engine's
// own business.
class InEngine {
 public:
  InEngine() { now_ = true; }
  ~InEngine() { now_ = false; }
  InEngine(const InEngine&) = delete;
  InEngine& operator=(const InEngine&) = delete;
  static bool now() { return now_; }
  static void leave() { now_ = false; }

 private:
  static inline bool now_ = false;
};

// warp.cpp: fills the results of lanes that have all arrived. Returns what is wrong, or "".
std::string execute(const std::vector<Thread*>& lanes);

// report.cpp
std::string to_text(Index3 index);
std::string where(const Block& block, const Thread* thread);  // "kernel k, block (0,0,0), thread (1,0,0)"
std::string describe(const Thread& thread);                   // "waits at __syncthreads (a.cu:12)"
std::string describe_all(const std::vector<Thread>& threads);
std::string line_at(const void* pc);           // "a.cu:12" where debug information says so
std::string function_at(const void* address);  // demangled, without parameters

}  // namespace emulated
