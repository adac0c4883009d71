/* Other weights for engines that exist: the C interface, memory that runs out on the way, threads, old files. */
#include <math.h>
#include <pthread.h>
#include <stdlib.h>

#include "base/file.h"
#include "engine/engine.h"
#include "passes/pass.h"
#include "unit/expect.h"

enum { WIDTH = 24, ROWS = 3 };

static float some_float(size_t i) { return (float)((i * 2654435761u >> 8) % 2001) / 1000.0f - 1.0f; }

static void fill(float *data, size_t n, size_t seed) {
  for (size_t i = 0; i < n; i++) data[i] = some_float(i * 7 + seed * 1000);
}

typedef struct weights { /* y = relu(x w1^T + b1) w2^T + sum(table) */
  float w1[WIDTH * WIDTH], b1[WIDTH], w2[WIDTH * WIDTH], table[4 * WIDTH];
} weights;

static void make_weights(weights *w, size_t seed) {
  fill(w->w1, KILN_COUNT(w->w1), seed);
  fill(w->b1, KILN_COUNT(w->b1), seed + 1);
  fill(w->w2, KILN_COUNT(w->w2), seed + 2);
  fill(w->table, KILN_COUNT(w->table), seed + 3);
}

static value *weight(graph *g, const tensor_type *type, const float *data, const char *name) {
  value *v = graph_constant(g, type, data);
  assert_non_null(v);
  assert_true(graph_name_constant(g, v, name));
  return v;
}

/* As an importer leaves it. */
static graph *network(const weights *w) {
  graph *g = NULL;
  expect_ok(ops_init());
  expect_ok(graph_create(&g));
  const tensor_type x_type = type_of(KILN_F32, 2, (dim[]){ROWS, WIDTH}),
                    w_type = type_of(KILN_F32, 2, (dim[]){WIDTH, WIDTH});
  const tensor_type b_type = type_of(KILN_F32, 1, (dim[]){WIDTH}), t_type = type_of(KILN_F32, 2, (dim[]){4, WIDTH});
  value *x = graph_add_param(&g->body, "x", &x_type);
  value *w1 = weight(g, &w_type, w->w1, "first.weight"), *b1 = weight(g, &b_type, w->b1, "first.bias");
  value *w2 = weight(g, &w_type, w->w2, "second.weight"), *table = weight(g, &t_type, w->table, "table");
  assert_true(graph_name_constant(g, w2, "tied \"name\"\n"));
  (void)weight(g, &b_type, w->b1, "unused");
  builder b = builder_at_end(&g->body);
  value *y = build(&b, "linear", IN(x, w1, b1), NO_ATTRS);
  y = build(&b, "relu", IN(y), NO_ATTRS);
  y = build(&b, "linear", IN(y, w2, NULL), NO_ATTRS);
  value *sum = build(&b, "sum", IN(table), ATTRS(A_INTS("axes", ((dim[]){0}), 1)));
  y = build(&b, "add", IN(y, sum), NO_ATTRS);
  expect_ok(graph_check(g));
  block_set_results(&g->body, 1, &y);
  g->n_inputs = g->n_outputs = 1;
  g->input_names = ARENA_ARRAY(&g->arena, const char *, 1);
  g->output_names = ARENA_ARRAY(&g->arena, const char *, 1);
  g->input_names[0] = "x";
  g->output_names[0] = "y";
  return g;
}

static kiln_engine *engine_for(const weights *w, const char *target_name) {
  target t;
  kiln_engine *e = NULL;
  graph *g = network(w);
  expect_ok(graph_clone(g, &g->source));
  expect_ok(passes_portable(g, true));
  expect_ok(target_parse(target_name, &t));
  expect_ok(engine_from_graph(g, &t, NULL, &e));
  graph_destroy(g);
  return e;
}

static void compute(const weights *w, const float *x, double *y) {
  for (int r = 0; r < ROWS; r++) {
    double hidden[WIDTH];
    for (int o = 0; o < WIDTH; o++) {
      hidden[o] = w->b1[o];
      for (int i = 0; i < WIDTH; i++) hidden[o] += (double)w->w1[o * WIDTH + i] * x[r * WIDTH + i];
      hidden[o] = hidden[o] > 0 ? hidden[o] : 0;
    }
    for (int o = 0; o < WIDTH; o++) {
      double sum = 0;
      for (int i = 0; i < WIDTH; i++) sum += w->w2[o * WIDTH + i] * hidden[i];
      for (int i = 0; i < 4; i++) sum += w->table[i * WIDTH + o];
      y[r * WIDTH + o] = sum;
    }
  }
}

static kiln_status run_context(kiln_context *c, const float *x, float *y) {
  int64_t shape[2] = {ROWS, WIDTH};
  kiln_tensor in = {.data = (void *)(uintptr_t)x, .device = {KILN_DEVICE_CPU, 0}, .ndim = 2, .shape = shape}, out = in;
  kiln_tensor_set_dtype(&in, KILN_F32);
  kiln_tensor_set_dtype(&out, KILN_F32);
  out.data = y;
  return kiln_context_run(c, &in, 1, &out, 1);
}

static bool is_result(const float *y, const double *expected) {
  for (int i = 0; i < ROWS * WIDTH; i++) {
    const double off = (double)y[i] - expected[i];
    if (!(off < 1e-3 && off > -1e-3)) return false;
  }
  return true;
}

static void expect_weights(kiln_context *c, const weights *w) {
  float x[ROWS * WIDTH], y[ROWS * WIDTH];
  double expected[ROWS * WIDTH];
  fill(x, KILN_COUNT(x), 50);
  compute(w, x, expected);
  expect_ok(run_context(c, x, y));
  assert_true(is_result(y, expected));
}

typedef struct given {
  const char *names[4];
  kiln_tensor tensors[4];
  int64_t shapes[4][2];
} given;

static void give_all(given *g, weights *w) {
  static const char *const names[] = {"first.weight", "first.bias", "second.weight", "table"};
  float *const data[] = {w->w1, w->b1, w->w2, w->table};
  const int64_t shapes[4][2] = {{WIDTH, WIDTH}, {WIDTH, 0}, {WIDTH, WIDTH}, {4, WIDTH}};
  memset(g, 0, sizeof *g);
  for (int i = 0; i < 4; i++) {
    g->names[i] = names[i];
    memcpy(g->shapes[i], shapes[i], sizeof shapes[i]);
    g->tensors[i] =
        (kiln_tensor){.data = data[i], .device = {KILN_DEVICE_CPU, 0}, .ndim = i == 1 ? 1 : 2, .shape = g->shapes[i]};
    kiln_tensor_set_dtype(&g->tensors[i], KILN_F32);
  }
}

static kiln_status refit_all(kiln_engine *e, weights *w) {
  given g;
  give_all(&g, w);
  return kiln_engine_refit(e, g.names, g.tensors, 4);
}

static void refit_in_place(const char *target_name) {
  static weights old, new;
  make_weights(&old, 1);
  make_weights(&new, 9);
  kiln_engine *e = engine_for(&old, target_name);
  kiln_context *before = NULL, *after = NULL;
  expect_ok(kiln_context_create(e, &before));
  expect_weights(before, &old);
  expect_ok(refit_all(e, &new));
  expect_weights(before, &new);
  expect_ok(kiln_context_create(e, &after));
  expect_weights(after, &new);
  expect_ok(kiln_engine_verify(e));

  void *bytes = NULL;
  size_t size = 0;
  kiln_engine *again = NULL;
  expect_ok(kiln_engine_serialize(e, &bytes, &size));
  kiln_engine_destroy(e); /* contexts keep it */
  expect_weights(before, &new);
  expect_ok(kiln_engine_load(bytes, size, &again));
  kiln_context_destroy(before);
  expect_ok(kiln_context_create(again, &before));
  expect_weights(before, &new);
  expect_ok(refit_all(again, &old));
  expect_weights(before, &old);
  expect_weights(after, &new);
  kiln_context_destroy(before);
  kiln_context_destroy(after);
  kiln_engine_destroy(again);
  kiln_free(bytes);
}

static void in_place_cpu(void **state) { (void)state, refit_in_place("cpu"); }
static void in_place_scalar(void **state) { (void)state, refit_in_place("cpu:scalar"); }
static void in_place_reference(void **state) { (void)state, refit_in_place("reference"); }

static void weights_have_names(void **state) {
  (void)state;
  static weights w;
  make_weights(&w, 1);
  kiln_engine *e = engine_for(&w, "cpu");
  int seen = 0;
  assert_int_equal(kiln_engine_weight_count(e), 6);
  for (size_t i = 0; i < 6; i++) {
    kiln_weight_info info;
    expect_ok(kiln_engine_weight(e, i, &info));
    assert_int_equal(info.dtype, KILN_F32);
    assert_int_equal(info.fixed, 0);
    assert_int_equal(info.used, strcmp(info.name, "unused") != 0);
    assert_int_equal(info.required, 0); /* the table is small: the engine keeps it beside the sum that it uses */
    seen += strcmp(info.name, "table") == 0 && info.rank == 2 && info.shape[0] == 4 && info.shape[1] == WIDTH;
    seen += strcmp(info.name, "tied \"name\"\n") == 0;
  }
  assert_int_equal(seen, 2);
  kiln_weight_info info;
  expect_failure(kiln_engine_weight(e, 6, &info), KILN_INVALID_ARGUMENT, "weight 6 of 6");
  assert_int_equal(kiln_engine_weight_count(NULL), 0);
  kiln_engine_destroy(e);
}

static void what_is_wrong_is_told_at_once(void **state) {
  (void)state;
  static weights old, new;
  make_weights(&old, 1);
  make_weights(&new, 9);
  kiln_engine *e = engine_for(&old, "cpu");
  kiln_context *c = NULL;
  expect_ok(kiln_context_create(e, &c));
  given g;
  give_all(&g, &new);
  g.names[0] = "first.wait";
  g.shapes[1][0] = WIDTH + 1;
  g.tensors[2].device.type = KILN_DEVICE_CUDA;
  kiln_tensor_set_dtype(&g.tensors[3], KILN_F16);
  expect_failure(kiln_engine_refit(e, g.names, g.tensors, 4), KILN_INVALID_ARGUMENT, "for 4 of those given");
  static const char *const lines[] = {
      "`first.wait`: the engine has no such weight", "`first.bias`: expected f32[24], got f32[25]",
      "`second.weight`: it is not in host memory", "`table`: expected f32[4,24], got f16[4,24]"};
  for (size_t i = 0; i < KILN_COUNT(lines); i++) assert_non_null(strstr(error_text(), lines[i]));
  expect_weights(c, &old);

  give_all(&g, &new);
  g.tensors[0].data = NULL;
  expect_failure(kiln_engine_refit(e, g.names, g.tensors, 4), KILN_INVALID_ARGUMENT,
                 "`first.weight`: its data is NULL");
  give_all(&g, &new);
  g.names[2] = NULL;
  expect_failure(kiln_engine_refit(e, g.names, g.tensors, 4), KILN_INVALID_ARGUMENT, "names[2] is NULL");
  g.names[2] = "first.weight";
  expect_failure(kiln_engine_refit(e, g.names, g.tensors, 4), KILN_INVALID_ARGUMENT, "under two names");
  expect_failure(kiln_engine_refit(NULL, g.names, g.tensors, 4), KILN_INVALID_ARGUMENT, "engine is NULL");
  expect_failure(kiln_engine_refit(e, NULL, g.tensors, 4), KILN_INVALID_ARGUMENT, "names is NULL");
  expect_failure(kiln_engine_refit(e, g.names, NULL, 4), KILN_INVALID_ARGUMENT, "tensors is NULL");
  expect_failure(kiln_engine_refit_file(e, "/nowhere.safetensors"), KILN_IO_ERROR, "/nowhere.safetensors");
  expect_failure(kiln_engine_strip(e, NULL), KILN_INVALID_ARGUMENT, "out_stripped is NULL");
  expect_weights(c, &old);
  expect_ok(kiln_engine_refit(e, NULL, NULL, 0)); /* all stay */
  expect_weights(c, &old);
  kiln_context_destroy(c);
  kiln_engine_destroy(e);
}

static void strides_and_offsets(void **state) {
  (void)state;
  static weights old, new;
  static char shifted[sizeof new.table + 1];
  make_weights(&old, 1);
  make_weights(&new, 9);
  kiln_engine *e = engine_for(&old, "cpu");
  kiln_context *c = NULL;
  expect_ok(kiln_context_create(e, &c));
  static float transposed[WIDTH * WIDTH];
  for (int i = 0; i < WIDTH * WIDTH; i++) transposed[i % WIDTH * WIDTH + i / WIDTH] = new.w1[i];
  int64_t strides[2] = {1, WIDTH};
  given g;
  give_all(&g, &new);
  g.tensors[0].data = transposed;
  g.tensors[0].strides = strides;
  memcpy(shifted + 1, new.table, sizeof new.table);
  g.tensors[3].data = shifted;
  g.tensors[3].byte_offset = 1;
  expect_ok(kiln_engine_refit(e, g.names, g.tensors, 4));
  expect_weights(c, &new);
  kiln_context_destroy(c);
  kiln_engine_destroy(e);
}

static void stripped(void **state) {
  (void)state;
  static weights w, new;
  make_weights(&w, 1);
  make_weights(&new, 9);
  kiln_engine *e = engine_for(&w, "cpu"), *bare = NULL, *twice = NULL;
  kiln_context *c = NULL;
  char *report = NULL;
  given g;
  expect_ok(kiln_engine_strip(e, &bare));
  kiln_engine_destroy(e);
  assert_int_equal(kiln_engine_has_weights(bare), 0);
  expect_failure(kiln_context_create(bare, &c), KILN_INVALID_ARGUMENT, "`kiln refit`");
  expect_failure(kiln_engine_report(bare, KILN_REPORT_MEMORY, &report), KILN_INVALID_ARGUMENT, "stripped");
  for (int what = KILN_REPORT_GRAPH; what <= KILN_REPORT_SIGNATURE; what++) {
    if (what == KILN_REPORT_MEMORY) continue;
    expect_ok(kiln_engine_report(bare, (kiln_report)what, &report));
    kiln_free(report);
  }
  kiln_weight_info info;
  expect_ok(kiln_engine_weight(bare, 0, &info));
  assert_int_equal(info.required, 1);
  give_all(&g, &new);
  expect_failure(kiln_engine_refit(bare, g.names, g.tensors, 3), KILN_INVALID_ARGUMENT, "`table`: missing");
  expect_ok(kiln_engine_strip(bare, &twice));
  expect_ok(refit_all(twice, &new));
  assert_int_equal(kiln_engine_has_weights(twice), 1);
  expect_ok(kiln_engine_weight(twice, 0, &info));
  assert_int_equal(info.required, 0);
  expect_ok(kiln_context_create(twice, &c));
  expect_weights(c, &new);
  kiln_context_destroy(c);
  kiln_engine_destroy(bare);
  kiln_engine_destroy(twice);
}

/* What failed has changed nothing, and what comes next works. */
static void memory_runs_out(void **state) {
  (void)state;
  static weights old, new;
  make_weights(&old, 1);
  make_weights(&new, 9);
  kiln_engine *e = engine_for(&old, "cpu");
  kiln_context *c = NULL;
  const kiln_context_options options = {sizeof options, 1};
  expect_ok(kiln_context_create_with(e, &options, &c));
  expect_weights(c, &old);
  assert_int_equal(kiln_engine_weight_count(e), 6);
  const int64_t live = mem_test_live_blocks();
  kiln_status status = KILN_OUT_OF_MEMORY;
  int64_t n = 0;
  for (; status != KILN_OK; n++) {
    assert_true(n < 20000);
    mem_test_fail_after(n);
    status = refit_all(e, &new);
    mem_test_fail_after(-1);
    if (status == KILN_OK) break;
    expect_failure(status, KILN_OUT_OF_MEMORY, "");
    assert_int_equal(mem_test_live_blocks(), live);
    if (n % 16 == 0) expect_weights(c, &old);
  }
  assert_true(n > 200);
  for (int64_t k = 0;; k++) { /* the context changes over */
    float x[ROWS * WIDTH] = {0}, y[ROWS * WIDTH];
    assert_true(k < 2000);
    mem_test_fail_after(k);
    status = run_context(c, x, y);
    mem_test_fail_after(-1);
    if (status == KILN_OK) break;
    expect_failure(status, KILN_OUT_OF_MEMORY, "");
  }
  expect_weights(c, &new);
  kiln_context_destroy(c);
  kiln_engine_destroy(e);
}

/* ---- threads ----------------------------------------------------------------------------------------------------- */

typedef struct caller {
  kiln_engine *engine;
  double old[ROWS * WIDTH], new[ROWS * WIDTH];
  int stop, wrong, runs; /* stop: atomic */
} caller;

static void *call(void *argument) {
  caller *u = argument;
  float x[ROWS * WIDTH], y[ROWS * WIDTH];
  kiln_context *c = NULL;
  const kiln_context_options options = {sizeof options, 1};
  fill(x, KILN_COUNT(x), 50);
  if (kiln_context_create_with(u->engine, &options, &c) != KILN_OK) {
    u->wrong++;
    return NULL;
  }
  while (!__atomic_load_n(&u->stop, __ATOMIC_RELAXED)) {
    if (run_context(c, x, y) != KILN_OK || (!is_result(y, u->old) && !is_result(y, u->new))) u->wrong++;
    u->runs++;
  }
  kiln_context_destroy(c);
  return NULL;
}

static void runs_see_old_or_new_weights(void **state) {
  (void)state;
  static weights old, new;
  static caller callers[3];
  pthread_t threads[3];
  float x[ROWS * WIDTH];
  make_weights(&old, 1);
  make_weights(&new, 9);
  fill(x, KILN_COUNT(x), 50);
  kiln_engine *e = engine_for(&old, "cpu");
  for (int i = 0; i < 3; i++) {
    callers[i] = (caller){.engine = e};
    compute(&old, x, callers[i].old);
    compute(&new, x, callers[i].new);
    assert_int_equal(pthread_create(&threads[i], NULL, call, &callers[i]), 0);
  }
  for (int i = 0; i < 40; i++) expect_ok(refit_all(e, i % 2 ? &old : &new));
  for (int i = 0; i < 3; i++) {
    __atomic_store_n(&callers[i].stop, 1, __ATOMIC_RELAXED);
    assert_int_equal(pthread_join(threads[i], NULL), 0);
    assert_int_equal(callers[i].wrong, 0);
  }
  kiln_engine_destroy(e);
}

/* ---- files ------------------------------------------------------------------------------------------------------- */

/* Files of version 1 have no source: they open and run as ever, and say why they cannot be refitted. */
static void files_of_version_1(void **state) {
  (void)state;
  static const char *const names[] = {"conv-cpu-scalar", "core-reference", "dynamic-cpu-scalar", "mix-cpu-scalar"};
  for (size_t i = 0; i < KILN_COUNT(names); i++) {
    char path[512];
    kiln_engine *e = NULL, *bare = NULL;
    kiln_context *c = NULL;
    snprintf(path, sizeof path, "%s/engine/%s.kiln", KILN_FUZZ_CORPUS, names[i]);
    expect_ok(kiln_engine_open(path, &e));
    expect_ok(kiln_engine_verify(e));
    assert_int_equal(kiln_engine_has_weights(e), 1);
    assert_int_equal(kiln_engine_weight_count(e), 0);
    expect_failure(kiln_engine_refit(e, NULL, NULL, 0), KILN_UNSUPPORTED, "written by an older version");
    expect_failure(kiln_engine_strip(e, &bare), KILN_UNSUPPORTED, "build it again");
    expect_ok(kiln_context_create(e, &c));
    kiln_context_destroy(c);
    kiln_engine_destroy(e);
  }
}

static void models_of_files(void **state) {
  (void)state;
  static const char *const names[] = {"conv", "core", "dynamic", "mix"};
  for (size_t i = 0; i < KILN_COUNT(names); i++) {
    char path[512];
    kiln_engine *e = NULL;
    kiln_context *c = NULL;
    snprintf(path, sizeof path, "%s/pt2/%s.pt2", KILN_FUZZ_CORPUS, names[i]);
    expect_ok(kiln_engine_build(path, NULL, &e));
    expect_ok(kiln_engine_refit(e, NULL, NULL, 0));
    expect_ok(kiln_context_create(e, &c));
    kiln_context_destroy(c);
    kiln_engine_destroy(e);
  }
}

/* ---- large weights that are there only as a part of others -------------------------------------------------------- */

enum { WIDE = 160 }; /* squares of more than 64 KiB */

typedef struct folded_weights { /* y = x (big * scale)^T + bias */
  float big[WIDE * WIDE], scale[WIDE], bias[WIDE];
} folded_weights;

static kiln_engine *folded_engine(const folded_weights *w) {
  target t;
  graph *g = NULL;
  kiln_engine *e = NULL;
  expect_ok(ops_init());
  expect_ok(graph_create(&g));
  const tensor_type x_type = type_of(KILN_F32, 2, (dim[]){1, WIDE}), row = type_of(KILN_F32, 1, (dim[]){WIDE});
  const tensor_type square = type_of(KILN_F32, 2, (dim[]){WIDE, WIDE});
  value *x = graph_add_param(&g->body, "x", &x_type), *big = weight(g, &square, w->big, "big");
  value *scale = weight(g, &row, w->scale, "scale"), *bias = weight(g, &row, w->bias, "bias");
  builder b = builder_at_end(&g->body);
  value *y = build(&b, "linear", IN(x, build(&b, "mul", IN(big, scale), NO_ATTRS), bias), NO_ATTRS);
  expect_ok(graph_check(g));
  block_set_results(&g->body, 1, &y);
  g->n_inputs = g->n_outputs = 1;
  g->input_names = ARENA_ARRAY(&g->arena, const char *, 1);
  g->output_names = ARENA_ARRAY(&g->arena, const char *, 1);
  g->input_names[0] = "x";
  g->output_names[0] = "y";
  expect_ok(graph_clone(g, &g->source));
  expect_ok(passes_portable(g, true));
  expect_ok(target_parse("cpu", &t));
  expect_ok(engine_from_graph(g, &t, NULL, &e));
  graph_destroy(g);
  return e;
}

static kiln_status refit_row(kiln_engine *e, const char *name, float *data) {
  int64_t shape[1] = {WIDE};
  kiln_tensor t = {.data = data, .device = {KILN_DEVICE_CPU, 0}, .ndim = 1, .shape = shape};
  kiln_tensor_set_dtype(&t, KILN_F32);
  return kiln_engine_refit(e, &name, &t, 1);
}

static void expect_folded(kiln_engine *e, const folded_weights *w) {
  float x[WIDE], y[WIDE];
  int64_t shape[2] = {1, WIDE};
  kiln_context *c = NULL;
  const kiln_context_options options = {sizeof options, 1};
  fill(x, WIDE, 50);
  kiln_tensor in = {.data = x, .device = {KILN_DEVICE_CPU, 0}, .ndim = 2, .shape = shape}, out = in;
  kiln_tensor_set_dtype(&in, KILN_F32);
  kiln_tensor_set_dtype(&out, KILN_F32);
  out.data = y;
  expect_ok(kiln_context_create_with(e, &options, &c));
  expect_ok(kiln_context_run(c, &in, 1, &out, 1));
  kiln_context_destroy(c);
  for (int o = 0; o < WIDE; o++) {
    double expected = w->bias[o];
    for (int i = 0; i < WIDE; i++) expected += (double)w->big[o * WIDE + i] * w->scale[i] * x[i];
    assert_true(fabs(y[o] - expected) < 1e-3);
  }
}

static void parts_of_others(void **state) {
  (void)state;
  static folded_weights w;
  float row[WIDE];
  kiln_weight_info info;
  fill(w.big, KILN_COUNT(w.big), 1);
  fill(w.scale, WIDE, 2);
  fill(w.bias, WIDE, 3);
  expect_ok(ops_init());
  const int64_t live = mem_test_live_blocks();
  kiln_engine *e = folded_engine(&w);
  for (size_t i = 0; i < kiln_engine_weight_count(e); i++) {
    expect_ok(kiln_engine_weight(e, i, &info));
    assert_int_equal(info.required, 0);
  }
  fill(w.bias, WIDE, 4);
  expect_ok(refit_row(e, "bias", w.bias));
  expect_folded(e, &w);
  fill(row, WIDE, 5);
  expect_failure(refit_row(e, "scale", row), KILN_INVALID_ARGUMENT,
                 "`big`: missing: the engine has only what was made of it and of `scale`");
  expect_ok(refit_row(e, "scale", w.scale)); /* as it was */
  expect_folded(e, &w);
  kiln_status status = KILN_OUT_OF_MEMORY;
  for (int64_t n = 0; status != KILN_OK; n++) {
    assert_true(n < 20000);
    mem_test_fail_after(n);
    status = kiln_engine_weight(e, 0, &info); /* finds out what is required, once after each refit */
    mem_test_fail_after(-1);
    if (status != KILN_OK) assert_int_equal(status, KILN_OUT_OF_MEMORY);
  }
  fill(w.bias, WIDE, 6);
  status = KILN_OUT_OF_MEMORY;
  for (int64_t n = 0; status != KILN_OK; n++) {
    assert_true(n < 20000);
    mem_test_fail_after(n);
    status = refit_row(e, "bias", w.bias);
    mem_test_fail_after(-1);
    if (status != KILN_OK) assert_int_equal(status, KILN_OUT_OF_MEMORY);
  }
  expect_folded(e, &w);
  kiln_engine_destroy(e);
  assert_int_equal(mem_test_live_blocks(), live);
}

/* What stands in a file need not be true. */
static void odd_origins(void **state) {
  (void)state;
  static folded_weights w;
  static const char *const texts[] = {"",        " ",      "0", "0:", "0:zz", ":", "-1:1", "99999999999999999999:1 0:7",
                                      "0:5 0:6", "0:1,1:2"};
  static const uint64_t expected[] = {0, 0, 0, 0, 0, 0, 0, 7, 6, 1};
  kiln_engine *e = folded_engine(&w);
  for (size_t i = 0; i < KILN_COUNT(texts); i++) {
    graph *source = NULL, *portable = NULL;
    expect_ok(engine_source(e, &source));
    expect_ok(engine_portable(e, &portable));
    expect_ok(graph_set_metadata(source, ENGINE_ORIGINS, texts[i]));
    expect_ok(engine_read_origins(source, portable));
    for (const constant *c = portable->constants; c; c = c->next) {
      if (c->weight == 0 && c->size > 64) assert_int_equal(c->origin, expected[i]);
    }
    graph_destroy(source);
    graph_destroy(portable);
  }
  kiln_engine_destroy(e);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(in_place_cpu),
      cmocka_unit_test(in_place_scalar),
      cmocka_unit_test(in_place_reference),
      cmocka_unit_test(weights_have_names),
      cmocka_unit_test(what_is_wrong_is_told_at_once),
      cmocka_unit_test(strides_and_offsets),
      cmocka_unit_test(stripped),
      cmocka_unit_test(memory_runs_out),
      cmocka_unit_test(runs_see_old_or_new_weights),
      cmocka_unit_test(files_of_version_1),
      cmocka_unit_test(models_of_files),
      cmocka_unit_test(parts_of_others),
      cmocka_unit_test(odd_origins),
  };
  return cmocka_run_group_tests_name("refit", tests, NULL, NULL);
}
