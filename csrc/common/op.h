// What every op's .cpp needs of torch, through its stable ABI: dtypes, row views, fresh outputs, and
// `launch`, the only place that knows which device this file is being compiled for (each csrc/X.cpp is
// compiled once for each).
#pragma once

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "level.h"
#include "rows.h"
#include "warm_blocks.h"

namespace kd {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline DType dtype_of(const Tensor& x) {
  switch (x.scalar_type()) {
    case ScalarType::Float:
      return DType::kFloat32;
    case ScalarType::Double:
      return DType::kFloat64;
    case ScalarType::Half:
      return DType::kFloat16;
    case ScalarType::BFloat16:
      return DType::kBFloat16;
    default:
      throw std::invalid_argument("kdfast: logits must be float64, float32, float16 or bfloat16");
  }
}

inline ScalarType scalar_type(DType dtype) {
  return dtype == DType::kFloat64 ? ScalarType::Double : ScalarType::Float;
}

// The type arithmetic is done in.
inline DType compute_type(const Tensor& student, const Tensor& teacher) {
  const bool wide = dtype_of(student) == DType::kFloat64 || dtype_of(teacher) == DType::kFloat64;
  return wide ? DType::kFloat64 : DType::kFloat32;
}

// ---- Rows
// --------------------------------------------------------------------------------------------------------------

// Joins dimensions that are one in memory for every tensor; size-1 dimensions vanish.
struct Dims {
  std::vector<int64_t> size;
  std::vector<std::vector<int64_t>> stride;  // of each tensor
};

inline Dims collapse(const std::vector<const Tensor*>& tensors, const std::vector<int64_t>& dims) {
  Dims out;
  out.stride.resize(tensors.size());
  for (const int64_t d : dims) {
    const int64_t size = tensors[0]->size(d);
    if (size == 1) continue;
    bool joins = !out.size.empty();
    for (size_t i = 0; joins && i < tensors.size(); ++i)
      joins = out.stride[i].back() == tensors[i]->stride(d) * size;
    if (joins)
      out.size.back() *= size;
    else
      out.size.push_back(size);
    for (size_t i = 0; i < tensors.size(); ++i) {
      if (joins)
        out.stride[i].back() = tensors[i]->stride(d);
      else
        out.stride[i].push_back(tensors[i]->stride(d));
    }
  }
  return out;
}

// Views tensors of one shape as rows of classes, the classes along `class_dims` (sorted, not negative).
inline RowShape view_rows(const std::vector<const Tensor*>& tensors, const std::vector<int64_t>& class_dims,
                          const std::vector<RowView*>& views) {
  std::vector<int64_t> row_dims;
  for (int64_t d = 0; d < tensors[0]->dim(); ++d) {
    bool is_class = false;
    for (const int64_t c : class_dims) is_class |= c == d;
    if (!is_class) row_dims.push_back(d);
  }
  const Dims rows = collapse(tensors, row_dims), classes = collapse(tensors, class_dims);
  if (rows.size.size() > kMaxRowDims || classes.size.size() > 1)
    throw std::invalid_argument("kdfast: these strides need a contiguous copy; the public functions make it");
  RowShape shape = {};
  shape.rows = 1;
  shape.dims = rows.size.empty() ? 1 : static_cast<int>(rows.size.size());
  shape.size[0] = 1;
  for (size_t d = 0; d < rows.size.size(); ++d) shape.rows *= shape.size[d] = rows.size[d];
  shape.classes = classes.size.empty() ? 1 : classes.size[0];
  for (size_t i = 0; i < tensors.size(); ++i) {
    *views[i] = {};
    views[i]->data = tensors[i]->data_ptr();
    views[i]->dtype = dtype_of(*tensors[i]);
    views[i]->class_stride = classes.size.empty() ? 1 : classes.stride[i][0];
    for (size_t d = 0; d < rows.size.size(); ++d) views[i]->row_stride[d] = rows.stride[i][d];
  }
  return shape;
}

// ---- Outputs
// -----------------------------------------------------------------------------------------------------------

// Uninitialised memory of a known layout; large and on the CPU, in a block that was touched before. Made
// through C's own entry, since finding an operator by its name takes as long as a small kernel.
inline Tensor fresh_strided(torch::headeronly::IntHeaderOnlyArrayRef size,
                            torch::headeronly::IntHeaderOnlyArrayRef stride, ScalarType dtype,
                            int64_t element_bytes, const Tensor& like) {
#ifdef KD_DEVICE_CPU
  int64_t bytes = element_bytes;
  for (const int64_t n : size) bytes *= n;
  if (void* block = take_block(bytes))
    return torch::stable::from_blob(block, size, stride, like.device(), dtype,
                                    [bytes](void* data) { give_block(data, bytes); });
#endif
  AtenTensorHandle handle = nullptr;
  const auto code = torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype));
  const auto device = torch::stable::detail::to<int32_t>(torch::stable::detail::from(like.device().type()));
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<int64_t>(size.size()), size.data(),
                                                  stride.data(), code, device, like.get_device_index(),
                                                  &handle));
  Tensor out(handle);
#ifdef KD_DEVICE_CPU
  ask_for_huge_pages(out.data_ptr(), bytes);
#endif
  return out;
}

// Whether x fills its memory without gaps or overlaps, so that it may be walked as one run of numbers.
inline bool is_dense(const Tensor& x) {
  std::vector<std::pair<int64_t, int64_t>> dims;  // stride, size
  for (int64_t d = 0; d < x.dim(); ++d)
    if (x.size(d) != 1) dims.emplace_back(x.stride(d), x.size(d));
  std::sort(dims.begin(), dims.end());
  int64_t numbers = 1;
  for (const auto& [stride, size] : dims) {
    if (stride != numbers) return false;
    numbers *= size;
  }
  return true;
}

// As torch.empty_like has it.
inline Tensor fresh_like(const Tensor& x) {
  if (!is_dense(x)) return torch::stable::empty_like(x);
  return fresh_strided(x.sizes(), x.strides(), x.scalar_type(), static_cast<int64_t>(x.element_size()), x);
}

inline Tensor fresh(const Tensor& like, const std::vector<int64_t>& size, DType dtype) {
  std::vector<int64_t> stride(size.size(), 1);
  for (size_t d = size.size(); d-- > 1;) stride[d - 1] = stride[d] * (size[d] > 1 ? size[d] : 1);
  return fresh_strided(size, stride, scalar_type(dtype), dtype == DType::kFloat64 ? 8 : 4, like);
}

// ---- Launch
// ------------------------------------------------------------------------------------------------------------

enum class Pass { kForward, kBackward };

#ifdef KD_DEVICE_CPU

#define KD_DECLARE_KERNELS(name, Args)                         \
  extern "C" const kd::Kernels<kd::Args> kd_##name##_baseline; \
  extern "C" const kd::Kernels<kd::Args> kd_##name##_avx2;     \
  extern "C" const kd::Kernels<kd::Args> kd_##name##_avx512;
#define KD_KERNELS(name)                                  \
  (kd::level() == kd::Level::kAvx512 ? kd_##name##_avx512 \
   : kd::level() == kd::Level::kAvx2 ? kd_##name##_avx2   \
                                     : kd_##name##_baseline)
#define KD_DISPATCH_KEY CPU

// `work` is about how many elements one item touches: small jobs stay on one thread.
template <class Args>
void launch(const Kernels<Args>& kernels, const Args& args, Pass pass, int64_t work, const Tensor&) {
  const auto body = pass == Pass::kForward ? kernels.forward : kernels.backward;
  const int64_t items = kernels.items(args), grain = 1 + 16384 / (work > 0 ? work : 1);
  torch::stable::parallel_for(0, items, grain, [&](int64_t begin, int64_t end) { body(args, begin, end); });
}

#else

#define KD_DECLARE_KERNELS(name, Args) \
  extern "C" void kd_##name##_cuda(const kd::Args& args, int backward, void* stream);
#define KD_KERNELS(name) kd_##name##_cuda
#define KD_DISPATCH_KEY CUDA

inline void* current_stream(const Tensor& x) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(x.get_device_index(), &stream));
  return stream;
}

template <class Args>
void launch(void (*kernels)(const Args&, int, void*), const Args& args, Pass pass, int64_t,
            const Tensor& on) {
  const torch::stable::accelerator::DeviceGuard guard(on.get_device_index());
  kernels(args, pass == Pass::kBackward, current_stream(on));
}

#endif

}  // namespace kd

// ---- Registration: the schema once, the implementation for each device
// -------------------------------------------------

#ifdef KD_DEVICE_CPU
#define KD_SCHEMA(m) STABLE_TORCH_LIBRARY_FRAGMENT(kdfast, m)
#define KD_IMPLEMENTATION(m) STABLE_TORCH_LIBRARY_IMPL(kdfast, CPU, m)
#else
#define KD_SCHEMA(m) [[maybe_unused]] static void kd_unused_schema(torch::stable::detail::StableLibrary& m)
#define KD_IMPLEMENTATION(m) STABLE_TORCH_LIBRARY_IMPL(kdfast, CUDA, m)
#endif
