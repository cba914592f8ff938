// The torch side of pairs.h: views of tensors as points, the launch, and the losses whose pairs are the
// numbers of two rows.
#pragma once

#include "maps_op.h"
#include "pairs.h"

namespace kd {

#ifdef KD_DEVICE_CPU

template <class A>
void finish_pairs_as(const PairArgs& args, int values) {
  const A* part = static_cast<const A*>(args.part);
  for (int k = 0; k < values; ++k) {
    double sum = 0;
    for (int64_t item = 0; item < pair_items(args); ++item) sum += part[item * kMaxValues + k];
    *static_cast<A*>(args.value[k]) = static_cast<A>(sum * args.scale[k] * inverse_divisor<A>(args));
  }
}

inline void finish_pairs(const PairArgs& args, int values, const Tensor&) {
  if (args.compute == DType::kFloat64) return finish_pairs_as<double>(args, values);
  finish_pairs_as<float>(args, values);
}

#else

extern "C" void kd_finish_pairs_cuda(const PairArgs& args, int values, void* stream);

inline void finish_pairs(const PairArgs& args, int values, const Tensor& on) {
  const torch::stable::accelerator::DeviceGuard guard(on.get_device_index());
  kd_finish_pairs_cuda(args, values, current_stream(on));
}

#endif

// Points, and where `values` (0-d) are wanted their sums.
template <class Kernel>
void run_pairs(Kernel&& kernels, PairArgs& args, int pairs, const std::vector<Tensor*>& values,
               const Tensor& on) {
  const int64_t items = pair_items(args);
  Tensor part = fresh(on, {values.empty() ? 0 : items * kMaxValues}, args.compute);
  args.part = values.empty() ? nullptr : part.data_ptr();
  const int64_t of_item = args.points < kPairRun ? args.points : kPairRun;
  if (items > 0) launch(kernels, args, Pass::kForward, pairs * of_item, on);
  for (size_t k = 0; k < values.size(); ++k) args.value[k] = values[k]->data_ptr();
  if (!values.empty()) finish_pairs(args, static_cast<int>(values.size()), on);
}

// ---- Two rows of numbers, student [R, m] and teacher [R, n], paired from number `first` of both on

struct RowPairs {
  int64_t first;          // numbers before it belong to no pair, nor those after the teacher's end
  double numbers_a_mean;  // the value is the sum of all pairs / (pairs / this)
};

inline PairArgs row_pair_args(const Tensor& student, const Tensor& teacher, RowPairs how) {
  PairArgs args = {};
  args.rows = student.size(0), args.groups = 1, args.points = teacher.size(1) - how.first;
  const auto view = [&](const Tensor& x) {
    const int64_t skipped = how.first * x.stride(1) * static_cast<int64_t>(x.element_size());
    return PairView{static_cast<char*>(x.data_ptr()) + skipped, dtype_of(x), x.stride(0), 0, x.stride(1)};
  };
  args.student[0] = view(student);
  args.teacher[0] = view(teacher);
  args.compute = compute_type(student, teacher);
  args.before = how.first, args.after = student.size(1) - teacher.size(1);
  const int64_t pairs = args.rows * args.points;
  args.scale[0] = pairs > 0 ? how.numbers_a_mean / static_cast<double>(pairs) : 0;
  return args;
}

inline void want_row_grad(PairArgs& args, Tensor& grad, RowPairs how) {
  if (args.points == 0) return static_cast<void>(torch::stable::zero_(grad));
  const int64_t skipped = how.first * grad.stride(1) * static_cast<int64_t>(grad.element_size());
  args.grad[0] = {static_cast<char*>(grad.data_ptr()) + skipped, dtype_of(grad), grad.stride(0), 0,
                  grad.stride(1)};
}

template <class Kernel>
std::tuple<Tensor, Tensor> row_pairs(Kernel&& kernels, const Tensor& student, const Tensor& teacher,
                                     RowPairs how, bool with_grad) {
  PairArgs args = row_pair_args(student, teacher, how);
  Tensor value = fresh(student, {}, args.compute);
  Tensor grad = with_grad ? fresh_like(student) : fresh(student, {0}, args.compute);
  if (with_grad) want_row_grad(args, grad, how);
  run_pairs(kernels, args, 1, {&value}, student);
  return {value, grad};
}

template <class Kernel>
Tensor row_pairs_backward(Kernel&& kernels, const Tensor& upstream, const Tensor& student,
                          const Tensor& teacher, RowPairs how) {
  PairArgs args = row_pair_args(student, teacher, how);
  Tensor grad = fresh_like(student);
  want_row_grad(args, grad, how);
  args.upstream[0] = upstream.data_ptr();
  run_pairs(kernels, args, 1, {}, student);
  return grad;
}

}  // namespace kd
