#include "../soft_cross_entropy.h"

#include "row_loss.h"

KD_CPU_ROW_LOSS(soft_cross_entropy, SoftCrossEntropy)
