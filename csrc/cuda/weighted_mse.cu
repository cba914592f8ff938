// Squared errors under weights on the GPU. A warp takes 32 neighbours of the dimension that lies side by side
// and walks the other one, so that loads are whole lines whatever the layout; sums over the walk stay in a
// register, sums across the warp are taken by shuffles. A block does one block of positions; sums over blocks
// are joined by `finish` in the order of the blocks.
#include "../weighted_mse.h"
#include "maps.cuh"

namespace kd {
namespace {

constexpr int kThreads = 256, kFinishThreads = 512;

template <class A>
KD_DEVICE A weight_at(const void* data, int64_t at, A otherwise) {
  return data != nullptr ? static_cast<const A*>(data)[at] : otherwise;
}

// The error at one place, and its gradient if it is wanted.
template <class A>
struct Errors {
  const WeightedMseArgs& args;
  const A u, w;
  int64_t b;

  KD_DEVICE A square(int64_t p, int64_t c, A a, A v, A by_channel) const {
    A d = number_at<A>(args.teacher, b, p, c) - number_at<A>(args.student, b, p, c);
    const bool finite = d - d == A(0);
    if (a * v + by_channel == A(0) && !finite) d = A(0);
    if (args.grad.data != nullptr) put_number(args.grad, b, p, c, A(-2) * (u * a * v + w * by_channel) * d);
    return d * d;
  }
};

// Walk: lanes hold channels (kTokens) or positions.
template <class A, bool kTokens>
__global__ void __launch_bounds__(kThreads) weighted_mse(WeightedMseArgs args) {
  const A u = weight_at(args.position_upstream, 0, A(1)), w = weight_at(args.channel_upstream, 0, A(1));
  if (args.unless_equal && u == w) return;
  const int64_t channels = args.shape.channels, positions = args.shape.positions;
  const int64_t b = blockIdx.x / args.blocks, first = blockIdx.x % args.blocks * args.block;
  const int64_t last = first + args.block < positions ? first + args.block : positions;
  const Errors<A> errors = {args, u, w, b};
  A* part = static_cast<A*>(args.channel_part);
  if (part != nullptr) part += blockIdx.x * channels;
  const int lane = threadIdx.x % kWarpThreads, warp = threadIdx.x / kWarpThreads;
  constexpr int kWarps = kThreads / kWarpThreads;

  if constexpr (kTokens) {
    // First g, a thread a channel, walking positions; it also makes the gradient.
    for (int64_t c = threadIdx.x; c < channels; c += kThreads) {
      const A v = weight_at(args.gain, b * channels + c, A(1)),
              by_channel = weight_at(args.channel, b * channels + c, A(0));
      A sum = A(0);
      for (int64_t p = first; p < last; ++p)
        sum += errors.square(p, c, weight_at(args.position, b * positions + p, A(0)), v, by_channel);
      if (part != nullptr) part[c] = sum;
    }
    if (args.position_error == nullptr) return;
    WeightedMseArgs plain = args;
    plain.grad.data = nullptr;
    const Errors<A> quiet = {plain, u, w, b};
    for (int64_t p = first + warp; p < last; p += kWarps) {
      const A a = weight_at(args.position, b * positions + p, A(0));
      A sum = A(0);
      for (int64_t c = lane; c < channels; c += kWarpThreads) {
        const A v = weight_at(args.gain, b * channels + c, A(1));
        sum += v * quiet.square(p, c, a, v, weight_at(args.channel, b * channels + c, A(0)));
      }
      sum = sum_of_warp(sum);
      if (lane == 0) static_cast<A*>(args.position_error)[b * positions + p] = sum;
    }
  } else {
    // A thread keeps kThreads-strided positions of the block; g of a channel is summed over the block.
    constexpr int kHeld = 8;  // block = kThreads * kHeld
    Team<A> team(blockDim.x);
    A e[kHeld], a[kHeld];
    for (int i = 0; i < kHeld; ++i) {
      const int64_t p = first + i * kThreads + threadIdx.x;
      e[i] = A(0);
      a[i] = p < last ? weight_at(args.position, b * positions + p, A(0)) : A(0);
    }
    for (int64_t c = 0; c < channels; ++c) {
      const A v = weight_at(args.gain, b * channels + c, A(1)),
              by_channel = weight_at(args.channel, b * channels + c, A(0));
      A sum = A(0);
      for (int i = 0; i < kHeld; ++i) {
        const int64_t p = first + i * kThreads + threadIdx.x;
        if (p >= last) break;
        const A square = errors.square(p, c, a[i], v, by_channel);
        e[i] += v * square;
        sum += square;
      }
      if (part == nullptr) continue;
      A over_block[1] = {sum};
      team.sum(over_block);
      if (threadIdx.x == 0) part[c] = over_block[0];
    }
    for (int i = 0; i < kHeld && args.position_error != nullptr; ++i) {
      const int64_t p = first + i * kThreads + threadIdx.x;
      if (p < last) static_cast<A*>(args.position_error)[b * positions + p] = e[i];
    }
  }
}

// g from its parts, a thread a channel of a sample.
template <class A>
__global__ void __launch_bounds__(kThreads) join_channels(WeightedMseArgs args) {
  const int64_t channels = args.shape.channels,
                at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (at >= args.shape.batch * channels) return;
  const A* part =
      static_cast<const A*>(args.channel_part) + at / channels * args.blocks * channels + at % channels;
  double sum = 0;
  for (int64_t k = 0; k < args.blocks; ++k) sum += part[k * channels];
  static_cast<A*>(args.channel_error)[at] = static_cast<A>(sum);
}

template <class A>
KD_DEVICE double weighted_sum(Team<double>& team, const void* weight, const void* error, int64_t n) {
  double sum[1] = {0};
  for (int64_t i = threadIdx.x; weight != nullptr && i < n; i += blockDim.x) {
    const A a = static_cast<const A*>(weight)[i];
    if (a != A(0)) sum[0] += static_cast<double>(a) * static_cast<const A*>(error)[i];
  }
  team.sum(sum);
  return sum[0];
}

template <class A>
__global__ void __launch_bounds__(kFinishThreads) weigh_errors(WeightedMseArgs args) {
  Team<double> team(blockDim.x);
  const int64_t batch = args.shape.batch;
  const double by_position =
      weighted_sum<A>(team, args.position, args.position_error, batch * args.shape.positions);
  const double by_channel =
      weighted_sum<A>(team, args.channel, args.channel_error, batch * args.shape.channels);
  if (threadIdx.x != 0) return;
  *static_cast<A*>(args.value_position) = static_cast<A>(by_position);
  *static_cast<A*>(args.value_channel) = static_cast<A>(by_channel);
}

template <class A>
void run_weighted_mse(const WeightedMseArgs& args, cudaStream_t stream) {
  const LaunchShape shape = {static_cast<unsigned>(args.shape.batch * args.blocks), kThreads};
  if (args.block == kThreads * 8) return launch(weighted_mse<A, false>, shape, stream, args);
  launch(weighted_mse<A, true>, shape, stream, args);
}

template <class A>
void run_finish(const WeightedMseArgs& args, cudaStream_t stream) {
  const int64_t numbers = args.channel != nullptr ? args.shape.batch * args.shape.channels : 0;
  if (numbers > 0)
    launch(join_channels<A>, {static_cast<unsigned>((numbers + kThreads - 1) / kThreads), kThreads}, stream,
           args);
  launch(weigh_errors<A>, {1, kFinishThreads}, stream, args);
}

}  // namespace
}  // namespace kd

extern "C" void kd_weighted_mse_cuda(const kd::WeightedMseArgs& args, int, void* stream) {
  const auto on = static_cast<cudaStream_t>(stream);
  if (args.compute == kd::DType::kFloat64) return kd::run_weighted_mse<double>(args, on);
  kd::run_weighted_mse<float>(args, on);
}

extern "C" void kd_weighted_mse_finish_cuda(const kd::WeightedMseArgs& args, void* stream) {
  const auto on = static_cast<cudaStream_t>(stream);
  if (args.compute == kd::DType::kFloat64) return kd::run_finish<double>(args, on);
  kd::run_finish<float>(args, on);
}
