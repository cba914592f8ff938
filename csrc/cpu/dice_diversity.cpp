// An item is a sample. Runs of positions go through the masks; for the pairwise form tiles of masks meet
// tiles of masks while both are in the first cache.
#include "../dice_diversity.h"

#include "segment.h"

namespace kd {
namespace {

constexpr int64_t kTile = 8;  // masks of a tile

template <class A>
class DiceDiversity {
  using S = Segment<A>;
  using V = typename S::V;
  static constexpr int64_t kLanes = S::kLanes, kRun = kDiceRun;
  using Tile = A[kTile][kRun];

 public:
  static int64_t items(const DiceDiversityArgs& args) { return args.shape.batch; }

  static void run(const DiceDiversityArgs& args, int64_t begin, int64_t end) {
    DiceDiversity kernel(args);
    for (int64_t b = begin; b < end; ++b) kernel.sample(b);
  }

 private:
  explicit DiceDiversity(const DiceDiversityArgs& args) : args_(args), count_(args.shape.channels) {}

  void sample(int64_t b) {
    b_ = b;
    sums_ = args_.sums + b * numbers_of_part(args_);
    weights_ = static_cast<A*>(args_.weights) + b * weights_of_sample(args_);
    take_inverse();
    for (int64_t i = 0; i < numbers_of_part(args_); ++i) sums_[i] = 0;
    each_run(
        [&](int64_t first, int64_t n) { args_.pairwise ? add_products(first, n) : add_columns(first, n); });
    const double value = args_.pairwise ? weigh_pairs() : weigh_columns();
    if (args_.row_value != nullptr) static_cast<A*>(args_.row_value)[b] = static_cast<A>(value * args_.scale);
    if (args_.grad.data == nullptr) return;
    const double up = args_.upstream != nullptr ? *static_cast<const A*>(args_.upstream) : 1;
    factor_ = static_cast<A>(args_.scale * up * inverse_);
    each_run([&](int64_t first, int64_t n) {
      args_.pairwise ? gradient_of_pairs(first, n) : gradient_of_columns(first, n);
    });
  }

  template <class Body>
  KD_FN void each_run(Body body) {
    const int64_t positions = args_.shape.positions;
    for (int64_t first = 0; first < positions; first += kRun)
      body(first, positions - first < kRun ? positions - first : kRun);
  }

  // Mask i over a run, as it is.
  KD_FN const A* mask(int64_t i, int64_t first, int64_t n, A* buffer) const {
    const MapView& view = args_.masks;
    return S::in(view.data, view.dtype, offset_of(view, b_, first, i), view.position_stride, n, buffer);
  }

  void take_inverse() {
    V most = fill<V>(kSmallest);
    each_run([&](int64_t first, int64_t n) {
      for (int64_t m = 0; m < count_; ++m) {
        const A* x = mask(m, first, n, row_);
        for (int64_t i = 0; i < n; i += kLanes) most = larger(magnitude(load<V>(x + i)), most);
      }
    });
    A largest = most[0];
    for (int l = 1; l < kLanes; ++l) largest = larger(most[l], largest);
    inverse_ = A(1) / largest;
  }

  // ---- The ratio of sums, through column sums

  void add_columns(int64_t first, int64_t n) {
    const V scale = fill<V>(inverse_);
    V cross = fill<V>(0), square = cross;
    for (int64_t i = 0; i < S::padded(n); ++i) column_[i] = 0;
    for (int64_t m = 0; m < count_; ++m) {
      const A* x = mask(m, first, n, row_);
      for (int64_t i = 0; i < n; i += kLanes) {
        const V here = load<V>(x + i) * scale, before = load<V>(column_ + i);
        cross += here * before;
        square += here * here;
        store(column_ + i, before + here);
      }
    }
    sums_[0] += 2 * static_cast<double>(sum_of_lanes(cross));
    sums_[1] += sum_of_lanes(square);
  }

  double weigh_columns() {
    const RatioOverlap x = ratio_overlap(sums_[0], sums_[1]);
    weights_[0] = static_cast<A>(x.off_diagonal), weights_[1] = static_cast<A>(x.diagonal);
    return x.value;
  }

  void gradient_of_columns(int64_t first, int64_t n) {
    for (int64_t i = 0; i < S::padded(n); ++i) column_[i] = 0;
    const V scale = fill<V>(inverse_);
    for (int64_t m = 0; m < count_; ++m) {
      const A* x = mask(m, first, n, row_);
      for (int64_t i = 0; i < n; i += kLanes)
        store(column_ + i, load<V>(column_ + i) + load<V>(x + i) * scale);
    }
    const V off = fill<V>(weights_[0]), own = fill<V>(weights_[1]), factor = fill<V>(factor_);
    for (int64_t m = 0; m < count_; ++m) {
      const A* x = mask(m, first, n, row_);
      for (int64_t i = 0; i < n; i += kLanes) {
        const V here = load<V>(x + i) * scale;
        store(sum_[0] + i, factor * (off * (load<V>(column_ + i) - here) + own * here));
      }
      put(m, first, n, sum_[0]);
    }
  }

  // ---- The mean over pairs

  int64_t load_tile(int64_t from, int64_t first, int64_t n, Tile& tile) {
    const int64_t masks = count_ - from < kTile ? count_ - from : kTile;
    for (int64_t m = 0; m < masks; ++m) {
      const A* x = mask(from + m, first, n, row_);
      for (int64_t i = 0; i < n; i += kLanes) store(tile[m] + i, load<V>(x + i) * fill<V>(inverse_));
    }
    return masks;
  }

  void add_products(int64_t first, int64_t n) {
    for (int64_t a = 0; a < count_; a += kTile) {
      const int64_t rows = load_tile(a, first, n, tile_);
      for (int64_t c = a; c < count_; c += kTile) {
        const int64_t columns = load_tile(c, first, n, other_);
        for (int64_t i = 0; i < rows; ++i)
          for (int64_t j = c == a ? i : 0; j < columns; ++j)
            sums_[(a + i) * count_ + c + j] += dot(tile_[i], other_[j], n);
      }
    }
  }

  static KD_FN double dot(const A* x, const A* y, int64_t n) {
    V sum = fill<V>(0);
    for (int64_t i = 0; i < n; i += kLanes) sum += load<V>(x + i) * load<V>(y + i);
    return sum_of_lanes(sum);
  }

  double weigh_pairs() {
    const double pairs = static_cast<double>(count_ * (count_ - 1));
    double value = 0;
    for (int64_t i = 0; i < count_; ++i) weights_[i * count_ + i] = 0;
    for (int64_t i = 0; i < count_; ++i)
      for (int64_t j = i + 1; j < count_; ++j) {
        const PairOverlap x =
            pair_overlap(sums_[i * count_ + j], sums_[i * count_ + i], sums_[j * count_ + j], pairs);
        value += x.value;
        weights_[i * count_ + j] = weights_[j * count_ + i] = static_cast<A>(x.off_diagonal);
        weights_[i * count_ + i] += static_cast<A>(x.diagonal);
        weights_[j * count_ + j] += static_cast<A>(x.diagonal);
      }
    return value;
  }

  void gradient_of_pairs(int64_t first, int64_t n) {
    for (int64_t a = 0; a < count_; a += kTile) {
      const int64_t rows = count_ - a < kTile ? count_ - a : kTile;
      for (int64_t i = 0; i < rows; ++i)
        for (int64_t p = 0; p < S::padded(n); ++p) sum_[i][p] = 0;
      for (int64_t c = 0; c < count_; c += kTile) {
        const int64_t columns = load_tile(c, first, n, other_);
        for (int64_t i = 0; i < rows; ++i)
          for (int64_t j = 0; j < columns; ++j) {
            const V weight = fill<V>(weights_[(a + i) * count_ + c + j] * factor_);
            for (int64_t p = 0; p < n; p += kLanes)
              store(sum_[i] + p, load<V>(sum_[i] + p) + weight * load<V>(other_[j] + p));
          }
      }
      for (int64_t i = 0; i < rows; ++i) put(a + i, first, n, sum_[i]);
    }
  }

  void put(int64_t m, int64_t first, int64_t n, const A* x) const {
    const MapView& view = args_.grad;
    write(x, n, view.data, view.dtype, offset_of(view, b_, first, m), view.position_stride);
  }

  const DiceDiversityArgs& args_;
  const int64_t count_;
  int64_t b_ = 0;
  double* sums_ = nullptr;
  A *weights_ = nullptr, inverse_ = 0, factor_ = 0;
  alignas(64) A row_[kRun], column_[kRun];
  alignas(64) Tile tile_, other_, sum_;
};

}  // namespace
}  // namespace kd

KD_CPU_KERNELS(dice_diversity, DiceDiversityArgs, DiceDiversity)
