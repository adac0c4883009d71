/* Tuner, see tuner.h. A cache line is `key \t kernel \t seconds`; the key is target, threads and the node's printed
 * form (operator, types, attributes, epilogue) without names, so equal layers are timed once, within and across
 * models. */
#include "plan/tuner.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "ops/ref.h"
#include "runtime/program.h"

struct tuner {
  arena arena;
  const target *target;
  plan_options options;
  map winners; /* key -> kernel name */
  text added;  /* cache lines */
  char *old;
  size_t old_size;
  double deadline;
  pool *workers;
  device *device; /* that tactics are timed on; NULL: the host */
  map seen;       /* keys that tuner_precompile met */
};

static kiln_status read_cache(tuner *t) {
  file_map file;
  if (!t->options.cache || file_map_open(t->options.cache, &file) != KILN_OK) {
    error_clear(); /* no cache yet */
    return KILN_OK;
  }
  t->old = arena_strndup(&t->arena, file.data, file.size);
  t->old_size = file.size;
  file_map_close(&file);
  if (!t->old) return KILN_NO_MEMORY("tactic cache");
  char *copy = arena_strndup(&t->arena, t->old, t->old_size), *rest = NULL;
  if (!copy) return KILN_NO_MEMORY("tactic cache");
  for (char *line = strtok_r(copy, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
    char *tab = strchr(line, '\t');
    char *second = tab ? strchr(tab + 1, '\t') : NULL;
    if (!second) continue; /* a damaged line costs a new timing, nothing else */
    *tab = *second = 0;
    if (!map_put(&t->winners, line, tab + 1)) return KILN_NO_MEMORY("tactic cache");
  }
  return KILN_OK;
}

/* Timings count on the very architecture only. */
static bool open_device(tuner *t) {
  target here;
  const bool same = target_parse(t->target->backend->name, &here) == KILN_OK && here.isa == t->target->isa;
  if (!same || t->target->backend->device->open(t->target, t->target->ordinal, &t->device) != KILN_OK) t->device = NULL;
  if (!t->device) error_clear();
  return t->device != NULL;
}

kiln_status tuner_create(const target *target_, const plan_options *options, tuner **out_tuner) {
  tuner *t = mem_calloc(1, sizeof *t);
  if (!t) return KILN_NO_MEMORY("tuner");
  t->target = target_;
  t->options = *options;
  t->deadline = time_now() + options->tune_seconds;
  kiln_status status = read_cache(t);
  if (status == KILN_OK && options->tune_seconds > 0) status = pool_create(options->threads, &t->workers);
  const device_hooks *h = target_->backend->device;
  if (status == KILN_OK && options->tune_seconds > 0 && h && !open_device(t)) {
    pool_destroy(t->workers); /* built for a GPU that is not here: the heuristic decides */
    t->workers = NULL;
  }
  if (status != KILN_OK) {
    t->options.cache = NULL;
    const kiln_status ignored = tuner_finish(t);
    (void)ignored;
    return status;
  }
  *out_tuner = t;
  return KILN_OK;
}

/* ---- one node as a graph of its own ------------------------------------------------------------------------------ */

static value *clone_operand(graph *g, const graph *from, const value *v) {
  tensor_type type = v->type;
  for (int32_t i = 0; i < type.rank; i++) type.dims[i] = dim_hint(from->dims, v->type.dims[i]);
  if (!v->constant) return graph_add_param(&g->body, NULL, &type);
  value *c = graph_constant(g, &type, v->constant->data);
  if (c) c->constant->packing = v->constant->packing;
  return c;
}

static attr hint_attr(graph *g, const graph *from, attr a) {
  if (a.kind == ATTR_INT) a.u.i = dim_hint(from->dims, a.u.i);
  if (a.kind == ATTR_INTS && a.count) {
    int64_t *list = ARENA_ARRAY(&g->arena, int64_t, a.count);
    for (int32_t i = 0; list && i < a.count; i++) list[i] = dim_hint(from->dims, a.u.ints[i]);
    a.u.ints = list;
  }
  return a;
}

static kiln_status single_node(const node *n, graph **out) {
  graph *g = NULL;
  const graph *from = n->parent->graph;
  KILN_TRY(graph_create(&g));
  builder b = builder_at_end(&g->body);
  value *inputs[64];
  named_attr attrs[24];
  const op_schema *schema = op_schema_of(n->op);
  for (int32_t i = 0; i < n->n_inputs && i < 64; i++)
    inputs[i] = n->inputs[i].v ? clone_operand(g, from, n->inputs[i].v) : NULL;
  for (int32_t i = 0; i < schema->n_attrs; i++)
    attrs[i] = (named_attr){schema->attrs[i].name, hint_attr(g, from, n->attrs[i])};
  node *copy = build_node(&b, n->op->name, n->own_inputs, inputs, schema->n_attrs, attrs);
  g->n_inputs = g->body.n_params;
  if (copy) block_set_results(&g->body, copy->n_outputs, copy->outputs);
  g->n_outputs = g->body.n_results;
  const kiln_status status = graph_check(g);
  if (status != KILN_OK) {
    graph_destroy(g);
    return status;
  }
  *out = g;
  return KILN_OK;
}

static void fill_random(tensor *t, uint32_t seed) {
  const int64_t n = tensor_numel(t);
  for (int64_t i = 0; i < n; i++) {
    seed = seed * 1664525u + 1013904223u;
    ref_store(t, i, dtype_is_float(t->dtype) ? (double)(seed >> 8) / (1 << 23) - 1.0 : 0.0);
  }
}

/* Median of a few runs; INFINITY if the kernel cannot be run. */
static double time_program(tuner *t, program *p, int n_in, int n_out) {
  void *memory = mem_alloc_aligned(program_arena_bytes(p));
  tensor *params = mem_calloc((size_t)n_in + 1, sizeof *params),
         *results = mem_calloc((size_t)n_out + 1, sizeof *results);
  double best = 1e30;
  bool ok = memory && params && results;
  for (int i = 0; ok && i < n_in; i++) {
    params[i] = *program_param(p, i);
    params[i].data = mem_alloc_aligned((size_t)tensor_numel(&params[i]) * kiln_dtype_size(params[i].dtype) + 1);
    ok = params[i].data != NULL;
    if (ok) fill_random(&params[i], (uint32_t)i);
  }
  for (int k = 0; ok && k < 5; k++) {
    const double start = time_now();
    for (int i = 0; i < n_out; i++) results[i] = (tensor){0};
    ok = program_run(p, memory, params, results, t->workers, false) == KILN_OK;
    const double took = time_now() - start;
    if (ok && k > 0 && took < best) best = took;
  }
  for (int i = 0; params && i < n_in; i++) mem_free_aligned(params[i].data);
  mem_free(params);
  mem_free(results);
  mem_free_aligned(memory);
  return ok ? best : 1e30;
}

static const char *key_of(tuner *t, const node *n);

/* ---- on a device ------------------------------------------------------------------------------------------------- */

enum { DEVICE_REPEATS = 12, DEVICE_ROUNDS = 3 };

/* Seconds of one run: a graph of several runs is timed, so that launches cost what they cost in engines. */
static kiln_status time_graph(const device_hooks *h, device *d, program *p, void *memory, const void *const *externals,
                              void *stream, double *out) {
  void *exec = NULL, *marks[2] = {NULL, NULL};
  KILN_TRY(program_launch(p, memory, externals, stream, false));
  KILN_TRY(h->synchronize(d, stream));
  KILN_TRY(h->capture_begin(d, stream));
  kiln_status status = KILN_OK;
  for (int i = 0; i < DEVICE_REPEATS && status == KILN_OK; i++)
    status = program_launch(p, memory, externals, stream, false);
  const kiln_status ended = h->capture_end(d, stream, status == KILN_OK, &exec);
  if (status == KILN_OK) status = ended;
  for (int i = 0; i < 2 && status == KILN_OK; i++) status = h->mark_create(d, &marks[i]);
  for (int i = 0; i <= DEVICE_ROUNDS && status == KILN_OK; i++) { /* the first one warms up */
    double seconds = 0;
    status = h->mark(d, marks[0], stream);
    if (status == KILN_OK) status = h->graph_launch(d, exec, stream);
    if (status == KILN_OK) status = h->mark(d, marks[1], stream);
    if (status == KILN_OK) status = h->seconds_between(d, marks[0], marks[1], &seconds);
    if (status == KILN_OK && i > 0 && seconds / DEVICE_REPEATS < *out) *out = seconds / DEVICE_REPEATS;
  }
  for (int i = 0; i < 2; i++) h->mark_destroy(d, marks[i]);
  h->graph_destroy(d, exec);
  return status;
}

static kiln_status fill_on_device(const device_hooks *h, device *d, const tensor *like, void *there, uint32_t seed) {
  tensor here = *like;
  const size_t bytes = (size_t)tensor_numel(&here) * kiln_dtype_size(here.dtype);
  here.data = mem_alloc_aligned(bytes + 1);
  if (!here.data) return KILN_NO_MEMORY("tuner");
  fill_random(&here, seed);
  kiln_status status = h->upload(d, NULL, there, here.data, bytes);
  if (status == KILN_OK) status = h->synchronize(d, NULL);
  mem_free_aligned(here.data);
  return status;
}

/* Parameters and results are in the staging areas of the arena. */
static double time_on_device(tuner *t, program *p, int n_in, int n_out) {
  const device_hooks *h = t->target->backend->device;
  device *d = t->device;
  const size_t bytes = program_arena_bytes(p);
  void *memory = NULL, *stream = NULL;
  double seconds = 1e30;
  const void **externals = mem_calloc((size_t)(n_in + n_out) + 1, sizeof *externals);
  if (!externals || h->allocate(d, bytes, "tuning", &memory) != KILN_OK) {
    mem_free(externals);
    return seconds;
  }
  kiln_status status = h->stream_create(d, &stream);
  if (status == KILN_OK) status = h->enter(d);
  if (status == KILN_OK) {
    for (int i = 0; i < n_in && status == KILN_OK; i++) {
      externals[i] = (char *)memory + program_staging(p, false, i);
      status = fill_on_device(h, d, program_param(p, i), (char *)memory + program_staging(p, false, i), (uint32_t)i);
    }
    for (int i = 0; i < n_out; i++) externals[n_in + i] = (char *)memory + program_staging(p, true, i);
    if (status == KILN_OK) status = time_graph(h, d, p, memory, externals, stream, &seconds);
    h->leave(d);
  }
  h->stream_destroy(d, stream);
  h->release(d, memory, bytes);
  mem_free(externals);
  return status == KILN_OK ? seconds : 1e30;
}

/* A program of `n` alone with kernel `k`. The epilogue is left out: it costs all tactics about the same. */
static kiln_status alone(tuner *t, const node *n, const kernel *k, graph **out_graph, program **out_program) {
  const int64_t none = 0;
  KILN_TRY(single_node(n, out_graph));
  node *copy = (*out_graph)->body.last;
  copy->tactic = k->name;
  KILN_TRY(plan_pack_node(copy, k));
  return program_create_on(*out_graph, t->target, t->device, &none, pool_threads(t->workers), out_program);
}

static void request(tuner *t, const node *n) {
  const kernel *tactics[32];
  const int count = backend_tactics(t->target, n, tactics, 32, NULL);
  const char *key = count > 1 ? key_of(t, n) : NULL;
  if (!key || map_has(&t->seen, key) || map_get(&t->winners, key) || !map_put(&t->seen, key, t)) return;
  for (int i = 0; i < count; i++) {
    graph *g = NULL;
    program *p = NULL;
    if (alone(t, n, tactics[i], &g, &p) != KILN_OK) error_clear();
    program_destroy(p);
    graph_destroy(g);
  }
}

static void request_block(tuner *t, const block *b) {
  for (const node *n = b->first; n && time_now() < t->deadline; n = n->next) {
    if (n->op->flags & OP_CONTROL_FLOW) {
      for (int32_t i = 0; i < n->n_blocks; i++) request_block(t, n->blocks[i]);
    } else if (!(n->op->flags & OP_VIEW)) {
      request(t, n);
    }
  }
}

void tuner_precompile(tuner *t, const block *b) {
  const device_hooks *h = t->target->backend->device;
  if (!t->device) return;
  h->defer(t->device, true);
  request_block(t, b);
  h->defer(t->device, false);
  if (h->finish_prepare(t->device, pool_threads(t->workers)) != KILN_OK) error_clear();
}

static double time_kernel(tuner *t, const node *n, const kernel *k) {
  graph *g = NULL;
  program *p = NULL;
  double seconds = 1e30;
  const int64_t none = 0;
  if (t->device) {
    if (alone(t, n, k, &g, &p) == KILN_OK) seconds = time_on_device(t, p, g->n_inputs, g->n_outputs);
  } else if (single_node(n, &g) == KILN_OK) {
    g->body.last->tactic = k->name;
    if (plan_pack_node(g->body.last, k) == KILN_OK &&
        program_create(g, t->target, &none, pool_threads(t->workers), &p) == KILN_OK)
      seconds = time_program(t, p, g->n_inputs, g->n_outputs);
  }
  program_destroy(p);
  graph_destroy(g);
  error_clear();
  return seconds;
}

/* ---- choosing ---------------------------------------------------------------------------------------------------- */

static const char *key_of(tuner *t, const node *n) {
  text k = {0};
  const graph *g = n->parent->graph;
  text_printf(&k, "%s t%d %s", t->target->name, pool_threads(t->workers), n->op->name);
  for (int32_t i = 0; i < n->n_inputs; i++) {
    text_putc(&k, ' ');
    if (!n->inputs[i].v) continue;
    tensor_type type = n->inputs[i].v->type;
    for (int32_t d = 0; d < type.rank; d++) type.dims[d] = dim_hint(g->dims, type.dims[d]);
    type_print(g, &type, &k);
    if (n->inputs[i].v->constant) text_putc(&k, 'c');
  }
  for (int32_t i = 0; i < op_schema_of(n->op)->n_attrs; i++) {
    const attr *a = &n->attrs[i];
    if (a->kind == ATTR_FLOAT) text_printf(&k, " %g", a->u.f);
    if (a->kind == ATTR_INT || a->kind == ATTR_BOOL || a->kind == ATTR_DTYPE)
      text_printf(&k, " %lld", (long long)dim_hint(g->dims, a->u.i));
    if (a->kind == ATTR_STR) text_printf(&k, " %s", a->u.s);
    for (int32_t m = 0; a->kind == ATTR_INTS && m < a->count; m++)
      text_printf(&k, m ? ",%lld" : " %lld", (long long)dim_hint(g->dims, a->u.ints[m]));
  }
  for (const node *m = n->epilogue ? n->epilogue->first : NULL; m; m = m->next) text_printf(&k, " +%s", m->op->name);
  const char *kept = k.failed ? NULL : arena_strdup(&t->arena, k.data);
  text_free(&k);
  return kept;
}

const kernel *tuner_choose(tuner *t, const node *n, const kernel *const *tactics, int count) {
  int candidates = count; /* the reference is no candidate where there is a real kernel */
  if (count > 1 && tactics[count - 1] == &reference_kernel) candidates--;
  if (candidates < 2 || (!t->workers && !t->options.cache)) return tactics[0];
  const char *key = key_of(t, n);
  if (!key) return tactics[0];
  const char *known = map_get(&t->winners, key);
  for (int i = 0; known && i < candidates; i++) {
    if (str_eq(tactics[i]->name, known)) return tactics[i];
  }
  if (!t->workers || (n->epilogue && !t->device) || time_now() > t->deadline) return tactics[0];
  int best = 0;
  double best_seconds = 1e30;
  for (int i = 0; i < candidates; i++) {
    const double seconds = time_kernel(t, n, tactics[i]);
    if (seconds < best_seconds) {
      best = i;
      best_seconds = seconds;
    }
  }
  text_printf(&t->added, "%s\t%s\t%.3g\n", key, tactics[best]->name, best_seconds);
  (void)map_put(&t->winners, key, (void *)(uintptr_t)tactics[best]->name);
  return tactics[best];
}

kiln_status tuner_finish(tuner *t) {
  if (!t) return KILN_OK;
  kiln_status status = KILN_OK;
  if (t->options.cache && t->added.length) {
    const file_span spans[] = {{t->old ? t->old : "", t->old_size}, {t->added.data, t->added.length}};
    status = file_write_atomic(t->options.cache, spans, 2);
  }
  pool_destroy(t->workers);
  if (t->device) t->target->backend->device->close(t->device);
  map_free(&t->seen);
  text_free(&t->added);
  map_free(&t->winners);
  arena_free(&t->arena);
  mem_free(t);
  return status;
}
