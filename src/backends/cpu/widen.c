/* Models in f16 or bf16 on a CPU. Its kernels for convolutions, products, attention, norms and the like compute in f32: such nodes get
 * f32 operands and their results are rounded back, so that every value has the type, and the rounding, that the model gives it. Casts
 * join the chains and epilogues around them; weights are widened once, here. What has a kernel for 16 bits (pointwise operators,
 * movement) stays as it is. */
#include <string.h>

#include "backends/cpu/rewrite.h"
#include "base/memory.h"
#include "ops/ref.h"

enum { WIDEN_MOST = 16 };

typedef struct widener {
  const target *target;
  graph *graph;
  value **wide; /* by value id: its f32 form where that is a constant */
  uint32_t n_values;
} widener;

static bool is_half(const value *v) { return v && (v->type.dtype == KILN_F16 || v->type.dtype == KILN_BF16); }

static bool has_kernel(const widener *w, const node *n) {
  const kernel *first = NULL;
  return backend_tactics(w->target, n, &first, 1, NULL) == 1 && first != &reference_kernel;
}

static bool can_widen(const widener *w, const node *n) {
  bool any = false;
  for (int32_t i = 0; i < n->n_inputs; i++) any = any || is_half(n->inputs[i].v);
  if (!any || n->n_inputs > WIDEN_MOST || n->n_blocks || n->epilogue) return false;
  if ((n->op->flags & (OP_VIEW | OP_POINTWISE | OP_CONTROL_FLOW | OP_CUSTOM)) || str_eq(n->op->name, "cast"))
    return false;
  return (n->op->flags & OP_ANCHOR) || !has_kernel(w, n);
}

static value *wide_constant(widener *w, value *v) {
  tensor_type type = v->type;
  size_t bytes = 0;
  if (v->id < w->n_values && w->wide[v->id]) return w->wide[v->id];
  type.dtype = KILN_F32;
  if (!type_bytes(&type, &bytes)) return NULL;
  float *data = mem_alloc_aligned(bytes ? bytes : 1);
  if (!data) {
    w->graph->failed = true;
    w->graph->failure = KILN_NO_MEMORY("weights in f32");
    return NULL;
  }
  const tensor from = {.data = (void *)(uintptr_t)v->constant->data, .dtype = v->type.dtype};
  for (size_t i = 0; i < bytes / sizeof *data; i++) data[i] = (float)ref_load(&from, (int64_t)i);
  value *out = graph_constant_take(w->graph, &type, data);
  if (v->id < w->n_values) w->wide[v->id] = out;
  return out;
}

static value *wide_operand(widener *w, node *n, value *v) {
  if (v->constant && v->constant->data && !v->constant->packing) return wide_constant(w, v);
  builder b = builder_before(n);
  return build(&b, "cast", IN(v), ATTRS(A_DTYPE("dtype", KILN_F32)));
}

/* The results are of f32 now; their readers get them rounded. */
static kiln_status round_results(node *n, const kiln_dtype *before) {
  builder b = builder_before(n);
  b.before = n->next;
  for (int32_t i = 0; i < n->n_outputs; i++) {
    value *v = n->outputs[i];
    if (v->type.dtype == before[i]) continue;
    value *rounded = build(&b, "cast", IN(v), ATTRS(A_DTYPE("dtype", before[i])));
    if (!rounded) return graph_check(n->parent->graph);
    value_replace_uses(v, rounded); /* the cast's own operand too */
    node_set_input(rounded->producer, 0, v);
  }
  return graph_check(n->parent->graph);
}

static kiln_status widen_node(widener *w, node *n) {
  value *inputs[WIDEN_MOST];
  kiln_dtype before[WIDEN_MOST];
  if (n->n_outputs > WIDEN_MOST) return KILN_OK;
  for (int32_t i = 0; i < n->n_outputs; i++) before[i] = n->outputs[i]->type.dtype;
  for (int32_t i = 0; i < n->n_inputs; i++) {
    inputs[i] = n->inputs[i].v;
    if (!is_half(inputs[i])) continue;
    value *wide = wide_operand(w, n, inputs[i]);
    if (!wide) return graph_check(w->graph);
    node_set_input(n, i, wide);
  }
  KILN_TRY(node_infer(n));
  if ((n->op->flags & OP_ANCHOR) || has_kernel(w, n)) return round_results(n, before);
  for (int32_t i = 0; i < n->n_inputs; i++) node_set_input(n, i, inputs[i]); /* nothing is gained: the casts are dead */
  return node_infer(n);
}

static kiln_status widen_block(widener *w, block *b) {
  for (node *n = b->first, *next; n; n = next) {
    next = n->next;
    for (int32_t i = 0; (n->op->flags & OP_CONTROL_FLOW) && i < n->n_blocks; i++)
      KILN_TRY(widen_block(w, n->blocks[i]));
    if (can_widen(w, n)) KILN_TRY(widen_node(w, n));
  }
  return graph_check(w->graph);
}

kiln_status cpu_widen(const target *t, graph *g) {
  if (t->backend != &backend_cpu) return KILN_OK; /* GPUs, which share this rewriting, have kernels for 16 bits */
  widener w = {.target = t, .graph = g, .n_values = g->next_id};
  w.wide = mem_calloc((size_t)w.n_values + 1, sizeof *w.wide);
  if (!w.wide) return KILN_NO_MEMORY("weights in f32");
  const kiln_status status = widen_block(&w, &g->body);
  mem_free(w.wide);
  return status;
}
