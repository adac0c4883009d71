/* Rows of PyTorch operators that belong to no family: conversions, copies and other things that are mostly not there. */
#ifndef KILN_IMPORT_TORCH_MISC_H
#define KILN_IMPORT_TORCH_MISC_H

#include "ops/op.h"

extern const torch_row torch_misc[];

#endif
