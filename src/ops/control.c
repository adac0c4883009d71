/* Control flow: operators whose blocks the runtime executes. */
#include "ops/infer.h"

/* A bool of one element; if its number of elements is not known to be one, contexts check it. */
static kiln_status infer_condition(graph *g, const node *n, const char *what, const tensor_type *t) {
  if (t->dtype != KILN_BOOL) return INFER_FAIL(n, "%s is %s, expected bool", what, kiln_dtype_name(t->dtype));
  const dim count = type_numel(g, t);
  const int one = dim_compare_equal(g->dims, count, 1);
  if (one == 0) return INFER_FAIL(n, "%s must have one element", what);
  if (one < 0) graph_guard_equal(g, count, 1);
  return KILN_OK;
}

/* if: operand 0 is a bool of one element; block 0 runs if it is true, block 1 if not. The other operands are the
 * parameters of both blocks, and the results of both have the same types. */
static kiln_status if_infer(graph *g, node *n) {
  KILN_TRY(infer_condition(g, n, "operand cond", in_type(n, 0)));
  if (n->n_blocks != 2) return INFER_FAIL(n, "has %d blocks, expected 2", (int)n->n_blocks);
  for (int k = 0; k < 2; k++) {
    const block *b = n->blocks[k];
    if (b->n_results != n->n_outputs || b->n_params != n->own_inputs - 1)
      return INFER_FAIL(n, "block %d has %d parameters and %d results, expected %d and %d", k, (int)b->n_params,
                        (int)b->n_results, (int)n->own_inputs - 1, (int)n->n_outputs);
    for (int i = 0; i < b->n_params; i++)
      if (!type_equal(&b->params[i]->type, in_type(n, i + 1)))
        return INFER_FAIL(n, "block %d: parameter %d differs from its operand", k, i);
  }
  for (int i = 0; i < n->n_outputs; i++) {
    const tensor_type *a = &n->blocks[0]->results[i].v->type, *b = &n->blocks[1]->results[i].v->type;
    if (a->dtype != b->dtype || a->rank != b->rank)
      return INFER_FAIL(n, "result %d has different types in the two blocks", i);
    for (int d = 0; d < a->rank; d++)
      KILN_TRY(infer_same_dim(g, n, "sizes of a result in the two blocks", a->dims[d], b->dims[d]));
    n->outputs[i]->type = *a;
  }
  return KILN_OK;
}

/* A carried value keeps its type: sizes that cannot be proven equal become checks when shapes are bound. */
static kiln_status infer_carried(graph *g, node *n, const char *what, int i, const tensor_type *a,
                                 const tensor_type *b) {
  if (a->dtype != b->dtype || a->rank != b->rank)
    return INFER_FAIL(
        n, "%s %d is %s of rank %d, but the value carried there is %s of rank %d: a loop cannot change types", what, i,
        kiln_dtype_name(a->dtype), (int)a->rank, kiln_dtype_name(b->dtype), (int)b->rank);
  for (int d = 0; d < a->rank; d++)
    KILN_TRY(infer_same_dim(g, n, "sizes of a carried value before and after the body", a->dims[d], b->dims[d]));
  return KILN_OK;
}

/* while: the operands are the first carried values. Block 0 (the condition) and block 1 (the body) have one parameter
 * for each of them, of the operand's type. The condition's one result is a bool of one element; the body's results are
 * the next carried values, of the same types. The condition runs first, so the body may never run; the results are the
 * carried values for which the condition was false. Both blocks may use values of the blocks around them. Nothing
 * limits the number of iterations. */
static kiln_status while_infer(graph *g, node *n) {
  if (n->n_blocks != 2) return INFER_FAIL(n, "has %d blocks, expected 2: the condition and the body", (int)n->n_blocks);
  if (n->own_inputs < 1) return INFER_FAIL(n, "carries no values: it would never run or never end");
  if (n->n_outputs != n->own_inputs)
    return INFER_FAIL(n, "has %d results for %d carried values", (int)n->n_outputs, (int)n->own_inputs);
  const block *cond = n->blocks[0], *body = n->blocks[1];
  for (int k = 0; k < 2; k++) {
    const block *b = n->blocks[k];
    const int results = k ? n->own_inputs : 1;
    if (b->n_params != n->own_inputs || b->n_results != results)
      return INFER_FAIL(n, "block %d has %d parameters and %d results, expected %d and %d", k, (int)b->n_params,
                        (int)b->n_results, (int)n->own_inputs, results);
    for (int i = 0; i < b->n_params; i++)
      if (!type_equal(&b->params[i]->type, in_type(n, i)))
        return INFER_FAIL(n, "block %d: parameter %d differs from its operand", k, i);
  }
  KILN_TRY(infer_condition(g, n, "the condition's result", &cond->results[0].v->type));
  for (int i = 0; i < n->n_outputs; i++) {
    KILN_TRY(infer_carried(g, n, "the body's result", i, &body->results[i].v->type, in_type(n, i)));
    n->outputs[i]->type = *in_type(n, i);
  }
  return KILN_OK;
}

static const op rows[] = {
    {.name = "if", .sig = "cond xs* -> ys*", .attrs = "", .flags = OP_CONTROL_FLOW, .infer = if_infer},
    {.name = "while", .sig = "xs* -> ys*", .attrs = "", .flags = OP_CONTROL_FLOW, .infer = while_infer}};

extern const op_family ops_control;
OP_FAMILY(ops_control, rows);
