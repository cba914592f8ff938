// Drives the passes of fold.h over the items of a divergence: an item is one row, or one tile of neighbouring
// rows.
#pragma once

#include "fold.h"

namespace kd {
namespace {

// One row's lanes of classes, which share their maxima, merged into every lane.
template <class V>
KD_FN Statistics<V> merge_lanes(const Statistics<V>& part) {
  return {part.student_max,          sum_of_lanes(part.student_sum),
          part.teacher_max,          sum_of_lanes(part.teacher_sum),
          sum_of_lanes(part.excess), largest_lane(part.distance)};
}

template <class F, class A>
class Drive {
  using V = typename VectorOf<A>::Type;
  static constexpr int64_t kLanes = Number<V>::kLanes;
  static constexpr int64_t kGroups = kTileRows / kLanes;  // vectors of a tile

 public:
  explicit Drive(const DivergenceArgs& a) : args_(a), fold_(a), rows_in_lanes_(lanes_are_rows(a, kLanes)) {}

  static int64_t items(const DivergenceArgs& args) {
    if (!lanes_are_rows(args, kLanes)) return args.shape.rows;
    const int64_t last = args.shape.size[args.shape.dims - 1];
    return last == 0 ? 0 : args.shape.rows / last * tiles_of_last_dim(args.shape);
  }

  void forward(int64_t item) {
    locate(item);
    if (!weigh(static_cast<const A*>(args_.mask))) return drop();
    if (rows_in_lanes_ && args_.grad.data != nullptr) expect_grad();
    collect();
    save_state();
    const bool at_once = args_.grad.data != nullptr && !F::kNeedsSum;
    each_block([&](int64_t first, int64_t n) {
      if (at_once) return total<true>(first, n);
      total<false>(first, n);
    });
    finish_values();
    if (args_.grad.data != nullptr && F::kNeedsSum)
      each_block([&](int64_t first, int64_t n) { gradient(first, n, true); });
  }

  void backward(int64_t item) {
    locate(item);
    load_state();
    weigh_upstream();
    each_block([&](int64_t first, int64_t n) { gradient(first, n, false); });
  }

 private:
  // ---- Where an item lies
  // ------------------------------------------------------------------------------------------

  void locate(int64_t item) {
    const RowShape& shape = args_.shape;
    row_ = item;
    rows_ = 1;
    if (rows_in_lanes_) {
      const int64_t tiles = tiles_of_last_dim(shape), last = shape.size[shape.dims - 1];
      const int64_t within = item % tiles * kTileRows;
      row_ = item / tiles * last + within;
      rows_ = last - within < kTileRows ? last - within : kTileRows;
    }
    groups_ = rows_in_lanes_ ? (rows_ + kLanes - 1) / kLanes : 1;
    student_at_ = row_offset(shape, args_.student, row_);
    teacher_at_ = row_offset(shape, args_.teacher, row_);
    if (args_.grad.data != nullptr) grad_at_ = row_offset(shape, args_.grad, row_);
    fetched_ = -1;
  }

  int64_t block_size() const { return rows_in_lanes_ ? kTileClasses : kBlock; }

  bool one_block() const { return args_.shape.classes <= block_size(); }

  template <class Body>
  KD_FN void each_block(Body body) {
    const int64_t step = block_size();
    for (int64_t first = 0; first < args_.shape.classes; first += step)
      body(first, args_.shape.classes - first < step ? args_.shape.classes - first : step);
  }

  // Both sides of the block that starts at class `first`; nothing is read twice in a row.
  void fetch(int64_t first, int64_t n) {
    if (fetched_ == first) return;
    fetched_ = first;
    if (rows_in_lanes_) {
      student_ = fold_.tile(args_.student, student_at_, rows_, first, n, student_buffer_);
      teacher_ = fold_.tile(args_.teacher, teacher_at_, rows_, first, n, teacher_buffer_);
      steps_ = n;
    } else {
      student_ = fold_.classes(args_.student, student_at_, first, n, student_buffer_);
      teacher_ = fold_.classes(args_.teacher, teacher_at_, first, n, teacher_buffer_);
      steps_ = (n + kLanes - 1) / kLanes;
    }
  }

  Group<A> group(int64_t g) {
    const int64_t at = g * kLanes;
    return {{student_.data + at, student_.step},
            {teacher_.data + at, teacher_.step},
            student_exp_ + at,
            teacher_exp_ + at,
            rows_in_lanes_ ? kTileRows : kLanes,
            steps_};
  }

  // ---- Pass 1
  // ------------------------------------------------------------------------------------------------------

  V shift_of(const Group<A>& block) const {
    const A *s = block.student.data, *t = block.teacher.data;
    return rows_in_lanes_ ? first_shift(load<V>(s), load<V>(t)) : first_shift(fill<V>(s[0]), fill<V>(t[0]));
  }

  void collect() {
    Statistics<V> part[kGroups];
    V shift[kGroups];
    each_block([&](int64_t first, int64_t n) {
      fetch(first, n);
      for (int64_t g = 0; g < groups_; ++g) {
        const Group<A> block = group(g);
        if (first == 0) part[g] = no_statistics<V>(), shift[g] = shift_of(block);
        if (rows_in_lanes_) {
          if (one_block())
            fold_.template gather<true, true>(part[g], block, shift[g]);
          else
            fold_.template gather<true, false>(part[g], block, shift[g]);
        } else {
          if (one_block())
            fold_.template gather<false, true>(part[g], block, shift[g]);
          else
            fold_.template gather<false, false>(part[g], block, shift[g]);
        }
      }
    });
    for (int64_t g = 0; g < groups_; ++g) {
      if (!rows_in_lanes_) part[g] = merge_lanes(part[g]);
      row_state_[g] = finish(part[g], shift[g]);
      sums_[g] = {fill<V>(0), fill<V>(0)};
    }
  }

  // ---- Passes 2 and 3
  // ----------------------------------------------------------------------------------------------

  // Calls body(constant) with the regime of group g's lanes, once the exponentials it needs are there: an
  // item of one block has them from pass 1 (`gathered`).
  template <class Body>
  KD_FN void in_regime(int64_t g, bool gathered, Body body) {
    const Row<V>& row = row_state_[g];
    bool near = false, far = false;
    for (int l = 0; l < kLanes; ++l) {
      near |= row.regime[l] == kNear;
      far |= row.regime[l] == kFar;
    }
    const bool kept = gathered && one_block();
    if (!near && !kept) return body(Constant<kFarAnew>{});
    if (!kept) fold_.exponentiate(row, group(g));
    if (near && far) return body(Constant<kMixed>{});
    if (near) return body(Constant<kNear>{});
    body(Constant<kFar>{});
  }
  template <int value>
  struct Constant {
    static constexpr int kValue = value;
  };

  // Where a block's gradient goes: in place if whole vectors of plain numbers lie there, else into a buffer
  // to be written out.
  Block<A> grad_block(int64_t first, int64_t n) {
    const RowView& view = args_.grad;
    const int64_t at = grad_at_ + first * view.class_stride;
    A* data = static_cast<A*>(view.data) + at;
    const bool plain = view.dtype == dtype_of<A>();
    if (!rows_in_lanes_ && plain && view.class_stride == 1 && n % kLanes == 0) return {data, kLanes};
    const bool side_by_side = view.row_stride[args_.shape.dims - 1] == 1 && rows_ % kLanes == 0;
    if (rows_in_lanes_ && plain && side_by_side) return {data, view.class_stride};
    return {grad_buffer_, rows_in_lanes_ ? kTileRows : kLanes};
  }

  // The gradient of a tile is written soon, once pass 1 is done.
  void expect_grad() const {
    const RowView& view = args_.grad;
    if (view.row_stride[args_.shape.dims - 1] != 1) return;
    for (int64_t c = 0; c < args_.shape.classes; ++c)
      fold_.template prefetch<1>(view, grad_at_ + c * view.class_stride, rows_);
  }

  void write_grad(Block<A> block, int64_t first, int64_t n) {
    if (block.data != grad_buffer_) return;
    const RowView& view = args_.grad;
    const int64_t at = grad_at_ + first * view.class_stride;
    if (!rows_in_lanes_) return write(grad_buffer_, n, view.data, view.dtype, at, view.class_stride);
    for (int64_t c = 0; c < n; ++c)
      write(grad_buffer_ + c * kTileRows, rows_, view.data, view.dtype, at + c * view.class_stride,
            view.row_stride[args_.shape.dims - 1]);
  }

  template <bool with_gradient>
  void total(int64_t first, int64_t n) {
    fetch(first, n);
    Block<A> grad = {nullptr, 0};
    if constexpr (with_gradient) grad = grad_block(first, n);
    for (int64_t g = 0; g < groups_; ++g)
      in_regime(g, true, [&](auto regime) {
        fold_.template sum<decltype(regime)::kValue, with_gradient>(
            sums_[g], row_state_[g], group(g), factor_[g], const_cast<A*>(grad.data) + g * kLanes, grad.step);
      });
    if constexpr (with_gradient) write_grad(grad, first, n);
  }

  void gradient(int64_t first, int64_t n, bool gathered) {
    fetch(first, n);
    const Block<A> grad = grad_block(first, n);
    for (int64_t g = 0; g < groups_; ++g)
      in_regime(g, gathered, [&](auto regime) {
        fold_.template differentiate<decltype(regime)::kValue>(
            row_state_[g], group(g), factor_[g], const_cast<A*>(grad.data) + g * kLanes, grad.step);
      });
    write_grad(grad, first, n);
  }

  // ---- Rows' weights, values and state
  // -----------------------------------------------------------------------------

  // Calls body(group, lane, row) for every row of the item.
  template <class Body>
  KD_FN void each_row(Body body) const {
    for (int64_t r = 0; r < rows_; ++r) body(r / kLanes, r % kLanes, row_ + r);
  }

  // A row's number in the lanes that belong to it.
  KD_FN void put(V& v, int64_t lane, A x) const {
    if (rows_in_lanes_)
      v[lane] = x;
    else
      v = fill<V>(x);
  }

  // Weights of the rows, and the factors of their gradients. False if no row counts.
  bool weigh(const A* mask) {
    const A total = args_.mask_sum != nullptr ? *static_cast<const A*>(args_.mask_sum) : A(1);
    const A common = total == A(0) ? A(0) : static_cast<A>(args_.grad_factor) / total;
    bool any = false;
    for (int64_t g = 0; g < groups_; ++g) weight_[g] = factor_[g] = fill<V>(0);
    each_row([&](int64_t g, int64_t lane, int64_t row) {
      const A weight = mask != nullptr ? mask[row] : A(1);
      any |= weight != A(0);
      put(weight_[g], lane, weight);
      put(factor_[g], lane, weight * common);
    });
    return any;
  }

  void weigh_upstream() {
    const A* upstream = static_cast<const A*>(args_.upstream);
    const A* mask = static_cast<const A*>(args_.mask);
    const A common = static_cast<A>(args_.scale / args_.temperature) * *static_cast<const A*>(args_.norm);
    for (int64_t g = 0; g < groups_; ++g) factor_[g] = fill<V>(0);
    each_row([&](int64_t g, int64_t lane, int64_t row) {
      const A weight = mask != nullptr ? mask[row] : A(1);
      put(factor_[g], lane, weight == A(0) ? A(0) : weight * common * upstream[row * args_.upstream_stride]);
    });
  }

  void finish_values() {
    for (int64_t g = 0; g < groups_; ++g) {
      if (!rows_in_lanes_) sums_[g] = {sum_of_lanes(sums_[g].value), sum_of_lanes(sums_[g].summand)};
      const auto dropped = (row_state_[g].regime == fill<V>(kUncounted)) | (weight_[g] == fill<V>(0));
      weight_[g] = select(dropped, fill<V>(0), weight_[g]);
      sums_[g].value = select(dropped, fill<V>(0), sums_[g].value * fill<V>(args_.scale) * weight_[g]);
      row_state_[g].sum = sums_[g].summand;
    }
    each_row([&](int64_t g, int64_t lane, int64_t row) {
      write_row(row, sums_[g].value[lane], weight_[g][lane]);
      if (args_.state != nullptr) state(row)[kRowSum] = row_state_[g].sum[lane];
    });
  }

  void write_row(int64_t row, A value, A weight) {
    static_cast<A*>(args_.row_value)[row] = value;
    if (args_.row_weight != nullptr) static_cast<A*>(args_.row_weight)[row] = weight;
  }

  // An item with no row that counts is not read.
  void drop() {
    each_row([&](int64_t, int64_t, int64_t row) {
      write_row(row, 0, 0);
      if (args_.state != nullptr)
        for (int i = 0; i < kRowState; ++i) state(row)[i] = i == kRegime ? kUncounted : 0;
    });
    if (args_.grad.data == nullptr) return;
    for (int64_t i = 0; i < kBuffer; ++i) grad_buffer_[i] = 0;
    each_block([&](int64_t first, int64_t n) { write_grad({grad_buffer_, 0}, first, n); });
  }

  A* state(int64_t row) const { return static_cast<A*>(args_.state) + row * kRowState; }

  void save_state() {
    if (args_.state == nullptr) return;
    each_row([&](int64_t g, int64_t lane, int64_t row) {
      const V* numbers = reinterpret_cast<const V*>(&row_state_[g]);
      for (int i = 0; i < kRowState; ++i) state(row)[i] = numbers[i][lane];
    });
  }

  void load_state() {
    for (int64_t g = 0; g < groups_; ++g) {
      V* numbers = reinterpret_cast<V*>(&row_state_[g]);
      for (int i = 0; i < kRowState; ++i) numbers[i] = fill<V>(i == kRegime ? kUncounted : 0);
    }
    each_row([&](int64_t g, int64_t lane, int64_t row) {
      V* numbers = reinterpret_cast<V*>(&row_state_[g]);
      for (int i = 0; i < kRowState; ++i) put(numbers[i], lane, state(row)[i]);
    });
  }

  const DivergenceArgs& args_;
  const Fold<F, A> fold_;
  const bool rows_in_lanes_;
  int64_t row_ = 0, rows_ = 0, groups_ = 0, student_at_ = 0, teacher_at_ = 0, grad_at_ = 0, fetched_ = -1,
          steps_ = 0;
  Block<A> student_, teacher_;
  Row<V> row_state_[kGroups];
  typename Fold<F, A>::Sums sums_[kGroups];
  V weight_[kGroups], factor_[kGroups];
  alignas(64) A student_buffer_[kBuffer], teacher_buffer_[kBuffer], grad_buffer_[kBuffer];
  alignas(64) A student_exp_[kBuffer], teacher_exp_[kBuffer];
};

// The kernels of one divergence at this level, for either compute type.
template <template <class> class Formula>
struct DivergenceKernels {
  using Single = Drive<Formula<VecF>, float>;
  using Double = Drive<Formula<VecD>, double>;

  template <class D>
  static void forward_with(const DivergenceArgs& args, int64_t begin, int64_t end) {
    D drive(args);
    for (int64_t item = begin; item < end; ++item) drive.forward(item);
  }
  template <class D>
  static void backward_with(const DivergenceArgs& args, int64_t begin, int64_t end) {
    D drive(args);
    for (int64_t item = begin; item < end; ++item) drive.backward(item);
  }

  static int64_t items(const DivergenceArgs& args) {
    return args.compute == DType::kFloat64 ? Double::items(args) : Single::items(args);
  }
  static void forward(const DivergenceArgs& args, int64_t begin, int64_t end) {
    if (args.compute == DType::kFloat64) return forward_with<Double>(args, begin, end);
    forward_with<Single>(args, begin, end);
  }
  static void backward(const DivergenceArgs& args, int64_t begin, int64_t end) {
    if (args.compute == DType::kFloat64) return backward_with<Double>(args, begin, end);
    backward_with<Single>(args, begin, end);
  }
};

}  // namespace
}  // namespace kd

#define KD_CPU_DIVERGENCE(name, Formula)                                                      \
  extern "C" const kd::Kernels<kd::DivergenceArgs> KD_JOIN(kd_, name, KD_LEVEL);              \
  const kd::Kernels<kd::DivergenceArgs> KD_JOIN(kd_, name, KD_LEVEL) = {                      \
      kd::DivergenceKernels<kd::Formula>::items, kd::DivergenceKernels<kd::Formula>::forward, \
      kd::DivergenceKernels<kd::Formula>::backward};
