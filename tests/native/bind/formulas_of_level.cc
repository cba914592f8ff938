// The functions of csrc/common/math.h on arrays: compiled once for each CPU instruction level, no std
// templates (see csrc/common/platform.h). Scalars are numbers of their own type; vectors are what a CPU
// kernel of this level uses.
#include "../../../csrc/common/convert.h"
#include "../../../csrc/common/level.h"
#include "formulas.h"

namespace {

using namespace kd;

template <class N>
N apply(Function function, N x) {
  switch (function) {
    case Function::kExp:
      return exp(x);
    case Function::kExpBelow:
      return exp_below(x);
    case Function::kExpm1:
      return expm1(x);
    case Function::kLog:
      return log(x);
    case Function::kLog1p:
      return log1p(x);
    case Function::kPhi:
      return phi(x);
    default:
      return phi_series(x);
  }
}

// n is a multiple of every vector's length.
template <class N, class V>
void apply_to(Function function, bool vector, const N* x, N* y, int64_t n) {
  if (vector) {
    for (int64_t i = 0; i < n; i += Number<V>::kLanes) store(y + i, apply(function, load<V>(x + i)));
  } else {
    for (int64_t i = 0; i < n; ++i) y[i] = apply(function, x[i]);
  }
}

void to_float(const void* from, DType dtype, float* to, int64_t n) { read(from, dtype, 0, 1, n, to); }
void from_float(const float* from, void* to, DType dtype, int64_t n) { write(from, n, to, dtype, 0, 1); }

}  // namespace

extern "C" const FormulasOfLevel KD_JOIN(kd_, formulas, KD_LEVEL);
const FormulasOfLevel KD_JOIN(kd_, formulas, KD_LEVEL) = {apply_to<float, VecF>, apply_to<double, VecD>,
                                                          to_float, from_float};
