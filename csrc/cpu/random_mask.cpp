// An item is some outer rows of a sample over a run of inner numbers, whose part of the mask is drawn once.
#include "../random_mask.h"

#include "../common/level.h"

namespace kd {
namespace {

constexpr int64_t kInner = 1024, kOuter = 256;

int64_t runs(const RandomMaskArgs& args) { return (args.inner + kInner - 1) / kInner; }
int64_t rows(const RandomMaskArgs& args) { return (args.outer + kOuter - 1) / kOuter; }
int64_t items(const RandomMaskArgs& args) { return args.batch * runs(args) * rows(args); }

template <class T>
KD_FN void copy_row(const RandomMaskArgs& args, int64_t b, int64_t row, int64_t first, int64_t n,
                    const T* keep) {
  const T* x = static_cast<const T*>(args.x) + b * args.x_stride[0] + row * args.x_stride[1] +
               first * args.x_stride[2];
  T* out = static_cast<T*>(args.out) + b * args.out_stride[0] + row * args.out_stride[1] +
           first * args.out_stride[2];
  const int64_t from = args.x_stride[2], to = args.out_stride[2];
  if (from == 1 && to == 1)
    for (int64_t i = 0; i < n; ++i) out[i] = static_cast<T>(x[i] & keep[i]);
  else
    for (int64_t i = 0; i < n; ++i) out[i * to] = static_cast<T>(x[i * from] & keep[i]);
}

// T: an unsigned integer of a number's size; `keep` holds all ones or zeros.
template <class T>
void run(const RandomMaskArgs& args, int64_t begin, int64_t end) {
  alignas(64) T keep[kInner];
  for (int64_t item = begin; item < end; ++item) {
    const int64_t b = item / (runs(args) * rows(args)), rest = item % (runs(args) * rows(args));
    const int64_t first = rest / rows(args) * kInner, first_row = rest % rows(args) * kOuter;
    const int64_t n = args.inner - first < kInner ? args.inner - first : kInner;
    const int64_t last_row = first_row + kOuter < args.outer ? first_row + kOuter : args.outer;
    for (int64_t i = 0; args.by_inner && i < n; ++i)
      keep[i] = is_kept(args, b, first + i) ? static_cast<T>(~T(0)) : T(0);
    for (int64_t row = first_row; row < last_row; ++row) {
      if (!args.by_inner) {
        const T whole = is_kept(args, b, row) ? static_cast<T>(~T(0)) : T(0);
        for (int64_t i = 0; i < n; ++i) keep[i] = whole;
      }
      copy_row(args, b, row, first, n, keep);
    }
  }
}

void forward(const RandomMaskArgs& args, int64_t begin, int64_t end) {
  if (args.bytes == 2) return run<uint16_t>(args, begin, end);
  if (args.bytes == 4) return run<uint32_t>(args, begin, end);
  run<uint64_t>(args, begin, end);
}

}  // namespace
}  // namespace kd

extern "C" const kd::Kernels<kd::RandomMaskArgs> KD_JOIN(kd_, random_mask, KD_LEVEL);
const kd::Kernels<kd::RandomMaskArgs> KD_JOIN(kd_, random_mask, KD_LEVEL) = {kd::items, kd::forward, nullptr};
