#include "box_weights.h"

#include "common/box_check.h"
#include "common/maps_op.h"

KD_DECLARE_KERNELS(box_weights, BoxWeightsArgs)

namespace kd {

using Ints = std::vector<int64_t>;

// Images and levels [first, ...) that fit one launch.
static void launch_part(BoxWeightsArgs args, const Ints& counts, const Ints& shapes, int64_t first_image,
                        int64_t first_level, const Tensor& on) {
  args.images = args.levels = 0;
  int64_t box = 0, cell = 0;
  for (int64_t i = 0; i < static_cast<int64_t>(counts.size()); ++i) {
    if (i >= first_image && args.images < kMaxImages) args.box_begin[args.images++] = box;
    if (i < first_image + kMaxImages) args.box_begin[args.images] = box + counts[i];
    box += counts[i];
  }
  for (int64_t l = 0; l < static_cast<int64_t>(shapes.size()) / 2; ++l) {
    const int64_t height = shapes[2 * l], width = shapes[2 * l + 1];
    if (l >= first_level && args.levels < kMaxLevels) {
      args.cell_begin[args.levels] = cell;
      args.height[args.levels] = static_cast<int>(height), args.width[args.levels] = static_cast<int>(width);
      ++args.levels;
    }
    cell += height * width;
  }
  const int64_t offset = first_image * args.cells;
  args.mask = args.mask != nullptr ? args.mask + offset : nullptr;
  args.weight = static_cast<char*>(args.weight) + offset * (args.compute == DType::kFloat64 ? 8 : 4);
  launch(KD_KERNELS(box_weights), args, Pass::kForward, args.cells / args.levels, on);
}

// counts: boxes of each image; shapes: height, width of each level.
static Tensor box_weights(const Tensor& boxes, const Ints& counts, const Ints& shapes, double alpha,
                          double beta, const std::optional<Tensor>& mask, bool wide) {
  check_boxes("boxes", boxes, nullptr, DType::kFloat32);
  BoxWeightsArgs args = {};
  args.boxes = static_cast<const float*>(boxes.data_ptr());
  args.alpha = alpha, args.beta = beta;
  args.mask = static_cast<const bool*>(pointer_of(mask));
  args.compute = wide ? DType::kFloat64 : DType::kFloat32;
  for (size_t l = 0; l < shapes.size(); l += 2) args.cells += shapes[l] * shapes[l + 1];
  const int64_t images = static_cast<int64_t>(counts.size());
  const int64_t levels = static_cast<int64_t>(shapes.size()) / 2;
  Tensor weight = fresh(boxes, {images, args.cells}, args.compute);
  args.weight = weight.data_ptr();
  for (int64_t i = 0; i < images; i += kMaxImages)
    for (int64_t l = 0; l < levels; l += kMaxLevels) launch_part(args, counts, shapes, i, l, boxes);
  return weight;
}

}  // namespace kd

KD_SCHEMA(m) {
  m.def(
      "box_weights(Tensor boxes, int[] counts, int[] shapes, float alpha, float beta, Tensor? mask, bool "
      "wide) -> Tensor");
}
KD_IMPLEMENTATION(m) { m.impl("box_weights", TORCH_BOX(&kd::box_weights)); }
