// An item is a class: its rows, found through `order`, are added block by block of features.
#include "../class_sums.h"

#include "../common/convert.h"
#include "../common/level.h"

namespace kd {
namespace {

constexpr int64_t kBlock = 1024;

int64_t items(const ClassSumsArgs& args) { return args.classes; }

void forward(const ClassSumsArgs& args, int64_t begin, int64_t end) {
  alignas(64) double sum[kBlock], row[kBlock];
  for (int64_t k = begin; k < end; ++k) {
    args.counts[k] = args.begin[k + 1] - args.begin[k];
    for (int64_t first = 0; first < args.width; first += kBlock) {
      const int64_t n = args.width - first < kBlock ? args.width - first : kBlock;
      for (int64_t i = 0; i < n; ++i) sum[i] = 0;
      for (int64_t at = args.begin[k]; at < args.begin[k + 1]; ++at) {
        const int64_t offset = args.order[at] * args.row_stride + first * args.stride;
        read(args.features, args.dtype, offset, args.stride, n, row);
        for (int64_t i = 0; i < n; ++i) sum[i] += row[i];
      }
      write(sum, n, args.sums, args.out, k * args.width + first, 1);
    }
  }
}

}  // namespace
}  // namespace kd

extern "C" const kd::Kernels<kd::ClassSumsArgs> KD_JOIN(kd_, class_sums, KD_LEVEL);
const kd::Kernels<kd::ClassSumsArgs> KD_JOIN(kd_, class_sums, KD_LEVEL) = {kd::items, kd::forward, nullptr};
