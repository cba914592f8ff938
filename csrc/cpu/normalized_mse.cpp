// A sample at a time, three sweeps: norms (and means), distances, gradients. A sample of usual size stays in
// the second cache. The layout decides who walks it.
#include "normalized_channels.h"
#include "normalized_few.h"
#include "normalized_positions.h"

namespace kd {
namespace {

template <class A>
class NormalizedMse {
  static constexpr int64_t kRows = 16;

 public:
  // Without centring rows do not know each other: a sample is cut into runs of them.
  static int64_t items(const NormalizedMseArgs& args) { return args.shape.batch * runs(args); }

  static void run(const NormalizedMseArgs& args, int64_t begin, int64_t end) {
    NormalizedItem<A> item(args);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i % runs(args) * step(args), left = args.shape.positions - first;
      item.begin(i / runs(args), first, left < step(args) ? left : step(args));
      one(item);
    }
  }

 private:
  static bool positions_in_lanes(const NormalizedMseArgs& args) {
    return args.student.channel_stride != 1 && args.student.position_stride == 1;
  }
  static int64_t step(const NormalizedMseArgs& args) {
    if (args.center) return args.shape.positions;
    return positions_in_lanes(args) ? 4 * kRows : kRows;
  }
  static int64_t runs(const NormalizedMseArgs& args) {
    return args.shape.positions == 0 ? 0 : (args.shape.positions + step(args) - 1) / step(args);
  }

  static void one(NormalizedItem<A>& item) {
    if (!positions_in_lanes(item.args)) return ChannelLanes<A>(item).run();
    if (are_few_positions<A>(item.args, item.n)) return run_few_positions(item);
    PositionLanes<A>(item).run();
  }
};

}  // namespace
}  // namespace kd

KD_CPU_KERNELS(normalized_mse, NormalizedMseArgs, NormalizedMse)
