#include "../reverse_kl_div.h"
#include "divergence.cuh"

KD_CUDA_DIVERGENCE(reverse_kl_div, ReverseKlDiv)
