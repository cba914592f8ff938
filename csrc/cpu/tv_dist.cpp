#include "../tv_dist.h"

#include "divergence.h"

KD_CPU_DIVERGENCE(tv_dist, TvDist)
