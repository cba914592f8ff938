// Positions side by side: lanes are positions, sums of a position are arrays in the workspace, and a mean
// over positions is a sum over runs.
#pragma once

#include "normalized.h"

namespace kd {
namespace {

template <class A>
class PositionLanes {
  using S = Segment<A>;
  using V = typename S::V;
  static constexpr int64_t kLanes = S::kLanes, kRun = NormalizedItem<A>::kRun;

 public:
  explicit PositionLanes(NormalizedItem<A>& item) : x_(item) {}

  void run() {
    const int64_t whole = S::padded(x_.n), channels = x_.args.shape.channels;
    A *ss = x_.sums[kStudent], *tt = x_.sums[kTeacher], *rr = x_.sums[kDistance], *ar = x_.sums[kAlong];
    const bool short_run = x_.n <= kRun;  // its mean is taken while it is at hand
    if (x_.args.center && !short_run) means_of_channels();
    for (int64_t i = 0; i < whole; ++i) ss[i] = tt[i] = rr[i] = ar[i] = 0;
    each_run([&](const A* s, const A* t, int64_t at, int64_t n, int64_t c) {
      if (x_.args.center && short_run)
        x_.means[c] = mean_of(s, x_.s), x_.means[channels + c] = mean_of(t, x_.t);
      const V sm = mean(c), tm = mean(channels + c);
      for (int64_t i = 0; i < n; i += kLanes) {
        const V x = load<V>(s + i) - sm, y = load<V>(t + i) - tm;
        store(ss + at + i, load<V>(ss + at + i) + x * x);
        store(tt + at + i, load<V>(tt + at + i) + y * y);
      }
    });
    for (int64_t i = 0; i < x_.n; ++i) {
      x_.sums[kSlope][i] = slope(ss[i], x_.eps) * static_cast<A>(x_.args.scale) * x_.upstream(x_.first + i);
      const Scales<A> x = scales(ss[i], tt[i], x_.eps);
      ss[i] = x.scale;
      tt[i] = x.ratio;
    }
    for (int64_t i = x_.n; i < whole; ++i) x_.sums[kSlope][i] = ss[i] = tt[i] = 0;
    each_run([&](const A* s, const A* t, int64_t at, int64_t n, int64_t c) {
      const V sm = mean(c), tm = mean(channels + c);
      for (int64_t i = 0; i < n; i += kLanes) {
        const V x = load<V>(s + i) - sm, y = load<V>(t + i) - tm, scale = load<V>(ss + at + i);
        const V a = x * scale, r = (x - y * load<V>(tt + at + i)) * scale;
        store(rr + at + i, load<V>(rr + at + i) + r * r);
        store(ar + at + i, load<V>(ar + at + i) + a * r);
      }
    });
    for (int64_t i = 0; i < x_.n; ++i) x_.put_value(x_.first + i, rr[i]);
    if (x_.args.grad.data != nullptr) gradient();
  }

 private:
  enum { kStudent, kTeacher, kDistance, kAlong, kSlope };

  // Calls body(student, teacher, offset in the run, numbers, channel) for runs of positions of every channel.
  template <class Body>
  KD_FN void each_run(Body body) {
    for (int64_t c = 0; c < x_.args.shape.channels; ++c)
      for (int64_t at = 0; at < x_.n; at += kRun) {
        const int64_t n = x_.n - at < kRun ? x_.n - at : kRun;
        body(run_of(x_.args.student, at, c, n, x_.s), run_of(x_.args.teacher, at, c, n, x_.t), at, n, c);
      }
  }
  KD_FN const A* run_of(const MapView& view, int64_t at, int64_t c, int64_t n, A* buffer) const {
    return S::in(view.data, view.dtype, offset_of(view, x_.b, x_.first + at, c), view.position_stride, n,
                 buffer);
  }

  KD_FN V mean(int64_t at) const { return x_.args.center ? fill<V>(x_.means[at]) : fill<V>(0); }

  // Of a short run: a mean, and then the mean of what rounding left, so that a constant's is exact. A run
  // that is no whole number of vectors lies in `buffer`, padded with zeros.
  KD_FN A mean_of(const A* x, A* buffer) const {
    const A count = static_cast<A>(x_.n);
    V sum = fill<V>(0), left = fill<V>(0);
    for (int64_t i = 0; i < x_.n; i += kLanes) sum += load<V>(x + i);
    const A mean = sum_of_lanes(sum) / count;
    for (int64_t i = x_.n; i < S::padded(x_.n); ++i) buffer[i] = mean;
    for (int64_t i = 0; i < x_.n; i += kLanes) left += load<V>(x + i) - fill<V>(mean);
    return mean + sum_of_lanes(left) / count;
  }

  // The same for long runs.
  void means_of_channels() {
    const A count = static_cast<A>(x_.n);
    for (int64_t c = 0; c < x_.args.shape.channels; ++c)
      for (int side = 0; side < 2; ++side) {
        A m = 0;
        for (int turn = 0; turn < 2; ++turn) {
          V sum = fill<V>(0);
          for (int64_t at = 0; at < x_.n; at += kRun) {
            const int64_t n = x_.n - at < kRun ? x_.n - at : kRun;
            const A* x = run_of(side == 0 ? x_.args.student : x_.args.teacher, at, c, n, x_.s);
            for (int64_t i = n; i < S::padded(n); ++i) x_.s[i] = m;  // x is x_.s then
            for (int64_t i = 0; i < n; i += kLanes) sum += load<V>(x + i) - fill<V>(m);
          }
          m += sum_of_lanes(sum) / count;
        }
        x_.means[side * x_.args.shape.channels + c] = m;
      }
  }

  void gradient() {
    const A *ss = x_.sums[kStudent], *tt = x_.sums[kTeacher], *ar = x_.sums[kAlong],
            *slopes = x_.sums[kSlope];
    const int64_t channels = x_.args.shape.channels;
    for (int64_t c = 0; c < channels; ++c) {
      A gradient_mean = 0;
      // Long runs are made twice: once for their mean, once to be stored.
      for (int turn = x_.args.center && x_.n > kRun ? 0 : 1; turn < 2; ++turn) {
        V sum = fill<V>(0);
        for (int64_t at = 0; at < x_.n; at += kRun) {
          const int64_t n = x_.n - at < kRun ? x_.n - at : kRun;
          const A *s = run_of(x_.args.student, at, c, n, x_.s), *t = run_of(x_.args.teacher, at, c, n, x_.t);
          const V sm = mean(c), tm = mean(channels + c);
          for (int64_t i = 0; i < n; i += kLanes) {
            const V x = load<V>(s + i) - sm, y = load<V>(t + i) - tm, scale = load<V>(ss + at + i);
            const V a = x * scale, r = (x - y * load<V>(tt + at + i)) * scale;
            const V k = load<V>(slopes + at + i), g = k * (r - load<V>(ar + at + i) * a);
            const V kept = select(k == fill<V>(0), fill<V>(0), g);
            sum += kept;
            store(x_.grad + i, kept);
          }
          if (turn == 0) continue;
          if (x_.args.center && x_.n <= kRun) gradient_mean = sum_of_lanes(sum) / static_cast<A>(x_.n);
          put_run(at, c, n, gradient_mean);
        }
        gradient_mean = sum_of_lanes(sum) / static_cast<A>(x_.n);
      }
    }
  }

  void put_run(int64_t at, int64_t c, int64_t n, A less) {
    const MapView& view = x_.args.grad;
    for (int64_t i = 0; i < n; i += kLanes) store(x_.grad + i, load<V>(x_.grad + i) - fill<V>(less));
    write(x_.grad, n, view.data, view.dtype, offset_of(view, x_.b, x_.first + at, c), view.position_stride);
  }

  NormalizedItem<A>& x_;
};

}  // namespace
}  // namespace kd
