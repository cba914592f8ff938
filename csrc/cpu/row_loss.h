// Walks the rows of a loss on the CPU: a row's logits lie side by side in the compute type, in place or
// copied, and stay in the cache while the formula goes over them. The last vector, where the row cuts it
// short, is a padded copy.
#pragma once

#include <stdlib.h>

#include "../common/convert.h"
#include "../common/level.h"
#include "../common/row_loss.h"
#include "lanes.h"

namespace kd {
namespace {

constexpr int64_t kPadding =
    64 / static_cast<int64_t>(sizeof(float));  // classes; a whole vector at every level

template <class Number_>
class RowWalker {
 public:
  using A = Number_;
  using N = typename VectorOf<A>::Type;
  using Index = typename Number<N>::Int;
  static constexpr int64_t kLanes = Number<N>::kLanes;

  RowWalker(const RowLossArgs& args, double teacher_padding) : args_(args), padding_(teacher_padding) {
    padded_ = (args.shape.classes + kPadding - 1) / kPadding * kPadding;
    whole_ = args.shape.classes / kLanes * kLanes;
    memory_ = static_cast<A*>(aligned_alloc(64, sizeof(A) * static_cast<size_t>(padded_) * (4 + kKept)));
    for (int l = 0; l < kLanes; ++l) lane_[l] = l;
    held_ = memory_ + 3 * padded_;
    for (int64_t c = 0; c < padded_; ++c) held_[c] = 0;
  }
  ~RowWalker() { free(memory_); }
  RowWalker(const RowWalker&) = delete;
  RowWalker& operator=(const RowWalker&) = delete;

  int64_t classes() const { return args_.shape.classes; }
  int64_t row() const { return row_; }
  bool wants_grad() const { return args_.grad.data != nullptr; }

  void start(int64_t row) {
    row_ = row;
    student_ = fetch(args_.student, classes(), memory_, -__builtin_huge_val(), student_cut_);
    if (args_.teacher.data == nullptr) {
      teacher_ = student_;
      teacher_cut_ = student_cut_;
    } else {
      teacher_ = fetch(args_.teacher, args_.teacher_classes, memory_ + padded_, padding_, teacher_cut_);
    }
    if (wants_grad()) start_grad(row);
  }
  // For a row that is not read.
  void start_grad(int64_t row) {
    const RowView& view = args_.grad;
    grad_at_ = row_offset(args_.shape, view, row);
    const bool plain = view.dtype == dtype_of<A>() && view.class_stride == 1;
    grad_ = plain ? static_cast<A*>(view.data) + grad_at_ : memory_ + 2 * padded_;
  }

  KD_FN A student(int64_t c) const { return student_[c]; }
  KD_FN A teacher(int64_t c) const { return teacher_[c]; }

  template <class Body>
  KD_FN void each(Body body) const {
    Index i = lane_;
    for (int64_t c = 0; c < classes(); c += kLanes, i += kLanes)
      body(i, at(student_, student_cut_, c), at(teacher_, teacher_cut_, c));
  }
  template <class Body>
  KD_FN void each_grad(Body body) {
    Index i = lane_;
    for (int64_t c = 0; c < classes(); c += kLanes, i += kLanes) {
      const N x = body(i, at(student_, student_cut_, c), at(teacher_, teacher_cut_, c));
      if (c < whole_)
        store(grad_ + c, x);
      else
        store_some(grad_ + c, classes() - c, x);
    }
  }
  KD_FN void set_grad(int64_t c, A x) { grad_[c] = x; }

  KD_FN void keep(int slot, Index i, N x) { store(kept_at(slot, i), x); }
  template <class Compute>
  KD_FN N kept(int slot, Index i, Compute) const {
    return load<N>(kept_at(slot, i));
  }

  // A vector of numbers kept per class, such as weights.
  KD_FN N of_classes(const void* numbers, Index i) const {
    return load<N>(static_cast<const A*>(numbers) + i[0]);
  }

  KD_FN auto is(Index i, int64_t c) const { return i == static_cast<ScalarOfIndex>(c); }
  KD_FN auto below(Index i, int64_t c) const { return i < static_cast<ScalarOfIndex>(c); }
  KD_FN auto all(Index i) const { return i == i; }

  // One far lane makes the row far.
  KD_FN bool is_far(N distance) const { return any_lane(distance > fill<N>(kNearLimit)); }
  KD_FN A sum(N v) const { return sum_of_lanes(v); }
  KD_FN A largest(N v) const { return largest_lane(v); }
  // One of those that share the row, to write what belongs to it.
  KD_FN bool leads() const { return true; }

  // ---- A sparse teacher: which classes it holds, and a loop over them
  // ------------------------------------------------

  KD_FN void hold(bool on) {
    for (int64_t k = 0; k < args_.indices; ++k) held_[index(k)] = on ? 1 : 0;
  }
  template <class Mask>
  KD_FN bool any(Mask mask) const {
    return any_lane(mask);
  }
  KD_FN auto held(Index i) const { return load<N>(held_ + i[0]) != fill<N>(0); }
  template <class Body>
  KD_FN void each_held(Body body) const {
    for (int64_t k = 0; k < args_.indices; ++k) body(index(k), sparse(k));
  }
  KD_FN A sum_held(A x) const { return x; }  // the loop over them is not shared out
  KD_FN A largest_held(A x) const { return x; }
  KD_FN void wait() const {}

  void zero_grad() {
    for (int64_t c = 0; c < padded_; ++c) memory_[2 * padded_ + c] = 0;
    grad_ = memory_ + 2 * padded_;
  }
  void finish() {
    const RowView& view = args_.grad;
    if (wants_grad() && grad_ == memory_ + 2 * padded_)
      write(grad_, classes(), view.data, view.dtype, grad_at_, view.class_stride);
  }

 private:
  using ScalarOfIndex = typename Number<A>::Int;

  A* kept_at(int slot, Index i) const { return memory_ + (4 + slot) * padded_ + i[0]; }
  int64_t index(int64_t k) const { return args_.index[row_ * args_.indices + k]; }
  A sparse(int64_t k) const { return static_cast<const A*>(args_.sparse)[row_ * args_.indices + k]; }

  KD_FN N at(const A* row, const N& cut, int64_t c) const { return c < whole_ ? load<N>(row + c) : cut; }

  // A row's n logits, and in `cut` the last of them, padded; the classes behind the n-th are padding too.
  const A* fetch(const RowView& view, int64_t n, A* buffer, double padding, N& cut) const {
    const int64_t at = row_offset(args_.shape, view, row_);
    const A* row = static_cast<const A*>(view.data) + at;
    if (view.dtype != dtype_of<A>() || view.class_stride != 1 || n != classes()) {
      read(view.data, view.dtype, at, view.class_stride, n, buffer);
      for (int64_t c = n; c < padded_; ++c) buffer[c] = static_cast<A>(padding);
      row = buffer;
    }
    if (whole_ < classes()) cut = load_some<N>(row + whole_, classes() - whole_, static_cast<A>(padding));
    return row;
  }

  const RowLossArgs& args_;
  const double padding_;
  int64_t padded_, whole_, row_ = 0, grad_at_ = 0;
  A *memory_, *held_, *grad_ = nullptr;
  const A *student_ = nullptr, *teacher_ = nullptr;
  N student_cut_, teacher_cut_;
  Index lane_ = {};
};

template <template <class> class Formula>
struct RowLossKernels {
  static int64_t items(const RowLossArgs& args) { return args.shape.rows; }

  template <class A>
  static void run_with(const RowLossArgs& args, int64_t begin, int64_t end) {
    using F = Formula<RowWalker<A>>;
    RowWalker<A> walker(args, F::kTeacherPadding);
    for (int64_t row = begin; row < end; ++row) one_row<A, F>(args, walker, row);
  }

  template <class A, class F>
  static void one_row(const RowLossArgs& args, RowWalker<A>& walker, int64_t row) {
    const A* mask = static_cast<const A*>(args.mask);
    A weight = mask != nullptr ? mask[row] : A(1);
    if (args.sparse == nullptr && args.index != nullptr && args.index[row] == args.ignore_index) weight = 0;
    A factor[kMaxOutputs];
    const bool wanted = row_factors<A>(args, row, weight, F::kOutputs, factor);
    RowResult<A> result = uncounted_row<A>();
    if (weight != A(0) && (wanted || args.upstream[0] == nullptr)) {
      walker.start(row);
      result = F::run(walker, args, factor);
    }
    if (args.grad.data != nullptr) {
      if (!result.counted || !wanted) {
        walker.start_grad(row);
        walker.zero_grad();
      }
      walker.finish();
    }
    if (args.upstream[0] == nullptr) write_row<A, F::kOutputs>(args, row, weight, result);
  }

  template <class A, int outputs>
  static void write_row(const RowLossArgs& args, int64_t row, A weight, const RowResult<A>& result) {
    for (int o = 0; o < outputs; ++o) {
      static_cast<A*>(args.row_value[o])[row] = result.counted ? result.value[o] * weight : A(0);
      if (args.row_weight[o] != nullptr)
        static_cast<A*>(args.row_weight[o])[row] = result.counted ? result.weight[o] * weight : A(0);
    }
  }

  static void forward(const RowLossArgs& args, int64_t begin, int64_t end) {
    if (args.compute == DType::kFloat64) return run_with<double>(args, begin, end);
    run_with<float>(args, begin, end);
  }
};

}  // namespace
}  // namespace kd

#define KD_CPU_ROW_LOSS(name, Formula)                                                  \
  extern "C" const kd::Kernels<kd::RowLossArgs> KD_JOIN(kd_, name, KD_LEVEL);           \
  const kd::Kernels<kd::RowLossArgs> KD_JOIN(kd_, name, KD_LEVEL) = {                   \
      kd::RowLossKernels<kd::Formula>::items, kd::RowLossKernels<kd::Formula>::forward, \
      kd::RowLossKernels<kd::Formula>::forward};
