// What the ops kan_linear and kan_edge_stats share: their inputs in the compute type, and the packed weights.
//
// Half precision is widened here, so that the kernels see float32 or float64 alone; results go back to the
// dtype of what they belong to.
#pragma once

#include "grid_check.h"
#include "kan.h"

namespace kd {

// A layer's inputs as the kernels want them. Holds the tensors that args points into.
struct KanInputs {
  KanArgs args = {};
  Tensor x, coef, grid;
  std::optional<Tensor> scale, base_weight;
  Tensor packed;

  KanInputs(const Tensor& x_, const Tensor& coef_, const Tensor& grid_, int64_t degree,
            const std::optional<Tensor>& scale_, const std::optional<Tensor>& base_, int64_t extrapolation)
      : x(plain(x_, compute_type(x_, x_))),
        coef(plain(coef_, dtype_of(x))),
        grid(plain(grid_, dtype_of(x))),
        packed(x) {
    check_shapes(x, grid, degree, extrapolation);
    check_weights(degree, scale_, base_);
    check_grid(grid, degree);
    args.compute = dtype_of(x);
    if (scale_.has_value()) scale = plain(*scale_, args.compute);
    if (base_.has_value()) base_weight = plain(*base_, args.compute);
    args.samples = x.size(0), args.features = x.size(1), args.out = coef.size(0), args.knots = grid.size(1);
    args.degree = static_cast<int>(degree);
    args.extrapolation = static_cast<Extrapolation>(extrapolation);
    args.x = x.data_ptr(), args.grid = grid.data_ptr(), args.coef = coef.data_ptr();
    args.scale = scale.has_value() ? scale->data_ptr() : nullptr;
    args.base_weight = base_weight.has_value() ? base_weight->data_ptr() : nullptr;
    args.splits = 1;
  }

  int64_t padded_out() const {
    return args.compute == DType::kFloat64 ? padded<double>(args.out) : padded<float>(args.out);
  }
  int64_t packed_numbers() const { return padded_out() * args.features * rows_of(args); }

 private:
  void check_weights(int64_t degree, const std::optional<Tensor>& scale_,
                     const std::optional<Tensor>& base_) const {
    const auto is_edges = [&](const Tensor& w) {
      return w.dim() == 2 && w.size(0) == coef.size(0) && w.size(1) == x.size(1);
    };
    if (coef.dim() != 3 || coef.size(1) != x.size(1) || coef.size(2) != grid.size(1) - degree - 1)
      throw std::invalid_argument("kdfast: coef must be [out, features, knots - degree - 1]");
    if ((scale_.has_value() && !is_edges(*scale_)) || (base_.has_value() && !is_edges(*base_)))
      throw std::invalid_argument("kdfast: scale and base_weight must be [out, features]");
  }
};

inline Tensor cut(const Tensor& padded_result, int64_t width) {
  if (padded_result.size(1) == width) return padded_result;
  Tensor view = padded_result;
  view = torch::stable::narrow(view, 1, 0, width);
  return torch::stable::contiguous(view);
}

// grad [samples, out] with zeros up to the padded width.
inline Tensor pad_out(const Tensor& grad, int64_t width, DType compute) {
  const Tensor wide = plain(grad, compute);
  if (wide.size(1) == width) return wide;
  Tensor to = torch::stable::new_zeros(wide, {wide.size(0), width});
  Tensor inside = torch::stable::narrow(to, 1, 0, wide.size(1));
  torch::stable::copy_(inside, wide);
  return to;
}

using WeightGrads =
    std::tuple<Tensor, Tensor, Tensor, Tensor>;  // of x, coef, scale, base_weight; [0] where not asked for

// What a backward op is asked for: a gradient of x, one of the weights.
constexpr int64_t kWantsInput = 1, kWantsWeights = 2;

}  // namespace kd
