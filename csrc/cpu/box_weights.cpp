// An item is a level of an image: boxes are painted, larger weights over smaller ones, then what stayed 0 is
// counted and filled.
#include "../box_weights.h"

#include "segment.h"

namespace kd {
namespace {

template <class A>
class BoxWeights {
 public:
  static int64_t items(const BoxWeightsArgs& args) { return int64_t(args.images) * args.levels; }

  static void run(const BoxWeightsArgs& args, int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item)
      level(args, item / args.levels, static_cast<int>(item % args.levels));
  }

 private:
  static void level(const BoxWeightsArgs& args, int64_t image, int l) {
    const int64_t begin = image * args.cells + args.cell_begin[l];
    const int64_t cells = int64_t(args.height[l]) * args.width[l];
    A* weight = static_cast<A*>(args.weight) + begin;
    const bool* mask = args.mask != nullptr ? args.mask + begin : nullptr;
    for (int64_t i = 0; i < cells; ++i) weight[i] = 0;
    for (int64_t b = args.box_begin[image]; b < args.box_begin[image + 1]; ++b)
      paint(weight, box_cells(args.boxes + 4 * b, args.height[l], args.width[l]), args.width[l]);
    int64_t outside = 0;
    for (int64_t i = 0; i < cells; ++i) outside += weight[i] == 0 && (mask == nullptr || mask[i]);
    const A alpha = static_cast<A>(args.alpha);
    const A share = static_cast<A>(args.beta) / static_cast<A>(outside > 0 ? outside : 1);
    for (int64_t i = 0; i < cells; ++i) {
      const A here = weight[i] == 0 ? share : alpha * weight[i];
      weight[i] = mask == nullptr || mask[i] ? here : A(0);
    }
  }

  static void paint(A* weight, const BoxCells& box, int width) {
    const A inverse = A(1) / (static_cast<A>(box.x.count()) * static_cast<A>(box.y.count()));
    for (int64_t y = box.y.low; y <= box.y.high; ++y)
      for (int64_t x = box.x.low; x <= box.x.high; ++x) {
        A& cell = weight[y * width + x];
        cell = larger(cell, inverse);
      }
  }
};

}  // namespace
}  // namespace kd

KD_CPU_KERNELS(box_weights, BoxWeightsArgs, BoxWeights)
