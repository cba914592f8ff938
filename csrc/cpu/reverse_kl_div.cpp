#include "../reverse_kl_div.h"

#include "divergence.h"

KD_CPU_DIVERGENCE(reverse_kl_div, ReverseKlDiv)
