// Warp collectives: what every lane gets once all lanes of a mask have arrived, and what can be wrong with
// the call.
#include <algorithm>
#include <array>
#include <bit>

#include "block.h"

namespace emulated {
namespace {

bool is_shuffle(Collective what) { return Collective::kShuffle <= what && what <= Collective::kShuffleXor; }

// The lane that a shuffle reads; its own where CUDA defines the result as the lane's own value.
int source_of(const Thread& thread) {
  const int lane = thread.lane();
  const int first = lane & ~(thread.width - 1);
  const int last = first + thread.width - 1;
  const auto argument = static_cast<int>(thread.argument);
  int source = lane;
  switch (thread.collective) {
    case Collective::kShuffle:
      source = first | (argument & (thread.width - 1));
      break;
    case Collective::kShuffleUp:
      source = lane - argument < first ? lane : lane - argument;
      break;
    case Collective::kShuffleDown:
      source = lane + argument > last ? lane : lane + argument;
      break;
    case Collective::kShuffleXor:
      source = (lane ^ argument) > last ? lane : lane ^ argument;
      break;
    default:
      break;
  }
  return source;
}

std::string disagreement(const std::vector<Thread*>& lanes) {
  const Thread& first = *lanes.front();
  for (const Thread* lane : lanes) {
    const bool same_place = lane->site == first.site || first.collective == Collective::kSync;
    const bool same =
        lane->collective == first.collective && lane->mask == first.mask && lane->width == first.width;
    if (same && same_place) continue;
    return "lanes of one warp meet in different calls: lane " + std::to_string(first.lane()) + " " +
           describe(first) + ", lane " + std::to_string(lane->lane()) + " " + describe(*lane);
  }
  if (!std::has_single_bit(static_cast<unsigned>(first.width)) || first.width > kWarp) {
    return describe(first) + " with width " + std::to_string(first.width) +
           ", which is no power of two up to 32";
  }
  return "";
}

std::string shuffle(const std::vector<Thread*>& lanes) {
  std::array<const Thread*, kWarp> at{};
  for (const Thread* lane : lanes) at[lane->lane()] = lane;
  for (Thread* lane : lanes) {
    const int source = source_of(*lane);
    if (source < 0 || at[source] == nullptr) {
      return "lane " + std::to_string(lane->lane()) + " " + describe(*lane) + " and reads lane " +
             std::to_string(source) + ", which takes no part (outside the mask, or it has returned)";
    }
    lane->result = at[source]->value;
  }
  return "";
}

std::uint32_t combine(Collective what, std::uint32_t a, std::uint32_t b) {
  const auto sa = static_cast<std::int32_t>(a), sb = static_cast<std::int32_t>(b);
  switch (what) {
    case Collective::kAdd:
      return a + b;
    case Collective::kMinSigned:
      return sa < sb ? a : b;
    case Collective::kMaxSigned:
      return sa > sb ? a : b;
    case Collective::kMinUnsigned:
      return a < b ? a : b;
    case Collective::kMaxUnsigned:
      return a > b ? a : b;
    case Collective::kAnd:
      return a & b;
    case Collective::kOr:
      return a | b;
    default:
      return a ^ b;
  }
}

std::uint64_t vote_or_reduce(const std::vector<Thread*>& lanes) {
  const Collective what = lanes.front()->collective;
  std::uint32_t ballot = 0;
  auto folded = static_cast<std::uint32_t>(lanes.front()->value);
  for (std::size_t i = 0; i < lanes.size(); ++i) {
    const auto value = static_cast<std::uint32_t>(lanes[i]->value);
    if (value != 0) ballot |= 1u << lanes[i]->lane();
    if (i > 0) folded = combine(what, folded, value);
  }
  const bool all = std::popcount(ballot) == static_cast<int>(lanes.size());
  switch (what) {
    case Collective::kBallot:
      return ballot;
    case Collective::kAll:
      return all;
    case Collective::kAny:
      return ballot != 0;
    default:
      return folded;
  }
}

// __syncwarp orders memory: afterwards every lane sees what every other did before. Shuffles and votes do
// not.
void order_memory(const std::vector<Thread*>& lanes) {
  std::array<std::uint32_t, kWarp> joined{};
  for (const Thread* lane : lanes) {
    for (int l = 0; l < kWarp; ++l) joined[l] = std::max(joined[l], lane->clock[l]);
  }
  for (Thread* lane : lanes) {
    lane->clock = joined;
    ++lane->clock[lane->lane()];
  }
}

}  // namespace

std::string execute(const std::vector<Thread*>& lanes) {
  std::string wrong = disagreement(lanes);
  if (!wrong.empty()) return wrong;
  const Collective what = lanes.front()->collective;
  if (is_shuffle(what)) return shuffle(lanes);
  if (what == Collective::kSync) {
    order_memory(lanes);
    return "";
  }
  const std::uint64_t result = vote_or_reduce(lanes);
  for (Thread* lane : lanes) lane->result = result;
  return "";
}

}  // namespace emulated
