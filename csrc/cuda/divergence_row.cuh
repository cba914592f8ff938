// One row of a divergence on the GPU: a team of threads takes it through the passes of common/divergence.h.
//
// Forward reads the row, keeps what fits in shared memory, and comes back over it from the end, so that what
// did not fit is likely still in the L2 cache. With a gradient to make, inputs are read once or twice and
// nothing else is written.
#pragma once

#include "divergence_plan.cuh"
#include "fold.cuh"

namespace kd {
namespace {

template <class F, class L>
class RowOfTeam {
  using A = typename L::Number;
  using Raw = typename L::Raw;
  static constexpr int kElements = L::kElements;

 public:
  KD_DEVICE RowOfTeam(const DivergenceLaunch& p, Team<A>& team, Raw* cache, int64_t row)
      : args_(p.args),
        formula_{p.args.param},
        inverse_temperature_(static_cast<A>(1 / p.args.temperature)),
        team_(team),
        cache_(cache),
        cached_steps_(p.cached_steps),
        row_(row),
        student_at_(row_offset(args_.shape, args_.student, row)),
        teacher_at_(row_offset(args_.shape, args_.teacher, row)),
        grad_at_(args_.grad.data != nullptr ? row_offset(args_.shape, args_.grad, row) : 0),
        layout_(args_, student_at_),
        steps_(layout_.steps(team.size())) {}

  KD_DEVICE void forward() {
    const A weight = weight_of_row();
    if (weight == A(0) || steps_ == 0) return drop();
    collect();
    if (state_.regime == A(kUncounted)) return drop();
    const A total = args_.mask_sum != nullptr ? *static_cast<const A*>(args_.mask_sum) : A(1);
    factor_ = weight * (total == A(0) ? A(0) : static_cast<A>(args_.grad_factor) / total);
    if (state_.regime == A(kNear))
      evaluate<true>();
    else
      evaluate<false>();
    A sums[2] = {value_, summand_};
    team_.sum(sums);
    state_.sum = sums[1];
    if (F::kNeedsSum && args_.grad.data != nullptr) differentiate();
    if (team_.rank() == 0) write_row(sums[0] * static_cast<A>(args_.scale) * weight, weight);
  }

  KD_DEVICE void backward() {
    const A weight = weight_of_row();
    const A upstream = static_cast<const A*>(args_.upstream)[row_ * args_.upstream_stride];
    const A common = static_cast<A>(args_.scale / args_.temperature) * *static_cast<const A*>(args_.norm);
    factor_ = weight == A(0) ? A(0) : weight * common * upstream;
    const A* saved = static_cast<const A*>(args_.state) + row_ * kRowState;
    state_ = {saved[0], saved[1], saved[2], saved[3], saved[4], saved[5], saved[6], saved[7]};
    if (factor_ == A(0) || state_.regime == A(kUncounted)) return write_zeros();
    differentiate();
  }

 private:
  KD_DEVICE A weight_of_row() const {
    return args_.mask != nullptr ? static_cast<const A*>(args_.mask)[row_] : A(1);
  }

  // ---- One step of the team: kElements classes for each thread ------------------------------------

  KD_DEVICE int64_t first_class(int step, int j) const {
    return layout_.first_class(step, j, team_.size(), team_.rank());
  }
  KD_DEVICE Raw& cached(int step, int side, int j) const {
    return cache_[((step * 2 + side) * L::kPacks + j) * team_.size() + team_.rank()];
  }

  KD_DEVICE void read_from_memory(int step) {
    for (int j = 0; j < L::kPacks; ++j) {
      student_[j] = layout_.load(args_.student, student_at_, first_class(step, j));
      teacher_[j] = layout_.load(args_.teacher, teacher_at_, first_class(step, j));
    }
  }
  KD_DEVICE void keep(int step) const {
    if (step >= cached_steps_) return;
    for (int j = 0; j < L::kPacks; ++j) cached(step, 0, j) = student_[j], cached(step, 1, j) = teacher_[j];
  }
  KD_DEVICE void read_again(int step) {
    if (step >= cached_steps_) return read_from_memory(step);
    for (int j = 0; j < L::kPacks; ++j) student_[j] = cached(step, 0, j), teacher_[j] = cached(step, 1, j);
  }

  KD_DEVICE A student(int i) const { return L::number(student_[i / L::kPack], i % L::kPack); }
  KD_DEVICE A teacher(int i) const { return L::number(teacher_[i / L::kPack], i % L::kPack); }

  // ---- The passes ---------------------------------------------------------------------------------

  KD_DEVICE void collect() {
    const A shift =
        first_shift(layout_.one(args_.student, student_at_, 0), layout_.one(args_.teacher, teacher_at_, 0));
    Statistics<A> part = no_statistics<A>();
    for (int step = 0; step < steps_; ++step) {
      read_from_memory(step);
      keep(step);
      A student_max = part.student_max, teacher_max = part.teacher_max;
      for (int i = 0; i < kElements; ++i) {
        student_max = larger(student(i), student_max);
        teacher_max = larger(teacher(i), teacher_max);
      }
      if (student_max > part.student_max || teacher_max > part.teacher_max) {
        raise(part, student_max, teacher_max, inverse_temperature_);
      }
      // A step's sums are taken apart and joined once: fewer roundings than one long chain of additions.
      Statistics<A> taken = {student_max, 0, teacher_max, 0, 0, part.distance};
      if (part.distance > A(kNearLimit))
        add_step<true>(taken, shift);
      else
        add_step<false>(taken, shift);
      part.student_sum += taken.student_sum;
      part.teacher_sum += taken.teacher_sum;
      part.excess += taken.excess;
      part.distance = taken.distance;
    }
    A most[3] = {part.student_max, part.teacher_max, part.distance};
    team_.largest(most);
    raise(part, most[0], most[1], inverse_temperature_);
    A sums[3] = {part.student_sum, part.teacher_sum, part.excess};
    team_.sum(sums);
    state_ = finish(Statistics<A>{most[0], sums[0], most[1], sums[1], sums[2], most[2]}, shift);
  }

  template <bool known_far>
  KD_DEVICE void add_step(Statistics<A>& part, A shift) const {
    for (int i = 0; i < kElements; ++i)
      add<known_far>(part, student(i), teacher(i), shift, inverse_temperature_);
  }

  // From the last step, which is still in registers, to the first.
  template <bool near>
  KD_DEVICE void evaluate() {
    const bool with_gradient = !F::kNeedsSum && args_.grad.data != nullptr;
    for (int step = steps_ - 1; step >= 0; --step) {
      if (step != steps_ - 1) read_again(step);
      A grad[kElements];
      for (int i = 0; i < kElements; ++i) {
        const Element<A> x = element<near>(state_, student(i), teacher(i), inverse_temperature_);
        value_ += formula_.value(x);
        if constexpr (F::kNeedsSum) summand_ += formula_.summand(x);
        grad[i] = F::kNeedsSum ? A(0) : scaled(formula_.gradient(x, state_.sum));
      }
      if (with_gradient) write_grad(step, grad);
    }
  }

  KD_DEVICE void differentiate() {
    if (state_.regime == A(kNear))
      differentiate_as<true>();
    else
      differentiate_as<false>();
  }
  template <bool near>
  KD_DEVICE void differentiate_as() {
    for (int step = 0; step < steps_; ++step) {
      read_again(step);
      A grad[kElements];
      for (int i = 0; i < kElements; ++i) {
        const Element<A> x = element<near>(state_, student(i), teacher(i), inverse_temperature_);
        grad[i] = scaled(formula_.gradient(x, state_.sum));
      }
      write_grad(step, grad);
    }
  }

  // 0 by selection where the factor is 0: the gradient may be infinite or NaN.
  KD_DEVICE A scaled(A gradient) const { return factor_ == A(0) ? A(0) : gradient * factor_; }

  // ---- Outputs ------------------------------------------------------------------------------------

  KD_DEVICE void write_grad(int step, const A* grad) const {
    for (int j = 0; j < L::kPacks; ++j) {
      layout_.store(args_.grad, grad_at_, first_class(step, j), grad + j * L::kPack);
    }
  }
  KD_DEVICE void write_zeros() const {
    const A zeros[kElements] = {};
    for (int step = 0; step < steps_; ++step) write_grad(step, zeros);
  }
  KD_DEVICE void write_row(A value, A weight) const {
    static_cast<A*>(args_.row_value)[row_] = value;
    if (args_.row_weight != nullptr) static_cast<A*>(args_.row_weight)[row_] = weight;
    if (args_.state == nullptr) return;
    const Row<A>& s = state_;
    const A numbers[kRowState] = {s.student_max, s.student_inverse_sum, s.teacher_max, s.teacher_inverse_sum,
                                  s.shift,       s.log_ratio,           s.regime,      s.sum};
    for (int i = 0; i < kRowState; ++i) static_cast<A*>(args_.state)[row_ * kRowState + i] = numbers[i];
  }
  // A row that does not count: nothing more of it is read.
  KD_DEVICE void drop() {
    state_ = {0, 0, 0, 0, 0, 0, A(kUncounted), 0};
    if (args_.grad.data != nullptr) write_zeros();
    if (team_.rank() == 0) write_row(0, 0);
  }

  const DivergenceArgs& args_;
  const F formula_;
  const A inverse_temperature_;
  Team<A>& team_;
  Raw* const cache_;
  const int cached_steps_;
  const int64_t row_, student_at_, teacher_at_, grad_at_;
  const L layout_;
  const int steps_;
  Row<A> state_;
  A factor_ = 0, value_ = 0, summand_ = 0;
  Raw student_[L::kPacks], teacher_[L::kPacks];
};

}  // namespace
}  // namespace kd
