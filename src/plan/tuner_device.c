/* Timing tactics on a device, against each other and as engines run them: each tactic is a graph of many launches of the
 * node, so that a launch overlaps the one before where the tactic allows that. Activations are the same in every launch,
 * as what a kernel reads was just written; weights are read from one copy after the other, so that they come from memory,
 * unless those of the whole plan stay in the device's cache. Rounds go over all tactics in turn: a change of clocks meets
 * all of them. */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "ops/ref.h"
#include "plan/tuner_internal.h"

enum { MOST_COPIES = 64, MOST_CONSTANTS = 8, MOST_TACTICS = 64, ROUNDS = 4, DUEL_ROUNDS = 7 };

/* Another tactic must be faster than the heuristic's by more than timings differ from run to run. */
static const double noise = 0.015, least_gain = 0.05e-6;
static const double graph_seconds = 1.5e-3; /* of one graph, about */

typedef struct candidate {
  graph *graph;
  program *program;
  program_constant constants[MOST_CONSTANTS];
  void *originals[MOST_CONSTANTS];
  int n_constants;
  void *exec; /* NULL: it is out */
  double best;
} candidate;

typedef struct bench {
  tuner *t;
  const device_hooks *h;
  device *d;
  void *stream, *marks[2];
  candidate *list;
  int count, n_in, n_out;
  void *memory, *tensors, *weights; /* arena; parameters and results; copies of the weights */
  size_t memory_bytes, tensors_bytes, weights_bytes, copy_bytes;
  int copies, launches;
  const void **externals;
} bench;

/* ---- candidates -------------------------------------------------------------------------------------------------- */

/* The graph stays where it is borrowed: c->graph is NULL then. */
static void drop(bench *b, candidate *c) {
  for (int i = 0; c->program && i < c->n_constants; i++) *c->constants[i].pointer = c->originals[i];
  b->h->graph_destroy(b->d, c->exec);
  program_destroy(c->program);
  graph_destroy(c->graph);
  *c = (candidate){.best = tuner_failed};
}

static void make_candidate(bench *b, const node *n, const kernel *k, candidate *c) {
  *c = (candidate){.best = tuner_failed};
  if (tuner_alone(b->t, n, k, &c->graph, &c->program) != KILN_OK) {
    error_clear();
    drop(b, c);
    return;
  }
  if (program_has_jumps(c->program)) {
    drop(b, c);
    return;
  }
  c->n_constants = program_constants(c->program, c->constants, MOST_CONSTANTS);
  size_t bytes = 0;
  for (int i = 0; i < c->n_constants; i++) {
    c->originals[i] = *c->constants[i].pointer;
    bytes += size_align(c->constants[i].bytes, 256);
  }
  if (bytes > b->copy_bytes) b->copy_bytes = bytes;
  if (program_arena_bytes(c->program) > b->memory_bytes) b->memory_bytes = program_arena_bytes(c->program);
}

/* ---- memory ------------------------------------------------------------------------------------------------------ */

static size_t bytes_of(const tensor *t) { return (size_t)tensor_numel(t) * kiln_dtype_size(t->dtype); }

/* A pattern, uploaded once and doubled on the device. */
static kiln_status fill(bench *b, void *there, size_t bytes, kiln_dtype dtype, uint32_t seed) {
  const size_t item = kiln_dtype_size(dtype), most = (size_t)1 << 18;
  if (bytes < item) return KILN_OK;
  tensor here = {.dtype = dtype, .rank = 1, .strides = {1}};
  here.shape[0] = (int64_t)((bytes < most ? bytes : most) / item);
  size_t have = (size_t)here.shape[0] * item;
  if (!(here.data = mem_alloc_aligned(have))) return KILN_NO_MEMORY("tuner");
  tuner_fill(&here, seed);
  kiln_status status = b->h->upload(b->d, b->stream, there, here.data, have);
  if (status == KILN_OK) status = b->h->synchronize(b->d, b->stream);
  mem_free_aligned(here.data);
  while (status == KILN_OK && have < bytes) {
    const size_t part = bytes - have < have ? bytes - have : have;
    status = b->h->copy(b->d, b->stream, (char *)there + have, there, part);
    have += part;
  }
  return status;
}

static kiln_status place_tensors(bench *b, const program *p) {
  size_t at = 0;
  b->externals = mem_calloc((size_t)(b->n_in + b->n_out) + 1, sizeof *b->externals);
  if (!b->externals) return KILN_NO_MEMORY("tuner");
  for (int pass = 0; pass < 2; pass++) {
    at = 0;
    for (int i = 0; i < b->n_in + b->n_out; i++) {
      const tensor *x = i < b->n_in ? program_param(p, i) : program_result(p, i - b->n_in);
      if (pass) b->externals[i] = (char *)b->tensors + at;
      if (pass && i < b->n_in) KILN_TRY(fill(b, (char *)b->tensors + at, bytes_of(x), x->dtype, (uint32_t)i));
      at += size_align(bytes_of(x), 256);
    }
    if (!pass) {
      b->tensors_bytes = at;
      KILN_TRY(b->h->allocate(b->d, at, "tuning", &b->tensors));
    }
  }
  return KILN_OK;
}

/* As many copies of the weights as the cache cannot hold; the contents do not matter, so all are of one. */
static kiln_status place_weights(bench *b, const candidate *like) {
  const size_t cache = b->h->info(b->d).cache_bytes;
  b->copies = 1;
  if (b->copy_bytes < (size_t)64 << 10 || b->t->weight_bytes < cache / 2 || b->copy_bytes > 2 * cache) return KILN_OK;
  const size_t wanted = (cache + cache / 2) / b->copy_bytes + 1;
  const int copies = wanted > MOST_COPIES ? MOST_COPIES : (int)wanted;
  b->weights_bytes = (size_t)copies * b->copy_bytes;
  if (b->h->allocate(b->d, b->weights_bytes, "tuning", &b->weights) != KILN_OK) {
    error_clear(); /* then without */
    return KILN_OK;
  }
  b->copies = copies;
  size_t have = 0;
  for (int i = 0; i < like->n_constants; i++) {
    KILN_TRY(b->h->copy(b->d, b->stream, (char *)b->weights + have, like->originals[i], like->constants[i].bytes));
    have += size_align(like->constants[i].bytes, 256);
  }
  while (have < b->weights_bytes) {
    const size_t part = b->weights_bytes - have < have ? b->weights_bytes - have : have;
    KILN_TRY(b->h->copy(b->d, b->stream, (char *)b->weights + have, b->weights, part));
    have += part;
  }
  return KILN_OK;
}

/* ---- graphs ------------------------------------------------------------------------------------------------------ */

static void turn_weights(bench *b, candidate *c, int launch) {
  if (b->copies < 2) return;
  char *at = (char *)b->weights + (size_t)(launch % b->copies) * b->copy_bytes;
  for (int i = 0; i < c->n_constants; i++) {
    *c->constants[i].pointer = at;
    at += size_align(c->constants[i].bytes, 256);
  }
}

static kiln_status launch(bench *b, candidate *c, int i) {
  turn_weights(b, c, i);
  return program_launch(c->program, b->memory, b->externals, b->stream, false);
}

static kiln_status timed(bench *b, void *exec, candidate *c, int launches, double *out) {
  KILN_TRY(b->h->mark(b->d, b->marks[0], b->stream));
  if (exec) KILN_TRY(b->h->graph_launch(b->d, exec, b->stream));
  for (int i = 0; !exec && i < launches; i++) KILN_TRY(launch(b, c, i));
  KILN_TRY(b->h->mark(b->d, b->marks[1], b->stream));
  KILN_TRY(b->h->seconds_between(b->d, b->marks[0], b->marks[1], out));
  *out /= launches;
  return KILN_OK;
}

static kiln_status capture(bench *b, candidate *c) {
  KILN_TRY(b->h->capture_begin(b->d, b->stream));
  kiln_status status = KILN_OK;
  for (int i = 0; i < b->launches && status == KILN_OK; i++) status = launch(b, c, i);
  const kiln_status ended = b->h->capture_end(b->d, b->stream, status == KILN_OK, &c->exec);
  return status == KILN_OK ? ended : status;
}

/* ---- results ----------------------------------------------------------------------------------------------------- */

enum { MOST_COMPARED = 1 << 16 }; /* elements */

/* The first elements of the first result, as the candidate's last launch left them. */
static kiln_status download(bench *b, tensor *out) {
  const tensor *made = program_result(b->list[0].program, 0);
  const int64_t n = tensor_numel(made);
  *out = (tensor){.dtype = made->dtype, .rank = 1, .strides = {1}};
  out->shape[0] = n < MOST_COMPARED ? n : MOST_COMPARED;
  if (!(out->data = mem_alloc_aligned(bytes_of(out) + 1))) return KILN_NO_MEMORY("tuner");
  kiln_status status = b->h->download(b->d, b->stream, out->data, b->externals[b->n_in], bytes_of(out));
  if (status == KILN_OK) status = b->h->synchronize(b->d, b->stream);
  if (status != KILN_OK) mem_free_aligned(out->data);
  return status;
}

/* With the candidate's own weights: the copies are of the first one's packing. */
static kiln_status launch_own(bench *b, candidate *c) {
  for (int i = 0; i < c->n_constants; i++) *c->constants[i].pointer = c->originals[i];
  return program_launch(c->program, b->memory, b->externals, b->stream, false);
}

/* Do two tactics agree, up to rounding? */
static bool agree(const tensor *x, const tensor *y) {
  double difference = 0, size = 0;
  for (int64_t i = 0; i < x->shape[0]; i++) {
    const double a = ref_load(x, i), c = ref_load(y, i);
    if (a == c || (a != a && c != c)) {
      size += a == c && a - a == 0 ? a * a : 0;
      continue;
    }
    difference += (a - c) * (a - c);
    size += a * a;
  }
  return difference <= 0.05 * 0.05 * size;
}

/* Another tactic must give what the heuristic's gives: libraries are not ours. */
static void check_results(bench *b) {
  tensor first = {0};
  if (b->n_out == 0 || !b->list[0].program || launch_own(b, &b->list[0]) != KILN_OK || download(b, &first) != KILN_OK) {
    error_clear();
    return;
  }
  for (int i = 1; i < b->count; i++) {
    candidate *c = &b->list[i];
    tensor other = {0};
    if (!c->program) continue;
    bool same = launch_own(b, c) == KILN_OK && download(b, &other) == KILN_OK;
    if (same) {
      same = agree(&first, &other);
      mem_free_aligned(other.data);
    }
    error_clear();
    if (!same) drop(b, c);
  }
  mem_free_aligned(first.data);
}

/* A first look decides how many launches a graph has, and drops what is far behind. */
static void first_look(bench *b) {
  double seconds[MOST_TACTICS];
  for (int i = 0; i < b->count; i++) {
    candidate *c = &b->list[i];
    seconds[i] = tuner_failed;
    if (!c->program) continue;
    if (launch(b, c, 0) != KILN_OK || timed(b, NULL, c, 2, &seconds[i]) != KILN_OK) {
      error_clear();
      drop(b, c);
    }
  }
  const double first = seconds[0] < tuner_failed ? seconds[0] : 1e-3;
  const int most = b->copies > 16 ? b->copies : 16;
  const double fit = graph_seconds / (first > 1e-7 ? first : 1e-7);
  b->launches = fit < 2 ? 2 : fit > most ? most : (int)fit;
  for (int i = 0; i < b->count; i++) {
    candidate *c = &b->list[i];
    if (!c->program) continue;
    if ((i > 0 && seconds[i] > 3 * first + 10e-6) || capture(b, c) != KILN_OK) {
      error_clear();
      drop(b, c);
    }
  }
}

/* ---- rounds ------------------------------------------------------------------------------------------------------ */

static void play_rounds(bench *b) {
  double best = tuner_failed;
  for (int round = 0; round <= ROUNDS; round++) { /* the first one warms up */
    for (int i = 0; i < b->count; i++) {
      candidate *c = &b->list[i];
      double seconds = 0;
      if (!c->exec || (i > 0 && round > 1 && c->best > 1.3 * best)) continue;
      if (timed(b, c->exec, c, b->launches, &seconds) != KILN_OK) {
        error_clear();
        drop(b, c);
      } else if (round > 0 && seconds < c->best) {
        c->best = seconds;
      }
      if (c->best < best) best = c->best;
    }
  }
}

static int by_size(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return x < y ? -1 : x > y;
}

/* Medians of the two in turn. */
static kiln_status duel(bench *b, candidate *first, candidate *other, double out[2]) {
  double seconds[2][DUEL_ROUNDS];
  for (int round = 0; round < DUEL_ROUNDS; round++) {
    KILN_TRY(timed(b, first->exec, first, b->launches, &seconds[0][round]));
    KILN_TRY(timed(b, other->exec, other, b->launches, &seconds[1][round]));
  }
  for (int i = 0; i < 2; i++) {
    qsort(seconds[i], DUEL_ROUNDS, sizeof(double), by_size);
    out[i] = seconds[i][DUEL_ROUNDS / 2];
  }
  return KILN_OK;
}

static kiln_status choose(bench *b, int *out_best, winner *out) {
  int best = 0;
  double medians[2] = {0, 0};
  play_rounds(b);
  for (int i = 0; i < b->count; i++) {
    out->count += b->list[i].best < tuner_failed;
    if (b->list[i].best < b->list[best].best) best = i;
  }
  if (!b->list[0].exec) return KILN_FAIL(KILN_DEVICE_ERROR, "the heuristic's kernel cannot be timed");
  *out_best = 0;
  out->seconds = out->heuristic = b->list[0].best;
  if (best == 0) return KILN_OK;
  KILN_TRY(duel(b, &b->list[0], &b->list[best], medians));
  out->seconds = out->heuristic = medians[0];
  if (medians[1] > medians[0] * (1 - noise) || medians[0] - medians[1] < least_gain) return KILN_OK;
  *out_best = best;
  out->seconds = medians[1];
  return KILN_OK;
}

/* Memory for the first candidate's tensors, which all have. */
static kiln_status prepare(bench *b, const graph *g) {
  b->n_in = g->body.n_params;
  b->n_out = g->body.n_results;
  KILN_TRY(b->h->allocate(b->d, b->memory_bytes, "tuning", &b->memory));
  for (int i = 0; i < 2; i++) KILN_TRY(b->h->mark_create(b->d, &b->marks[i]));
  return place_tensors(b, b->list[0].program);
}

static kiln_status run(bench *b, const node *n, const kernel *const *tactics, int *out_best, winner *out) {
  for (int i = 0; i < b->count; i++) make_candidate(b, n, tactics[i], &b->list[i]);
  const candidate *first = &b->list[0];
  if (!first->program) return KILN_FAIL(KILN_DEVICE_ERROR, "the heuristic's kernel cannot be made");
  KILN_TRY(prepare(b, first->graph));
  KILN_TRY(place_weights(b, first));
  first_look(b);
  check_results(b);
  return choose(b, out_best, out);
}

static kiln_status open_bench(bench *b) {
  b->list = mem_calloc((size_t)b->count, sizeof *b->list);
  if (!b->list) return KILN_NO_MEMORY("tuner");
  KILN_TRY(b->h->stream_create(b->d, &b->stream));
  return b->h->enter(b->d);
}

/* `opened`: what open_bench said. */
static void close_bench(bench *b, kiln_status opened) {
  for (int i = 0; opened == KILN_OK && i < b->count; i++) drop(b, &b->list[i]);
  for (int i = 0; opened == KILN_OK && i < 2; i++) b->h->mark_destroy(b->d, b->marks[i]);
  if (opened == KILN_OK) b->h->leave(b->d);
  b->h->stream_destroy(b->d, b->stream); /* waits */
  b->h->release(b->d, b->memory, b->memory_bytes);
  b->h->release(b->d, b->tensors, b->tensors_bytes);
  b->h->release(b->d, b->weights, b->weights_bytes);
  mem_free(b->externals);
  mem_free(b->list);
}

kiln_status tuner_device_choose(tuner *t, const node *n, const kernel *const *tactics, int count, int *out_best,
                                winner *out) {
  bench b = {
      .t = t, .h = t->target->backend->device, .d = t->device, .count = count > MOST_TACTICS ? MOST_TACTICS : count};
  const kiln_status opened = open_bench(&b);
  const kiln_status status = opened == KILN_OK ? run(&b, n, tactics, out_best, out) : opened;
  close_bench(&b, opened);
  return status;
}

/* ---- whole plans ------------------------------------------------------------------------------------------------- */

static kiln_status bind_plan(bench *b, graph *plan, const int64_t *symbols, candidate *c) {
  KILN_TRY(plan_make_weights(plan, b->t->workers));
  KILN_TRY(program_create_on(plan, b->t->target, b->d, symbols, pool_threads(b->t->workers), &c->program));
  if (program_has_jumps(c->program)) return KILN_FAIL(KILN_UNSUPPORTED, "a plan that the host steers");
  if (program_arena_bytes(c->program) > b->memory_bytes) b->memory_bytes = program_arena_bytes(c->program);
  return KILN_OK;
}

static kiln_status compare(bench *b, graph *const plans[2], const int64_t *symbols, double out[2]) {
  for (int i = 0; i < 2; i++) KILN_TRY(bind_plan(b, plans[i], symbols, &b->list[i]));
  KILN_TRY(prepare(b, plans[0]));
  b->launches = b->copies = 1;
  for (int i = 0; i < 2; i++) {
    KILN_TRY(launch(b, &b->list[i], 0));
    KILN_TRY(capture(b, &b->list[i]));
  }
  for (int i = 0; i < 2; i++) KILN_TRY(duel(b, &b->list[0], &b->list[1], out)); /* the first time warms up */
  return KILN_OK;
}

kiln_status tuner_device_compare(tuner *t, graph *const plans[2], double out[2]) {
  bench b = {.t = t, .h = t->target->backend->device, .d = t->device, .count = 2};
  const int n = dim_symbol_count(plans[0]->dims);
  int64_t *symbols = mem_calloc((size_t)n + 1, sizeof *symbols);
  if (!symbols) return KILN_NO_MEMORY("tuner");
  for (int i = 0; i < n; i++) {
    int64_t min = 0, max = 0;
    dim_symbol_range(plans[0]->dims, i, &min, &max, &symbols[i]);
  }
  const kiln_status opened = open_bench(&b);
  const kiln_status status = opened == KILN_OK ? compare(&b, plans, symbols, out) : opened;
  close_bench(&b, opened);
  mem_free(symbols);
  return status;
}
