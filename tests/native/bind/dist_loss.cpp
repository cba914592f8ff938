// The stages of DIST's CUDA kernels, one after the other, with their arguments from numpy arrays.
#include "../../../csrc/dist_loss.h"

#include "rows.h"

extern "C" void kd_dist_loss_cuda(const kd::DistLossArgs& args, int backward, void* stream);

namespace {

void dist_loss(const py::array& student, const py::array& teacher, const py::array& rows,
               const py::array& row_value, const py::array& moments, const py::array& counts,
               const py::array& columns, const py::array& column_value, const py::array& loss,
               const py::array& norm, const py::array& grad, const py::array& upstream, int64_t block_rows,
               double temperature, double beta, double gamma) {
  Arguments arguments;
  kd::DistLossArgs args = {};
  args.shape = shape_of(student);
  args.student = view_of(student), args.teacher = view_of(teacher), args.grad = view_of(grad);
  arguments.in(student, "student"), arguments.in(teacher, "teacher"), arguments.out(grad, "grad");
  args.compute = dtype_of(rows);
  args.block_rows = block_rows, args.blocks = counts.size();
  args.rows = arguments.out(rows, "rows"), args.row_value = arguments.out(row_value, "row_value");
  args.moments = arguments.out(moments, "moments"), args.counts = arguments.out(counts, "counts");
  args.columns = arguments.out(columns, "columns");
  args.column_value = arguments.out(column_value, "column_value");
  args.loss = arguments.out(loss, "loss"), args.norm = arguments.out(norm, "norm");
  args.upstream = arguments.in(upstream, "upstream");
  args.temperature = temperature, args.beta = beta, args.gamma = gamma;
  using Stage = kd::DistStage;
  for (const Stage stage : {Stage::kRows, Stage::kColumns, Stage::kFinish, Stage::kGradient}) {
    args.stage = stage;
    kd_dist_loss_cuda(args, 0, nullptr);
  }
}

void bind(py::module_& m) {
  m.def("dist_loss", &dist_loss, "student"_a, "teacher"_a, py::kw_only(), "rows"_a, "row_value"_a,
        "moments"_a, "counts"_a, "columns"_a, "column_value"_a, "loss"_a, "norm"_a, "grad"_a, "upstream"_a,
        "block_rows"_a, "temperature"_a = 1.0, "beta"_a = 1.0, "gamma"_a = 1.0);
}
const Binding binding(bind);

}  // namespace
