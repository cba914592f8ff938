// The CUDA kernels around masks and classes: class_sums, box_weights, dice_diversity, random_mask.
#include "../../../csrc/box_weights.h"
#include "../../../csrc/class_sums.h"
#include "../../../csrc/dice_diversity.h"
#include "../../../csrc/random_mask.h"
#include "bind.h"

extern "C" void kd_box_weights_cuda(const kd::BoxWeightsArgs& args, int backward, void* stream);
extern "C" void kd_class_sums_cuda(const kd::ClassSumsArgs& args, int backward, void* stream);
extern "C" void kd_dice_diversity_cuda(const kd::DiceDiversityArgs& args, int backward, void* stream);
extern "C" void kd_random_mask_cuda(const kd::RandomMaskArgs& args, int backward, void* stream);

namespace {

int64_t stride_of(const py::array& x, int d) { return static_cast<int64_t>(x.strides(d) / x.itemsize()); }

void class_sums(const py::array& features, const py::array& target, std::optional<int64_t> ignored,
                const py::array& sums, const py::array& counts) {
  Arguments arguments;
  kd::ClassSumsArgs args = {};
  args.rows = features.shape(0), args.width = features.shape(1), args.classes = sums.shape(0);
  args.features = arguments.in(features, "features"), args.dtype = dtype_of(features);
  args.row_stride = stride_of(features, 0), args.stride = stride_of(features, 1);
  args.target = static_cast<const int64_t*>(arguments.in(target, "target"));
  args.ignores = ignored.has_value(), args.ignored = ignored.value_or(0);
  args.out = dtype_of(sums), args.sums = arguments.out(sums, "sums");
  args.counts = static_cast<int64_t*>(arguments.out(counts, "counts"));
  kd_class_sums_cuda(args, 0, nullptr);
}

void box_weights(const py::array& boxes, const std::vector<int64_t>& begin,
                 const std::vector<std::pair<int, int>>& shapes, double alpha, double beta, const Maybe& mask,
                 const py::array& weight) {
  Arguments arguments;
  kd::BoxWeightsArgs args = {};
  args.images = static_cast<int>(begin.size()) - 1, args.levels = static_cast<int>(shapes.size());
  for (size_t i = 0; i < begin.size(); ++i) args.box_begin[i] = begin[i];
  for (size_t l = 0; l < shapes.size(); ++l) {
    args.cell_begin[l] = args.cells;
    args.height[l] = shapes[l].first, args.width[l] = shapes[l].second;
    args.cells += int64_t{shapes[l].first} * shapes[l].second;
  }
  args.boxes = static_cast<const float*>(arguments.in(boxes, "boxes"));
  args.alpha = alpha, args.beta = beta;
  args.mask = static_cast<const bool*>(arguments.in(mask, "mask"));
  args.compute = dtype_of(weight), args.weight = arguments.out(weight, "weight");
  kd_box_weights_cuda(args, 0, nullptr);
}

void dice_diversity(const py::array& masks, bool pairwise, double scale, const Maybe& upstream,
                    const py::array& sums, const py::array& weights, const py::array& largest,
                    const Maybe& value, const Maybe& grad) {
  Arguments arguments;
  const auto view = [](const py::array& x) {
    return kd::MapView{const_cast<void*>(x.data()), dtype_of(x), stride_of(x, 0), stride_of(x, 1),
                       stride_of(x, 2)};
  };
  kd::DiceDiversityArgs args = {};
  args.shape = {masks.shape(0), masks.shape(1), masks.shape(2)};
  arguments.in(masks, "masks"), args.masks = view(masks);
  if (grad) arguments.out(grad, "grad"), args.grad = view(*grad);
  args.compute = dtype_of(largest), args.pairwise = pairwise, args.scale = scale;
  args.upstream = arguments.in(upstream, "upstream");
  args.parts = largest.shape(1);
  args.sums = static_cast<double*>(arguments.out(sums, "sums"));
  args.weights = arguments.out(weights, "weights");
  args.largest = arguments.out(largest, "largest");
  args.row_value = arguments.out(value, "value");
  kd_dice_diversity_cuda(args, 0, nullptr);
}

// x, out [batch, outer, inner]
void random_mask(const py::array& x, const py::array& state, int64_t threshold, bool by_inner,
                 const py::array& out) {
  Arguments arguments;
  kd::RandomMaskArgs args = {};
  args.batch = x.shape(0), args.outer = x.shape(1), args.inner = x.shape(2), args.by_inner = by_inner;
  args.x = arguments.in(x, "x"), args.out = arguments.out(out, "out");
  args.bytes = static_cast<int>(x.itemsize());
  for (int d = 0; d < 3; ++d) args.x_stride[d] = stride_of(x, d), args.out_stride[d] = stride_of(out, d);
  args.state = static_cast<const int64_t*>(arguments.in(state, "state"));
  args.threshold = threshold;
  kd_random_mask_cuda(args, 0, nullptr);
}

void bind_masks(py::module_& m) {
  m.def("class_sums", &class_sums, "features"_a, "target"_a, py::kw_only(), "ignored"_a, "sums"_a,
        "counts"_a);
  m.def("box_weights", &box_weights, "boxes"_a, "begin"_a, "shapes"_a, py::kw_only(), "alpha"_a, "beta"_a,
        "mask"_a, "weight"_a);
  m.def("dice_diversity", &dice_diversity, "masks"_a, py::kw_only(), "pairwise"_a, "scale"_a,
        "upstream"_a = py::none(), "sums"_a, "weights"_a, "largest"_a, "value"_a = py::none(),
        "grad"_a = py::none());
  m.def("random_mask", &random_mask, "x"_a, "state"_a, py::kw_only(), "threshold"_a, "by_inner"_a, "out"_a);
}
const Binding binding(bind_masks);

}  // namespace
