/* Programs and contexts on small graphs given as text. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/memory.h"
#include "engine/engine.h"
#include "passes/pass.h"
#include "runtime/program.h"

/* x[N,4] -> relu -> reshape, slice, concat with itself; N is 1 to 8. */
static graph *small_graph(void) {
  graph *g = NULL;
  assert_int_equal(ops_init(), KILN_OK);
  assert_int_equal(graph_create(&g), KILN_OK);
  const dim n = dim_symbol(g->dims, "N", 1, 8);
  const tensor_type type = type_of(KILN_F32, 2, (dim[]){n, 4});
  value *x = graph_add_param(&g->body, "x", &type);
  builder b = builder_at_end(&g->body);
  value *y = build(&b, "relu", IN(x), NO_ATTRS);
  value *left =
      build(&b, "slice", IN(y), ATTRS(A_INT("axis", 1), A_INT("start", 0), A_INT("end", 2), A_INT("step", 1)));
  value *right = build(&b, "neg", IN(y), NO_ATTRS);
  value *both = build(&b, "concat", IN(left, right, y), ATTRS(A_INT("axis", 1)));
  assert_int_equal(graph_check(g), KILN_OK);
  block_set_results(&g->body, 1, &both);
  g->n_inputs = g->n_outputs = 1;
  g->input_names = ARENA_ARRAY(&g->arena, const char *, 1);
  g->output_names = ARENA_ARRAY(&g->arena, const char *, 1);
  g->input_names[0] = "x";
  g->output_names[0] = "y";
  assert_int_equal(graph_check(g), KILN_OK);
  return g;
}

static kiln_engine *engine_of(graph *g, const char *target_name) {
  target t;
  graph *plan = NULL;
  void *bytes = NULL;
  size_t size = 0;
  kiln_engine *e = NULL;
  const plan_options options = {0};
  assert_int_equal(target_parse(target_name, &t), KILN_OK);
  assert_int_equal(plan_create(g, &t, &options, &plan, NULL), KILN_OK);
  assert_int_equal(engine_write(g, plan, &t, "", &bytes, &size), KILN_OK);
  assert_int_equal(engine_open_bytes(bytes, size, bytes, NULL, &e), KILN_OK);
  graph_destroy(plan);
  return e;
}

static void check_run(kiln_context *c, int64_t n, int64_t column_stride, bool own_output) {
  float x[8 * 4 * 2], y[8 * 10];
  int64_t shape[2] = {n, 4}, strides[2] = {4 * column_stride, column_stride}, out_shape[2] = {n, 10};
  for (size_t i = 0; i < KILN_COUNT(x); i++) x[i] = (float)i - 9.5f;
  kiln_tensor in = {.data = x, .device = {KILN_DEVICE_CPU, 0}, .ndim = 2, .shape = shape, .strides = strides};
  kiln_tensor out = {.data = own_output ? y : NULL, .device = {KILN_DEVICE_CPU, 0}, .ndim = 2, .shape = out_shape};
  kiln_tensor_set_dtype(&in, KILN_F32);
  kiln_tensor_set_dtype(&out, KILN_F32);
  assert_int_equal(kiln_context_run(c, &in, 1, &out, 1), KILN_OK);
  const float *got = out.data;
  for (int64_t r = 0; r < n; r++) {
    for (int64_t k = 0; k < 10; k++) {
      const int64_t from = k < 2 ? k : k < 6 ? k - 2 : k - 6;
      const float v = x[r * 4 * column_stride + from * column_stride], relu = v < 0 ? 0 : v;
      assert_true(got[r * 10 + k] == (k >= 2 && k < 6 ? -relu : relu));
    }
  }
}

static void run_on(const char *target_name) {
  graph *g = small_graph();
  kiln_engine *e = engine_of(g, target_name);
  graph_destroy(g);
  kiln_context *c = NULL;
  assert_int_equal(kiln_context_create(e, &c), KILN_OK);
  kiln_engine_destroy(e); /* the context keeps it alive */
  for (int64_t n = 1; n <= 8; n++) {
    check_run(c, n, 1, true);
    check_run(c, n, 2, false);
  }
  kiln_context_destroy(c);
}

static void runs_on_the_reference_backend(void **unused) {
  (void)unused;
  run_on("reference");
}
static void runs_on_the_cpu_backend(void **unused) {
  (void)unused;
  run_on("cpu");
  run_on("cpu:scalar");
}

static void refuses_wrong_inputs_with_a_text(void **unused) {
  (void)unused;
  graph *g = small_graph();
  kiln_engine *e = engine_of(g, "reference");
  graph_destroy(g);
  kiln_context *c = NULL;
  assert_int_equal(kiln_context_create(e, &c), KILN_OK);
  float x[64] = {0};
  int64_t shape[3] = {9, 4, 1};
  kiln_tensor in = {.data = x, .device = {KILN_DEVICE_CPU, 0}, .ndim = 2, .shape = shape}, out = {0};
  kiln_tensor_set_dtype(&in, KILN_F32);
  assert_int_equal(kiln_context_run(c, &in, 1, &out, 1), KILN_INVALID_ARGUMENT);
  assert_non_null(strstr(kiln_last_error(), "\"x\""));
  assert_non_null(strstr(kiln_last_error(), "from 1 to 8"));
  shape[0] = 2;
  shape[1] = 5;
  assert_int_equal(kiln_context_run(c, &in, 1, &out, 1), KILN_INVALID_ARGUMENT);
  assert_non_null(strstr(kiln_last_error(), "got f32[2,5]"));
  shape[1] = 4;
  in.ndim = 3;
  assert_int_equal(kiln_context_run(c, &in, 1, &out, 1), KILN_INVALID_ARGUMENT);
  in.ndim = 2;
  kiln_tensor_set_dtype(&in, KILN_I64);
  assert_int_equal(kiln_context_run(c, &in, 1, &out, 1), KILN_INVALID_ARGUMENT);
  assert_non_null(strstr(kiln_last_error(), "element type"));
  assert_int_equal(kiln_context_run(c, &in, 0, &out, 1), KILN_INVALID_ARGUMENT);
  kiln_tensor_set_dtype(&in, KILN_F32);
  assert_int_equal(kiln_context_run(c, &in, 1, &out, 1), KILN_OK); /* and still works */
  kiln_context_destroy(c);
  kiln_engine_destroy(e);
}

static void the_steady_state_does_not_allocate(void **unused) {
  (void)unused;
  graph *g = small_graph();
  kiln_engine *e = engine_of(g, "cpu");
  graph_destroy(g);
  kiln_context *c = NULL;
  assert_int_equal(kiln_context_create(e, &c), KILN_OK);
  check_run(c, 3, 1, true);
  check_run(c, 5, 1, true);
  const int64_t before = mem_test_total_allocations();
  for (int i = 0; i < 50; i++) {
    check_run(c, 3, 1, true);
    check_run(c, 5, 2, false);
  }
  assert_int_equal(mem_test_total_allocations(), before);
  kiln_context_destroy(c);
  kiln_engine_destroy(e);
}

static void a_damaged_engine_is_refused(void **unused) {
  (void)unused;
  graph *g = small_graph();
  kiln_engine *e = engine_of(g, "reference");
  graph_destroy(g);
  void *bytes = NULL;
  size_t size = 0;
  assert_int_equal(kiln_engine_serialize(e, &bytes, &size), KILN_OK);
  kiln_engine_destroy(e);
  for (size_t cut = 0; cut < size; cut += 7) {
    kiln_engine *bad = NULL;
    assert_int_not_equal(kiln_engine_load(bytes, cut, &bad), KILN_OK);
    assert_null(bad);
  }
  unsigned char *b = bytes;
  for (size_t i = 0; i < 400 && i < size; i++) {
    kiln_engine *bad = NULL;
    b[i] ^= 0x10;
    const kiln_status status = kiln_engine_load(bytes, size, &bad);
    assert_true(status != KILN_OK || i >= 144); /* after the header there may be padding */
    kiln_engine_destroy(bad);
    b[i] ^= 0x10;
  }
  b[8] = 200; /* version */
  kiln_engine *newer = NULL;
  assert_int_equal(kiln_engine_load(bytes, size, &newer), KILN_INCOMPATIBLE);
  assert_non_null(strstr(kiln_last_error(), "version 200"));
  kiln_free(bytes);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(runs_on_the_reference_backend),    cmocka_unit_test(runs_on_the_cpu_backend),
      cmocka_unit_test(refuses_wrong_inputs_with_a_text), cmocka_unit_test(the_steady_state_does_not_allocate),
      cmocka_unit_test(a_damaged_engine_is_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
