#include "../rpn_distill.h"
#include "pairs.cuh"

KD_CUDA_PAIRS(rpn_distill, kd::RpnDistill)
