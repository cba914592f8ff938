// What the files of the Python module share.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>

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

void bind_device(py::module_& m);
void bind_divergence(py::module_& m);
void bind_formulas(py::module_& m);
void bind_samples(py::module_& m);
