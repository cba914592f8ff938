#include "../topk_kl_div.h"
#include "row_loss.cuh"

KD_CUDA_ROW_LOSS(topk_kl_div, TopkKlDiv)
