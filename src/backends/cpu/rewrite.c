/* Rewriting for the CPU: 16-bit types (widen.c), layouts (layout.c), then fusion. Pointwise operators move into the epilogue
 * of the anchor in front of them (convolution, linear, ...) while its output tile is in cache; what is left is fused into
 * `pointwise` chains that pass over memory once. Each step builds the fused node beside the old ones and keeps it only if a
 * real kernel takes it. */
#include "backends/cpu/rewrite.h"

#include <string.h>

#include "backends/cpu/layout.h"
#include "base/map.h"
#include "passes/pass.h"
#include "passes/rule_files.h"

enum { MAX_BODY = 48, MAX_OPERANDS = 12 };

/* ---- bodies ------------------------------------------------------------------------------------------------------ */

typedef struct body {
  graph *graph;
  block *block;
  value *operands[MAX_OPERANDS]; /* of the fused node; operand i is parameter first_param + i */
  int32_t n_operands, first_param, n_nodes;
  value *from[MAX_BODY * 2], *to[MAX_BODY * 2]; /* outside value -> its copy */
  int32_t n_map;
  bool failed;
} body;

static void body_bind(body *x, value *outside, value *inside) {
  if (x->n_map == MAX_BODY * 2 || !inside) {
    x->failed = true;
    return;
  }
  x->from[x->n_map] = outside;
  x->to[x->n_map++] = inside;
}

static value *body_value(body *x, value *v) {
  if (!v || x->failed) return NULL;
  for (int32_t i = 0; i < x->n_map; i++) {
    if (x->from[i] == v) return x->to[i];
  }
  if (v->constant && v->type.rank == 0) return v; /* scalars live in the body as they are */
  if (x->n_operands == MAX_OPERANDS) {
    x->failed = true;
    return NULL;
  }
  value *p = graph_add_param(x->block, NULL, &v->type);
  x->operands[x->n_operands++] = v;
  body_bind(x, v, p);
  return p;
}

/* Copies one pointwise node into the body. */
static void body_add(body *x, const node *n) {
  value *inputs[3] = {0};
  named_attr attrs[24];
  const op_schema *s = op_schema_of(n->op);
  if (x->n_nodes == MAX_BODY || n->n_inputs > 3) x->failed = true;
  for (int32_t i = 0; i < n->n_inputs && !x->failed; i++) inputs[i] = body_value(x, n->inputs[i].v);
  if (x->failed) return;
  for (int32_t i = 0; i < s->n_attrs; i++) attrs[i] = (named_attr){s->attrs[i].name, n->attrs[i]};
  builder b = builder_at_end(x->block);
  b.path = n->path;
  b.source = n->source;
  node *copy = node_create(&b, n->op, n->n_inputs, inputs, s->n_attrs, attrs, 1);
  if (!copy || node_infer(copy) != KILN_OK) {
    x->failed = true;
    return;
  }
  x->n_nodes++;
  body_bind(x, n->outputs[0], copy->outputs[0]);
}

/* Copies a whole isolated block whose parameters stand for `arguments`; binds `result` to its result. */
static void body_splice(body *x, const block *b, value *const *arguments, value *result) {
  for (int32_t i = 0; i < b->n_params && !x->failed; i++) {
    if (arguments[i]) body_bind(x, b->params[i], body_value(x, arguments[i]));
  }
  for (const node *n = b->first; n && !x->failed; n = n->next) body_add(x, n);
  if (x->failed || b->n_results != 1) {
    x->failed = true;
    return;
  }
  body_bind(x, result, body_value(x, b->results[0].v));
}

static bool is_pointwise_op(const node *n) {
  return n && (n->op->flags & OP_POINTWISE) && n->n_outputs == 1 && !n->n_blocks && !n->epilogue;
}
static bool is_chain(const node *n) { return n && strcmp(n->op->name, "pointwise") == 0; }

/* Adds `n` (a pointwise operator or a chain) to the body. */
static void body_absorb(body *x, const node *n) {
  if (!is_chain(n)) {
    body_add(x, n);
    return;
  }
  value *arguments[MAX_OPERANDS];
  if (n->n_inputs > MAX_OPERANDS) {
    x->failed = true;
    return;
  }
  for (int32_t i = 0; i < n->n_inputs; i++) arguments[i] = n->inputs[i].v;
  body_splice(x, n->blocks[0], arguments, n->outputs[0]);
}

/* ---- keeping or dropping a trial --------------------------------------------------------------------------------- */

static bool has_kernel(const target *t, const node *n) {
  const kernel *first = NULL;
  return backend_tactics(t, n, &first, 1, NULL) == 1 && first != &reference_kernel;
}

static bool same_shape(const tensor_type *a, const tensor_type *b) {
  return a->rank == b->rank && memcmp(a->dims, b->dims, (size_t)a->rank * sizeof(dim)) == 0;
}

/* The one node that reads `v` (maybe several times), in the same block; NULL if there are others. */
static node *only_user(const value *v) {
  node *user = NULL;
  for (const use *u = v->uses; u; u = u->next) {
    if (u->result_of || (user && u->user != user)) return NULL;
    user = u->user;
  }
  return user && v->producer && user->parent == v->producer->parent ? user : NULL;
}

/* ---- epilogues --------------------------------------------------------------------------------------------------- */

/* anchor + user -> anchor with a longer epilogue, placed where the user was. */
static node *fuse_epilogue(const target *t, node *anchor, node *user) {
  graph *g = anchor->parent->graph;
  const op_schema *s = op_schema_of(anchor->op);
  named_attr attrs[24];
  value *own[MAX_OPERANDS];
  if (anchor->own_inputs > MAX_OPERANDS || graph_check(g) != KILN_OK) return NULL;
  for (int32_t i = 0; i < s->n_attrs; i++) attrs[i] = (named_attr){s->attrs[i].name, anchor->attrs[i]};
  for (int32_t i = 0; i < anchor->own_inputs; i++) own[i] = anchor->inputs[i].v;
  builder b = builder_before(user);
  b.path = anchor->path;
  b.source = anchor->source;
  node *fused = node_create(&b, anchor->op, anchor->own_inputs, own, s->n_attrs, attrs, 1);
  if (!fused || anchor->op->infer(g, fused) != KILN_OK) return NULL;
  body x = {.graph = g, .block = graph_new_block(g, fused)};
  if (!x.block) return NULL;
  value *result = graph_add_param(x.block, NULL, &fused->outputs[0]->type);
  x.first_param = 1;
  if (anchor->epilogue) {
    value *arguments[MAX_OPERANDS + 1] = {NULL};
    if (anchor->epilogue->n_params > MAX_OPERANDS) x.failed = true;
    body_bind(&x, anchor->epilogue->params[0], result);
    for (int32_t i = 1; i < anchor->epilogue->n_params && !x.failed; i++)
      arguments[i] = anchor->inputs[anchor->own_inputs + i - 1].v;
    if (!x.failed) body_splice(&x, anchor->epilogue, arguments, anchor->outputs[0]);
  } else {
    body_bind(&x, anchor->outputs[0], result);
  }
  if (!x.failed) body_absorb(&x, user);
  value *out = x.failed ? NULL : body_value(&x, user->outputs[0]);
  if (out) {
    block_set_results(x.block, 1, &out);
    node_set_epilogue(fused, x.block, x.n_operands, x.operands);
    fused->outputs[0]->type = user->outputs[0]->type;
  }
  if (!out || graph_check(g) != KILN_OK || !has_kernel(t, fused)) {
    node_remove(fused);
    return NULL;
  }
  value_replace_uses(user->outputs[0], fused->outputs[0]);
  node_remove(user);
  node_remove(anchor);
  return fused;
}

static bool fuses(kiln_dtype d) { return d == KILN_F32 || d == KILN_F16 || d == KILN_BF16; }

static void fuse_epilogues(const target *t, block *b) {
  for (node *n = b->last; n;) {
    node *previous = n->prev;
    for (node *anchor = n; anchor && (anchor->op->flags & OP_ANCHOR) && anchor->n_outputs == 1;) {
      node *user = only_user(anchor->outputs[0]);
      if ((!is_pointwise_op(user) && !is_chain(user)) ||
          !same_shape(&user->outputs[0]->type, &anchor->outputs[0]->type))
        break;
      if (!fuses(user->outputs[0]->type.dtype) || !fuses(anchor->outputs[0]->type.dtype)) break;
      anchor = fuse_epilogue(t, anchor, user);
    }
    n = previous;
  }
}

/* ---- chains ------------------------------------------------------------------------------------------------------ */

/* producer + consumer -> one chain in the consumer's place. */
static node *fuse_chain(const target *t, node *producer, node *consumer) {
  graph *g = consumer->parent->graph;
  const op *chain = op_find("pointwise");
  block *inside = graph_new_block(g, NULL);
  if (!chain || !inside) return NULL;
  body x = {.graph = g, .block = inside};
  body_absorb(&x, producer);
  if (!x.failed) body_absorb(&x, consumer);
  value *out = x.failed ? NULL : body_value(&x, consumer->outputs[0]);
  if (!out) return NULL;
  block_set_results(inside, 1, &out);
  builder b = builder_before(consumer);
  node *fused = node_create(&b, chain, x.n_operands, x.operands, NO_ATTRS, 1);
  if (!fused) return NULL;
  fused->blocks = ARENA_ARRAY(&g->arena, block *, 1);
  if (!fused->blocks) return NULL;
  fused->blocks[0] = inside;
  fused->n_blocks = 1;
  inside->owner = fused;
  fused->outputs[0]->type = consumer->outputs[0]->type;
  if (graph_check(g) != KILN_OK || !has_kernel(t, fused)) {
    node_remove(fused);
    return NULL;
  }
  value_replace_uses(consumer->outputs[0], fused->outputs[0]);
  node_remove(consumer);
  node_remove(producer);
  return fused;
}

static node *absorb_one(const target *t, node *consumer) {
  for (int32_t i = 0; i < consumer->n_inputs; i++) {
    const value *v = consumer->inputs[i].v;
    node *producer = v ? v->producer : NULL;
    if ((!is_pointwise_op(producer) && !is_chain(producer)) || only_user(v) != consumer) continue;
    if (!same_shape(&v->type, &consumer->outputs[0]->type)) continue;
    node *fused = fuse_chain(t, producer, consumer);
    if (fused) return fused;
  }
  return NULL;
}

static void fuse_chains(const target *t, block *b) {
  for (node *n = b->last; n;) {
    if (is_pointwise_op(n) || is_chain(n)) {
      for (node *fused = n; (fused = absorb_one(t, n)) != NULL;) n = fused;
    }
    n = n->prev;
  }
}

/* ---- the whole --------------------------------------------------------------------------------------------------- */

static void fuse_block(const target *t, block *b) {
  for (node *n = b->first; n; n = n->next) {
    if (!(n->op->flags & OP_CONTROL_FLOW)) continue;
    for (int32_t i = 0; i < n->n_blocks; i++) fuse_block(t, n->blocks[i]);
  }
  fuse_epilogues(t, b);
  fuse_chains(t, b);
  fuse_epilogues(t, b); /* chains that read their anchor several times, such as a GELU of single operators */
}

kiln_status cpu_rewrite(const target *t, graph *g) {
  KILN_TRY(cpu_widen(t, g));
  KILN_TRY(rules_run(g, cpu_layout_rules, cpu_layout_rule_count));
  KILN_TRY(rules_run(g, canonicalize_rules, canonicalize_rule_count)); /* reshapes that layouts left side by side */
  KILN_TRY(pass_dead_code(g));
  KILN_TRY(pass_cse(g));
  KILN_TRY(pass_constant_fold(g, 0)); /* constants that got permuted or reshaped */
  fuse_block(t, &g->body);
  return graph_check(g);
}
