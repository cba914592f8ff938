#include "../focal_loss.h"
#include "row_loss.cuh"

KD_CUDA_ROW_LOSS(focal_loss, FocalLoss)
