// Walks the rows of a loss on the GPU: a warp or a block of threads takes a row, a thread every size()-th
// class of it. Any dtypes and strides; a sparse teacher's classes are bits in shared memory.
#pragma once

#include "../common/row_loss.h"
#include "fold.cuh"

namespace kd {
namespace {

constexpr int kRowThreads = 256;
constexpr int64_t kWarpClasses = 1024;  // up to here a warp takes a row

struct RowLossLaunch {
  RowLossArgs args;
  int team;       // threads of a row: a warp or the block
  int64_t words;  // of the bits that say which classes a sparse teacher holds; 0 for other losses
};

template <class A>
KD_DEVICE A number_at(const RowView& view, int64_t at) {
  switch (view.dtype) {
    case DType::kFloat32:
      return static_cast<const float*>(view.data)[at];
    case DType::kFloat64:
      return static_cast<A>(static_cast<const double*>(view.data)[at]);
    case DType::kFloat16:
      return __half2float(static_cast<const __half*>(view.data)[at]);
    default:
      return __bfloat162float(static_cast<const __nv_bfloat16*>(view.data)[at]);
  }
}

template <class A>
KD_DEVICE void put_number(const RowView& view, int64_t at, A x) {
  switch (view.dtype) {
    case DType::kFloat32:
      static_cast<float*>(view.data)[at] = static_cast<float>(x);
      break;
    case DType::kFloat64:
      static_cast<double*>(view.data)[at] = x;
      break;
    case DType::kFloat16:
      static_cast<__half*>(view.data)[at] = to_stored<__half>(x);
      break;
    case DType::kBFloat16:
      static_cast<__nv_bfloat16*>(view.data)[at] = to_stored<__nv_bfloat16>(x);
      break;
  }
}

template <class Number_>
class RowWalker {
 public:
  using A = Number_;
  using N = A;
  using Index = int64_t;

  KD_DEVICE RowWalker(const RowLossLaunch& p, Team<A>& team, unsigned* bits, double teacher_padding)
      : args_(p.args), team_(team), bits_(bits), words_(p.words), padding_(static_cast<A>(teacher_padding)) {}

  KD_DEVICE void start(int64_t row) {
    row_ = row;
    student_at_ = row_offset(args_.shape, args_.student, row);
    if (args_.teacher.data != nullptr) teacher_at_ = row_offset(args_.shape, args_.teacher, row);
    if (wants_grad()) grad_at_ = row_offset(args_.shape, args_.grad, row);
  }

  KD_DEVICE int64_t classes() const { return args_.shape.classes; }
  KD_DEVICE int64_t row() const { return row_; }
  KD_DEVICE bool wants_grad() const { return args_.grad.data != nullptr; }
  KD_DEVICE A student(int64_t c) const {
    return number_at<A>(args_.student, student_at_ + c * args_.student.class_stride);
  }
  KD_DEVICE A teacher(int64_t c) const {
    if (args_.teacher.data == nullptr) return A(0);
    if (c >= args_.teacher_classes) return padding_;
    return number_at<A>(args_.teacher, teacher_at_ + c * args_.teacher.class_stride);
  }

  template <class Body>
  KD_DEVICE void each(Body body) const {
    for (int64_t c = team_.rank(); c < classes(); c += team_.size()) body(c, student(c), teacher(c));
  }
  template <class Body>
  KD_DEVICE void each_grad(Body body) {
    for (int64_t c = team_.rank(); c < classes(); c += team_.size())
      set_grad(c, body(c, student(c), teacher(c)));
  }
  KD_DEVICE void set_grad(int64_t c, A x) {
    put_number(args_.grad, grad_at_ + c * args_.grad.class_stride, x);
  }
  KD_DEVICE void zero_grad() {
    for (int64_t c = team_.rank(); c < classes(); c += team_.size()) set_grad(c, A(0));
  }

  // Registers are dearer than another exponential.
  KD_DEVICE void keep(int, Index, A) const {}
  template <class Compute>
  KD_DEVICE A kept(int, Index, Compute compute) const {
    return compute();
  }

  KD_DEVICE bool is_far(A distance) const { return distance > A(kNearLimit); }
  KD_DEVICE A of_classes(const void* numbers, Index i) const { return static_cast<const A*>(numbers)[i]; }
  KD_DEVICE bool is(Index i, int64_t c) const { return i == c; }
  KD_DEVICE bool below(Index i, int64_t c) const { return i < c; }
  KD_DEVICE bool all(Index) const { return true; }

  KD_DEVICE A sum(A x) const {
    A one[1] = {x};
    team_.sum(one);
    return one[0];
  }
  KD_DEVICE A largest(A x) const {
    A one[1] = {x};
    team_.largest(one);
    return one[0];
  }

  // One of those that share the row, to write what belongs to it.
  KD_DEVICE bool leads() const { return team_.rank() == 0; }

  // ---- A sparse teacher ---------------------------------------------------------------------------

  KD_DEVICE void hold(bool on) {
    wait();
    if (on) {
      for (int64_t k = team_.rank(); k < args_.indices; k += team_.size())
        atomicOr(bits_ + index(k) / 32, 1u << (index(k) % 32));
    } else {
      for (int64_t i = team_.rank(); i < words_; i += team_.size()) bits_[i] = 0;
    }
    wait();
  }
  KD_DEVICE bool any(bool mask) const { return mask; }
  KD_DEVICE bool held(Index i) const { return bits_[i / 32] >> (i % 32) & 1; }
  template <class Body>
  KD_DEVICE void each_held(Body body) const {
    for (int64_t k = team_.rank(); k < args_.indices; k += team_.size()) body(index(k), sparse(k));
  }
  KD_DEVICE A sum_held(A x) const { return sum(x); }
  KD_DEVICE A largest_held(A x) const { return largest(x); }
  // Only a sparse teacher needs it, and its rows are taken by whole blocks.
  KD_DEVICE void wait() const { __syncthreads(); }

 private:
  KD_DEVICE int64_t index(int64_t k) const { return args_.index[row_ * args_.indices + k]; }
  KD_DEVICE A sparse(int64_t k) const {
    return static_cast<const A*>(args_.sparse)[row_ * args_.indices + k];
  }

  const RowLossArgs& args_;
  Team<A>& team_;
  unsigned* bits_;
  const int64_t words_;
  const A padding_;
  int64_t row_ = 0, student_at_ = 0, teacher_at_ = 0, grad_at_ = 0;
};

// Contents are not looked at on the host: a class number out of range ends the kernel.
KD_DEVICE void assert_index(const RowLossArgs& args, int64_t row) {
  for (int64_t k = 0; k < args.indices; ++k) {
    const int64_t c = args.index[row * args.indices + k];
    if (c != args.ignore_index && (c < 0 || c >= args.shape.classes)) __trap();
  }
}

template <template <class> class Formula, class A>
__global__ void __launch_bounds__(kRowThreads) row_loss_rows(RowLossLaunch p) {
  using F = Formula<RowWalker<A>>;
  KD_SHARED_DYNAMIC(unsigned, bits);
  const RowLossArgs& args = p.args;
  for (int64_t i = threadIdx.x; i < p.words; i += blockDim.x) bits[i] = 0;
  Team<A> team(p.team);
  RowWalker<A> walker(p, team, bits, F::kTeacherPadding);
  for (int64_t row = team.first_row(); row < args.shape.rows; row += team.row_step()) {
    A weight = args.mask != nullptr ? static_cast<const A*>(args.mask)[row] : A(1);
    if (args.sparse == nullptr && args.index != nullptr && args.index[row] == args.ignore_index) weight = 0;
    A factor[kMaxOutputs];
    const bool wanted = row_factors<A>(args, row, weight, F::kOutputs, factor);
    RowResult<A> result = uncounted_row<A>();
    walker.start(row);
    if (weight != A(0) && (wanted || args.upstream[0] == nullptr)) {
      if (args.index != nullptr) assert_index(args, row);
      result = F::run(walker, args, factor);
    }
    if (args.grad.data != nullptr && (!result.counted || !wanted)) walker.zero_grad();
    if (args.upstream[0] != nullptr || team.rank() != 0) continue;
    for (int o = 0; o < F::kOutputs; ++o) {
      static_cast<A*>(args.row_value[o])[row] = result.counted ? result.value[o] * weight : A(0);
      if (args.row_weight[o] != nullptr)
        static_cast<A*>(args.row_weight[o])[row] = result.counted ? result.weight[o] * weight : A(0);
    }
  }
}

template <template <class> class Formula, class A>
void run_row_loss_as(const RowLossArgs& args, cudaStream_t stream) {
  const bool sparse = args.sparse != nullptr;
  const bool small = !sparse && args.shape.classes <= kWarpClasses;
  RowLossLaunch p = {args, small ? kWarpThreads : kRowThreads, sparse ? (args.shape.classes + 31) / 32 : 0};
  const int64_t teams = kRowThreads / p.team, blocks = (args.shape.rows + teams - 1) / teams;
  const int64_t most = static_cast<int64_t>(device_attribute(cudaDevAttrMultiProcessorCount)) * 64;
  const LaunchShape shape = {static_cast<unsigned>(blocks < most ? blocks : most), kRowThreads,
                             static_cast<size_t>(p.words) * sizeof(unsigned)};
  launch(row_loss_rows<Formula, A>, shape, stream, p);
}

template <template <class> class Formula>
void run_row_loss(const RowLossArgs& args, cudaStream_t stream) {
  if (args.shape.rows == 0) return;
  if (args.compute == DType::kFloat64) return run_row_loss_as<Formula, double>(args, stream);
  run_row_loss_as<Formula, float>(args, stream);
}

}  // namespace
}  // namespace kd

#define KD_CUDA_ROW_LOSS(name, Formula)                                              \
  extern "C" void kd_##name##_cuda(const kd::RowLossArgs& args, int, void* stream) { \
    kd::run_row_loss<kd::Formula>(args, static_cast<cudaStream_t>(stream));          \
  }
