#include "dkd_loss.h"

#include "common/row_loss_op.h"

KD_ROW_LOSS_OP(dkd_loss, 1, 0, "target")
