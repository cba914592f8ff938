// The sample kernels of ../planted by name: module.run_sample(name, x, y, rows, cols, stride).
#include <map>
#include <string>

#include "../planted/sample.h"
#include "bind.h"

#define KD_SAMPLES(X)                                                                                        \
  X(row_sum)                                                                                                 \
  X(row_sum_tree)                                                                                            \
  X(rotate_in_warp) X(histogram) X(collectives) X(missing_barrier) X(shared_race) X(short_tail) X(long_tail) \
      X(int32_offset) X(wrong_mask) X(absent_lanes) X(barrier_in_branch) X(two_barriers) X(unwritten_output) \
          X(misaligned_load) X(written_input) X(past_shared) X(unset_shared) X(race_of_blocks)

#define KD_DECLARE(name) void run_##name(const SampleArgs& args);
KD_SAMPLES(KD_DECLARE)

namespace {

#define KD_ENTRY(name) {#name, &run_##name},
const std::map<std::string, void (*)(const SampleArgs&)> samples = {KD_SAMPLES(KD_ENTRY)};

void run_sample(const std::string& name, const py::array& x, py::array& y, int64_t rows, int64_t cols,
                int64_t stride) {
  emulated::DeviceArrays arrays;
  add_array(arrays, x, false, "x");
  add_array(arrays, y, true, "y");
  samples.at(name)(
      {static_cast<const float*>(x.data()), static_cast<float*>(y.mutable_data()), rows, cols, stride});
}

}  // namespace

void bind_samples(py::module_& m) {
  m.def("run_sample", &run_sample, "name"_a, "x"_a, "y"_a, py::kw_only(), "rows"_a, "cols"_a, "stride"_a);
}
