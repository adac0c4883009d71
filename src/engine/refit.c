/* Other weights for an engine that exists.
 *
 * An engine file keeps the graph as it was imported, its source, with the names of its weights. A refit gives the source
 * other contents and makes everything else anew from it: folded constants, fused and packed weights come out as a build
 * would have made them, and what a rule read off a weight's values is read again. The result is a version of its own, which
 * runs in the engine's place; contexts change to it with their next run (runtime/adopt.c), and the version before goes with
 * the last of them. */
#include <string.h>

#include "base/map.h"
#include "base/memory.h"
#include "engine/engine.h"
#include "format/safetensors.h"
#include "ops/ref.h"
#include "passes/origin.h"
#include "passes/pass.h"

enum { MAX_PROBLEMS = 40 };
enum { SMALL_WEIGHT = 1 << 16 }; /* bytes; whether larger ones have changed at all is not looked at */

/* ---- versions ---------------------------------------------------------------------------------------------------- */

static kiln_engine *unconst(const kiln_engine *e) { return (kiln_engine *)(uintptr_t)e; }

kiln_engine *engine_current(const kiln_engine *handle, uint64_t *out_generation) {
  kiln_engine *h = unconst(handle);
  pthread_mutex_lock(&h->refit_lock);
  kiln_engine *now = h->newer ? h->newer : h;
  if (out_generation) *out_generation = __atomic_load_n(&h->generation, __ATOMIC_RELAXED);
  if (now == h) h->users++;
  kiln_engine *kept = engine_retain(now);
  pthread_mutex_unlock(&h->refit_lock);
  return kept;
}

kiln_engine *engine_hold(const kiln_engine *handle, kiln_engine *version) {
  kiln_engine *h = unconst(handle);
  pthread_mutex_lock(&h->refit_lock);
  if (version == h) h->users++;
  pthread_mutex_unlock(&h->refit_lock);
  return engine_retain(version);
}

void engine_leave(const kiln_engine *handle, kiln_engine *version) {
  kiln_engine *h = unconst(handle);
  if (version == h) {
    pthread_mutex_lock(&h->refit_lock);
    if (--h->users == 0 && h->newer) engine_drop_weights(h);
    pthread_mutex_unlock(&h->refit_lock);
  }
  kiln_engine_destroy(version);
}

kiln_engine *engine_replace(kiln_engine *h, kiln_engine *version) {
  pthread_mutex_lock(&h->refit_lock);
  kiln_engine *before = h->newer;
  h->newer = version;
  __atomic_add_fetch(&h->generation, 1, __ATOMIC_RELEASE);
  if (!before && h->users == 0) engine_drop_weights(h);
  pthread_mutex_unlock(&h->refit_lock);
  return before;
}

kiln_status engine_check_weights(const kiln_engine *version) {
  if (!version->stripped) return KILN_OK;
  return KILN_FAIL(KILN_INVALID_ARGUMENT,
                   "the engine was stripped of its weights: give it the model's with `kiln refit`, Engine.refit() or "
                   "kiln_engine_refit before it runs");
}

/* ---- the list of weights ------------------------------------------------------------------------------------------ */

typedef struct weight_row {
  const char *name;
  const constant *of;
  bool used, required;
} weight_row;

static bool is_used(const graph *g, const constant *c) {
  if (c->of->uses) return true;
  for (int32_t i = 0; i < g->n_states; i++) {
    if (g->states[i].initial == c->of) return true;
  }
  return false;
}

/* Each name of each weight, in the order of the source's text. */
static kiln_status list_rows(const kiln_engine *e, const graph *source, weight_row **out, size_t *out_count) {
  size_t n = 0;
  for (const constant *c = source->constants; c; c = c->next) {
    for (const weight_name *w = c->names; w; w = w->next) n++;
  }
  weight_row *rows = mem_calloc(n + 1, sizeof *rows);
  if (!rows) return KILN_NO_MEMORY("list of weights");
  size_t at = n;
  for (const constant *c = source->constants; c; c = c->next) { /* the last one first */
    const bool used = is_used(source, c);
    size_t names = 0;
    for (const weight_name *w = c->names; w; w = w->next) names++;
    at -= names;
    for (const weight_name *w = c->names; w; w = w->next)
      rows[at++] = (weight_row){w->name, c, used, used && !engine_has_weight(e, c->weight)};
    at -= names;
  }
  *out = rows;
  *out_count = n;
  return KILN_OK;
}

/* With refit_lock held. */
static kiln_status make_listing(kiln_engine *h) {
  if (h->listing) return KILN_OK;
  kiln_engine *now = h->newer ? h->newer : h; /* listings are made before the first refit, or of what is there */
  graph *source = NULL;
  KILN_TRY(engine_source(now, &source));
  const kiln_status status = list_rows(now, source, &h->listing, &h->n_listing);
  if (status != KILN_OK) {
    graph_destroy(source);
    return status;
  }
  h->listed = source;
  return KILN_OK;
}

void engine_free_listing(kiln_engine *e) {
  mem_free(e->listing);
  graph_destroy(e->listed);
  e->listing = NULL;
  e->listed = NULL;
}

size_t kiln_engine_weight_count(const kiln_engine *engine) {
  if (!engine) return 0;
  kiln_engine *h = unconst(engine);
  pthread_mutex_lock(&h->refit_lock);
  const kiln_status status = make_listing(h);
  const size_t count = status == KILN_OK ? h->n_listing : 0;
  pthread_mutex_unlock(&h->refit_lock);
  return count;
}

static kiln_status update_required(kiln_engine *h);

kiln_status kiln_engine_weight(const kiln_engine *engine, size_t index, kiln_weight_info *out_info) {
  if (!engine || !out_info) return KILN_FAIL(KILN_INVALID_ARGUMENT, "%s is NULL", engine ? "out_info" : "engine");
  kiln_engine *h = unconst(engine);
  KILN_TRY(update_required(h));
  pthread_mutex_lock(&h->refit_lock);
  kiln_status status = make_listing(h);
  if (status == KILN_OK && index >= h->n_listing)
    status = KILN_FAIL(KILN_INVALID_ARGUMENT, "weight %zu of %zu", index, h->n_listing);
  if (status == KILN_OK) {
    const weight_row *r = &h->listing[index];
    const tensor_type *type = &r->of->of->type;
    *out_info = (kiln_weight_info){.name = r->name,
                                   .dtype = type->dtype,
                                   .rank = type->rank,
                                   .used = r->used,
                                   .required = r->required,
                                   .fixed = r->of->fixed};
    for (int32_t d = 0; d < type->rank; d++) out_info->shape[d] = type->dims[d];
  }
  pthread_mutex_unlock(&h->refit_lock);
  return status;
}

int kiln_engine_has_weights(const kiln_engine *engine) {
  if (!engine) return 0;
  kiln_engine *now = engine_current(engine, NULL);
  const int has = !now->stripped;
  engine_leave(engine, now);
  return has;
}

/* ---- problems, all at once ---------------------------------------------------------------------------------------- */

typedef struct refitter {
  kiln_engine *version; /* whose weights are replaced */
  graph *source;
  weight_row *rows;
  size_t n_rows;
  map by_name; /* name -> weight_row */
  graph
      *portable; /* of the version: originals that it has packed, and what it made of those it lacks; NULL: not read */
  bool lacks;    /* originals that are not given either */
  bool dry;      /* only asks what would be missing: nothing is unpacked, and recalled is that there is something */
  text problems;
  int n_problems;
} refitter;

static void problem(refitter *r, const char *name, const char *what) {
  if (r->n_problems++ < MAX_PROBLEMS) text_printf(&r->problems, "\n  `%.200s`: %s", name, what);
}

static void problem_type(refitter *r, const char *name, const tensor_type *expected, const kiln_tensor *t) {
  text what = {0};
  text_puts(&what, "expected ");
  type_print(r->source, expected, &what);
  text_printf(
      &what, ", got %s[",
      kiln_tensor_get_dtype(t) < KILN_DTYPE_COUNT ? kiln_dtype_name(kiln_tensor_get_dtype(t)) : "an unknown type");
  for (int32_t d = 0; d < t->ndim && d < KILN_MAX_RANK && t->shape; d++)
    text_printf(&what, d ? ",%lld" : "%lld", (long long)t->shape[d]);
  text_putc(&what, ']');
  problem(r, name, what.data ? what.data : "wrong type");
  text_free(&what);
}

static kiln_status report_problems(const refitter *r) {
  if (!r->n_problems) return KILN_OK;
  text more = {0};
  if (r->n_problems > MAX_PROBLEMS) text_printf(&more, "\n  and %d more", r->n_problems - MAX_PROBLEMS);
  const kiln_status status = KILN_FAIL(
      KILN_INVALID_ARGUMENT, "the engine keeps its weights, for %d of those given do not fit or are missing:%s%s",
      r->n_problems, r->problems.data ? r->problems.data : "", more.data ? more.data : "");
  text_free(&more);
  return status;
}

/* ---- contents ----------------------------------------------------------------------------------------------------- */

static bool same_type(const tensor_type *type, const kiln_tensor *t) {
  if (kiln_tensor_get_dtype(t) != type->dtype || t->ndim != type->rank || (t->ndim && !t->shape)) return false;
  for (int32_t d = 0; d < type->rank; d++) {
    if (t->shape[d] != type->dims[d]) return false;
  }
  return true;
}

static tensor as_tensor(const kiln_tensor *t) {
  tensor out = {.dtype = kiln_tensor_get_dtype(t), .rank = t->ndim};
  out.data = t->data ? (char *)t->data + t->byte_offset : NULL;
  for (int32_t d = 0; d < t->ndim; d++) out.shape[d] = t->shape[d];
  tensor_make_contiguous_strides(&out);
  for (int32_t d = 0; d < t->ndim && t->strides; d++) out.strides[d] = t->strides[d];
  return out;
}

static kiln_status copy_contents(constant *c, const tensor *t) {
  const size_t item = kiln_dtype_size(t->dtype);
  char *data = mem_alloc_aligned(c->size ? c->size : 1);
  if (!data) return KILN_NO_MEMORY("weights");
  if (tensor_is_contiguous(t)) {
    if (c->size) memcpy(data, t->data, c->size);
  } else {
    char *to = data;
    for (ref_iter it = ref_begin(t->rank, t->shape); ref_valid(&it); ref_next(&it), to += item) {
      int64_t at = 0;
      for (int d = 0; d < t->rank; d++) at += it.index[d] * t->strides[d];
      memcpy(to, (const char *)t->data + at * (int64_t)item, item);
    }
  }
  c->data = data;
  c->owned = true;
  return KILN_OK;
}

/* Tensors that are contiguous and aligned are borrowed until the refit is done. */
static kiln_status take_contents(constant *c, const kiln_tensor *given) {
  const tensor t = as_tensor(given);
  if (!tensor_is_contiguous(&t) || (uintptr_t)t.data % kiln_dtype_size(t.dtype) != 0) return copy_contents(c, &t);
  c->data = t.data;
  return KILN_OK;
}

/* For a weight that has contents which it must keep: it was given before, or the importer looked into it. */
static kiln_status compare_contents(constant *c, const kiln_tensor *t, bool *out_same) {
  const void *before = c->data;
  const bool owned = c->owned;
  c->owned = false;
  const kiln_status status = take_contents(c, t);
  *out_same = status == KILN_OK && (!before || c->size == 0 || memcmp(before, c->data, c->size) == 0);
  if (c->owned) mem_free_aligned((void *)(uintptr_t)c->data);
  c->data = before;
  c->owned = owned;
  return status;
}

/* Scratch of a weight's value tells that it was given, well or not. */
static kiln_status give(refitter *r, const char *name, const kiln_tensor *t) {
  const weight_row *row = map_get(&r->by_name, name);
  if (!row) {
    problem(r, name, "the engine has no such weight");
    return KILN_OK;
  }
  value *v = row->of->of;
  const void *before = v->constant->data;
  bool same = true;
  const bool first = !v->scratch;
  v->scratch = v;
  if (t->device.type != KILN_DEVICE_CPU) {
    problem(r, name, "it is not in host memory");
  } else if (!same_type(&v->type, t)) {
    problem_type(r, name, &v->type, t);
  } else if (!t->data && v->constant->size) {
    problem(r, name, "its data is NULL");
  } else if (!first || v->constant->fixed) {
    KILN_TRY(compare_contents(v->constant, t, &same));
  } else {
    KILN_TRY(take_contents(v->constant, t));
  }
  if (!same)
    problem(r, name,
            first ? "the engine was built for its old values, which decided what it computes; build it again"
                  : "given under two names with different contents");
  const constant *c = v->constant;
  if (!before || c->size > SMALL_WEIGHT || !c->data || memcmp(before, c->data, c->size) != 0)
    v->constant->changed = row->name;
  return KILN_OK;
}

static void take_portable(void *user, constant *c) {
  refitter *r = user;
  for (constant *s = r->source->constants; s; s = s->next) {
    if (!s->data && s->weight >= 0 && s->weight == c->weight && s->size == c->size) s->data = c->data;
  }
}

/* The source has it no more, and it was not given. */
static bool is_lost(const refitter *r, const constant *c) { return !c->data && c->size && is_used(r->source, c); }

/* Passes note of what is made of it that it is missing, and with which others it would be needed (passes/origin.h). */
static kiln_status mark_missing(refitter *r, constant *c) {
  weight_name *name = ARENA_NEW(&r->source->arena, weight_name);
  if (!name) return KILN_NO_MEMORY("refit");
  name->name = c->names->name;
  c->missing = name;
  r->lacks = true;
  return KILN_OK;
}

/* What was not given stays as it is: in its original form, if the engine has it in one that can be undone, or as a part of what was made
 * of it. */
static kiln_status keep_others(refitter *r) {
  bool lost = false;
  for (const constant *c = r->source->constants; c; c = c->next)
    lost = lost || is_lost(r, c) || (!c->data && engine_has_weight(r->version, c->weight));
  if (!lost) return KILN_OK;
  KILN_TRY(r->dry ? engine_portable_empty(r->version, &r->portable) : engine_portable(r->version, &r->portable));
  if (!r->dry) graph_visit_constants(r->portable, take_portable, r);
  for (constant *c = r->source->constants; c; c = c->next) {
    if (!is_lost(r, c) || c->of->scratch || (r->dry && engine_has_weight(r->version, c->weight))) continue;
    if (!c->names) return KILN_FAIL(KILN_INVALID_FILE, "engine file: a constant of its source is missing");
    KILN_TRY(mark_missing(r, c));
  }
  for (size_t i = 0; r->version->stripped && i < r->n_rows; i++) { /* in the order of the listing */
    const constant *c = r->rows[i].of;
    if (c->missing && str_eq(c->names->name, r->rows[i].name)) problem(r, r->rows[i].name, "missing");
  }
  return KILN_OK;
}

static kiln_status index_rows(refitter *r) {
  KILN_TRY(list_rows(r->version, r->source, &r->rows, &r->n_rows));
  for (size_t i = 0; i < r->n_rows; i++) {
    if (!map_put(&r->by_name, r->rows[i].name, &r->rows[i])) return KILN_NO_MEMORY("list of weights");
  }
  for (constant *c = r->source->constants; c; c = c->next) c->of->scratch = NULL;
  return KILN_OK;
}

static kiln_status fill_source(refitter *r, const char *const *names, const kiln_tensor *tensors, size_t count) {
  KILN_TRY(engine_source(r->version, &r->source));
  KILN_TRY(index_rows(r));
  if (!r->n_rows && count)
    return KILN_FAIL(
        KILN_UNSUPPORTED,
        "the engine's weights have no names: the model had none, or was a frozen TorchScript module, which forgets "
        "them; build it again of one that has");
  for (size_t i = 0; i < count; i++) {
    if (!names[i]) return KILN_FAIL(KILN_INVALID_ARGUMENT, "names[%zu] is NULL", i);
    KILN_TRY(give(r, names[i], &tensors[i]));
  }
  KILN_TRY(keep_others(r));
  if (r->problems.failed) return KILN_NO_MEMORY("refit");
  return report_problems(r);
}

/* The same inputs, outputs and states as before? Contexts rely on it. */
static bool same_frame(const graph *a, const graph *b) {
  if (a->n_inputs != b->n_inputs || a->n_outputs != b->n_outputs || a->n_states != b->n_states) return false;
  for (int32_t i = 0; i < a->body.n_params; i++) {
    const tensor_type *x = &a->body.params[i]->type, *y = &b->body.params[i]->type;
    if (x->dtype != y->dtype || x->rank != y->rank) return false;
  }
  for (int32_t i = 0; i < a->body.n_results; i++) {
    const tensor_type *x = &a->body.results[i].v->type, *y = &b->body.results[i].v->type;
    if (x->dtype != y->dtype || x->rank != y->rank) return false;
  }
  for (int32_t i = 0; i < a->n_states; i++) {
    if (a->states[i].param != b->states[i].param || a->states[i].result != b->states[i].result ||
        a->states[i].initial->constant->size != b->states[i].initial->constant->size)
      return false;
  }
  return true;
}

/* ---- what was not given, and is there only as a part of others ------------------------------------------------------ */

typedef struct recall {
  refitter *r;
  map known; /* origin -> constant of the version's portable graph */
} recall;

static void take_known(void *user, constant *c) {
  const recall *w = user;
  if (!constant_is_missing(c) || c->changed || !c->origin) return;
  const constant *old = map_get_number(&w->known, c->origin);
  if (old && old->size == c->size && type_equal(&old->of->type, &c->of->type)) c->data = w->r->dry ? "" : old->data;
}

/* Each weight once, although it may be missing in several places. */
static void tell_missing(void *user, constant *c) {
  const recall *w = user;
  if (!constant_is_missing(c)) return;
  for (weight_name *n = c->missing; n; n = n->next) {
    weight_row *row = map_get(&w->r->by_name, n->name);
    if (!row || row->of->of->scratch) continue;
    row->of->of->scratch = row->of->of;
    row->required = true;
    text what = {0};
    text_puts(&what, "missing");
    if (c->changed)
      text_printf(&what, ": the engine has only what was made of it and of `%.200s`, so both must be given",
                  c->changed);
    problem(w->r, n->name, what.data ? what.data : "missing");
    text_free(&what);
  }
}

/* A constant that no weight's name tells of cannot be asked for. */
static void count_missing(void *user, constant *c) { *(int *)user += constant_is_missing(c); }

static kiln_status recall_others(refitter *r, graph *portable) {
  recall w = {.r = r};
  int left = 0;
  if (!r->lacks) return KILN_OK;
  for (constant *c = r->portable->constants; c; c = c->next) {
    if (c->origin && (c->data || r->dry) && !map_put_number(&w.known, c->origin, c)) {
      map_free(&w.known);
      return KILN_NO_MEMORY("refit");
    }
  }
  for (size_t i = 0; i < r->n_rows; i++) r->rows[i].of->of->scratch = NULL;
  graph_visit_constants(portable, take_known, &w);
  graph_visit_constants(portable, tell_missing, &w);
  graph_visit_constants(portable, count_missing, &left);
  map_free(&w.known);
  if (r->problems.failed) return KILN_NO_MEMORY("refit");
  if (left && !r->n_problems && !r->dry) return KILN_FAIL(KILN_INTERNAL, "weights that were not given are missing");
  return KILN_OK;
}

/* ---- the new version ---------------------------------------------------------------------------------------------- */

static bool is_large(const graph *source) {
  enum { LARGE = 16 << 20 };
  size_t total = 0;
  for (const constant *c = source->constants; c && total < LARGE; c = c->next) total += c->size;
  return total >= LARGE;
}

/* Portable passes and precision. Takes r->source. */
static kiln_status make_portable(refitter *r, graph **out) {
  graph *portable = NULL;
  pool *workers = NULL;
  for (constant *c = r->source->constants; c; c = c->next) {
    c->weight = -1;
    c->of->scratch = NULL;
  }
  if (r->lacks) KILN_TRY(engine_read_origins(r->source, r->portable));
  if (graph_metadata(r->source, ENGINE_ORIGINS)) KILN_TRY(graph_set_metadata(r->source, ENGINE_ORIGINS, ""));
  KILN_TRY(graph_clone(r->source, &portable));
  portable->source = r->source;
  r->source = NULL;
  kiln_status status = passes_portable(portable, false);
  if (status == KILN_OK && !r->dry && is_large(portable->source)) status = pool_create(0, &workers);
  if (status == KILN_OK)
    status = pass_precision_on(portable, graph_metadata(portable->source, "kiln.precision"), workers);
  pool_destroy(workers);
  if (status == KILN_OK) status = recall_others(r, portable);
  if (status != KILN_OK) {
    graph_destroy(portable);
    return status;
  }
  for (constant *c = portable->constants; c; c = c->next) {
    c->changed = NULL;
    c->missing = NULL;
  }
  *out = portable;
  return KILN_OK;
}

/* Takes r->source. */
static kiln_status rebuild(refitter *r, kiln_engine **out) {
  graph *portable = NULL;
  kiln_build_options options = KILN_BUILD_OPTIONS_INIT;
  KILN_TRY(make_portable(r, &portable));
  kiln_status status = report_problems(r);
  if (status == KILN_OK)
    status = engine_from_graph_like(portable, &r->version->target, &options, r->version->plan, out);
  if (status == KILN_OK && !same_frame(r->version->plan, (*out)->plan)) {
    status =
        KILN_FAIL(KILN_UNSUPPORTED, "with these weights the model has other inputs, outputs or states; build it again");
    kiln_engine_destroy(*out);
  }
  graph_destroy(portable);
  return status;
}

static void refitter_free(refitter *r) {
  graph_destroy(r->source);
  graph_destroy(r->portable);
  map_free(&r->by_name);
  mem_free(r->rows);
  text_free(&r->problems);
}

/* What would be missing if nothing were given. */
static kiln_status find_required(refitter *r) {
  graph *portable = NULL;
  KILN_TRY(engine_source(r->version, &r->source));
  KILN_TRY(index_rows(r));
  bool any = false; /* that it has no original of; packed ones need not be unpacked to see that */
  for (size_t i = 0; i < r->n_rows; i++) any = any || r->rows[i].required;
  if (r->version->stripped || !any) return KILN_OK;
  KILN_TRY(keep_others(r));
  for (size_t i = 0; i < r->n_rows; i++) r->rows[i].required = false;
  if (!r->lacks) return KILN_OK;
  const kiln_status status = make_portable(r, &portable);
  if (status == KILN_OK) {
    r->source = portable->source; /* the rows' */
    portable->source = NULL;
    graph_destroy(portable);
  }
  return status;
}

/* After a build, and after a refit that made something else of the weights. */
static kiln_status update_required(kiln_engine *h) {
  const uint64_t now = __atomic_load_n(&h->generation, __ATOMIC_ACQUIRE) + 1;
  if (__atomic_load_n(&h->listed_generation, __ATOMIC_ACQUIRE) == now) return KILN_OK;
  pthread_mutex_lock(&h->change_lock);
  refitter r = {.version = engine_current(h, NULL), .dry = true};
  kiln_status status = find_required(&r);
  pthread_mutex_lock(&h->refit_lock);
  if (status == KILN_OK) status = make_listing(h);
  for (size_t i = 0; status == KILN_OK && i < r.n_rows && i < h->n_listing; i++) {
    const weight_row *row = map_get(&r.by_name, r.rows[i].of->names->name); /* tied ones share the first one's */
    h->listing[i].required = row && row->required && row->used;
  }
  if (status == KILN_OK) __atomic_store_n(&h->listed_generation, now, __ATOMIC_RELEASE);
  pthread_mutex_unlock(&h->refit_lock);
  engine_leave(h, r.version);
  refitter_free(&r);
  pthread_mutex_unlock(&h->change_lock);
  return status;
}

static kiln_status refit_version(refitter *r, const char *const *names, const kiln_tensor *tensors, size_t count,
                                 kiln_engine **out) {
  kiln_status status = fill_source(r, names, tensors, count);
  if (status == KILN_OK) status = rebuild(r, out);
  refitter_free(r);
  return status;
}

/* With change_lock held. */
static kiln_status refit(kiln_engine *engine, const char *const *names, const kiln_tensor *tensors, size_t count) {
  kiln_engine *version = NULL;
  pthread_mutex_lock(&engine->refit_lock);
  kiln_status status = make_listing(engine); /* the engine's own names must live on */
  pthread_mutex_unlock(&engine->refit_lock);
  KILN_TRY(status);
  refitter r = {.version = engine_current(engine, NULL)};
  status = refit_version(&r, names, tensors, count, &version);
  engine_leave(engine, r.version);
  KILN_TRY(status);
  kiln_engine_destroy(engine_replace(engine, version));
  return KILN_OK;
}

kiln_status kiln_engine_refit(kiln_engine *engine, const char *const *names, const kiln_tensor *tensors, size_t count) {
  if (!engine || (count && (!names || !tensors)))
    return KILN_FAIL(KILN_INVALID_ARGUMENT, "%s is NULL", !engine ? "engine" : names ? "tensors" : "names");
  pthread_mutex_lock(&engine->change_lock);
  const kiln_status status = refit(engine, names, tensors, count);
  pthread_mutex_unlock(&engine->change_lock);
  return status == KILN_OK ? KILN_OK : error_note(status, __FILE__, __LINE__, "refitting the engine");
}

/* ---- files -------------------------------------------------------------------------------------------------------- */

typedef struct file_weights {
  const char **names;
  kiln_tensor *tensors;
} file_weights;

static kiln_status tensors_of(const safetensors *file, file_weights *w) {
  w->names = mem_calloc(file->count + 1, sizeof *w->names);
  w->tensors = mem_calloc(file->count + 1, sizeof *w->tensors);
  if (!w->names || !w->tensors) return KILN_NO_MEMORY("weights");
  for (size_t i = 0; i < file->count; i++) {
    safetensor *t = &file->tensors[i];
    w->names[i] = t->name;
    w->tensors[i] = (kiln_tensor){
        .data = (void *)(uintptr_t)t->data, .device = {KILN_DEVICE_CPU, 0}, .ndim = t->rank, .shape = t->shape};
    if (t->dtype < KILN_DTYPE_COUNT) kiln_tensor_set_dtype(&w->tensors[i], t->dtype);
  }
  return KILN_OK;
}

kiln_status kiln_engine_refit_file(kiln_engine *engine, const char *path) {
  if (!engine || !path) return KILN_FAIL(KILN_INVALID_ARGUMENT, "%s is NULL", engine ? "path" : "engine");
  file_map mapped = {0};
  safetensors file;
  file_weights w = {0};
  KILN_TRY(file_map_open(path, &mapped));
  kiln_status status = safetensors_open(mapped.data, mapped.size, &file);
  if (status == KILN_OK) {
    status = tensors_of(&file, &w);
    if (status == KILN_OK) status = kiln_engine_refit(engine, w.names, w.tensors, file.count);
    safetensors_close(&file);
  }
  mem_free(w.names);
  mem_free(w.tensors);
  file_map_close(&mapped);
  return status == KILN_OK ? KILN_OK : error_note(status, __FILE__, __LINE__, "with the weights of %s", path);
}

/* ---- stripping ---------------------------------------------------------------------------------------------------- */

kiln_status kiln_engine_strip(const kiln_engine *engine, kiln_engine **out_stripped) {
  if (!engine || !out_stripped)
    return KILN_FAIL(KILN_INVALID_ARGUMENT, "%s is NULL", engine ? "out_stripped" : "engine");
  kiln_engine *now = engine_current(engine, NULL);
  void *bytes = NULL;
  size_t size = 0;
  kiln_status status = KILN_OK;
  if (!now->source_size) {
    graph *none = NULL;
    status = engine_source(now, &none); /* fails, with the text */
  }
  if (status == KILN_OK) status = engine_write_stripped(now, &bytes, &size);
  engine_leave(engine, now);
  KILN_TRY(status);
  status = engine_open_bytes(bytes, size, bytes, NULL, out_stripped);
  if (status != KILN_OK) mem_free_aligned(bytes);
  return status;
}
