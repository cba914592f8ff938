// Few positions side by side, such as 7 x 7: kVectors vectors hold a channel's positions, and what belongs to
// a position stays in registers while the channels go by.
//
// The last vector ends with the last position, so nothing is read or written outside the channel and nothing
// is copied; where it overlaps the one before it, both compute the same numbers, and `own` counts them once.
#pragma once

#include "normalized.h"

namespace kd {
namespace {

template <class A, int kVectors>
class FewPositions {
  using S = Segment<A>;
  using V = typename S::V;
  static constexpr int64_t kLanes = S::kLanes;
  using Vectors = V[kVectors];
  using Numbers = A[kVectors * kLanes];

 public:
  explicit FewPositions(NormalizedItem<A>& item) : x_(item), share_(A(1) / static_cast<A>(item.n)) {
    for (int k = 0; k < kVectors; ++k) {
      start_[k] = k + 1 < kVectors ? k * kLanes : x_.n - kLanes;
      for (int64_t l = 0; l < kLanes; ++l) own_[k][l] = start_[k] + l >= k * kLanes ? A(1) : A(0);
    }
  }

  void run() {
    if (x_.args.center)
      sweeps<true>();
    else
      sweeps<false>();
  }

 private:
  template <bool center>
  KD_FN void sweeps() {
    norms<center>();
    distances<center>();
    if (x_.args.grad.data != nullptr) gradients<center>();
  }

  KD_FN const A* channel(const MapView& view, int64_t c) const {
    return static_cast<const A*>(view.data) + offset_of(view, x_.b, x_.first, c);
  }
  KD_FN void load_channel(const MapView& view, int64_t c, Vectors& to) const {
    const A* from = channel(view, c);
    for (int k = 0; k < kVectors; ++k) to[k] = load<V>(from + start_[k]);
  }

  // A mean, and then the mean of what rounding left, so that a constant's is exact; taken off.
  KD_FN A take_mean(Vectors& x) const {
    const A first = sum_of(x) * share_;
    for (int k = 0; k < kVectors; ++k) x[k] -= fill<V>(first);
    const A left = sum_of(x) * share_;
    for (int k = 0; k < kVectors; ++k) x[k] -= fill<V>(left);
    return first + left;
  }
  KD_FN A sum_of(const Vectors& x) const {
    V sum = x[kVectors - 1] * own_[kVectors - 1];
    for (int k = 0; k + 1 < kVectors; ++k) sum += x[k];
    return sum_of_lanes(sum);
  }

  template <bool center>
  KD_FN void norms() {
    const NormalizedMseArgs& args = x_.args;
    Vectors ss = {}, tt = {};
    for (int64_t c = 0; c < args.shape.channels; ++c) {
      Vectors x, y;
      load_channel(args.student, c, x);
      load_channel(args.teacher, c, y);
      if constexpr (center) {
        x_.means[c] = take_mean(x);
        x_.means[args.shape.channels + c] = take_mean(y);
      }
      for (int k = 0; k < kVectors; ++k) ss[k] += x[k] * x[k], tt[k] += y[k] * y[k];
    }
    Numbers square, other;
    put(ss, square), put(tt, other);
    for (int64_t i = 0; i < x_.n; ++i) {
      slope_[i] = slope(square[i], x_.eps) * static_cast<A>(args.scale) * x_.upstream(x_.first + i);
      const Scales<A> by = scales(square[i], other[i], x_.eps);
      scale_[i] = by.scale, ratio_[i] = by.ratio;
    }
  }

  // a and r of one channel, in place of z_s and z_t.
  template <bool center>
  KD_FN void normalise(int64_t c, const Vectors& scale, const Vectors& ratio, Vectors& a, Vectors& r) const {
    load_channel(x_.args.student, c, a);
    load_channel(x_.args.teacher, c, r);
    const V s = center ? fill<V>(x_.means[c]) : fill<V>(0);
    const V t = center ? fill<V>(x_.means[x_.args.shape.channels + c]) : fill<V>(0);
    for (int k = 0; k < kVectors; ++k) {
      a[k] -= s;
      r[k] = (a[k] - (r[k] - t) * ratio[k]) * scale[k];
      a[k] *= scale[k];
    }
  }

  template <bool center>
  KD_FN void distances() {
    Vectors scale, ratio, rr = {}, ar = {};
    get(scale_, scale), get(ratio_, ratio);
    for (int64_t c = 0; c < x_.args.shape.channels; ++c) {
      Vectors a, r;
      normalise<center>(c, scale, ratio, a, r);
      for (int k = 0; k < kVectors; ++k) rr[k] += r[k] * r[k], ar[k] += a[k] * r[k];
    }
    Numbers value;
    put(rr, value), put(ar, along_);
    for (int64_t i = 0; i < x_.n; ++i) x_.put_value(x_.first + i, value[i]);
  }

  template <bool center>
  KD_FN void gradients() {
    Vectors scale, ratio, along, factor;
    get(scale_, scale), get(ratio_, ratio), get(along_, along), get(slope_, factor);
    const MapView& view = x_.args.grad;
    for (int64_t c = 0; c < x_.args.shape.channels; ++c) {
      Vectors a, r;
      normalise<center>(c, scale, ratio, a, r);
      for (int k = 0; k < kVectors; ++k) {
        const V g = factor[k] * (r[k] - along[k] * a[k]);
        r[k] = select(factor[k] == fill<V>(0), fill<V>(0), g);
      }
      const V mean = center ? fill<V>(sum_of(r) * share_) : fill<V>(0);
      A* to = static_cast<A*>(view.data) + offset_of(view, x_.b, x_.first, c);
      for (int k = 0; k < kVectors; ++k) store(to + start_[k], r[k] - mean);
    }
  }

  KD_FN void put(const Vectors& from, A* to) const {
    for (int k = 0; k < kVectors; ++k) store(to + start_[k], from[k]);
  }
  KD_FN void get(const A* from, Vectors& to) const {
    for (int k = 0; k < kVectors; ++k) to[k] = load<V>(from + start_[k]);
  }

  NormalizedItem<A>& x_;
  const A share_;  // 1 / positions
  int64_t start_[kVectors];
  V own_[kVectors];  // 1 where a lane is the first to hold its position
  Numbers scale_, ratio_, along_, slope_;
};

// Whether FewPositions serves: numbers of type A, positions side by side, 1 to 8 vectors of them.
template <class A>
bool are_few_positions(const NormalizedMseArgs& args, int64_t n) {
  const auto plain = [](const MapView& view) {
    return view.dtype == dtype_of<A>() && view.position_stride == 1;
  };
  return n >= Segment<A>::kLanes && n <= 8 * Segment<A>::kLanes && plain(args.student) &&
         plain(args.teacher) && (args.grad.data == nullptr || plain(args.grad));
}

template <class A, int kVectors = 1>
void run_few_positions(NormalizedItem<A>& item) {
  if constexpr (kVectors < 8) {
    if (item.n > kVectors * Segment<A>::kLanes) return run_few_positions<A, kVectors + 1>(item);
  }
  FewPositions<A, kVectors>(item).run();
}

}  // namespace
}  // namespace kd
