/* Constant folding: nodes whose inputs are all constants are evaluated by their reference kernels. */
#include <string.h>

#include "base/memory.h"
#include "ops/ref.h"
#include "passes/origin.h"
#include "passes/pass.h"
#include "runtime/program.h"

enum { MAX_OUTPUTS = 8 };

/* Masks and positions may grow more than weights: attention recognizes a causal mask once it is a constant. */
static size_t growth_limit(const node *n, size_t max_growth) {
  const kiln_dtype d = n->n_outputs == 1 ? n->outputs[0]->type.dtype : KILN_F32;
  if (max_growth == 0 || dtype_is_float(d)) return max_growth;
  return d == KILN_BOOL ? (size_t)32 << 20 : (size_t)1 << 20;
}

static bool foldable(const node *n, size_t max_growth) {
  if ((n->op->flags & (OP_CONTROL_FLOW | OP_RANDOM | OP_DATA_DEPENDENT)) || n->n_blocks || n->epilogue || !n->op->ref)
    return false;
  size_t in = 0, out = 0;
  for (int32_t i = 0; i < n->n_inputs; i++) {
    const value *v = n->inputs[i].v;
    if (!v) continue;
    if (!v->constant || v->constant->packing) return false;
    in += v->constant->size;
  }
  for (int32_t i = 0; i < n->n_outputs; i++) {
    size_t bytes = 0;
    if (!type_bytes(&n->outputs[i]->type, &bytes) || !size_add(out, bytes, &out)) return false;
  }
  for (int32_t i = 0; i < op_schema_of(n->op)->n_attrs; i++) {
    const attr *a = &n->attrs[i];
    if (a->kind == ATTR_INT && !dim_is_const(a->u.i)) return false;
    for (int32_t k = 0; a->kind == ATTR_INTS && k < a->count; k++) {
      if (!dim_is_const(a->u.ints[k])) return false;
    }
  }
  return out <= in || out - in <= growth_limit(n, max_growth);
}

static tensor constant_tensor(const value *v) {
  tensor t = {.data = (void *)(uintptr_t)v->constant->data, .dtype = v->type.dtype, .rank = v->type.rank};
  for (int i = 0; i < t.rank; i++) t.shape[i] = v->type.dims[i];
  tensor_make_contiguous_strides(&t);
  return t;
}

/* Views of constants keep their bytes where the layout stays row-major: no copy of large weights. */
static value *fold_reshape(graph *g, const node *n) {
  const value *x = n->inputs[0].v;
  if (strcmp(n->op->name, "reshape") != 0) return NULL;
  value *v = graph_constant(g, &n->outputs[0]->type, x->constant->data);
  return v;
}

/* In refits: of a weight that the engine does not have any more. */
static bool reads_missing(const node *n) {
  for (int32_t i = 0; i < n->n_inputs; i++) {
    if (n->inputs[i].v && constant_is_missing(n->inputs[i].v->constant)) return true;
  }
  return false;
}

static kiln_status fold_missing(graph *g, const node *n, value **out) {
  if (n->n_outputs > MAX_OUTPUTS) return KILN_FAIL(KILN_UNSUPPORTED, "too many results to fold");
  for (int32_t i = 0; i < n->n_outputs; i++) {
    out[i] = graph_constant(g, &n->outputs[i]->type, NULL);
    KILN_TRY(graph_check(g));
  }
  return KILN_OK;
}

static kiln_status evaluate(graph *g, const node *n, value **out) {
  if ((out[0] = fold_reshape(g, n)) != NULL) return KILN_OK;
  if (reads_missing(n)) return fold_missing(g, n, out);
  tensor in[64], made[MAX_OUTPUTS];
  if (n->n_inputs > 64 || n->n_outputs > MAX_OUTPUTS) return KILN_FAIL(KILN_UNSUPPORTED, "too many operands to fold");
  for (int32_t i = 0; i < n->n_inputs; i++) {
    in[i] = (tensor){.rank = -1};
    if (n->inputs[i].v) in[i] = constant_tensor(n->inputs[i].v);
  }
  kiln_status status = KILN_OK;
  int32_t done = 0;
  for (; done < n->n_outputs && status == KILN_OK; done++) {
    const tensor_type *type = &n->outputs[done]->type;
    size_t bytes = 0;
    (void)type_bytes(type, &bytes); /* checked by foldable */
    made[done] = (tensor){.dtype = type->dtype, .rank = type->rank, .data = mem_alloc_aligned(bytes ? bytes : 1)};
    if (!made[done].data) status = KILN_NO_MEMORY("folded constant");
    for (int i = 0; i < type->rank; i++) made[done].shape[i] = type->dims[i];
    tensor_make_contiguous_strides(&made[done]);
  }
  const int64_t none = 0;
  if (status == KILN_OK) status = reference_run_node(n, n->attrs, in, n->n_inputs, made, n->n_outputs, &none);
  for (int32_t i = 0; i < done; i++) {
    if (status == KILN_OK) {
      out[i] = graph_constant_take(g, &n->outputs[i]->type, made[i].data);
      if (!out[i]) status = graph_check(g);
    } else {
      mem_free_aligned(made[i].data);
    }
  }
  return status;
}

static kiln_status fold_block(graph *g, block *b, size_t max_growth) {
  for (node *n = b->first; n;) {
    node *next = n->next;
    for (int32_t i = 0; i < n->n_blocks && (n->op->flags & OP_CONTROL_FLOW); i++)
      KILN_TRY(fold_block(g, n->blocks[i], max_growth));
    if (foldable(n, max_growth)) {
      value *made[MAX_OUTPUTS] = {0};
      const kiln_status status = evaluate(g, n, made);
      if (status == KILN_OUT_OF_MEMORY) return status;
      if (status == KILN_OK) { /* otherwise it stays, and fails when (and if) it runs */
        for (int32_t i = 0; i < n->n_outputs; i++) {
          origin_note(g, n, i, made[i]->constant);
          value_replace_uses(n->outputs[i], made[i]);
        }
        node_remove(n);
      }
    }
    n = next;
  }
  return graph_check(g);
}

kiln_status pass_constant_fold(graph *g, size_t max_growth) { return fold_block(g, &g->body, max_growth); }
