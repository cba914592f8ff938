// Edge statistics on the GPU: a block for each feature, a thread for each edge of a tile; the samples pass
// through shared memory. Statistics stay in registers and are merged in short runs; the gradient of x is
// summed over the block's threads in a fixed order.
#include "../kan_edge_stats.h"
#include "kan.cuh"

namespace kd {
namespace {

constexpr int kThreads = 64;
constexpr int kRun = 32;  // samples at once

template <class A>
KD_DEVICE A number_at(const void* edges, int64_t edge, bool there) {
  return there ? static_cast<const A*>(edges)[edge] : A(0);
}

template <int K, class A>
KD_DEVICE void load_run(const KanArgs& layer, int64_t feature, int64_t first, Stored<K, A>* points) {
  __syncthreads();
  for (int b = threadIdx.x; b < kRun && first + b < layer.samples; b += kThreads)
    store_point<K, A>(layer, first + b, feature, &points[b]);
  __syncthreads();
}

// A block: one feature and one tile.
template <int K, class A>
__global__ void __launch_bounds__(kThreads) statistics(EdgeArgs args) {
  using Points = Stored<K, A>;
  KD_SHARED(Points, points, kRun);
  const KanArgs& layer = args.layer;
  const int64_t tiles = tiles_of<A>(layer), feature = blockIdx.x / tiles;
  const OutTile tile = out_tile<A>(layer, blockIdx.x % tiles);
  const bool mine = threadIdx.x < tile.width;
  const A* rows = rows_at<const A>(layer.packed, layer, tile, feature, threadIdx.x);
  EdgeSums<A> sums = {};
  for (int64_t first = 0; first < layer.samples; first += kRun) {
    load_run<K, A>(layer, feature, first, points);
    const int n = layer.samples - first < kRun ? static_cast<int>(layer.samples - first) : kRun;
    A shift = sums.mean, abs = 0, square = 0, sum = 0, sum_square = 0;
    for (int b = 0; mine && b < n && first == 0; ++b)
      shift += edge_value<K, A>(layer, points[b], rows, tile.width) / n;
    for (int b = 0; mine && b < n; ++b) {
      const A phi = edge_value<K, A>(layer, points[b], rows, tile.width), away = phi - shift;
      abs += magnitude(phi), square += phi * phi, sum += away, sum_square += away * away;
    }
    sums.merge(abs, square, shift, sum, sum_square, static_cast<A>(n), static_cast<A>(first));
  }
  const int64_t o = tile.first + threadIdx.x, edge = o * layer.features + feature;
  if (!mine || o >= layer.out) return;
  const A n = static_cast<A>(layer.samples);
  static_cast<A*>(args.mean_abs)[edge] = sums.abs / n;
  static_cast<A*>(args.mean_square)[edge] = sums.square / n;
  static_cast<A*>(args.mean)[edge] = sums.mean;
  static_cast<A*>(args.variance)[edge] = n > 1 ? sums.around / (n - 1) : A(0);
}

template <class A>
KD_DEVICE EdgeSlope<A> slope_of(const EdgeArgs& args, int64_t edge, bool there) {
  const A n = static_cast<A>(args.layer.samples);
  return {number_at<A>(args.grad_abs, edge, there) / n, number_at<A>(args.grad_square, edge, there) * 2 / n,
          n > 1 ? number_at<A>(args.grad_variance, edge, there) * 2 / (n - 1) : A(0),
          number_at<A>(args.mean, edge, there)};
}

// A block: one feature, all tiles one after the other for each run of samples.
template <int K, class A>
__global__ void __launch_bounds__(kThreads) gradients(EdgeArgs args) {
  using Points = Stored<K, A>;
  KD_SHARED(Points, points, kRun);
  KD_SHARED(A, shares, kRun * kThreads);
  const KanArgs& layer = args.layer;
  const int64_t feature = blockIdx.x, tiles = tiles_of<A>(layer);
  for (int64_t first = 0; first < layer.samples; first += kRun) {
    load_run<K, A>(layer, feature, first, points);
    const int n = layer.samples - first < kRun ? static_cast<int>(layer.samples - first) : kRun;
    A total = 0;  // of sample first + threadIdx.x
    for (int64_t t = 0; t < tiles; ++t) {
      const OutTile tile = out_tile<A>(layer, t);
      const bool mine = threadIdx.x < tile.width;
      const int64_t o = tile.first + threadIdx.x;
      const EdgeSlope<A> slope = slope_of<A>(args, o * layer.features + feature, mine && o < layer.out);
      const A* rows = rows_at<const A>(layer.packed, layer, tile, feature, threadIdx.x);
      A* grads = rows_at<A>(layer.packed_grad, layer, tile, feature, threadIdx.x);
      for (int64_t m = 0; mine && first == 0 && m < rows_of(layer); ++m) grads[m * tile.width] = 0;
      for (int b = 0; b < n; ++b) {
        A share = 0;
        if (mine) {
          const A grad = slope.at(edge_value<K, A>(layer, points[b], rows, tile.width));
          add_edge_grad<K, A>(layer, points[b], grad, grads, tile.width);
          share = grad * edge_slope<K, A>(layer, points[b], rows, tile.width);
        }
        shares[b * kThreads + threadIdx.x] = share;
      }
      __syncthreads();
      for (int s = 0; threadIdx.x < n && s < kThreads; ++s) total += shares[threadIdx.x * kThreads + s];
      __syncthreads();
    }
    if (threadIdx.x < n)
      static_cast<A*>(layer.grad_x)[(first + threadIdx.x) * layer.features + feature] = total;
  }
}

}  // namespace
}  // namespace kd

extern "C" void kd_kan_edge_stats_cuda(const kd::EdgeArgs& args, int backward, void* stream) {
  using namespace kd;
  const auto on = static_cast<cudaStream_t>(stream);
  with_types(args.layer.compute, args.layer.degree, [&]<int K, class A>() {
    const int64_t features = args.layer.features;
    if (backward) return launch(gradients<K, A>, {static_cast<unsigned>(features), kThreads}, on, args);
    launch(statistics<K, A>, {static_cast<unsigned>(features * tiles_of<A>(args.layer)), kThreads}, on, args);
  });
}
