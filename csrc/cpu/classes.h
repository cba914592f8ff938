// The classes of a row as whole vectors and one that may be cut short, read in place wherever they lie side
// by side in the compute type.
#pragma once

#include "../common/convert.h"
#include "../common/divergence.h"
#include "lanes.h"

namespace kd {
namespace {

template <class A>
class Classes {
  using V = typename VectorOf<A>::Type;
  static constexpr int64_t kLanes = Number<V>::kLanes;

 public:
  explicit Classes(int64_t n) : n_(n), whole_(n / kLanes * kLanes) {}

  int64_t count() const { return n_; }
  // Numbers that hold a row in whole vectors.
  int64_t padded() const { return whole_ < n_ ? whole_ + kLanes : whole_; }

  // Calls body(first class, constant) for every vector; constant.kCut: it is the one that is cut short.
  template <bool cut>
  struct Vector {
    static constexpr bool kCut = cut;
  };
  template <class Body>
  KD_FN void each(Body body) const {
    each(0, n_, body);
  }
  // From class `first` on, which a vector begins with, to below `after`.
  template <class Body>
  KD_FN void each(int64_t first, int64_t after, Body body) const {
    for (int64_t i = first; i < whole_ && i < after; i += kLanes) body(i, Vector<false>{});
    if (whole_ < n_ && whole_ >= first && whole_ < after) body(whole_, Vector<true>{});
  }

  // Numbers i, i + 1, ... of n, and `rest` behind the last.
  template <bool cut>
  KD_FN V at(const A* numbers, int64_t i, double rest = 0) const {
    if constexpr (!cut) return load<V>(numbers + i);
    return load_some<V>(numbers + i, n_ - i, static_cast<A>(rest));
  }
  template <bool cut>
  KD_FN void put(A* numbers, int64_t i, V v) const {
    if constexpr (!cut) return store(numbers + i, v);
    store_some(numbers + i, n_ - i, v);
  }

  static KD_FN bool side_by_side(const RowView& view) {
    return view.dtype == dtype_of<A>() && view.class_stride == 1;
  }
  // A row's numbers: in place, or converted into `buffer`.
  const A* row(const RowView& view, int64_t at, A* buffer) const {
    if (side_by_side(view)) return static_cast<const A*>(view.data) + at;
    read(view.data, view.dtype, at, view.class_stride, n_, buffer);
    return buffer;
  }

 private:
  const int64_t n_, whole_;
};

}  // namespace
}  // namespace kd
