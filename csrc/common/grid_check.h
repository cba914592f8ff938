// What a grid must be, checked by contents on the CPU. A GPU's grid is never read back: the kernels take any.
#pragma once

#include "bspline.h"
#include "op.h"

namespace kd {

// Text is made for a bad grid alone: a layer checks every feature at every call.
[[noreturn]] inline void refuse_grid(int64_t feature, const std::string& reason) {
  throw std::invalid_argument("grid of feature " + std::to_string(feature) + " " + reason +
                              "; needed are finite knots in ascending order, repeats allowed, that span an "
                              "interval");
}

template <class A>
void check_knots(const A* grid, int64_t features, int64_t knots, int64_t degree) {
  for (int64_t i = 0; i < features; ++i) {
    const A* g = grid + i * knots;
    for (int64_t m = 0; m < knots; ++m) {
      if (!(g[m] - g[m] == 0)) refuse_grid(i, "has a NaN or infinite knot at " + std::to_string(m));
      if (m > 0 && g[m] < g[m - 1])
        refuse_grid(i, "is not sorted: knot " + std::to_string(m) + " is below the one before");
    }
    if (!(g[degree] < g[knots - 1 - degree]))
      refuse_grid(i, "is constant between knots " + std::to_string(degree) + " and " +
                         std::to_string(knots - 1 - degree));
  }
}

// grid: contiguous [features, knots], float32 or float64.
inline void check_grid([[maybe_unused]] const Tensor& grid, [[maybe_unused]] int64_t degree) {
#ifdef KD_DEVICE_CPU
  const int64_t features = grid.size(0), knots = grid.size(1);
  if (dtype_of(grid) == DType::kFloat64)
    check_knots(static_cast<const double*>(grid.data_ptr()), features, knots, degree);
  else
    check_knots(static_cast<const float*>(grid.data_ptr()), features, knots, degree);
#endif
}

// Raw ops may be called with anything; the kernels index by these.
inline void check_shapes(const Tensor& x, const Tensor& grid, int64_t degree, int64_t extrapolation) {
  if (x.dim() != 2 || grid.dim() != 2 || grid.size(0) != x.size(1))
    throw std::invalid_argument("kdfast: x must be [samples, features] and grid [features, knots]");
  if (degree < 0 || degree > kMaxDegree || grid.size(1) < 2 * degree + 2)
    throw std::invalid_argument(
        "kdfast: degree must be 0 to 5, and grid hold at least 2 * degree + 2 knots a feature");
  if (extrapolation < 0 || extrapolation > 2)
    throw std::invalid_argument("kdfast: extrapolation must be 0, 1 or 2");
}

// x in the compute type, without gaps.
inline Tensor plain(const Tensor& x, DType compute) {
  return torch::stable::contiguous(dtype_of(x) == compute ? x : torch::stable::to(x, scalar_type(compute)));
}

inline Tensor as_type_of(const Tensor& result, const Tensor& like) {
  return result.scalar_type() == like.scalar_type() ? result : torch::stable::to(result, like.scalar_type());
}

}  // namespace kd
