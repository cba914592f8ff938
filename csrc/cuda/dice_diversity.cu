// Four launches: the largest magnitude of each part of a sample's positions; the part's sums; one block a
// sample joins the parts in their order and makes the gradient's weights; the gradient, a thread a position.
#include "../dice_diversity.h"
#include "maps.cuh"

namespace kd {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarpThreads;

// A part of a sample, and the sample's masks divided by their largest magnitude.
template <class A>
struct Part {
  const DiceDiversityArgs& args;
  int64_t b, part, first, last, masks;

  KD_DEVICE explicit Part(const DiceDiversityArgs& a)
      : args(a),
        b(blockIdx.x / a.parts),
        part(blockIdx.x % a.parts),
        first(part * kDiceRun),
        last(first + kDiceRun < a.shape.positions ? first + kDiceRun : a.shape.positions),
        masks(a.shape.channels) {}

  KD_DEVICE A inverse() const {
    A most = static_cast<A>(kSmallest);
    for (int64_t i = 0; i < args.parts; ++i)
      most = larger(static_cast<const A*>(args.largest)[b * args.parts + i], most);
    return A(1) / most;
  }
  KD_DEVICE A mask(int64_t m, int64_t p) const { return number_at<A>(args.masks, b, p, m); }
  KD_DEVICE double* sums() const { return args.sums + (b * args.parts + part) * numbers_of_part(args); }
};

template <class A>
__global__ void __launch_bounds__(kThreads) dice_largest(DiceDiversityArgs args) {
  Team<A> team(blockDim.x);
  const Part<A> part(args);
  A most[1] = {A(0)};
  for (int64_t p = part.first + threadIdx.x; p < part.last; p += kThreads)
    for (int64_t m = 0; m < part.masks; ++m) most[0] = larger(magnitude(part.mask(m, p)), most[0]);
  team.largest(most);
  if (threadIdx.x == 0) static_cast<A*>(args.largest)[blockIdx.x] = most[0];
}

template <class A>
__global__ void __launch_bounds__(kThreads) dice_columns(DiceDiversityArgs args) {
  Team<double> team(blockDim.x);
  const Part<A> part(args);
  const A inverse = part.inverse();
  double sum[2] = {0, 0};
  for (int64_t p = part.first + threadIdx.x; p < part.last; p += kThreads) {
    A before = A(0), cross = A(0), square = A(0);
    for (int64_t m = 0; m < part.masks; ++m) {
      const A here = part.mask(m, p) * inverse;
      cross += here * before;
      square += here * here;
      before += here;
    }
    sum[0] += 2 * static_cast<double>(cross);
    sum[1] += square;
  }
  team.sum(sum);
  if (threadIdx.x < 2) part.sums()[threadIdx.x] = sum[threadIdx.x];
}

// A warp a pair i <= j.
template <class A>
__global__ void __launch_bounds__(kThreads) dice_products(DiceDiversityArgs args) {
  const Part<A> part(args);
  const A inverse = part.inverse();
  const int64_t lane = threadIdx.x % kWarpThreads, warp = threadIdx.x / kWarpThreads;
  for (int64_t pair = warp; pair < part.masks * part.masks; pair += kWarps) {
    const int64_t i = pair / part.masks, j = pair % part.masks;
    if (j < i) continue;
    A sum = A(0);
    for (int64_t p = part.first + lane; p < part.last; p += kWarpThreads)
      sum += (part.mask(i, p) * inverse) * (part.mask(j, p) * inverse);
    sum = sum_of_warp(sum);
    if (lane == 0) part.sums()[pair] = sum;
  }
}

template <class A>
__global__ void __launch_bounds__(kThreads) dice_weights(DiceDiversityArgs args) {
  Team<double> team(blockDim.x);
  const int64_t b = blockIdx.x, masks = args.shape.channels, numbers = numbers_of_part(args);
  double* joined = args.sums + b * args.parts * numbers;
  A* weights = static_cast<A*>(args.weights) + b * weights_of_sample(args);
  for (int64_t i = threadIdx.x; i < numbers; i += kThreads) {
    if (args.pairwise && i % masks < i / masks) continue;  // below the diagonal there is nothing
    for (int64_t part = 1; part < args.parts; ++part) joined[i] += joined[part * numbers + i];
  }
  __syncthreads();
  double value[1] = {0};
  if (!args.pairwise) {
    const RatioOverlap x = ratio_overlap(joined[0], joined[1]);
    value[0] = threadIdx.x == 0 ? x.value : 0;
    if (threadIdx.x == 0)
      weights[0] = static_cast<A>(x.off_diagonal), weights[1] = static_cast<A>(x.diagonal);
  }
  for (int64_t i = threadIdx.x; args.pairwise && i < masks; i += kThreads) {
    double own = 0;
    for (int64_t j = 0; j < masks; ++j) {
      if (j == i) continue;
      const double dot = j < i ? joined[j * masks + i] : joined[i * masks + j];
      const PairOverlap x = pair_overlap(dot, joined[i * masks + i], joined[j * masks + j],
                                         static_cast<double>(masks * (masks - 1)));
      value[0] += x.value / 2;  // each pair is met twice
      own += x.diagonal;
      weights[i * masks + j] = static_cast<A>(x.off_diagonal);
    }
    weights[i * masks + i] = static_cast<A>(own);
  }
  team.sum(value);
  if (threadIdx.x == 0 && args.row_value != nullptr)
    static_cast<A*>(args.row_value)[b] = static_cast<A>(value[0] * args.scale);
}

template <class A>
__global__ void __launch_bounds__(kThreads) dice_gradient(DiceDiversityArgs args) {
  const Part<A> part(args);
  const int64_t p = part.first + threadIdx.x, masks = part.masks;
  if (p >= part.last) return;
  const A* weights = static_cast<const A*>(args.weights) + part.b * weights_of_sample(args);
  const A inverse = part.inverse(),
          up = args.upstream != nullptr ? *static_cast<const A*>(args.upstream) : A(1);
  const A factor = static_cast<A>(args.scale) * up * inverse;
  A column = A(0);
  for (int64_t m = 0; !args.pairwise && m < masks; ++m) column += part.mask(m, p) * inverse;
  for (int64_t i = 0; i < masks; ++i) {
    const A here = part.mask(i, p) * inverse;
    A sum = args.pairwise ? A(0) : weights[0] * (column - here) + weights[1] * here;
    for (int64_t j = 0; args.pairwise && j < masks; ++j)
      sum += weights[i * masks + j] * (part.mask(j, p) * inverse);
    put_number(args.grad, part.b, p, i, factor * sum);
  }
}

template <class A>
void run_dice(const DiceDiversityArgs& args, cudaStream_t stream) {
  const LaunchShape parts = {static_cast<unsigned>(args.shape.batch * args.parts), kThreads};
  const LaunchShape samples = {static_cast<unsigned>(args.shape.batch), kThreads};
  launch(dice_largest<A>, parts, stream, args);
  if (args.pairwise)
    launch(dice_products<A>, parts, stream, args);
  else
    launch(dice_columns<A>, parts, stream, args);
  launch(dice_weights<A>, samples, stream, args);
  if (args.grad.data != nullptr) launch(dice_gradient<A>, parts, stream, args);
}

}  // namespace
}  // namespace kd

extern "C" void kd_dice_diversity_cuda(const kd::DiceDiversityArgs& args, int, void* stream) {
  const auto on = static_cast<cudaStream_t>(stream);
  if (args.compute == kd::DType::kFloat64) return kd::run_dice<double>(args, on);
  kd::run_dice<float>(args, on);
}
