#include "cross_entropy_kl_div.h"

#include "common/row_loss_op.h"

KD_ROW_LOSS_OP(cross_entropy_kl_div, 2, kd::kCrossEntropyKlDivState, "target")
