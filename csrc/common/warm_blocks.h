// Large CPU outputs live in blocks that are kept for the next step when a tensor lets go of them.
//
// A fresh megabyte costs more than the arithmetic that fills it: the kernel clears every page at its first
// touch (131 MB of gradient: 15-40 ms), and looks for huge pages while it does, now and then for 100 ms. The
// same step asks for the same sizes again and again, so a few blocks serve for all of training.
#pragma once

#include <cstdint>

namespace kd {

constexpr int64_t kSmallestWarm = 256 << 10;  // malloc keeps smaller ones warm by itself

// A block of at least `bytes`, contents undefined; nullptr for less than kSmallestWarm, where there is none
// to be had, or if the limit is 0.
void* take_block(int64_t bytes);

// Keeps the block, unless more than the limit (KDFAST_CPU_CACHE_MB, 512) would then lie idle: the longest
// idle go first.
void give_block(void* block, int64_t bytes);

void ask_for_huge_pages(void* data, int64_t bytes);

}  // namespace kd
