/* Compiled kernels in engine files. A plan is bound at the opt shapes of its profiles on a device that only compiles, once for plain inputs and once for
 * images with their channels last; what was compiled goes into the file, and contexts offer it to their device when they bind shapes. */
#include <string.h>

#include "base/memory.h"
#include "engine/engine.h"
#include "graph/profiles.h"
#include "runtime/program.h"

/* Strides of channels-last inputs; false: no input is an image. */
static bool lay_out_channels_last(const graph *g, const int64_t *symbols, int64_t (*strides)[KILN_MAX_RANK]) {
  bool any = false;
  for (int32_t i = 0; i < g->n_inputs; i++) {
    const tensor_type *type = &g->body.params[i]->type;
    tensor t = {.rank = type->rank};
    for (int32_t d = 0; d < type->rank; d++) {
      if (!dim_eval(g->dims, type->dims[d], symbols, &t.shape[d])) return false;
    }
    tensor_make_contiguous_strides(&t);
    if (t.rank == 4 && t.shape[1] > 1) {
      t.strides[1] = 1;
      t.strides[3] = t.shape[1];
      t.strides[2] = t.shape[3] * t.strides[3];
      t.strides[0] = t.shape[2] * t.strides[2];
      any = true;
    }
    memcpy(strides[i], t.strides, sizeof t.strides);
  }
  return any;
}

static kiln_status bind(graph *plan, int32_t profile, const target *t, device *d, const int64_t *symbols,
                        const int64_t (*strides)[KILN_MAX_RANK], int threads) {
  program *p = NULL;
  KILN_TRY(program_create_profile(plan, profile, t, d, symbols, strides, threads, &p));
  program_destroy(p);
  return KILN_OK;
}

static kiln_status bind_both(graph *plan, int32_t profile, const int64_t *symbols, const target *t, device *d,
                             int threads) {
  int64_t(*strides)[KILN_MAX_RANK] = mem_calloc((size_t)plan->n_inputs + 1, sizeof *strides);
  kiln_status status = strides ? KILN_OK : KILN_NO_MEMORY("compiling kernels");
  if (status == KILN_OK) status = bind(plan, profile, t, d, symbols, NULL, threads);
  if (status == KILN_OK && lay_out_channels_last(plan, symbols, strides))
    status = bind(plan, profile, t, d, symbols, (const int64_t(*)[KILN_MAX_RANK])strides, threads);
  mem_free(strides);
  return status;
}

static kiln_status bind_profiles(graph *plan, const target *t, device *d, int threads) {
  arena a = {0};
  profile_list profiles = {0};
  kiln_status status = profiles_read(plan, &a, &profiles);
  for (int32_t k = 0; k < profiles.count && status == KILN_OK; k++)
    status = bind_both(plan, k, profiles.all[k].symbols, t, d, threads);
  arena_free(&a);
  return status;
}

/* Whether it was the caller who ended the compilation, which is no reason to go on without compiled kernels. */
typedef struct watcher {
  kiln_status (*progress)(void *user, double part);
  void *user;
  bool ended;
} watcher;

static kiln_status watch(void *user, double part) {
  watcher *w = user;
  const kiln_status status = w->progress ? w->progress(w->user, part) : KILN_OK;
  w->ended = status != KILN_OK;
  return status;
}

/* All layouts and profiles are bound first, so that their kernels are compiled together. */
static kiln_status compile_all(graph *plan, const target *t, device *d, int threads, watcher *w) {
  const device_hooks *h = t->backend->device;
  h->defer(d, true);
  const kiln_status status = bind_profiles(plan, t, d, threads);
  h->defer(d, false);
  KILN_TRY(status);
  h->watch(d, watch, w);
  return h->finish_prepare(d, threads);
}

kiln_status plan_compile_kernels(graph *plan, const target *t, int threads,
                                 kiln_status (*progress)(void *user, double part), void *user) {
  watcher w = {.progress = progress, .user = user};
  const device_hooks *h = t->backend->device;
  device *d = NULL;
  void *bytes = NULL;
  size_t size = 0;
  if (!h || !h->open_compiler) return KILN_OK;
  KILN_TRY(h->open_compiler(t, &d));
  kiln_status status = compile_all(plan, t, d, threads > 0 ? threads : cpu_count(), &w);
  if (status == KILN_OK) status = h->compiled(d, &bytes, &size);
  h->close(d);
  if (!w.ended && (status == KILN_INCOMPATIBLE ||
                   status == KILN_INVALID_ARGUMENT)) { /* no compiler; or the opt shapes cannot run */
    error_clear();
    return KILN_OK;
  }
  KILN_TRY(status);
  plan->kernels = arena_copy(&plan->arena, bytes, size);
  plan->kernels_size = plan->kernels ? size : 0;
  mem_free(bytes);
  return plan->kernels ? KILN_OK : KILN_NO_MEMORY("compiled kernels");
}
