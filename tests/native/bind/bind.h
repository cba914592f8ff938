// What the files of the Python module share: arrays as kernel arguments, and their place in the module.
// Dtypes: float32, float64, float16, and uint16, which holds the bits of bfloat16.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
#include <string>
#include <vector>

#include "../../../csrc/common/platform.h"
#include "../device/cuda_runtime.h"

namespace py = pybind11;
using namespace py::literals;

// The bytes between an array's first and last element, whatever the signs of its strides, become device
// memory.
inline void add_array(emulated::DeviceArrays& arrays, const py::array& x, bool writable,
                      const std::string& name) {
  if (x.size() == 0) return;
  py::ssize_t low = 0, high = x.itemsize();
  for (py::ssize_t d = 0; d < x.ndim(); ++d) {
    const py::ssize_t reach = x.strides(d) * (x.shape(d) - 1);
    (reach < 0 ? low : high) += reach;
  }
  arrays.add(static_cast<const char*>(x.data()) + low, static_cast<std::size_t>(high - low), writable, name);
}

inline kd::DType dtype_of(const py::array& x) {
  const char kind = x.dtype().kind();
  if (kind == 'u' && x.itemsize() == 2) return kd::DType::kBFloat16;
  if (kind == 'f' && x.itemsize() == 2) return kd::DType::kFloat16;
  if (kind == 'f' && x.itemsize() == 4) return kd::DType::kFloat32;
  if (kind == 'f' && x.itemsize() == 8) return kd::DType::kFloat64;
  throw std::invalid_argument("arrays must be float64, float32, float16 or uint16 (bfloat16)");
}

// An array argument that may be None.
using Maybe = std::optional<py::array>;

// The arrays of one run of kernels, which may touch them while this object lives.
class Arguments {
 public:
  const void* in(const Maybe& x, const std::string& name) {
    if (x) add_array(arrays_, *x, false, name);
    return x ? x->data() : nullptr;
  }
  void* out(const Maybe& x, const std::string& name) {
    if (x) add_array(arrays_, *x, true, name);
    return x ? const_cast<void*>(x->data()) : nullptr;
  }

 private:
  emulated::DeviceArrays arrays_;
};

// A file of this folder adds its functions to the module with `const Binding binding(bind);` where
// bind(module) defines them: nothing else names the file.
class Binding {
 public:
  explicit Binding(void (*bind)(py::module_&)) { all().push_back(bind); }
  static std::vector<void (*)(py::module_&)>& all() {
    static std::vector<void (*)(py::module_&)> list;
    return list;
  }
};
