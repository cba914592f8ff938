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
