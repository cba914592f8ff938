// L1 and generalised IoU of two boxes in cxcywh, I their overlap, U their union, C the box around both:
//
//   GIoU = I/U - (C - U)/C,   value = l1 mean |s - t| + giou (1 - GIoU)
//
// An area up to 1e-12 counts as none: its share is 0, without slope. Where edges coincide each side of a
// minimum or maximum has half the slope; boxes that touch have that of an overlap (as clamp(min=0) has).
#pragma once

#include "common/pairs.h"

namespace kd {
namespace {

constexpr double kEmptyArea = 1e-12;

// Two extents of one axis: how they overlap, what encloses them, and the slopes by the student's ends.
template <class N>
struct Extents {
  N overlap, hull;
  N overlap_low, overlap_high, hull_low, hull_high;
};

// 1 where a < b, 1/2 where they are equal, else 0.
template <class N>
KD_FN N share_below(N a, N b) {
  return select(a < b, fill<N>(1), select(a == b, fill<N>(0.5), fill<N>(0)));
}

template <class N>
KD_FN Extents<N> extents(N s, N s_size, N t, N t_size) {
  const N half = fill<N>(0.5), one = fill<N>(1), zero = fill<N>(0);
  const N s_low = s - half * s_size, s_high = s + half * s_size, t_low = t - half * t_size,
          t_high = t + half * t_size;
  const N shared = smaller(s_high, t_high) - larger(s_low, t_low);
  const N high = share_below(s_high, t_high), low = share_below(t_low, s_low);
  const auto apart = shared < zero;
  return {select(apart, zero, shared),
          larger(s_high, t_high) - smaller(s_low, t_low),
          select(apart, zero, -low),
          select(apart, zero, high),
          low - one,
          one - high};
}

struct BoxLoss {
  static constexpr int kPairs = 4, kValues = 1;
  static constexpr KD_FN int value_of(int) { return 0; }

  template <class N>
  static KD_FN void at(const N* s, const N* t, const double* param, N* value, N* slope) {
    const N zero = fill<N>(0), one = fill<N>(1), half = fill<N>(0.5);
    const Extents<N> x = extents(s[0], s[2], t[0], t[2]), y = extents(s[1], s[3], t[1], t[3]);
    const N overlap = x.overlap * y.overlap, hull = x.hull * y.hull;
    const N both = (s[2] * s[3] + t[2] * t[3]) - overlap;
    const N by_union = select(both <= fill<N>(kEmptyArea), zero, one / both);
    const N by_hull = select(hull <= fill<N>(kEmptyArea), zero, one / hull);
    const N giou = overlap * by_union - (hull - both) * by_hull;

    // Slopes of GIoU by the overlap (the union shrinks with it), by the union, by the hull.
    const N of_union = by_hull - overlap * by_union * by_union;
    const N of_overlap = by_union - of_union, of_hull = -(both * by_hull * by_hull);
    const N ox = of_overlap * y.overlap, oy = of_overlap * x.overlap, hx = of_hull * y.hull,
            hy = of_hull * x.hull;
    const N x_low = ox * x.overlap_low + hx * x.hull_low, x_high = ox * x.overlap_high + hx * x.hull_high;
    const N y_low = oy * y.overlap_low + hy * y.hull_low, y_high = oy * y.overlap_high + hy * y.hull_high;
    const N of_giou[4] = {x_low + x_high, y_low + y_high, half * (x_high - x_low) + of_union * s[3],
                          half * (y_high - y_low) + of_union * s[2]};

    const N l1 = fill<N>(param[0] / 4), weight = fill<N>(param[1]);
    N distance = zero;
    for (int j = 0; j < kPairs; ++j) {
      const N d = s[j] - t[j], sign = select(d > zero, one, select(d < zero, -one, zero));
      distance += magnitude(d);
      slope[j] = l1 * sign - weight * of_giou[j];
    }
    value[0] = l1 * distance + weight * (one - giou);
  }
};

}  // namespace
}  // namespace kd
