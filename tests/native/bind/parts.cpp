// The formulas of csrc that are no divergence's, and the parts of reductions that merge, for numpy: one row
// of numbers in, one row of numbers out, both in the order of the structs.
#include <functional>
#include <map>
#include <stdexcept>
#include <vector>

#include "../../../csrc/box_loss.h"
#include "../../../csrc/class_box_l2.h"
#include "../../../csrc/common/bspline.h"
#include "../../../csrc/dice_diversity.h"
#include "../../../csrc/dist_loss.h"
#include "../../../csrc/dkd_loss.h"
#include "../../../csrc/focal_loss.h"
#include "../../../csrc/kan_edge_stats.h"
#include "../../../csrc/nd_loss.h"
#include "../../../csrc/normalized_mse.h"
#include "../../../csrc/rpn_distill.h"
#include "../../../csrc/soft_bce.h"
#include "bind.h"

namespace {

template <class N>
struct Part {
  int in;
  std::function<std::vector<N>(const N*)> run;
};

// A struct of N alone, as its numbers; and back.
template <class N, class Struct>
std::vector<N> flat(const Struct& s) {
  const N* first = reinterpret_cast<const N*>(&s);
  return std::vector<N>(first, first + sizeof(Struct) / sizeof(N));
}
template <class Struct, class N>
Struct made_of(const N* x) {
  Struct s;
  std::copy(x, x + sizeof(Struct) / sizeof(N), reinterpret_cast<N*>(&s));
  return s;
}

// A point of a loss over pairs: the student's numbers, the teacher's, param[2] -> values, slopes.
template <class F, class N>
Part<N> pairs() {
  constexpr int kNumbers = F::kPairs;
  return {2 * kNumbers + 2, [](const N* x) {
            const double param[2] = {static_cast<double>(x[2 * kNumbers]),
                                     static_cast<double>(x[2 * kNumbers + 1])};
            std::vector<N> out(F::kValues + kNumbers);
            F::at(x, x + kNumbers, param, out.data(), out.data() + F::kValues);
            return out;
          }};
}

// x, then the 2 K knots around it -> the bases, their slopes.
template <int K, class N>
Part<N> bspline() {
  return {1 + 2 * K, [](const N* x) {
            kd::Local<K, N> value, slope;
            kd::value_and_slope(x[0], made_of<kd::Near<K, N>>(x + 1), &value, &slope);
            std::vector<N> out(value.value, value.value + K + 1);
            out.insert(out.end(), slope.value, slope.value + K + 1);
            return out;
          }};
}

template <class N>
std::map<std::string, Part<N>> formulas() {
  return {
      {"soft_bce", pairs<kd::SoftBce, N>()},
      {"box_loss", pairs<kd::BoxLoss, N>()},
      {"class_box_l2", pairs<kd::ClassBoxL2, N>()},
      {"rpn_distill", pairs<kd::RpnDistill, N>()},
      {"bspline1", bspline<1, N>()},
      {"bspline3", bspline<3, N>()},
      {"bspline5", bspline<5, N>()},
      {"silu", {1, [](const N* x) { return std::vector<N>{kd::silu(x[0]), kd::silu_slope(x[0])}; }}},
      // n = -log p, 1 - p, p, gamma -> value, slope by n
      {"focal", {4, [](const N* x) { return flat<N>(kd::focal(x[0], x[1], x[2], x[3])); }}},
      // the teacher's log-odds, what they exceed the student's by -> KL of two classes, Q_y - P_y
      {"two_way", {2, [](const N* x) { return flat<N>(kd::two_way(x[0], x[1])); }}},
      // the teacher's log-odds, the student's -> the same
      {"two_way_plain", {2, [](const N* x) { return flat<N>(kd::two_way_plain(x[0], x[1])); }}},
      // <s,s>, <t,t>, <m,m>, <s,m> -> value, factor of m, factor of s
      {"nd_row",
       {4,
        [](const N* x) {
          const kd::NdRow<N> row = kd::nd_row(made_of<kd::NdSums<N>>(x));
          return std::vector<N>{row.value, row.mean_factor, row.student_factor};
        }}},
      // |z_s|^2, |z_t|^2, eps -> scale, ratio, slope
      {"normalized",
       {3,
        [](const N* x) {
          const kd::Scales<N> scales = kd::scales(x[0], x[1], x[2]);
          return std::vector<N>{scales.scale, scales.ratio, kd::slope(x[0], x[2])};
        }}},
      // Moments, n, the means -> 1 - rho, scale, share
      {"correlation",
       {7,
        [](const N* x) { return flat<N>(kd::correlation(made_of<kd::Moments<N>>(x), x[4], x[5], x[6])); }}},
      // |phi|'s, phi^2's and the variance's upstream gradients, the mean, phi -> dL/dphi
      {"edge_slope", {5, [](const N* x) { return std::vector<N>{made_of<kd::EdgeSlope<N>>(x).at(x[4])}; }}},
  };
}

template <class N>
std::map<std::string, Part<N>> merges() {
  return {
      {"log_add", {2, [](const N* x) { return std::vector<N>{kd::log_add(x[0], x[1])}; }}},
      // two Columns, the second's share of the rows, n m / (n + m) -> Column
      {"join",
       {14,
        [](const N* x) {
          auto column = made_of<kd::Column<N>>(x);
          kd::join(column, made_of<kd::Column<N>>(x + 6), x[12], x[13]);
          return flat<N>(column);
        }}},
      // EdgeSums; sums of |phi| and phi^2, a shift, sums of phi - shift and its square, n, samples before
      {"edge_sums",
       {11,
        [](const N* x) {
          auto sums = made_of<kd::EdgeSums<N>>(x);
          sums.merge(x[4], x[5], x[6], x[7], x[8], x[9], x[10]);
          return flat<N>(sums);
        }}},
  };
}

// x: [rows, numbers] -> [rows, results].
template <class N>
py::array_t<N> part(const std::string& name, const py::array_t<N, py::array::c_style>& x) {
  auto all = formulas<N>();
  all.merge(merges<N>());
  const auto found = all.find(name);
  if (found == all.end()) throw std::invalid_argument("no formula is called " + name);
  if (x.ndim() != 2 || x.shape(1) != found->second.in)
    throw std::invalid_argument(name + " takes rows of " + std::to_string(found->second.in) + " numbers");
  std::vector<N> out;
  for (py::ssize_t i = 0; i < x.shape(0); ++i)
    for (const N number : found->second.run(x.data(i, 0))) out.push_back(number);
  const py::ssize_t rows = x.shape(0), results = rows == 0 ? 0 : static_cast<py::ssize_t>(out.size()) / rows;
  return py::array_t<N>({rows, results}, out.data());
}

template <class Map>
std::vector<std::string> names_of(const Map& map) {
  std::vector<std::string> names;
  for (const auto& [name, part] : map) names.push_back(name);
  return names;
}

// A sample's overlap in double alone: cross, square -> value, W off the diagonal, W on it; the same of a
// pair.
py::tuple ratio_overlap(double cross, double square) {
  const kd::RatioOverlap x = kd::ratio_overlap(cross, square);
  return py::make_tuple(x.value, x.off_diagonal, x.diagonal);
}
py::tuple pair_overlap(double dot, double square_i, double square_j, double pairs) {
  const kd::PairOverlap x = kd::pair_overlap(dot, square_i, square_j, pairs);
  return py::make_tuple(x.value, x.off_diagonal, x.diagonal);
}

void bind(py::module_& m) {
  m.def("part_float32", &part<float>, "name"_a, "x"_a);
  m.def("part_float64", &part<double>, "name"_a, "x"_a);
  m.attr("FORMULAS") = names_of(formulas<double>());
  m.attr("MERGES") = names_of(merges<double>());
  m.def("ratio_overlap", &ratio_overlap, "cross"_a, "square"_a);
  m.def("pair_overlap", &pair_overlap, "dot"_a, "square_i"_a, "square_j"_a, "pairs"_a);
}

const Binding binding(bind);

}  // namespace
