#include "../dkd_loss.h"
#include "row_loss.cuh"

KD_CUDA_ROW_LOSS(dkd_loss, DkdLoss)
