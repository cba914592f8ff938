// The rows of DIST on the GPU: a warp or a block takes a row, its softmaxes' sums and its correlation.
#pragma once

#include "../dist_loss.h"
#include "maps.cuh"

namespace kd {
namespace {

constexpr int kRowThreads = 256;
constexpr int64_t kWarpClasses = 1024;  // up to here a warp takes a row

struct DistLaunch {
  DistLossArgs args;
  int team;  // threads of a row
};

template <class A>
struct DistReader {
  const DistLossArgs& args;
  const A inverse_temperature;

  KD_DEVICE explicit DistReader(const DistLossArgs& a)
      : args(a), inverse_temperature(static_cast<A>(1 / a.temperature)) {}

  KD_DEVICE A& of(int index, int64_t row) const {
    return static_cast<A*>(args.rows)[index * args.shape.rows + row];
  }
  KD_DEVICE A logit(const RowView& view, int64_t at, int64_t c) const {
    return read_number(view.data, view.dtype, at + c * view.class_stride, A(0));
  }
  KD_DEVICE A exponential(const RowView& view, int64_t at, int64_t c, A max) const {
    return exp_below((logit(view, at, c) - max) * inverse_temperature);
  }
};

// A row's numbers, and its q and p by class.
template <class A>
struct DistRowOf {
  const DistReader<A>& read;
  const int64_t s_at, t_at;
  const A s_max, s_inverse, t_max, t_inverse;

  KD_DEVICE DistRowOf(const DistReader<A>& r, int64_t row)
      : read(r),
        s_at(row_offset(r.args.shape, r.args.student, row)),
        t_at(row_offset(r.args.shape, r.args.teacher, row)),
        s_max(r.of(kDistStudentMax, row)),
        s_inverse(r.of(kDistStudentInverse, row)),
        t_max(r.of(kDistTeacherMax, row)),
        t_inverse(r.of(kDistTeacherInverse, row)) {}

  KD_DEVICE bool counts() const { return s_inverse != A(0); }
  KD_DEVICE A q(int64_t c) const { return read.exponential(read.args.student, s_at, c, s_max) * s_inverse; }
  KD_DEVICE A p(int64_t c) const { return read.exponential(read.args.teacher, t_at, c, t_max) * t_inverse; }
};

// The maximum of a row's side and 1 / its sum, in rows `max` and `max` + 1 of the state. False where no class
// is possible.
template <class A>
KD_DEVICE bool take_softmax(const DistReader<A>& read, Team<A>& team, const RowView& view, int64_t row,
                            A (&found)[2]) {
  const int64_t at = row_offset(read.args.shape, view, row), classes = read.args.shape.classes;
  A most[1] = {minus_infinity<A>()}, sum[1] = {A(0)};
  for (int64_t c = team.rank(); c < classes; c += team.size())
    most[0] = larger(read.logit(view, at, c), most[0]);
  team.largest(most);
  found[0] = reference(most[0]);
  for (int64_t c = team.rank(); c < classes; c += team.size())
    sum[0] += read.exponential(view, at, c, found[0]);
  team.sum(sum);
  found[1] = A(1) / sum[0];
  return sum[0] != A(0);
}

template <class A>
KD_DEVICE Correlation<A> row_correlation(const DistReader<A>& read, Team<A>& team, int64_t row,
                                         const A (&student)[2], const A (&teacher)[2]) {
  const RowShape& shape = read.args.shape;
  const int64_t s_at = row_offset(shape, read.args.student, row);
  const int64_t t_at = row_offset(shape, read.args.teacher, row);
  const A mean = A(1) / static_cast<A>(shape.classes);
  Moments<A> m = no_moments<A>();
  for (int64_t c = team.rank(); c < shape.classes; c += team.size())
    add(m, read.exponential(read.args.student, s_at, c, student[0]) * student[1] - mean,
        read.exponential(read.args.teacher, t_at, c, teacher[0]) * teacher[1] - mean);
  A squares[2] = {m.aa, m.bb}, products[2] = {m.ab, m.dd};
  team.sum(squares);
  team.sum(products);
  return correlation<A>({squares[0], squares[1], products[0], products[1]}, static_cast<A>(shape.classes),
                        mean, mean);
}

template <class A>
__global__ void __launch_bounds__(kRowThreads) dist_rows(DistLaunch p) {
  const DistReader<A> read(p.args);
  Team<A> team(p.team);
  for (int64_t row = team.first_row(); row < p.args.shape.rows; row += team.row_step()) {
    A student[2], teacher[2];
    const bool first = take_softmax(read, team, p.args.student, row, student);
    const bool second = take_softmax(read, team, p.args.teacher, row, teacher);
    Correlation<A> x = {A(0), A(0), A(0)};
    const bool counts = first && second;
    if (counts) x = row_correlation(read, team, row, student, teacher);
    if (team.rank() != 0) continue;
    const A numbers[kDistRow] = {
        student[0], counts ? student[1] : A(0), teacher[0], counts ? teacher[1] : A(0), x.scale, x.share};
    for (int i = 0; i < kDistRow; ++i) read.of(i, row) = numbers[i];
    static_cast<A*>(p.args.row_value)[row] = x.value;
  }
}

}  // namespace
}  // namespace kd
