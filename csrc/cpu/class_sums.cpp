// An item is a class: its rows, found through `order`, are added block by block of features.
#include "../class_sums.h"

#include "../common/convert.h"
#include "../common/level.h"

namespace kd {
namespace {

constexpr int64_t kBlock = 1024;

int64_t items(const ClassSumsArgs& args) { return args.classes; }

template <class T>
KD_FN void add(const void* features, int64_t offset, int64_t stride, int64_t n, double* sum) {
  const T* row = static_cast<const T*>(features) + offset;
  if (stride == 1)
    for (int64_t i = 0; i < n; ++i) sum[i] += static_cast<double>(widen(row[i]));
  else
    for (int64_t i = 0; i < n; ++i) sum[i] += static_cast<double>(widen(row[i * stride]));
}

void add_row(const ClassSumsArgs& args, int64_t row, int64_t first, int64_t n, double* sum) {
  const int64_t at = row * args.row_stride + first * args.stride;
  switch (args.dtype) {
    case DType::kFloat32:
      return add<float>(args.features, at, args.stride, n, sum);
    case DType::kFloat64:
      return add<double>(args.features, at, args.stride, n, sum);
    case DType::kFloat16:
      return add<Half>(args.features, at, args.stride, n, sum);
    case DType::kBFloat16:
      return add<BFloat>(args.features, at, args.stride, n, sum);
  }
}

void forward(const ClassSumsArgs& args, int64_t begin, int64_t end) {
  alignas(64) double sum[kBlock];
  for (int64_t k = begin; k < end; ++k) {
    args.counts[k] = args.begin[k + 1] - args.begin[k];
    for (int64_t first = 0; first < args.width; first += kBlock) {
      const int64_t n = args.width - first < kBlock ? args.width - first : kBlock;
      for (int64_t i = 0; i < n; ++i) sum[i] = 0;
      for (int64_t at = args.begin[k]; at < args.begin[k + 1]; ++at)
        add_row(args, args.order[at], first, n, sum);
      write(sum, n, args.sums, args.out, k * args.width + first, 1);
    }
  }
}

}  // namespace
}  // namespace kd

extern "C" const kd::Kernels<kd::ClassSumsArgs> KD_JOIN(kd_, class_sums, KD_LEVEL);
const kd::Kernels<kd::ClassSumsArgs> KD_JOIN(kd_, class_sums, KD_LEVEL) = {kd::items, kd::forward, nullptr};
