// Channels side by side: lanes are channels, and sums of a position are sums of lanes.
#pragma once

#include "normalized.h"

namespace kd {
namespace {

template <class A>
class ChannelLanes {
  using S = Segment<A>;
  using V = typename S::V;
  static constexpr int64_t kLanes = S::kLanes, kRun = NormalizedItem<A>::kRun;

 public:
  explicit ChannelLanes(NormalizedItem<A>& item) : x_(item) {}

  void run() {
    if (x_.args.center) means_of_rows();
    for (int64_t p = x_.first; p < x_.first + x_.n; ++p) one_row(p);
    if (x_.args.center && x_.args.grad.data != nullptr) center_gradient();
  }

 private:
  // Calls body(student, teacher, first channel, numbers) for the blocks of one row.
  template <class Body>
  KD_FN void each_block(int64_t p, Body body) {
    for (int64_t c = 0; c < x_.args.shape.channels; c += kRun) {
      const int64_t n = x_.args.shape.channels - c < kRun ? x_.args.shape.channels - c : kRun;
      body(block_of(x_.args.student, p, c, n, x_.s), block_of(x_.args.teacher, p, c, n, x_.t), c, n);
    }
  }
  KD_FN const A* block_of(const MapView& view, int64_t p, int64_t c, int64_t n, A* buffer) const {
    return S::in(view.data, view.dtype, offset_of(view, x_.b, p, c), view.channel_stride, n, buffer);
  }

  // Two sweeps: a mean, and then the mean of what rounding left.
  void means_of_rows() {
    const int64_t channels = x_.args.shape.channels;
    A* const left = x_.grad;
    for (int64_t c = 0; c < channels; c += kRun) {
      const int64_t n = channels - c < kRun ? channels - c : kRun;
      for (int side = 0; side < 2; ++side) {
        A* m = x_.means + side * channels + c;
        for (int64_t i = 0; i < n; ++i) m[i] = 0;
        for (int turn = 0; turn < 2; ++turn) {
          for (int64_t i = 0; i < n; ++i) left[i] = 0;
          for (int64_t p = x_.first; p < x_.first + x_.n; ++p) {
            const A* x = block_of(side == 0 ? x_.args.student : x_.args.teacher, p, c, n, x_.s);
            for (int64_t i = 0; i < n; ++i) left[i] += x[i] - m[i];
          }
          for (int64_t i = 0; i < n; ++i) m[i] += left[i] / static_cast<A>(x_.n);
        }
      }
    }
  }

  // Rows with their means taken off, in place of the buffers.
  KD_FN void centred(const A* s, const A* t, int64_t c, int64_t n) {
    const A *sm = x_.means + c, *tm = x_.means + x_.args.shape.channels + c;
    for (int64_t i = 0; i < n; ++i) x_.s[i] = s[i] - sm[i], x_.t[i] = t[i] - tm[i];
    for (int64_t i = n; i < S::padded(n); ++i) x_.s[i] = x_.t[i] = 0;
  }

  template <class Body>
  KD_FN void each_centred(int64_t p, Body body) {
    each_block(p, [&](const A* s, const A* t, int64_t c, int64_t n) {
      if (!x_.args.center) return body(s, t, c, n);
      centred(s, t, c, n);
      body(x_.s, x_.t, c, n);
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
    const A square = sum_of_lanes(ss);
    const Scales<A> by = scales(square, sum_of_lanes(tt), x_.eps);
    const V scale = fill<V>(by.scale), ratio = fill<V>(by.ratio);
    each_centred(p, [&](const A* s, const A* t, int64_t, int64_t n) {
      for (int64_t i = 0; i < n; i += kLanes) {
        const V x = load<V>(s + i), a = x * scale, r = (x - load<V>(t + i) * ratio) * scale;
        rr += r * r;
        ar += a * r;
      }
    });
    x_.put_value(p, sum_of_lanes(rr));
    if (x_.args.grad.data == nullptr) return;
    const A k = slope(square, x_.eps) * static_cast<A>(x_.args.scale) * x_.upstream(p);
    const V factor = fill<V>(k), along = fill<V>(sum_of_lanes(ar));
    each_centred(p, [&](const A* s, const A* t, int64_t c, int64_t n) {
      for (int64_t i = 0; i < n; i += kLanes) {
        const V x = load<V>(s + i), a = x * scale, r = (x - load<V>(t + i) * ratio) * scale;
        store(x_.grad + i, k == A(0) ? fill<V>(0) : factor * (r - along * a));
      }
      const MapView& view = x_.args.grad;
      write(x_.grad, n, view.data, view.dtype, offset_of(view, x_.b, p, c), view.channel_stride);
    });
  }

  // The gradients that one_row wrote, minus their mean.
  void center_gradient() {
    const MapView& view = x_.args.grad;
    for (int64_t c = 0; c < x_.args.shape.channels; c += kRun) {
      const int64_t n = x_.args.shape.channels - c < kRun ? x_.args.shape.channels - c : kRun;
      for (int64_t i = 0; i < n; ++i) x_.grad[i] = 0;
      for (int64_t p = 0; p < x_.n; ++p) {
        const A* g = block_of(view, p, c, n, x_.s);
        for (int64_t i = 0; i < n; ++i) x_.grad[i] += g[i];
      }
      for (int64_t i = 0; i < n; ++i) x_.grad[i] /= static_cast<A>(x_.n);
      for (int64_t p = 0; p < x_.n; ++p) {
        const A* g = block_of(view, p, c, n, x_.s);
        for (int64_t i = 0; i < n; ++i) x_.t[i] = g[i] - x_.grad[i];
        write(x_.t, n, view.data, view.dtype, offset_of(view, x_.b, p, c), view.channel_stride);
      }
    }
  }

  NormalizedItem<A>& x_;
};

}  // namespace
}  // namespace kd
