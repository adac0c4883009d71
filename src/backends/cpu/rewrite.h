/* What the CPU backend does to its clone of the portable graph: layouts and fusion. */
#ifndef KILN_BACKENDS_CPU_REWRITE_H
#define KILN_BACKENDS_CPU_REWRITE_H

#include "backends/backend.h"

/* f16 and bf16 nodes without a kernel of their own compute in f32: widen.c */
kiln_status cpu_widen(const target *t, graph *g);
kiln_status cpu_rewrite(const target *t, graph *g);

#endif
