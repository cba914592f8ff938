#include "reverse_kl_div.h"

#include "common/divergence_op.h"

KD_DIVERGENCE_OP(reverse_kl_div)
