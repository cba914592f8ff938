#include "../soft_bce.h"
#include "pairs.cuh"

KD_CUDA_PAIRS(soft_bce, kd::SoftBce)
