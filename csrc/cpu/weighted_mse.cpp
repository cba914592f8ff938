// Two layouts, one arithmetic. Positions side by side (maps): a block of positions walks through the
// channels, e stays in the first cache, g is a sum of lanes. Channels side by side (tokens): a row of
// channels at a time, g stays in the cache.
#include "../weighted_mse.h"

#include "segment.h"

namespace kd {
namespace {

template <class A>
class WeightedMse {
  using S = Segment<A>;
  using V = typename S::V;
  static constexpr int64_t kLanes = S::kLanes, kRun = 2048, kChannels = 32;

 public:
  static int64_t items(const WeightedMseArgs& args) { return args.shape.batch * args.blocks; }

  static void run(const WeightedMseArgs& args, int64_t begin, int64_t end) {
    const A u = factor(args.position_upstream), w = factor(args.channel_upstream);
    if (args.unless_equal && u == w) return;
    WeightedMse kernel(args, u, w);
    for (int64_t item = begin; item < end; ++item) kernel.block(item);
  }

 private:
  static A factor(const void* x) { return x != nullptr ? *static_cast<const A*>(x) : A(1); }

  WeightedMse(const WeightedMseArgs& args, A u, A w) : args_(args), u_(-2 * u), w_(-2 * w) {}

  void block(int64_t item) {
    const int64_t b = item / args_.blocks, first = item % args_.blocks * args_.block;
    const int64_t left = args_.shape.positions - first, n = left < args_.block ? left : args_.block;
    A* part = static_cast<A*>(args_.channel_part);
    if (part != nullptr) part += item * args_.shape.channels;
    if (args_.block == kRun) return along_positions(b, first, n, part);
    for (int64_t c = 0; part != nullptr && c < args_.shape.channels; ++c) part[c] = 0;
    for (int64_t p = first; p < first + n; ++p)
      for (int64_t c = 0; c < args_.shape.channels; c += kRun)
        along_channels(b, p, c, args_.shape.channels - c < kRun ? args_.shape.channels - c : kRun, part);
  }

  // An error counts as 0 where its weight is 0 and it is not a finite number.
  static KD_FN V kept(V d, V weight) {
    const auto finite = magnitude(d) <= fill<V>(sizeof(A) == 4 ? 3.40282347e38 : 1.79769313486231571e308);
    return select((weight == fill<V>(0)) & ~finite, fill<V>(0), d);
  }

  void along_positions(int64_t b, int64_t first, int64_t n, A* part) {
    const int64_t channels = args_.shape.channels, whole = S::padded(n),
                  at = b * args_.shape.positions + first;
    const A* a = static_cast<const A*>(args_.position);
    for (int64_t i = 0; i < whole; ++i)
      weight_[i] = a != nullptr && i < n ? a[at + i] : A(0), error_[i] = square_[i] = 0;
    for (int64_t c = 0; c < channels; ++c) {
      const A* s = in(args_.student, b, first, c, args_.student.position_stride, n, s_);
      const A* t = in(args_.teacher, b, first, c, args_.teacher.position_stride, n, t_);
      const A gain = number(args_.gain, b * channels + c, 1),
              by_channel = number(args_.channel, b * channels + c, 0);
      A* grad = out(b, first, c, args_.grad.position_stride, n);
      if (s != s_) next_[0] = args_.student.channel_stride;
      if (t != t_) next_[1] = args_.teacher.channel_stride;
      if (grad != grad_) next_[2] = args_.grad.channel_stride;
      const V sum = grad != nullptr ? errors_of_run<true>(s, t, whole, gain, by_channel, grad)
                                    : errors_of_run<false>(s, t, whole, gain, by_channel, nullptr);
      if (grad != nullptr) put(grad, b, first, c, args_.grad.position_stride, n);
      if (part != nullptr) part[c] = sum_of_lanes(sum);
      if (c % kChannels == kChannels - 1 || c == channels - 1) join(whole);
    }
    A* e = static_cast<A*>(args_.position_error);
    for (int64_t i = 0; e != nullptr && i < n; ++i) e[at + i] = square_[i];
  }

  // Sums of a few channels are taken apart and joined: fewer roundings than one long chain of additions.
  void join(int64_t n) {
    for (int64_t i = 0; i < n; ++i) square_[i] += error_[i], error_[i] = 0;
  }

  // One channel over a run of positions; returns the lanes of sum d^2. The next channel's run is far away,
  // and the processor does not foresee it: it is called for here.
  template <bool with_grad>
  KD_FN V errors_of_run(const A* s, const A* t, int64_t n, A gain, A by_channel, A* grad) {
    const V v = fill<V>(gain), b = fill<V>(by_channel), ua = fill<V>(u_ * gain),
            wb = fill<V>(w_ * by_channel);
    V sum = fill<V>(0);
    for (int64_t i = 0; i < n; i += kLanes) {
      __builtin_prefetch(s + next_[0] + i);
      __builtin_prefetch(t + next_[1] + i);
      if constexpr (with_grad) __builtin_prefetch(grad + next_[2] + i, 1);
      const V a = load<V>(weight_ + i), d = kept(load<V>(t + i) - load<V>(s + i), a * v + b), square = d * d;
      sum += square;
      store(error_ + i, load<V>(error_ + i) + v * square);
      if constexpr (with_grad) store(grad + i, (ua * a + wb) * d);
    }
    return sum;
  }

  void along_channels(int64_t b, int64_t p, int64_t c, int64_t n, A* part) {
    const int64_t whole = S::padded(n), at = b * args_.shape.positions + p,
                  first = b * args_.shape.channels + c;
    const A a = number(args_.position, at, 0);
    A* e = static_cast<A*>(args_.position_error);
    if (e != nullptr && c == 0) e[at] = 0;
    const A* s = in(args_.student, b, p, c, args_.student.channel_stride, n, s_);
    const A* t = in(args_.teacher, b, p, c, args_.teacher.channel_stride, n, t_);
    A* grad = out(b, p, c, args_.grad.channel_stride, n);
    V sum;
    if (args_.gain == nullptr && args_.channel == nullptr) {
      sum = grad != nullptr ? errors_of_token<true>(s, t, whole, a, grad)
                            : errors_of_token<false>(s, t, whole, a, nullptr);
    } else {
      spread(args_.gain, first, n, whole, 1, weight_);
      spread(args_.channel, first, n, whole, 0, error_);
      sum = errors_of_row(s, t, n, whole, a, grad, part != nullptr ? part + c : nullptr);
    }
    if (grad != nullptr) put(grad, b, p, c, args_.grad.channel_stride, n);
    if (e != nullptr) e[at] += sum_of_lanes(sum);
  }

  // One weight for the whole row.
  template <bool with_grad>
  KD_FN V errors_of_token(const A* s, const A* t, int64_t n, A a, A* grad) const {
    const V weight = fill<V>(a), ua = fill<V>(u_ * a);
    V sum[2] = {fill<V>(0), fill<V>(0)};
    int64_t i = 0;
    for (; i + 2 * kLanes <= n; i += 2 * kLanes)
      for (int k = 0; k < 2; ++k) {
        const V d = kept(load<V>(t + i + k * kLanes) - load<V>(s + i + k * kLanes), weight);
        sum[k] += d * d;
        if constexpr (with_grad) store(grad + i + k * kLanes, ua * d);
      }
    for (; i < n; i += kLanes) {
      const V d = kept(load<V>(t + i) - load<V>(s + i), weight);
      sum[0] += d * d;
      if constexpr (with_grad) store(grad + i, ua * d);
    }
    return sum[0] + sum[1];
  }

  // weight_ holds v, error_ holds b.
  V errors_of_row(const A* s, const A* t, int64_t n, int64_t whole, A a, A* grad, A* part) {
    const V ua = fill<V>(u_ * a), w = fill<V>(w_);
    V sum = fill<V>(0);
    for (int64_t i = 0; i < whole; i += kLanes) {
      const V v = load<V>(weight_ + i), b = load<V>(error_ + i);
      const V d = kept(load<V>(t + i) - load<V>(s + i), fill<V>(a) * v + b), square = d * d;
      sum += v * square;
      store(square_ + i, square);
      if (grad != nullptr) store(grad + i, (ua * v + w * b) * d);
    }
    for (int64_t i = 0; part != nullptr && i < n; ++i) part[i] += square_[i];
    return sum;
  }

  static KD_FN A number(const void* data, int64_t at, A otherwise) {
    return data != nullptr ? static_cast<const A*>(data)[at] : otherwise;
  }
  static void spread(const void* data, int64_t at, int64_t n, int64_t whole, A otherwise, A* to) {
    for (int64_t i = 0; i < whole; ++i) to[i] = i < n ? number(data, at + i, otherwise) : A(0);
  }

  const A* in(const MapView& view, int64_t b, int64_t p, int64_t c, int64_t stride, int64_t n, A* buffer) {
    return S::in(view.data, view.dtype, offset_of(view, b, p, c), stride, n, buffer);
  }
  A* out(int64_t b, int64_t p, int64_t c, int64_t stride, int64_t n) {
    const MapView& view = args_.grad;
    return view.data == nullptr ? nullptr
                                : S::out(view.data, view.dtype, offset_of(view, b, p, c), stride, n, grad_);
  }
  void put(const A* from, int64_t b, int64_t p, int64_t c, int64_t stride, int64_t n) {
    S::put(from, args_.grad.data, args_.grad.dtype, offset_of(args_.grad, b, p, c), stride, n);
  }

  const WeightedMseArgs& args_;
  const A u_, w_;
  int64_t next_[3] = {};  // from a run to the next channel's; 0 where runs are copied
  alignas(64) A s_[kRun], t_[kRun], grad_[kRun], weight_[kRun], error_[kRun], square_[kRun];
};

}  // namespace
}  // namespace kd

KD_CPU_KERNELS(weighted_mse, WeightedMseArgs, WeightedMse)
