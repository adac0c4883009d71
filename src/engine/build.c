/* Building: model file -> portable graph -> plan -> engine bytes -> engine. */
#include <string.h>

#include "base/memory.h"
#include "engine/engine.h"
#include "graph/complex_io.h"
#include "import/export.h"
#include "import/torchscript/torchscript.h"
#include "passes/pass.h"

/* ---- import ------------------------------------------------------------------------------------------------------ */

static bool is_zip(const void *bytes, size_t size) { return size >= 4 && memcmp(bytes, "PK\3\4", 4) == 0; }

static int find_input(const graph *g, const char *name) {
  for (int32_t i = 0; i < g->n_inputs; i++) {
    if (str_eq(g->input_names[i], name)) return i;
  }
  return -1;
}

/* Narrows the ranges of the model's symbols to what one input spec says. */
static kiln_status apply_input(graph *g, const kiln_input_spec *spec, int at) {
  const tensor_type *type = &g->body.params[at]->type;
  const char *name = g->input_names[at];
  if (spec->constant)
    return KILN_FAIL(KILN_INVALID_ARGUMENT, "input \"%s\" is a tensor and cannot be fixed to \"%.60s\"", name,
                     spec->constant);
  const bool is_complex = graph_input_is_complex(g, at);
  const int32_t pair = is_complex && (spec->is_complex || spec->rank == type->rank - 1); /* the model's sizes */
  if (spec->is_complex && !is_complex)
    return KILN_FAIL(KILN_INVALID_ARGUMENT, "input \"%s\" is real in the model, the specification says complex", name);
  if (spec->rank + pair != type->rank)
    return KILN_FAIL(KILN_INVALID_ARGUMENT, "input \"%s\" has %d dimensions in the model, the specification has %d",
                     name, type->rank - is_complex, spec->rank);
  if (spec->dtype != KILN_DTYPE_COUNT && spec->dtype != type->dtype)
    return KILN_FAIL(KILN_INVALID_ARGUMENT, "input \"%s\" is %s in the model, the specification says %s", name,
                     kiln_dtype_name(type->dtype), kiln_dtype_name(spec->dtype));
  for (int32_t d = 0; d < spec->rank; d++) {
    const int64_t lo = spec->min[d], opt = spec->opt[d], hi = spec->max[d];
    const int s = dim_symbol_index(g->dims, type->dims[d]);
    if (lo > opt || opt > hi || lo < 0)
      return KILN_FAIL(KILN_INVALID_ARGUMENT,
                       "input \"%s\", dimension %d: min %lld, opt %lld, max %lld are not in order", name, (int)d,
                       (long long)lo, (long long)opt, (long long)hi);
    if (dim_is_const(type->dims[d])) {
      if (lo != type->dims[d] || hi != type->dims[d])
        return KILN_FAIL(
            KILN_INVALID_ARGUMENT,
            "input \"%s\", dimension %d is fixed at %lld in the model, the specification wants %lld to %lld: "
            "export the model with a dynamic dimension there",
            name, (int)d, (long long)type->dims[d], (long long)lo, (long long)hi);
      continue;
    }
    if (s < 0) continue; /* an expression of other sizes */
    int64_t min = 0, max = 0, old = 0;
    dim_symbol_range(g->dims, s, &min, &max, &old);
    if (lo < min || hi > max)
      return KILN_FAIL(KILN_INVALID_ARGUMENT,
                       "input \"%s\", dimension %d: %lld to %lld lies outside the model's own range %lld to %lld", name,
                       (int)d, (long long)lo, (long long)hi, (long long)min, (long long)max);
    dim_symbol_set_range(g->dims, s, lo, hi, opt);
  }
  return KILN_OK;
}

static kiln_status apply_inputs(graph *g, const kiln_build_options *o) {
  for (size_t i = 0; o && i < o->input_count; i++) {
    const kiln_input_spec *spec = &o->inputs[i];
    const int at = spec->name ? find_input(g, spec->name) : (i < (size_t)g->n_inputs ? (int)i : -1);
    if (at < 0) {
      text known = {0};
      for (int32_t k = 0; k < g->n_inputs; k++) text_printf(&known, k ? ", %s" : "%s", g->input_names[k]);
      const kiln_status status = KILN_FAIL(KILN_INVALID_ARGUMENT, "the model has no input \"%s\"; it has: %s",
                                           spec->name ? spec->name : "?", known.data ? known.data : "none");
      text_free(&known);
      return status;
    }
    KILN_TRY(apply_input(g, spec, at));
  }
  return KILN_OK;
}

static kiln_status progress(const kiln_build_options *o, const char *stage, double fraction) {
  if (o && o->progress && o->progress(o->progress_user, stage, fraction))
    return KILN_FAIL(KILN_INVALID_ARGUMENT, "cancelled");
  return KILN_OK;
}

/* What kind of file it is, its content tells. */
static kiln_status import_file(const void *bytes, size_t size, const char *origin, const kiln_build_options *options,
                               graph **out) {
  if (!is_zip(bytes, size))
    return KILN_FAIL(KILN_INVALID_FILE,
                     "%s: not a model file that Kiln knows; expected a .pt2 archive made by torch.export.save, or a "
                     "TorchScript archive made by torch.jit.save",
                     origin);
  if (torchscript_detect(bytes, size)) return torchscript_import(bytes, size, origin, options, out);
  KILN_TRY(export_import_calibrated(bytes, size, origin, options ? options->calibration_cache : NULL, out));
  const kiln_status status = apply_inputs(*out, options);
  if (status != KILN_OK) graph_destroy(*out);
  return status;
}

/* ---- optimization profiles ------------------------------------------------------------------------------------- */

/* Profile k's spec of an input fits the first profile's. */
static kiln_status check_profile(const kiln_input_spec *first, const kiln_input_spec *s, size_t k, size_t i) {
  const char *name = first->name ? first->name : "by position";
  if (!str_eq(first->name, s->name) || s->rank != first->rank || s->dtype != first->dtype ||
      !str_eq(first->constant, s->constant) || !s->is_complex != !first->is_complex || s->rank < 0 ||
      s->rank > KILN_MAX_RANK)
    return KILN_FAIL(
        KILN_INVALID_ARGUMENT,
        "optimization profile %zu, input %zu (%.60s): name, type, number of dimensions and constant must be those "
        "of profile 0",
        k, i, name);
  for (int32_t d = 0; d < s->rank; d++) {
    if (s->min[d] < 0 || s->min[d] > s->opt[d] || s->opt[d] > s->max[d])
      return KILN_FAIL(
          KILN_INVALID_ARGUMENT,
          "optimization profile %zu, input %zu (%.60s), dimension %d: min %lld, opt %lld, max %lld are not in order", k,
          i, name, (int)d, (long long)s->min[d], (long long)s->opt[d], (long long)s->max[d]);
  }
  return KILN_OK;
}

/* One spec for each input that spans those of all profiles. */
static kiln_status span_profiles(const kiln_build_options *o, kiln_input_spec *out) {
  memcpy(out, o->inputs, o->input_count * sizeof *out);
  for (size_t k = 0; k < o->profile_count; k++) {
    for (size_t i = 0; i < o->input_count; i++) {
      const kiln_input_spec *s = &o->inputs[k * o->input_count + i];
      KILN_TRY(check_profile(&o->inputs[i], s, k, i));
      for (int32_t d = 0; d < s->rank; d++) {
        if (s->min[d] < out[i].min[d]) out[i].min[d] = s->min[d];
        if (s->max[d] > out[i].max[d]) out[i].max[d] = s->max[d];
      }
    }
  }
  return KILN_OK;
}

static kiln_status declare_profiles(graph *g, const kiln_build_options *o) {
  int32_t *at = mem_calloc(o->input_count, sizeof *at);
  if (!at) return KILN_NO_MEMORY("optimization profiles");
  for (size_t i = 0; i < o->input_count; i++) {
    const char *name = o->inputs[i].name;
    at[i] = o->inputs[i].constant ? -1 : name ? find_input(g, name) : i < (size_t)g->n_inputs ? (int32_t)i : -1;
    const int32_t rank = at[i] < 0 ? 0 : g->body.params[at[i]]->type.rank;
    const bool pairs = at[i] >= 0 && graph_input_is_complex(g, at[i]) && rank == o->inputs[i].rank + 1;
    if (at[i] >= 0 && rank != o->inputs[i].rank && !pairs) at[i] = -1;
  }
  const kiln_status status = profiles_write(g, o->inputs, o->input_count, at, o->profile_count);
  mem_free(at);
  return status;
}

static kiln_status import_with_profiles(const void *bytes, size_t size, const char *origin,
                                        const kiln_build_options *options, graph **out) {
  if (!options || options->profile_count < 2) return import_file(bytes, size, origin, options, out);
  kiln_build_options spanned = *options;
  kiln_input_spec *specs = mem_calloc(options->input_count, sizeof *specs);
  if (!specs) return KILN_NO_MEMORY("optimization profiles");
  spanned.inputs = specs;
  kiln_status status = span_profiles(options, specs);
  if (status == KILN_OK) status = import_file(bytes, size, origin, &spanned, out);
  mem_free(specs);
  KILN_TRY(status);
  status = declare_profiles(*out, options);
  if (status != KILN_OK) graph_destroy(*out);
  return status;
}

kiln_status model_import(const void *bytes, size_t size, const char *origin, const kiln_build_options *options,
                         graph **out) {
  graph *g = NULL;
  KILN_TRY(ops_init());
  KILN_TRY(import_with_profiles(bytes, size, origin, options, &g));
  kiln_status status = progress(options, "optimizing", 0.2);
  if (status == KILN_OK) status = pass_dead_code(g);
  if (status == KILN_OK) status = graph_clone(g, &g->source);
  if (status == KILN_OK) status = passes_portable(g, false);
  if (status != KILN_OK) {
    graph_destroy(g);
    return status;
  }
  *out = g;
  return KILN_OK;
}

/* ---- build ------------------------------------------------------------------------------------------------------- */

static void number_constant(void *user, constant *c) {
  int64_t *next = user;
  if (c->weight < 0) c->weight = (*next)++;
}
static void clear_number(void *user, constant *c) {
  (void)user;
  c->weight = -1;
}

static kiln_status check_options(const kiln_build_options *o, target *t) {
  if (o && o->struct_size != sizeof *o)
    return KILN_FAIL(KILN_INVALID_ARGUMENT, "options.struct_size is %zu, expected %zu: use KILN_BUILD_OPTIONS_INIT",
                     o->struct_size, sizeof *o);
  if (o && !(o->tune_seconds >= 0)) return KILN_FAIL(KILN_INVALID_ARGUMENT, "tune_seconds must be 0 or more");
  if (o && o->input_count && !o->inputs) return KILN_FAIL(KILN_INVALID_ARGUMENT, "options.inputs is NULL");
  if (o && o->profile_count > MAX_PROFILES)
    return KILN_FAIL(KILN_INVALID_ARGUMENT, "options.profile_count is %zu, at most %d are possible", o->profile_count,
                     MAX_PROFILES);
  if (o && o->profile_count > 1 && !o->input_count)
    return KILN_FAIL(KILN_INVALID_ARGUMENT, "options.profile_count is %zu, but there are no inputs", o->profile_count);
  return target_parse(o ? o->target : NULL, t);
}

/* Planning and tuning count from 0 to 1: between 0.3 and 0.6 of the whole. */
static int plan_progress(void *user, const char *stage, double fraction) {
  const kiln_build_options *o = user;
  return o->progress(o->progress_user, stage, 0.3 + 0.3 * fraction);
}
static kiln_status kernel_progress(void *user, double part) { return progress(user, "compiling", 0.6 + 0.3 * part); }

static kiln_status build_bytes(graph *portable, const target *t, const kiln_build_options *o, const graph *like,
                               pool *workers, void **out_bytes, size_t *out_size) {
  plan_options options = {0};
  if (o)
    options = (plan_options){.tune_seconds = o->tune_seconds,
                             .cache = o->tactic_cache,
                             .threads = o->threads,
                             .progress = o->progress ? plan_progress : NULL,
                             .progress_user = (void *)(uintptr_t)o,
                             .allow_host_fallback = o->allow_host_fallback != 0};
  graph *plan = NULL;
  options.like = like;
  text why = {0};
  int64_t next = 0;
  graph_visit_constants(portable, clear_number, NULL);
  graph_visit_constants(portable, number_constant, &next);
  text_puts(&why, "");
  kiln_status status = plan_create(portable, t, &options, &plan, &why);
  if (status == KILN_OK && why.failed) status = KILN_NO_MEMORY("report");
  if (status == KILN_OK) status = progress(o, "compiling", 0.6);
  if (status == KILN_OK && like) { /* other weights seldom need other ones, which are compiled when bound */
    plan->kernels = like->kernels;
    plan->kernels_size = like->kernels_size;
  } else if (status == KILN_OK) {
    status = plan_compile_kernels(plan, t, o ? o->threads : 0, kernel_progress, (void *)(uintptr_t)o);
  }
  if (status == KILN_OK) status = progress(o, "writing", 0.9);
  if (status == KILN_OK)
    status = engine_write_on(portable, plan, t, why.data ? why.data : "", workers, out_bytes, out_size);
  text_free(&why);
  graph_destroy(plan);
  return status;
}

kiln_status engine_from_graph(graph *portable, const target *t, const kiln_build_options *o, kiln_engine **out) {
  return engine_from_graph_like(portable, t, o, NULL, out);
}

/* What a refit has to know, for the options are gone then. */
static kiln_status note_options(graph *source, const kiln_build_options *o) {
  if (o && o->precision) KILN_TRY(graph_set_metadata(source, "kiln.precision", o->precision));
  return KILN_OK;
}

/* Are there so many that rounding and copying them is worth threads of its own? */
static bool has_large_weights(const graph *g) {
  enum { LARGE = 16 << 20 };
  size_t total = 0;
  for (const constant *c = g->constants; c && total < LARGE; c = c->next) total += c->size;
  return total >= LARGE;
}

kiln_status engine_from_graph_like(graph *portable, const target *t, const kiln_build_options *o, const graph *like,
                                   kiln_engine **out) {
  void *bytes = NULL;
  size_t size = 0;
  if (o && o->precision && !str_eq(o->precision, "fp32") && !t->backend->device)
    return KILN_FAIL(KILN_UNSUPPORTED, "precision \"%.40s\": target %s computes in fp32 only", o->precision, t->name);
  if (portable->source) KILN_TRY(note_options(portable->source, o));
  pool *workers = NULL;
  if (has_large_weights(portable)) KILN_TRY(pool_create(o ? o->threads : 0, &workers));
  kiln_status status = pass_precision_on(portable, o ? o->precision : NULL, workers);
  if (status != KILN_OK) status = error_note(status, __FILE__, __LINE__, "in pass `precision`");
  if (status == KILN_OK) status = build_bytes(portable, t, o, like, workers, &bytes, &size);
  pool_destroy(workers);
  KILN_TRY(status);
  status = engine_open_bytes(bytes, size, bytes, NULL, out);
  if (status != KILN_OK) mem_free_aligned(bytes);
  if (status == KILN_OK) (*out)->target.ordinal = t->ordinal;
  return status;
}

static kiln_status add_metadata(graph *g, const kiln_build_options *o) {
  for (const char *const *m = o ? o->metadata : NULL; m && m[0]; m += 2) {
    if (!m[1]) return KILN_FAIL(KILN_INVALID_ARGUMENT, "options.metadata: key \"%.60s\" has no value", m[0]);
    KILN_TRY(graph_set_metadata(g, m[0], m[1]));
    if (g->source) KILN_TRY(graph_set_metadata(g->source, m[0], m[1]));
  }
  return KILN_OK;
}

static kiln_status engine_build(const void *bytes, size_t size, const char *origin, const kiln_build_options *o,
                                kiln_engine **out) {
  target t;
  graph *portable = NULL;
  KILN_TRY(ops_init());
  KILN_TRY(check_options(o, &t));
  KILN_TRY(progress(o, "importing", 0.0));
  KILN_TRY(model_import(bytes, size, origin, o, &portable));
  kiln_status status = add_metadata(portable, o);
  if (status == KILN_OK) status = progress(o, "planning", 0.3);
  if (status == KILN_OK) status = engine_from_graph(portable, &t, o, out);
  graph_destroy(portable);
  if (status == KILN_OK && (status = progress(o, "done", 1.0)) != KILN_OK) {
    kiln_engine_destroy(*out);
    *out = NULL;
  }
  return status;
}

kiln_status kiln_engine_build_memory(const void *bytes, size_t size, const kiln_build_options *options,
                                     kiln_engine **out_engine) {
  if (!bytes || !out_engine) return KILN_FAIL(KILN_INVALID_ARGUMENT, "%s is NULL", bytes ? "out_engine" : "bytes");
  return engine_build(bytes, size, "the model", options, out_engine);
}

kiln_status kiln_engine_build(const char *path, const kiln_build_options *options, kiln_engine **out_engine) {
  if (!path || !out_engine) return KILN_FAIL(KILN_INVALID_ARGUMENT, "%s is NULL", path ? "out_engine" : "path");
  file_map file;
  KILN_TRY(file_map_open(path, &file));
  const kiln_status status = engine_build(file.data, file.size, path, options, out_engine);
  file_map_close(&file);
  return status;
}

/* ---- load and save ----------------------------------------------------------------------------------------------- */

kiln_status kiln_engine_load(const void *bytes, size_t size, kiln_engine **out_engine) {
  if (!bytes || !out_engine) return KILN_FAIL(KILN_INVALID_ARGUMENT, "%s is NULL", bytes ? "out_engine" : "bytes");
  return engine_open_bytes(bytes, size, NULL, NULL, out_engine);
}

kiln_status kiln_engine_open(const char *path, kiln_engine **out_engine) {
  if (!path || !out_engine) return KILN_FAIL(KILN_INVALID_ARGUMENT, "%s is NULL", path ? "out_engine" : "path");
  file_map file;
  KILN_TRY(file_map_open(path, &file));
  const kiln_status status = engine_open_bytes(file.data, file.size, NULL, &file, out_engine);
  if (status != KILN_OK) {
    file_map_close(&file);
    return error_note(status, __FILE__, __LINE__, "opening %s", path);
  }
  return KILN_OK;
}

kiln_status kiln_engine_save(const kiln_engine *e, const char *path) {
  if (!e || !path) return KILN_FAIL(KILN_INVALID_ARGUMENT, "%s is NULL", e ? "path" : "engine");
  kiln_engine *now = engine_current(e, NULL);
  const file_span span = {now->bytes, now->size};
  const kiln_status status = file_write_atomic(path, &span, 1);
  engine_leave(e, now);
  return status;
}

kiln_status kiln_engine_serialize(const kiln_engine *e, void **out_bytes, size_t *out_size) {
  if (!e || !out_bytes || !out_size) return KILN_FAIL(KILN_INVALID_ARGUMENT, "an argument is NULL");
  kiln_engine *now = engine_current(e, NULL);
  const size_t size = now->size;
  void *copy = mem_alloc(size);
  if (copy) memcpy(copy, now->bytes, size);
  engine_leave(e, now);
  if (!copy) return KILN_FAIL(KILN_OUT_OF_MEMORY, "out of memory: %zu bytes", size);
  *out_bytes = copy;
  *out_size = size;
  return KILN_OK;
}
