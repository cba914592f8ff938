// Generalised Jensen-Shannon divergence: beta KL(p || m) + (1 - beta) KL(q || m), m = beta p + (1 - beta) q;
// beta is the teacher's share. At beta = 0 and beta = 1 it is 0, the limit of this definition.
//
// Value: sum beta p phi(u) + (1 - beta) q phi(w), u = log m/p, w = log m/q = u + r (one logarithm for both).
// Gradient by student / T: (1 - beta) q (-w + sum q w).
#pragma once

#include "common/divergence.h"

namespace kd {
namespace {

template <class N>
struct JsDiv {
  static constexpr bool kNeedsSum = true;
  double beta, rest;
  double log_rest;  // log m/q where p = 0

  KD_FN explicit JsDiv(double param)
      : beta(param == 0 ? 1 : param), rest(1 - beta), log_rest(rest > 0 ? __builtin_log(rest) : 0) {}

  KD_FN N value(const Element<N>& x) const {
    const N u = log_m_over_p(x);
    return fill<N>(beta) * bregman(x.p, u, fill<N>(rest) * x.d) +
           fill<N>(rest) * bregman(x.q, log_m_over_q(x, u), fill<N>(-beta) * x.d);
  }
  KD_FN N summand(const Element<N>& x) const { return x.q * log_m_over_q(x, log_m_over_p(x)); }
  KD_FN N gradient(const Element<N>& x, N sum) const {
    return fill<N>(rest) * x.q * (sum - log_m_over_q(x, log_m_over_p(x)));
  }

 private:
  KD_FN N log_m_over_p(const Element<N>& x) const { return log1p(fill<N>(rest) * excess(x.r)); }
  // Where p is nothing beside q it is log(1 - beta). Where q = 0 it is infinite and only stands beside q: any
  // number above 1/2 makes bregman() give the limit.
  KD_FN N log_m_over_q(const Element<N>& x, N u) const {
    const N infinity = -minus_infinity<N>();
    return select(x.r < fill<N>(-kNothing), fill<N>(log_rest), select(x.r == infinity, fill<N>(1), u + x.r));
  }
};

}  // namespace
}  // namespace kd
