/* Random pointwise bodies, and random epilogues of anchors, on each kernel that takes them. */
#ifndef KILN_TESTS_CONFORMANCE_FUSED_H
#define KILN_TESTS_CONFORMANCE_FUSED_H

#include "backends/backend.h"

void fused_run(const target *t, int *passed, int *failed);

#endif
