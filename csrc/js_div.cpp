#include "js_div.h"

#include "common/divergence_op.h"

KD_DIVERGENCE_OP(js_div)
