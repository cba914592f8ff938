// See common/kan.h for the formula, the arguments and the packed layout.
#pragma once

#include "common/kan.h"
