/* Running programs on a device, see device_run.h.
 *
 * A program is captured once for addresses inside the arena ("staged": inputs are copied in, outputs out), and again
 * for sets of the caller's addresses that come twice, so that the steady state is one graph launch without copies.
 * Callers that capture a graph themselves get plain launches into it. */
#include "runtime/device_run.h"

#include <stdlib.h>
#include <string.h>

#include "base/map.h"
#include "base/memory.h"
#include "ops/ref.h"
#include "runtime/stages.h"

kiln_status device_run_create(const target *t, int ordinal, int32_t n_params, int32_t n_results, device_run **out) {
  device_run *r = mem_calloc(1, sizeof *r);
  if (!r) return KILN_NO_MEMORY("device context");
  r->hooks = t->backend->device;
  r->n_externals = n_params + n_results;
  r->externals = mem_calloc((size_t)r->n_externals + 1, sizeof *r->externals);
  r->host_in = mem_calloc((size_t)n_params + 1, sizeof *r->host_in);
  r->host_out = mem_calloc((size_t)n_results + 1, sizeof *r->host_out);
  kiln_status status = r->externals && r->host_in && r->host_out ? KILN_OK : KILN_NO_MEMORY("device context");
  if (status == KILN_OK) status = r->hooks->open(t, ordinal, &r->device);
  if (status == KILN_OK) status = r->hooks->stream_create(r->device, &r->stream);
  if (status == KILN_OK) {
    status = r->hooks->enter(r->device);
    if (status == KILN_OK) {
      status = r->hooks->fence_create(r->device, &r->mark);
      r->hooks->leave(r->device);
    }
  }
  const char *graphs = getenv("KILN_CUDA_GRAPHS");
  r->plain = graphs && strcmp(graphs, "0") == 0;
  r->user_stream = r->stream;
  if (status != KILN_OK) {
    device_run_destroy(r);
    return status;
  }
  *out = r;
  return KILN_OK;
}

/* Streams that are there as long as the device is: the own one, and the default one of all threads. */
static bool lasts(const device_run *r, const void *stream) { return stream == r->stream || (uintptr_t)stream < 2; }

/* Streams of callers may be gone when the next run comes, so that each run leaves its mark there; others get it when it is asked for,
 * which spares most runs an event. */
static kiln_status note_run(device_run *r, void *stream) {
  r->marked = r->wanders || !lasts(r, stream);
  if (r->marked) KILN_TRY(r->hooks->mark(r->device, r->mark, stream));
  r->last_stream = stream;
  r->ran = true;
  return KILN_OK;
}

static kiln_status mark_run(device_run *r) {
  if (!r->marked) KILN_TRY(r->hooks->mark(r->device, r->mark, r->last_stream));
  r->marked = true;
  return KILN_OK;
}

/* What follows on `stream` comes after the last run. */
static kiln_status follow_run(device_run *r, void *stream) {
  if (!r->ran || r->last_stream == stream) return KILN_OK;
  r->wanders = true; /* a mark that is set late waits for what came after the run, too */
  KILN_TRY(mark_run(r));
  return r->hooks->mark_wait(r->device, r->mark, stream);
}

kiln_status device_run_wait(device_run *r) {
  if (!r->ran) return KILN_OK;
  KILN_TRY(mark_run(r));
  return r->hooks->fence_wait(r->device, r->mark);
}

kiln_status device_run_settle(device_run *r) {
  if (!r || !r->device || !r->ran) return KILN_OK;
  KILN_TRY(r->hooks->enter(r->device));
  const kiln_status status = device_run_wait(r);
  r->hooks->leave(r->device);
  return status;
}

void device_run_destroy(device_run *r) {
  if (!r) return;
  if (r->device) {
    if (device_run_settle(r) != KILN_OK) error_clear();
    r->hooks->stream_destroy(r->device, r->stream);
    if (r->hooks->enter(r->device) == KILN_OK) {
      r->hooks->mark_destroy(r->device, r->mark);
      r->hooks->leave(r->device);
    } else {
      error_clear();
    }
    r->hooks->host_release(r->device, r->pinned);
    r->hooks->close(r->device);
  }
  mem_free(r->externals);
  mem_free(r->host_in);
  mem_free(r->host_out);
  mem_free(r);
}

kiln_status device_run_capturing(device_run *r, bool *out) {
  KILN_TRY(r->hooks->enter(r->device));
  const kiln_status status = r->hooks->capturing(r->device, r->user_stream, out);
  r->hooks->leave(r->device);
  return status;
}

kiln_status device_run_set_stream(device_run *r, void *stream) {
  if (stream == r->user_stream) return KILN_OK;
  KILN_TRY(r->hooks->stream_check(r->device, stream));
  r->user_stream = stream;
  return KILN_OK;
}

void device_graphs_clear(device_run *r, device_graphs *g) {
  for (int i = 0; i < DEVICE_GRAPHS; i++) {
    r->hooks->graph_destroy(r->device, g->graphs[i].exec);
    mem_free(g->graphs[i].externals);
  }
  memset(g, 0, sizeof *g);
}

/* ---- pinned memory
 * -------------------------------------------------------------------------------------------------------- */

static size_t bytes_of(const tensor *t) { return (size_t)tensor_numel(t) * kiln_dtype_size(t->dtype); }

static kiln_status reserve_pinned(device_run *r, size_t bytes) {
  if (bytes <= r->pinned_bytes) return KILN_OK;
  void *grown = NULL;
  KILN_TRY(r->hooks->host_allocate(r->device, bytes, &grown));
  r->hooks->host_release(r->device, r->pinned);
  r->pinned = grown;
  r->pinned_bytes = bytes;
  return KILN_OK;
}

void device_run_copy_host(const tensor *from, const tensor *to) {
  if (tensor_is_contiguous(from) && tensor_is_contiguous(to)) {
    if (bytes_of(from)) memcpy(to->data, from->data, bytes_of(from));
    return;
  }
  for (ref_iter it = ref_begin(to->rank, to->shape); ref_valid(&it); ref_next(&it)) {
    int64_t a = 0, b = 0;
    for (int d = 0; d < to->rank; d++) {
      a += it.index[d] * from->strides[d];
      b += it.index[d] * to->strides[d];
    }
    ref_copy_element(from, a, to, b);
  }
}

/* Inputs that are on the host have their place first, then outputs. */
static size_t pinned_for_inputs(const device_run *r, const program *p, const graph *plan) {
  size_t bytes = 0;
  for (int32_t i = 0; i < plan->body.n_params; i++)
    bytes += r->host_in[i] ? size_align(bytes_of(program_param(p, i)), 64) : 0;
  return bytes;
}
static size_t pinned_for_outputs(const device_run *r, const program *p, const graph *plan) {
  size_t bytes = 0;
  for (int32_t i = 0; i < plan->body.n_results; i++)
    bytes += r->host_out[i] ? size_align(bytes_of(program_result(p, i)), 64) : 0;
  return bytes;
}

static kiln_status prepare_pinned(device_run *r, size_t bytes) {
  if (!bytes) return KILN_OK;
  if (r->pinned_busy) KILN_TRY(device_run_wait(r));
  r->pinned_busy = false;
  return reserve_pinned(r, bytes);
}

/* ---- addresses
 * ---------------------------------------------------------------------------------------------------------------- */

/* Can the program read (write) it where it is? */
static bool usable(const tensor *t, const tensor *bound) {
  if (!t->data || (uintptr_t)t->data % 16 != 0) return false;
  for (int d = 0; d < bound->rank; d++) {
    if (bound->shape[d] > 1 && t->strides[d] != bound->strides[d]) return false;
  }
  return true;
}

static void choose_inputs(device_run *r, const program *p, char *memory, const graph *plan, const tensor *params,
                          const void **out) {
  for (int32_t i = 0; i < plan->body.n_params; i++)
    out[i] = !r->host_in[i] && usable(&params[i], program_param(p, i)) ? params[i].data
                                                                       : memory + program_staging(p, false, i);
}

static void choose_outputs(device_run *r, const program *p, char *memory, const graph *plan, const tensor *results,
                           const void **out) {
  for (int32_t i = 0; i < plan->body.n_results; i++)
    out[i] = !r->host_out[i] && usable(&results[i], program_result(p, i)) ? results[i].data
                                                                          : memory + program_staging(p, true, i);
}

static void choose_staging(device_run *r, program *p, char *memory, const graph *plan) {
  for (int32_t i = 0; i < plan->body.n_params; i++) r->externals[i] = memory + program_staging(p, false, i);
  for (int32_t i = 0; i < plan->body.n_results; i++)
    r->externals[plan->body.n_params + i] = memory + program_staging(p, true, i);
}

/* ---- graphs
 * -------------------------------------------------------------------------------------------------------------------
 */

static bool is_for(const device_run *r, const device_graph *x, const void *const *externals) {
  return x->exec && memcmp(x->externals, externals, (size_t)r->n_externals * sizeof *externals) == 0;
}

/* The last one first: the others' addresses need not be read then. */
static device_graph *find_graph(device_run *r, device_graphs *g, const void *const *externals) {
  int i = g->last;
  if (!is_for(r, &g->graphs[i], externals)) {
    for (i = 0; i < DEVICE_GRAPHS && !is_for(r, &g->graphs[i], externals);) i++;
  }
  if (i == DEVICE_GRAPHS) return NULL;
  g->last = i;
  g->graphs[i].last_use = ++r->clock;
  return &g->graphs[i];
}

/* Did these addresses come before? Notes them if not. */
static bool seen_before(device_run *r, device_graphs *g) {
  const uint64_t h = hash_bytes(r->externals, (size_t)r->n_externals * sizeof *r->externals, 7) | 1;
  for (int i = 0; i < DEVICE_SEEN; i++) {
    if (g->seen[i] == h) return true;
  }
  g->seen[g->next_seen] = h;
  g->next_seen = (g->next_seen + 1) % DEVICE_SEEN;
  return false;
}

static device_graph *oldest_graph(device_graphs *g) {
  device_graph *oldest = &g->graphs[0];
  for (int i = 1; i < DEVICE_GRAPHS; i++) {
    if (g->graphs[i].last_use < oldest->last_use) oldest = &g->graphs[i];
  }
  return oldest;
}

static kiln_status capture(device_run *r, program *p, device_graphs *g, void *memory, device_graph **out) {
  device_graph *oldest = oldest_graph(g);
  const size_t bytes = (size_t)r->n_externals * sizeof *r->externals;
  if (!oldest->externals && !(oldest->externals = mem_alloc(bytes ? bytes : 1))) return KILN_NO_MEMORY("device graph");
  r->hooks->graph_destroy(r->device, oldest->exec);
  oldest->exec = NULL;
  oldest->last_use = 0;
  oldest->launched = false;
  KILN_TRY(r->hooks->capture_begin(r->device, r->stream));
  const kiln_status status = program_launch(p, memory, r->externals, r->stream, false);
  const kiln_status ended = r->hooks->capture_end(r->device, r->stream, status == KILN_OK, &oldest->exec);
  if (status != KILN_OK) return status;
  KILN_TRY(ended);
  if (bytes) memcpy(oldest->externals, r->externals, bytes);
  oldest->last_use = ++r->clock;
  *out = oldest;
  return KILN_OK;
}

/* A capture takes as long as hundreds of calls: callers who go through more sets of addresses than there are graphs must not make
 * one for each call. So a graph makes room only when it was not used for a while. */
static bool has_room(const device_run *r, device_graphs *g) {
  const device_graph *oldest = oldest_graph(g);
  return !oldest->exec || r->clock - oldest->last_use >= DEVICE_GRAPH_AGE;
}

/* Finds or makes the graph for r->externals; those become the staged ones where a new graph does not pay. */
static kiln_status choose_graph(device_run *r, program *p, device_graphs *g, char *memory, const graph *plan,
                                device_graph **out) {
  *out = find_graph(r, g, r->externals);
  if (*out) return KILN_OK;
  if (seen_before(r, g) && has_room(r, g)) return capture(r, p, g, memory, out);
  choose_staging(r, p, memory, plan);
  *out = find_graph(r, g, r->externals);
  return *out ? KILN_OK : capture(r, p, g, memory, out);
}

/* ---- copies around a run
 * ------------------------------------------------------------------------------------------------------- */

/* To `inputs`, where the program reads. */
static kiln_status copies_in(device_run *r, program *p, const graph *plan, const tensor *params,
                             const void *const *inputs, void *stream) {
  char *pinned = r->pinned;
  for (int32_t i = 0; i < plan->body.n_params; i++) {
    tensor to = *program_param(p, i);
    const size_t bytes = bytes_of(&to);
    to.data = (void *)(uintptr_t)inputs[i];
    if (r->host_in[i]) {
      tensor here = to;
      here.data = pinned;
      device_run_copy_host(&params[i], &here);
      KILN_TRY(r->hooks->upload(r->device, stream, to.data, pinned, bytes));
      pinned += size_align(bytes, 64);
      r->pinned_busy = true;
    } else if (params[i].data != to.data) {
      KILN_TRY(program_copy(p, &params[i], &to, stream));
    }
  }
  return KILN_OK;
}

/* From the pinned memory to where the caller wants them. */
static void hand_out(device_run *r, const program *p, const graph *plan, tensor *results, char *pinned) {
  for (int32_t i = 0; i < plan->body.n_results; i++) {
    if (!r->host_out[i]) continue;
    tensor here = *program_result(p, i);
    here.data = pinned;
    pinned += size_align(bytes_of(&here), 64);
    if (results[i].data)
      device_run_copy_host(&here, &results[i]);
    else
      results[i] = here;
  }
}

/* From `outputs`, where `p` (the last stage) wrote. */
static kiln_status copies_out(device_run *r, program *p, const graph *plan, tensor *results, const void *const *outputs,
                              size_t pinned_at, void *stream) {
  char *pinned = r->pinned ? r->pinned + pinned_at : NULL;
  bool wait = false;
  for (int32_t i = 0; i < plan->body.n_results; i++) {
    tensor made = *program_result(p, i);
    made.data = (void *)(uintptr_t)outputs[i];
    if (r->host_out[i]) {
      KILN_TRY(r->hooks->download(r->device, stream, pinned, made.data, bytes_of(&made)));
      pinned += size_align(bytes_of(&made), 64);
      wait = true;
    } else if (!results[i].data) {
      results[i] = made;
    } else if (results[i].data != made.data) {
      KILN_TRY(program_copy(p, &made, &results[i], stream));
    }
  }
  if (!wait) return KILN_OK;
  KILN_TRY(r->hooks->synchronize(r->device, stream));
  r->pinned_busy = false;
  hand_out(r, p, plan, results, r->pinned + pinned_at);
  return KILN_OK;
}

/* ---- stages: sizes that are known when a part has run ---------------------------------------------------------------- */

/* Tensors of a stage that is enqueued, where it reads and writes. */
static void stage_tensors(const program *p, const void *const *externals, tensor *params, tensor *results) {
  const int32_t n = program_param_count(p);
  for (int32_t i = 0; i < n; i++) {
    params[i] = *program_param(p, i);
    params[i].data = (void *)(uintptr_t)externals[i];
  }
  for (int32_t i = 0; i < program_result_count(p); i++) {
    results[i] = *program_own_result(p, i);
    results[i].data = (void *)(uintptr_t)externals[n + i];
  }
}

/* What crossed the barrier, made readable for the next stage. */
static kiln_status choose_crossed(program *p, char *memory, const tensor *params, const void **out, void *stream) {
  for (int32_t i = 0; i < program_param_count(p); i++) {
    tensor to = *program_param(p, i);
    to.data = memory + program_staging(p, false, i);
    out[i] = usable(&params[i], &to) ? params[i].data : to.data;
    if (out[i] != params[i].data && tensor_numel(&to) > 0) KILN_TRY(program_copy(p, &params[i], &to, stream));
  }
  return KILN_OK;
}

static kiln_status run_stages(device_run *r, program *p, char *memory, const graph *plan, const tensor *params,
                              tensor *results, bool profile) {
  void *const stream = r->user_stream;
  KILN_TRY(prepare_pinned(r, pinned_for_inputs(r, p, plan)));
  const void **externals = program_externals(p);
  choose_inputs(r, p, memory, plan, params, externals);
  KILN_TRY(copies_in(r, p, plan, params, externals, stream));
  while (program_is_stage(p)) {
    stage_start next;
    const int32_t n = program_param_count(p);
    for (int32_t i = 0; i < program_result_count(p); i++) externals[n + i] = memory + program_staging(p, true, i);
    KILN_TRY(program_launch(p, memory, externals, stream, profile));
    tensor *here = mem_calloc((size_t)n + 1, sizeof *here);
    if (!here) return KILN_NO_MEMORY("stage");
    stage_tensors(p, externals, here, stage_results(p));
    const kiln_status status = stage_advance(p, here, stage_results(p), stream, profile, &next);
    mem_free(here);
    KILN_TRY(status);
    p = next.program;
    memory = next.memory;
    externals = program_externals(p);
    KILN_TRY(choose_crossed(p, memory, next.params, externals, stream));
  }
  const void **outputs = externals + program_param_count(p);
  choose_outputs(r, p, memory, plan, results, outputs);
  KILN_TRY(program_launch(p, memory, externals, stream, profile));
  r->pinned_busy = false; /* measuring has waited for the inputs */
  KILN_TRY(prepare_pinned(r, pinned_for_outputs(r, p, plan)));
  return copies_out(r, p, plan, results, outputs, 0, stream);
}

/* What waits for the GPU, or for the host, cannot become part of a caller's graph. */
static kiln_status check_capturable(const device_run *r, const program *p, const graph *plan) {
  bool host = false;
  for (int32_t i = 0; i < plan->body.n_params; i++) host = host || r->host_in[i];
  for (int32_t i = 0; i < plan->body.n_results; i++) host = host || r->host_out[i];
  if (host)
    return KILN_FAIL(
        KILN_INVALID_ARGUMENT,
        "the stream is being captured, and a tensor of this call is in host memory: give tensors of the GPU");
  if (plan->n_states)
    return KILN_FAIL(
        KILN_UNSUPPORTED,
        "the stream is being captured, but this engine has %d buffers that change from call to call, which a "
        "graph cannot do",
        (int)plan->n_states);
  if (program_has_jumps(p))
    return KILN_FAIL(
        KILN_UNSUPPORTED,
        "the stream is being captured, but this engine decides on the host what runs next (branches, loops, "
        "sizes that depend on data, or operators on the CPU), and cannot become part of a graph");
  return KILN_OK;
}

/* ---- one run
 * ----------------------------------------------------------------------------------------------------------------------
 */

static kiln_status run_whole(device_run *r, program *p, device_graphs *g, char *memory, const graph *plan,
                             const tensor *params, tensor *results, bool profile, bool captured_by_caller) {
  void *const stream = r->user_stream;
  const size_t for_inputs = pinned_for_inputs(r, p, plan);
  const void **outputs = r->externals + plan->body.n_params;
  KILN_TRY(prepare_pinned(r, for_inputs + pinned_for_outputs(r, p, plan)));
  choose_inputs(r, p, memory, plan, params, r->externals);
  choose_outputs(r, p, memory, plan, results, outputs);
  if (captured_by_caller || profile || r->plain || program_has_jumps(p)) {
    KILN_TRY(copies_in(r, p, plan, params, r->externals, stream));
    KILN_TRY(program_launch(p, memory, r->externals, stream, profile && !captured_by_caller));
  } else {
    device_graph *x = NULL;
    KILN_TRY(choose_graph(r, p, g, memory, plan, &x));
    KILN_TRY(copies_in(r, p, plan, params, r->externals, stream));
    KILN_TRY(r->hooks->graph_launch(r->device, x->exec, stream));
    x->launched = true;
  }
  return copies_out(r, p, plan, results, outputs, for_inputs, stream);
}

static kiln_status run_inside(device_run *r, program *p, device_graphs *g, char *memory, const graph *plan,
                              const tensor *params, tensor *results, bool profile) {
  void *const stream = r->user_stream;
  bool captured_by_caller = false;
  r->captured = false;
  KILN_TRY(r->hooks->capturing(r->device, stream, &captured_by_caller));
  if (captured_by_caller) KILN_TRY(check_capturable(r, p, plan));
  if (!captured_by_caller) KILN_TRY(follow_run(r, stream));
  if (program_is_stage(p))
    KILN_TRY(run_stages(r, p, memory, plan, params, results, profile));
  else
    KILN_TRY(run_whole(r, p, g, memory, plan, params, results, profile, captured_by_caller));
  r->captured = captured_by_caller;
  if (captured_by_caller) return KILN_OK;
  return note_run(r, stream);
}

/* A graph's first launch may make room on the device, for which the device must be entered; later ones need it only to be current. */
kiln_status device_run_again(device_run *r, device_graphs *g, const void *const *externals, bool *out_done) {
  void *const stream = r->user_stream;
  bool captured_by_caller = false;
  *out_done = false;
  if (!r->ran || r->last_stream != stream || !r->hooks->current || !r->hooks->current(r->device)) return KILN_OK;
  device_graph *x = find_graph(r, g, externals);
  if (!x || !x->launched) return KILN_OK;
  KILN_TRY(r->hooks->capturing(r->device, stream, &captured_by_caller));
  if (captured_by_caller) return KILN_OK;
  KILN_TRY(r->hooks->graph_launch(r->device, x->exec, stream));
  *out_done = true;
  r->captured = false;
  return note_run(r, stream);
}

kiln_status device_run_program(device_run *r, program *p, device_graphs *g, void *memory, const graph *plan,
                               const tensor *params, tensor *results, bool profile) {
  KILN_TRY(r->hooks->enter(r->device));
  const kiln_status status = run_inside(r, p, g, memory, plan, params, results, profile);
  r->hooks->leave(r->device);
  return status;
}

static kiln_status copy_inside(device_run *r, program *p, const tensor *from, const tensor *to) {
  void *const stream = r->user_stream;
  bool capturing = false;
  KILN_TRY(r->hooks->capturing(r->device, stream, &capturing));
  if (capturing) return program_copy(p, from, to, stream);
  KILN_TRY(follow_run(r, stream));
  KILN_TRY(program_copy(p, from, to, stream));
  return note_run(r, stream);
}

kiln_status device_run_copy(device_run *r, program *p, const tensor *from, const tensor *to) {
  KILN_TRY(r->hooks->enter(r->device));
  const kiln_status status = copy_inside(r, p, from, to);
  r->hooks->leave(r->device);
  return status;
}
