// x where its mask's number is at or above a threshold, else 0. The number is the first word of Philox
// 4x32-10 (Salmon et al., SC 2011): counter (index, offset), key seed; so forward, backward and every backend
// draw the same mask, and none is ever in memory.
#pragma once

#include "common/platform.h"

namespace kd {

// A map as [batch, outer, inner], inner the dimension that lies closer together; the mask is drawn for every
// number of one of the two.
struct RandomMaskArgs {
  int64_t batch, outer, inner;
  bool by_inner;  // the mask belongs to inner positions; else to outer ones
  const void* x;
  void* out;
  int bytes;  // of a number: what is kept is moved as it is
  int64_t x_stride[3], out_stride[3];
  const int64_t* state;  // [2] seed, offset
  int64_t threshold;     // 0 ... 2^32
};

namespace {

KD_FN uint32_t philox_word(uint64_t index, uint64_t seed, uint64_t offset) {
  uint32_t a = static_cast<uint32_t>(index), b = static_cast<uint32_t>(index >> 32),
           c = static_cast<uint32_t>(offset), d = static_cast<uint32_t>(offset >> 32),
           low = static_cast<uint32_t>(seed), high = static_cast<uint32_t>(seed >> 32);
  for (int turn = 0; turn < 10; ++turn) {
    const uint64_t first = uint64_t{0xD2511F53} * a, second = uint64_t{0xCD9E8D57} * c;
    a = static_cast<uint32_t>(second >> 32) ^ b ^ low;
    b = static_cast<uint32_t>(second);
    c = static_cast<uint32_t>(first >> 32) ^ d ^ high;
    d = static_cast<uint32_t>(first);
    low += 0x9E3779B9u, high += 0xBB67AE85u;
  }
  return a;
}

// Whether number i of a sample's mask, of `count`, is kept.
KD_FN bool is_kept(const RandomMaskArgs& args, int64_t b, int64_t i) {
  const int64_t count = args.by_inner ? args.inner : args.outer;
  const uint32_t word =
      philox_word(static_cast<uint64_t>(b * count + i), static_cast<uint64_t>(args.state[0]),
                  static_cast<uint64_t>(args.state[1]));
  return static_cast<int64_t>(word) >= args.threshold;
}

}  // namespace
}  // namespace kd
