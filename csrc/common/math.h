// exp, expm1, log, log1p and phi(u) = expm1(u) - u, once for every number type.
//
// exp: x = n ln2 + r, |r| <= ln2/2, e^x = 2^n (1 + r + phi(r)), phi by its Taylor series. The same r gives
// expm1 without cancellation. log: x = 2^k m, m in [sqrt(1/2), sqrt(2)), f = m - 1, s = f/(2+f), log m = f -
// f^2/2 + s (f^2/2 + R(s^2)). Error (tests/test_native_math.py): at most 2 ULP for float and double over the
// whole range, denormals included. The device uses CUDA's own functions, which keep to the same bound.
#pragma once

#include "platform.h"
#ifndef __CUDACC__
#include "vector.h"
#endif

namespace kd {
namespace {

#ifdef __CUDACC__
template <class N>
struct Number {
  using Scalar = N;
};
#endif

template <class N>
using ScalarOf = typename Number<N>::Scalar;

// A number type's constant: every lane holds x.
template <class N>
KD_FN N fill(double x) {
  return N{} + static_cast<ScalarOf<N>>(x);
}

template <class M, class N>
KD_FN N select(M condition, N yes, N no) {
  return condition ? yes : no;
}

// b if one of them is NaN.
template <class N>
KD_FN N larger(N a, N b) {
  return a > b ? a : b;
}

template <class N>
KD_FN N smaller(N a, N b) {
  return a < b ? a : b;
}

template <class N>
KD_FN N magnitude(N x) {
  return x < fill<N>(0) ? -x : x;
}

#ifdef __AVX512F__
// One instruction each, where the compiler makes a comparison and a blend of the above.
template <>
KD_FN VecF larger(VecF a, VecF b) {
  return (VecF)_mm512_max_ps((__m512)a, (__m512)b);
}
template <>
KD_FN VecF smaller(VecF a, VecF b) {
  return (VecF)_mm512_min_ps((__m512)a, (__m512)b);
}
template <>
KD_FN VecF magnitude(VecF x) {
  return (VecF)_mm512_abs_ps((__m512)x);
}
#endif

template <class N>
KD_FN N minus_infinity() {
  return fill<N>(-__builtin_huge_val());
}

// phi(u) / u^2 for |u| <= 1/2, a polynomial. float: the one of degree 5 whose largest relative error is
// least, 2.4e-8. double: Taylor's first 14 terms, 2e-16.
template <class N>
KD_FN N phi_polynomial(N u) {
  constexpr int kTerms = sizeof(ScalarOf<N>) == 4 ? 6 : 14;
  double term[14] = {0.5,
                     0.16666665455844182,
                     0.041665795941787424,
                     0.008333452171339174,
                     0.0013981997362782343,
                     0.00019875629580670538};
  if constexpr (kTerms == 14)
    for (int i = 1; i < kTerms; ++i) term[i] = term[i - 1] / (i + 2);
  N sum = fill<N>(term[kTerms - 1]);
  KD_UNROLL
  for (int i = kTerms - 2; i >= 0; --i) sum = sum * u + fill<N>(term[i]);
  return sum;
}

template <class N>
KD_FN N phi_series(N u) {
  return phi_polynomial(u) * (u * u);
}

// e^r for |r| <= ln2 / 2. float: of polynomials of degree 6 that begin with 1 + r the one whose largest
// relative error is least, 3e-9.
template <class N>
KD_FN N exp_series(N r) {
  if constexpr (sizeof(ScalarOf<N>) == 8) return (phi_polynomial(r) * r + fill<N>(1)) * r + fill<N>(1);
  constexpr double kTerm[] = {
      1, 1, 0.4999999344748, 0.1666652062053, 0.0416683880481, 0.0083687168836, 0.0013814598513};
  N sum = fill<N>(kTerm[6]);
  KD_UNROLL
  for (int i = 5; i >= 0; --i) sum = sum * r + fill<N>(kTerm[i]);
  return sum;
}

#ifdef __CUDACC__

KD_FN float exp(float x) { return ::expf(x); }
KD_FN double exp(double x) { return ::exp(x); }
KD_FN float exp_below(float x) { return ::expf(x); }
KD_FN double exp_below(double x) { return ::exp(x); }
KD_FN float expm1(float x) { return ::expm1f(x); }
KD_FN double expm1(double x) { return ::expm1(x); }
KD_FN float log(float x) { return ::logf(x); }
KD_FN double log(double x) { return ::log(x); }
KD_FN float log1p(float x) { return ::log1pf(x); }
KD_FN double log1p(double x) { return ::log1p(x); }

#else

// The bit layout of a floating point type, and ln 2 in two parts, the first short enough that n * kLn2High is
// exact.
template <class A>
struct Bits;
template <>
struct Bits<float> {
  static constexpr int kMantissa = 23, kBias = 127, kLogTerms = 5;
  static constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  static constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
  static constexpr float kLowest = -104.0f, kHighest = 88.8f;  // e^x is 0 below, infinite above
  static constexpr float kLeastExponent = -87.0f;
  static constexpr float kTiny = 1.17549435e-38f, kDenormalScale = 8388608.0f;
};
template <>
struct Bits<double> {
  static constexpr int kMantissa = 52, kBias = 1023, kLogTerms = 11;
  static constexpr double kRound = 6755399441055744.0;
  static constexpr double kLn2High = 6.93147180369123816490e-01, kLn2Low = 1.90821492927058770002e-10;
  static constexpr double kLowest = -746.0, kHighest = 709.9;
  static constexpr double kLeastExponent = -708.0;
  static constexpr double kTiny = 2.2250738585072014e-308, kDenormalScale = 4503599627370496.0;
};

template <class To, class From>
KD_FN To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  __builtin_memcpy(&to, &from, sizeof(To));
  return to;
}

// x = n ln2 + r with n an integer: n as a float and as an integer.
template <class N>
struct Reduced {
  N n, r;
  typename Number<N>::Int k;
};

template <class N>
KD_FN Reduced<N> reduce(N x) {
  using B = Bits<ScalarOf<N>>;
  using I = typename Number<N>::Int;
  const N shifted = x * fill<N>(1.44269504088896340736) + fill<N>(B::kRound);
  const N n = shifted - fill<N>(B::kRound);
  const N r = (x - n * fill<N>(B::kLn2High)) - n * fill<N>(B::kLn2Low);
  return {n, r, bit_cast<I>(shifted) - bit_cast<I>(fill<N>(B::kRound))};
}

// 2^k for k within the normal range.
template <class N>
KD_FN N power_of_two(typename Number<N>::Int k) {
  using B = Bits<ScalarOf<N>>;
  return bit_cast<N>((k + B::kBias) << B::kMantissa);
}

// In two steps, since 2^k alone over- or underflows where x 2^k need not.
template <class N>
KD_FN N times_power_of_two(N x, typename Number<N>::Int k) {
  const auto half = k >> 1;
  return (x * power_of_two<N>(half)) * power_of_two<N>(k - half);
}

// e^x for x <= 0, as a softmax has it: results below the smallest normal number become 0. NaN stays.
template <class N>
KD_FN N exp_below(N x) {
  using B = Bits<ScalarOf<N>>;
  const N least = fill<N>(B::kLeastExponent);
  const N bounded = select(x < least, least, x);
  const Reduced<N> y = reduce(bounded);
  const N result = exp_series(y.r) * power_of_two<N>(y.k);
  return select(x < least, fill<N>(0), result);
}

#ifdef __AVX512F__
// One instruction scales by 2^n, underflow included.
template <>
KD_FN VecF exp_below(VecF x) {
  const Reduced<VecF> y = reduce(larger(fill<VecF>(-104), x));
  return (VecF)_mm512_scalef_ps((__m512)exp_series(y.r), (__m512)y.n);
}
#endif

template <class N>
KD_FN N exp(N x) {
  using B = Bits<ScalarOf<N>>;
  x = select(x < fill<N>(B::kLowest), fill<N>(B::kLowest), x);
  x = select(x > fill<N>(B::kHighest), fill<N>(B::kHighest), x);
  const Reduced<N> y = reduce(x);
  return times_power_of_two<N>(exp_series(y.r), y.k);
}

template <class N>
KD_FN N expm1(N x) {
  using B = Bits<ScalarOf<N>>;
  constexpr double kNothingLeft = -40;  // e^x is lost beside 1
  x = select(x < fill<N>(kNothingLeft), fill<N>(kNothingLeft), x);
  x = select(x > fill<N>(B::kHighest), fill<N>(B::kHighest), x);
  const Reduced<N> y = reduce(x);
  const N small = y.r + phi_series(y.r);
  // 2^n small + (2^n - 1), never 1 + small, whose rounding would show where e^x is near 1; halved, since 2^n
  // may overflow.
  const N half = power_of_two<N>(y.k - 1);
  return select(y.n == fill<N>(0), small, (half * small + (half - fill<N>(0.5))) * fill<N>(2));
}

template <class N>
KD_FN N log(N x) {
  using B = Bits<ScalarOf<N>>;
  using I = typename Number<N>::Int;
  const auto denormal = x < fill<N>(B::kTiny);
  // What has no logarithm is 1 until the end: the bits of a negative number would overflow below.
  const N normal = select(x > fill<N>(0), select(denormal, x * fill<N>(B::kDenormalScale), x), fill<N>(1));
  // Subtracting the bits of sqrt(1/2) puts the exponent change at sqrt(1/2) and not at 1.
  const I root = bit_cast<I>(fill<N>(0.70710678118654752));
  const I k = (bit_cast<I>(normal) - root) >> B::kMantissa;
  const N f = bit_cast<N>(bit_cast<I>(normal) - (k << B::kMantissa)) - fill<N>(1);
  const N exponent = select(denormal, fill<N>(-B::kMantissa), fill<N>(0)) +
                     (bit_cast<N>(k + bit_cast<I>(fill<N>(B::kRound))) - fill<N>(B::kRound));
  const N s = f / (fill<N>(2) + f), z = s * s;
  N series = fill<N>(2.0 / (2 * B::kLogTerms + 1));
  KD_UNROLL
  for (int i = B::kLogTerms - 1; i > 0; --i) series = series * z + fill<N>(2.0 / (2 * i + 1));
  const N half_square = fill<N>(0.5) * f * f;
  const N tail = s * (half_square + z * series) + exponent * fill<N>(B::kLn2Low);
  const N finite = exponent * fill<N>(B::kLn2High) - ((half_square - tail) - f);
  const N infinity = -minus_infinity<N>();
  const N defined = select(x == fill<N>(0), -infinity, select(x == infinity, infinity, finite));
  return select(x >= fill<N>(0), defined, fill<N>(__builtin_nan("")));
}

template <class N>
KD_FN N log1p(N x) {
  const N y = fill<N>(1) + x;
  const N lost = x - (y - fill<N>(1));  // what rounding 1 + x dropped
  const auto ordinary = (y > fill<N>(0)) & (y < fill<N>(__builtin_huge_val()));
  return select(ordinary, log(y) + lost / y, log(y));
}

#endif

// phi(u) where u may be large: the series near 0, expm1(u) - u elsewhere.
template <class N>
KD_FN N phi(N u) {
  return select(u * u <= fill<N>(0.25), phi_series(u), expm1(u) - u);
}

}  // namespace
}  // namespace kd
