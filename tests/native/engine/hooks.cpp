// How the engine sees what a kernel does: kernels are compiled with -fsanitize=thread, which makes GCC call
// the __tsan functions before each load and store, and with parts of -fsanitize=undefined, which call the
// __ubsan functions where the behaviour is undefined; but they are linked with this file in place of the
// sanitizers' runtimes.
#include "block.h"

namespace {

using emulated::on_access;

// GCC calls a copy of 16 bytes aligned from 8 on (an array of two doubles, say); that wider types are aligned
// for what they are is seen by -fsanitize=alignment.
void aligned_access(const void* address, std::size_t bytes, bool write, const void* pc) {
  if (!emulated::on_device()) return;
  const std::size_t alignment = bytes < 8 ? bytes : 8;
  if (reinterpret_cast<std::uintptr_t>(address) % alignment != 0) {
    const emulated::InEngine inside;
    emulated::fail(std::to_string(bytes) + "-byte access to an address that is no multiple of it");
  }
  on_access(address, bytes, write, false, pc);
}

}  // namespace

#define KD_HOOK(bytes)                                                                               \
  void __tsan_read##bytes(void* p) { aligned_access(p, bytes, false, __builtin_return_address(0)); } \
  void __tsan_write##bytes(void* p) { aligned_access(p, bytes, true, __builtin_return_address(0)); } \
  void __tsan_unaligned_read##bytes(void* p) {                                                       \
    on_access(p, bytes, false, false, __builtin_return_address(0));                                  \
  }                                                                                                  \
  void __tsan_unaligned_write##bytes(void* p) {                                                      \
    on_access(p, bytes, true, false, __builtin_return_address(0));                                   \
  }

extern "C" {
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
KD_HOOK(1)
KD_HOOK(2)
KD_HOOK(4)
KD_HOOK(8)
KD_HOOK(16)
void __tsan_read_range(void* p, std::size_t bytes) {
  on_access(p, bytes, false, false, __builtin_return_address(0));
}
void __tsan_write_range(void* p, std::size_t bytes) {
  on_access(p, bytes, true, false, __builtin_return_address(0));
}

// Every __ubsan function gets a record that begins with the place in the source.
struct SourceLocation {
  const char* file;
  std::uint32_t line, column;
};
#define KD_UNDEFINED(function, what)                                                         \
  void __ubsan_handle_##function(const SourceLocation* at, std::uintptr_t, std::uintptr_t) { \
    if (!emulated::on_device()) return;                                                      \
    const emulated::InEngine inside;                                                         \
    emulated::fail(what " (" + emulated::Site{at->file, at->line}.text() + ")");             \
  }
KD_UNDEFINED(type_mismatch_v1, "dereferences a pointer that is not aligned for its type")
KD_UNDEFINED(add_overflow, "a signed addition overflows")
KD_UNDEFINED(sub_overflow, "a signed subtraction overflows")
KD_UNDEFINED(mul_overflow, "a signed multiplication overflows")
KD_UNDEFINED(negate_overflow, "a signed negation overflows")
KD_UNDEFINED(divrem_overflow, "an integer division by zero or overflow")
KD_UNDEFINED(shift_out_of_bounds, "a shift by more than the type's width")
KD_UNDEFINED(out_of_bounds, "an index outside its array")
KD_UNDEFINED(float_cast_overflow, "a floating point number that does not fit the integer it becomes")
}
