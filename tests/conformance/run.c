/* Builds one-node graphs, binds them to a program with a forced kernel, runs and compares. */
#include "run.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "backends/cuda/internal.h"
#include "base/memory.h"
#include "base/threads.h"
#include "engine/engine.h"
#include "ops/ref.h"
#include "runtime/program.h"

static tensor_type type_of_tensor(const tensor *t) { return type_of(t->dtype, t->rank, t->shape); }

kiln_status run_build(const op *o, const prepared *p, run_options options, decorate_fn decorate, void *user,
                      graph **out_graph, node **out_node, int param_of[CASE_OPERANDS]) {
  graph *g = NULL;
  value *operands[CASE_OPERANDS] = {0};
  KILN_TRY(graph_create(&g));
  for (int i = 0; i < p->c->n_operands; i++) {
    param_of[i] = -1;
    if (p->in[i].rank < 0) continue;
    const tensor_type type = type_of_tensor(&p->in[i]);
    if (options.constants && i > 0) {
      operands[i] = graph_constant(g, &type, p->in[i].data);
    } else {
      param_of[i] = g->body.n_params;
      operands[i] = graph_add_param(&g->body, NULL, &type);
      g->n_inputs = g->body.n_params;
    }
  }
  builder b = builder_at_end(&g->body);
  node *n = build_node(&b, o->name, p->c->n_operands, operands, p->c->n_attrs, p->c->attrs);
  kiln_status status = graph_check(g);
  if (status == KILN_OK && n && decorate) status = decorate(user, n);
  if (status == KILN_OK && n) {
    block_set_results(&g->body, n->n_outputs, n->outputs);
    g->n_outputs = n->n_outputs;
    status = graph_check(g);
  }
  if (status != KILN_OK || !n) {
    graph_destroy(g);
    return status != KILN_OK ? status : KILN_INTERNAL;
  }
  *out_graph = g;
  *out_node = n;
  return KILN_OK;
}

static kiln_status allocate_like(const tensor_type *type, bool strided, tensor *out) {
  *out = (tensor){.dtype = type->dtype, .rank = type->rank};
  for (int i = 0; i < type->rank; i++) out->shape[i] = type->dims[i];
  return tensor_allocate(out, strided) ? KILN_OK : KILN_NO_MEMORY("test tensor");
}

static kiln_status reference_results(const op *o, decorate_fn decorate, void *user, prepared *p) {
  graph *g;
  node *n;
  int param_of[CASE_OPERANDS];
  const attr *attrs;
  arena a = {0};
  KILN_TRY(run_build(o, p, (run_options){0}, decorate, user, &g, &n, param_of));
  kiln_status status = KILN_OK;
  p->n_out = n->n_outputs;
  if (p->n_out > RUN_OUTPUTS || n->n_inputs > CASE_OPERANDS) status = KILN_INTERNAL;
  tensor in[CASE_OPERANDS];
  memcpy(in, p->in, sizeof in);
  for (int i = p->c->n_operands; status == KILN_OK && i < n->n_inputs; i++) { /* constants that `decorate` added */
    const value *v = n->inputs[i].v;
    in[i].rank = -1;
    if (!v) continue;
    in[i] = (tensor){.dtype = v->type.dtype, .rank = v->type.rank, .data = (void *)(uintptr_t)v->constant->data};
    for (int k = 0; k < v->type.rank; k++) in[i].shape[k] = v->type.dims[k];
    tensor_make_contiguous_strides(&in[i]);
  }
  for (int i = 0; status == KILN_OK && i < p->n_out; i++)
    status = allocate_like(&n->outputs[i]->type, false, &p->out[i]);
  if (status == KILN_OK) status = attrs_bind(&a, g, n, NULL, &attrs);
  if (status == KILN_OK) p->status = reference_run_node(n, attrs, in, n->n_inputs, p->out, p->n_out, NULL);
  arena_free(&a);
  graph_destroy(g);
  return status;
}

kiln_status prepare_case(const op *o, const test_case *c, decorate_fn decorate, void *user, prepared *out) {
  memset(out, 0, sizeof *out);
  out->c = c;
  const uint64_t seed = hash_bytes(c->text, strlen(c->text), 1);
  for (int i = 0; i < c->n_operands; i++) {
    out->in[i] = c->operands[i].t;
    if (out->in[i].rank < 0) continue;
    if (!tensor_allocate(&out->in[i], false)) return KILN_NO_MEMORY("test tensor");
    tensor_generate(&c->operands[i], seed + (uint64_t)i, &out->in[i]);
  }
  return reference_results(o, decorate, user, out);
}

void prepared_free(prepared *p) {
  for (int i = 0; i < CASE_OPERANDS; i++) mem_free_aligned(p->in[i].data);
  for (int i = 0; i < RUN_OUTPUTS; i++) mem_free_aligned(p->out[i].data);
}

/* ---- comparing --------------------------------------------------------------------------------------------------- */

/* Room for the dtype's own rounding beside the row's tolerance, which is for f32. */
static double dtype_tolerance(kiln_dtype d, double tolerance) {
  if (tolerance == 0) return 0;
  if (d == KILN_F16) return tolerance + 0x1p-10;
  if (d == KILN_BF16) return tolerance + 0x1p-7;
  return tolerance;
}

static bool close_enough(double want, double got, double tolerance) {
  if (want != want || got != got) return want != want && got != got;
  return want == got || fabs(want - got) <= tolerance * (1 + fabs(want));
}

static bool same_contents(const tensor *want, const tensor *got, int index, double tolerance, text *why) {
  tolerance = dtype_tolerance(want->dtype, tolerance);
  for (ref_iter it = ref_begin(want->rank, want->shape); ref_valid(&it); ref_next(&it)) {
    const int64_t a = tensor_offset(want, it.index), b = tensor_offset(got, it.index);
    const bool exact = dtype_is_int(want->dtype) && ref_load_int(want, a) != ref_load_int(got, b);
    if (!exact && close_enough(ref_load(want, a), ref_load(got, b), tolerance)) continue;
    text_printf(why, "result %d at %lld: expected %.9g, got %.9g", index, (long long)it.linear, ref_load(want, a),
                ref_load(got, b));
    return false;
  }
  return true;
}

/* ---- running ----------------------------------------------------------------------------------------------------- */

static pool *workers(void) {
  static pool *p;
  if (!p && pool_create(2, &p) != KILN_OK) p = NULL;
  return p;
}

static device *accelerator;
static const device_hooks *hooks;

kiln_status run_open_device(const target *t, bool compile) {
  hooks = t->backend->device;
  if (!hooks) return KILN_OK;
  return compile ? cuda_device_offline(t->isa, &accelerator) : hooks->open(t, 0, &accelerator);
}
void run_close_device(void) {
  if (hooks) hooks->close(accelerator);
  accelerator = NULL;
}

static size_t bytes_behind(const tensor *t) { /* what tensor_allocate gave it */
  size_t span = 1;
  for (int i = 0; i < t->rank; i++) span += t->shape[i] > 0 ? (size_t)((t->shape[i] - 1) * t->strides[i]) : 0;
  return span * kiln_dtype_size(t->dtype);
}

/* The host's memory behind `t` moves to the device (out: a block to release). */
static kiln_status to_device(tensor *t, void **out) {
  KILN_TRY(hooks->allocate(accelerator, bytes_behind(t), "test tensor", out));
  KILN_TRY(hooks->upload(accelerator, NULL, *out, t->data, bytes_behind(t)));
  t->data = *out;
  return KILN_OK;
}

/* Inputs and outputs on the device; strided ones go through copies, as in contexts. */
static kiln_status run_on_device(program *bound, const graph *g, const tensor *params, tensor *results) {
  const int n_in = g->body.n_params, n_out = g->body.n_results;
  void *blocks[CASE_OPERANDS + RUN_OUTPUTS] = {0}, *memory = NULL;
  const void *externals[CASE_OPERANDS + RUN_OUTPUTS];
  const size_t arena_bytes = program_arena_bytes(bound);
  kiln_status status = hooks->enter(accelerator);
  if (status != KILN_OK) return status;
  status = hooks->allocate(accelerator, arena_bytes, "test arena", &memory);
  for (int i = 0; status == KILN_OK && i < n_in; i++) {
    tensor there = params[i], staged = *program_param(bound, i);
    staged.data = (char *)memory + program_staging(bound, false, i);
    status = to_device(&there, &blocks[i]);
    if (status == KILN_OK) status = program_copy(bound, &there, &staged, NULL);
    externals[i] = staged.data;
  }
  for (int i = 0; i < n_out; i++) externals[n_in + i] = (char *)memory + program_staging(bound, true, i);
  for (int k = 0; status == KILN_OK && k < 2; k++) status = program_launch(bound, memory, externals, NULL, false);
  for (int i = 0; status == KILN_OK && i < n_out; i++) {
    tensor there = results[i], made = *program_result(bound, i);
    made.data = (void *)(uintptr_t)externals[n_in + i];
    status = to_device(&there, &blocks[n_in + i]);
    if (status == KILN_OK) status = program_copy(bound, &made, &there, NULL);
    if (status == KILN_OK)
      status = hooks->download(accelerator, NULL, results[i].data, there.data, bytes_behind(&results[i]));
  }
  if (status == KILN_OK) status = hooks->synchronize(accelerator, NULL);
  for (int i = 0; i < n_in + n_out; i++) hooks->release(accelerator, blocks[i], 0);
  hooks->release(accelerator, memory, arena_bytes);
  hooks->leave(accelerator);
  return status;
}

static kiln_status run_program(graph *g, const target *t, const prepared *p, run_options options, const int *param_of,
                               tensor *results) {
  program *bound = NULL;
  tensor params[CASE_OPERANDS] = {{0}};
  void *memory = NULL;
  device *const d = t->backend->device ? accelerator : NULL;
  kiln_status status = program_create_on(g, t, d, NULL, 2, &bound);
  if (status != KILN_OK) return status;
  if (options.compile) {
    program_destroy(bound);
    return KILN_OK;
  }
  for (int i = 0; status == KILN_OK && i < p->c->n_operands; i++) {
    if (param_of[i] < 0) continue;
    tensor *param = &params[param_of[i]];
    *param = p->in[i];
    param->data = NULL;
    if (!tensor_allocate(param, options.strided)) status = KILN_NO_MEMORY("test tensor");
    if (status == KILN_OK) tensor_copy(&p->in[i], param);
  }
  for (int i = 0; status == KILN_OK && i < p->n_out; i++) {
    results[i] = p->out[i];
    results[i].data = NULL;
    if (!tensor_allocate(&results[i], options.strided)) status = KILN_NO_MEMORY("test tensor");
  }
  if (status == KILN_OK && d) {
    status = run_on_device(bound, g, params, results);
  } else if (status == KILN_OK) {
    const size_t bytes = program_arena_bytes(bound);
    memory = mem_alloc_aligned(bytes ? bytes : 1);
    if (!memory) status = KILN_NO_MEMORY("test arena");
    if (memory) memset(memory, 0xa5, bytes);
  }
  /* Twice: the second run starts from what the first left behind. */
  for (int i = 0; status == KILN_OK && !d && i < 2; i++)
    status = program_run(bound, memory, params, results, workers(), false);
  for (int i = 0; i < CASE_OPERANDS; i++) mem_free_aligned(params[i].data);
  mem_free_aligned(memory);
  program_destroy(bound);
  return status;
}

bool run_kernel(const op *o, const prepared *p, const target *t, const kernel *k, run_options options, double tolerance,
                decorate_fn decorate, void *user, text *why) {
  graph *g;
  node *n;
  int param_of[CASE_OPERANDS];
  tensor results[RUN_OUTPUTS] = {{0}};
  kiln_status status = run_build(o, p, options, decorate, user, &g, &n, param_of);
  if (status != KILN_OK) {
    text_printf(why, "building: %s", kiln_last_error());
    return false;
  }
  bool ok = true;
  if (k) {
    n->tactic = k->name;
    status = plan_pack_node(n, k);
  }
  if (status == KILN_OK) status = run_program(g, t, p, options, param_of, results);
  if (options.compile) {
    ok = status == KILN_OK || status == KILN_INVALID_ARGUMENT; /* the reference may refuse the case as well */
    if (!ok) text_printf(why, "%s", kiln_last_error());
  } else if (p->status != KILN_OK) {
    ok = status != KILN_OK;
    if (!ok) text_printf(why, "the reference fails, this kernel does not");
  } else if (status != KILN_OK) {
    ok = false;
    text_printf(why, "%s", kiln_last_error());
  } else {
    for (int i = 0; ok && i < p->n_out; i++) ok = same_contents(&p->out[i], &results[i], i, tolerance, why);
  }
  for (int i = 0; i < RUN_OUTPUTS; i++) mem_free_aligned(results[i].data);
  graph_destroy(g);
  return ok;
}
