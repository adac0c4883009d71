/* Graph objects: making, linking and changing them. One idea to know: every operand slot is a `use` in the doubly
 * linked list of its value, so replacing and counting users never searches. */
#include "graph/graph.h"

#include <string.h>

#include "base/memory.h"
#include "ops/op.h"

/* ---- graph ------------------------------------------------------------------------------------------------------- */

kiln_status graph_create(graph **out_graph) {
  graph *g = mem_calloc(1, sizeof *g);
  if (!g) return KILN_NO_MEMORY("graph");
  g->body.graph = g;
  const kiln_status status = dim_table_create(&g->arena, &g->dims);
  if (status != KILN_OK) {
    graph_destroy(g);
    return status;
  }
  *out_graph = g;
  return KILN_OK;
}

void graph_destroy(graph *g) {
  if (!g) return;
  graph_destroy(g->source);
  for (constant *c = g->constants; c; c = c->next) {
    if (c->owned) mem_free_aligned((void *)(uintptr_t)c->data);
  }
  arena_free(&g->arena);
  mem_free(g);
}

static void graph_fail(graph *g, kiln_status status) {
  if (!g->failed) {
    g->failed = true;
    g->failure = status;
  }
}

kiln_status graph_check(const graph *g) {
  if (g->failed) return g->failure;
  if (g->arena.failed) return KILN_NO_MEMORY("graph");
  return KILN_OK;
}

/* The arena refused: remember it, and make sure that the record has a text. */
static void *graph_no_memory(graph *g) {
  if (!g->failed) graph_fail(g, KILN_NO_MEMORY("graph"));
  return NULL;
}

kiln_status graph_set_metadata(graph *g, const char *key, const char *s) {
  for (int32_t i = 0; i < g->n_metadata; i++) {
    if (str_eq(g->metadata[i].name, key)) {
      g->metadata[i].value.u.s = arena_strdup(&g->arena, s);
      return g->metadata[i].value.u.s ? KILN_OK : KILN_NO_MEMORY("metadata");
    }
  }
  named_attr *grown = ARENA_ARRAY(&g->arena, named_attr, g->n_metadata + 1);
  if (!grown) return KILN_NO_MEMORY("metadata");
  if (g->n_metadata) memcpy(grown, g->metadata, (size_t)g->n_metadata * sizeof *grown);
  named_attr *entry = &grown[g->n_metadata];
  entry->name = arena_strdup(&g->arena, key);
  entry->value.kind = ATTR_STR;
  entry->value.u.s = arena_strdup(&g->arena, s);
  if (!entry->name || !entry->value.u.s) return KILN_NO_MEMORY("metadata");
  g->metadata = grown;
  g->n_metadata++;
  return KILN_OK;
}

const char *graph_metadata(const graph *g, const char *key) {
  for (int32_t i = 0; i < g->n_metadata; i++) {
    if (str_eq(g->metadata[i].name, key)) return g->metadata[i].value.u.s;
  }
  return NULL;
}

void graph_guard_equal(graph *g, dim a, dim b) {
  if (dim_is_const(a) || (!dim_is_const(b) && b < a)) { /* one order, so that pairs compare */
    const dim swap = a;
    a = b;
    b = swap;
  }
  for (int32_t i = 0; i < g->n_guards; i++) {
    if (g->guards[i][0] == a && g->guards[i][1] == b) return;
  }
  if ((g->n_guards & (g->n_guards - 1)) == 0) { /* full at each power of two */
    dim(*grown)[2] = arena_array(&g->arena, (size_t)(g->n_guards ? g->n_guards * 2 : 1), sizeof *grown);
    if (!grown) {
      graph_no_memory(g);
      return;
    }
    if (g->n_guards) memcpy(grown, g->guards, (size_t)g->n_guards * sizeof *grown);
    g->guards = grown;
  }
  g->guards[g->n_guards][0] = a;
  g->guards[g->n_guards++][1] = b;
}

/* ---- values ------------------------------------------------------------------------------------------------------ */

static value *value_new(graph *g, const tensor_type *type) {
  value *v = ARENA_NEW(&g->arena, value);
  if (!v) return graph_no_memory(g);
  v->id = g->next_id++;
  v->type = *type;
  return v;
}

value *graph_add_param(block *b, const char *name, const tensor_type *type) {
  graph *g = b->graph;
  value *v = value_new(g, type);
  value **params = b->params;
  if ((b->n_params & (b->n_params - 1)) == 0)
    params = ARENA_ARRAY(&g->arena, value *, b->n_params ? 2 * b->n_params : 1); /* full */
  if (!v || !params) return graph_no_memory(g);
  if (b->n_params && params != b->params) memcpy(params, b->params, (size_t)b->n_params * sizeof *params);
  v->name = name ? arena_strdup(&g->arena, name) : NULL;
  v->index = b->n_params;
  params[b->n_params++] = v;
  b->params = params;
  return v;
}

static value *constant_new(graph *g, const tensor_type *type, const void *data, bool owned) {
  size_t bytes = 0;
  if (!type_bytes(type, &bytes)) {
    graph_fail(g,
               KILN_FAIL(KILN_INVALID_ARGUMENT, "a constant has a symbolic shape or more bytes than memory can hold"));
    return NULL;
  }
  value *v = value_new(g, type);
  constant *c = ARENA_NEW(&g->arena, constant);
  if (!v || !c) return graph_no_memory(g);
  c->data = data;
  c->size = bytes;
  c->weight = -1;
  c->owned = owned;
  c->of = v;
  c->next = g->constants;
  g->constants = c;
  v->constant = c;
  return v;
}

bool graph_name_constant(graph *g, value *v, const char *name) {
  if (!v->constant) return true;
  weight_name **end = &v->constant->names;
  for (; *end; end = &(*end)->next) {
    if (str_eq((*end)->name, name)) return true;
  }
  weight_name *n = ARENA_NEW(&g->arena, weight_name);
  if (!n || !(n->name = arena_strdup(&g->arena, name))) return false;
  *end = n;
  return true;
}

void constant_fix(const value *v) {
  if (v && v->constant) v->constant->fixed = true;
}

value *graph_constant(graph *g, const tensor_type *type, const void *data) {
  return constant_new(g, type, data, false);
}

value *graph_constant_take(graph *g, const tensor_type *type, void *data) {
  if (!data) return graph_no_memory(g);
  value *v = constant_new(g, type, data, true);
  if (!v) mem_free_aligned(data);
  return v;
}

value *graph_constant_copy(graph *g, const tensor_type *type, const void *data) {
  size_t bytes = 0;
  if (!type_bytes(type, &bytes)) return constant_new(g, type, NULL, false); /* raises */
  void *copy = mem_alloc_aligned(bytes);
  if (copy && bytes) memcpy(copy, data, bytes);
  return graph_constant_take(g, type, copy);
}

value *graph_scalar(graph *g, kiln_dtype dtype, double v) {
  const tensor_type type = {dtype, 0, {0}};
  void *data = mem_alloc_aligned(16);
  if (!data) return graph_no_memory(g);
  memset(data, 0, 16);
  value *c = graph_constant_take(g, &type, data);
  if (c) scalar_store(dtype, data, v);
  return c;
}

value *graph_scalar_int(graph *g, kiln_dtype dtype, int64_t v) {
  if (dtype != KILN_I64) return graph_scalar(g, dtype, (double)v);
  const tensor_type type = {dtype, 0, {0}};
  return graph_constant_copy(g, &type, &v);
}

int value_use_count(const value *v) {
  int n = 0;
  for (const use *u = v->uses; u; u = u->next) n++;
  return n;
}

node *value_single_user(const value *v) { return v->uses && !v->uses->next ? v->uses->user : NULL; }

bool value_is_result(const value *v) {
  for (const use *u = v->uses; u; u = u->next) {
    if (u->result_of) return true;
  }
  return false;
}

/* ---- uses -------------------------------------------------------------------------------------------------------- */

static void use_link(use *u, value *v) {
  u->v = v;
  u->prev = NULL;
  u->next = v ? v->uses : NULL;
  if (!v) return;
  if (v->uses) v->uses->prev = u;
  v->uses = u;
}

static void use_unlink(use *u) {
  if (!u->v) return;
  if (u->prev) {
    u->prev->next = u->next;
  } else {
    u->v->uses = u->next;
  }
  if (u->next) u->next->prev = u->prev;
  u->v = NULL;
  u->next = u->prev = NULL;
}

/* A new array of `count` uses that takes over the values of the old one. */
static use *uses_grow(graph *g, use *old, int32_t old_count, int32_t count) {
  use *grown = ARENA_ARRAY(&g->arena, use, count);
  if (!grown) return graph_no_memory(g);
  for (int32_t i = 0; i < old_count; i++) {
    value *v = old[i].v;
    grown[i].user = old[i].user;
    grown[i].index = old[i].index;
    grown[i].result_of = old[i].result_of;
    use_unlink(&old[i]);
    use_link(&grown[i], v);
  }
  return grown;
}

void value_replace_uses(value *old, value *replacement) {
  if (!old || !replacement || old == replacement) return;
  while (old->uses) {
    use *u = old->uses;
    use_unlink(u);
    use_link(u, replacement);
  }
}

/* ---- blocks ------------------------------------------------------------------------------------------------------ */

block *graph_new_block(graph *g, node *owner) {
  block *b = ARENA_NEW(&g->arena, block);
  if (!b) return graph_no_memory(g);
  b->graph = g;
  b->owner = owner;
  return b;
}

void block_set_results(block *b, int n, value *const *results) {
  for (int32_t i = 0; i < b->n_results; i++) use_unlink(&b->results[i]);
  b->n_results = 0;
  b->results = ARENA_ARRAY(&b->graph->arena, use, n ? n : 1);
  if (!b->results) {
    graph_no_memory(b->graph);
    return;
  }
  for (int i = 0; i < n; i++) {
    if (!results[i]) {
      if (!b->graph->failed) graph_fail(b->graph, KILN_FAIL(KILN_INTERNAL, "a block's result %d is missing", i));
      return;
    }
    b->results[i].index = i;
    b->results[i].result_of = b;
    use_link(&b->results[i], results[i]);
    b->n_results++;
  }
}

static void block_insert(block *b, node *before, node *n) {
  n->parent = b;
  n->next = before;
  n->prev = before ? before->prev : b->last;
  if (n->prev) {
    n->prev->next = n;
  } else {
    b->first = n;
  }
  if (before) {
    before->prev = n;
  } else {
    b->last = n;
  }
}

static void block_unlink(node *n) {
  block *b = n->parent;
  if (n->prev) {
    n->prev->next = n->next;
  } else {
    b->first = n->next;
  }
  if (n->next) {
    n->next->prev = n->prev;
  } else {
    b->last = n->prev;
  }
  n->prev = n->next = NULL;
}

void node_move_before(node *n, node *before) {
  block_unlink(n);
  block_insert(before->parent, before, n);
}

static void block_drop(block *b) {
  for (int32_t i = 0; i < b->n_results; i++) use_unlink(&b->results[i]);
  b->n_results = 0;
  while (b->last) node_remove(b->last);
}

void node_remove(node *n) {
  for (int32_t i = 0; i < n->n_blocks; i++) block_drop(n->blocks[i]);
  if (n->epilogue) block_drop(n->epilogue);
  for (int32_t i = 0; i < n->n_inputs; i++) use_unlink(&n->inputs[i]);
  block_unlink(n);
}

/* ---- builder ----------------------------------------------------------------------------------------------------- */

builder builder_at_end(block *b) { return (builder){b->graph, b, NULL, "", ""}; }
builder builder_before(node *n) { return (builder){n->parent->graph, n->parent, n, n->path, n->source}; }

void node_set_input(node *n, int index, value *v) {
  use *u = &n->inputs[index];
  use_unlink(u);
  use_link(u, v);
}

static bool node_grow_inputs(node *n, int extra) {
  graph *g = n->parent->graph;
  use *grown = uses_grow(g, n->inputs, n->n_inputs, n->n_inputs + extra);
  if (!grown) return false;
  for (int i = 0; i < extra; i++) {
    use *u = &grown[n->n_inputs + i];
    u->user = n;
    u->index = n->n_inputs + i;
  }
  n->inputs = grown;
  return true;
}

void node_add_input(node *n, value *v) {
  if (!node_grow_inputs(n, 1)) return;
  use_link(&n->inputs[n->n_inputs++], v);
}

void node_set_epilogue(node *n, block *epilogue, int n_extra, value *const *extra) {
  for (int32_t i = n->own_inputs; i < n->n_inputs; i++) use_unlink(&n->inputs[i]);
  n->n_inputs = n->own_inputs;
  n->epilogue = epilogue;
  if (epilogue) epilogue->owner = n;
  for (int i = 0; i < n_extra; i++) node_add_input(n, extra[i]);
}

bool attr_equal(const attr *a, const attr *b) {
  if (a->kind != b->kind) return false;
  switch (a->kind) {
    case ATTR_NONE:
      return true;
    case ATTR_FLOAT:
      return memcmp(&a->u.f, &b->u.f, sizeof a->u.f) == 0;
    case ATTR_STR:
      return str_eq(a->u.s, b->u.s);
    case ATTR_INTS:
      return a->count == b->count &&
             (a->count == 0 || memcmp(a->u.ints, b->u.ints, (size_t)a->count * sizeof(int64_t)) == 0);
    case ATTR_FLOATS:
      return a->count == b->count &&
             (a->count == 0 || memcmp(a->u.floats, b->u.floats, (size_t)a->count * sizeof(double)) == 0);
    default:
      return a->u.i == b->u.i;
  }
}

/* `v` with its lists and strings in the arena. */
static attr attr_copy(graph *g, attr v) {
  const void *copy = NULL;
  switch (v.kind) {
    case ATTR_STR:
      copy = v.u.s = arena_strdup(&g->arena, v.u.s ? v.u.s : "");
      break;
    case ATTR_INTS:
      copy = v.u.ints = arena_copy(&g->arena, v.u.ints, (size_t)v.count * sizeof(int64_t));
      break;
    case ATTR_FLOATS:
      copy = v.u.floats = arena_copy(&g->arena, v.u.floats, (size_t)v.count * sizeof(double));
      break;
    default:
      return v;
  }
  if (!copy) graph_no_memory(g);
  return v;
}

/* Integers stand for bools, dtypes and floats, as literals in texts and lowerings do. */
static bool attr_convert(attr *v, attr_kind kind, bool optional) {
  if (v->kind == kind) return true;
  if (v->kind == ATTR_NONE) return optional;
  if (v->kind == ATTR_INT && kind == ATTR_FLOAT && dim_is_const(v->u.i)) {
    *v = (attr){ATTR_FLOAT, 0, {.f = (double)v->u.i}};
    return true;
  }
  if ((v->kind == ATTR_INT || v->kind == ATTR_BOOL) && (kind == ATTR_BOOL || kind == ATTR_INT)) {
    v->kind = kind;
    if (kind == ATTR_BOOL) v->u.i = v->u.i != 0;
    return true;
  }
  return (v->kind == ATTR_INTS && kind == ATTR_FLOATS && v->count == 0) ? (v->kind = kind, true) : false;
}

static bool node_fill_attrs(graph *g, node *n, const op_schema *schema, int n_attrs, const named_attr *attrs) {
  n->attrs = ARENA_ARRAY(&g->arena, attr, schema->n_attrs ? schema->n_attrs : 1);
  if (!n->attrs) return graph_no_memory(g) != NULL;
  for (int32_t i = 0; i < schema->n_attrs; i++) n->attrs[i] = schema->attrs[i].fallback;
  for (int k = 0; k < n_attrs; k++) {
    const int at = op_attr_index(schema->op, attrs[k].name);
    attr v = attrs[k].value;
    if (at < 0 || !attr_convert(&v, schema->attrs[at].kind, schema->attrs[at].optional)) {
      graph_fail(g, KILN_FAIL(KILN_INVALID_ARGUMENT, "%s: %s attribute `%s`", schema->op->name,
                              at < 0 ? "has no" : "wrong kind of value for", attrs[k].name));
      return false;
    }
    n->attrs[at] = attr_copy(g, v);
  }
  for (int32_t i = 0; i < schema->n_attrs; i++) {
    if (n->attrs[i].kind == ATTR_NONE && !schema->attrs[i].optional) {
      graph_fail(g, KILN_FAIL(KILN_INVALID_ARGUMENT, "%s: attribute `%s` is missing", schema->op->name,
                              schema->attrs[i].name));
      return false;
    }
  }
  return !g->failed;
}

/* Checks counts and absent operands against the schema, and links the uses. */
static bool node_fill_inputs(graph *g, node *n, const op_schema *schema, int n_inputs, value *const *inputs) {
  const bool variadic = schema->n_in > 0 && schema->in[schema->n_in - 1].variadic;
  const int count = variadic ? (n_inputs > schema->n_in - 1 ? n_inputs : schema->n_in - 1) : schema->n_in;
  if (n_inputs > count) {
    graph_fail(
        g, KILN_FAIL(KILN_INVALID_ARGUMENT, "%s: %d operands, expected at most %d", schema->op->name, n_inputs, count));
    return false;
  }
  n->inputs = ARENA_ARRAY(&g->arena, use, count ? count : 1);
  if (!n->inputs) return graph_no_memory(g) != NULL;
  n->n_inputs = n->own_inputs = count;
  for (int i = 0; i < count; i++) {
    value *v = i < n_inputs ? inputs[i] : NULL;
    const op_operand *o = &schema->in[i < schema->n_in ? i : schema->n_in - 1];
    if (!v && !o->optional) {
      if (!g->failed)
        graph_fail(g, KILN_FAIL(KILN_INVALID_ARGUMENT, "%s: operand `%s` (number %d) is missing", schema->op->name,
                                o->name, i));
      for (int k = 0; k < i; k++) use_unlink(&n->inputs[k]);
      return false;
    }
    n->inputs[i].user = n;
    n->inputs[i].index = i;
    use_link(&n->inputs[i], v);
  }
  return true;
}

node *node_create(builder *b, const op *o, int n_inputs, value *const *inputs, int n_attrs, const named_attr *attrs,
                  int n_outputs) {
  graph *g = b->graph;
  if (g->failed) return NULL;
  node *n = ARENA_NEW(&g->arena, node);
  if (!n) return graph_no_memory(g);
  const op_schema *schema = op_schema_of(o);
  n->op = o;
  n->id = g->next_id++;
  n->path = b->path ? b->path : "";
  n->source = b->source ? b->source : "";
  n->n_outputs = n_outputs;
  n->outputs = ARENA_ARRAY(&g->arena, value *, n_outputs ? n_outputs : 1);
  if (!n->outputs) return graph_no_memory(g);
  const tensor_type unknown = {KILN_F32, 0, {0}};
  for (int i = 0; i < n_outputs; i++) {
    n->outputs[i] = value_new(g, &unknown);
    if (!n->outputs[i]) return NULL;
    n->outputs[i]->producer = n;
    n->outputs[i]->index = i;
  }
  if (!node_fill_attrs(g, n, schema, n_attrs, attrs) || !node_fill_inputs(g, n, schema, n_inputs, inputs)) return NULL;
  block_insert(b->block, b->before, n);
  return n;
}

node *build_node(builder *b, const char *op_name, int n_inputs, value *const *inputs, int n_attrs,
                 const named_attr *attrs) {
  graph *g = b->graph;
  if (g->failed) return NULL;
  const op *o = op_find(op_name);
  if (!o) {
    graph_fail(g, KILN_FAIL(KILN_INTERNAL, "there is no operator `%s`", op_name));
    return NULL;
  }
  const op_schema *schema = op_schema_of(o);
  node *n = node_create(b, o, n_inputs, inputs, n_attrs, attrs, schema->n_out);
  if (!n) return NULL;
  const kiln_status status = node_infer(n);
  if (status != KILN_OK) {
    graph_fail(g, status);
    node_remove(n);
    return NULL;
  }
  return n;
}

value *build(builder *b, const char *op_name, int n_inputs, value *const *inputs, int n_attrs,
             const named_attr *attrs) {
  node *n = build_node(b, op_name, n_inputs, inputs, n_attrs, attrs);
  return n ? n->outputs[0] : NULL;
}

/* The operator's own rule, and what no rule needs to repeat: memory may have run out in the table of dimensions, and no
 * size of a result may be one that could not be computed. */
static kiln_status infer_own(graph *g, node *n) {
  const kiln_status status = n->op->infer(g, n);
  if (g->arena.failed) return KILN_NO_MEMORY("shape inference");
  for (int32_t i = 0; status == KILN_OK && i < n->n_outputs; i++) {
    const tensor_type *t = &n->outputs[i]->type;
    for (int32_t d = 0; d < t->rank; d++) {
      if (t->dims[d] == DIM_ERROR)
        return KILN_FAIL(KILN_INVALID_ARGUMENT, "%s: size %d of result %d cannot be computed", n->op->name, (int)d,
                         (int)i);
    }
  }
  return status;
}

kiln_status node_infer(node *n) {
  graph *g = n->parent->graph;
  if (!n->op->infer) return KILN_FAIL(KILN_INTERNAL, "%s has no shape inference", n->op->name);
  if (!n->epilogue) return infer_own(g, n);
  /* The anchor's own type belongs to parameter 0 of the epilogue, the block's result has the node's. */
  value *out = n->outputs[0];
  value *own = n->epilogue->params[0];
  KILN_TRY(infer_own(g, n));
  own->type = out->type;
  for (node *m = n->epilogue->first; m; m = m->next) KILN_TRY(node_infer(m));
  if (n->epilogue->n_results != 1) return KILN_FAIL(KILN_INTERNAL, "%s: an epilogue must have one result", n->op->name);
  out->type = n->epilogue->results[0].v->type;
  return KILN_OK;
}

/* ---- attributes -------------------------------------------------------------------------------------------------- */

const attr *node_attr(const node *n, const char *name) {
  static const attr absent = {ATTR_NONE, 0, {0}};
  const int i = op_attr_index(n->op, name);
  return i < 0 ? &absent : &n->attrs[i];
}
int64_t node_int(const node *n, const char *name) { return node_attr(n, name)->u.i; }
double node_float(const node *n, const char *name) { return node_attr(n, name)->u.f; }
bool node_bool(const node *n, const char *name) { return node_attr(n, name)->u.i != 0; }
const char *node_str(const node *n, const char *name) {
  const attr *a = node_attr(n, name);
  return a->kind == ATTR_STR ? a->u.s : "";
}
void node_set_attr(node *n, const char *name, attr v) {
  const int i = op_attr_index(n->op, name);
  if (i >= 0) n->attrs[i] = attr_copy(n->parent->graph, v);
}

/* ---- visiting ---------------------------------------------------------------------------------------------------- */

static void visit_constant(const value *v, constant_fn fn, void *user) {
  if (v && v->constant) fn(user, v->constant);
}

static void visit_block(const block *b, constant_fn fn, void *user) {
  for (const node *n = b->first; n; n = n->next) {
    for (int32_t i = 0; i < n->n_inputs; i++) visit_constant(n->inputs[i].v, fn, user);
    for (int32_t i = 0; i < n->n_blocks; i++) visit_block(n->blocks[i], fn, user);
    if (n->epilogue) visit_block(n->epilogue, fn, user);
  }
  for (int32_t i = 0; i < b->n_results; i++) visit_constant(b->results[i].v, fn, user);
}

void graph_visit_constants(const graph *g, constant_fn fn, void *user) {
  visit_block(&g->body, fn, user);
  for (int32_t i = 0; i < g->n_states; i++) visit_constant(g->states[i].initial, fn, user);
}
