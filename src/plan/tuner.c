/* Tuner, see tuner.h. A cache line is `key \t kernel \t seconds \t heuristic's seconds`; the key is target, threads (or
 * the device's name) and the node's printed form (operator, types, attributes, epilogue) without names, so equal layers
 * are timed once, within and across models. */
#include "plan/tuner_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "ops/ref.h"

static kiln_status keep_winner(tuner *t, const char *key, const winner *w) {
  winner *kept = arena_copy(&t->arena, w, sizeof *w);
  return kept && map_put(&t->winners, key, kept) ? KILN_OK : KILN_NO_MEMORY("tactic cache");
}

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
    winner w = {.kernel = tab + 1};
    char *end = NULL;
    w.seconds = strtod(second + 1, &end);
    if (*end == '\t') w.heuristic = strtod(end + 1, &end);
    if (!(w.seconds >= 0 && w.heuristic >= 0)) w.seconds = w.heuristic = 0;
    KILN_TRY(keep_winner(t, line, &w));
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
  t->start = time_now();
  t->deadline = t->start + options->tune_seconds;
  kiln_status status = read_cache(t);
  if (status == KILN_OK && options->tune_seconds > 0) status = pool_create(options->threads, &t->workers);
  const device_hooks *h = target_->backend->device;
  const bool wanted = options->tune_seconds > 0 || options->cache;
  if (status == KILN_OK && wanted && h && !open_device(t) && t->workers) {
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

static void hint_type(const graph *from, tensor_type *type) {
  for (int32_t i = 0; i < type->rank; i++) type->dims[i] = dim_hint(from->dims, type->dims[i]);
}

/* The epilogue's copy with sizes in the place of symbols. */
static kiln_status clone_epilogue(graph *g, const node *n, node *copy) {
  const graph *from = n->parent->graph;
  value *extra[64];
  block *e = graph_new_block(g, copy);
  if (!e) return graph_check(g);
  KILN_TRY(block_clone(n->epilogue, e));
  for (int32_t i = 0; i < e->n_params; i++) hint_type(from, &e->params[i]->type);
  for (node *m = e->first; m; m = m->next) {
    for (int32_t i = 0; i < m->n_outputs; i++) hint_type(from, &m->outputs[i]->type);
    for (int32_t i = 0; i < op_schema_of(m->op)->n_attrs; i++) m->attrs[i] = hint_attr(g, from, m->attrs[i]);
  }
  const int32_t count = n->n_inputs - n->own_inputs;
  if (count > 64) return KILN_FAIL(KILN_UNSUPPORTED, "an epilogue of %d operands", (int)count);
  for (int32_t i = 0; i < count; i++) extra[i] = clone_operand(g, from, n->inputs[n->own_inputs + i].v);
  node_set_epilogue(copy, e, count, extra);
  copy->outputs[0]->type = n->outputs[0]->type;
  hint_type(from, &copy->outputs[0]->type);
  return graph_check(g);
}

static kiln_status single_node(const node *n, bool epilogue, graph **out) {
  graph *g = NULL;
  const graph *from = n->parent->graph;
  const char *precision = graph_metadata(from, "kiln.precision");
  KILN_TRY(graph_create(&g));
  if (precision && graph_set_metadata(g, "kiln.precision", precision) != KILN_OK) error_clear(); /* graph_check tells */
  builder b = builder_at_end(&g->body);
  value *inputs[64];
  named_attr attrs[24];
  const op_schema *schema = op_schema_of(n->op);
  for (int32_t i = 0; i < n->own_inputs && i < 64; i++)
    inputs[i] = n->inputs[i].v ? clone_operand(g, from, n->inputs[i].v) : NULL;
  for (int32_t i = 0; i < schema->n_attrs; i++)
    attrs[i] = (named_attr){schema->attrs[i].name, hint_attr(g, from, n->attrs[i])};
  node *copy = build_node(&b, n->op->name, n->own_inputs, inputs, schema->n_attrs, attrs);
  kiln_status status = graph_check(g);
  if (status == KILN_OK && epilogue && n->epilogue) status = clone_epilogue(g, n, copy);
  g->n_inputs = g->body.n_params;
  if (status == KILN_OK) block_set_results(&g->body, copy->n_outputs, copy->outputs);
  g->n_outputs = g->body.n_results;
  if (status == KILN_OK) status = graph_check(g);
  if (status != KILN_OK) {
    graph_destroy(g);
    return status;
  }
  *out = g;
  return KILN_OK;
}

void tuner_fill(tensor *t, uint32_t seed) {
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
    if (ok) tuner_fill(&params[i], (uint32_t)i);
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

kiln_status tuner_alone(tuner *t, const node *n, const kernel *k, graph **out_graph, program **out_program) {
  const int64_t none = 0;
  KILN_TRY(single_node(n, true, out_graph));
  node *copy = (*out_graph)->body.last;
  copy->tactic = k->name;
  KILN_TRY(plan_pack_node(copy, k));
  return program_create_on(*out_graph, t->target, t->device, &none, pool_threads(t->workers), out_program);
}

/* Is `k` worth timing, and how many of `tactics` are: those that are compiled, and libraries that are here. */
static int device_candidates(tuner *t, const kernel *const *tactics, int count, const kernel **out) {
  int n = 0, own = 0;
  for (int i = 0; i < count; i++) {
    if (tactics[i]->needs ? tactics[i]->needs(t->device) == KILN_OK : own++ < t->compiled) out[n++] = tactics[i];
  }
  error_clear();
  return n;
}

enum { MAX_TACTICS = 64, WAVE = 4 };

/* Asks for the kernels of tactics [from, from + WAVE). */
static bool request(tuner *t, const node *n, int from) {
  const kernel *tactics[MAX_TACTICS];
  const int count = backend_tactics(t->target, n, tactics, MAX_TACTICS, NULL);
  const char *key = count > 1 ? key_of(t, n) : NULL;
  if (!key || n->tactic || map_get(&t->winners, key)) return false;
  void *const wave = (void *)(uintptr_t)(from + 1);
  if (map_get(&t->seen, key) == wave || !map_put(&t->seen, key, wave)) return false;
  bool any = false;
  for (int i = 0, own = 0; i < count; i++) {
    graph *g = NULL;
    program *p = NULL;
    if (tactics[i]->needs) continue; /* nothing to compile */
    if (own++ < from || own > from + WAVE) continue;
    any = true;
    if (tuner_alone(t, n, tactics[i], &g, &p) != KILN_OK) error_clear();
    program_destroy(p);
    graph_destroy(g);
  }
  return any;
}

static bool request_block(tuner *t, const block *b, int from) {
  bool any = false;
  for (const node *n = b->first; n && time_now() < t->deadline; n = n->next) {
    if (n->op->flags & OP_CONTROL_FLOW) {
      for (int32_t i = 0; i < n->n_blocks; i++) any = request_block(t, n->blocks[i], from) || any;
    } else if (!(n->op->flags & OP_VIEW)) {
      any = request(t, n, from) || any;
    }
  }
  return any;
}

/* The likeliest tactics first: how long compiling takes is known only afterwards. */
void tuner_precompile(tuner *t, const block *b, int part, int parts) {
  const device_hooks *h = t->target->backend->device;
  const int before = t->compiled;
  if (!t->device || !t->workers) return;
  for (const constant *c = b->graph->constants; c && part == 0; c = c->next) t->weight_bytes += c->size;
  const double until = t->start + 0.7 * t->options.tune_seconds * (part + 1) / parts;
  double last = 0;
  t->compiled = 0;
  for (bool more = true; more && t->compiled < MAX_TACTICS && time_now() + last < until;) {
    const double begin = time_now();
    h->defer(t->device, true);
    more = request_block(t, b, t->compiled);
    h->defer(t->device, false);
    if (h->finish_prepare(t->device, pool_threads(t->workers)) != KILN_OK) error_clear();
    t->compiled += WAVE;
    last = time_now() - begin;
  }
  if (part > 0 && before < t->compiled) t->compiled = before; /* what is compiled for all */
}

static double time_kernel(tuner *t, const node *n, const kernel *k) {
  graph *g = NULL;
  program *p = NULL;
  double seconds = tuner_failed;
  const int64_t none = 0;
  if (single_node(n, false, &g) == KILN_OK) {
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
  const char *precision = graph_metadata(g, "kiln.precision"); /* of sums in fp32 */
  if (t->device)
    text_printf(&k, "%s %s %s %s", t->target->name, t->target->backend->device->info(t->device).name,
                precision ? precision : "fp32", n->op->name);
  else
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

/* What `kiln inspect --plan` shows. */
static void note_timing(node *n, const winner *w) {
  text line = {0};
  graph *g = n->parent->graph;
  if (w->seconds <= 0 || w->seconds >= tuner_failed) return;
  text_printf(&line, "%.3g us", w->seconds * 1e6);
  if (w->heuristic > 0 && w->heuristic < tuner_failed) text_printf(&line, ", heuristic %.3g us", w->heuristic * 1e6);
  if (w->count) text_printf(&line, ", best of %d", w->count);
  if (!line.failed) n->timing = arena_strdup(&g->arena, line.data);
  text_free(&line);
}

static const kernel *choose_on_host(tuner *t, const node *n, const kernel *const *tactics, int count, winner *w) {
  int best = 0;
  w->seconds = tuner_failed;
  for (int i = 0; i < count; i++) {
    const double seconds = time_kernel(t, n, tactics[i]);
    if (i == 0) w->heuristic = seconds;
    if (seconds < w->seconds) {
      best = i;
      w->seconds = seconds;
    }
  }
  w->count = count;
  return tactics[best];
}

/* NULL: nothing was timed. */
static const kernel *choose_on_device(tuner *t, const node *n, const kernel *const *tactics, int count, winner *w) {
  const kernel *list[MAX_TACTICS];
  int best = 0;
  count = device_candidates(t, tactics, count, list);
  if (count < 2 || list[0] != tactics[0]) return NULL;
  if (tuner_device_choose(t, n, list, count, &best, w) == KILN_OK) return list[best];
  error_clear();
  return NULL;
}

const kernel *tuner_choose(tuner *t, node *n, const kernel *const *tactics, int count) {
  int candidates = count; /* the reference is no candidate where there is a real kernel */
  if (count > 1 && tactics[count - 1] == &reference_kernel) candidates--;
  if (candidates < 2 || (!t->workers && !t->options.cache)) return tactics[0];
  const char *key = key_of(t, n);
  if (!key) return tactics[0];
  const winner *known = map_get(&t->winners, key);
  for (int i = 0; known && i < candidates; i++) {
    if (!str_eq(tactics[i]->name, known->kernel)) continue;
    if (tactics[i]->needs && (!t->device || tactics[i]->needs(t->device) != KILN_OK)) {
      error_clear(); /* the cache is from a machine that has the library */
      break;
    }
    note_timing(n, known);
    t->changed += i != 0;
    return tactics[i];
  }
  if (!t->workers || (n->epilogue && !t->device) || time_now() > t->deadline) return tactics[0];
  winner w = {0};
  const kernel *best =
      t->device ? choose_on_device(t, n, tactics, candidates, &w) : choose_on_host(t, n, tactics, candidates, &w);
  if (!best) return tactics[0];
  w.kernel = best->name;
  text_printf(&t->added, "%s\t%s\t%.3g\t%.3g\n", key, w.kernel, w.seconds, w.heuristic);
  if (keep_winner(t, key, &w) != KILN_OK) error_clear();
  note_timing(n, &w);
  t->changed += best != tactics[0];
  return best;
}

bool tuner_wants_comparison(const tuner *t) { return t->device && t->workers && t->changed > 0; }

bool tuner_rejects(tuner *t, graph *tuned, graph *plain, text *why) {
  double seconds[2] = {0, 0};
  graph *const plans[2] = {tuned, plain};
  if (tuner_device_compare(t, plans, seconds) != KILN_OK) {
    error_clear(); /* too large for the memory, say: layers were compared one by one */
    return false;
  }
  const bool worse = seconds[0] > seconds[1] * 1.005;
  if (why)
    text_printf(why, "tuned plan: %.4g ms, plan of the cost model: %.4g ms; the %s is taken\n", seconds[0] * 1e3,
                seconds[1] * 1e3, worse ? "second" : "first");
  return worse;
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
