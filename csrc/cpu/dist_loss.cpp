// A strip of rows at a time: their softmaxes lie side by side in the cache, where first each row's and then
// each column's moments are taken; the block's moments see one addition a strip. The backward pass goes over
// a row twice, for <q, G> and for q (G - <q, G>), with the row in the cache.
#include "../dist_loss.h"

#include <stdlib.h>

#include "segment.h"

namespace kd {
namespace {

template <class A>
class DistLoss {
  using V = typename VectorOf<A>::Type;
  static constexpr int64_t kLanes = Number<V>::kLanes;
  static constexpr int64_t kStrip = 16;                // rows, at most
  static constexpr int64_t kStripBytes = 512 << 10;    // of both sides, unless it is one row
  static constexpr int64_t kColumns = 512;             // of an item of kColumns
  static constexpr int64_t kApart = 64 / sizeof(A);    // between rows: powers of two push each other out

 public:
  static int64_t items(const DistLossArgs& args) {
    switch (args.stage) {
      case DistStage::kRows:
        return args.blocks;
      case DistStage::kColumns:
        return (args.shape.classes + kColumns - 1) / kColumns;
      case DistStage::kFinish:
        return 1;
      default:
        return args.shape.rows;
    }
  }

  static void run(const DistLossArgs& args, int64_t begin, int64_t end) {
    if (args.stage == DistStage::kFinish) return finish(args);
    DistLoss kernel(args);
    for (int64_t i = begin; i < end; ++i) {
      if (args.stage == DistStage::kRows) kernel.block(i);
      if (args.stage == DistStage::kColumns) kernel.columns(i * kColumns);
      if (args.stage == DistStage::kGradient) kernel.gradient(i);
    }
  }

  ~DistLoss() { free(memory_); }
  DistLoss(const DistLoss&) = delete;
  DistLoss& operator=(const DistLoss&) = delete;

 private:
  explicit DistLoss(const DistLossArgs& args)
      : args_(args),
        classes_(args.shape.classes),
        padded_((classes_ + kLanes - 1) / kLanes * kLanes),
        pitch_(padded_ + kApart),
        inverse_temperature_(fill<V>(1 / args.temperature)),
        centre_(fill<V>(1.0 / static_cast<double>(classes_))) {
    const int64_t fit = kStripBytes / (2 * pitch_ * static_cast<int64_t>(sizeof(A)));
    strip_ = fit < 1 ? 1 : fit < kStrip ? fit : kStrip;
    const int64_t numbers = (2 * strip_ * pitch_ + kApart + 63) / 64 * 64;
    memory_ = static_cast<A*>(aligned_alloc(64, static_cast<size_t>(numbers) * sizeof(A)));
    for (int64_t l = 0; l < kLanes; ++l)
      last_centre_[l] = padded_ - kLanes + l < classes_ ? centre_[l] : A(0);
  }

  A* q(int64_t r) const { return memory_ + r * pitch_; }
  A* p(int64_t r) const { return memory_ + (strip_ + r) * pitch_; }
  A* rows(int index) const { return static_cast<A*>(args_.rows) + index * args_.shape.rows; }
  A* columns_of(int index) const { return static_cast<A*>(args_.columns) + index * classes_; }
  A* moments(int64_t block, int index) const {
    return static_cast<A*>(args_.moments) + (block * kDistMoments + index) * classes_;
  }
  // 1/C, and 0 behind the last class, where q and p are 0.
  V centre(int64_t i) const { return i + kLanes < padded_ ? centre_ : last_centre_; }

  // ---- Rows ----------------------------------------------------------------------------------------------

  void block(int64_t b) {
    const int64_t first = b * args_.block_rows, after = first + args_.block_rows;
    const int64_t end = after < args_.shape.rows ? after : args_.shape.rows;
    for (int i = 0; i < kDistMoments; ++i)
      for (int64_t c = 0; c < classes_; ++c) moments(b, i)[c] = 0;
    int64_t held = 0, counted = 0;
    for (int64_t row = first; row < end; ++row) {
      held += of_row(row, held) ? 1 : 0;
      if (held < strip_ && row + 1 < end) continue;
      if (held > 0) add_strip(b, held, counted);
      counted += held;
      held = 0;
    }
    static_cast<A*>(args_.counts)[b] = static_cast<A>(counted);
  }

  // One row's softmaxes into place r of the strip, its state and value. False if it does not count.
  bool of_row(int64_t row, int64_t r) {
    A* inverse[2] = {rows(kDistStudentInverse) + row, rows(kDistTeacherInverse) + row};
    const bool counts =
        exponentials_of(args_.student, row, q(r), rows(kDistStudentMax) + row, inverse[0]) &&
        exponentials_of(args_.teacher, row, p(r), rows(kDistTeacherMax) + row, inverse[1]);
    if (!counts) {
      *inverse[0] = 0;
      static_cast<A*>(args_.row_value)[row] = 0;
      return false;
    }
    const V of_q = fill<V>(*inverse[0]), of_p = fill<V>(*inverse[1]);
    Moments<V> m = no_moments<V>();
    for (int64_t i = 0; i < padded_; i += kLanes) {
      const V x = load<V>(q(r) + i) * of_q, y = load<V>(p(r) + i) * of_p;
      store(q(r) + i, x);
      store(p(r) + i, y);
      add(m, x - centre(i), y - centre(i));
    }
    const Correlation<A> x = correlation<A>(
        {total_of_lanes(m.aa), total_of_lanes(m.bb), total_of_lanes(m.ab), total_of_lanes(m.dd)});
    static_cast<A*>(args_.row_value)[row] = x.value;
    rows(kDistRowScale)[row] = x.scale;
    rows(kDistRowShare)[row] = x.share;
    return true;
  }

  // A row's logits: in place if they are whole vectors side by side, else in `buffer`.
  const A* logits(const RowView& view, int64_t row, A* buffer) const {
    const int64_t at = row_offset(args_.shape, view, row);
    if (Segment<A>::plain(view.dtype, view.class_stride, classes_))
      return static_cast<const A*>(view.data) + at;
    read(view.data, view.dtype, at, view.class_stride, classes_, buffer);
    for (int64_t i = classes_; i < padded_; ++i) buffer[i] = -__builtin_huge_val();
    return buffer;
  }

  // e^{(x - max) / T}, its maximum and 1 / its sum. False where no class is possible.
  bool exponentials_of(const RowView& view, int64_t row, A* to, A* max, A* inverse) {
    const A* x = logits(view, row, to);
    V most = minus_infinity<V>(), sum = fill<V>(0);
    for (int64_t i = 0; i < padded_; i += kLanes) most = larger(load<V>(x + i), most);
    A top = most[0];
    for (int64_t l = 1; l < kLanes; ++l) top = larger(A(most[l]), top);
    const V maxima = fill<V>(*max = reference(top));
    for (int64_t i = 0; i < padded_; i += kLanes) {
      const V e = exp_below((load<V>(x + i) - maxima) * inverse_temperature_);
      store(to + i, e);
      sum += e;
    }
    const A total = total_of_lanes(sum);
    *inverse = A(1) / total;
    return total != A(0);
  }

  // ---- Columns -------------------------------------------------------------------------------------------

  // The strip's n rows join the block's moments of `before` rows.
  void add_strip(int64_t b, int64_t n, int64_t before) {
    const double all = static_cast<double>(before + n);
    const V of_one = fill<V>(1.0 / static_cast<double>(n)), share = fill<V>(static_cast<double>(n) / all);
    const V weight = fill<V>(static_cast<double>(before) * static_cast<double>(n) / all);
    A* to[kDistMoments];
    for (int i = 0; i < kDistMoments; ++i) to[i] = moments(b, i);
    for (int64_t i = 0; i < padded_; i += kLanes) {
      Column<V> x = strip_column(i, n, of_one), total;
      V* sums[kDistMoments] = {&total.q,        &total.p,        &total.about.aa,
                               &total.about.bb, &total.about.ab, &total.about.dd};
      if (i + kLanes <= classes_) {
        for (int k = 0; k < kDistMoments; ++k) *sums[k] = load<V>(to[k] + i);
        join(total, x, share, weight);
        for (int k = 0; k < kDistMoments; ++k) store(to[k] + i, *sums[k]);
        continue;
      }
      for (int k = 0; k < kDistMoments; ++k) {
        *sums[k] = fill<V>(0);
        for (int64_t l = 0; i + l < classes_; ++l) (*sums[k])[l] = to[k][i + l];
      }
      join(total, x, share, weight);
      for (int k = 0; k < kDistMoments; ++k)
        for (int64_t l = 0; i + l < classes_; ++l) to[k][i + l] = (*sums[k])[l];
    }
  }

  Column<V> strip_column(int64_t i, int64_t n, V of_one) const {
    Column<V> x = {fill<V>(0), fill<V>(0), no_moments<V>()};
    for (int64_t r = 0; r < n; ++r) {
      x.q += load<V>(q(r) + i);
      x.p += load<V>(p(r) + i);
    }
    x.q *= of_one;
    x.p *= of_one;
    for (int64_t r = 0; r < n; ++r) add(x.about, load<V>(q(r) + i) - x.q, load<V>(p(r) + i) - x.p);
    return x;
  }

  // Joins the blocks of kColumns columns, and what their correlations give.
  void columns(int64_t first) {
    const int64_t after = first + kColumns, end = after < classes_ ? after : classes_;
    for (int64_t c = first; c < end; ++c) {
      Column<A> x = {0, 0, no_moments<A>()};
      A rows = 0;
      for (int64_t b = 0; b < args_.blocks; ++b) {
        const A n = static_cast<const A*>(args_.counts)[b], all = rows + n;
        if (n == A(0)) continue;
        const auto of = [&](int index) { return moments(b, index)[c]; };
        join(x,
             {of(kDistMeanQ), of(kDistMeanP), {of(kDistAA), of(kDistBB), of(kDistAB), of(kDistDD)}},
             n / all, rows * n / all);
        rows = all;
      }
      const Correlation<A> y = correlation(x.about);
      static_cast<A*>(args_.column_value)[c] = y.value;
      columns_of(kDistColumnMean)[c] = x.q;
      columns_of(kDistColumnChange)[c] = x.q - x.p;
      columns_of(kDistColumnScale)[c] = y.scale;
      columns_of(kDistColumnShare)[c] = y.share;
    }
  }

  static double sum(const void* data, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; ++i) sum += static_cast<const A*>(data)[i];
    return sum;
  }

  static void finish(const DistLossArgs& args) {
    const double rows = sum(args.counts, args.blocks), classes = static_cast<double>(args.shape.classes);
    const double of_rows = sum(args.row_value, args.shape.rows) / (rows > 0 ? rows : 1);
    const double of_columns = sum(args.column_value, args.shape.classes) / classes;
    const double value = args.temperature * args.temperature * (args.beta * of_rows + args.gamma * of_columns);
    *static_cast<A*>(args.loss) = static_cast<A>(rows > 0 ? value : 0);
    *static_cast<A*>(args.norm) = static_cast<A>(rows > 0 ? 1 / rows : 0);
  }

  // ---- Gradient ------------------------------------------------------------------------------------------

  void gradient(int64_t row) {
    const RowView& view = args_.grad;
    const int64_t at = row_offset(args_.shape, view, row);
    const bool plain = Segment<A>::plain(view.dtype, view.class_stride, classes_);
    A* to = plain ? static_cast<A*>(view.data) + at : q(0);
    const A of_student = rows(kDistStudentInverse)[row];
    if (of_student == A(0)) {
      for (int64_t i = 0; i < padded_; i += kLanes) store(to + i, fill<V>(0));
    } else {
      gradient_into(to, row, of_student);
    }
    if (!plain) write(to, classes_, view.data, view.dtype, at, view.class_stride);
  }

  // G = row's scale (d - share (q - 1/C)) + column's scale (d - its mean - share (q - its mean)), d = q - p.
  void gradient_into(A* to, int64_t row, A of_student) {
    const A *s = logits(args_.student, row, q(0)), *t = logits(args_.teacher, row, p(0));
    const V s_max = fill<V>(rows(kDistStudentMax)[row]), t_max = fill<V>(rows(kDistTeacherMax)[row]);
    const V s_inverse = fill<V>(of_student), t_inverse = fill<V>(rows(kDistTeacherInverse)[row]);
    const A norm = *static_cast<const A*>(args_.norm);
    const V by_row = fill<V>(static_cast<A>(args_.beta) * norm * rows(kDistRowScale)[row]);
    const V share = fill<V>(rows(kDistRowShare)[row]);
    const V by_column = fill<V>(args_.gamma / static_cast<double>(classes_));
    V dot = fill<V>(0);
    for (int64_t i = 0; i < padded_; i += kLanes) {
      const V x = exp_below((load<V>(s + i) - s_max) * inverse_temperature_) * s_inverse;
      const V d = x - exp_below((load<V>(t + i) - t_max) * inverse_temperature_) * t_inverse;
      const V of_row = by_row * (d - share * (x - centre_));
      const V a = x - column(kDistColumnMean, i), change = d - column(kDistColumnChange, i);
      const V of_column = column(kDistColumnScale, i) * (change - column(kDistColumnShare, i) * a);
      const V g = of_row + by_column * of_column;
      dot += x * g;
      store(q(0) + i, x);
      store(p(0) + i, g);
    }
    const V mean = fill<V>(total_of_lanes(dot));
    const V factor = fill<V>(args_.temperature) * fill<V>(*static_cast<const A*>(args_.upstream));
    for (int64_t i = 0; i < padded_; i += kLanes)
      store(to + i, factor * load<V>(q(0) + i) * (load<V>(p(0) + i) - mean));
  }

  V column(int index, int64_t i) const {
    const A* numbers = columns_of(index) + i;
    if (i + kLanes <= classes_) return load<V>(numbers);
    V v = fill<V>(0);
    for (int64_t l = 0; i + l < classes_; ++l) v[l] = numbers[l];
    return v;
  }

  const DistLossArgs& args_;
  const int64_t classes_, padded_, pitch_;
  const V inverse_temperature_, centre_;
  V last_centre_;
  int64_t strip_;
  A* memory_;
};

}  // namespace
}  // namespace kd

KD_CPU_KERNELS(dist_loss, DistLossArgs, DistLoss)
