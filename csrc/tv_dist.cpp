#include "tv_dist.h"

#include "common/divergence_op.h"

KD_DIVERGENCE_OP(tv_dist)
