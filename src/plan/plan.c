/* Making a plan: a clone of the portable graph is rewritten for the target, every node gets a tactic, and constants are
 * packed the way the tactics want them. */
#include <string.h>

#include "base/memory.h"
#include "engine/engine.h"
#include "passes/pass.h"
#include "plan/tuner.h"

/* ---- packing ----------------------------------------------------------------------------------------------------- */

kiln_status plan_pack_node(node *n, const kernel *k) {
  if (!k->packing) return KILN_OK;
  value *v = node_in(n, k->pack_operand);
  if (!v || !v->constant || str_eq(v->constant->packing, k->packing)) return KILN_OK;
  graph *g = n->parent->graph;
  const packing *p = packing_find(k->packing);
  if (!p || v->constant->packing)
    return KILN_FAIL(KILN_INTERNAL, "%s: cannot pack operand %d as `%s`", k->name, k->pack_operand, k->packing);
  value *earlier = v->scratch; /* packed already for another reader */
  if (earlier && str_eq(earlier->constant->packing, k->packing)) {
    node_set_input(n, k->pack_operand, earlier);
    return KILN_OK;
  }
  size_t bytes = 0;
  if (!p->size(&v->type, &bytes))
    return KILN_FAIL(KILN_INTERNAL, "%s: cannot pack this weight as `%s`", k->name, k->packing);
  void *data = mem_alloc_aligned(bytes ? bytes : 1);
  if (!data) return KILN_FAIL(KILN_OUT_OF_MEMORY, "out of memory: %zu bytes for a packed weight", bytes);
  p->pack(&v->type, v->constant->data, data);
  value *packed = graph_constant_take(g, &v->type, data);
  if (!packed) return graph_check(g);
  packed->constant->size = bytes;
  packed->constant->packing = p->name;
  packed->constant->weight = v->constant->weight;
  node_set_input(n, k->pack_operand, packed);
  v->scratch = packed;
  return KILN_OK;
}

/* ---- choosing ---------------------------------------------------------------------------------------------------- */

typedef struct planner {
  const target *target;
  const plan_options *options;
  tuner *tuner;
  text *why;
  int done, total;
} planner;

static int count_nodes(const block *b) {
  int n = 0;
  for (const node *m = b->first; m; m = m->next) {
    n++;
    for (int32_t i = 0; i < m->n_blocks; i++) n += count_nodes(m->blocks[i]);
  }
  return n;
}

static kiln_status report_progress(planner *p) {
  p->done++;
  if (!p->options->progress || p->done % 8) return KILN_OK;
  if (p->options->progress(p->options->progress_user, p->options->tune_seconds > 0 ? "tuning" : "planning",
                           (double)p->done / (double)(p->total ? p->total : 1)))
    return KILN_FAIL(KILN_INVALID_ARGUMENT, "cancelled");
  return KILN_OK;
}

static kiln_status plan_block(planner *p, block *b);

static kiln_status plan_node(planner *p, node *n) {
  KILN_TRY(report_progress(p));
  if (n->op->flags & OP_CONTROL_FLOW) {
    for (int32_t i = 0; i < n->n_blocks; i++) KILN_TRY(plan_block(p, n->blocks[i]));
    return KILN_OK;
  }
  if ((n->op->flags & OP_VIEW) && n->op->view && !n->epilogue) return KILN_OK; /* costs nothing at run time */
  const kernel *tactics[32];
  const int count = backend_tactics(p->target, n, tactics, 32, p->why);
  if (!count) return KILN_FAIL(KILN_UNSUPPORTED, "no kernel for `%s` (%s at %s)", n->op->name, n->path, n->source);
  const kernel *chosen = tuner_choose(p->tuner, n, tactics, count);
  n->tactic = chosen->name;
  return plan_pack_node(n, chosen);
}

static kiln_status plan_block(planner *p, block *b) {
  for (node *n = b->first; n; n = n->next) KILN_TRY(plan_node(p, n));
  return KILN_OK;
}

static void clear_scratch(graph *g, block *b) {
  for (node *n = b->first; n; n = n->next) {
    for (int32_t i = 0; i < n->n_inputs; i++) {
      if (n->inputs[i].v) n->inputs[i].v->scratch = NULL;
    }
    for (int32_t i = 0; i < n->n_blocks; i++) clear_scratch(g, n->blocks[i]);
  }
}

kiln_status plan_create(const graph *portable, const target *t, const plan_options *options, graph **out_plan,
                        text *why) {
  graph *g = NULL;
  planner p = {.target = t, .options = options, .why = why};
  KILN_TRY(graph_clone(portable, &g));
  kiln_status status = KILN_OK;
  if (t->backend->rewrite) KILN_GOTO(done, t->backend->rewrite(t, g));
  KILN_GOTO(done, pass_dead_code(g));
  pass_dump(g, "plan");
  p.total = count_nodes(&g->body);
  clear_scratch(g, &g->body);
  KILN_GOTO(done, tuner_create(t, options, &p.tuner));
  status = plan_block(&p, &g->body);
  {
    const kiln_status finished = tuner_finish(p.tuner);
    if (status == KILN_OK) status = finished;
  }
done:
  if (status != KILN_OK) {
    graph_destroy(g);
    return error_note(status, __FILE__, __LINE__, "planning for target %s", t->name);
  }
  *out_plan = g;
  return KILN_OK;
}
