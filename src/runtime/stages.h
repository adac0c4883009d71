/* Programs that go on as other programs, see stages.c. */
#ifndef KILN_RUNTIME_STAGES_H
#define KILN_RUNTIME_STAGES_H

#include "runtime/program_internal.h"

/* The first node behind `first` (NULL: of the graph) that has a result whose size depends on data; NULL: none. */
const node *stage_barrier(const graph *g, const node *first);
/* When p's nodes are bound: finds what crosses its barrier; p's results are those values. */
kiln_status stage_exit_bind(program *p);
void stage_exit_free(stage_exit *x);
/* Runs `p`, which has a barrier, and what follows it. */
kiln_status stage_run(program *p, void *memory, const tensor *params, tensor *results, pool *workers, bool profile);
/* The stage that follows: its size is measured, and it is bound if its sizes are new. `params` and `results` are those of `p`, which
 * has run, or on a device has been enqueued on `stream`. */
typedef struct stage_start {
  program *program;
  void *memory;         /* its arena */
  const tensor *params; /* where its parameters are now */
} stage_start;
kiln_status stage_advance(program *p, const tensor *params, const tensor *results, void *stream, bool profile,
                          stage_start *out);
tensor *stage_results(const program *p);    /* room for the results of `p`, which has a barrier */
program *stage_following(const program *p); /* what followed in the last run; NULL: nothing yet, or never */
const tensor *stage_declared(const program *p, int index);

/* Are the graph's guards true, as far as their symbols are known (not DIM_ERROR)? */
kiln_status guards_hold(const graph *g, const int64_t *symbols);

#endif
