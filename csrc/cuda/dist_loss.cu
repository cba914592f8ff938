// DIST on the GPU: a warp or a block takes a row; then a thread takes a class over a block of rows
// (neighbours read neighbouring classes); the blocks of rows join in their order, and one block of threads
// sums up. q and p are computed anew wherever they are wanted.
#include "dist_rows.cuh"

namespace kd {
namespace {

constexpr int kColumnThreads = 128;

// A class over one block of rows: means and moments, one row at a time (Welford).
template <class A>
__global__ void __launch_bounds__(kColumnThreads) dist_moments(DistLossArgs args) {
  const DistReader<A> read(args);
  const int64_t classes = args.shape.classes, runs = (classes + kColumnThreads - 1) / kColumnThreads;
  const int64_t b = blockIdx.x / runs, c = blockIdx.x % runs * kColumnThreads + threadIdx.x;
  if (c >= classes) return;
  const int64_t first = b * args.block_rows, after = first + args.block_rows;
  Column<A> x = {A(0), A(0), no_moments<A>()};
  A n = A(0);
  for (int64_t row = first; row < (after < args.shape.rows ? after : args.shape.rows); ++row) {
    const DistRowOf<A> of(read, row);
    if (!of.counts()) continue;
    const A share = A(1) / (n + A(1));
    join(x, {of.q(c), of.p(c), no_moments<A>()}, share, n * share);
    n += A(1);
  }
  A* to = static_cast<A*>(args.moments) + b * kDistMoments * classes + c;
  const A numbers[kDistMoments] = {x.q, x.p, x.about.aa, x.about.bb, x.about.ab, x.about.dd};
  for (int i = 0; i < kDistMoments; ++i) to[i * classes] = numbers[i];
  if (c == 0) static_cast<A*>(args.counts)[b] = n;
}

template <class A>
__global__ void __launch_bounds__(kColumnThreads) dist_columns(DistLossArgs args) {
  const int64_t classes = args.shape.classes,
                c = blockIdx.x * static_cast<int64_t>(kColumnThreads) + threadIdx.x;
  if (c >= classes) return;
  Column<A> x = {A(0), A(0), no_moments<A>()};
  A rows = A(0);
  for (int64_t b = 0; b < args.blocks; ++b) {
    const A n = static_cast<const A*>(args.counts)[b], all = rows + n;
    if (n == A(0)) continue;
    const A* of = static_cast<const A*>(args.moments) + b * kDistMoments * classes + c;
    const Moments<A> about = {of[kDistAA * classes], of[kDistBB * classes], of[kDistAB * classes],
                              of[kDistDD * classes]};
    join(x, {of[kDistMeanQ * classes], of[kDistMeanP * classes], about}, n / all, rows * n / all);
    rows = all;
  }
  const Correlation<A> y = correlation(x.about, rows, x.q, x.p);
  static_cast<A*>(args.column_value)[c] = y.value;
  A* to = static_cast<A*>(args.columns) + c;
  const A numbers[kDistColumn] = {x.q, x.q - x.p, y.scale, y.share};
  for (int i = 0; i < kDistColumn; ++i) to[i * classes] = numbers[i];
}

template <class A>
KD_DEVICE double sum_of(Team<double>& team, const void* data, int64_t n) {
  double sum[1] = {0};
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) sum[0] += static_cast<const A*>(data)[i];
  team.sum(sum);
  return sum[0];
}

template <class A>
__global__ void __launch_bounds__(kRowThreads) dist_finish(DistLossArgs args) {
  Team<double> team(blockDim.x);
  const double rows = sum_of<A>(team, args.counts, args.blocks);
  const double of_rows = sum_of<A>(team, args.row_value, args.shape.rows);
  const double of_columns = sum_of<A>(team, args.column_value, args.shape.classes);
  if (threadIdx.x == 0) dist_result<A>(args, rows, of_rows, of_columns);
}

// The gradient by q of one class: the row's part and the class's.
template <class A>
struct DistSlope {
  const DistLossArgs& args;
  const A row_scale, row_share, mean, by_column;

  KD_DEVICE DistSlope(const DistReader<A>& read, int64_t row)
      : args(read.args),
        row_scale(static_cast<A>(args.beta) * *static_cast<const A*>(args.norm) *
                  read.of(kDistRowScale, row)),
        row_share(read.of(kDistRowShare, row)),
        mean(A(1) / static_cast<A>(args.shape.classes)),
        by_column(static_cast<A>(args.gamma) / static_cast<A>(args.shape.classes)) {}

  KD_DEVICE A operator()(int64_t c, A q, A p) const {
    const int64_t classes = args.shape.classes;
    const A* of = static_cast<const A*>(args.columns) + c;
    const A d = q - p, change = d - of[kDistColumnChange * classes], a = q - of[kDistColumnMean * classes];
    const A of_column = of[kDistColumnScale * classes] * (change - of[kDistColumnShare * classes] * a);
    return row_scale * (d - row_share * (q - mean)) + by_column * of_column;
  }
};

template <class A>
__global__ void __launch_bounds__(kRowThreads) dist_gradient(DistLaunch p) {
  const DistReader<A> read(p.args);
  const RowView& grad = p.args.grad;
  const int64_t classes = p.args.shape.classes;
  const A factor = static_cast<A>(p.args.temperature) * *static_cast<const A*>(p.args.upstream);
  Team<A> team(p.team);
  for (int64_t row = team.first_row(); row < p.args.shape.rows; row += team.row_step()) {
    const DistRowOf<A> of(read, row);
    const DistSlope<A> slope(read, row);
    const int64_t at = row_offset(p.args.shape, grad, row);
    A dot[1] = {A(0)};
    if (of.counts()) {
      for (int64_t c = team.rank(); c < classes; c += team.size()) {
        const A q = of.q(c);
        dot[0] += q * slope(c, q, of.p(c));
      }
    }
    team.sum(dot);
    for (int64_t c = team.rank(); c < classes; c += team.size()) {
      A x = A(0);
      if (of.counts()) {
        const A q = of.q(c);
        x = factor * q * (slope(c, q, of.p(c)) - dot[0]);
      }
      write_number(grad.data, grad.dtype, at + c * grad.class_stride, x);
    }
  }
}

template <class A>
void run_dist(const DistLossArgs& args, cudaStream_t stream) {
  const int64_t rows = args.shape.rows, classes = args.shape.classes;
  const int64_t runs = (classes + kColumnThreads - 1) / kColumnThreads;
  const DistLaunch of_rows = {args, classes <= kWarpClasses ? kWarpThreads : kRowThreads};
  const int64_t teams = kRowThreads / of_rows.team, blocks = (rows + teams - 1) / teams;
  const int64_t most = static_cast<int64_t>(device_attribute(cudaDevAttrMultiProcessorCount)) * 64;
  const LaunchShape by_row = {static_cast<unsigned>(blocks < most ? blocks : most), kRowThreads};
  const LaunchShape by_column = {static_cast<unsigned>(runs), kColumnThreads};
  switch (args.stage) {
    case DistStage::kRows:
      launch(dist_rows<A>, by_row, stream, of_rows);
      launch(dist_moments<A>, {static_cast<unsigned>(runs * args.blocks), kColumnThreads}, stream, args);
      break;
    case DistStage::kColumns:
      launch(dist_columns<A>, by_column, stream, args);
      break;
    case DistStage::kFinish:
      launch(dist_finish<A>, {1, kRowThreads}, stream, args);
      break;
    default:
      launch(dist_gradient<A>, by_row, stream, of_rows);
  }
}

}  // namespace
}  // namespace kd

extern "C" void kd_dist_loss_cuda(const kd::DistLossArgs& args, int, void* stream) {
  const auto on = static_cast<cudaStream_t>(stream);
  if (args.compute == kd::DType::kFloat64) return kd::run_dist<double>(args, on);
  kd::run_dist<float>(args, on);
}
