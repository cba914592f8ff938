// A block of queries against all keys of its image: what the forward and the backward pass share.
#pragma once

#include "attention_plan.h"
#include "attention_tiles.h"
#include "segment.h"

namespace kd {
namespace {

template <class A>
class AttentionBlock {
 protected:
  using V = typename VectorOf<A>::Type;
  static constexpr int64_t kLanes = Number<V>::kLanes, kPanel = AttentionPlan<A>::kPanel;
  static constexpr int64_t kStep = kTileVectors * kLanes;  // columns of a tile of logits

  AttentionBlock(const AttentionMasksArgs& args, int64_t item)
      : args_(args), plan_{args}, item_(item), b_(item / args.splits), rows_(plan_.rows()) {
    A* at = plan_.buffer_at(item);
    const auto take = [&at](int64_t n) { return (at += n) - n; };
    groups_ = take(rows_ * args.width);
    upstream_ = take(rows_ * args.masks);
    lse_ = take(rows_), total_ = take(rows_);
    column_ = take(rows_);
    lanes_ = take(rows_ * kLanes);
    if (args.backward) {
      columns_ = take(rows_ * plan_.grouped_width());
      masks_ = take(rows_ * plan_.grouped_masks());
      grad_ = take(rows_ * plan_.padded_width());
      tile_ = take(rows_ * kPanel);
      mean_ = take(plan_.panels() * kPanel);
    }
    logits_ = plan_.logits_at(item);
    stride_ = plan_.row_stride();
  }

  // Calls use(first query, number of queries) for each block of the item's share of the queries.
  template <class Use>
  void each_block(Use use) {
    const int64_t share = (plan_.blocks() + args_.splits - 1) / args_.splits;
    const int64_t begin = item_ % args_.splits * share * rows_;
    const int64_t all = begin + share * rows_, end = all < args_.queries ? all : args_.queries;
    for (int64_t first = begin; first < end; first += rows_)
      use(first, end - first < rows_ ? end - first : rows_);
  }

  bool attends(int64_t i) const {
    return args_.query_mask == nullptr || args_.query_mask[b_ * args_.queries + i];
  }

  // The block's queries times the scale: groups_ [group of six rows][d][6], and for the gradient of the keys
  // columns_ [group of six channels][rows][6]. Rows past n and rows that do not attend are 0.
  void load_queries(int64_t first, int64_t n) {
    const int64_t wide = args_.backward ? plan_.grouped_width() : args_.width;
    for (int64_t d = 0; d < wide; ++d) {
      const bool there = d < args_.width;
      if (there) {
        const MapView& q = args_.query;
        read(q.data, q.dtype, offset_of(q, b_, first, d), q.position_stride, n, column_);
      }
      for (int64_t i = 0; i < rows_; ++i) {
        const A x = there && i < n && attends(first + i) ? column_[i] * static_cast<A>(args_.scale) : A(0);
        if (there) groups_[(i / kGroup * args_.width + d) * kGroup + i % kGroup] = x;
        if (args_.backward) columns_[(d / kGroup * rows_ + i) * kGroup + d % kGroup] = x;
      }
    }
  }

  // use(tile, first row, panel, column in the panel) for every tile of the block's logits.
  template <class Use>
  void each_tile_of_logits(int64_t n, Use use) {
    for (int64_t panel = 0; panel < plan_.panels(); ++panel) {
      const A *keys = plan_.packed_key_at(b_, panel), *bias = plan_.key_bias_at(b_, panel);
      for (int64_t row = 0; row < n; row += kGroup) {
        for (int64_t column = 0; column < kPanel; column += kStep) {
          Tile<kTileVectors, V> tile;
          tile.load_rows(bias + column, 0);
          tile.add_product(groups_ + row * args_.width, 1, kGroup, keys + column, kPanel, args_.width);
          use(tile, row, panel, column);
        }
      }
    }
  }

  // The block's logits, and in lanes() the largest of each row, lane by lane.
  void make_logits(int64_t n) {
    for (int64_t i = 0; i < rows_; ++i) store(lanes(i), minus_infinity<V>());
    each_tile_of_logits(n, [&](const auto& tile, int64_t row, int64_t panel, int64_t column) {
      tile.store_rows(logits(row, panel, column), stride_);
      KD_UNROLL
      for (int r = 0; r < kTileRows; ++r) {
        V most = load<V>(lanes(row + r));
        KD_UNROLL
        for (int v = 0; v < kTileVectors; ++v) most = larger(most, tile.sum[r][v]);
        store(lanes(row + r), most);
      }
    });
  }

  // The largest logit of row i; make_logits has run.
  A largest(int64_t i) {
    const V lanes = load<V>(this->lanes(i));
    A most = lanes[0];
    for (int l = 1; l < kLanes; ++l) most = larger(most, lanes[l]);
    return most;
  }

  // Sums that start at 0: of keys and values over the item, of the queries over a block.
  void clear_parts() {
    A* parts = plan_.key_part_at(item_, 0);
    for (int64_t k = 0; k < plan_.panels() * kPanel * plan_.grouped_width(); ++k) parts[k] = 0;
    parts = plan_.value_part_at(item_, 0);
    for (int64_t k = 0; k < plan_.panels() * kPanel * plan_.grouped_masks(); ++k) parts[k] = 0;
  }
  void clear_query_grad() {
    for (int64_t k = 0; k < rows_ * plan_.padded_width(); ++k) grad_[k] = 0;
  }

  // grad_k += scale q S, for the panel's keys; slope: S of the panel, rows `stride` apart.
  void key_grad(int64_t panel, int64_t n, const A* slope, int64_t stride) {
    A* part = plan_.key_part_at(item_, panel);
    for (int64_t d = 0; d < args_.width; d += kGroup)
      for (int64_t column = 0; column < kPanel; column += kStep)
        add(part + d * kPanel + column, kPanel, columns_ + d * rows_, 1, kGroup, slope + column, stride, n);
  }

  // grad_ [rows][d] += S k over the panel's keys.
  void query_grad(int64_t panel, int64_t n, const A* slope, int64_t stride) {
    const int64_t wide = plan_.padded_width(), left = args_.keys - panel * kPanel;
    const A* keys = plan_.key_rows_at(b_, panel);
    for (int64_t row = 0; row < n; row += kGroup) {
      each_strip<kTileVectors, V>(args_.width, [&](auto strip, int64_t column) {
        Tile<decltype(strip)::value, V> tile;
        A* to = grad_ + row * wide + column;
        tile.load_rows(to, wide);
        tile.add_product(slope + row * stride, stride, 1, keys + column, wide, left < kPanel ? left : kPanel);
        tile.store_rows(to, wide);
      });
    }
  }

  // to [six rows] += a b, see Tile::add_product.
  static KD_FN void add(A* to, int64_t to_stride, const A* a, int64_t a_row, int64_t a_step, const A* b,
                        int64_t b_step, int64_t n) {
    Tile<kTileVectors, V> tile;
    tile.load_rows(to, to_stride);
    tile.add_product(a, a_row, a_step, b, b_step, n);
    tile.store_rows(to, to_stride);
  }

  void write_query_grad(int64_t first, int64_t n) {
    const MapView& g = args_.grad_query;
    for (int64_t d = 0; d < args_.width; ++d) {
      for (int64_t i = 0; i < n; ++i)
        column_[i] = static_cast<A>(args_.scale) * grad_[i * plan_.padded_width() + d];
      write(column_, n, g.data, g.dtype, offset_of(g, b_, first, d), g.position_stride);
    }
  }

  A* logits(int64_t row, int64_t panel, int64_t column = 0) {
    return logits_ + row * stride_ + panel * kPanel + column;
  }
  A* lanes(int64_t row) { return lanes_ + row * kLanes; }  // a vector for each row

  const AttentionMasksArgs& args_;
  const AttentionPlan<A> plan_;
  const int64_t item_, b_, rows_;
  int64_t stride_;
  A *groups_, *upstream_, *lse_, *total_, *column_, *lanes_, *logits_;
  A *columns_ = nullptr, *masks_ = nullptr, *grad_ = nullptr, *tile_ = nullptr, *mean_ = nullptr;
};

}  // namespace
}  // namespace kd
