#include "../unbiased_kl_div.h"

#include "row_loss.h"

KD_CPU_ROW_LOSS(unbiased_kl_div, UnbiasedKlDiv)
