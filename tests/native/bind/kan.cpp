// The CUDA kernels of the B-spline ops, with their arguments from contiguous numpy arrays of one dtype,
// float32 or float64.
#include <map>

#include "../../../csrc/bspline_basis.h"
#include "../../../csrc/kan_edge_stats.h"
#include "../../../csrc/kan_linear.h"
#include "bind.h"

extern "C" void kd_bspline_basis_cuda(const kd::BasisArgs& args, int backward, void* stream);
extern "C" void kd_kan_linear_cuda(const kd::KanArgs& args, int backward, void* stream);
extern "C" void kd_kan_edge_stats_cuda(const kd::EdgeArgs& args, int backward, void* stream);

namespace {

// A dictionary of arrays by name. Each that is asked for is registered with the device; one that is missing
// or None is null.
class Arrays {
 public:
  explicit Arrays(const py::dict& given) : given_(given) {}
  const void* in(const char* name) { return find(name, false); }
  void* out(const char* name) { return find(name, true); }

 private:
  void* find(const char* name, bool writable) {
    if (!given_.contains(name) || given_[name].is_none()) return nullptr;
    const py::array array = given_[name];
    add_array(arrays_, array, writable, name);
    return const_cast<void*>(array.data());
  }
  py::dict given_;
  emulated::DeviceArrays arrays_;
};

void basis(const py::dict& given, int degree, int derivative, int extrapolation) {
  Arrays arrays(given);
  const py::array x = given["x"], grid = given["grid"];
  const kd::BasisArgs args = {dtype_of(x),
                              x.shape(0),
                              x.shape(1),
                              grid.shape(1),
                              degree,
                              derivative,
                              static_cast<kd::Extrapolation>(extrapolation),
                              arrays.in("x"),
                              arrays.in("grid"),
                              arrays.out("out")};
  kd_bspline_basis_cuda(args, 0, nullptr);
}

// What both layers' ops take. `packed` is written by the packing stage alone.
kd::KanArgs layer_of(const py::dict& given, Arrays& arrays, int degree, int extrapolation,
                     kd::KanStage stage) {
  const py::array x = given["x"], coef = given["coef"], grid = given["grid"];
  kd::KanArgs args = {};
  args.stage = stage;
  args.compute = dtype_of(x);
  args.samples = x.shape(0), args.features = x.shape(1), args.out = coef.shape(0), args.knots = grid.shape(1);
  args.degree = degree;
  args.extrapolation = static_cast<kd::Extrapolation>(extrapolation);
  args.splits = given.contains("splits") ? given["splits"].cast<int64_t>() : 1;
  args.x = arrays.in("x"), args.grid = arrays.in("grid"), args.coef = arrays.in("coef");
  args.scale = arrays.in("scale"), args.base_weight = arrays.in("base_weight");
  args.packed = stage == kd::KanStage::kPack ? arrays.out("packed") : const_cast<void*>(arrays.in("packed"));
  return args;
}

void linear(const std::string& name, const py::dict& given, int degree, int extrapolation) {
  static const std::map<std::string, kd::KanStage> stages = {{"pack", kd::KanStage::kPack},
                                                             {"forward", kd::KanStage::kForward},
                                                             {"input_grad", kd::KanStage::kInputGrad},
                                                             {"weight_grad", kd::KanStage::kWeightGrad},
                                                             {"unpack", kd::KanStage::kUnpack}};
  Arrays arrays(given);
  kd::KanArgs args = layer_of(given, arrays, degree, extrapolation, stages.at(name));
  const bool unpacks = args.stage == kd::KanStage::kUnpack, weighs = args.stage == kd::KanStage::kWeightGrad;
  if (args.stage == kd::KanStage::kForward) args.y = arrays.out("y");
  if (args.stage == kd::KanStage::kInputGrad) args.grad_x = arrays.out("grad_x");
  if (args.stage == kd::KanStage::kInputGrad || weighs) args.grad_y = arrays.in("grad_y");
  if (weighs) args.packed_grad = arrays.out("packed_grad");
  if (unpacks) {
    args.packed_grad = const_cast<void*>(arrays.in("packed_grad"));
    args.grad_coef = arrays.out("grad_coef"), args.grad_scale = arrays.out("grad_scale");
    args.grad_base_weight = arrays.out("grad_base_weight");
  }
  kd_kan_linear_cuda(args, 0, nullptr);
}

void edge_stats(bool backward, const py::dict& given, int degree, int extrapolation) {
  Arrays arrays(given);
  kd::EdgeArgs args = {};
  args.layer = layer_of(given, arrays, degree, extrapolation, kd::KanStage::kForward);
  if (backward) {
    args.layer.grad_x = arrays.out("grad_x"), args.layer.packed_grad = arrays.out("packed_grad");
    args.grad_abs = arrays.in("grad_abs"), args.grad_square = arrays.in("grad_square");
    args.grad_variance = arrays.in("grad_variance"), args.mean = const_cast<void*>(arrays.in("mean"));
  } else {
    args.mean_abs = arrays.out("mean_abs"), args.mean_square = arrays.out("mean_square");
    args.variance = arrays.out("variance"), args.mean = arrays.out("mean");
  }
  kd_kan_edge_stats_cuda(args, backward, nullptr);
}

void bind(py::module_& m) {
  m.def("bspline_basis", &basis, "arrays"_a, py::kw_only(), "degree"_a, "derivative"_a = 0,
        "extrapolation"_a = 0);
  m.def("kan_linear", &linear, "stage"_a, "arrays"_a, py::kw_only(), "degree"_a, "extrapolation"_a = 0);
  m.def("kan_edge_stats", &edge_stats, "backward"_a, "arrays"_a, py::kw_only(), "degree"_a,
        "extrapolation"_a = 0);
}

const Binding binding(bind);

}  // namespace
