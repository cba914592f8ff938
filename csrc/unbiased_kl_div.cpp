#include "unbiased_kl_div.h"

#include "common/row_loss_op.h"

KD_ROW_LOSS_OP(unbiased_kl_div, 1, 0, "target")
