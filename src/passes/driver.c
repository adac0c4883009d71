/* The rewriting driver: applies rules over all blocks until none applies. */
#include <string.h>

#include "base/map.h"
#include "base/memory.h"
#include "passes/pass.h"

/* A rule set that keeps rewriting after this many sweeps does not settle: a bug in a rule, reported rather than looped
 * on. */
enum { MAX_SWEEPS = 200 };

typedef struct rule_index {
  const rule *rules;
  size_t count;
} rule_index;

static bool apply_rules(graph *g, const rule_index *index, node *n) {
  for (size_t i = 0; i < index->count; i++) {
    const rule *r = &index->rules[i];
    if (r->root && strcmp(r->root, n->op->name) != 0) continue;
    builder b = builder_before(n);
    if (r->apply(&b, n)) return true;
    if (graph_check(g) != KILN_OK) return false;
  }
  return false;
}

/* Isolated blocks (epilogues, pointwise bodies) are made by backends after the rules have run and are left alone. */
static bool sweep_block(graph *g, const rule_index *index, block *b) {
  bool changed = false;
  for (node *n = b->first; n;) {
    for (int32_t i = 0; i < n->n_blocks && (n->op->flags & OP_CONTROL_FLOW); i++)
      changed |= sweep_block(g, index, n->blocks[i]);
    const bool applied = apply_rules(g, index, n);
    changed |= applied;
    node *next = n->next;
    if (applied) { /* the node is dead now if the rule replaced its results */
      bool used = false;
      for (int32_t i = 0; i < n->n_outputs; i++) used = used || n->outputs[i]->uses;
      if (!used) node_remove(n);
    }
    if (graph_check(g) != KILN_OK) return changed;
    n = next;
  }
  return changed;
}

kiln_status rules_run(graph *g, const rule *rules, size_t count) {
  const rule_index index = {.rules = rules, .count = count};
  for (int sweep = 0; sweep < MAX_SWEEPS; sweep++) {
    const bool changed = sweep_block(g, &index, &g->body);
    KILN_TRY(graph_check(g));
    if (!changed) return KILN_OK;
    KILN_TRY(pass_dead_code(g));
  }
  return KILN_FAIL(KILN_INTERNAL, "rewriting did not settle after %d sweeps", MAX_SWEEPS);
}

/* ---- dead code --------------------------------------------------------------------------------------------------- */

static void dead_block(block *b) {
  for (node *n = b->last; n;) {
    node *previous = n->prev;
    bool used = (n->op->flags & OP_DATA_DEPENDENT) != 0; /* it defines a size that others may need */
    for (int32_t i = 0; i < n->n_outputs; i++) used = used || n->outputs[i]->uses;
    if (!used) {
      node_remove(n);
    } else {
      for (int32_t i = 0; i < n->n_blocks; i++) dead_block(n->blocks[i]);
    }
    n = previous;
  }
}

kiln_status pass_dead_code(graph *g) {
  dead_block(&g->body);
  return graph_check(g);
}
