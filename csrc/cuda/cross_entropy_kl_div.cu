#include "../cross_entropy_kl_div.h"
#include "row_loss.cuh"

KD_CUDA_ROW_LOSS(cross_entropy_kl_div, CrossEntropyKlDiv)
