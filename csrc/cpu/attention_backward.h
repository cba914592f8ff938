// The backward pass: a block's attention again from its log-sum-exps, then panel by panel of keys the
// gradients of the values, of the logits (a tile that stays in the first-level cache), of the keys and of the
// queries.
#pragma once

#include "attention_block.h"

namespace kd {
namespace {

template <class A>
class AttentionBackward : AttentionBlock<A> {
  using Base = AttentionBlock<A>;
  using Base::args_, Base::plan_, Base::b_, Base::item_, Base::kLanes, Base::kPanel, Base::kStep;
  using typename Base::V;

 public:
  AttentionBackward(const AttentionMasksArgs& args, int64_t item) : Base(args, item) {}

  void run() {
    this->clear_parts();
    const A* upstream = static_cast<const A*>(args_.grad_mean) + b_ * args_.keys;
    const A share = share_of<A>(args_, b_);
    for (int64_t j = 0; j < plan_.panels() * kPanel; ++j)
      this->mean_[j] = j < args_.keys ? share * upstream[j] : A(0);
    this->each_block([&](int64_t first, int64_t n) {
      this->load_queries(first, n);
      load_upstream(first, n);
      make_attention(n);
      this->clear_query_grad();
      for (int64_t panel = 0; panel < plan_.panels(); ++panel) {
        value_grad(panel, n);
        logit_grad(panel, n);
        this->key_grad(panel, n, this->tile_, kPanel);
        this->query_grad(panel, n, this->tile_, kPanel);
      }
      this->write_query_grad(first, n);
    });
  }

 private:
  // grad_out as upstream_ [group of six rows][M][6] and masks_ [group of six masks][rows][6]; of every row l,
  // and in total_ sum_m grad_out out, the first part of D.
  void load_upstream(int64_t first, int64_t n) {
    const int64_t masks = args_.masks;
    for (int64_t i = 0; i < this->rows_; ++i) {
      this->total_[i] = 0;
      this->lse_[i] =
          i < n ? static_cast<const A*>(args_.lse)[b_ * args_.queries + first + i] : -minus_infinity<A>();
    }
    for (int64_t m = 0; m < plan_.grouped_masks(); ++m) {
      const int64_t at = (b_ * masks + m) * args_.queries + first;
      for (int64_t i = 0; i < this->rows_; ++i) {
        const bool there = m < masks && i < n && this->lse_[i] != -minus_infinity<A>();
        const A up = there ? static_cast<const A*>(args_.grad_out)[at + i] : A(0);
        if (there) this->total_[i] += up * static_cast<const A*>(args_.out)[at + i];
        if (m < masks) this->upstream_[(i / kGroup * masks + m) * kGroup + i % kGroup] = up;
        this->masks_[(m / kGroup * this->rows_ + i) * kGroup + m % kGroup] = up;
      }
    }
  }

  // A in place of the logits; adds sum_j A_ij share grad_mean_j to total_, which makes it D.
  void make_attention(int64_t n) {
    for (int64_t i = 0; i < this->rows_; ++i) store(this->lanes(i), fill<V>(0));
    this->each_tile_of_logits(n, [&](auto& tile, int64_t row, int64_t panel, int64_t column) {
      const A* mean = this->mean_ + panel * kPanel + column;
      KD_UNROLL
      for (int r = 0; r < kTileRows; ++r) {
        V total = load<V>(this->lanes(row + r));
        KD_UNROLL
        for (int v = 0; v < kTileVectors; ++v) {
          tile.sum[r][v] = exp_below(tile.sum[r][v] - splat<V>(this->lse_[row + r]));
          total += tile.sum[r][v] * load<V>(mean + v * kLanes);
        }
        store(this->lanes(row + r), total);
      }
      tile.store_rows(this->logits(row, panel, column), this->stride_);
    });
    for (int64_t i = 0; i < n; ++i) this->total_[i] += sum_of_lanes(load<V>(this->lanes(i)));
  }

  // grad_u += grad_out A, for the panel's keys.
  void value_grad(int64_t panel, int64_t n) {
    A* part = plan_.value_part_at(item_, panel);
    for (int64_t m = 0; m < args_.masks; m += kGroup)
      for (int64_t column = 0; column < kPanel; column += kStep)
        this->add(part + m * kPanel + column, kPanel, this->masks_ + m * this->rows_, 1, kGroup,
                  this->logits(0, panel, column), this->stride_, n);
  }

  // tile_ [rows][panel] = A (P - D).
  void logit_grad(int64_t panel, int64_t n) {
    const A* values = plan_.packed_value_at(b_, panel);
    for (int64_t row = 0; row < n; row += kGroup) {
      for (int64_t column = 0; column < kPanel; column += kStep) {
        Tile<kTileVectors, V> tile;
        tile.load_rows(this->mean_ + panel * kPanel + column, 0);
        KD_UNROLL
        for (int r = 0; r < kTileRows; ++r) {
          KD_UNROLL
          for (int v = 0; v < kTileVectors; ++v) tile.sum[r][v] -= splat<V>(this->total_[row + r]);
        }
        tile.add_product(this->upstream_ + row * args_.masks, 1, kGroup, values + column, kPanel,
                         args_.masks);
        KD_UNROLL
        for (int r = 0; r < kTileRows; ++r) {
          KD_UNROLL
          for (int v = 0; v < kTileVectors; ++v)
            tile.sum[r][v] *= load<V>(this->logits(row + r, panel, column) + v * kLanes);
        }
        tile.store_rows(this->tile_ + row * kPanel + column, kPanel);
      }
    }
  }
};

}  // namespace
}  // namespace kd
