#include "../dkd_loss.h"

#include "row_loss.h"

KD_CPU_ROW_LOSS(dkd_loss, DkdLoss)
