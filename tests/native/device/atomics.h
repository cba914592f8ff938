// Integer atomics. Float atomics are left out: results must not depend on the order of threads.
#pragma once

#include <algorithm>
#include <concepts>

#include "../engine/engine.h"

namespace emulated {

// One fiber runs at a time, so a plain read and write is atomic. The attribute keeps the compiler's hooks
// out: the engine is told of one atomic access instead.
template <class T, class Update>
__attribute__((no_sanitize_thread, noinline)) T atomic_update(T* address, Update update) {
  on_access(address, sizeof(T), true, true, __builtin_return_address(0));
  const T old = *address;
  *address = update(old);
  return old;
}

template <class T>
concept AtomicInteger = std::integral<T> && (sizeof(T) == 4 || sizeof(T) == 8);

}  // namespace emulated

template <emulated::AtomicInteger T>
T atomicAdd(T* address, std::type_identity_t<T> value) {
  return emulated::atomic_update(address, [value](T old) { return static_cast<T>(old + value); });
}
template <emulated::AtomicInteger T>
T atomicMax(T* address, std::type_identity_t<T> value) {
  return emulated::atomic_update(address, [value](T old) { return std::max(old, value); });
}
template <emulated::AtomicInteger T>
T atomicMin(T* address, std::type_identity_t<T> value) {
  return emulated::atomic_update(address, [value](T old) { return std::min(old, value); });
}
template <emulated::AtomicInteger T>
T atomicAnd(T* address, std::type_identity_t<T> value) {
  return emulated::atomic_update(address, [value](T old) { return static_cast<T>(old & value); });
}
template <emulated::AtomicInteger T>
T atomicOr(T* address, std::type_identity_t<T> value) {
  return emulated::atomic_update(address, [value](T old) { return static_cast<T>(old | value); });
}
template <emulated::AtomicInteger T>
T atomicExch(T* address, std::type_identity_t<T> value) {
  return emulated::atomic_update(address, [value](T) { return value; });
}
template <emulated::AtomicInteger T>
T atomicCAS(T* address, std::type_identity_t<T> expected, std::type_identity_t<T> value) {
  return emulated::atomic_update(address, [=](T old) { return old == expected ? value : old; });
}
inline void __threadfence() {}
inline void __threadfence_block() {}
