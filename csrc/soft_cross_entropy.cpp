#include "soft_cross_entropy.h"

#include "common/row_loss_op.h"

KD_ROW_LOSS_OP(soft_cross_entropy, 1, 0, "target")
