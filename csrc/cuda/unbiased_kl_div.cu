#include "../unbiased_kl_div.h"
#include "row_loss.cuh"

KD_CUDA_ROW_LOSS(unbiased_kl_div, UnbiasedKlDiv)
