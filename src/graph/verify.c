/* The verifier: is a graph well-formed? Runs after each pass in debug builds and on every graph that was read from
 * text, so it is also what stands between an engine file and the kernels: types must be those that inference gives. */
#include <string.h>

#include "base/memory.h"
#include "graph/graph.h"
#include "ops/op.h"

enum { MAX_BLOCK_DEPTH = 64 };

typedef struct verifier {
  graph *g;
  map defined; /* value id + 1 -> value that is visible here, or &gone if it was local to a block that has ended */
  map names;
  int depth;
} verifier;

static value gone;

static kiln_status bad(const verifier *v, const node *n, const char *what) {
  text t = {0};
  node_print(v->g, n, &t);
  const kiln_status status = KILN_FAIL(KILN_INVALID_FILE, "invalid graph: %s: %.300s", what, t.data ? t.data : "");
  text_free(&t);
  return status;
}

static kiln_status define(verifier *v, value *x) {
  if (map_get_number(&v->defined, (uint64_t)x->id + 1))
    return KILN_FAIL(KILN_INVALID_FILE, "invalid graph: two values have number %u", x->id);
  if (x->name) {
    if (map_has(&v->names, x->name))
      return KILN_FAIL(KILN_INVALID_FILE, "invalid graph: two values are called %.100s", x->name);
    if (!map_put(&v->names, x->name, x)) return KILN_NO_MEMORY("verifier");
  }
  return map_put_number(&v->defined, (uint64_t)x->id + 1, x) ? KILN_OK : KILN_NO_MEMORY("verifier");
}

static bool visible(const verifier *v, const value *x) {
  return x->constant || map_get_number(&v->defined, (uint64_t)x->id + 1) == (const void *)x;
}

/* Both neighbours in the list of x's uses know this one: constant time, and an unlinked use has a neighbour that does
 * not. */
static bool linked(const use *u) {
  return (u->prev ? u->prev->next == u && u->prev->v == u->v : u->v->uses == u) &&
         (!u->next || (u->next->prev == u && u->next->v == u->v));
}

static kiln_status verify_operands(verifier *v, const node *n) {
  const op_schema *s = op_schema_of(n->op);
  if (!s) return KILN_FAIL(KILN_INVALID_FILE, "invalid graph: a node without an operator");
  const bool variadic = s->n_in && s->in[s->n_in - 1].variadic;
  if (variadic ? n->own_inputs < s->n_in - 1 : n->own_inputs != s->n_in) return bad(v, n, "wrong number of operands");
  for (int32_t i = 0; i < n->n_inputs; i++) {
    const use *u = &n->inputs[i];
    if (!u->v) {
      if (i >= n->own_inputs || !s->in[i < s->n_in ? i : s->n_in - 1].optional)
        return bad(v, n, "a required operand is missing");
      continue;
    }
    if (u->user != n || u->index != i) return bad(v, n, "an operand slot does not know its place");
    if (!linked(u)) return bad(v, n, "an operand does not know its user");
    if (!visible(v, u->v)) return bad(v, n, "an operand is not defined before its use");
  }
  for (int32_t i = 0; i < s->n_attrs; i++) {
    const attr *a = &n->attrs[i];
    if (a->kind == ATTR_NONE ? !s->attrs[i].optional : a->kind != s->attrs[i].kind)
      return bad(v, n, "an attribute has the wrong kind");
    if (a->kind == ATTR_STR && !a->u.s) return bad(v, n, "an attribute has no text");
    if (a->kind == ATTR_DTYPE && (a->u.i < 0 || a->u.i >= KILN_DTYPE_COUNT))
      return bad(v, n, "an attribute is no element type");
  }
  return KILN_OK;
}

static kiln_status verify_nodes(verifier *v, block *b);

/* What a block defines is not visible after its end. */
static kiln_status forget(verifier *v, const block *b) {
  bool fine = true;
  for (int32_t i = 0; i < b->n_params; i++)
    fine = fine && map_put_number(&v->defined, (uint64_t)b->params[i]->id + 1, &gone);
  for (const node *n = b->first; n; n = n->next) {
    for (int32_t i = 0; i < n->n_outputs; i++)
      fine = fine && map_put_number(&v->defined, (uint64_t)n->outputs[i]->id + 1, &gone);
  }
  return fine ? KILN_OK : KILN_NO_MEMORY("verifier");
}

static kiln_status verify_block(verifier *v, block *b, const node *owner) {
  if (b->owner != owner) return bad(v, owner, "one of its blocks belongs to another node");
  if (++v->depth > MAX_BLOCK_DEPTH) return bad(v, owner, "blocks are nested too deeply");
  for (int32_t i = 0; i < b->n_params; i++) KILN_TRY(define(v, b->params[i]));
  KILN_TRY(verify_nodes(v, b));
  v->depth--;
  return forget(v, b);
}

/* Epilogues and pointwise bodies use their parameters and constants only, and have pointwise operators only. */
static kiln_status verify_isolated(verifier *v, block *b, const node *owner) {
  if (b->n_results != 1) return bad(v, owner, "an isolated block must have one result");
  for (const node *n = b->first; n; n = n->next) {
    if (!(n->op->flags & OP_POINTWISE) || n->n_blocks || n->epilogue)
      return bad(v, owner, "an isolated block has more than pointwise operators");
    for (int32_t i = 0; i < n->n_inputs; i++) {
      const value *x = n->inputs[i].v;
      if (x && x->producer && x->producer->parent != b)
        return bad(v, owner, "an isolated block uses a value from outside");
      if (x && !x->producer && !x->constant && (x->index >= b->n_params || b->params[x->index] != x))
        return bad(v, owner, "an isolated block uses a value from outside");
    }
  }
  return verify_block(v, b, owner);
}

/* Sizes that are not known to be equal become guards, which contexts check for each set of shapes. */
static bool same_type(graph *g, const tensor_type *a, const tensor_type *b, bool data_dependent) {
  if (a->dtype != b->dtype || a->rank != b->rank) return false;
  for (int32_t i = 0; i < a->rank && !data_dependent; i++) {
    const int equal = dim_compare_equal(g->dims, a->dims[i], b->dims[i]);
    if (equal == 0) return false;
    if (equal < 0) graph_guard_equal(g, a->dims[i], b->dims[i]);
  }
  return true;
}

/* Parameters of a node's block have the types of the operands from `first` on. */
static bool params_match(const node *n, const block *b, int32_t skip, int32_t first) {
  if (b->n_params - skip != n->n_inputs - first) return false;
  for (int32_t i = skip; i < b->n_params; i++) {
    const value *x = node_in(n, first + i - skip);
    if (!x || !type_equal(&b->params[i]->type, &x->type)) return false;
  }
  return true;
}

static kiln_status verify_types(verifier *v, node *n) {
  tensor_type few[8], *before = few;
  if (n->n_outputs > 8 && !(before = mem_alloc((size_t)n->n_outputs * sizeof *before)))
    return KILN_NO_MEMORY("verifier");
  for (int32_t i = 0; i < n->n_outputs; i++) before[i] = n->outputs[i]->type;
  const tensor_type own = n->epilogue ? n->epilogue->params[0]->type : (tensor_type){0};
  kiln_status status = node_infer(n);
  bool same = true;
  if (status == KILN_OK && n->epilogue) same = same_type(v->g, &own, &n->epilogue->params[0]->type, false);
  for (int32_t i = 0; i < n->n_outputs; i++) {
    if (status == KILN_OK)
      same = same && same_type(v->g, &before[i], &n->outputs[i]->type, (n->op->flags & OP_DATA_DEPENDENT) != 0);
    n->outputs[i]->type = before[i];
  }
  if (n->epilogue) n->epilogue->params[0]->type = own;
  if (before != few) mem_free(before);
  if (status != KILN_OK) return error_note(status, __FILE__, __LINE__, "checking `%s`", n->op->name);
  return same ? KILN_OK : bad(v, n, "its types are not those that its operands give");
}

static kiln_status verify_node_blocks(verifier *v, node *n) {
  if (n->op->flags & OP_CONTROL_FLOW) {
    const int32_t first = strcmp(n->op->name, "if") == 0 ? 1 : 0; /* behind the condition */
    for (int32_t i = 0; i < n->n_blocks; i++) {
      if (!params_match(n, n->blocks[i], 0, first)) return bad(v, n, "a block's parameters are not like its operands");
      KILN_TRY(verify_block(v, n->blocks[i], n));
    }
  } else if (n->n_blocks) {
    if (strcmp(n->op->name, "pointwise") != 0 || n->n_blocks != 1) return bad(v, n, "it cannot have these blocks");
    if (!params_match(n, n->blocks[0], 0, 0)) return bad(v, n, "a body's parameters are not like its operands");
    KILN_TRY(verify_isolated(v, n->blocks[0], n));
  }
  if (!n->epilogue)
    return n->n_inputs == n->own_inputs ? KILN_OK : bad(v, n, "it has operands for an epilogue, and none");
  if (n->n_outputs != 1 || !(n->op->flags & OP_ANCHOR)) return bad(v, n, "it cannot have an epilogue");
  if (n->epilogue->n_params < 1 || !params_match(n, n->epilogue, 1, n->own_inputs))
    return bad(v, n, "an epilogue's parameters are not like its operands");
  return verify_isolated(v, n->epilogue, n);
}

static kiln_status verify_node(verifier *v, node *n) {
  KILN_TRY(verify_operands(v, n));
  KILN_TRY(verify_node_blocks(v, n));
  KILN_TRY(verify_types(v, n));
  for (int32_t i = 0; i < n->n_outputs; i++) {
    if (n->outputs[i]->producer != n || n->outputs[i]->index != i)
      return bad(v, n, "a result does not know its producer");
    KILN_TRY(define(v, n->outputs[i]));
  }
  return KILN_OK;
}

static kiln_status verify_nodes(verifier *v, block *b) {
  const node *previous = NULL;
  for (node *n = b->first; n; n = n->next) {
    if (n->parent != b || n->prev != previous) return bad(v, n, "the list of nodes is broken");
    KILN_TRY(verify_node(v, n));
    previous = n;
  }
  if (b->last != previous) return KILN_FAIL(KILN_INVALID_FILE, "invalid graph: the list of nodes is broken at its end");
  for (int32_t i = 0; i < b->n_results; i++) {
    const use *u = &b->results[i];
    if (!u->v || u->result_of != b || u->index != i || !linked(u) || !visible(v, u->v))
      return KILN_FAIL(KILN_INVALID_FILE, "invalid graph: result %d of a block is not defined", (int)i);
  }
  return KILN_OK;
}

static kiln_status verify_frame(const graph *g) {
  if (g->n_inputs + g->n_states != g->body.n_params || g->n_outputs + g->n_states != g->body.n_results)
    return KILN_FAIL(KILN_INVALID_FILE, "invalid graph: inputs, outputs and states do not add up");
  for (int32_t i = 0; i < g->n_states; i++) {
    const graph_state *s = &g->states[i];
    if (s->param != g->n_inputs + i || s->result != g->n_outputs + i || !s->initial || !s->initial->constant)
      return KILN_FAIL(KILN_INVALID_FILE, "invalid graph: state %d does not fit inputs and outputs", (int)i);
    const tensor_type *type = &s->initial->type;
    if (!type_equal(type, &g->body.params[s->param]->type) || !type_equal(type, &g->body.results[s->result].v->type))
      return KILN_FAIL(KILN_INVALID_FILE, "invalid graph: state %d changes its type", (int)i);
  }
  return KILN_OK;
}

kiln_status graph_verify(graph *g) {
  verifier v = {.g = g};
  KILN_TRY(graph_check(g));
  kiln_status status = KILN_OK;
  for (int32_t i = 0; i < g->body.n_params && status == KILN_OK; i++) status = define(&v, g->body.params[i]);
  if (status == KILN_OK) status = verify_nodes(&v, &g->body);
  map_free(&v.defined);
  map_free(&v.names);
  if (status == KILN_OK) status = verify_frame(g);
  return status == KILN_OK ? graph_check(g) : status;
}
