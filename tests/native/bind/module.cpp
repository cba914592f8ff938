// kd_native: the CUDA kernels on the emulated device, and the formulas of csrc, for numpy.
#include "bind.h"

PYBIND11_MODULE(kd_native, m) {
  bind_device(m);
  bind_divergence(m);
  bind_formulas(m);
  bind_samples(m);
}
