#include "../js_div.h"
#include "divergence.cuh"

KD_CUDA_DIVERGENCE(js_div, JsDiv)
