// The dense basis on the CPU: a block of samples at a time, feature by feature, the few bases that are not 0
// scattered into a row of zeros.
#include "../bspline_basis.h"

#include "../common/level.h"
#include "bspline.h"

namespace kd {
namespace {

constexpr int64_t kBlock = 64;

int64_t items(const BasisArgs& args) { return (args.samples + kBlock - 1) / kBlock; }

template <class A>
KD_FN void write_row(A* row, int64_t bases, bool is_nan, const A* local, int count, int64_t start) {
  for (int64_t m = 0; m < bases; ++m) row[m] = is_nan ? static_cast<A>(__builtin_nan("")) : A(0);
  if (is_nan) return;
  for (int r = 0; r < count; ++r) row[start + r] = local[r];
}

template <int K, class A>
void block(const BasisArgs& args, int64_t item) {
  using V = typename VectorOf<A>::Type;
  constexpr int64_t kLanes = Number<V>::kLanes;
  const int64_t first = item * kBlock, end = first + kBlock < args.samples ? first + kBlock : args.samples;
  const int64_t bases = args.knots - K - 1;
  for (int64_t i = 0; i < args.features; ++i) {
    const Feature<K, A> feature(static_cast<const A*>(args.grid) + i * args.knots, args.knots,
                                args.extrapolation);
    for (int64_t b = first; b < end; b += kLanes) {
      const int64_t n = end - b < kLanes ? end - b : kLanes;
      V x;
      for (int64_t l = 0; l < kLanes; ++l)
        x[l] = static_cast<const A*>(args.x)[(b + (l < n ? l : n - 1)) * args.features + i];
      Local<K, V> local;
      const auto start = feature.differentiate(feature.locate(x), args.derivative, &local);
      for (int64_t l = 0; l < n; ++l) {
        A of_sample[K + 1];
        KD_UNROLL
        for (int r = 0; r <= K; ++r) of_sample[r] = local.value[r][l];
        A* row = static_cast<A*>(args.out) + ((b + l) * args.features + i) * bases;
        write_row(row, bases, x[l] != x[l], of_sample, K + 1, start[l]);
      }
    }
  }
}

template <class A>
void run(const BasisArgs& args, int64_t item) {
  switch (args.degree) {
    case 0:
      return block<0, A>(args, item);
    case 1:
      return block<1, A>(args, item);
    case 2:
      return block<2, A>(args, item);
    case 3:
      return block<3, A>(args, item);
    case 4:
      return block<4, A>(args, item);
    default:
      return block<5, A>(args, item);
  }
}

void forward(const BasisArgs& args, int64_t begin, int64_t end) {
  for (int64_t item = begin; item < end; ++item) {
    if (args.compute == DType::kFloat64)
      run<double>(args, item);
    else
      run<float>(args, item);
  }
}

}  // namespace
}  // namespace kd

extern "C" const kd::Kernels<kd::BasisArgs> KD_JOIN(kd_, bspline_basis, KD_LEVEL);
const kd::Kernels<kd::BasisArgs> KD_JOIN(kd_, bspline_basis, KD_LEVEL) = {kd::items, kd::forward, nullptr};
