#include "kl_div.h"

#include "common/divergence_op.h"

KD_DIVERGENCE_OP(kl_div)
