#include "../focal_loss.h"

#include "row_loss.h"

KD_CPU_ROW_LOSS(focal_loss, FocalLoss)
