// Fibers: many call stacks on one host thread, switched by hand. One fiber is one CUDA thread of the emulated
// device.
//
// A fiber runs until it suspends or returns; the scheduler (the host stack) then resumes another. Stacks have
// a guard page below them and are reused; AddressSanitizer is told about every switch, so its reports name
// the right frame.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

namespace emulated {

class Fiber {
 public:
  Fiber();
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // Makes the fiber ready to call body() from the top of its stack, whatever it was doing before.
  void reset(void (*body)());
  // Host stack -> fiber. Returns when the fiber suspends or its body returns.
  void resume();
  // Fiber -> host stack, called on the running fiber. Returns at the next resume().
  void suspend();

  bool owns(const void* address) const {
    return address >= static_cast<const void*>(stack_) &&
           address < static_cast<const void*>(stack_ + kStackBytes);
  }

 private:
#if defined(__SANITIZE_ADDRESS__)
  static constexpr std::size_t kStackBytes = 512 << 10;  // red zones make frames several times larger
#else
  static constexpr std::size_t kStackBytes = 128 << 10;
#endif
  static void enter();

  char* mapping_ = nullptr;  // guard page, then the stack
  char* stack_ = nullptr;
  struct Context;
  std::unique_ptr<Context> context_;
  void (*body_)() = nullptr;
};

}  // namespace emulated
