// The stack switch itself. On x86-64 it is a dozen instructions (about 5 ns; swapcontext, which also saves
// the signal mask through a system call, takes about 300 ns and serves other processors).
#include "fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <new>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace emulated {
namespace {

constexpr std::size_t kGuardBytes = 4096;
Fiber* running = nullptr;  // the fiber that resume() is inside of

}  // namespace

#if defined(__x86_64__)

// Saves the callee-saved registers on the current stack, stores the stack pointer at *save, and continues on
// `load`.
extern "C" void kd_switch_stack(void** save, void* load);
asm(R"(
.text
.local kd_switch_stack
.type kd_switch_stack,@function
kd_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size kd_switch_stack,.-kd_switch_stack
)");

struct Fiber::Context {
  void* fiber = nullptr;  // stack pointers of the suspended sides
  void* host = nullptr;
  void* fake_stack = nullptr;  // AddressSanitizer's handles
  void* host_fake_stack = nullptr;
  const void* host_bottom = nullptr;
  std::size_t host_size = 0;

  void prepare(char* stack, std::size_t bytes, void (*entry)()) {
    auto** top = reinterpret_cast<void**>(stack + bytes);
    *--top =
        nullptr;  // entry()'s return address, which ends a debugger's backtrace; 8 below a multiple of 16
    *--top = reinterpret_cast<void*>(entry);
    for (int i = 0; i < 6; ++i) *--top = nullptr;  // the six registers that kd_switch_stack pops
    fiber = top;
  }
  void to_fiber() { kd_switch_stack(&host, fiber); }
  void to_host() { kd_switch_stack(&fiber, host); }
};

#else

struct Fiber::Context {
  ucontext_t fiber;
  ucontext_t host;
  void* fake_stack = nullptr;
  void* host_fake_stack = nullptr;
  const void* host_bottom = nullptr;
  std::size_t host_size = 0;

  void prepare(char* stack, std::size_t bytes, void (*entry)()) {
    getcontext(&fiber);
    fiber.uc_stack.ss_sp = stack;
    fiber.uc_stack.ss_size = bytes;
    fiber.uc_link = nullptr;
    makecontext(&fiber, entry, 0);
  }
  void to_fiber() { swapcontext(&host, &fiber); }
  void to_host() { swapcontext(&fiber, &host); }
};

#endif

Fiber::Fiber() : context_(std::make_unique<Context>()) {
  void* mapping = mmap(nullptr, kGuardBytes + kStackBytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping == MAP_FAILED) throw std::bad_alloc();
  mapping_ = static_cast<char*>(mapping);
  mprotect(mapping_, kGuardBytes, PROT_NONE);
  stack_ = mapping_ + kGuardBytes;
}

Fiber::~Fiber() { munmap(mapping_, kGuardBytes + kStackBytes); }

void Fiber::reset(void (*body)()) {
#if defined(__SANITIZE_ADDRESS__)
  // Frames that an abandoned fiber left behind (an error stopped its kernel) must not poison the next one's.
  __asan_unpoison_memory_region(stack_, kStackBytes);
  context_->fake_stack = nullptr;
#endif
  body_ = body;
  context_->prepare(stack_, kStackBytes, &Fiber::enter);
}

void Fiber::resume() {
  running = this;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&context_->host_fake_stack, stack_, kStackBytes);
#endif
  context_->to_fiber();
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(context_->host_fake_stack, nullptr, nullptr);
#endif
  running = nullptr;
}

void Fiber::suspend() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&context_->fake_stack, context_->host_bottom, context_->host_size);
#endif
  context_->to_host();
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(context_->fake_stack, &context_->host_bottom, &context_->host_size);
#endif
}

void Fiber::enter() {
  Fiber* self = running;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &self->context_->host_bottom, &self->context_->host_size);
#endif
  self->body_();
  self->suspend();  // the body has returned; the scheduler does not resume it again
  std::abort();
}

}  // namespace emulated
