/* The verifier: is a graph well-formed? Runs after each pass in debug builds and on every graph that was read from text, so it is also
 * what stands between an engine file and the kernels: types must be those that inference gives. */
#include <string.h>

#include "base/memory.h"
#include "graph/graph.h"
#include "ops/op.h"

typedef struct verifier {
  graph *g;
  map defined; /* value id + 1 -> value: visible here */
} verifier;

static kiln_status bad(const verifier *v, const node *n, const char *what) {
  text t = {0};
  node_print(v->g, n, &t);
  const kiln_status status = KILN_FAIL(KILN_INVALID_FILE, "invalid graph: %s: %.300s", what, t.data ? t.data : "");
  text_free(&t);
  return status;
}

static kiln_status define(verifier *v, value *x) {
  if (map_get_number(&v->defined, (uint64_t)x->id + 1)) return KILN_FAIL(KILN_INVALID_FILE, "invalid graph: two values have number %u", x->id);
  return map_put_number(&v->defined, (uint64_t)x->id + 1, x) ? KILN_OK : KILN_NO_MEMORY("verifier");
}

static bool visible(const verifier *v, const value *x) {
  return x->constant || map_get_number(&v->defined, (uint64_t)x->id + 1) == (const void *)x;
}

static bool linked(const use *u) {
  for (const use *w = u->v->uses; w; w = w->next) {
    if (w == u) return true;
  }
  return false;
}

static kiln_status verify_operands(verifier *v, const node *n) {
  const op_schema *s = op_schema_of(n->op);
  if (!s) return KILN_FAIL(KILN_INVALID_FILE, "invalid graph: a node without an operator");
  const bool variadic = s->n_in && s->in[s->n_in - 1].variadic;
  if (variadic ? n->own_inputs < s->n_in - 1 : n->own_inputs != s->n_in) return bad(v, n, "wrong number of operands");
  for (int32_t i = 0; i < n->n_inputs; i++) {
    const use *u = &n->inputs[i];
    if (!u->v) {
      if (i >= n->own_inputs || !s->in[i < s->n_in ? i : s->n_in - 1].optional) return bad(v, n, "a required operand is missing");
      continue;
    }
    if (u->user != n || u->index != i) return bad(v, n, "an operand slot does not know its place");
    if (!u->v->constant && !linked(u)) return bad(v, n, "an operand does not know its user");
    if (!visible(v, u->v)) return bad(v, n, "an operand is not defined before its use");
  }
  for (int32_t i = 0; i < s->n_attrs; i++) {
    const attr *a = &n->attrs[i];
    if (a->kind == ATTR_NONE ? !s->attrs[i].optional : a->kind != s->attrs[i].kind) return bad(v, n, "an attribute has the wrong kind");
    if (a->kind == ATTR_STR && !a->u.s) return bad(v, n, "an attribute has no text");
    if (a->kind == ATTR_DTYPE && (a->u.i < 0 || a->u.i >= KILN_DTYPE_COUNT)) return bad(v, n, "an attribute is no element type");
  }
  return KILN_OK;
}

static kiln_status verify_nodes(verifier *v, block *b);

/* Epilogues and pointwise bodies see their parameters and constants only: a fresh scope. */
static kiln_status verify_isolated(verifier *v, block *b, const node *owner) {
  const map outside = v->defined;
  v->defined = (map){0};
  kiln_status status = KILN_OK;
  for (int32_t i = 0; i < b->n_params && status == KILN_OK; i++) status = define(v, b->params[i]);
  if (status == KILN_OK) status = verify_nodes(v, b);
  for (const node *n = b->first; n && status == KILN_OK; n = n->next) {
    if (!(n->op->flags & OP_POINTWISE) || n->n_blocks || n->epilogue) status = bad(v, owner, "an isolated block has more than pointwise operators");
  }
  map_free(&v->defined);
  v->defined = outside;
  if (status == KILN_OK && b->n_results != 1) status = bad(v, owner, "an isolated block must have one result");
  return status;
}

/* Inner blocks see what is around them; what they define stays inside. Numbers are unique in the graph, so a copy of the scope is not
 * needed: names of one branch are simply never used in the other (checked through `parent`). */
static kiln_status verify_region(verifier *v, block *b) {
  for (int32_t i = 0; i < b->n_params; i++) KILN_TRY(define(v, b->params[i]));
  return verify_nodes(v, b);
}

static bool encloses(const block *outer, const block *inner) {
  for (; inner; inner = inner->owner ? inner->owner->parent : NULL) {
    if (inner == outer) return true;
  }
  return false;
}

static kiln_status verify_types(verifier *v, node *n) {
  tensor_type before[8];
  if (n->n_outputs > 8 && !(n->op->flags & OP_CONTROL_FLOW)) return bad(v, n, "too many results");
  if (n->op->flags & OP_CONTROL_FLOW) {
    for (int32_t k = 0; k < n->n_blocks; k++) {
      if (n->blocks[k]->n_results != n->n_outputs) return bad(v, n, "a branch has the wrong number of results");
      for (int32_t i = 0; i < n->n_outputs; i++) {
        if (!type_equal(&n->blocks[k]->results[i].v->type, &n->outputs[i]->type)) return bad(v, n, "a branch has a result of another type");
      }
      for (int32_t i = 0; i < n->blocks[k]->n_params; i++) {
        if (i + 1 >= n->n_inputs || !node_in(n, i + 1) || !type_equal(&n->blocks[k]->params[i]->type, &node_in(n, i + 1)->type))
          return bad(v, n, "a branch has a parameter of another type");
      }
    }
    return KILN_OK;
  }
  if (n->epilogue) {
    if (n->epilogue->n_params != 1 + n->n_inputs - n->own_inputs) return bad(v, n, "an epilogue has the wrong number of parameters");
    for (int32_t i = 1; i < n->epilogue->n_params; i++) {
      if (!type_equal(&n->epilogue->params[i]->type, &node_in(n, n->own_inputs + i - 1)->type))
        return bad(v, n, "an epilogue's parameter has another type than its operand");
    }
  }
  for (int32_t i = 0; i < n->n_outputs; i++) before[i] = n->outputs[i]->type;
  const tensor_type own = n->epilogue ? n->epilogue->params[0]->type : (tensor_type){0};
  KILN_TRY_NOTE(node_infer(n), "checking `%s`", n->op->name);
  bool same = !n->epilogue || type_equal(&own, &n->epilogue->params[0]->type);
  for (int32_t i = 0; i < n->n_outputs; i++) {
    same = same && type_equal(&before[i], &n->outputs[i]->type);
    n->outputs[i]->type = before[i];
  }
  return same ? KILN_OK : bad(v, n, "its types are not those that its operands give");
}

static kiln_status verify_node(verifier *v, node *n) {
  KILN_TRY(verify_operands(v, n));
  for (int32_t i = 0; i < n->n_inputs; i++) {
    const value *x = n->inputs[i].v;
    if (x && x->producer && !encloses(x->producer->parent, n->parent)) return bad(v, n, "an operand is local to another block");
  }
  for (int32_t i = 0; i < n->n_blocks; i++) {
    if (n->op->flags & OP_CONTROL_FLOW) {
      KILN_TRY(verify_region(v, n->blocks[i]));
    } else {
      if (n->n_blocks != 1 || n->blocks[i]->n_params != n->n_inputs) return bad(v, n, "a body has the wrong number of parameters");
      for (int32_t k = 0; k < n->n_inputs; k++) {
        if (!node_in(n, k) || !type_equal(&node_in(n, k)->type, &n->blocks[i]->params[k]->type)) return bad(v, n, "a body's parameter has another type");
      }
      KILN_TRY(verify_isolated(v, n->blocks[i], n));
    }
  }
  if (n->epilogue) {
    if (n->n_outputs != 1 || n->epilogue->n_params < 1) return bad(v, n, "it cannot have an epilogue");
    KILN_TRY(verify_isolated(v, n->epilogue, n));
  }
  KILN_TRY(verify_types(v, n));
  for (int32_t i = 0; i < n->n_outputs; i++) KILN_TRY(define(v, n->outputs[i]));
  return KILN_OK;
}

static kiln_status verify_nodes(verifier *v, block *b) {
  const node *previous = NULL;
  for (node *n = b->first; n; n = n->next) {
    if (n->parent != b || n->prev != previous) return bad(v, n, "the list of nodes is broken");
    KILN_TRY(verify_node(v, n));
    previous = n;
  }
  for (int32_t i = 0; i < b->n_results; i++) {
    const value *x = b->results[i].v;
    if (!x || !visible(v, x) || (x->producer && !encloses(x->producer->parent, b)))
      return KILN_FAIL(KILN_INVALID_FILE, "invalid graph: result %d of a block is not defined", (int)i);
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
  if (status != KILN_OK) return status;
  if (g->n_inputs + g->n_states != g->body.n_params || g->n_outputs + g->n_states != g->body.n_results)
    return KILN_FAIL(KILN_INVALID_FILE, "invalid graph: inputs, outputs and states do not add up");
  return graph_check(g);
}
