// The stages of DIST on the CPU. The backward pass goes over a row twice, for <q, G> and for
// q (G - <q, G>), with the row in the cache.
#include "../dist_loss.h"

#include "dist_forward.h"

namespace kd {
namespace {

constexpr int64_t kColumnsOfItem = 512;

// Joins the blocks of some classes, and takes their correlations.
template <class A>
class DistColumns {
  using V = typename VectorOf<A>::Type;

 public:
  explicit DistColumns(const DistLossArgs& args) : args_(args), classes_(args.shape.classes) {}

  void item(int64_t number) {
    const int64_t first = number * kColumnsOfItem, after = first + kColumnsOfItem;
    classes_.each(first, after, [&](int64_t i, auto v) {
      A rows = 0;
      const Column<V> x = joined<decltype(v)::kCut>(i, rows);
      for (int64_t l = 0; l < Number<V>::kLanes && i + l < classes_.count(); ++l) {
        const Moments<A> about = {x.about.aa[l], x.about.bb[l], x.about.ab[l], x.about.dd[l]};
        write(i + l, x.q[l], x.p[l], correlation(about, rows, A(x.q[l]), A(x.p[l])));
      }
    });
  }

 private:
  template <bool cut>
  KD_FN Column<V> joined(int64_t i, A& rows) const {
    Column<V> x = {fill<V>(0), fill<V>(0), no_moments<V>()};
    for (int64_t b = 0; b < args_.blocks; ++b) {
      const A n = static_cast<const A*>(args_.counts)[b], all = rows + n;
      if (n == A(0)) continue;
      const auto in = [&](int index) {
        const A* moments = static_cast<const A*>(args_.moments);
        return classes_.template at<cut>(moments + (b * kDistMoments + index) * classes_.count(), i);
      };
      join(x, {in(kDistMeanQ), in(kDistMeanP), {in(kDistAA), in(kDistBB), in(kDistAB), in(kDistDD)}},
           fill<V>(n / all), fill<V>(rows * n / all));
      rows = all;
    }
    return x;
  }

  void write(int64_t c, A q, A p, const Correlation<A>& x) const {
    A* state = static_cast<A*>(args_.columns) + c;
    static_cast<A*>(args_.column_value)[c] = x.value;
    state[kDistColumnMean * classes_.count()] = q;
    state[kDistColumnChange * classes_.count()] = q - p;
    state[kDistColumnScale * classes_.count()] = x.scale;
    state[kDistColumnShare * classes_.count()] = x.share;
  }

  const DistLossArgs& args_;
  const Classes<A> classes_;
};

template <class A>
double sum_of(const void* data, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += static_cast<const A*>(data)[i];
  return sum;
}

template <class A>
void dist_finish(const DistLossArgs& args) {
  const double rows = sum_of<A>(args.counts, args.blocks);
  const double of_rows = sum_of<A>(args.row_value, args.shape.rows);
  const double of_columns = sum_of<A>(args.column_value, args.shape.classes);
  dist_result<A>(args, rows, of_rows, of_columns);
}

template <class A>
class DistGradient {
  using V = typename VectorOf<A>::Type;

 public:
  explicit DistGradient(const DistLossArgs& args)
      : args_(args), classes_(args.shape.classes), inverse_temperature_(fill<V>(1 / args.temperature)) {
    const size_t numbers = static_cast<size_t>((classes_.padded() + 63) / 64 * 64);
    q_ = static_cast<A*>(aligned_alloc(64, 2 * numbers * sizeof(A)));
    g_ = q_ + numbers;
  }
  ~DistGradient() { free(q_); }
  DistGradient(const DistGradient&) = delete;
  DistGradient& operator=(const DistGradient&) = delete;

  void row(int64_t row) {
    const RowView& view = args_.grad;
    const int64_t at = row_offset(args_.shape, view, row);
    const bool in_place = classes_.side_by_side(view);
    A* to = in_place ? static_cast<A*>(view.data) + at : q_;
    if (of(kDistStudentInverse, row) == A(0)) {
      for (int64_t c = 0; c < classes_.count(); ++c) to[c] = 0;
    } else {
      const V mean = fill<V>(towards_probabilities(row));
      const V factor = fill<V>(args_.temperature) * fill<V>(*static_cast<const A*>(args_.upstream));
      classes_.each([&](int64_t i, auto v) {
        const V x = factor * load<V>(q_ + i) * (load<V>(g_ + i) - mean);
        classes_.template put<decltype(v)::kCut>(to, i, x);
      });
    }
    if (!in_place) write(to, classes_.count(), view.data, view.dtype, at, view.class_stride);
  }

 private:
  A of(int index, int64_t row) const {
    return static_cast<const A*>(args_.rows)[index * args_.shape.rows + row];
  }

  // q and G, the gradient by q, of a row; returns <q, G>. With d = q - p,
  // G = row's scale (d - share (q - 1/C)) + column's scale (d - its mean - share (q - its mean)).
  A towards_probabilities(int64_t row) {
    constexpr double kNone = -__builtin_huge_val();
    const A* s = classes_.row(args_.student, row_offset(args_.shape, args_.student, row), q_);
    const A* t = classes_.row(args_.teacher, row_offset(args_.shape, args_.teacher, row), g_);
    const double classes = static_cast<double>(classes_.count());
    const A norm = *static_cast<const A*>(args_.norm);
    const V by_row = fill<V>(static_cast<A>(args_.beta) * norm * of(kDistRowScale, row));
    const V by_column = fill<V>(args_.gamma / classes), centre = fill<V>(1 / classes);
    const V s_max = fill<V>(of(kDistStudentMax, row)), t_max = fill<V>(of(kDistTeacherMax, row));
    const V s_inverse = fill<V>(of(kDistStudentInverse, row));
    const V t_inverse = fill<V>(of(kDistTeacherInverse, row)), share = fill<V>(of(kDistRowShare, row));
    V dot = fill<V>(0);
    classes_.each([&](int64_t i, auto v) {
      constexpr bool kCut = decltype(v)::kCut;
      const V x = classes_.template at<kCut>(s, i, kNone), y = classes_.template at<kCut>(t, i, kNone);
      const V q = exp_below((x - s_max) * inverse_temperature_) * s_inverse;
      const V d = q - exp_below((y - t_max) * inverse_temperature_) * t_inverse;
      const auto column = [&](int index) {
        return classes_.template at<kCut>(static_cast<const A*>(args_.columns) + index * classes_.count(), i);
      };
      const V a = q - column(kDistColumnMean), change = d - column(kDistColumnChange);
      const V of_column = column(kDistColumnScale) * (change - column(kDistColumnShare) * a);
      const V g = by_row * (d - share * (q - centre)) + by_column * of_column;
      dot += q * g;
      store(q_ + i, q);
      store(g_ + i, g);
    });
    return sum_of_lanes(dot);
  }

  const DistLossArgs& args_;
  const Classes<A> classes_;
  const V inverse_temperature_;
  A *q_, *g_;
};

template <class A>
struct DistLoss {
  static int64_t items(const DistLossArgs& args) {
    switch (args.stage) {
      case DistStage::kRows:
        return args.blocks;
      case DistStage::kColumns:
        return (args.shape.classes + kColumnsOfItem - 1) / kColumnsOfItem;
      case DistStage::kFinish:
        return 1;
      default:
        return args.shape.rows;
    }
  }

  static void run(const DistLossArgs& args, int64_t begin, int64_t end) {
    if (args.stage == DistStage::kFinish) return dist_finish<A>(args);
    if (args.stage == DistStage::kColumns) {
      DistColumns<A> columns(args);
      for (int64_t i = begin; i < end; ++i) columns.item(i);
    } else if (args.stage == DistStage::kRows) {
      DistForward<A> forward(args);
      for (int64_t i = begin; i < end; ++i) forward.block(i);
    } else {
      DistGradient<A> gradient(args);
      for (int64_t i = begin; i < end; ++i) gradient.row(i);
    }
  }
};

}  // namespace
}  // namespace kd

KD_CPU_KERNELS(dist_loss, DistLossArgs, DistLoss)
