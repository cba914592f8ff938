#include "weighted_mse.h"

#include "common/maps_op.h"

KD_DECLARE_KERNELS(weighted_mse, WeightedMseArgs)
#ifndef KD_DEVICE_CPU
extern "C" void kd_weighted_mse_finish_cuda(const kd::WeightedMseArgs& args, void* stream);
#endif

namespace kd {

using MaybeTensor = std::optional<Tensor>;
using WeightedMse = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

static WeightedMseArgs weighted_mse_args(const Tensor& student, const Tensor& teacher,
                                         const MaybeTensor& position, const MaybeTensor& channel,
                                         const MaybeTensor& gain) {
  WeightedMseArgs args = {};
  args.shape = map_shape(student);
  args.student = view_map(student);
  args.teacher = view_map(teacher);
  args.compute = compute_type(student, teacher);
  args.position = pointer_of(position);
  args.channel = pointer_of(channel);
  args.gain = pointer_of(gain);
  // Long runs of positions where they lie side by side, whole rows of channels elsewhere.
  args.block = args.student.position_stride == 1 && args.student.channel_stride != 1 ? 2048 : 64;
  args.blocks = (args.shape.positions + args.block - 1) / args.block;
  return args;
}

#ifdef KD_DEVICE_CPU

// g and the two values, in an order that depends on the shape alone.
template <class A>
static void finish_as(const WeightedMseArgs& args) {
  const auto [batch, positions, channels] = args.shape;
  double values[2] = {0, 0};
  const A* e = static_cast<const A*>(args.position_error);
  const A* a = static_cast<const A*>(args.position);
  for (int64_t i = 0; a != nullptr && i < batch * positions; ++i)
    values[0] += a[i] == 0 ? 0 : static_cast<double>(a[i]) * e[i];
  A* g = static_cast<A*>(args.channel_error);
  const A* part = static_cast<const A*>(args.channel_part);
  const A* b = static_cast<const A*>(args.channel);
  for (int64_t n = 0; b != nullptr && n < batch; ++n) {
    for (int64_t c = 0; c < channels; ++c) {
      double sum = 0;
      for (int64_t k = 0; k < args.blocks; ++k) sum += part[(n * args.blocks + k) * channels + c];
      g[n * channels + c] = static_cast<A>(sum);
      values[1] += b[n * channels + c] == 0 ? 0 : b[n * channels + c] * sum;
    }
  }
  *static_cast<A*>(args.value_position) = static_cast<A>(values[0]);
  *static_cast<A*>(args.value_channel) = static_cast<A>(values[1]);
}

static void finish(const WeightedMseArgs& args, const Tensor&) {
  if (args.compute == DType::kFloat64) return finish_as<double>(args);
  finish_as<float>(args);
}

#else

static void finish(const WeightedMseArgs& args, const Tensor& on) {
  const torch::stable::accelerator::DeviceGuard guard(on.get_device_index());
  kd_weighted_mse_finish_cuda(args, current_stream(on));
}

#endif

static void run(const WeightedMseArgs& args, Pass pass, const Tensor& on) {
  if (args.shape.batch * args.blocks * args.shape.channels == 0) return;
  launch(KD_KERNELS(weighted_mse), args, pass, args.block * args.shape.channels, on);
}

static WeightedMse weighted_mse(const Tensor& student, const Tensor& teacher, const MaybeTensor& position,
                                const MaybeTensor& channel, const MaybeTensor& gain, bool with_grad) {
  WeightedMseArgs args = weighted_mse_args(student, teacher, position, channel, gain);
  const auto [batch, positions, channels] = args.shape;
  const DType type = args.compute;
  const bool by_position = position.has_value(), by_channel = channel.has_value();
  Tensor grad = with_grad ? fresh_like(student) : fresh(student, {0}, type);
  Tensor e = by_position ? fresh(student, {batch, positions}, type) : fresh(student, {0}, type);
  Tensor g = by_channel ? fresh(student, {batch, channels}, type) : fresh(student, {0}, type);
  Tensor part = fresh(student, {by_channel ? batch * args.blocks * channels : 0}, type);
  Tensor value_position = fresh(student, {}, type), value_channel = fresh(student, {}, type);
  if (with_grad) args.grad = view_map(grad);
  args.position_error = by_position ? e.data_ptr() : nullptr;
  args.channel_part = by_channel ? part.data_ptr() : nullptr;
  args.channel_error = by_channel ? g.data_ptr() : nullptr;
  args.value_position = value_position.data_ptr();
  args.value_channel = value_channel.data_ptr();
  run(args, Pass::kForward, student);
  if (channels == 0 && by_position) torch::stable::zero_(e);
  finish(args, student);
  return {value_position, value_channel, e, g, grad};
}

// grad as if made with these upstream gradients; nothing is done if they are equal and `unless_equal`.
static void make_grad(Tensor& grad, const Tensor& u, const Tensor& w, WeightedMseArgs args,
                      bool unless_equal) {
  args.grad = view_map(grad);
  args.position_upstream = u.data_ptr();
  args.channel_upstream = w.data_ptr();
  args.unless_equal = unless_equal;
  run(args, Pass::kBackward, grad);
}

static Tensor weighted_mse_backward(const Tensor& u, const Tensor& w, const Tensor& student,
                                    const Tensor& teacher, const MaybeTensor& position,
                                    const MaybeTensor& channel, const MaybeTensor& gain) {
  Tensor grad = fresh_like(student);
  make_grad(grad, u, w, weighted_mse_args(student, teacher, position, channel, gain), false);
  return grad;
}

static void weighted_mse_redo_(Tensor grad, const Tensor& u, const Tensor& w, const Tensor& student,
                               const Tensor& teacher, const MaybeTensor& position, const MaybeTensor& channel,
                               const MaybeTensor& gain) {
  make_grad(grad, u, w, weighted_mse_args(student, teacher, position, channel, gain), true);
}

}  // namespace kd

KD_SCHEMA(m) {
  m.def(
      "weighted_mse(Tensor student, Tensor teacher, Tensor? position, Tensor? channel, Tensor? gain, bool "
      "with_grad) "
      "-> (Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "weighted_mse_backward(Tensor grad_position, Tensor grad_channel, Tensor student, Tensor teacher, "
      "Tensor? position, Tensor? channel, Tensor? gain) -> Tensor");
  m.def(
      "weighted_mse_redo_(Tensor(a!) grad, Tensor grad_position, Tensor grad_channel, Tensor student, "
      "Tensor teacher, Tensor? position, Tensor? channel, Tensor? gain) -> ()");
}
KD_IMPLEMENTATION(m) {
  m.impl("weighted_mse", TORCH_BOX(&kd::weighted_mse));
  m.impl("weighted_mse_backward", TORCH_BOX(&kd::weighted_mse_backward));
  m.impl("weighted_mse_redo_", TORCH_BOX(&kd::weighted_mse_redo_));
}
