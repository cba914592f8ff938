#include "skew_kl_div.h"

#include "common/divergence_op.h"

KD_DIVERGENCE_OP(skew_kl_div)
