// Shared memory, the arrays kernels may touch, and who last touched each byte. Private to the engine.
#pragma once

#include <cstddef>
#include <cstdint>

#include "engine.h"

namespace emulated {

constexpr std::size_t kStaticSharedLimit = 48 << 10;    // bytes; nvcc refuses more
constexpr std::size_t kDynamicSharedLimit = 227 << 10;  // sm_90, static and dynamic together, after opting in
constexpr std::size_t kDynamicSharedDefault = 48 << 10;

// Forgets the shared memory layout of the last kernel, and who touched global memory: launches are ordered.
void memory_of_new_launch(const void* parameters, std::size_t parameter_bytes);
// Fills shared memory with 0xFF: NaN in every float type, -1 in every integer.
void memory_of_new_block(std::size_t dynamic_bytes);

// race.cpp: notes an access of the running thread to one byte, and fails if it races with an earlier one.
// `name` and `offset` are for the message.
struct ByteAccess {
  const void* address;
  bool shared, write, atomic;
  const void* pc;
  const char* name;
  std::size_t offset;
};
void check_race(const ByteAccess& access);
void forget_accesses();

}  // namespace emulated
