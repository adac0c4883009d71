/* Running one node by its reference kernel, epilogue and body blocks included. Used by constant folding, by tests, and
 * as the kernel of last resort. Temporaries come from an arena per call: the reference is for truth, not for speed. */
#include <string.h>

#include "base/memory.h"
#include "ops/ref.h"
#include "runtime/program.h"

typedef struct frame {
  arena *arena;
  const graph *graph;
  const int64_t *symbols;
  int64_t *own_symbols; /* NULL, or the same: those that data decides become known on the way */
  map tensors;          /* value id -> tensor */
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

static void copy_elements(const tensor *from, const tensor *to) {
  for (ref_iter it = ref_begin(to->rank, to->shape); ref_valid(&it); ref_next(&it))
    ref_copy_element(from, ref_offset(from, &it), to, ref_offset(to, &it));
}

static kiln_status frame_own_symbols(frame *f) {
  const size_t count = (size_t)dim_symbol_count(f->graph->dims);
  f->own_symbols = arena_alloc(f->arena, (count + 1) * sizeof *f->own_symbols);
  if (!f->own_symbols) return KILN_NO_MEMORY("reference kernel");
  if (count) memcpy(f->own_symbols, f->symbols, count * sizeof *f->own_symbols);
  f->symbols = f->own_symbols;
  return KILN_OK;
}

/* The size that a data-dependent node makes known. */
static kiln_status frame_measure(frame *f, const node *n, tensor *in) {
  const int symbol = dim_symbol_index(f->graph->dims, op_defined_size(n));
  const kernel_args args = {.node = n, .attrs = n->attrs, .in = in, .n_in = n->n_inputs, .symbols = f->symbols};
  if (!n->op->measure || !f->own_symbols)
    return KILN_FAIL(KILN_UNSUPPORTED, "`%s` has a result that cannot be measured", n->op->name);
  return symbol < 0 ? KILN_OK : n->op->measure(&args, &f->own_symbols[symbol]);
}

/* `v` stands for `t` from now on. */
static kiln_status frame_bind(frame *f, const value *v, const tensor *t) {
  tensor *known = map_get_number(&f->tensors, v->id);
  if (known) {
    *known = *t;
    return KILN_OK;
  }
  known = arena_copy(f->arena, t, sizeof *t);
  return known && map_put_number(&f->tensors, v->id, known) ? KILN_OK : KILN_NO_MEMORY("reference kernel");
}

static kiln_status frame_run(frame *f, const node *n);

static kiln_status frame_run_nodes(frame *f, const block *b) {
  for (const node *n = b->first; n; n = n->next) KILN_TRY(frame_run(f, n));
  return KILN_OK;
}

static kiln_status copy_result(frame *f, const block *b, int32_t i, const tensor *to) {
  tensor *made = NULL;
  KILN_TRY(frame_tensor(f, b->results[i].v, false, &made));
  copy_elements(made, to);
  return KILN_OK;
}

static kiln_status run_if(frame *f, const node *n, const tensor *in, const tensor *out) {
  const block *b = n->blocks[ref_load(&in[0], 0) != 0 ? 0 : 1];
  for (int32_t i = 0; i < b->n_params; i++) KILN_TRY(frame_bind(f, b->params[i], &in[i + 1]));
  KILN_TRY(frame_run_nodes(f, b));
  for (int32_t i = 0; i < b->n_results; i++) KILN_TRY(copy_result(f, b, i, &out[i]));
  return KILN_OK;
}

/* The carried values are in `out`; what the body makes of them goes to a second set first, as its results may be
 * carried values. */
static kiln_status run_while(frame *f, arena *local, const node *n, const tensor *in, const tensor *out) {
  tensor *next = ARENA_ARRAY(local, tensor, n->n_outputs + 1);
  if (!next) return KILN_NO_MEMORY("reference kernel");
  for (int32_t i = 0; i < n->n_outputs; i++) {
    copy_elements(&in[i], &out[i]);
    next[i] = out[i];
    tensor_make_contiguous_strides(&next[i]);
    next[i].data = arena_array(local, (size_t)tensor_numel(&next[i]), kiln_dtype_size(next[i].dtype));
    if (!next[i].data) return KILN_NO_MEMORY("reference kernel");
    for (int k = 0; k < 2; k++) KILN_TRY(frame_bind(f, n->blocks[k]->params[i], &out[i]));
  }
  for (;;) {
    tensor *condition = NULL;
    KILN_TRY(frame_run_nodes(f, n->blocks[0]));
    KILN_TRY(frame_tensor(f, n->blocks[0]->results[0].v, false, &condition));
    if (ref_load(condition, 0) == 0) return KILN_OK;
    KILN_TRY(frame_run_nodes(f, n->blocks[1]));
    for (int32_t i = 0; i < n->n_outputs; i++) KILN_TRY(copy_result(f, n->blocks[1], i, &next[i]));
    for (int32_t i = 0; i < n->n_outputs; i++) copy_elements(&next[i], &out[i]);
  }
}

static kiln_status run_control(frame *f, arena *local, const node *n, const tensor *in, const tensor *out) {
  if (strcmp(n->op->name, "if") == 0) return run_if(f, n, in, out);
  if (strcmp(n->op->name, "while") == 0) return run_while(f, local, n, in, out);
  return KILN_FAIL(KILN_UNSUPPORTED, "`%s` has no reference kernel", n->op->name);
}

static kiln_status frame_run_with(frame *f, arena *local, const node *n) {
  const attr *attrs = NULL;
  tensor *in = ARENA_ARRAY(local, tensor, n->n_inputs + 1), *out = ARENA_ARRAY(local, tensor, n->n_outputs + 1);
  if (!in || !out) return KILN_NO_MEMORY("reference kernel");
  for (int32_t i = 0; i < n->n_inputs; i++) {
    in[i].rank = -1;
    if (!n->inputs[i].v) continue;
    tensor *t = NULL;
    KILN_TRY(frame_tensor(f, n->inputs[i].v, false, &t));
    in[i] = *t;
  }
  if (n->op->flags & OP_DATA_DEPENDENT) KILN_TRY(frame_measure(f, n, in));
  KILN_TRY(attrs_bind(local, f->graph, n, f->symbols, &attrs));
  for (int32_t i = 0; i < n->n_outputs; i++) {
    tensor *t = NULL;
    KILN_TRY(frame_tensor(f, n->outputs[i], true, &t));
    out[i] = *t;
  }
  if (n->op->flags & OP_CONTROL_FLOW) return run_control(f, local, n, in, out);
  return reference_run_node(n, attrs, in, n->n_inputs, out, n->n_outputs, f->symbols);
}

/* Values stay in the frame, so that a loop's next iteration finds their memory; the rest goes at once. */
static kiln_status frame_run(frame *f, const node *n) {
  arena local = {0};
  const kiln_status status = frame_run_with(f, &local, n);
  arena_free(&local);
  return status;
}

/* Runs an isolated block on `params` and copies its one result to `result`. */
static kiln_status run_block(frame *f, const block *b, const tensor *params, const tensor *result) {
  for (int32_t i = 0; i < b->n_params; i++) KILN_TRY(frame_bind(f, b->params[i], &params[i]));
  KILN_TRY(frame_run_nodes(f, b));
  return copy_result(f, b, 0, result);
}

/* The anchor into a temporary, then the epilogue from there into the output. */
static kiln_status run_with_epilogue(frame *f, const node *n, const attr *attrs, tensor *in, int n_in, tensor *out) {
  const value *own = n->epilogue->params[0];
  tensor *anchor = NULL;
  KILN_TRY(frame_tensor(f, own, true, &anchor));
  const kernel_args args = {
      .node = n, .attrs = attrs, .in = in, .n_in = n->own_inputs, .out = anchor, .n_out = 1, .symbols = f->symbols};
  KILN_TRY(n->op->ref(&args));
  tensor *params = ARENA_ARRAY(f->arena, tensor, n->epilogue->n_params + 1);
  if (!params || n->epilogue->n_params != 1 + n_in - n->own_inputs) return KILN_NO_MEMORY("reference kernel");
  params[0] = *anchor;
  for (int i = n->own_inputs; i < n_in; i++) params[1 + i - n->own_inputs] = in[i];
  return run_block(f, n->epilogue, params, &out[0]);
}

static kiln_status run_in_frame(frame *f, const node *n, const attr *attrs, tensor *in, int n_in, tensor *out) {
  if (n->op->flags & OP_CONTROL_FLOW) return run_control(f, f->arena, n, in, out);
  return n->epilogue ? run_with_epilogue(f, n, attrs, in, n_in, out) : run_block(f, n->blocks[0], in, &out[0]);
}

kiln_status reference_run_node(const node *n, const attr *attrs, tensor *in, int n_in, tensor *out, int n_out,
                               const int64_t *symbols) {
  if (!n->epilogue && !n->n_blocks) {
    const kernel_args args = {
        .node = n, .attrs = attrs, .in = in, .n_in = n_in, .out = out, .n_out = n_out, .symbols = symbols};
    if (!n->op->ref) return KILN_FAIL(KILN_UNSUPPORTED, "`%s` has no reference kernel", n->op->name);
    return n->op->ref(&args);
  }
  arena a = {0};
  frame f = {&a, n->n_blocks ? n->blocks[0]->graph : n->epilogue->graph, symbols, NULL, {0}};
  const kiln_status status = run_in_frame(&f, n, attrs, in, n_in, out);
  map_free(&f.tensors);
  arena_free(&a);
  return status;
}

kiln_status reference_run_graph(const graph *g, const int64_t *symbols, const tensor *params, const tensor *results) {
  arena a = {0};
  frame f = {&a, g, symbols, NULL, {0}};
  kiln_status status = frame_own_symbols(&f);
  for (int32_t i = 0; i < g->body.n_params && status == KILN_OK; i++)
    status = frame_bind(&f, g->body.params[i], &params[i]);
  if (status == KILN_OK) status = frame_run_nodes(&f, &g->body);
  for (int32_t i = 0; i < g->body.n_results && status == KILN_OK; i++)
    status = copy_result(&f, &g->body, i, &results[i]);
  map_free(&f.tensors);
  arena_free(&a);
  return status;
}
