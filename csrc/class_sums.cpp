#include "class_sums.h"

#include "common/maps_op.h"

KD_DECLARE_KERNELS(class_sums, ClassSumsArgs)

namespace kd {

#ifdef KD_DEVICE_CPU

// Rows by class, those of a class in their order: a counting sort.
struct Sorted {
  std::vector<int64_t> order, begin;
};

static Sorted sort_by_class(const int64_t* target, int64_t rows, int64_t classes, const int64_t* ignored) {
  Sorted out;
  out.begin.assign(static_cast<size_t>(classes) + 1, 0);
  const auto counted = [&](int64_t i) { return ignored == nullptr || target[i] != *ignored; };
  for (int64_t i = 0; i < rows; ++i) out.begin[counted(i) ? target[i] + 1 : 0] += counted(i);
  for (int64_t k = 0; k < classes; ++k) out.begin[k + 1] += out.begin[k];
  out.order.resize(out.begin[classes]);
  std::vector<int64_t> next(out.begin.begin(), out.begin.end() - 1);
  for (int64_t i = 0; i < rows; ++i)
    if (counted(i)) out.order[next[target[i]]++] = i;
  return out;
}

#endif

static std::tuple<Tensor, Tensor> class_sums(const Tensor& features, const Tensor& target, int64_t classes,
                                             std::optional<int64_t> ignored, bool wide) {
  const int64_t* ignore = ignored.has_value() ? &*ignored : nullptr;
  check_classes(target, classes, ignore);
  ClassSumsArgs args = {};
  args.rows = features.size(0), args.width = features.size(1), args.classes = classes;
  args.features = features.data_ptr(), args.dtype = dtype_of(features);
  args.row_stride = features.stride(0), args.stride = features.stride(1);
  args.target = static_cast<const int64_t*>(target.data_ptr());
  args.ignores = ignore != nullptr, args.ignored = ignored.value_or(0);
  args.out = wide ? DType::kFloat64 : DType::kFloat32;
  Tensor sums = fresh(features, {classes, args.width}, args.out);
  Tensor counts = torch::stable::new_empty(target, {&classes, 1});
  args.sums = sums.data_ptr();
  args.counts = static_cast<int64_t*>(counts.data_ptr());
#ifdef KD_DEVICE_CPU
  const Sorted sorted = sort_by_class(args.target, args.rows, classes, ignore);
  args.order = sorted.order.data(), args.begin = sorted.begin.data();
#endif
  launch(KD_KERNELS(class_sums), args, Pass::kForward, args.width * (1 + args.rows / classes), features);
  return {sums, counts};
}

}  // namespace kd

KD_SCHEMA(m) {
  m.def(
      "class_sums(Tensor features, Tensor target, int num_classes, int? ignore_index, bool wide) -> "
      "(Tensor, Tensor)");
}
KD_IMPLEMENTATION(m) { m.impl("class_sums", TORCH_BOX(&kd::class_sums)); }
