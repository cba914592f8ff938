#include "../js_div.h"

#include "divergence.h"

KD_CPU_DIVERGENCE(js_div, JsDiv)
