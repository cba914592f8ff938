// The passes of the divergence family over one block of rows of classes (blocks.h), in vectors.
#pragma once

#include "../common/level.h"
#include "blocks.h"
#include "lanes.h"

namespace kd {
namespace {

constexpr int64_t kProbe = 4;  // classes between two looks at whether an item is known to be far

// Regimes of a whole vector, beside kFar and kNear: lanes of both; far lanes whose exponentials were not
// kept.
constexpr int kMixed = 2, kFarAnew = 3;

// What the passes over one block read: `steps` vectors of either side, and their exponentials, kept between
// passes in vectors `kept_step` apart.
template <class A>
struct Group {
  Block<A> student, teacher;
  A *student_exp, *teacher_exp;
  int64_t kept_step, steps;
};

// What pass 2 sums over the classes: the formula's value, and what its gradient needs.
template <class V>
struct Sums {
  V value, summand;
};

template <class F, class A>
struct Fold : Blocks<A> {
  using V = typename VectorOf<A>::Type;
  using Blocks<A>::kLanes;

  const F formula;
  const V inverse_temperature;

  explicit Fold(const DivergenceArgs& a)
      : Blocks<A>{a}, formula{a.param}, inverse_temperature(fill<V>(1 / a.temperature)) {}

  // Pass 1; `only`: the item's only block, whose exponentials are kept. Until it is known that the item is
  // far, a few classes at a time.
  template <bool rows_in_lanes, bool only>
  KD_FN void gather(Statistics<V>& total, const Group<A>& block, V shift) const {
    V student_max = total.student_max, teacher_max = total.teacher_max;
    for (int64_t i = 0; i < block.steps; ++i) {
      student_max = larger(block.student.at(i), student_max);
      teacher_max = larger(block.teacher.at(i), teacher_max);
    }
    if constexpr (!rows_in_lanes)
      student_max = fill<V>(largest_lane(student_max)), teacher_max = fill<V>(largest_lane(teacher_max));
    // Sums of a block are taken apart and joined once: fewer roundings than one long chain of additions.
    Statistics<V> part = no_statistics<V>();
    part.student_max = student_max;
    part.teacher_max = teacher_max;
    part.distance = total.distance;
    int64_t i = 0;
    for (; i < block.steps && !is_far<rows_in_lanes>(part.distance); i += kProbe)
      add_steps<false, only>(part, block, i, i + kProbe < block.steps ? i + kProbe : block.steps, shift);
    add_steps<true, only>(part, block, i, block.steps, shift);
    raise(total, student_max, teacher_max, inverse_temperature);
    total.student_sum += part.student_sum;
    total.teacher_sum += part.teacher_sum;
    total.excess += part.excess;
    total.distance = part.distance;
  }

  template <bool known_far, bool only>
  KD_FN void add_steps(Statistics<V>& part, const Group<A>& block, int64_t first, int64_t end,
                       V shift) const {
    for (int64_t i = first; i < end; ++i) {
      const Exponentials<V> e =
          add<known_far>(part, block.student.at(i), block.teacher.at(i), shift, inverse_temperature);
      if constexpr (only) keep(block, i, e);
    }
  }

  // What pass 1 keeps, for a block of several, or in the backward pass.
  KD_FN void exponentiate(const Row<V>& row, const Group<A>& block) const {
    for (int64_t i = 0; i < block.steps; ++i)
      keep(block, i,
           exponentials(row.student_max, row.teacher_max, block.student.at(i), block.teacher.at(i),
                        inverse_temperature));
  }

  static KD_FN void keep(const Group<A>& block, int64_t i, Exponentials<V> e) {
    store(block.student_exp + i * block.kept_step, e.student);
    store(block.teacher_exp + i * block.kept_step, e.teacher);
  }
  static KD_FN Exponentials<V> kept(const Group<A>& block, int64_t i) {
    return {load<V>(block.student_exp + i * block.kept_step),
            load<V>(block.teacher_exp + i * block.kept_step)};
  }

  // One far lane makes its row far; where lanes are rows, each must be.
  template <bool rows_in_lanes>
  static KD_FN bool is_far(V distance) {
    const auto far = distance > fill<V>(kNearLimit);
    return rows_in_lanes ? every_lane(far) : any_lane(far);
  }

  // An element in the regime of its lanes: all near, all far, or each its own.
  template <int regime>
  KD_FN Element<V> at(const Row<V>& row, const Group<A>& block, int64_t i) const {
    const V s = block.student.at(i), t = block.teacher.at(i);
    if constexpr (regime == kFarAnew) return element<false>(row, s, t, inverse_temperature);
    const Exponentials<V> e = kept(block, i);
    if constexpr (regime == kNear) return element<true>(row, s, t, e, inverse_temperature);
    Element<V> far = element<false>(row, s, t, e, inverse_temperature);
    if constexpr (regime == kFar) return far;
    const Element<V> near = element<true>(row, s, t, e, inverse_temperature);
    const auto is_near = row.regime == fill<V>(kNear);
    far.d = select(is_near, near.d, far.d);
    far.q = select(is_near, near.q, far.q);
    return far;
  }

  // Values, and the gradient as well where the formula needs no sum for it.
  template <int regime, bool with_gradient>
  KD_FN void sum(Sums<V>& total, const Row<V>& of_row, const Group<A>& block, V factor,
                 const GradBlock<A>& grad) const {
    const Row<V> row = of_row;  // where no store to the gradient can change it
    const Scaled scaled(row, factor);
    Sums<V> part = {fill<V>(0), fill<V>(0)};
    for (int64_t i = 0; i < block.steps; ++i) {
      const Element<V> x = at<regime>(row, block, i);
      part.value += formula.value(x);
      if constexpr (F::kNeedsSum) part.summand += formula.summand(x);
      if constexpr (with_gradient) grad.put(i, scaled(formula.gradient(x, row.sum)));
    }
    total.value += part.value;
    total.summand += part.summand;
  }

  template <int regime>
  KD_FN void differentiate(const Row<V>& of_row, const Group<A>& block, V factor,
                           const GradBlock<A>& grad) const {
    const Row<V> row = of_row;
    const Scaled scaled(row, factor);
    for (int64_t i = 0; i < block.steps; ++i)
      grad.put(i, scaled(formula.gradient(at<regime>(row, block, i), row.sum)));
  }

 private:
  // 0 whatever the gradient is where a row is dropped: its factor is 0 and its elements may be NaN.
  struct Scaled {
    using Bits = typename Number<V>::Int;
    V factor;
    Bits counts;

    KD_FN Scaled(const Row<V>& row, V factor)
        : factor(factor), counts((row.regime != fill<V>(kUncounted)) & (factor != fill<V>(0))) {}
    KD_FN V operator()(V gradient) const { return bit_cast<V>(bit_cast<Bits>(gradient * factor) & counts); }
  };
};

}  // namespace
}  // namespace kd
