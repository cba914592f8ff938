#include "../unbiased_cross_entropy.h"

#include "row_loss.h"

KD_CPU_ROW_LOSS(unbiased_cross_entropy, UnbiasedCrossEntropy)
