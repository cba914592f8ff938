#include "../tv_dist.h"
#include "divergence.cuh"

KD_CUDA_DIVERGENCE(tv_dist, TvDist)
