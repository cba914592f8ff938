// A KAN layer on the GPU by local support: the bases of a few samples and features in shared memory, a thread
// for each output. Gradients of weights: a thread owns an edge's rows and walks the samples of its split; the
// splits are added up in `unpack`, in order. No atomics.
#include "../kan_linear.h"
#include "kan.cuh"

namespace kd {
namespace {

constexpr int kThreads = 128;
constexpr int kSamples = 16;   // of a block
constexpr int kFeatures = 16;  // at once
constexpr int kPoints = 128;   // samples at once, where a block has one feature

// ---- Packing

// Which edge and row a packed number is.
struct Place {
  int64_t o, feature, row;
};
template <class A>
KD_DEVICE Place place_of(const KanArgs& args, int64_t at) {
  constexpr int64_t kTile = kTileBytes / sizeof(A);
  const OutTile tile = out_tile<A>(args, at / (kTile * args.features * rows_of(args)));
  const int64_t inside = at - tile.offset, line = inside / tile.width;
  return {tile.first + inside % tile.width, line / rows_of(args), line % rows_of(args)};
}

template <class A>
__global__ void __launch_bounds__(kThreads) pack(KanArgs args) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (at >= packed_size<A>(args)) return;
  const Place p = place_of<A>(args, at);
  const int64_t edge = p.o * args.features + p.feature, bases = bases_of(args);
  A value = 0;
  if (p.o < args.out && p.row == bases) value = static_cast<const A*>(args.base_weight)[edge];
  if (p.o < args.out && p.row < bases) {
    value = static_cast<const A*>(args.coef)[edge * bases + p.row];
    if (args.scale != nullptr) value *= static_cast<const A*>(args.scale)[edge];
  }
  static_cast<A*>(args.packed)[at] = value;
}

// A thread for each edge.
template <class A>
__global__ void __launch_bounds__(kThreads) unpack(KanArgs args) {
  constexpr int64_t kTile = kTileBytes / sizeof(A);
  const int64_t edge = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (edge >= args.out * args.features) return;
  const int64_t o = edge / args.features, bases = bases_of(args);
  const OutTile tile = out_tile<A>(args, o / kTile);
  const A* rows = rows_at<const A>(args.packed_grad, args, tile, edge % args.features, o - tile.first);
  const A by = args.scale != nullptr ? static_cast<const A*>(args.scale)[edge] : A(1);
  A of_scale = 0;
  for (int64_t m = 0; m < rows_of(args); ++m) {
    A grad = 0;
    for (int64_t s = 0; s < args.splits; ++s) grad += rows[s * packed_size<A>(args) + m * tile.width];
    if (m == bases) {
      static_cast<A*>(args.grad_base_weight)[edge] = grad;
      continue;
    }
    of_scale += grad * static_cast<const A*>(args.coef)[edge * bases + m];
    static_cast<A*>(args.grad_coef)[edge * bases + m] = grad * by;
  }
  if (args.grad_scale != nullptr) static_cast<A*>(args.grad_scale)[edge] = of_scale;
}

// ---- Forward and gradient of x

// A block: kSamples samples and one tile; a thread: one output and every second sample.
template <int K, class A>
__global__ void __launch_bounds__(kThreads) forward(KanArgs args) {
  using Points = Stored<K, A>;
  KD_SHARED(Points, points, kSamples * kFeatures);
  constexpr int kTile = kTileBytes / sizeof(A), kTeams = kThreads / kTile, kEach = kSamples / kTeams;
  const int64_t tiles = tiles_of<A>(args), first = blockIdx.x / tiles * kSamples;
  const OutTile tile = out_tile<A>(args, blockIdx.x % tiles);
  const int o = threadIdx.x % kTile, team = threadIdx.x / kTile;
  A sum[kEach] = {};
  for (int64_t feature = 0; feature < args.features; feature += kFeatures) {
    __syncthreads();
    for (int at = threadIdx.x; at < kSamples * kFeatures; at += kThreads) {
      const int64_t b = first + at / kFeatures, i = feature + at % kFeatures;
      if (b < args.samples && i < args.features) store_point<K, A>(args, b, i, &points[at]);
    }
    __syncthreads();
    if (o >= tile.width) continue;
    for (int f = 0; f < kFeatures && feature + f < args.features; ++f) {
      const A* rows = rows_at<const A>(args.packed, args, tile, feature + f, o);
      for (int e = 0; e < kEach; ++e) {
        const int b = team + e * kTeams;
        if (first + b < args.samples)
          sum[e] += edge_value<K, A>(args, points[b * kFeatures + f], rows, tile.width);
      }
    }
  }
  if (o >= tile.width) return;
  for (int e = 0; e < kEach; ++e) {
    const int64_t b = first + team + e * kTeams;
    if (b < args.samples) static_cast<A*>(args.y)[b * padded<A>(args.out) + tile.first + o] = sum[e];
  }
}

// A warp for each sample and feature; its lanes share the outputs.
template <int K, class A>
__global__ void __launch_bounds__(kThreads) input_grad(KanArgs args) {
  using Points = Stored<K, A>;
  KD_SHARED(Points, points, kThreads / kWarpThreads);
  constexpr int kTile = kTileBytes / sizeof(A);
  const int warp = threadIdx.x / kWarpThreads, lane = threadIdx.x % kWarpThreads;
  const int64_t pair = static_cast<int64_t>(blockIdx.x) * (kThreads / kWarpThreads) + warp;
  const bool there = pair < args.samples * args.features;
  const int64_t b = pair / args.features, i = pair % args.features, width = padded<A>(args.out);
  if (there && lane == 0) store_point<K, A>(args, b, i, &points[warp]);
  __syncthreads();
  A sum = 0;
  for (int64_t o = lane; there && o < width; o += kWarpThreads) {
    const OutTile tile = out_tile<A>(args, o / kTile);
    const A* rows = rows_at<const A>(args.packed, args, tile, i, o - tile.first);
    sum += static_cast<const A*>(args.grad_y)[b * width + o] *
           edge_slope<K, A>(args, points[warp], rows, tile.width);
  }
  for (int step = kWarpThreads / 2; step > 0; step /= 2) sum += __shfl_xor_sync(kWholeWarp, sum, step);
  if (there && lane == 0) static_cast<A*>(args.grad_x)[pair] = sum;
}

// ---- Gradient of the weights

// A block: one feature, one tile, one split of the samples; a thread: one output.
template <int K, class A>
__global__ void __launch_bounds__(kThreads) weight_grad(KanArgs args) {
  using Points = Stored<K, A>;
  KD_SHARED(Points, points, kPoints);
  const int64_t tiles = tiles_of<A>(args), split = blockIdx.x / (tiles * args.features);
  const int64_t feature = blockIdx.x / tiles % args.features, width = padded<A>(args.out);
  const OutTile tile = out_tile<A>(args, blockIdx.x % tiles);
  const int64_t share = (args.samples + args.splits - 1) / args.splits, begin = split * share;
  const int64_t end = begin + share < args.samples ? begin + share : args.samples;
  const bool mine = threadIdx.x < tile.width;
  A* rows = rows_at<A>(args.packed_grad, args, tile, feature, threadIdx.x) + split * packed_size<A>(args);
  for (int64_t m = 0; mine && m < rows_of(args); ++m) rows[m * tile.width] = 0;
  for (int64_t first = begin; first < end; first += kPoints) {
    __syncthreads();
    for (int64_t b = first + threadIdx.x; b < first + kPoints && b < end; b += kThreads)
      store_point<K, A>(args, b, feature, &points[b - first]);
    __syncthreads();
    for (int64_t b = first; mine && b < first + kPoints && b < end; ++b) {
      const A grad = static_cast<const A*>(args.grad_y)[b * width + tile.first + threadIdx.x];
      add_edge_grad<K, A>(args, points[b - first], grad, rows, tile.width);
    }
  }
}

template <int K, class A>
void run(const KanArgs& args, cudaStream_t on) {
  const int64_t tiles = tiles_of<A>(args);
  const auto with = [](int64_t blocks) { return LaunchShape{static_cast<unsigned>(blocks), kThreads}; };
  switch (args.stage) {
    case KanStage::kPack:
      return launch(pack<A>, with(blocks_for(packed_size<A>(args), kThreads)), on, args);
    case KanStage::kForward:
      return launch(forward<K, A>, with(blocks_for(args.samples, kSamples) * tiles), on, args);
    case KanStage::kInputGrad:
      if (args.samples == 0) return;
      return launch(input_grad<K, A>, with(blocks_for(args.samples * args.features, kThreads / kWarpThreads)),
                    on, args);
    case KanStage::kWeightGrad:
      return launch(weight_grad<K, A>, with(args.splits * args.features * tiles), on, args);
    case KanStage::kUnpack:
      return launch(unpack<A>, with(blocks_for(args.out * args.features, kThreads)), on, args);
  }
}

}  // namespace
}  // namespace kd

extern "C" void kd_kan_linear_cuda(const kd::KanArgs& args, int, void* stream) {
  kd::with_types(args.compute, args.degree,
                 [&]<int K, class A>() { kd::run<K, A>(args, static_cast<cudaStream_t>(stream)); });
}
