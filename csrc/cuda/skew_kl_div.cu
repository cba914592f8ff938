#include "../skew_kl_div.h"
#include "divergence.cuh"

KD_CUDA_DIVERGENCE(skew_kl_div, SkewKlDiv)
