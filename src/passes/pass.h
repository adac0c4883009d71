/* Graph rewriting. A rule is a row: a root operator, a function that matches and applies at one node, and a sample
 * graph that the tests run before and after. The pipeline (passes/pipeline.c) is the one list of what happens in which
 * order. */
#ifndef KILN_PASSES_PASS_H
#define KILN_PASSES_PASS_H

#include "base/threads.h"
#include "graph/graph.h"
#include "ops/op.h"

typedef struct rule {
  const char *name;
  const char *root; /* operator name; NULL: tried on every node */
  /* Looks at `n` (whose operator is `root`) and either rewrites and returns true, or changes nothing and returns false.
   * New nodes go before `n` through `b`. After rewriting, dead nodes are removed by the driver. Failures are sticky in
   * the graph. */
  bool (*apply)(builder *b, node *n);
  const char *sample; /* graph text (see docs/graph-text.md) that the rule changes */
} rule;

/* Applies the rules, indexed by root, over all blocks until none applies (bounded: a rule set that does not settle is
 * an error). */
kiln_status rules_run(graph *g, const rule *rules, size_t count);

uint64_t attr_hash(const attr *a, uint64_t seed);
kiln_status pass_dead_code(graph *g);
kiln_status pass_cse(graph *g);
/* Evaluates nodes whose inputs are all constants with their reference kernels, unless the result would be larger than
 * the inputs by more than `max_growth` bytes. */
kiln_status pass_constant_fold(graph *g, size_t max_growth);

/* Computes in "tf32", "fp16" or "bf16" what the model computes in f32; behind a colon, patterns of operators and module paths that
 * stay in f32: "fp16:softmax,head*". NULL and "fp32" change nothing. */
kiln_status pass_precision(graph *g, const char *precision);
kiln_status pass_precision_on(graph *g, const char *precision,
                              pool *workers); /* by several threads; NULL: by this one */

/* All passes that know no target, in order; verifies after each when `verify`. KILN_DUMP=dir in the environment writes
 * the graph after each pass to dir/NN-name.txt. */
kiln_status passes_portable(graph *g, bool verify);
void pass_dump(const graph *g, const char *name);

#endif
