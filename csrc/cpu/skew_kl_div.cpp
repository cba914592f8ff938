#include "../skew_kl_div.h"

#include "divergence.h"

KD_CPU_DIVERGENCE(skew_kl_div, SkewKlDiv)
