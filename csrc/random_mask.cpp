#include "random_mask.h"

#include "common/op.h"

KD_DECLARE_KERNELS(random_mask, RandomMaskArgs)

namespace kd {

// x [B, C, P]; the mask is over the channels or over the positions.
static Tensor random_mask(const Tensor& x, const Tensor& state, int64_t threshold, bool over_channels) {
  Tensor out = fresh_like(x);
  const bool channels_inner = x.stride(1) < x.stride(2) && x.size(1) > 1;
  const int outer = channels_inner ? 2 : 1, inner = channels_inner ? 1 : 2;
  RandomMaskArgs args = {};
  args.batch = x.size(0), args.outer = x.size(outer), args.inner = x.size(inner);
  args.by_inner = over_channels == channels_inner;
  args.x = x.data_ptr(), args.out = out.data_ptr();
  args.bytes = static_cast<int>(x.element_size());
  const int dims[3] = {0, outer, inner};
  for (int d = 0; d < 3; ++d) args.x_stride[d] = x.stride(dims[d]), args.out_stride[d] = out.stride(dims[d]);
  args.state = static_cast<const int64_t*>(state.data_ptr());
  args.threshold = threshold;
  if (x.numel() > 0) launch(KD_KERNELS(random_mask), args, Pass::kForward, 16 * 1024, x);
  return out;
}

}  // namespace kd

KD_SCHEMA(m) { m.def("random_mask(Tensor x, Tensor state, int threshold, bool over_channels) -> Tensor"); }
KD_IMPLEMENTATION(m) { m.impl("random_mask", TORCH_BOX(&kd::random_mask)); }
