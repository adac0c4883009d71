/* Contexts, see context.h. The steady state (known shapes) neither allocates nor locks. */
#include "runtime/context.h"

#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "runtime/adopt.h"
#include "runtime/choose_profile.h"
#include "runtime/stages.h"
#include "runtime/steady.h"

/* ---- checking inputs --------------------------------------------------------------------------------------------- */

static const graph *graph_of(const kiln_context *c) { return c->engine->plan; }

static void print_expected(const graph *g, const tensor_type *type, text *t) {
  type_print(g, type, t);
  for (int32_t i = 0; i < type->rank; i++) {
    const int s = dim_symbol_index(g->dims, type->dims[i]);
    if (s < 0) continue;
    int64_t min = 0, max = 0, opt = 0;
    dim_symbol_range(g->dims, s, &min, &max, &opt);
    text_printf(t, max == DIM_UNBOUNDED ? ", %s at least %lld" : ", %s from %lld to %lld", dim_symbol_name(g->dims, s),
                (long long)min, (long long)max);
  }
}

static kiln_status wrong_input(const kiln_context *c, int32_t i, const kiln_tensor *t, const char *what) {
  const graph *g = graph_of(c);
  text expected = {0}, got = {0};
  print_expected(g, &g->body.params[i]->type, &expected);
  text_printf(&got, "%s[", kiln_dtype_name(kiln_tensor_get_dtype(t)));
  for (int32_t d = 0; d < t->ndim && d < KILN_MAX_RANK; d++)
    text_printf(&got, d ? ",%lld" : "%lld", (long long)t->shape[d]);
  text_putc(&got, ']');
  const kiln_status status =
      KILN_FAIL(KILN_INVALID_ARGUMENT, "input %d (\"%s\"): %s; expected %s, got %s", (int)i, g->input_names[i], what,
                expected.data ? expected.data : "?", got.data ? got.data : "?");
  text_free(&expected);
  text_free(&got);
  return status;
}

static kiln_status out_of_range(const kiln_context *c, int32_t i, const kiln_tensor *t, int32_t d) {
  const graph *g = graph_of(c);
  char what[160], range[64];
  int64_t low = 0, high = 0;
  dim_range(g->dims, g->body.params[i]->type.dims[d], &low, &high);
  snprintf(range, sizeof range, high == DIM_UNBOUNDED ? " (%lld or more)" : " (%lld to %lld)", (long long)low,
           (long long)high);
  snprintf(what, sizeof what, "dimension %d is %lld, a size outside the engine's range%s, optimization profile 0",
           (int)d, (long long)t->shape[d], range);
  return wrong_input(c, i, t, what);
}

/* May this tensor be handed to a run? Engines on a GPU take the host's tensors too. */
static bool device_fits(const kiln_context *c, const kiln_tensor *t) {
  if (t->device.type == KILN_DEVICE_CPU) return true;
  return c->gpu && t->device.type == c->gpu->hooks->dlpack_type &&
         t->device.id == c->gpu->hooks->ordinal(c->gpu->device);
}
static const char *device_name(const kiln_context *c) { return c->gpu ? kiln_engine_target(c->engine) : "the CPU"; }

static kiln_status check_dtype_and_rank(const kiln_context *c, int32_t i, const kiln_tensor *t) {
  const tensor_type *type = &graph_of(c)->body.params[i]->type;
  if (!device_fits(c, t))
    return KILN_FAIL(
        KILN_INVALID_ARGUMENT,
        "input %d (\"%s\") is on device %d of type %d (DLPack), but this engine runs on %s: move it there first",
        (int)i, graph_of(c)->input_names[i], t->device.id, t->device.type, device_name(c));
  if (kiln_tensor_get_dtype(t) != type->dtype) return wrong_input(c, i, t, "wrong element type");
  if (t->ndim != type->rank) return wrong_input(c, i, t, "wrong number of dimensions");
  return KILN_OK;
}

/* The first input whose dimension is that symbol gave it its value. */
static bool source_of(const graph *g, int symbol, int32_t *out_input, int32_t *out_dim) {
  for (int32_t i = 0; i < g->n_inputs; i++) {
    const tensor_type *type = &g->body.params[i]->type;
    for (int32_t d = 0; d < type->rank; d++) {
      int s = -1;
      int64_t factor = 0, offset = 0;
      if (!dim_as_affine(g->dims, type->dims[d], &s, &factor, &offset) || s != symbol) continue;
      *out_input = i;
      *out_dim = d;
      return true;
    }
  }
  return false;
}

/* Dimension d of input i is not what other inputs' sizes make it. */
static kiln_status disagreement(const kiln_context *c, const kiln_tensor *inputs, int32_t i, int32_t d,
                                int64_t expected) {
  const graph *g = graph_of(c);
  const dim size = g->body.params[i]->type.dims[d];
  int s = -1;
  int64_t factor = 0, offset = 0;
  int32_t other = 0, od = 0;
  if (!dim_as_affine(g->dims, size, &s, &factor, &offset) || !source_of(g, s, &other, &od))
    return wrong_input(c, i, &inputs[i], "sizes that do not agree with each other");
  text needed = {0};
  dim_print(g->dims, size, &needed);
  const bool same = size == g->body.params[other]->type.dims[od];
  const kiln_status status = same ? KILN_FAIL(KILN_INVALID_ARGUMENT,
                                              "input %d (\"%s\"), dimension %d is %lld, but input %d (\"%s\"), "
                                              "dimension %d is %lld: these two sizes must "
                                              "be the same (`%s`)",
                                              (int)i, g->input_names[i], (int)d, (long long)inputs[i].shape[d],
                                              (int)other, g->input_names[other], (int)od,
                                              (long long)inputs[other].shape[od], needed.data ? needed.data : "?")
                                  : KILN_FAIL(KILN_INVALID_ARGUMENT,
                                              "input %d (\"%s\"), dimension %d is %lld, but must be `%s` = %lld, since "
                                              "input %d (\"%s\"), dimension %d is "
                                              "%lld",
                                              (int)i, g->input_names[i], (int)d, (long long)inputs[i].shape[d],
                                              needed.data ? needed.data : "?", (long long)expected, (int)other,
                                              g->input_names[other], (int)od, (long long)inputs[other].shape[od]);
  text_free(&needed);
  return status;
}

/* Solves symbols from plain and affine dimensions; what stays open is checked afterwards. */
static kiln_status solve_symbols(kiln_context *c, const kiln_tensor *inputs) {
  const graph *g = graph_of(c);
  memset(c->symbol_known, 0, (size_t)dim_symbol_count(g->dims));
  for (int i = 0; i < dim_symbol_count(g->dims); i++) c->symbols[i] = DIM_ERROR; /* some are known when data is */
  for (int32_t i = 0; i < g->n_inputs; i++) {
    const tensor_type *type = &g->body.params[i]->type;
    for (int32_t d = 0; d < type->rank; d++) {
      const int64_t n = inputs[i].shape[d];
      int s = -1;
      int64_t factor = 0, offset = 0;
      if (n < 0) return wrong_input(c, i, &inputs[i], "negative size");
      if (dim_is_const(type->dims[d])) {
        if (n != type->dims[d]) return wrong_input(c, i, &inputs[i], "wrong shape");
      } else if (dim_as_affine(g->dims, type->dims[d], &s, &factor, &offset) && !c->symbol_known[s]) {
        if (factor == 0 || (n - offset) % factor != 0)
          return wrong_input(c, i, &inputs[i], "a size that does not divide as the model needs");
        c->symbols[s] = (n - offset) / factor;
        c->symbol_known[s] = 1;
        int64_t min = 0, max = 0, opt = 0;
        dim_symbol_range(g->dims, s, &min, &max, &opt);
        if (c->symbols[s] < min || c->symbols[s] > max) return out_of_range(c, i, &inputs[i], d);
      }
    }
  }
  for (int32_t i = 0; i < g->n_inputs; i++) {
    const tensor_type *type = &g->body.params[i]->type;
    for (int32_t d = 0; d < type->rank; d++) {
      int64_t n = 0;
      if (!dim_eval(g->dims, type->dims[d], c->symbols, &n))
        return wrong_input(c, i, &inputs[i], "sizes that do not agree with each other");
      if (n != inputs[i].shape[d]) return disagreement(c, inputs, i, d, n);
    }
  }
  return guards_hold(g, c->symbols);
}

static tensor tensor_from(const kiln_tensor *t) {
  tensor out = {
      .data = t->data ? (char *)t->data + t->byte_offset : NULL, .dtype = kiln_tensor_get_dtype(t), .rank = t->ndim};
  for (int32_t d = 0; d < t->ndim; d++) out.shape[d] = t->shape[d];
  if (t->strides) {
    for (int32_t d = 0; d < t->ndim; d++) out.strides[d] = t->strides[d];
  } else {
    tensor_make_contiguous_strides(&out);
  }
  return out;
}

/* ---- binding ----------------------------------------------------------------------------------------------------- */

static bool same_layout(const kiln_context *c, const bound_program *b) {
  return !c->gpu || memcmp(b->strides, c->strides, (size_t)graph_of(c)->n_inputs * sizeof *c->strides) == 0;
}

/* Compiling, uploading and allocating do not belong into a caller's graph. */
static kiln_status check_not_capturing(kiln_context *c) {
  bool capturing = false;
  if (!c->gpu) return KILN_OK;
  KILN_TRY(device_run_capturing(c->gpu, &capturing));
  if (capturing)
    return KILN_FAIL(
        KILN_INVALID_ARGUMENT,
        "the stream is being captured, but the engine was not called with these shapes before: kernels must "
        "be compiled and memory allocated first; call it once before the capture, on the same stream");
  return KILN_OK;
}

/* Keeps what a caller's graph uses. */
static kiln_status retire(kiln_context *c, program *p, void *memory, size_t bytes) {
  retired *r = mem_calloc(1, sizeof *r);
  if (!r) return KILN_NO_MEMORY("context");
  *r = (retired){p, memory, bytes, c->retired, NULL};
  c->retired = r;
  return KILN_OK;
}

/* The program for c->symbols and c->strides, or an empty place for it, which the least recently used one leaves. */
static kiln_status find_program(kiln_context *c, bound_program **out) {
  const size_t bytes = (size_t)dim_symbol_count(graph_of(c)->dims) * sizeof(int64_t);
  bound_program *oldest = &c->programs[0];
  for (int i = 0; i < CONTEXT_PROGRAMS; i++) {
    bound_program *b = &c->programs[i];
    *out = b;
    if (b->program && b->profile == c->chosen && (bytes == 0 || memcmp(b->symbols, c->symbols, bytes) == 0) &&
        same_layout(c, b))
      return KILN_OK;
    if (!b->program || (oldest->program && b->last_use < oldest->last_use)) oldest = b;
  }
  KILN_TRY(check_not_capturing(c));
  if (oldest->program) {
    KILN_TRY(device_run_settle(c->gpu));
    if (oldest->captured) KILN_TRY(retire(c, oldest->program, NULL, 0));
    if (c->current == oldest->program) c->current = NULL;
    if (c->gpu) device_graphs_clear(c->gpu, &oldest->graphs);
    if (!oldest->captured) program_destroy(oldest->program);
    oldest->program = NULL;
    oldest->captured = false;
  }
  *out = oldest;
  return KILN_OK;
}

/* What callers have of it, they may still read when nobody here can tell. */
static void release_in_doubt(const device_run *r, void *memory, size_t bytes, bool in_doubt) {
  in_doubt = in_doubt && r->hooks->in_doubt;
  if (in_doubt) r->hooks->in_doubt(r->device, true);
  r->hooks->release(r->device, memory, bytes);
  if (in_doubt) r->hooks->in_doubt(r->device, false);
}

/* Graphs have the old addresses, and the last run may still be under way. */
static kiln_status reserve_device_arena(kiln_context *c, size_t bytes) {
  const device_run *r = c->gpu;
  void *grown = NULL;
  KILN_TRY(device_run_settle(c->gpu));
  for (int i = 0; i < CONTEXT_PROGRAMS; i++) device_graphs_clear(c->gpu, &c->programs[i].graphs);
  if (c->arena_captured) {
    KILN_TRY(retire(c, NULL, c->arena, c->arena_bytes));
  } else { /* first: old and new together may not fit */
    release_in_doubt(r, c->arena, c->arena_bytes, c->arena_lent);
  }
  c->arena_lent = false;
  c->arena = NULL;
  c->arena_bytes = 0;
  c->arena_captured = false;
  c->current = NULL; /* has no memory now; if there is none for the new one either, the next call must look again */
  KILN_TRY(r->hooks->allocate(r->device, bytes, "the arena of activations", &grown));
  c->arena = grown;
  c->arena_bytes = bytes;
  return KILN_OK;
}

static kiln_status reserve_arena(kiln_context *c, size_t bytes) {
  if (bytes <= c->arena_bytes) return KILN_OK;
  if (c->gpu) return reserve_device_arena(c, bytes);
  void *grown = mem_alloc_aligned(bytes);
  if (!grown) return KILN_FAIL(KILN_OUT_OF_MEMORY, "no memory for an arena of %zu bytes", bytes);
  mem_free_aligned(c->arena);
  c->arena = grown;
  c->arena_bytes = bytes;
  return KILN_OK;
}

/* The engine's compiled kernels are there while programs ask for theirs. */
static kiln_status create_program(kiln_context *c, bound_program *b) {
  const kiln_engine *e = c->engine;
  if (!c->gpu)
    return program_create_profile(e->plan, b->profile, &e->target, NULL, b->symbols, NULL, c->threads, &b->program);
  const device_hooks *h = c->gpu->hooks;
  const bool offers = e->kernels && h->offer;
  if (offers) KILN_TRY(h->offer(c->gpu->device, e->kernels, e->kernels_size));
  const kiln_status status =
      program_create_profile(e->plan, b->profile, &e->target, c->gpu->device, b->symbols,
                             (const int64_t(*)[KILN_MAX_RANK])b->strides, c->threads, &b->program);
  if (offers) h->withdraw(c->gpu->device, e->kernels);
  return status;
}

static kiln_status bind_shapes(kiln_context *c) {
  bound_program *b = NULL;
  c->steady.ready = false;
  KILN_TRY(find_program(c, &b));
  const int n = dim_symbol_count(graph_of(c)->dims);
  if (b->program && program_arena_bytes(b->program) > c->arena_bytes) KILN_TRY(check_not_capturing(c));
  if (!b->program) {
    if (!b->symbols) b->symbols = mem_calloc((size_t)n + 1, sizeof *b->symbols);
    if (!b->symbols) return KILN_NO_MEMORY("context");
    if (n) memcpy(b->symbols, c->symbols, (size_t)n * sizeof *b->symbols);
    b->profile = c->chosen;
    if (c->gpu) {
      const size_t n_inputs = (size_t)graph_of(c)->n_inputs + 1;
      if (!b->strides && !(b->strides = mem_calloc(n_inputs, sizeof *b->strides))) return KILN_NO_MEMORY("context");
      memcpy(b->strides, c->strides, (n_inputs - 1) * sizeof *b->strides);
    }
    KILN_TRY(create_program(c, b));
  }
  KILN_TRY(reserve_arena(c, program_arena_bytes(b->program)));
  b->last_use = ++c->clock;
  c->bound = b;
  c->current = b->program;
  return KILN_OK;
}

/* How an input on the device lies if it is dense, with its dimensions in any order (dimensions of size 1 lie anywhere); else, and on
 * the host, contiguous: it will be copied. */
static void input_layout(const kiln_context *c, const kiln_tensor *t, int64_t *out) {
  tensor plain = {.rank = t->ndim};
  bool used[KILN_MAX_RANK] = {false};
  memset(out, 0, sizeof(int64_t) * KILN_MAX_RANK);
  for (int32_t d = 0; d < t->ndim; d++) plain.shape[d] = t->shape[d];
  tensor_make_contiguous_strides(&plain);
  memcpy(out, plain.strides, (size_t)t->ndim * sizeof *out);
  if (!t->strides || t->device.type == KILN_DEVICE_CPU || tensor_numel(&plain) == 0) return;
  int64_t strides[KILN_MAX_RANK] = {0}, expected = 1;
  (void)c;
  for (int32_t k = 0; k < t->ndim; k++) { /* from the innermost dimension out */
    int32_t next = -1;
    for (int32_t d = t->ndim - 1; d >= 0; d--) {
      if (!used[d] && t->shape[d] > 1 && t->strides[d] == expected) next = d;
    }
    if (next < 0) break;
    used[next] = true;
    strides[next] = expected;
    expected *= t->shape[next];
  }
  if (expected != tensor_numel(&plain)) return;
  for (int32_t d = 0; d < t->ndim; d++) {
    if (t->shape[d] == 1) strides[d] = d + 1 < t->ndim ? strides[d + 1] * t->shape[d + 1] : 1;
  }
  for (int32_t d = t->ndim - 1; d >= 0; d--) { /* strides behind a run of ones are known only now */
    if (t->shape[d] == 1) strides[d] = d + 1 < t->ndim ? strides[d + 1] * t->shape[d + 1] : 1;
  }
  memcpy(out, strides, (size_t)t->ndim * sizeof *out);
}

static void input_layouts(kiln_context *c, const kiln_tensor *inputs) {
  for (int32_t i = 0; c->gpu && i < graph_of(c)->n_inputs; i++) input_layout(c, &inputs[i], c->strides[i]);
}

static bool shapes_unchanged(kiln_context *c, const kiln_tensor *inputs) {
  if (!c->current) return false;
  if (steady_same_inputs(c, inputs)) return true;
  for (int32_t i = 0; i < graph_of(c)->n_inputs; i++) {
    const tensor *bound = program_param(c->current, i);
    if (inputs[i].ndim != bound->rank || kiln_tensor_get_dtype(&inputs[i]) != bound->dtype ||
        (bound->rank && !inputs[i].shape) || !device_fits(c, &inputs[i]))
      return false;
    for (int32_t d = 0; d < bound->rank; d++) {
      if (inputs[i].shape[d] != bound->shape[d]) return false;
    }
  }
  input_layouts(c, inputs);
  return same_layout(c, c->bound);
}

static kiln_status prepare_inputs(kiln_context *c, const kiln_tensor *inputs, size_t input_count) {
  const graph *g = graph_of(c); /* of the old version, but its inputs are those of the new one */
  if (input_count != (size_t)g->n_inputs)
    return KILN_FAIL(KILN_INVALID_ARGUMENT, "%zu inputs were given, the engine has %d", input_count, (int)g->n_inputs);
  if (input_count && !inputs) return KILN_FAIL(KILN_INVALID_ARGUMENT, "inputs is NULL");
  if (context_is_outdated(c)) {
    KILN_TRY(context_adopt(c));
    g = graph_of(c);
  }
  if (shapes_unchanged(c, inputs)) return KILN_OK;
  for (int32_t i = 0; i < g->n_inputs; i++) {
    if (inputs[i].ndim > 0 && !inputs[i].shape)
      return KILN_FAIL(KILN_INVALID_ARGUMENT, "input %d: shape is NULL", (int)i);
    KILN_TRY(check_dtype_and_rank(c, i, &inputs[i]));
  }
  KILN_TRY(choose_profile(c, inputs, &c->chosen));
  KILN_TRY(solve_symbols(c, inputs));
  KILN_TRY(check_size_guards(c, inputs));
  input_layouts(c, inputs);
  return bind_shapes(c);
}

kiln_status kiln_context_prepare(kiln_context *c, const kiln_tensor *inputs, size_t input_count, kiln_tensor *outputs,
                                 size_t output_count) {
  if (!c) return KILN_FAIL(KILN_INVALID_ARGUMENT, "context is NULL");
  if (steady_prepare(c, inputs, input_count, outputs, output_count)) return KILN_OK;
  KILN_TRY(prepare_inputs(c, inputs, input_count));
  if (!outputs) return KILN_OK;
  if (output_count != (size_t)graph_of(c)->n_outputs)
    return KILN_FAIL(KILN_INVALID_ARGUMENT, "room for %zu outputs was given, the engine has %d", output_count,
                     (int)graph_of(c)->n_outputs);
  for (int32_t i = 0; i < graph_of(c)->n_outputs; i++) {
    const tensor *t = program_result(c->current, i);
    outputs[i].ndim = t->rank;
    kiln_tensor_set_dtype(&outputs[i], t->dtype);
    for (int32_t d = 0; outputs[i].shape && d < t->rank; d++) outputs[i].shape[d] = t->shape[d];
  }
  return KILN_OK;
}

/* ---- running ----------------------------------------------------------------------------------------------------- */

static kiln_status check_output(const kiln_context *c, int32_t i, const kiln_tensor *t) {
  const tensor *bound = program_result(c->current, i);
  bool same = t->ndim == bound->rank && kiln_tensor_get_dtype(t) == bound->dtype && device_fits(c, t) &&
              (t->shape || !bound->rank);
  for (int32_t d = 0; same && d < bound->rank; d++) same = t->shape[d] == bound->shape[d];
  if (same) return KILN_OK;
  for (int32_t d = 0; d < bound->rank; d++) {
    if (bound->shape[d] < 0)
      return KILN_FAIL(
          KILN_INVALID_ARGUMENT,
          "output %d (\"%s\"): its size %d depends on data: give no memory (data NULL), and take what the engine lends",
          (int)i, graph_of(c)->output_names[i], (int)d);
  }
  text expected = {0};
  for (int32_t d = 0; d < bound->rank; d++) text_printf(&expected, d ? ",%lld" : "%lld", (long long)bound->shape[d]);
  const kiln_status status = KILN_FAIL(KILN_INVALID_ARGUMENT, "output %d (\"%s\"): expected memory for %s[%s] on %s",
                                       (int)i, graph_of(c)->output_names[i], kiln_dtype_name(bound->dtype),
                                       expected.data ? expected.data : "", device_name(c));
  text_free(&expected);
  return status;
}

/* Outputs that the context provides are where the inputs are: on the device if any input is. */
static void note_places(kiln_context *c, const kiln_tensor *inputs, const kiln_tensor *outputs) {
  const graph *g = graph_of(c);
  bool on_device = false;
  for (int32_t i = 0; i < g->n_inputs; i++) {
    c->gpu->host_in[i] = inputs[i].device.type == KILN_DEVICE_CPU;
    on_device = on_device || !c->gpu->host_in[i];
  }
  for (int32_t i = 0; i < g->n_outputs; i++)
    c->gpu->host_out[i] = outputs[i].data ? outputs[i].device.type == KILN_DEVICE_CPU : !on_device;
}

static kiln_status take_tensors(kiln_context *c, const kiln_tensor *inputs, kiln_tensor *outputs) {
  const graph *g = graph_of(c);
  for (int32_t i = 0; i < g->n_inputs; i++) {
    c->params[i] = tensor_from(&inputs[i]);
    if (!c->params[i].data && tensor_numel(&c->params[i]) > 0)
      return KILN_FAIL(KILN_INVALID_ARGUMENT, "input %d (\"%s\"): data is NULL", (int)i, g->input_names[i]);
  }
  for (int32_t i = 0; i < g->n_outputs; i++) {
    c->results[i] = (tensor){0};
    if (!outputs[i].data) continue;
    KILN_TRY(check_output(c, i, &outputs[i]));
    c->results[i] = tensor_from(&outputs[i]);
  }
  if (c->gpu) note_places(c, inputs, outputs);
  for (int32_t i = 0; i < g->n_states; i++) {
    const graph_state *s = &g->states[i];
    c->params[s->param] = *program_param(c->current, s->param);
    c->params[s->param].data = c->state_now[i];
    c->results[s->result] = *program_result(c->current, s->result);
    c->results[s->result].data = c->state_next[i];
  }
  return KILN_OK;
}

static void lend_outputs(kiln_context *c, kiln_tensor *outputs) {
  for (int32_t i = 0; i < graph_of(c)->n_outputs; i++) {
    if (outputs[i].data) continue;
    const tensor *t = &c->results[i];
    outputs[i].data = t->data;
    const bool on_device = c->gpu && !c->gpu->host_out[i];
    c->arena_lent = c->arena_lent || on_device;
    outputs[i].device.type = on_device ? c->gpu->hooks->dlpack_type : KILN_DEVICE_CPU;
    outputs[i].device.id = on_device ? c->gpu->hooks->ordinal(c->gpu->device) : 0;
    outputs[i].ndim = t->rank;
    outputs[i].byte_offset = 0;
    kiln_tensor_set_dtype(&outputs[i], t->dtype);
    memcpy(c->lent_shapes[i][0], t->shape, sizeof t->shape);
    memcpy(c->lent_shapes[i][1], t->strides, sizeof t->strides);
    outputs[i].shape = c->lent_shapes[i][0];
    outputs[i].strides = c->lent_shapes[i][1];
  }
}

static void swap_states(kiln_context *c) {
  for (int32_t i = 0; i < c->steady.n_states; i++) {
    void *swap = c->state_now[i];
    c->state_now[i] = c->state_next[i];
    c->state_next[i] = swap;
  }
}

kiln_status kiln_context_run(kiln_context *c, const kiln_tensor *inputs, size_t input_count, kiln_tensor *outputs,
                             size_t output_count) {
  if (!c) return KILN_FAIL(KILN_INVALID_ARGUMENT, "context is NULL");
  bool done = false;
  KILN_TRY(steady_run(c, inputs, input_count, outputs, output_count, &done));
  if (done) {
    swap_states(c);
    return KILN_OK;
  }
  c->steady.ready = false;
  KILN_TRY(prepare_inputs(c, inputs, input_count));
  const graph *g = graph_of(c);
  if (output_count != (size_t)g->n_outputs || (output_count && !outputs))
    return KILN_FAIL(KILN_INVALID_ARGUMENT, "%zu outputs were given, the engine has %d", outputs ? output_count : 0,
                     (int)g->n_outputs);
  KILN_TRY(take_tensors(c, inputs, outputs));
  if (c->gpu) {
    KILN_TRY(device_run_program(c->gpu, c->current, &c->bound->graphs, c->arena, g, c->params, c->results, c->profile));
  } else {
    KILN_TRY(program_run(c->current, c->arena, c->params, c->results, c->workers, c->profile));
  }
  swap_states(c);
  if (c->gpu && c->gpu->captured) c->arena_captured = c->bound->captured = true;
  steady_note(c, inputs, outputs);
  lend_outputs(c, outputs);
  return KILN_OK;
}

/* A device that fails here fails again, with its text, in the next run. */
static void reset_on_device(kiln_context *c, void *state, const constant *initial) {
  const device_run *r = c->gpu;
  if (r->hooks->enter(r->device) != KILN_OK) return;
  kiln_status status = device_run_wait(c->gpu);
  if (status == KILN_OK) status = r->hooks->upload(r->device, r->stream, state, initial->data, initial->size);
  if (status == KILN_OK) status = r->hooks->synchronize(r->device, r->stream);
  r->hooks->leave(r->device);
}

void kiln_context_reset(kiln_context *c) {
  if (!c) return;
  if (context_is_outdated(c) && context_adopt(c) != KILN_OK) error_clear(); /* then the next run says it */
  const graph *g = graph_of(c);
  for (int32_t i = 0; i < g->n_states; i++) {
    const constant *initial = g->states[i].initial->constant;
    if (c->gpu)
      reset_on_device(c, c->state_now[i], initial);
    else
      memcpy(c->state_now[i], initial->data, initial->size);
  }
}

/* ---- life -------------------------------------------------------------------------------------------------------- */

static kiln_status context_allocate(kiln_context *c, int ordinal) {
  const graph *g = graph_of(c);
  const size_t symbols = (size_t)dim_symbol_count(g->dims) + 1;
  c->symbols = mem_calloc(symbols, sizeof *c->symbols);
  c->symbol_known = mem_calloc(symbols, 1);
  c->strides = mem_calloc((size_t)g->n_inputs + 1, sizeof *c->strides);
  c->params = mem_calloc((size_t)g->body.n_params + 1, sizeof *c->params);
  c->results = mem_calloc((size_t)g->body.n_results + 1, sizeof *c->results);
  c->lent_shapes = mem_calloc((size_t)g->n_outputs + 1, sizeof *c->lent_shapes);
  c->state_now = mem_calloc((size_t)g->n_states + 1, sizeof *c->state_now);
  c->state_next = mem_calloc((size_t)g->n_states + 1, sizeof *c->state_next);
  if (!c->symbols || !c->symbol_known || !c->strides || !c->params || !c->results || !c->lent_shapes || !c->state_now ||
      !c->state_next)
    return KILN_NO_MEMORY("context");
  KILN_TRY(steady_create(c));
  const target *t = &c->engine->target;
  if (t->backend->device) KILN_TRY(device_run_create(t, ordinal, g->body.n_params, g->body.n_results, &c->gpu));
  for (int32_t i = 0; i < g->n_states; i++) {
    const size_t bytes = g->states[i].initial->constant->size;
    if (c->gpu) {
      KILN_TRY(c->gpu->hooks->allocate(c->gpu->device, bytes, "a state", &c->state_now[i]));
      KILN_TRY(c->gpu->hooks->allocate(c->gpu->device, bytes, "a state", &c->state_next[i]));
    } else {
      c->state_now[i] = mem_alloc_aligned(bytes ? bytes : 1);
      c->state_next[i] = mem_alloc_aligned(bytes ? bytes : 1);
    }
    if (!c->state_now[i] || !c->state_next[i]) return KILN_NO_MEMORY("context state");
    c->state_bytes += 2 * bytes;
  }
  kiln_context_reset(c);
  KILN_TRY(pool_create(c->threads, &c->workers));
  return engine_make_weights(c->engine, c->workers);
}

static kiln_status context_new(const kiln_engine *engine, int ordinal, const kiln_context_options *options,
                               kiln_context **out_context) {
  kiln_context *c = mem_calloc(1, sizeof *c);
  if (!c) return KILN_NO_MEMORY("context");
  c->handle = engine_retain(engine);
  c->engine = engine_current(engine, &c->generation);
  c->wanted = -1;
  c->threads = options && options->threads > 0 ? options->threads : cpu_count();
  const kiln_status status = context_allocate(c, ordinal);
  if (status != KILN_OK) {
    kiln_context_destroy(c);
    return status;
  }
  *out_context = c;
  return KILN_OK;
}

kiln_status kiln_context_create_on(const kiln_engine *engine, int ordinal, const kiln_context_options *options,
                                   kiln_context **out_context) {
  if (!engine || !out_context) return KILN_FAIL(KILN_INVALID_ARGUMENT, "%s is NULL", engine ? "out_context" : "engine");
  if (ordinal != 0 && !engine->target.backend->device)
    return KILN_FAIL(KILN_INVALID_ARGUMENT, "device %d was asked for, but the engine runs on %s", ordinal,
                     kiln_engine_target(engine));
  if (options && options->struct_size < sizeof(kiln_context_options))
    return KILN_FAIL(KILN_INVALID_ARGUMENT, "options.struct_size must be sizeof(kiln_context_options)");
  if (!kiln_engine_has_weights(engine)) return engine_check_weights(engine);
  kiln_status status = context_new(engine, ordinal, options, out_context);
  target native;
  if (status == KILN_INCOMPATIBLE && engine_is_foreign(engine, ordinal, &native)) {
    KILN_TRY(engine_adapt(engine, &native));
    status = context_new(engine, ordinal, options, out_context);
  }
  return status;
}

kiln_status kiln_context_create_with(const kiln_engine *engine, const kiln_context_options *options,
                                     kiln_context **out_context) {
  return kiln_context_create_on(engine, engine ? engine->target.ordinal : 0, options, out_context);
}

kiln_status kiln_context_create(const kiln_engine *engine, kiln_context **out_context) {
  return kiln_context_create_with(engine, NULL, out_context);
}

kiln_status kiln_context_set_stream(kiln_context *c, void *stream) {
  if (!c) return KILN_FAIL(KILN_INVALID_ARGUMENT, "context is NULL");
  if (!c->gpu)
    return KILN_FAIL(KILN_INVALID_ARGUMENT, "this engine runs on %s, which has no streams",
                     kiln_engine_target(c->engine));
  return device_run_set_stream(c->gpu, stream);
}

kiln_status kiln_context_set_optimization_profile(kiln_context *c, int index) {
  if (!c) return KILN_FAIL(KILN_INVALID_ARGUMENT, "context is NULL");
  const int32_t count = c->engine->profiles.count;
  if (index < -1 || index >= count)
    return KILN_FAIL(KILN_INVALID_ARGUMENT,
                     "optimization profile %d: the engine has %d, counted from 0 (-1: the best one)", index,
                     (int)count);
  if (index != c->wanted) c->current = NULL; /* the next run looks again */
  c->wanted = index;
  return KILN_OK;
}

int kiln_context_optimization_profile(const kiln_context *c) { return c && c->current ? c->chosen : -1; }

static kiln_status check_copy(const kiln_context *c, const kiln_tensor *from, const kiln_tensor *to) {
  bool same = from->ndim == to->ndim && from->ndim <= KILN_MAX_RANK && from->ndim >= 0 &&
              kiln_tensor_get_dtype(from) == kiln_tensor_get_dtype(to) &&
              kiln_tensor_get_dtype(from) != KILN_DTYPE_COUNT;
  for (int32_t d = 0; same && d < from->ndim; d++) same = from->shape[d] == to->shape[d] && from->shape[d] >= 0;
  if (!same) return KILN_FAIL(KILN_INVALID_ARGUMENT, "the two tensors have not the same shape and type");
  if (!device_fits(c, from) || !device_fits(c, to) || from->device.type != to->device.type)
    return KILN_FAIL(KILN_INVALID_ARGUMENT, "both tensors must be in host memory, or both on the GPU of the context");
  return KILN_OK;
}

kiln_status kiln_context_copy(kiln_context *c, const kiln_tensor *from, const kiln_tensor *to) {
  if (!c || !from || !to) return KILN_FAIL(KILN_INVALID_ARGUMENT, "an argument is NULL");
  KILN_TRY(check_copy(c, from, to));
  const tensor in = tensor_from(from), out = tensor_from(to);
  if (tensor_numel(&in) == 0) return KILN_OK;
  if (!in.data || !out.data) return KILN_FAIL(KILN_INVALID_ARGUMENT, "data is NULL");
  if (from->device.type != KILN_DEVICE_CPU) {
    if (!c->current) return KILN_FAIL(KILN_INVALID_ARGUMENT, "the context has not run yet");
    return device_run_copy(c->gpu, c->current, &in, &out);
  }
  device_run_copy_host(&in, &out);
  return KILN_OK;
}

/* Memory of this context, wherever it is. */
static void release_memory(kiln_context *c, void *memory, size_t bytes) {
  if (c->gpu)
    c->gpu->hooks->release(c->gpu->device, memory, bytes);
  else
    mem_free_aligned(memory);
}

/* May something that nobody here can wait for use memory: a caller's graph, or kernels that read outputs in the arena? */
static bool is_in_doubt(kiln_context *c) {
  bool doubt = c->arena_captured || c->arena_lent || c->retired;
  for (int i = 0; i < CONTEXT_PROGRAMS; i++) doubt = doubt || c->programs[i].captured;
  if (device_run_settle(c->gpu) != KILN_OK) {
    error_clear();
    doubt = true;
  }
  return c->gpu && c->gpu->hooks->in_doubt && doubt;
}

static void release_all(kiln_context *c) {
  for (int i = 0; i < CONTEXT_PROGRAMS; i++) {
    if (c->gpu) device_graphs_clear(c->gpu, &c->programs[i].graphs);
    program_destroy(c->programs[i].program);
    mem_free(c->programs[i].symbols);
    mem_free(c->programs[i].strides);
  }
  for (retired *r = c->retired, *next; r; r = next) {
    next = r->next;
    program_destroy(r->program);
    release_memory(c, r->memory, r->bytes);
    if (r->engine) engine_leave(c->handle, r->engine);
    mem_free(r);
  }
  for (int32_t i = 0; i < graph_of(c)->n_states; i++) {
    const size_t bytes = graph_of(c)->states[i].initial->constant->size;
    if (c->state_now) release_memory(c, c->state_now[i], bytes);
    if (c->state_next) release_memory(c, c->state_next[i], bytes);
  }
  release_memory(c, c->arena, c->arena_bytes);
}

void kiln_context_destroy(kiln_context *c) {
  if (!c) return;
  const bool in_doubt = is_in_doubt(c);
  if (in_doubt) c->gpu->hooks->in_doubt(c->gpu->device, true);
  release_all(c);
  if (in_doubt) c->gpu->hooks->in_doubt(c->gpu->device, false);
  pool_destroy(c->workers);
  device_run_destroy(c->gpu);
  mem_free(c->symbols);
  mem_free(c->strides);
  mem_free(c->symbol_known);
  mem_free(c->params);
  mem_free(c->results);
  mem_free(c->lent_shapes);
  mem_free(c->state_now);
  mem_free(c->state_next);
  steady_free(c);
  engine_leave(c->handle, c->engine);
  kiln_engine_destroy(c->handle);
  mem_free(c);
}

/* ---- measuring --------------------------------------------------------------------------------------------------- */

void kiln_context_memory(const kiln_context *c, kiln_memory_info *out) {
  if (!out) return;
  *out = (kiln_memory_info){0};
  if (!c) return;
  *out = (kiln_memory_info){engine_weight_bytes(c->engine), c->current ? program_arena_bytes(c->current) : 0,
                            c->state_bytes};
}

void kiln_context_profile(kiln_context *c, int enable) {
  if (!c) return;
  c->profile = enable != 0;
  if (enable && c->current) program_profile_clear(c->current);
}

size_t kiln_context_step_count(const kiln_context *c) { return c && c->current ? program_step_count(c->current) : 0; }

kiln_status kiln_context_step(const kiln_context *c, size_t index, kiln_step_info *out) {
  if (!c || !out) return KILN_FAIL(KILN_INVALID_ARGUMENT, "%s is NULL", c ? "out_info" : "context");
  if (index >= kiln_context_step_count(c))
    return KILN_FAIL(KILN_INVALID_ARGUMENT, "step %zu of %zu", index, kiln_context_step_count(c));
  const node *n = program_step(c->current, index, &out->seconds, &out->flops, &out->bytes);
  out->op = n->op->name;
  out->tactic = program_step_kernel(c->current, index);
  out->name = n->path ? n->path : "";
  return KILN_OK;
}
