// The CPU's work memory for attention_masks: sizes and places, for the op that allocates it and the kernels.
//
// Keys are cut into panels of kPanelBytes (64 floats), queries into blocks of kRows rows and these into
// groups of six. A thread holds the logits of one block against all keys: a few hundred kilobytes, the
// second-level cache's.
#pragma once

#include "../attention_masks.h"

namespace kd {
namespace {

constexpr int64_t kPanelBytes = 256, kGroup = 6, kRows = 48, kFewRows = 24;
constexpr int64_t kManyKeys = 20000;  // from here on a block has kFewRows rows, to stay in a cache
constexpr int64_t kMostSplits = 8;

inline int64_t rounded_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

template <class A>
struct AttentionPlan {
  static constexpr int64_t kPanel = kPanelBytes / sizeof(A);
  const AttentionMasksArgs& args;

  int64_t rows() const { return args.keys < kManyKeys ? kRows : kFewRows; }
  int64_t blocks() const { return (args.queries + rows() - 1) / rows(); }
  int64_t panels() const { return (args.keys + kPanel - 1) / kPanel; }
  int64_t items() const { return args.batch * args.splits; }

  // Rows of logits lie a little more than whole panels apart: no two of a block share a cache set.
  int64_t row_stride() const { return panels() * kPanel + 16; }
  int64_t padded_width() const { return rounded_up(args.width, 64 / sizeof(A)); }
  int64_t grouped_width() const { return rounded_up(args.width, kGroup); }
  int64_t grouped_masks() const { return rounded_up(args.masks, kGroup); }

  // Numbers of each array.
  int64_t packed_key() const { return args.batch * panels() * args.width * kPanel; }    // [B][panel][d][64]
  int64_t packed_value() const { return args.batch * panels() * args.masks * kPanel; }  // [B][panel][M][64]
  int64_t key_bias() const { return args.batch * panels() * kPanel; }  // 0, or -inf: not a key
  int64_t logits() const { return items() * rows() * row_stride(); }
  int64_t mean_parts() const { return args.backward ? 0 : items() * panels() * kPanel; }
  // What a thread keeps of its block of queries, see AttentionBlock.
  int64_t buffer() const {
    const int64_t wide = args.backward ? grouped_width() + grouped_masks() + padded_width() + kPanel : 0;
    return rows() * (args.width + args.masks + wide + 16) + 3 * rows() * kPanelBytes / int64_t(sizeof(A)) +
           panels() * kPanel;
  }
  int64_t buffers() const { return items() * buffer(); }
  int64_t key_rows() const { return args.backward ? args.batch * panels() * kPanel * padded_width() : 0; }
  int64_t key_parts() const { return args.backward ? items() * panels() * grouped_width() * kPanel : 0; }
  int64_t value_parts() const { return args.backward ? items() * panels() * grouped_masks() * kPanel : 0; }

  // Where each begins, in that order.
  A* packed_key_at(int64_t b, int64_t panel) const {
    return base() + (b * panels() + panel) * args.width * kPanel;
  }
  A* packed_value_at(int64_t b, int64_t panel) const {
    return base() + packed_key() + (b * panels() + panel) * args.masks * kPanel;
  }
  A* key_bias_at(int64_t b, int64_t panel) const {
    return base() + packed_key() + packed_value() + (b * panels() + panel) * kPanel;
  }
  A* buffer_at(int64_t item) const { return after_bias() + item * buffer(); }
  A* logits_at(int64_t item) const { return after_buffers() + item * rows() * row_stride(); }
  A* mean_part_at(int64_t item, int64_t panel) const {
    return after_buffers() + logits() + (item * panels() + panel) * kPanel;
  }
  A* key_rows_at(int64_t b, int64_t panel) const {
    return after_buffers() + logits() + mean_parts() + (b * panels() + panel) * kPanel * padded_width();
  }
  A* key_part_at(int64_t item, int64_t panel) const {
    return after_rows() + (item * panels() + panel) * grouped_width() * kPanel;
  }
  A* value_part_at(int64_t item, int64_t panel) const {
    return after_rows() + key_parts() + (item * panels() + panel) * grouped_masks() * kPanel;
  }
  int64_t total() const {
    return packed_key() + packed_value() + key_bias() + buffers() + logits() + mean_parts() + key_rows() +
           key_parts() + value_parts();
  }

 private:
  A* base() const { return static_cast<A*>(args.work); }
  A* after_bias() const { return base() + packed_key() + packed_value() + key_bias(); }
  A* after_buffers() const { return after_bias() + buffers(); }
  A* after_rows() const { return after_buffers() + logits() + mean_parts() + key_rows(); }
};

}  // namespace
}  // namespace kd
