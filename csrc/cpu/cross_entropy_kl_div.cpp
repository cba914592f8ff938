#include "../cross_entropy_kl_div.h"

#include "row_loss.h"

KD_CPU_ROW_LOSS(cross_entropy_kl_div, CrossEntropyKlDiv)
