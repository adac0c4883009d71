/* Optimization profiles: ranges of the inputs' sizes that a plan is made for, each with sizes (opt) that its kernels are chosen at.
 * Graphs carry them as the metadata "kiln.optimization_profiles", which survives files, refits and new plans:
 *
 *   0.0=1:2:4,0.1=8:64:128;0.0=8:8:16,0.1=8:64:128
 *
 * one profile after another behind semicolons, each a list of input.dimension=min:opt:max. Graphs without it have one profile, the ranges of
 * their symbols. "kiln.shared_dims", which callers give, names pairs of sizes that must be the same in each run: `0.0=1.0,0.1=1.1`. */
#ifndef KILN_GRAPH_PROFILES_H
#define KILN_GRAPH_PROFILES_H

#include "graph/graph.h"

enum { MAX_PROFILES = 64 };

typedef struct profile_range {
  int32_t input, dim;
  int64_t min, opt, max;
} profile_range;

typedef struct size_profile {
  profile_range *ranges;
  int32_t n_ranges;
  int64_t *symbols; /* of the graph, at the opt sizes */
} size_profile;

typedef struct shared_size {
  int32_t input[2], dim[2];
} shared_size;

typedef struct profile_list {
  size_profile *all;
  int32_t count; /* 1 or more */
  shared_size *shared;
  int32_t n_shared;
  bool declared; /* false: the ranges of the graph's symbols are the only profile, and all[0] has none of its own */
} profile_list;

/* Those of `g`, in `a`. Fails where the text is damaged or names what the graph lacks. */
kiln_status profiles_read(const graph *g, arena *a, profile_list *out);
/* Tells a graph. `inputs[p * count + i]` is profile p's range of the input that `at[i]` says, or of none where that is negative. Checks
 * that sizes which are one symbol have one opt value in a profile. */
kiln_status profiles_write(graph *g, const kiln_input_spec *inputs, size_t count, const int32_t *at, size_t n_profiles);
/* The symbols' opt values become those of this profile. */
void profile_apply(graph *g, const size_profile *p);

#endif
