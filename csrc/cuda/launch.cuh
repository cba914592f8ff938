// What every CUDA kernel stands on: one way to launch, one way to declare shared memory, and warp and block
// reductions.
//
// A kernel takes one plain struct and may run for real (nvcc) or on the emulated device of tests/native (g++
// with KD_EMULATED_DEVICE). So that one text serves both, launches go through launch() and shared memory
// through KD_SHARED.
#pragma once

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>
#include <type_traits>

#include "../common/platform.h"

#define KD_DEVICE __device__ __forceinline__

#if defined(KD_EMULATED_DEVICE)
// `type name[count]` in the block's shared memory. A template's instantiations each have their own.
#define KD_SHARED(type, name, count)                 \
  static const char kd_key_of_##name = 0;            \
  type(&name)[count] = *static_cast<type(*)[count]>( \
      emulated::static_shared(&kd_key_of_##name, sizeof(type[count]), alignof(type), #name))
// `type* name`: the shared memory whose size the launch gave, aligned to 16 bytes.
#define KD_SHARED_DYNAMIC(type, name) type* name = static_cast<type*>(emulated::dynamic_shared())
#else
#define KD_SHARED(type, name, count) __shared__ type name[count]
#define KD_SHARED_DYNAMIC(type, name)                                \
  extern __shared__ __align__(16) unsigned char kd_dynamic_shared[]; \
  type* name = reinterpret_cast<type*>(kd_dynamic_shared)
#endif

namespace kd {
namespace {

constexpr int kWarpThreads = 32;
constexpr unsigned kWholeWarp = 0xffffffffu;

struct LaunchShape {
  unsigned blocks, threads;  // per grid, per block; both in x
  size_t shared_bytes = 0;   // dynamic
};

#if defined(KD_EMULATED_DEVICE)

template <class Args>
void launch(void (*kernel)(Args), LaunchShape shape, cudaStream_t, const std::type_identity_t<Args>& args) {
  struct Call {
    void (*kernel)(Args);
    Args args;
  } call{kernel, args};
  emulated::run(
      {reinterpret_cast<const void*>(kernel),
       {shape.blocks},
       {shape.threads},
       shape.shared_bytes,
       &call,
       sizeof call,
       [](const void* p) { static_cast<const Call*>(p)->kernel(static_cast<const Call*>(p)->args); }});
}

#else

inline void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  throw std::runtime_error(std::string("kdfast: ") + what + ": " + cudaGetErrorString(status));
}

// Asynchronous. More dynamic shared memory than 48 KiB is opted into here.
template <class Args>
void launch(void (*kernel)(Args), LaunchShape shape, cudaStream_t stream,
            const std::type_identity_t<Args>& args) {
  if (shape.shared_bytes > 48 << 10) {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(shape.shared_bytes)),
          "asking for shared memory");
  }
  kernel<<<shape.blocks, shape.threads, shape.shared_bytes, stream>>>(args);
  check(cudaGetLastError(), "launching a kernel");
}

#endif

inline int device_attribute(cudaDeviceAttr attribute) {
  int device = 0, value = 0;
  if (cudaGetDevice(&device) != cudaSuccess ||
      cudaDeviceGetAttribute(&value, attribute, device) != cudaSuccess) {
    throw std::runtime_error("kdfast: no CUDA device answers");
  }
  return value;
}

}  // namespace
}  // namespace kd
