// selection_masks on the GPU: three products on the tiles of attention.cuh, and sums over positions by one
// block for each 64 channels.
#include "../selection_masks.h"
#include "attention.cuh"

namespace kd {
namespace {

KD_DEVICE Operand features_of(const SelectionMasksArgs& args, int64_t b) {
  return {args.fused, args.positions, args.channels, args.valid, b};
}

// A contiguous A [rows, columns] as rows of channels, or with its columns as positions.
KD_DEVICE Operand matrix(const void* data, DType type, int64_t rows, int64_t columns, bool across) {
  const MapView map = {const_cast<void*>(data), type, 0, across ? 1 : columns, across ? columns : 1};
  return {map, across ? columns : rows, across ? rows : columns, nullptr, 0};
}

template <class A>
KD_DEVICE const A* image(const void* data, int64_t b, int64_t numbers) {
  return static_cast<const A*>(data) + b * numbers;
}

// Masks of a tile: positions x units.
template <class A>
__global__ void __launch_bounds__(kTileThreads) selection_forward(SelectionMasksArgs args) {
  const int64_t tiles = (args.positions + kTile<A> - 1) / kTile<A>,
                across = (args.masks + kTile<A> - 1) / kTile<A>;
  const int64_t b = blockIdx.x / across / tiles, first = blockIdx.x / across % tiles * kTile<A>,
                unit = blockIdx.x % across * kTile<A>;
  const Operand features = features_of(args, b);
  A x[kPer<A>][kPer<A>];
  tile_product(features, first, matrix(args.units, args.compute, args.masks, args.channels, false), unit, x);
  for (int r = 0; r < kPer<A>; ++r) {
    const int64_t p = first + tile_row() + kSide * r;
    for (int q = 0; q < kPer<A>; ++q) {
      const int64_t m = unit + tile_column() + kSide * q;
      if (p >= args.positions || m >= args.masks) continue;
      const A e = exp(-magnitude(x[r][q])), s = (x[r][q] < A(0) ? e : A(1)) / (A(1) + e);
      static_cast<A*>(args.spatial)[(b * args.masks + m) * args.positions + p] = features.there(p) ? s : A(0);
    }
  }
}

// A block takes one channel of an image; a warp's sums are joined in the order of the warps.
template <class A>
__global__ void __launch_bounds__(kTileThreads) selection_mean(SelectionMasksArgs args) {
  const int64_t b = blockIdx.x / args.channels, c = blockIdx.x % args.channels;
  const Operand features = features_of(args, b);
  Team<A> team(blockDim.x);
  A sum[1] = {A(0)};
  for (int64_t p = threadIdx.x; p < args.positions; p += kTileThreads)
    sum[0] += features.template at<A>(p, c);
  team.sum(sum);
  if (threadIdx.x == 0)
    static_cast<A*>(args.mean)[blockIdx.x] = sum[0] * static_cast<const A*>(args.share)[b];
}

// g of every mask and position.
template <class A>
__global__ void __launch_bounds__(kTileThreads) selection_logit_grad(SelectionMasksArgs args) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kTileThreads + threadIdx.x;
  if (at >= args.batch * args.masks * args.positions) return;
  const A s = static_cast<const A*>(args.spatial)[at];
  // 0 where a position is dropped: its upstream gradient may be anything.
  static_cast<A*>(args.logit_grad)[at] =
      s == A(0) ? A(0) : static_cast<const A*>(args.grad_spatial)[at] * s * (A(1) - s);
}

// The map's gradient: positions x channels, summed over the units.
template <class A>
__global__ void __launch_bounds__(kTileThreads) selection_map_grad(SelectionMasksArgs args) {
  const int64_t tiles = (args.positions + kTile<A> - 1) / kTile<A>,
                across = (args.channels + kTile<A> - 1) / kTile<A>;
  const int64_t b = blockIdx.x / across / tiles, first = blockIdx.x / across % tiles * kTile<A>,
                channel = blockIdx.x % across * kTile<A>;
  const A* g = image<A>(args.logit_grad, b, args.masks * args.positions);
  const A share = static_cast<const A*>(args.share)[b];
  A x[kPer<A>][kPer<A>];
  tile_product(matrix(g, args.compute, args.masks, args.positions, true), first,
               matrix(args.units, args.compute, args.masks, args.channels, true), channel, x);
  for (int r = 0; r < kPer<A>; ++r) {
    const int64_t p = first + tile_row() + kSide * r;
    for (int q = 0; q < kPer<A>; ++q) {
      const int64_t c = channel + tile_column() + kSide * q;
      if (p >= args.positions || c >= args.channels) continue;
      const bool there = args.valid == nullptr || args.valid[b * args.positions + p];
      const A mean = share * static_cast<const A*>(args.grad_mean)[b * args.channels + c];
      put_number(args.grad_fused, b, p, c, there ? x[r][q] + mean : A(0));
    }
  }
}

// The units' gradient: units x channels, summed over positions and images.
template <class A>
__global__ void __launch_bounds__(kTileThreads) selection_unit_grad(SelectionMasksArgs args) {
  const int64_t across = (args.channels + kTile<A> - 1) / kTile<A>;
  const int64_t unit = blockIdx.x / across * kTile<A>, channel = blockIdx.x % across * kTile<A>;
  A sum[kPer<A>][kPer<A>] = {};
  for (int64_t b = 0; b < args.batch; ++b) {
    const A* g = image<A>(args.logit_grad, b, args.masks * args.positions);
    // The map with channels as positions: what a mask drops has g = 0, but may hold NaN.
    A x[kPer<A>][kPer<A>] = {};
    KD_SHARED(A, left, kDepth * kTile<A>);
    KD_SHARED(A, right, kDepth * kTile<A>);
    const Operand features = features_of(args, b);
    for (int64_t p = 0; p < args.positions; p += kDepth) {
      __syncthreads();
      for (int e = threadIdx.x; e < kDepth * kTile<A>; e += kTileThreads) {
        const int k = e % kDepth, row = e / kDepth;
        const bool there = unit + row < args.masks && p + k < args.positions;
        left[k * kTile<A> + row] = there ? g[(unit + row) * args.positions + p + k] : A(0);
        right[k * kTile<A> + row] = features.template at<A>(p + k, channel + row);
      }
      __syncthreads();
      for (int k = 0; k < kDepth; ++k)
        for (int r = 0; r < kPer<A>; ++r)
          for (int q = 0; q < kPer<A>; ++q)
            x[r][q] +=
                left[k * kTile<A> + tile_row() + kSide * r] * right[k * kTile<A> + tile_column() + kSide * q];
    }
    for (int r = 0; r < kPer<A>; ++r)
      for (int q = 0; q < kPer<A>; ++q) sum[r][q] += x[r][q];
  }
  for (int r = 0; r < kPer<A>; ++r) {
    const int64_t m = unit + tile_row() + kSide * r;
    for (int q = 0; q < kPer<A>; ++q) {
      const int64_t c = channel + tile_column() + kSide * q;
      if (m < args.masks && c < args.channels)
        static_cast<A*>(args.grad_units)[m * args.channels + c] = sum[r][q];
    }
  }
}

template <class A>
void run_selection(const SelectionMasksArgs& args, cudaStream_t stream) {
  const auto tiles = [](int64_t n) { return (n + kTile<A> - 1) / kTile<A>; };
  const auto grid = [](int64_t blocks) -> LaunchShape {
    return {static_cast<unsigned>(blocks), kTileThreads};
  };
  const int64_t of_positions = args.batch * tiles(args.positions);
  switch (args.stage) {
    case SelectionStage::kForward:
      return launch(selection_forward<A>, grid(of_positions * tiles(args.masks)), stream, args);
    case SelectionStage::kJoinMean:
      return launch(selection_mean<A>, grid(args.batch * args.channels), stream, args);
    case SelectionStage::kBackward: {
      const int64_t numbers = args.batch * args.masks * args.positions;
      launch(selection_logit_grad<A>, grid((numbers + kTileThreads - 1) / kTileThreads), stream, args);
      return launch(selection_map_grad<A>, grid(of_positions * tiles(args.channels)), stream, args);
    }
    case SelectionStage::kJoinUnits:
      return launch(selection_unit_grad<A>, grid(tiles(args.masks) * tiles(args.channels)), stream, args);
  }
}

}  // namespace
}  // namespace kd

extern "C" void kd_selection_masks_cuda(const kd::SelectionMasksArgs& args, int, void* stream) {
  const auto on = static_cast<cudaStream_t>(stream);
  if (args.compute == kd::DType::kFloat64) return kd::run_selection<double>(args, on);
  kd::run_selection<float>(args, on);
}
