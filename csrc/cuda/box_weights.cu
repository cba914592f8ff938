// A block a level of an image. Boxes come a batch at a time into shared memory, as the cells they cover; a
// thread looks for the smallest box over its cells, then the block counts the cells that no box covers.
#include "../box_weights.h"
#include "maps.cuh"

namespace kd {
namespace {

constexpr int kThreads = 512, kBoxes = 256;

// Larger weights over smaller ones, for the cells of this thread.
template <class A>
KD_DEVICE void paint(A* weight, const BoxCells* boxes, int count, int64_t cells, int width) {
  for (int64_t i = threadIdx.x; i < cells; i += kThreads) {
    const int y = static_cast<int>(i / width), x = static_cast<int>(i % width);
    A most = weight[i];
    for (int b = 0; b < count; ++b) {
      const Cells across = boxes[b].x, down = boxes[b].y;
      if (!across.holds(x) || !down.holds(y)) continue;
      most = larger(most, A(1) / (static_cast<A>(across.count()) * static_cast<A>(down.count())));
    }
    weight[i] = most;
  }
}

template <class A>
__global__ void __launch_bounds__(kThreads) box_weights(BoxWeightsArgs args) {
  KD_SHARED(BoxCells, boxes, kBoxes);
  Team<double> team(blockDim.x);
  const int image = blockIdx.x / args.levels, l = blockIdx.x % args.levels;
  const int height = args.height[l], width = args.width[l];
  const int64_t begin = image * args.cells + args.cell_begin[l], cells = static_cast<int64_t>(height) * width;
  A* weight = static_cast<A*>(args.weight) + begin;
  const bool* mask = args.mask != nullptr ? args.mask + begin : nullptr;

  for (int64_t i = threadIdx.x; i < cells; i += kThreads) weight[i] = A(0);
  const int64_t last = args.box_begin[image + 1];
  for (int64_t first = args.box_begin[image]; first < last; first += kBoxes) {
    const int count = static_cast<int>(last - first < kBoxes ? last - first : kBoxes);
    if (threadIdx.x < static_cast<unsigned>(count))
      boxes[threadIdx.x] = box_cells(args.boxes + 4 * (first + threadIdx.x), height, width);
    __syncthreads();
    paint(weight, boxes, count, cells, width);
    __syncthreads();  // the boxes are read before the next ones are written
  }

  double outside[1] = {0};
  for (int64_t i = threadIdx.x; i < cells; i += kThreads)
    outside[0] += weight[i] == A(0) && (mask == nullptr || mask[i]) ? 1 : 0;
  team.sum(outside);
  const A share = static_cast<A>(args.beta) / static_cast<A>(outside[0] > 0 ? outside[0] : 1);
  for (int64_t i = threadIdx.x; i < cells; i += kThreads) {
    const A here = weight[i] == A(0) ? share : static_cast<A>(args.alpha) * weight[i];
    weight[i] = mask == nullptr || mask[i] ? here : A(0);
  }
}

}  // namespace
}  // namespace kd

extern "C" void kd_box_weights_cuda(const kd::BoxWeightsArgs& args, int, void* stream) {
  using namespace kd;
  const auto on = static_cast<cudaStream_t>(stream);
  const LaunchShape shape = {static_cast<unsigned>(args.images * args.levels), kThreads};
  if (args.compute == DType::kFloat64) return launch(box_weights<double>, shape, on, args);
  launch(box_weights<float>, shape, on, args);
}
