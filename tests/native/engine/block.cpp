// Scheduler and block-wide barriers.
#include "block.h"

#include <algorithm>
#include <cstdlib>
#include <memory>

#include "memory.h"

namespace emulated {

Index3 thread_index, block_index, block_dim, grid_dim;  // what kernels read as threadIdx, blockIdx, ...

namespace {

Block* block = nullptr;
std::vector<std::unique_ptr<Fiber>> all_fibers;
std::vector<Fiber*> free_fibers;

Fiber* take_fiber() {
  if (free_fibers.empty()) {
    all_fibers.push_back(std::make_unique<Fiber>());
    free_fibers.push_back(all_fibers.back().get());
  }
  Fiber* fiber = free_fibers.back();
  free_fibers.pop_back();
  return fiber;
}

void thread_body() {
  block->launch.body(block->launch.parameters);
  block->running->state = State::kReturned;
}

std::vector<Thread> make_threads(Index3 dim) {
  std::vector<Thread> threads(static_cast<std::size_t>(dim.x) * dim.y * dim.z);
  for (std::size_t t = 0; t < threads.size(); ++t) {
    const auto number = static_cast<unsigned>(t);
    threads[t].number = static_cast<int>(number);
    threads[t].index = {number % dim.x, number / dim.x % dim.y, number / (dim.x * dim.y)};
  }
  return threads;
}

}  // namespace

Block* current_block() { return block; }

bool on_device() { return block != nullptr && block->running != nullptr && !InEngine::now(); }

void fail(const std::string& what) {
  const InEngine inside;
  if (block == nullptr) throw Error(what);
  block->fail(what);
}

int barrier(Barrier kind, int predicate, Site site) {
  const InEngine inside;
  return static_cast<int>(block->meet_at_barrier(kind, predicate != 0, site));
}

std::uint64_t collective(Collective what, unsigned mask, std::uint64_t value, unsigned argument, int width,
                         Site site) {
  const InEngine inside;
  return block->meet_in_warp(what, mask, value, argument, width, site);
}

Block::Block(const Launch& launch_, std::uint32_t serial_)
    : launch(launch_), serial(serial_), threads(make_threads(launch_.block)) {
  block = this;
}

Block::~Block() {
  for (Thread& thread : threads) {
    if (thread.fiber != nullptr) free_fibers.push_back(thread.fiber);  // an error abandoned it
  }
  block = nullptr;
}

template <class Visit>
void Block::for_each_thread(Visit visit) {
  if (settings().order == Order::kReversed) {
    std::for_each(threads.rbegin(), threads.rend(), visit);
  } else {
    std::for_each(threads.begin(), threads.end(), visit);
  }
}

void Block::run(Index3 at) {
  index = block_index = at;
  start();
  while (alive_ > 0) {
    if (ready_.empty()) stuck();
    if (settings().order == Order::kShuffled) std::swap(ready_.front(), ready_[random_() % ready_.size()]);
    Thread& thread = threads[ready_.front()];
    ready_.pop_front();
    step(thread);
    if (!failure_.empty()) throw Error(failure_);
  }
  ++counters().blocks;
  counters().threads += static_cast<std::int64_t>(threads.size());
}

void Block::start() {
  const Index3 grid = launch.grid;
  name = serial + (index.z * grid.y + index.y) * grid.x + index.x;
  phase = 1;
  random_.seed(settings().seed * 1000003 + name - serial);
  memory_of_new_block(launch.dynamic_shared_bytes);
  alive_ = static_cast<int>(threads.size());
  at_barrier_ = 0;
  ready_.clear();
  for_each_thread([this](Thread& thread) {
    thread.clock.fill(0);
    thread.clock[thread.lane()] = 1;
    release(thread);
  });
}

void Block::step(Thread& thread) {
  if (thread.fiber == nullptr) {
    thread.fiber = take_fiber();
    thread.fiber->reset(&thread_body);
  }
  running = &thread;
  thread_index = thread.index;
  thread.state = State::kRunning;
  InEngine::leave();
  thread.fiber->resume();
  running = nullptr;
  if (thread.state != State::kReturned) return;
  free_fibers.push_back(thread.fiber);
  thread.fiber = nullptr;
  --alive_;
  excuse(thread);
}

void Block::release(Thread& thread) {
  thread.state = State::kReady;
  ready_.push_back(thread.number);
}

void Block::fail(const std::string& what) {
  if (failure_.empty()) failure_ = where(*this, running) + ": " + what;
  if (running == nullptr) throw Error(failure_);
  running->fiber->suspend();  // for good: run() throws
  std::abort();
}

std::uint64_t Block::meet_at_barrier(Barrier kind, bool predicate, Site site) {
  Thread& self = *running;
  self.barrier = kind;
  self.predicate = predicate;
  self.site = site;
  self.state = State::kAtBarrier;
  if (++at_barrier_ == static_cast<int>(threads.size())) finish_barrier();
  self.fiber->suspend();
  return self.result;
}

void Block::finish_barrier() {
  const Thread& first = threads.front();
  int count = 0;
  for (const Thread& thread : threads) {
    if (thread.barrier != first.barrier || !(thread.site == first.site)) {
      fail("threads of one block meet in different barriers: " + describe_all(threads));
    }
    count += thread.predicate;
  }
  const int total = static_cast<int>(threads.size());
  for_each_thread([&](Thread& thread) {
    switch (thread.barrier) {
      case Barrier::kPlain:
        break;
      case Barrier::kCount:
        thread.result = static_cast<std::uint64_t>(count);
        break;
      case Barrier::kAnd:
        thread.result = count == total;
        break;
      case Barrier::kOr:
        thread.result = count > 0;
        break;
    }
    release(thread);
  });
  at_barrier_ = 0;
  ++phase;
  ++counters().barriers;
}

void Block::stuck() const {
  throw Error(where(*this, nullptr) + ": the block cannot go on: " + describe_all(threads));
}

std::uint64_t Block::meet_in_warp(Collective what, unsigned mask, std::uint64_t value, unsigned argument,
                                  int width, Site site) {
  Thread& self = *running;
  self.collective = what;
  self.mask = mask;
  self.value = value;
  self.argument = argument;
  self.width = width;
  self.site = site;
  self.state = State::kAtCollective;
  if ((mask >> self.lane() & 1u) == 0) fail(describe(self) + ", but the mask leaves out its own lane");
  finish_collective(self);
  self.fiber->suspend();
  return self.result;
}

std::vector<Thread*> Block::warp_of(const Thread& thread) {
  std::vector<Thread*> lanes;
  const std::size_t first = static_cast<std::size_t>(thread.warp()) * kWarp;
  const std::size_t last = std::min(first + kWarp, threads.size());
  for (std::size_t t = first; t < last; ++t) lanes.push_back(&threads[t]);
  return lanes;
}

// Lanes that have returned, or that the block does not have, are excused, as the CUDA guide says.
bool Block::finish_collective(const Thread& member) {
  std::vector<Thread*> present;
  for (Thread* lane : warp_of(member)) {
    if ((member.mask >> lane->lane() & 1u) == 0 || lane->state == State::kReturned) continue;
    if (lane->state != State::kAtCollective) return false;
    present.push_back(lane);
  }
  const std::string wrong = execute(present);
  if (!wrong.empty()) fail(wrong);
  ++counters().collectives;
  if (settings().order == Order::kReversed) std::reverse(present.begin(), present.end());
  for (Thread* lane : present) release(*lane);
  return true;
}

void Block::excuse(const Thread& gone) {
  for (Thread* lane : warp_of(gone)) {
    if (lane->state == State::kAtCollective && (lane->mask >> gone.lane() & 1u) != 0)
      finish_collective(*lane);
  }
}

}  // namespace emulated
