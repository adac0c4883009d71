/* Running one node by its reference kernel, epilogue and body blocks included. Used by constant folding, by tests, and as the kernel
 * of last resort. Temporaries come from an arena per call: the reference is for truth, not for speed. */
#include <string.h>

#include "base/memory.h"
#include "ops/ref.h"
#include "runtime/program.h"

typedef struct frame {
  arena *arena;
  const graph *graph;
  const int64_t *symbols;
  map tensors; /* value id -> tensor */
} frame;

static kiln_status frame_tensor(frame *f, const value *v, bool allocate, tensor **out) {
  tensor *t = map_get_number(&f->tensors, v->id);
  if (t) {
    *out = t;
    return KILN_OK;
  }
  t = ARENA_NEW(f->arena, tensor);
  if (!t || !map_put_number(&f->tensors, v->id, t)) return KILN_NO_MEMORY("reference kernel");
  t->dtype = v->type.dtype;
  t->rank = v->type.rank;
  for (int i = 0; i < t->rank; i++) {
    if (!dim_eval(f->graph->dims, v->type.dims[i], f->symbols, &t->shape[i]) || t->shape[i] < 0)
      return KILN_FAIL(KILN_INVALID_ARGUMENT, "reference kernel: a size is not known");
  }
  tensor_make_contiguous_strides(t);
  if (v->constant) {
    t->data = (void *)(uintptr_t)v->constant->data;
  } else if (allocate) {
    t->data = arena_array(f->arena, (size_t)tensor_numel(t), kiln_dtype_size(t->dtype));
    if (!t->data) return KILN_NO_MEMORY("reference kernel");
  } else {
    return KILN_FAIL(KILN_INTERNAL, "reference kernel: value %u is used before it is made", v->id);
  }
  *out = t;
  return KILN_OK;
}

static kiln_status frame_run(frame *f, const node *n) {
  const attr *attrs = NULL;
  KILN_TRY(attrs_bind(f->arena, f->graph, n, f->symbols, &attrs));
  tensor *in = ARENA_ARRAY(f->arena, tensor, n->n_inputs + 1), *out = ARENA_ARRAY(f->arena, tensor, n->n_outputs + 1);
  if (!in || !out) return KILN_NO_MEMORY("reference kernel");
  for (int32_t i = 0; i < n->n_inputs; i++) {
    in[i].rank = -1;
    if (!n->inputs[i].v) continue;
    tensor *t = NULL;
    KILN_TRY(frame_tensor(f, n->inputs[i].v, false, &t));
    in[i] = *t;
  }
  for (int32_t i = 0; i < n->n_outputs; i++) {
    tensor *t = NULL;
    KILN_TRY(frame_tensor(f, n->outputs[i], true, &t));
    out[i] = *t;
  }
  return reference_run_node(n, attrs, in, n->n_inputs, out, n->n_outputs, f->symbols);
}

/* Runs an isolated block on `params` and copies its one result to `result`. */
static kiln_status run_block(frame *f, const block *b, const tensor *params, const tensor *result) {
  for (int32_t i = 0; i < b->n_params; i++) {
    tensor *t = arena_copy(f->arena, &params[i], sizeof *t);
    if (!t || !map_put_number(&f->tensors, b->params[i]->id, t)) return KILN_NO_MEMORY("reference kernel");
  }
  for (const node *n = b->first; n; n = n->next) KILN_TRY(frame_run(f, n));
  tensor *made = NULL;
  KILN_TRY(frame_tensor(f, b->results[0].v, false, &made));
  for (ref_iter it = ref_begin(result->rank, result->shape); ref_valid(&it); ref_next(&it))
    ref_copy_element(made, ref_offset(made, &it), result, ref_offset(result, &it));
  return KILN_OK;
}

/* The anchor into a temporary, then the epilogue from there into the output. */
static kiln_status run_with_epilogue(frame *f, const node *n, const attr *attrs, tensor *in, int n_in, tensor *out) {
  const value *own = n->epilogue->params[0];
  tensor *anchor = NULL;
  KILN_TRY(frame_tensor(f, own, true, &anchor));
  const kernel_args args = {.node = n, .attrs = attrs, .in = in, .n_in = n->own_inputs, .out = anchor, .n_out = 1, .symbols = f->symbols};
  KILN_TRY(n->op->ref(&args));
  tensor *params = ARENA_ARRAY(f->arena, tensor, n->epilogue->n_params + 1);
  if (!params || n->epilogue->n_params != 1 + n_in - n->own_inputs) return KILN_NO_MEMORY("reference kernel");
  params[0] = *anchor;
  for (int i = n->own_inputs; i < n_in; i++) params[1 + i - n->own_inputs] = in[i];
  return run_block(f, n->epilogue, params, &out[0]);
}

kiln_status reference_run_node(const node *n, const attr *attrs, tensor *in, int n_in, tensor *out, int n_out, const int64_t *symbols) {
  const bool body = n->n_blocks == 1 && !(n->op->flags & OP_CONTROL_FLOW);
  if (!n->epilogue && !body) {
    const kernel_args args = {.node = n, .attrs = attrs, .in = in, .n_in = n_in, .out = out, .n_out = n_out, .symbols = symbols};
    if (!n->op->ref) return KILN_FAIL(KILN_UNSUPPORTED, "`%s` has no reference kernel", n->op->name);
    return n->op->ref(&args);
  }
  arena a = {0};
  const graph *g = body ? n->blocks[0]->graph : n->epilogue->graph;
  frame f = {&a, g, symbols, {0}};
  const kiln_status status = body ? run_block(&f, n->blocks[0], in, &out[0]) : run_with_epilogue(&f, n, attrs, in, n_in, out);
  map_free(&f.tensors);
  arena_free(&a);
  return status;
}
