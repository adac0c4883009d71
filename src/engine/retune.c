/* New plans of engines that exist: with tactics timed on this machine, or for a GPU of another architecture than the file's.
 * The result is a version of its own, which runs in the engine's place, as after a refit (engine/refit.c). */
#include <stdio.h>
#include <string.h>

#include "engine/engine.h"

typedef struct originals {
  graph *source;
} originals;

/* Weights that are packed in the file are plain in the portable graph only. */
static void take_portable(void *user, constant *c) {
  const originals *o = user;
  for (constant *s = o->source->constants; s; s = s->next) {
    if (!s->data && s->weight >= 0 && s->weight == c->weight && s->size == c->size) s->data = c->data;
  }
}

/* The portable graph with its source, so that the new version can be refitted as well. Both borrow from `e`. */
static kiln_status graphs_of(kiln_engine *e, graph **out) {
  KILN_TRY(engine_portable(e, out));
  if (!e->source_size) return KILN_OK; /* an old file */
  kiln_status status = engine_source(e, &(*out)->source);
  if (status == KILN_OK) status = engine_read_origins((*out)->source, *out);
  if (status != KILN_OK) {
    graph_destroy(*out);
    return status;
  }
  originals o = {(*out)->source};
  graph_visit_constants(*out, take_portable, &o);
  return KILN_OK;
}

static kiln_status check_present(const target *t) {
  device *d = NULL;
  const device_hooks *h = t->backend->device;
  if (!h) return KILN_OK;
  KILN_TRY_NOTE(h->open(t, t->ordinal, &d), "tuning times kernels on the GPU that the engine is for");
  h->close(d);
  return KILN_OK;
}

static kiln_status plan_again(kiln_engine *version, const target *t, const kiln_build_options *options,
                              kiln_engine **out) {
  graph *portable = NULL;
  KILN_TRY(engine_check_weights(version));
  KILN_TRY(check_present(t));
  KILN_TRY(graphs_of(version, &portable));
  kiln_build_options o = KILN_BUILD_OPTIONS_INIT;
  o.allow_host_fallback = 1; /* the builder has allowed what the plan does */
  o.tune_seconds = options ? options->tune_seconds : 60;
  if (options) {
    o.tactic_cache = options->tactic_cache;
    o.threads = options->threads;
    o.progress = options->progress;
    o.progress_user = options->progress_user;
  }
  const kiln_status status = engine_from_graph(portable, t, &o, out);
  graph_destroy(portable);
  return status;
}

static kiln_status replace_plan(kiln_engine *engine, const target *t, const kiln_build_options *options) {
  kiln_engine *now = engine_current(engine, NULL), *made = NULL;
  const target old = now->target;
  kiln_status status = KILN_OK;
  if (!t || t->isa != old.isa) status = plan_again(now, t ? t : &old, options, &made);
  engine_leave(engine, now);
  if (made) kiln_engine_destroy(engine_replace(engine, made));
  return status;
}

bool engine_is_foreign(const kiln_engine *engine, int ordinal, target *out_native) {
  char name[sizeof out_native->name];
  kiln_engine *now = engine_current(engine, NULL);
  const target old = now->target;
  engine_leave(engine, now);
  snprintf(name, sizeof name, "%s:%d", old.backend->name, ordinal);
  return old.backend->device && target_parse(name, out_native) == KILN_OK && out_native->isa != old.isa;
}

kiln_status engine_adapt(const kiln_engine *engine, const target *native) {
  kiln_engine *e = (kiln_engine *)(uintptr_t)engine;
  kiln_build_options o = KILN_BUILD_OPTIONS_INIT;
  pthread_mutex_lock(&e->change_lock); /* another thread may have done it meanwhile */
  const kiln_status status = replace_plan(e, native, &o);
  pthread_mutex_unlock(&e->change_lock);
  return status == KILN_OK
             ? KILN_OK
             : error_note(status, __FILE__, __LINE__, "planning the engine of `%s` for the GPU of this machine, `%s`",
                          kiln_engine_target(engine), native->name);
}

kiln_status kiln_engine_tune(kiln_engine *engine, const kiln_build_options *options) {
  if (!engine) return KILN_FAIL(KILN_INVALID_ARGUMENT, "engine is NULL");
  if (options && options->struct_size != sizeof *options)
    return KILN_FAIL(KILN_INVALID_ARGUMENT, "options.struct_size is %zu, expected %zu: use KILN_BUILD_OPTIONS_INIT",
                     options->struct_size, sizeof *options);
  if (options && !(options->tune_seconds >= 0))
    return KILN_FAIL(KILN_INVALID_ARGUMENT, "tune_seconds must be 0 or more");
  target native;
  const bool foreign = engine_is_foreign(engine, engine->target.ordinal, &native);
  pthread_mutex_lock(&engine->change_lock);
  const kiln_status status = replace_plan(engine, foreign ? &native : NULL, options);
  pthread_mutex_unlock(&engine->change_lock);
  return status == KILN_OK ? KILN_OK : error_note(status, __FILE__, __LINE__, "tuning the engine");
}
