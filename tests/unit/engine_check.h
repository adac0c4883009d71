/* Runs a graph in every way there is and compares: interpreted by the reference kernels as it is, interpreted after the
 * portable passes, and as an engine (written, read back) for a target. Sizes come from the symbols given. */
#ifndef KILN_TESTS_ENGINE_CHECK_H
#define KILN_TESTS_ENGINE_CHECK_H

#include <math.h>
#include <stdlib.h>

#include "engine/engine.h"
#include "expect.h"
#include "ops/ref.h"
#include "passes/pass.h"
#include "runtime/program.h"

enum { CHECK_IO = 16 };

typedef struct check_io { /* the body's parameters and results: inputs and states, outputs and new states */
  tensor params[CHECK_IO], results[CHECK_IO];
} check_io;

static inline uint32_t check_random(uint32_t *state) {
  *state = *state * 1664525u + 1013904223u;
  return *state >> 8;
}

static inline tensor check_tensor(const graph *g, const tensor_type *type, const int64_t *symbols) {
  tensor t = {.dtype = type->dtype, .rank = type->rank};
  for (int d = 0; d < t.rank; d++) assert_true(dim_eval(g->dims, type->dims[d], symbols, &t.shape[d]));
  tensor_make_contiguous_strides(&t);
  t.data = calloc((size_t)tensor_numel(&t) + 1, kiln_dtype_size(t.dtype));
  return t;
}

static inline size_t check_bytes(const tensor *t) { return (size_t)tensor_numel(t) * kiln_dtype_size(t->dtype); }

/* Floats in [-2, 2], integers from 0 to 5. */
static inline check_io check_make(const graph *g, const int64_t *symbols, uint32_t seed) {
  check_io io = {0};
  assert_true(g->body.n_params <= CHECK_IO && g->body.n_results <= CHECK_IO);
  for (int32_t i = 0; i < g->body.n_params; i++) {
    tensor *t = &io.params[i];
    *t = check_tensor(g, &g->body.params[i]->type, symbols);
    for (int64_t k = 0; k < tensor_numel(t); k++) {
      const uint32_t r = check_random(&seed);
      ref_store(t, k, dtype_is_float(t->dtype) ? (double)(r % 4001) / 1000 - 2 : (double)(r % 6));
    }
  }
  for (int32_t i = 0; i < g->n_states; i++) {
    const constant *c = g->states[i].initial->constant;
    memcpy(io.params[g->states[i].param].data, c->data, c->size);
  }
  for (int32_t i = 0; i < g->body.n_results; i++) io.results[i] = check_tensor(g, &g->body.results[i].v->type, symbols);
  return io;
}

static inline void check_free(check_io *io) {
  for (int i = 0; i < CHECK_IO; i++) {
    free(io->params[i].data);
    free(io->results[i].data);
  }
}

static inline void check_interpret(const graph *g, const int64_t *symbols, check_io *io) {
  expect_ok(reference_run_graph(g, symbols, io->params, io->results));
  for (int32_t i = 0; i < g->n_states; i++)
    memcpy(io->params[g->states[i].param].data, io->results[g->states[i].result].data,
           check_bytes(&io->results[g->states[i].result]));
}

static inline kiln_engine *check_engine(graph *g, const char *target_name) {
  target t;
  graph *plan = NULL;
  void *bytes = NULL;
  size_t size = 0;
  kiln_engine *e = NULL;
  const plan_options options = {0};
  expect_ok(target_parse(target_name, &t));
  expect_ok(plan_create(g, &t, &options, &plan, NULL));
  expect_ok(graph_verify(plan));
  expect_ok(engine_write(g, plan, &t, "", &bytes, &size));
  expect_ok(engine_open_bytes(bytes, size, bytes, NULL, &e));
  graph_destroy(plan);
  return e;
}

static inline void check_context(kiln_context *c, const graph *g, check_io *io) {
  kiln_tensor in[CHECK_IO] = {0}, out[CHECK_IO] = {0};
  for (int32_t i = 0; i < g->n_inputs; i++) {
    in[i] = (kiln_tensor){.data = io->params[i].data, .ndim = io->params[i].rank, .shape = io->params[i].shape};
    in[i].device.type = KILN_DEVICE_CPU;
    kiln_tensor_set_dtype(&in[i], io->params[i].dtype);
  }
  for (int32_t i = 0; i < g->n_outputs; i++) {
    out[i] = (kiln_tensor){.data = io->results[i].data, .ndim = io->results[i].rank, .shape = io->results[i].shape};
    out[i].device.type = KILN_DEVICE_CPU;
    kiln_tensor_set_dtype(&out[i], io->results[i].dtype);
  }
  expect_ok(kiln_context_run(c, in, (size_t)g->n_inputs, out, (size_t)g->n_outputs));
}

static inline bool check_close(const tensor *a, const tensor *b) {
  for (int64_t k = 0; k < tensor_numel(a); k++) {
    const double x = ref_load(a, k), y = ref_load(b, k);
    if (!(fabs(x - y) <= (dtype_is_float(a->dtype) ? 1e-4 * (1 + fabs(y)) : 0)) && !(isnan(x) && isnan(y)))
      return false;
  }
  return true;
}

static inline void check_results(const graph *g, const check_io *got, const check_io *expected, const char *how) {
  for (int32_t i = 0; i < g->n_outputs; i++) {
    if (check_close(&got->results[i], &expected->results[i])) continue;
    text t = {0};
    graph_print(g, 256, &t);
    print_error("%s: output %d differs (first: %g, expected %g) in\n%s\n", how, (int)i, ref_load(&got->results[i], 0),
                ref_load(&expected->results[i], 0), t.data);
    text_free(&t);
    fail();
  }
}

/* All ways, `runs` times one after the other (states are kept). `g` is left as it was. */
static inline void check_all_ways(const graph *g, const char *target_name, const int64_t *symbols, uint32_t seed,
                                  int runs) {
  graph *optimized = NULL;
  kiln_context *c = NULL;
  expect_ok(graph_clone(g, &optimized));
  expect_ok(passes_portable(optimized, true));
  kiln_engine *e = check_engine(optimized, target_name);
  const kiln_context_options options = {sizeof options, 2};
  expect_ok(kiln_context_create_with(e, &options, &c));
  check_io expected = check_make(g, symbols, seed), again = check_make(g, symbols, seed),
           made = check_make(g, symbols, seed);
  for (int i = 0; i < runs; i++) {
    check_interpret(g, symbols, &expected);
    check_interpret(optimized, symbols, &again);
    check_context(c, g, &made);
    check_results(g, &again, &expected, "after the passes");
    check_results(g, &made, &expected, target_name);
  }
  check_free(&expected);
  check_free(&again);
  check_free(&made);
  kiln_context_destroy(c);
  kiln_engine_destroy(e);
  graph_destroy(optimized);
}

#endif
