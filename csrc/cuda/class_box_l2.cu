#include "../class_box_l2.h"
#include "pairs.cuh"

KD_CUDA_PAIRS(class_box_l2, kd::ClassBoxL2)
