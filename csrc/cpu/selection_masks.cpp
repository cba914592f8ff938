// selection_masks on the CPU: runs of 256 positions, whose features stay in the cache while the units pass.
// An item is a part of an image; sums over positions are its own and are joined in a last stage.
#include "../selection_masks.h"

#include "attention_tiles.h"
#include "segment.h"

namespace kd {
namespace {

template <class A>
class SelectionMasks {
  using V = typename VectorOf<A>::Type;
  static constexpr int64_t kLanes = Number<V>::kLanes, kRun = kSelectionRun, kStep = kTileVectors * kLanes;

 public:
  static int64_t items(const SelectionMasksArgs& args) {
    if (args.stage == SelectionStage::kJoinMean) return args.batch;
    return args.stage == SelectionStage::kJoinUnits ? args.masks : args.batch * args.splits;
  }

  static void run(const SelectionMasksArgs& args, int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      if (args.stage == SelectionStage::kJoinMean)
        join_mean(args, item);
      else if (args.stage == SelectionStage::kJoinUnits)
        join_units(args, item);
      else
        SelectionMasks(args, item).walk();
    }
  }

 private:
  SelectionMasks(const SelectionMasksArgs& args, int64_t item)
      : args_(args), item_(item), b_(item / args.splits), units_(static_cast<const A*>(args.units)) {}

  void walk() {
    const bool forward = args_.stage == SelectionStage::kForward;
    A* const parts = forward ? static_cast<A*>(args_.mean_parts) + item_ * args_.channels
                             : static_cast<A*>(args_.unit_parts) + item_ * args_.masks * args_.channels;
    for (int64_t k = 0; k < args_.channels * (forward ? 1 : args_.masks); ++k) parts[k] = 0;
    const int64_t begin = item_ % args_.splits * runs_of_split(args_) * kRun;
    for (int64_t r = 0; r < runs_of_split(args_) && begin + r * kRun < args_.positions; ++r) {
      const int64_t first = begin + r * kRun, left = args_.positions - first, n = left < kRun ? left : kRun;
      if (forward)
        forward_run(first, n, parts);
      else
        backward_run(first, n, parts);
    }
  }

  bool there(int64_t p) const { return args_.valid == nullptr || args_.valid[b_ * args_.positions + p]; }

  // Features of up to kChannels channels from c on, as [channel][run] with zeros where there is no valid
  // position.
  static constexpr int64_t kChannels = 32;
  void load_features(int64_t c, int64_t channels, int64_t first, int64_t n) {
    const MapView& f = args_.fused;
    for (int64_t k = 0; k < channels; ++k) {
      A* to = features_[k];
      read(f.data, f.dtype, offset_of(f, b_, first, c + k), f.position_stride, n, to);
      for (int64_t p = n; p < kRun; ++p) to[p] = 0;
      for (int64_t p = 0; args_.valid != nullptr && p < n; ++p) to[p] = there(first + p) ? to[p] : A(0);
    }
  }

  // Six rows of sums from m on, over `channels` channels, added to rows_.
  void add_units(int64_t m, int64_t c, int64_t channels) {
    A weight[kTileRows * kChannels];
    for (int r = 0; r < kTileRows; ++r)
      for (int64_t k = 0; k < channels; ++k)
        weight[k * kTileRows + r] = m + r < args_.masks ? units_[(m + r) * args_.channels + c + k] : A(0);
    for (int64_t column = 0; column < kRun; column += kStep) {
      Tile<kTileVectors, V> tile;
      tile.load_rows(rows_[0] + column, kRun);
      tile.add_product(weight, 1, kTileRows, features_[0] + column, kRun, channels);
      tile.store_rows(rows_[0] + column, kRun);
    }
  }

  void forward_run(int64_t first, int64_t n, A* sums) {
    for (int64_t m = 0; m < args_.masks; m += kTileRows) {
      for (int r = 0; r < kTileRows; ++r)
        for (int64_t p = 0; p < kRun; ++p) rows_[r][p] = 0;
      for (int64_t c = 0; c < args_.channels; c += kChannels) {
        const int64_t channels = args_.channels - c < kChannels ? args_.channels - c : kChannels;
        load_features(c, channels, first, n);
        add_units(m, c, channels);
        if (m > 0) continue;
        for (int64_t k = 0; k < channels; ++k) {
          V sum = fill<V>(0);
          for (int64_t p = 0; p < kRun; p += kLanes) sum += load<V>(features_[k] + p);
          sums[c + k] += sum_of_lanes(sum);
        }
      }
      for (int64_t r = 0; r < kTileRows && m + r < args_.masks; ++r) put_masks(m + r, rows_[r], first, n);
    }
  }

  void put_masks(int64_t m, A* logits, int64_t first, int64_t n) {
    for (int64_t p = 0; p < kRun; p += kLanes) {
      const V x = load<V>(logits + p), e = exp_below(-magnitude(x)), small = e / (fill<V>(1) + e);
      // sigmoid(-|x|) is exact to the last place far out, and 1 - it is sigmoid(|x|).
      store(logits + p, select(x < fill<V>(0), small, fill<V>(1) / (fill<V>(1) + e)));
    }
    A* to = static_cast<A*>(args_.spatial) + (b_ * args_.masks + m) * args_.positions + first;
    for (int64_t p = 0; p < n; ++p) to[p] = there(first + p) ? logits[p] : A(0);
  }

  void backward_run(int64_t first, int64_t n, A* unit_parts) {
    const A share = static_cast<const A*>(args_.share)[b_];
    const auto *up = static_cast<const A*>(args_.grad_spatial), *s = static_cast<const A*>(args_.spatial);
    A* const g = static_cast<A*>(args_.logit_grad);
    for (int64_t m = 0; m < args_.masks; ++m) {
      const int64_t at = (b_ * args_.masks + m) * args_.positions + first;
      for (int64_t p = 0; p < n; ++p)
        g[at + p] = s[at + p] == 0 ? A(0) : up[at + p] * s[at + p] * (1 - s[at + p]);
    }
    for (int64_t c = 0; c < args_.channels; c += kChannels) {
      const int64_t channels = args_.channels - c < kChannels ? args_.channels - c : kChannels;
      load_features(c, channels, first, n);
      for (int64_t k = 0; k < channels; k += kTileRows) {
        const int64_t here = channels - k < kTileRows ? channels - k : kTileRows;
        for (int r = 0; r < kTileRows; ++r) {
          const A mean = r < here
                             ? share * static_cast<const A*>(args_.grad_mean)[b_ * args_.channels + c + k + r]
                             : A(0);
          for (int64_t p = 0; p < kRun; ++p) rows_[r][p] = p < n && there(first + p) ? mean : A(0);
        }
        for (int64_t m = 0; m < args_.masks; ++m) {
          const A* from = g + (b_ * args_.masks + m) * args_.positions + first;
          for (int64_t r = 0; r < here; ++r)
            unit_parts[m * args_.channels + c + k + r] +=
                add_mask(from, n, units_[m * args_.channels + c + k + r], features_[k + r], rows_[r]);
        }
        const MapView& to = args_.grad_fused;
        for (int64_t r = 0; r < here; ++r)
          write(rows_[r], n, to.data, to.dtype, offset_of(to, b_, first, c + k + r), to.position_stride);
      }
    }
  }

  // grad += weight g; returns g . features. Features past n are 0, g ends there.
  static A add_mask(const A* g, int64_t n, A weight, const A* features, A* grad) {
    V sum = fill<V>(0);
    int64_t p = 0;
    for (; p + kLanes <= n; p += kLanes) {
      const V x = load<V>(g + p);
      sum += x * load<V>(features + p);
      store(grad + p, load<V>(grad + p) + splat<V>(weight) * x);
    }
    A total = sum_of_lanes(sum);
    for (; p < n; ++p) total += g[p] * features[p], grad[p] += weight * g[p];
    return total;
  }

  static void join_mean(const SelectionMasksArgs& args, int64_t b) {
    const A* parts = static_cast<const A*>(args.mean_parts) + b * args.splits * args.channels;
    for (int64_t c = 0; c < args.channels; ++c) {
      A sum = 0;
      for (int64_t split = 0; split < args.splits; ++split) sum += parts[split * args.channels + c];
      static_cast<A*>(args.mean)[b * args.channels + c] = sum * static_cast<const A*>(args.share)[b];
    }
  }

  static void join_units(const SelectionMasksArgs& args, int64_t m) {
    const A* parts = static_cast<const A*>(args.unit_parts) + m * args.channels;
    for (int64_t c = 0; c < args.channels; ++c) {
      A sum = 0;
      for (int64_t k = 0; k < args.batch * args.splits; ++k) sum += parts[k * args.masks * args.channels + c];
      static_cast<A*>(args.grad_units)[m * args.channels + c] = sum;
    }
  }

  const SelectionMasksArgs& args_;
  const int64_t item_, b_;
  const A* const units_;
  alignas(64) A features_[kChannels][kRun], rows_[kTileRows][kRun];
};

}  // namespace
}  // namespace kd

KD_CPU_KERNELS(selection_masks, SelectionMasksArgs, SelectionMasks)
