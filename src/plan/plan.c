/* Making a plan: a clone of the portable graph is rewritten for the target, every node gets a tactic, and constants are
 * packed the way the tactics want them. */
#include <string.h>

#include "backends/custom.h"
#include "base/memory.h"
#include "engine/engine.h"
#include "graph/profiles.h"
#include "passes/pass.h"
#include "plan/tuner.h"

/* ---- packing ----------------------------------------------------------------------------------------------------- */

static kiln_status pack_data(constant *c, const tensor_type *type, const packing *p, const void *plain, pool *workers);

/* With `later`, packings that are made at load get no data. */
static kiln_status pack_node(node *n, const kernel *k, bool later) {
  if (!k->packing) return KILN_OK;
  value *v = node_in(n, k->pack_operand);
  if (!v || !v->constant || str_eq(v->constant->packing, k->packing)) return KILN_OK;
  const packing *p = packing_find(k->packing);
  if (!p || v->constant->packing)
    return KILN_FAIL(KILN_INTERNAL, "%s: cannot pack operand %d as `%s`", k->name, k->pack_operand, k->packing);
  value *earlier = v->scratch; /* packed already for another reader */
  if (earlier && str_eq(earlier->constant->packing, k->packing)) {
    node_set_input(n, k->pack_operand, earlier);
    return KILN_OK;
  }
  graph *g = n->parent->graph;
  value *packed = graph_constant(g, &v->type, NULL);
  if (!packed) return graph_check(g);
  constant *c = packed->constant;
  if (!p->size(&v->type, &c->size))
    return KILN_FAIL(KILN_INTERNAL, "%s: cannot pack this weight as `%s`", k->name, k->packing);
  c->packing = p->name;
  c->weight = v->constant->weight;
  if (!p->unpack) {
    c->plain = v->constant->data;
    c->plain_size = v->constant->size;
  }
  if (p->unpack || !later) KILN_TRY(pack_data(c, &v->type, p, v->constant->data, NULL));
  node_set_input(n, k->pack_operand, packed);
  v->scratch = packed;
  return KILN_OK;
}

kiln_status plan_pack_node(node *n, const kernel *k) { return pack_node(n, k, false); }

/* ---- packings made at load --------------------------------------------------------------------------------------- */

typedef struct pack_job {
  const packing *packing;
  const tensor_type *type;
  const void *plain;
  void *data;
} pack_job;

static void pack_part_task(void *user, int64_t part, int worker) {
  (void)worker;
  const pack_job *j = user;
  j->packing->pack_part(j->type, j->plain, j->data, part);
}

static kiln_status pack_data(constant *c, const tensor_type *type, const packing *p, const void *plain, pool *workers) {
  void *data = mem_alloc_aligned(c->size ? c->size : 1);
  if (!data) return KILN_FAIL(KILN_OUT_OF_MEMORY, "out of memory: %zu bytes for a packed weight", c->size);
  if (p->pack_part) {
    pack_job job = {p, type, plain, data};
    pool_run(workers, p->parts(type), pack_part_task, &job);
  } else {
    p->pack(type, plain, data);
  }
  c->data = data;
  c->owned = true;
  return KILN_OK;
}

kiln_status plan_make_weights(graph *plan, pool *workers) {
  for (constant *c = plan->constants; c; c = c->next) {
    if (c->plain && !c->data) KILN_TRY(pack_data(c, &c->of->type, packing_find(c->packing), c->plain, workers));
  }
  return KILN_OK;
}

/* ---- choosing ---------------------------------------------------------------------------------------------------- */

typedef struct planner {
  const target *target;
  const plan_options *options;
  tuner *tuner;
  text *why;
  text missing; /* nodes that no kernel takes */
  profile_list profiles;
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

/* The CPU's kernel for a node that the device has none for, if the builder allows that. Packed weights would need a second form. */
static const kernel *host_tactic(const planner *p, const node *n) {
  target cpu;
  const kernel *tactics[64];
  if (!(p->options->allow_host_fallback || n->tactic) || !p->target->backend->device)
    return NULL; /* or an earlier plan did */
  if (target_parse("cpu", &cpu) != KILN_OK) {
    error_clear();
    return NULL;
  }
  const int count = backend_tactics(&cpu, n, tactics, 64, NULL);
  for (int i = 0; i < count; i++) {
    if (!tactics[i]->packing) return tactics[i];
  }
  return NULL;
}

/* The best tactic at another profile's opt sizes. Weights are stored once, so it must read them as `first` does. */
static const kernel *choose_in_profile(planner *p, node *n, const kernel *first, const size_profile *sizes) {
  const kernel *tactics[64];
  graph *g = n->parent->graph;
  profile_apply(g, sizes);
  const int all = backend_tactics(p->target, n, tactics, 64, NULL);
  int count = 0;
  for (int i = 0; i < all; i++) {
    if (str_eq(tactics[i]->packing, first->packing) && tactics[i]->pack_operand == first->pack_operand)
      tactics[count++] = tactics[i];
  }
  const kernel *chosen = count ? tuner_choose(p->tuner, n, tactics, count) : first;
  profile_apply(g, &p->profiles.all[0]);
  return chosen;
}

static kiln_status choose_in_profiles(planner *p, node *n, const kernel *first) {
  const int32_t count = p->profiles.count - 1;
  const char *timing = n->timing; /* of profile 0 */
  bool differ = false;
  if (count < 1 || n->n_more_tactics || p->options->like) return KILN_OK;
  const char **names = ARENA_ARRAY(&n->parent->graph->arena, const char *, count);
  if (!names) return KILN_NO_MEMORY("plan");
  for (int32_t k = 0; k < count; k++) {
    const kernel *chosen = choose_in_profile(p, n, first, &p->profiles.all[k + 1]);
    names[k] = chosen->name;
    differ = differ || chosen != first;
  }
  n->timing = timing;
  n->more_tactics = differ ? names : NULL;
  n->n_more_tactics = differ ? count : 0;
  return KILN_OK;
}

static kiln_status plan_node(planner *p, node *n) {
  KILN_TRY(report_progress(p));
  if ((n->op->flags & OP_DATA_DEPENDENT) && n->parent->owner)
    return KILN_FAIL(
        KILN_UNSUPPORTED,
        "`%s` (%s at %s) has a result whose size depends on data, which engines cannot run inside branches "
        "and loops",
        n->op->name, n->path, n->source);
  if (n->op->flags & OP_CONTROL_FLOW) {
    for (int32_t i = 0; i < n->n_blocks; i++) KILN_TRY(plan_block(p, n->blocks[i]));
    return KILN_OK;
  }
  if ((n->op->flags & OP_VIEW) && n->op->view && !n->epilogue) return KILN_OK; /* costs nothing at run time */
  const kernel *tactics[64];
  const int count = backend_tactics(p->target, n, tactics, 64, p->why);
  if (!count) {
    const kernel *host = host_tactic(p, n);
    if (host) {
      n->tactic = host->name;
      if (p->why) text_printf(p->why, "%s %s (%s): runs on the CPU\n", n->op->name, n->path, n->source);
      return KILN_OK;
    }
    text_printf(&p->missing, "%s`%s` (%s at %s)", p->missing.length ? ", " : "", n->op->name, n->path, n->source);
    if (n->op->flags & OP_CUSTOM) text_printf(&p->missing, ", %s", custom_refusal(p->target, n));
    return KILN_OK;
  }
  const kernel *chosen = NULL;
  for (int i = 0; i < count && n->tactic && !chosen; i++)
    chosen = str_eq(tactics[i]->name, n->tactic) ? tactics[i] : NULL;
  if (!chosen) chosen = tuner_choose(p->tuner, n, tactics, count);
  n->tactic = chosen->name;
  KILN_TRY(choose_in_profiles(p, n, chosen));
  return pack_node(n, chosen, true);
}

static kiln_status plan_block(planner *p, block *b) {
  for (node *n = b->first; n; n = n->next) KILN_TRY(plan_node(p, n));
  return KILN_OK;
}

/* Takes the tactics of an earlier plan over, as far as it has the same operators in the same order. */
static void take_tactics(graph *g, block *b, const block *from) {
  const node *m = from->first;
  for (node *n = b->first; n && m && n->op == m->op; n = n->next, m = m->next) {
    n->tactic = m->tactic ? arena_strdup(&g->arena, m->tactic) : NULL;
    n->timing = m->timing ? arena_strdup(&g->arena, m->timing) : NULL;
    n->more_tactics = m->n_more_tactics ? ARENA_ARRAY(&g->arena, const char *, m->n_more_tactics) : NULL;
    for (int32_t i = 0; n->more_tactics && i < m->n_more_tactics; i++)
      n->more_tactics[n->n_more_tactics++] = arena_strdup(&g->arena, m->more_tactics[i]);
    for (int32_t i = 0; i < n->n_blocks && i < m->n_blocks; i++) take_tactics(g, n->blocks[i], m->blocks[i]);
  }
}

static void clear_scratch(graph *g, block *b) {
  for (node *n = b->first; n; n = n->next) {
    for (int32_t i = 0; i < n->n_inputs; i++) {
      if (n->inputs[i].v) n->inputs[i].v->scratch = NULL;
    }
    for (int32_t i = 0; i < n->n_blocks; i++) clear_scratch(g, n->blocks[i]);
  }
}

/* Layers were compared one by one; the plan as a whole must not be slower than the cost model's either. */
static kiln_status keep_faster(planner *p, const graph *portable, graph **plan) {
  graph *plain = NULL;
  const plan_options options = {.threads = p->options->threads, .allow_host_fallback = p->options->allow_host_fallback};
  KILN_TRY(plan_create(portable, p->target, &options, &plain, NULL));
  if (tuner_rejects(p->tuner, *plan, plain, p->why)) {
    graph *tuned = *plan;
    *plan = plain;
    plain = tuned;
  }
  graph_destroy(plain);
  return KILN_OK;
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
  KILN_GOTO(done, profiles_read(g, &g->arena, &p.profiles));
  if (options->like) take_tactics(g, &g->body, &options->like->body);
  KILN_GOTO(done, tuner_create(t, options, &p.tuner));
  for (int32_t k = p.profiles.count - 1; k >= 0; k--) { /* so that the first one's sizes stay */
    if (p.profiles.count > 1) profile_apply(g, &p.profiles.all[k]);
    tuner_precompile(p.tuner, &g->body, p.profiles.count - 1 - k, p.profiles.count);
  }
  status = plan_block(&p, &g->body);
  if (status == KILN_OK && p.missing.length)
    status = KILN_FAIL(KILN_UNSUPPORTED, "target %s has no kernel for %s%s", t->name, p.missing.data,
                       t->backend->device ? " (allow_host_fallback runs them on the CPU)" : "");
  text_free(&p.missing);
  if (status == KILN_OK && tuner_wants_comparison(p.tuner)) status = keep_faster(&p, portable, &g);
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
