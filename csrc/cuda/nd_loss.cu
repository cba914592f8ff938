// A block a row: one pass takes the row's four sums, the second makes its gradient from the cache.
#include <assert.h>

#include "../nd_loss.h"
#include "maps.cuh"

namespace kd {
namespace {

constexpr int kThreads = 128;

template <class A>
struct NdReader {
  const NdLossArgs& args;
  int64_t s_at, t_at, m_at, grad_at;

  KD_DEVICE NdReader(const NdLossArgs& a, int64_t row, int64_t target)
      : args(a),
        s_at(row_offset(a.shape, a.student, row)),
        t_at(row_offset(a.shape, a.teacher, row)),
        m_at(target * a.means_row_stride),
        grad_at(a.grad.data != nullptr ? row_offset(a.shape, a.grad, row) : 0) {}

  KD_DEVICE A student(int64_t i) const { return at(args.student, s_at, i); }
  KD_DEVICE A teacher(int64_t i) const { return at(args.teacher, t_at, i); }
  KD_DEVICE A mean(int64_t i) const {
    return read_number(args.means, args.means_dtype, m_at + i * args.means_stride, A(0));
  }
  KD_DEVICE void put(int64_t i, A x) const {
    write_number(args.grad.data, args.grad.dtype, grad_at + i * args.grad.class_stride, x);
  }

 private:
  KD_DEVICE static A at(const RowView& view, int64_t row_at, int64_t i) {
    return read_number(view.data, view.dtype, row_at + i * view.class_stride, A(0));
  }
};

template <class A>
KD_DEVICE A common_factor(const NdLossArgs& args, int64_t row) {
  if (args.upstream != nullptr)
    return static_cast<const A*>(args.upstream)[row * args.upstream_stride] *
           *static_cast<const A*>(args.norm);
  const A total = args.presumed != nullptr ? *static_cast<const A*>(args.presumed) : A(1);
  return total == A(0) ? A(0) : static_cast<A>(args.grad_factor) / total;
}

template <class A>
__global__ void __launch_bounds__(kThreads) nd_loss(NdLossArgs args) {
  Team<A> team(blockDim.x);
  const int64_t row = blockIdx.x, width = args.shape.classes;
  const int64_t target = args.target[row];
  const A weight = args.mask != nullptr ? static_cast<const A*>(args.mask)[row] : A(1);
  const bool wanted = target != args.ignore_index && weight != A(0);
  assert(!wanted || (target >= 0 && target < args.classes));
  const NdReader<A> read(args, row, wanted ? target : 0);
  NdRow<A> x = {A(0), A(0), A(0), false};
  if (wanted) {
    A norms[3] = {A(0), A(0), A(0)}, dot[1] = {A(0)};
    for (int64_t i = threadIdx.x; i < width; i += kThreads) {
      const A s = read.student(i), t = read.teacher(i), m = read.mean(i);
      norms[0] += s * s;
      norms[1] += t * t;
      norms[2] += m * m;
      dot[0] += s * m;
    }
    team.sum(norms);
    team.sum(dot);
    x = nd_row<A>({norms[0], norms[1], norms[2], dot[0]});
  }
  if (args.row_value != nullptr && threadIdx.x == 0) {
    static_cast<A*>(args.row_value)[row] = x.known ? weight * x.value : A(0);
    static_cast<A*>(args.row_weight)[row] = x.known ? weight : A(0);
  }
  if (args.grad.data == nullptr) return;
  const A factor = weight * common_factor<A>(args, row);
  const bool none = !x.known || (x.mean_factor == A(0) && x.student_factor == A(0));
  for (int64_t i = threadIdx.x; i < width; i += kThreads)
    read.put(i, none ? A(0) : factor * (x.mean_factor * read.mean(i) + x.student_factor * read.student(i)));
}

}  // namespace
}  // namespace kd

extern "C" void kd_nd_loss_cuda(const kd::NdLossArgs& args, int, void* stream) {
  using namespace kd;
  const LaunchShape shape = {static_cast<unsigned>(args.shape.rows), kThreads};
  if (args.compute == DType::kFloat64)
    return launch(nd_loss<double>, shape, static_cast<cudaStream_t>(stream), args);
  launch(nd_loss<float>, shape, static_cast<cudaStream_t>(stream), args);
}
