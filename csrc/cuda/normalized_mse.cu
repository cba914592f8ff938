// Squared distance of normalised features on the GPU: a warp a channel takes the means over positions, a
// block a position takes norms and distance and, without centring, the gradient; with it a warp a channel
// makes the gradient and takes its mean off.
#include "../normalized_mse.h"
#include "maps.cuh"

namespace kd {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / kWarpThreads;
enum { kScale, kRatio, kAlong, kSlope };

// The workspace of one sample.
template <class A>
struct Sample {
  const NormalizedMseArgs& args;
  int64_t b;
  A* numbers;

  KD_DEVICE Sample(const NormalizedMseArgs& a, int64_t sample)
      : args(a), b(sample), numbers(static_cast<A*>(a.workspace) + sample * a.workspace_of_sample) {}

  KD_DEVICE A& mean(int side, int64_t c) const { return numbers[side * args.shape.channels + c]; }
  KD_DEVICE A& sum(int which, int64_t p) const {
    return numbers[2 * args.shape.channels + which * args.shape.positions + p];
  }
  KD_DEVICE A student(int64_t p, int64_t c) const {
    return number_at<A>(args.student, b, p, c) - (args.center ? mean(0, c) : A(0));
  }
  KD_DEVICE A teacher(int64_t p, int64_t c) const {
    return number_at<A>(args.teacher, b, p, c) - (args.center ? mean(1, c) : A(0));
  }
  // The gradient at one place before the mean is taken off.
  KD_DEVICE A gradient(int64_t p, int64_t c) const {
    const A k = sum(kSlope, p), s = student(p, c), scale = sum(kScale, p);
    const A r = (s - teacher(p, c) * sum(kRatio, p)) * scale;
    return k == A(0) ? A(0) : k * (r - sum(kAlong, p) * (s * scale));
  }
};

// A mean, and then the mean of what rounding left.
template <class A>
__global__ void __launch_bounds__(kThreads) take_means(NormalizedMseArgs args) {
  const int64_t channel = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarpThreads;
  if (channel >= args.shape.batch * args.shape.channels) return;
  const int lane = threadIdx.x % kWarpThreads;
  const Sample<A> sample(args, channel / args.shape.channels);
  const int64_t c = channel % args.shape.channels;
  for (int side = 0; side < 2; ++side) {
    const MapView& view = side == 0 ? args.student : args.teacher;
    A m = A(0);
    for (int turn = 0; turn < 2; ++turn) {
      A left = A(0);
      for (int64_t p = lane; p < args.shape.positions; p += kWarpThreads)
        left += number_at<A>(view, sample.b, p, c) - m;
      m += sum_of_warp(left) / static_cast<A>(args.shape.positions);
    }
    if (lane == 0) sample.mean(side, c) = m;
  }
}

template <class A>
__global__ void __launch_bounds__(kThreads) one_position(NormalizedMseArgs args) {
  Team<A> team(blockDim.x);
  const int64_t row = blockIdx.x, p = row % args.shape.positions, channels = args.shape.channels;
  const Sample<A> sample(args, row / args.shape.positions);
  const A eps = static_cast<A>(args.eps);
  A norms[2] = {A(0), A(0)};
  for (int64_t c = threadIdx.x; c < channels; c += kThreads) {
    const A s = sample.student(p, c), t = sample.teacher(p, c);
    norms[0] += s * s;
    norms[1] += t * t;
  }
  team.sum(norms);
  const Scales<A> by = scales(norms[0], norms[1], eps);
  A sums[2] = {A(0), A(0)};
  for (int64_t c = threadIdx.x; c < channels; c += kThreads) {
    const A s = sample.student(p, c), a = s * by.scale, r = (s - sample.teacher(p, c) * by.ratio) * by.scale;
    sums[0] += r * r;
    sums[1] += a * r;
  }
  team.sum(sums);
  const A upstream =
      args.upstream != nullptr ? static_cast<const A*>(args.upstream)[row * args.upstream_stride] : A(1);
  const A k = slope(norms[0], eps) * static_cast<A>(args.scale) * upstream;
  if (threadIdx.x == 0) {
    if (args.row_value != nullptr)
      static_cast<A*>(args.row_value)[row] = static_cast<A>(args.scale) * sums[0];
    sample.sum(kScale, p) = by.scale;
    sample.sum(kRatio, p) = by.ratio;
    sample.sum(kAlong, p) = sums[1];
    sample.sum(kSlope, p) = k;
  }
  if (args.grad.data == nullptr || args.center) return;
  for (int64_t c = threadIdx.x; c < channels; c += kThreads) {
    const A s = sample.student(p, c), a = s * by.scale, r = (s - sample.teacher(p, c) * by.ratio) * by.scale;
    put_number(args.grad, sample.b, p, c, k == A(0) ? A(0) : k * (r - sums[1] * a));
  }
}

template <class A>
__global__ void __launch_bounds__(kThreads) centred_gradient(NormalizedMseArgs args) {
  const int64_t channel = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarpThreads;
  if (channel >= args.shape.batch * args.shape.channels) return;
  const int lane = threadIdx.x % kWarpThreads;
  const Sample<A> sample(args, channel / args.shape.channels);
  const int64_t c = channel % args.shape.channels;
  A sum = A(0);
  for (int64_t p = lane; p < args.shape.positions; p += kWarpThreads) sum += sample.gradient(p, c);
  const A mean = sum_of_warp(sum) / static_cast<A>(args.shape.positions);
  for (int64_t p = lane; p < args.shape.positions; p += kWarpThreads)
    put_number(args.grad, sample.b, p, c, sample.gradient(p, c) - mean);
}

template <class A>
void run_normalized_mse(const NormalizedMseArgs& args, cudaStream_t stream) {
  const int64_t channels = args.shape.batch * args.shape.channels;
  const LaunchShape by_channel = {static_cast<unsigned>((channels + kWarps - 1) / kWarps), kThreads};
  const LaunchShape by_position = {static_cast<unsigned>(args.shape.batch * args.shape.positions), kThreads};
  if (args.center && channels > 0) launch(take_means<A>, by_channel, stream, args);
  launch(one_position<A>, by_position, stream, args);
  if (args.center && channels > 0 && args.grad.data != nullptr)
    launch(centred_gradient<A>, by_channel, stream, args);
}

}  // namespace
}  // namespace kd

extern "C" void kd_normalized_mse_cuda(const kd::NormalizedMseArgs& args, int, void* stream) {
  const auto on = static_cast<cudaStream_t>(stream);
  if (args.compute == kd::DType::kFloat64) return kd::run_normalized_mse<double>(args, on);
  kd::run_normalized_mse<float>(args, on);
}
