/* A context changes over to the weights that a refit gave its engine: it lets go of all that is bound to the old version
 * and binds again when it runs. */
#include "runtime/adopt.h"

#include "base/memory.h"
#include "runtime/device_run.h"

bool context_is_outdated(const kiln_context *c) {
  return __atomic_load_n(&c->handle->generation, __ATOMIC_ACQUIRE) != c->generation;
}

/* Programs that a caller's graph runs stay, with their weights, as long as the context. */
static kiln_status drop_programs(kiln_context *c) {
  KILN_TRY(device_run_settle(c->gpu));
  for (int i = 0; i < CONTEXT_PROGRAMS; i++) {
    bound_program *b = &c->programs[i];
    if (c->gpu) device_graphs_clear(c->gpu, &b->graphs);
    if (!b->program) continue;
    if (b->captured) {
      retired *r = mem_calloc(1, sizeof *r);
      if (!r) return KILN_NO_MEMORY("context");
      *r = (retired){.program = b->program, .engine = engine_hold(c->handle, c->engine), .next = c->retired};
      c->retired = r;
    } else {
      program_destroy(b->program);
    }
    b->program = NULL;
    b->captured = false;
  }
  c->current = NULL;
  c->bound = NULL;
  return KILN_OK;
}

/* Scratch for the new plan's symbols, which may be others. */
static kiln_status resize_symbols(kiln_context *c, const graph *plan) {
  const size_t n = (size_t)dim_symbol_count(plan->dims) + 1;
  if (n == (size_t)dim_symbol_count(c->engine->plan->dims) + 1) return KILN_OK;
  int64_t *symbols = mem_calloc(n, sizeof *symbols);
  char *known = mem_calloc(n, 1);
  if (!symbols || !known) {
    mem_free(symbols);
    mem_free(known);
    return KILN_NO_MEMORY("context");
  }
  mem_free(c->symbols);
  mem_free(c->symbol_known);
  c->symbols = symbols;
  c->symbol_known = known;
  for (int i = 0; i < CONTEXT_PROGRAMS; i++) {
    mem_free(c->programs[i].symbols);
    c->programs[i].symbols = NULL;
  }
  return KILN_OK;
}

kiln_status context_adopt(kiln_context *c) {
  uint64_t generation = 0;
  bool capturing = false;
  if (c->gpu) KILN_TRY(device_run_capturing(c->gpu, &capturing));
  if (capturing)
    return KILN_FAIL(KILN_INVALID_ARGUMENT,
                     "the stream is being captured, but the engine got other weights since its last call: call it once "
                     "before the capture");
  kiln_engine *now = engine_current(c->handle, &generation);
  kiln_status status = KILN_OK;
  if (now->target.isa != c->engine->target.isa)
    status = KILN_FAIL(
        KILN_INCOMPATIBLE,
        "the engine was planned for %s since this context was made for %s: open its file once for each kind of GPU",
        now->target.name, c->engine->target.name);
  if (status == KILN_OK) status = engine_make_weights(now, c->workers);
  if (status == KILN_OK) status = drop_programs(c);
  if (status == KILN_OK) status = resize_symbols(c, now->plan);
  if (status != KILN_OK) {
    engine_leave(c->handle, now);
    return status;
  }
  engine_leave(c->handle, c->engine);
  c->engine = now;
  c->generation = generation;
  return KILN_OK;
}
