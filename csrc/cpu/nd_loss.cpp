// One pass takes a row's four sums; the second makes its gradient while the row is still in the cache.
#include "../nd_loss.h"

#include "segment.h"

namespace kd {
namespace {

template <class A>
class NdLoss {
  using S = Segment<A>;
  using V = typename S::V;
  static constexpr int64_t kLanes = S::kLanes, kBlock = 2048;

 public:
  static int64_t items(const NdLossArgs& args) { return args.shape.rows; }

  static void run(const NdLossArgs& args, int64_t begin, int64_t end) {
    NdLoss kernel(args);
    for (int64_t row = begin; row < end; ++row) kernel.row(row);
  }

 private:
  explicit NdLoss(const NdLossArgs& args) : args_(args) {}

  void row(int64_t row) {
    const int64_t target = args_.target[row];
    const A weight = args_.mask != nullptr ? static_cast<const A*>(args_.mask)[row] : A(1);
    s_at_ = row_offset(args_.shape, args_.student, row);
    t_at_ = row_offset(args_.shape, args_.teacher, row);
    grad_at_ = args_.grad.data != nullptr ? row_offset(args_.shape, args_.grad, row) : 0;
    m_at_ = target * args_.means_row_stride;
    if (target == args_.ignore_index || weight == A(0)) return finish(row, {A(0), A(0), A(0), false}, A(0));
    finish(row, nd_row(sums()), weight);
  }

  NdSums<A> sums() {
    V ss = fill<V>(0), tt = ss, mm = ss, sm = ss;
    each_block([&](int64_t first, int64_t n) {
      const A *s = student(first, n), *m = mean(first, n);
      const A* t = S::in(args_.teacher.data, args_.teacher.dtype, t_at_ + first * args_.teacher.class_stride,
                         args_.teacher.class_stride, n, t_);
      // Two of each sum: one addition would wait for the one before it.
      V even[4] = {}, odd[4] = {};
      const auto add = [&](V(&to)[4], int64_t i) {
        const V x = load<V>(s + i), y = load<V>(t + i), z = load<V>(m + i);
        to[0] += x * x;
        to[1] += y * y;
        to[2] += z * z;
        to[3] += x * z;
      };
      int64_t i = 0;
      for (; i + kLanes < n; i += 2 * kLanes) add(even, i), add(odd, i + kLanes);
      if (i < n) add(even, i);
      ss += even[0] + odd[0], tt += even[1] + odd[1], mm += even[2] + odd[2], sm += even[3] + odd[3];
    });
    return {sum_of_lanes(ss), sum_of_lanes(tt), sum_of_lanes(mm), sum_of_lanes(sm)};
  }

  void finish(int64_t row, const NdRow<A>& x, A weight) {
    if (args_.row_value != nullptr) {
      static_cast<A*>(args_.row_value)[row] = x.known ? weight * x.value : A(0);
      static_cast<A*>(args_.row_weight)[row] = x.known ? weight : A(0);
    }
    if (args_.grad.data == nullptr) return;
    const A factor = weight * common(row);
    const bool none = !x.known || (x.mean_factor == A(0) && x.student_factor == A(0));
    const V by_mean = fill<V>(factor * x.mean_factor), by_student = fill<V>(factor * x.student_factor);
    each_block([&](int64_t first, int64_t n) {
      const RowView& view = args_.grad;
      const int64_t at = grad_at_ + first * view.class_stride;
      A* grad = S::out(view.data, view.dtype, at, view.class_stride, n, t_);
      if (none) {
        for (int64_t i = 0; i < n; i += kLanes) store(grad + i, fill<V>(0));
      } else {
        const A *s = student(first, n), *m = mean(first, n);
        for (int64_t i = 0; i < n; i += kLanes)
          store(grad + i, by_mean * load<V>(m + i) + by_student * load<V>(s + i));
      }
      S::put(grad, view.data, view.dtype, at, view.class_stride, n);
    });
  }

  // What every row's gradient is multiplied by.
  A common(int64_t row) const {
    if (args_.upstream != nullptr)
      return static_cast<const A*>(args_.upstream)[row * args_.upstream_stride] *
             *static_cast<const A*>(args_.norm);
    const A total = args_.presumed != nullptr ? *static_cast<const A*>(args_.presumed) : A(1);
    return total == A(0) ? A(0) : static_cast<A>(args_.grad_factor) / total;
  }

  const A* student(int64_t first, int64_t n) {
    const RowView& view = args_.student;
    return S::in(view.data, view.dtype, s_at_ + first * view.class_stride, view.class_stride, n, s_);
  }
  const A* mean(int64_t first, int64_t n) {
    return S::in(args_.means, args_.means_dtype, m_at_ + first * args_.means_stride, args_.means_stride, n,
                 m_);
  }

  template <class Body>
  KD_FN void each_block(Body body) const {
    const int64_t width = args_.shape.classes;
    for (int64_t first = 0; first < width; first += kBlock)
      body(first, width - first < kBlock ? width - first : kBlock);
  }

  const NdLossArgs& args_;
  int64_t s_at_ = 0, t_at_ = 0, m_at_ = 0, grad_at_ = 0;
  alignas(64) A s_[kBlock], t_[kBlock], m_[kBlock];
};

}  // namespace
}  // namespace kd

KD_CPU_KERNELS(nd_loss, NdLossArgs, NdLoss)
