#include "../soft_cross_entropy.h"
#include "row_loss.cuh"

KD_CUDA_ROW_LOSS(soft_cross_entropy, SoftCrossEntropy)
