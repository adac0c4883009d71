/* What the CPU backend does to its clone of the portable graph: layouts and fusion. */
#ifndef KILN_BACKENDS_CPU_REWRITE_H
#define KILN_BACKENDS_CPU_REWRITE_H

#include "backends/backend.h"

kiln_status cpu_rewrite(const target *t, graph *g);

#endif
