// What one line of source means on each compiler: KD_FN marks every function of a formula.
//
// Formulas are compiled several times (once for each CPU instruction level, once by nvcc, once for the
// emulated device of tests/native). Two copies of one inline symbol built at two levels would be merged by
// the linker, possibly into the AVX-512 one, which crashes older processors. So headers that hold code put it
// in an unnamed namespace: every translation unit then has its own, and `nm` shows no weak symbol.
#pragma once

#include <stdint.h>

#ifdef __CUDACC__
#define KD_FN __host__ __device__ __forceinline__
#else
#define KD_FN inline __attribute__((always_inline))
#endif

#if defined(__CUDACC__)
#define KD_UNROLL _Pragma("unroll")
#else
#define KD_UNROLL _Pragma("GCC unroll 16")
#endif

namespace kd {

enum class DType : int32_t { kFloat32 = 0, kFloat64 = 1, kFloat16 = 2, kBFloat16 = 3 };

}  // namespace kd
