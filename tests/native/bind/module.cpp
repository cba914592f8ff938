// kd_native: the CUDA kernels on the emulated device, and the formulas of csrc, for numpy.
#include "bind.h"

PYBIND11_MODULE(kd_native, m) {
  for (const auto bind : Binding::all()) bind(m);
}
