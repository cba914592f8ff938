// A sample at a time, three sweeps: norms (and means), distances, gradients. A sample of usual size stays in
// the second cache.
//
// Two layouts. Positions side by side: lanes are positions, sums of a position are arrays in the workspace,
// and a mean over positions is a sum over one short run. Channels side by side: lanes are channels and sums
// of a position are sums of lanes.
#include "../normalized_mse.h"

#include "segment.h"

namespace kd {
namespace {

template <class A>
class NormalizedMse {
  using S = Segment<A>;
  using V = typename S::V;
  static constexpr int64_t kLanes = S::kLanes, kRun = 1024, kRows = 16;

 public:
  // Without centring rows do not know each other: a sample is cut into runs of them.
  static int64_t items(const NormalizedMseArgs& args) { return args.shape.batch * runs(args); }

  static void run(const NormalizedMseArgs& args, int64_t begin, int64_t end) {
    NormalizedMse kernel(args);
    for (int64_t item = begin; item < end; ++item) kernel.item(item);
  }

 private:
  explicit NormalizedMse(const NormalizedMseArgs& args) : args_(args), eps_(static_cast<A>(args.eps)) {}

  static bool positions_in_lanes(const NormalizedMseArgs& args) {
    return args.student.channel_stride != 1 && args.student.position_stride == 1;
  }
  static int64_t step(const NormalizedMseArgs& args) {
    if (args.center) return args.shape.positions;
    return positions_in_lanes(args) ? 4 * kRows : kRows;
  }
  static int64_t runs(const NormalizedMseArgs& args) {
    return args.shape.positions == 0 ? 0 : (args.shape.positions + step(args) - 1) / step(args);
  }

  void item(int64_t item) {
    b_ = item / runs(args_);
    first_ = item % runs(args_) * step(args_);
    n_ = args_.shape.positions - first_ < step(args_) ? args_.shape.positions - first_ : step(args_);
    means_ = static_cast<A*>(args_.workspace) + b_ * args_.workspace_of_sample;
    const int64_t sums_step = (args_.shape.positions + 15) / 16 * 16;
    for (int i = 0; i < 6; ++i) sums_[i] = means_ + 2 * args_.shape.channels + i * sums_step + first_;
    if (positions_in_lanes(args_)) return across_channels();
    if (args_.center) means_of_rows();
    for (int64_t p = first_; p < first_ + n_; ++p) one_row(p);
    if (args_.center && args_.grad.data != nullptr) center_gradient();
  }

  A upstream(int64_t p) const {
    if (args_.upstream == nullptr) return A(1);
    return static_cast<const A*>(args_.upstream)[(b_ * args_.shape.positions + p) * args_.upstream_stride];
  }
  void put_value(int64_t p, A value) const {
    if (args_.row_value == nullptr) return;
    static_cast<A*>(args_.row_value)[b_ * args_.shape.positions + p] = static_cast<A>(args_.scale) * value;
  }

  // ---- Lanes are positions
  // -----------------------------------------------------------------------------------------

  enum { kStudent, kTeacher, kDistance, kAlong, kSlope };

  // Calls body(student, teacher, offset in the run, numbers, channel) for runs of positions of every channel.
  template <class Body>
  KD_FN void each_run(Body body) {
    for (int64_t c = 0; c < args_.shape.channels; ++c)
      for (int64_t at = 0; at < n_; at += kRun) {
        const int64_t n = n_ - at < kRun ? n_ - at : kRun;
        body(run_of(args_.student, at, c, n, s_), run_of(args_.teacher, at, c, n, t_), at, n, c);
      }
  }
  KD_FN const A* run_of(const MapView& view, int64_t at, int64_t c, int64_t n, A* buffer) const {
    return S::in(view.data, view.dtype, offset_of(view, b_, first_ + at, c), view.position_stride, n, buffer);
  }

  void across_channels() {
    const int64_t whole = S::padded(n_), channels = args_.shape.channels;
    A *ss = sums_[kStudent], *tt = sums_[kTeacher], *rr = sums_[kDistance], *ar = sums_[kAlong];
    const bool short_run = n_ <= kRun;  // its mean is taken while it is at hand
    if (args_.center && !short_run) means_of_channels();
    for (int64_t i = 0; i < whole; ++i) ss[i] = tt[i] = rr[i] = ar[i] = 0;
    each_run([&](const A* s, const A* t, int64_t at, int64_t n, int64_t c) {
      if (args_.center && short_run) means_[c] = mean_of(s, s_), means_[channels + c] = mean_of(t, t_);
      const V sm = mean(c), tm = mean(channels + c);
      for (int64_t i = 0; i < n; i += kLanes) {
        const V x = load<V>(s + i) - sm, y = load<V>(t + i) - tm;
        store(ss + at + i, load<V>(ss + at + i) + x * x);
        store(tt + at + i, load<V>(tt + at + i) + y * y);
      }
    });
    for (int64_t i = 0; i < n_; ++i) {
      sums_[kSlope][i] = slope(ss[i], eps_) * static_cast<A>(args_.scale) * upstream(first_ + i);
      const Scales<A> x = scales(ss[i], tt[i], eps_);
      ss[i] = x.scale;
      tt[i] = x.ratio;
    }
    for (int64_t i = n_; i < whole; ++i) sums_[kSlope][i] = ss[i] = tt[i] = 0;
    each_run([&](const A* s, const A* t, int64_t at, int64_t n, int64_t c) {
      const V sm = mean(c), tm = mean(channels + c);
      for (int64_t i = 0; i < n; i += kLanes) {
        const V x = load<V>(s + i) - sm, y = load<V>(t + i) - tm, scale = load<V>(ss + at + i);
        const V a = x * scale, r = (x - y * load<V>(tt + at + i)) * scale;
        store(rr + at + i, load<V>(rr + at + i) + r * r);
        store(ar + at + i, load<V>(ar + at + i) + a * r);
      }
    });
    for (int64_t i = 0; i < n_; ++i) put_value(first_ + i, rr[i]);
    if (args_.grad.data != nullptr) gradient_across_channels();
  }

  KD_FN V mean(int64_t at) const { return args_.center ? fill<V>(means_[at]) : fill<V>(0); }

  // Of a short run: a mean, and then the mean of what rounding left, so that a constant's is exact. A run
  // that is no whole number of vectors lies in `buffer`, padded with zeros.
  KD_FN A mean_of(const A* x, A* buffer) const {
    const A count = static_cast<A>(n_);
    V sum = fill<V>(0), left = fill<V>(0);
    for (int64_t i = 0; i < n_; i += kLanes) sum += load<V>(x + i);
    const A mean = total_of_lanes(sum) / count;
    for (int64_t i = n_; i < S::padded(n_); ++i) buffer[i] = mean;
    for (int64_t i = 0; i < n_; i += kLanes) left += load<V>(x + i) - fill<V>(mean);
    return mean + total_of_lanes(left) / count;
  }

  // The same for long runs.
  void means_of_channels() {
    const A count = static_cast<A>(n_);
    for (int64_t c = 0; c < args_.shape.channels; ++c)
      for (int side = 0; side < 2; ++side) {
        A m = 0;
        for (int turn = 0; turn < 2; ++turn) {
          V sum = fill<V>(0);
          for (int64_t at = 0; at < n_; at += kRun) {
            const int64_t n = n_ - at < kRun ? n_ - at : kRun;
            const A* x = run_of(side == 0 ? args_.student : args_.teacher, at, c, n, s_);
            for (int64_t i = n; i < S::padded(n); ++i) s_[i] = m;  // x is s_ then
            for (int64_t i = 0; i < n; i += kLanes) sum += load<V>(x + i) - fill<V>(m);
          }
          m += total_of_lanes(sum) / count;
        }
        means_[side * args_.shape.channels + c] = m;
      }
  }

  void gradient_across_channels() {
    const A *ss = sums_[kStudent], *tt = sums_[kTeacher], *ar = sums_[kAlong], *slopes = sums_[kSlope];
    const int64_t channels = args_.shape.channels;
    for (int64_t c = 0; c < channels; ++c) {
      A gradient_mean = 0;
      // Long runs are made twice: once for their mean, once to be stored.
      for (int turn = args_.center && n_ > kRun ? 0 : 1; turn < 2; ++turn) {
        V sum = fill<V>(0);
        for (int64_t at = 0; at < n_; at += kRun) {
          const int64_t n = n_ - at < kRun ? n_ - at : kRun;
          const A *s = run_of(args_.student, at, c, n, s_), *t = run_of(args_.teacher, at, c, n, t_);
          const V sm = mean(c), tm = mean(channels + c);
          for (int64_t i = 0; i < n; i += kLanes) {
            const V x = load<V>(s + i) - sm, y = load<V>(t + i) - tm, scale = load<V>(ss + at + i);
            const V a = x * scale, r = (x - y * load<V>(tt + at + i)) * scale;
            const V k = load<V>(slopes + at + i), g = k * (r - load<V>(ar + at + i) * a);
            const V kept = select(k == fill<V>(0), fill<V>(0), g);
            sum += kept;
            store(grad_ + i, kept);
          }
          if (turn == 0) continue;
          if (args_.center && n_ <= kRun) gradient_mean = total_of_lanes(sum) / static_cast<A>(n_);
          put_run(at, c, n, gradient_mean);
        }
        gradient_mean = total_of_lanes(sum) / static_cast<A>(n_);
      }
    }
  }

  void put_run(int64_t at, int64_t c, int64_t n, A less) {
    const MapView& view = args_.grad;
    for (int64_t i = 0; i < n; i += kLanes) store(grad_ + i, load<V>(grad_ + i) - fill<V>(less));
    write(grad_, n, view.data, view.dtype, offset_of(view, b_, first_ + at, c), view.position_stride);
  }

  // ---- Lanes are channels
  // ------------------------------------------------------------------------------------------

  // Calls body(student, teacher, first channel, numbers) for the blocks of one row.
  template <class Body>
  KD_FN void each_block(int64_t p, Body body) {
    for (int64_t c = 0; c < args_.shape.channels; c += kRun) {
      const int64_t n = args_.shape.channels - c < kRun ? args_.shape.channels - c : kRun;
      body(block_of(args_.student, p, c, n, s_), block_of(args_.teacher, p, c, n, t_), c, n);
    }
  }
  KD_FN const A* block_of(const MapView& view, int64_t p, int64_t c, int64_t n, A* buffer) const {
    return S::in(view.data, view.dtype, offset_of(view, b_, p, c), view.channel_stride, n, buffer);
  }

  // Two sweeps: a mean, and then the mean of what rounding left.
  void means_of_rows() {
    const int64_t channels = args_.shape.channels;
    A* const left = grad_;
    for (int64_t c = 0; c < channels; c += kRun) {
      const int64_t n = channels - c < kRun ? channels - c : kRun;
      for (int side = 0; side < 2; ++side) {
        A* m = means_ + side * channels + c;
        for (int64_t i = 0; i < n; ++i) m[i] = 0;
        for (int turn = 0; turn < 2; ++turn) {
          for (int64_t i = 0; i < n; ++i) left[i] = 0;
          for (int64_t p = first_; p < first_ + n_; ++p) {
            const A* x = block_of(side == 0 ? args_.student : args_.teacher, p, c, n, s_);
            for (int64_t i = 0; i < n; ++i) left[i] += x[i] - m[i];
          }
          for (int64_t i = 0; i < n; ++i) m[i] += left[i] / static_cast<A>(n_);
        }
      }
    }
  }

  // Rows with their means taken off, in place of the buffers.
  KD_FN void centred(const A* s, const A* t, int64_t c, int64_t n) {
    const A *sm = means_ + c, *tm = means_ + args_.shape.channels + c;
    for (int64_t i = 0; i < n; ++i) s_[i] = s[i] - sm[i], t_[i] = t[i] - tm[i];
    for (int64_t i = n; i < S::padded(n); ++i) s_[i] = t_[i] = 0;
  }

  template <class Body>
  KD_FN void each_centred(int64_t p, Body body) {
    each_block(p, [&](const A* s, const A* t, int64_t c, int64_t n) {
      if (!args_.center) return body(s, t, c, n);
      centred(s, t, c, n);
      body(s_, t_, c, n);
    });
  }

  void one_row(int64_t p) {
    V ss = fill<V>(0), tt = ss, rr = ss, ar = ss;
    each_centred(p, [&](const A* s, const A* t, int64_t, int64_t n) {
      for (int64_t i = 0; i < n; i += kLanes) {
        const V x = load<V>(s + i), y = load<V>(t + i);
        ss += x * x;
        tt += y * y;
      }
    });
    const A square = total_of_lanes(ss);
    const Scales<A> by = scales(square, total_of_lanes(tt), eps_);
    const V scale = fill<V>(by.scale), ratio = fill<V>(by.ratio);
    each_centred(p, [&](const A* s, const A* t, int64_t, int64_t n) {
      for (int64_t i = 0; i < n; i += kLanes) {
        const V x = load<V>(s + i), a = x * scale, r = (x - load<V>(t + i) * ratio) * scale;
        rr += r * r;
        ar += a * r;
      }
    });
    put_value(p, total_of_lanes(rr));
    if (args_.grad.data == nullptr) return;
    const A k = slope(square, eps_) * static_cast<A>(args_.scale) * upstream(p);
    const V factor = fill<V>(k), along = fill<V>(total_of_lanes(ar));
    each_centred(p, [&](const A* s, const A* t, int64_t c, int64_t n) {
      for (int64_t i = 0; i < n; i += kLanes) {
        const V x = load<V>(s + i), a = x * scale, r = (x - load<V>(t + i) * ratio) * scale;
        store(grad_ + i, k == A(0) ? fill<V>(0) : factor * (r - along * a));
      }
      const MapView& view = args_.grad;
      write(grad_, n, view.data, view.dtype, offset_of(view, b_, p, c), view.channel_stride);
    });
  }

  // The gradients that one_row wrote, minus their mean.
  void center_gradient() {
    const MapView& view = args_.grad;
    for (int64_t c = 0; c < args_.shape.channels; c += kRun) {
      const int64_t n = args_.shape.channels - c < kRun ? args_.shape.channels - c : kRun;
      for (int64_t i = 0; i < n; ++i) grad_[i] = 0;
      for (int64_t p = 0; p < n_; ++p) {
        const A* g = block_of(view, p, c, n, s_);
        for (int64_t i = 0; i < n; ++i) grad_[i] += g[i];
      }
      for (int64_t i = 0; i < n; ++i) grad_[i] /= static_cast<A>(n_);
      for (int64_t p = 0; p < n_; ++p) {
        const A* g = block_of(view, p, c, n, s_);
        for (int64_t i = 0; i < n; ++i) t_[i] = g[i] - grad_[i];
        write(t_, n, view.data, view.dtype, offset_of(view, b_, p, c), view.channel_stride);
      }
    }
  }

  const NormalizedMseArgs& args_;
  const A eps_;
  int64_t b_ = 0, first_ = 0, n_ = 0;
  A *means_ = nullptr, *sums_[6] = {};
  alignas(64) A s_[kRun], t_[kRun], grad_[kRun];
};

}  // namespace
}  // namespace kd

KD_CPU_KERNELS(normalized_mse, NormalizedMseArgs, NormalizedMse)
