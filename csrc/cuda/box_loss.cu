#include "../box_loss.h"
#include "pairs.cuh"

KD_CUDA_PAIRS(box_loss, kd::BoxLoss)
