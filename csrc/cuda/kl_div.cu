#include "../kl_div.h"
#include "divergence.cuh"

KD_CUDA_DIVERGENCE(kl_div, KlDiv)
