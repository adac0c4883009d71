/* Control flow: operators whose blocks the runtime executes. */
#include "ops/infer.h"

/* if: operand 0 is a bool of one element; block 0 runs if it is true, block 1 if not. The other operands are the
 * parameters of both blocks, and the results of both have the same types. */
static kiln_status if_infer(graph *g, node *n) {
  const tensor_type *cond = in_type(n, 0);
  if (cond->dtype != KILN_BOOL) return INFER_FAIL(n, "operand cond is %s, expected bool", kiln_dtype_name(cond->dtype));
  if (dim_compare_equal(g->dims, type_numel(g, cond), 1) == 0)
    return INFER_FAIL(n, "operand cond must have one element");
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

static const op rows[] = {
    {.name = "if", .sig = "cond xs* -> ys*", .attrs = "", .flags = OP_CONTROL_FLOW, .infer = if_infer}};

extern const op_family ops_control;
OP_FAMILY(ops_control, rows);
