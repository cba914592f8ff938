#include "../unbiased_cross_entropy.h"
#include "row_loss.cuh"

KD_CUDA_ROW_LOSS(unbiased_cross_entropy, UnbiasedCrossEntropy)
