// The formulas of csrc for numpy: math.h on arrays at each CPU level, and a divergence's row, part by part.
#include "formulas.h"

#include <algorithm>
#include <map>
#include <vector>

#include "bind.h"
#include "divergence_headers.h"  // csrc/X.h of every divergence: written by CMake

extern "C" const FormulasOfLevel kd_formulas_baseline, kd_formulas_avx2, kd_formulas_avx512;

namespace {

const std::map<std::string, Function> functions = {{"exp", Function::kExp},
                                                   {"exp_below", Function::kExpBelow},
                                                   {"expm1", Function::kExpm1},
                                                   {"log", Function::kLog},
                                                   {"log1p", Function::kLog1p},
                                                   {"phi", Function::kPhi},
                                                   {"phi_series", Function::kPhiSeries}};

// Levels that this processor can run.
std::map<std::string, const FormulasOfLevel*> levels() {
  __builtin_cpu_init();
  std::map<std::string, const FormulasOfLevel*> found = {{"baseline", &kd_formulas_baseline}};
  if (__builtin_cpu_supports("x86-64-v3")) found["avx2"] = &kd_formulas_avx2;
  if (__builtin_cpu_supports("x86-64-v4")) found["avx512"] = &kd_formulas_avx512;
  return found;
}

template <class N>
py::array_t<N> evaluate(const std::string& name, const py::array_t<N, py::array::c_style>& x,
                        const std::string& level, bool vector) {
  const FormulasOfLevel* formulas = levels().at(level);
  std::vector<N> in(static_cast<std::size_t>(x.size() + 15) / 16 * 16, N(0)), out(in.size());
  std::copy(x.data(), x.data() + x.size(), in.begin());
  const auto n = static_cast<int64_t>(in.size());
  if constexpr (sizeof(N) == 4)
    formulas->single(functions.at(name), vector, in.data(), out.data(), n);
  else
    formulas->wide(functions.at(name), vector, in.data(), out.data(), n);
  return py::array_t<N>(x.size(), out.data());
}

py::array_t<float> widen(const py::array& x, const std::string& level) {
  py::array_t<float> out(x.size());
  const kd::DType dtype = x.dtype().kind() == 'u' ? kd::DType::kBFloat16 : kd::DType::kFloat16;
  levels().at(level)->to_float(x.data(), dtype, out.mutable_data(), x.size());
  return out;
}

py::array_t<uint16_t> narrow(const py::array_t<float, py::array::c_style>& x, const std::string& to,
                             const std::string& level) {
  py::array_t<uint16_t> out(x.size());
  const kd::DType dtype = to == "bfloat16" ? kd::DType::kBFloat16 : kd::DType::kFloat16;
  levels().at(level)->from_float(x.data(), out.mutable_data(), dtype, x.size());
  return out;
}

// ---- A divergence's row
// ---------------------------------------------------------------------------------------------

template <class N>
using Numbers = py::array_t<N, py::array::c_style>;

// Statistics travel as 6 numbers, rows as 8, in the order of the structs.
template <class Struct, class N>
Numbers<N> to_numbers(const Struct& s) {
  return Numbers<N>(sizeof(Struct) / sizeof(N), reinterpret_cast<const N*>(&s));
}
template <class Struct, class N>
Struct from_numbers(const Numbers<N>& x) {
  if (x.size() * sizeof(N) != sizeof(Struct)) throw std::invalid_argument("wrong number of numbers");
  Struct s;
  std::copy(x.data(), x.data() + x.size(), reinterpret_cast<N*>(&s));
  return s;
}

template <class N>
Numbers<N> statistics(const Numbers<N>& student, const Numbers<N>& teacher, N shift, N temperature) {
  kd::Statistics<N> part = kd::no_statistics<N>();
  for (py::ssize_t i = 0; i < student.size(); ++i) {
    const N s = student.at(i), t = teacher.at(i), inverse = 1 / temperature;
    kd::raise(part, kd::larger(s, part.student_max), kd::larger(t, part.teacher_max), inverse);
    kd::add<false>(part, s, t, shift, inverse);
  }
  return to_numbers<kd::Statistics<N>, N>(part);
}

template <class N>
Numbers<N> merge(const Numbers<N>& a, const Numbers<N>& b, N temperature) {
  using S = kd::Statistics<N>;
  return to_numbers<S, N>(kd::merge(from_numbers<S, N>(a), from_numbers<S, N>(b), 1 / temperature));
}

template <class N>
Numbers<N> finish(const Numbers<N>& part, N shift) {
  return to_numbers<kd::Row<N>, N>(kd::finish(from_numbers<kd::Statistics<N>, N>(part), shift));
}

template <class F, class N>
py::tuple evaluate_row(const F& formula, kd::Row<N> row, const Numbers<N>& student, const Numbers<N>& teacher,
                       N temperature) {
  const N inverse = 1 / temperature;
  auto at = [&](py::ssize_t i) {
    const N s = student.at(i), t = teacher.at(i);
    return row.regime == kd::kNear ? kd::element<true>(row, s, t, inverse)
                                   : kd::element<false>(row, s, t, inverse);
  };
  N value = 0;
  for (py::ssize_t i = 0; i < student.size(); ++i) {
    value += formula.value(at(i));
    row.sum += formula.summand(at(i));
  }
  Numbers<N> gradient(student.size());
  for (py::ssize_t i = 0; i < student.size(); ++i)
    gradient.mutable_at(i) = formula.gradient(at(i), row.sum) * inverse;
  return py::make_tuple(value, gradient);
}

// (value, gradient by the student) of one row whose statistics are known.
template <class N>
py::tuple row_of(const std::string& name, const Numbers<N>& row, const Numbers<N>& student,
                 const Numbers<N>& teacher, N temperature, double param) {
  const auto state = from_numbers<kd::Row<N>, N>(row);
#define KD_DIVERGENCE(op, Formula) \
  if (name == #op) return evaluate_row(kd::Formula<N>{param}, state, student, teacher, temperature);
#include "divergences.inc"
#undef KD_DIVERGENCE
  throw std::invalid_argument("no divergence is called " + name);
}

template <class N>
void bind_type(py::module_& m, const std::string& suffix) {
  m.def(("formula_" + suffix).c_str(), &evaluate<N>, "name"_a, "x"_a, py::kw_only(), "level"_a, "vector"_a);
  m.def(("statistics_" + suffix).c_str(), &statistics<N>, "student"_a, "teacher"_a, "shift"_a,
        "temperature"_a);
  m.def(("merge_" + suffix).c_str(), &merge<N>, "a"_a, "b"_a, "temperature"_a);
  m.def(("finish_" + suffix).c_str(), &finish<N>, "part"_a, "shift"_a);
  m.def(("row_" + suffix).c_str(), &row_of<N>, "name"_a, "row"_a, "student"_a, "teacher"_a, "temperature"_a,
        "param"_a);
}

void bind(py::module_& m) {
  std::vector<std::string> names;
  for (const auto& [name, formulas] : levels()) names.push_back(name);
  m.attr("LEVELS") = names;
  bind_type<float>(m, "float32");
  bind_type<double>(m, "float64");
  m.def("widen", &widen, "x"_a, "level"_a, "float16, or uint16 with the bits of bfloat16, to float32");
  m.def("narrow", &narrow, "x"_a, "to"_a, "level"_a, "float32 to the bits of float16 or bfloat16");
}

const Binding binding(bind);

}  // namespace
