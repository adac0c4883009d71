/* See steady.h. */
#include "runtime/steady.h"

#include <string.h>

#include "base/memory.h"
#include "runtime/adopt.h"

/* ---- what is compared: for each tensor its place, rank and type, then shape and strides, one tensor behind the other -- */

enum { HEAD = 3, LARGEST = HEAD + 2 * KILN_MAX_RANK }; /* words */

_Static_assert(offsetof(kiln_tensor, ndim) == offsetof(kiln_tensor, device) + 8, "a tensor's place, then its rank");
_Static_assert(offsetof(kiln_tensor, dtype) == offsetof(kiln_tensor, ndim) + 4, "and its type, in 16 bytes");

static int64_t *write_words(int64_t *at, const kiln_tensor *t) {
  const size_t bytes = (size_t)t->ndim * sizeof(int64_t);
  memcpy(at, &t->device, 16);
  at[2] = t->strides != NULL;
  at += HEAD;
  if (bytes) memcpy(at, t->shape, bytes);
  at += t->ndim;
  if (t->strides && bytes) memcpy(at, t->strides, bytes);
  return at + (t->strides ? t->ndim : 0);
}

/* Behind what was compared; NULL: they differ. */
static const int64_t *same_words(const int64_t *at, const kiln_tensor *t) {
  if (memcmp(at, &t->device, 16) != 0 || (t->strides != NULL) != (at[2] != 0) || (t->ndim && !t->shape)) return NULL;
  at += HEAD;
  for (int32_t d = 0; d < t->ndim; d++) {
    if (at[d] != t->shape[d]) return NULL;
  }
  at += t->ndim;
  if (!t->strides) return at;
  for (int32_t d = 0; d < t->ndim; d++) {
    if (at[d] != t->strides[d]) return NULL;
  }
  return at + t->ndim;
}

static const int64_t *same_tensors(const int64_t *at, const kiln_tensor *tensors, int32_t n) {
  for (int32_t i = 0; at && i < n; i++) at = same_words(at, &tensors[i]);
  return at;
}

/* ---- life ------------------------------------------------------------------------------------------------------------- */

kiln_status steady_create(kiln_context *c) {
  const graph *g = c->engine->plan;
  const size_t n = (size_t)g->n_inputs + (size_t)g->n_outputs;
  const size_t n_externals = (size_t)g->body.n_params + (size_t)g->body.n_results;
  char *room = mem_calloc(n_externals * sizeof(void *) + n * LARGEST * sizeof(int64_t) + 1, 1);
  if (!room) return KILN_NO_MEMORY("context");
  c->steady.externals = (const void **)(void *)room;
  c->steady.words = (int64_t *)(void *)(room + n_externals * sizeof(void *));
  c->steady.n_inputs = g->n_inputs;
  c->steady.n_outputs = g->n_outputs;
  c->steady.n_states = g->n_states;
  return KILN_OK;
}

void steady_free(kiln_context *c) { mem_free(c->steady.externals); }

/* ---- runs ------------------------------------------------------------------------------------------------------------- */

/* One graph that used the caller's memory alone. */
static bool was_plain(const kiln_context *c, const kiln_tensor *outputs) {
  const graph *g = c->engine->plan;
  const device_run *r = c->gpu;
  if (c->profile || r->plain || r->captured || program_is_stage(c->current) || program_has_jumps(c->current) ||
      g->n_inputs != c->steady.n_inputs || g->n_outputs != c->steady.n_outputs || g->n_states != c->steady.n_states)
    return false;
  for (int32_t i = 0; i < g->body.n_params; i++) { /* states too */
    if (r->host_in[i] || !c->params[i].data || r->externals[i] != c->params[i].data) return false;
  }
  for (int32_t i = g->n_outputs; i < g->body.n_results; i++) {
    if (r->externals[g->body.n_params + i] != c->results[i].data) return false;
  }
  for (int32_t i = 0; i < g->n_outputs; i++) {
    const void *there = outputs[i].data ? (char *)outputs[i].data + outputs[i].byte_offset : NULL;
    if (r->host_out[i] || !there || r->externals[g->body.n_params + i] != there) return false;
  }
  return true;
}

static void note_near(kiln_context *c) {
  const device_run *r = c->gpu;
  const device_graph *last = &c->bound->graphs.graphs[c->bound->graphs.last];
  const void *near[STEADY_NEAR] = {r,    r->device,       &r->hooks->current, &r->hooks->graph_launch,
                                   last, last->externals, last->exec};
  memcpy(c->steady.near, near, sizeof near);
}

/* PyTorch allocates outputs between preparing and running: what the run reads can come from memory meanwhile. */
static void fetch_near(const kiln_context *c) {
  for (int i = 0; i < STEADY_NEAR; i++) __builtin_prefetch(c->steady.near[i]);
}

void steady_note(kiln_context *c, const kiln_tensor *inputs, const kiln_tensor *outputs) {
  c->steady.ready = c->gpu && was_plain(c, outputs);
  if (!c->steady.ready) return;
  int64_t *at = c->steady.words;
  for (int32_t i = 0; i < c->steady.n_inputs; i++) at = write_words(at, &inputs[i]);
  for (int32_t i = 0; i < c->steady.n_outputs; i++) at = write_words(at, &outputs[i]);
  note_near(c);
}

bool steady_same_inputs(const kiln_context *c, const kiln_tensor *inputs) {
  return c->steady.ready && c->current && same_tensors(c->steady.words, inputs, c->steady.n_inputs);
}

bool steady_prepare(const kiln_context *c, const kiln_tensor *inputs, size_t input_count, kiln_tensor *outputs,
                    size_t output_count) {
  const steady *s = &c->steady;
  if (!s->ready || !c->current || input_count != (size_t)s->n_inputs || output_count != (size_t)s->n_outputs ||
      (input_count && !inputs) || (output_count && !outputs) || context_is_outdated(c))
    return false;
  const int64_t *at = same_tensors(s->words, inputs, s->n_inputs);
  for (int32_t i = 0; at && i < s->n_outputs; i++) {
    kiln_tensor *t = &outputs[i];
    memcpy(&t->ndim, at + 1, 8); /* and the type */
    const int64_t stored = at[2] ? 2 * t->ndim : t->ndim;
    at += HEAD;
    for (int32_t d = 0; t->shape && d < t->ndim; d++) t->shape[d] = at[d];
    at += stored;
  }
  if (at) fetch_near(c);
  return at != NULL;
}

/* Where graphs may read and write; false: one of them is nowhere, or not where vectors may be. */
static bool note_addresses(const void **at, const kiln_tensor *tensors, int32_t n) {
  for (int32_t i = 0; i < n; i++) {
    const uintptr_t address = (uintptr_t)tensors[i].data + tensors[i].byte_offset;
    if (!tensors[i].data || address % 16 != 0) return false;
    at[i] = (const void *)address;
  }
  return true;
}

kiln_status steady_run(kiln_context *c, const kiln_tensor *inputs, size_t input_count, const kiln_tensor *outputs,
                       size_t output_count, bool *out_done) {
  steady *s = &c->steady;
  *out_done = false;
  if (!s->ready || !c->current || c->profile || input_count != (size_t)s->n_inputs ||
      output_count != (size_t)s->n_outputs || (input_count && !inputs) || (output_count && !outputs) ||
      context_is_outdated(c))
    return KILN_OK;
  const int64_t *at = same_tensors(s->words, inputs, s->n_inputs);
  if (!at || !same_tensors(at, outputs, s->n_outputs)) return KILN_OK;
  const void **results = s->externals + s->n_inputs + s->n_states;
  if (!note_addresses(s->externals, inputs, s->n_inputs) || !note_addresses(results, outputs, s->n_outputs))
    return KILN_OK;
  for (int32_t i = 0; i < s->n_states; i++) {
    const graph_state *state = &c->engine->plan->states[i];
    s->externals[state->param] = c->state_now[i];
    results[state->result] = c->state_next[i];
  }
  return device_run_again(c->gpu, &c->bound->graphs, s->externals, out_done);
}
