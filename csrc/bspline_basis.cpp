#include "bspline_basis.h"

#include "common/grid_check.h"

KD_DECLARE_KERNELS(bspline_basis, BasisArgs)

namespace kd {

static Tensor bspline_basis(const Tensor& x, const Tensor& grid, int64_t degree, int64_t derivative,
                            int64_t extrapolation) {
  const DType compute = compute_type(x, x);
  const Tensor points = plain(x, compute), knots = plain(grid, compute);
  check_shapes(points, knots, degree, extrapolation);
  if (derivative < 0) throw std::invalid_argument("kdfast: derivative must not be negative");
  check_grid(knots, degree);
  const int64_t samples = x.size(0), features = x.size(1), count = grid.size(1);
  Tensor out = fresh(points, {samples, features, count - degree - 1}, compute);
  const int order = static_cast<int>(derivative <= kMaxDegree ? derivative : kMaxDegree + 1);
  const BasisArgs args = {compute,
                          samples,
                          features,
                          count,
                          static_cast<int>(degree),
                          order,
                          static_cast<Extrapolation>(extrapolation),
                          points.data_ptr(),
                          knots.data_ptr(),
                          out.data_ptr()};
  if (samples * features > 0) launch(KD_KERNELS(bspline_basis), args, Pass::kForward, features * 512, x);
  return as_type_of(out, x);
}

}  // namespace kd

KD_SCHEMA(m) {
  m.def("bspline_basis(Tensor x, Tensor grid, int degree, int derivative, int extrapolation) -> Tensor");
}
KD_IMPLEMENTATION(m) { m.impl("bspline_basis", TORCH_BOX(&kd::bspline_basis)); }
