// Settings and counters of the emulated device.
#include "bind.h"

namespace {

emulated::Order order_named(const std::string& name) {
  if (name == "in_order") return emulated::Order::kInOrder;
  if (name == "reversed") return emulated::Order::kReversed;
  if (name == "shuffled") return emulated::Order::kShuffled;
  throw std::invalid_argument("order must be in_order, reversed or shuffled, got " + name);
}

void set_device(const std::string& order, std::uint64_t seed, bool check_races, int multiprocessors) {
  emulated::settings().order = order_named(order);
  emulated::settings().seed = seed;
  emulated::settings().check_races = check_races;
  emulated::settings().multiprocessors = multiprocessors;
}

py::dict read_counters() {
  const emulated::Counters& c = emulated::counters();
  return py::dict("launches"_a = c.launches, "blocks"_a = c.blocks, "threads"_a = c.threads,
                  "barriers"_a = c.barriers, "collectives"_a = c.collectives, "accesses"_a = c.accesses);
}

void bind(py::module_& m) {
  py::register_exception<emulated::Error>(m, "DeviceError", PyExc_RuntimeError);
  m.attr("MODE") = KD_NATIVE_MODE;  // check, sanitize or debug
  m.def("set_device", &set_device, py::kw_only(), "order"_a = "in_order", "seed"_a = 0,
        "check_races"_a = true, "multiprocessors"_a = 3,
        "order: of threads and blocks, in_order, reversed or shuffled (by seed)");
  m.def("counters", &read_counters, "what has run since reset_counters()");
  m.def("reset_counters", [] { emulated::counters() = {}; });
  m.def("kernels_run", &emulated::kernels_run,
        "the kernels that have run to their end: the threads of the largest block of each");
}

const Binding binding(bind);

}  // namespace
