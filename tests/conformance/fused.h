/* Random pointwise bodies, and random epilogues of anchors, on each kernel that takes them. */
#ifndef KILN_TESTS_CONFORMANCE_FUSED_H
#define KILN_TESTS_CONFORMANCE_FUSED_H

#include "backends/backend.h"

/* Every count-th case, from the index-th on. */
typedef struct case_share {
  int index, count, seen;
} case_share;

static inline bool share_takes(case_share *s) { return s->seen++ % s->count == s->index; }

void fused_run(const target *t, case_share share, int *passed, int *failed);

#endif
