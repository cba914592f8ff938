#include "../kl_div.h"

#include "divergence.h"

KD_CPU_DIVERGENCE(kl_div, KlDiv)
