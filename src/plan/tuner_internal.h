/* What the tuner's two files share: choosing (tuner.c) and timing on a device (tuner_device.c). */
#ifndef KILN_PLAN_TUNER_INTERNAL_H
#define KILN_PLAN_TUNER_INTERNAL_H

#include "base/arena.h"
#include "base/map.h"
#include "plan/tuner.h"
#include "runtime/program.h"

typedef struct winner {
  const char *kernel;
  double seconds, heuristic; /* of the winner, and of the first tactic; 0: not known */
  int count;                 /* tactics that were timed */
} winner;

struct tuner {
  arena arena;
  const target *target;
  plan_options options;
  map winners; /* key -> winner */
  text added;  /* cache lines */
  char *old;
  size_t old_size;
  double start, deadline;
  pool *workers;
  device *device;      /* that tactics are timed on; NULL: the host */
  map seen;            /* keys that tuner_precompile met */
  int compiled;        /* tactics of each node whose kernels are compiled */
  size_t weight_bytes; /* of the whole plan */
  int changed;         /* nodes for which the heuristic was not taken */
};

static const double tuner_failed = 1e30; /* seconds of what cannot run */

/* `n` alone, with its epilogue, at the sizes that the plan is tuned for. */
kiln_status tuner_alone(tuner *t, const node *n, const kernel *k, graph **out_graph, program **out_program);
/* A pattern of random numbers (integers: zeros). */
void tuner_fill(tensor *t, uint32_t seed);

/* Times all of `tactics` against each other; the first one wins unless another is clearly faster. */
kiln_status tuner_device_choose(tuner *t, const node *n, const kernel *const *tactics, int count, int *out_best,
                                winner *out);

/* Seconds of two plans of one model as wholes, at the opt values of the symbols. */
kiln_status tuner_device_compare(tuner *t, graph *const plans[2], double out[2]);

#endif
