#include "../topk_kl_div.h"

#include "row_loss.h"

KD_CPU_ROW_LOSS(topk_kl_div, TopkKlDiv)
