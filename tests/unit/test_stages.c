/* Sizes that depend on data: programs that end where one is measured and go on with it known. */
#include "engine_check.h"

/* z = linear(x[mask]) + rows counted, the rows of y that x's mask picks, and what stays the same throughout. */
static const char picked[] =
    "kiln.graph 1\ndim s in [0, 64] opt 8\ndim u in [0, inf] opt 4\nconst %w : f32[3,4] = {1, 2, 3, 4, 0, 1, 0, 1, -1, "
    "0, 1, 0}\nconst %zero : f32[] = {0}\n"
    "input \"x\" %x : f32[s,4]\ninput \"mask\" %mask : bool[s]\n"
    "%d = add(%x, %x) : f32[s,4]\n"
    "%p = nonzero(%mask) : i64[u,1]\n%i = reshape(%p) {shape=[u]} : i64[u]\n"
    "%r = index_select(%d, %i) {axis=0} : f32[u,4]\n%z = linear(%r, %w, none) : f32[u,3]\n"
    "%n = size() {value=u} : i64[]\n%t = relu(%d) : f32[s,4]\n"
    "output \"z\" %z\noutput \"n\" %n\noutput \"d\" %d\noutput \"t\" %t\noutput \"x\" %x\n";

/* Two stages more: places of the picked ones that are positive, repeated by themselves. */
static const char chain[] =
    "kiln.graph 1\ndim s in [0, 64] opt 8\ndim u in [0, inf] opt 4\ndim v in [0, 100] opt 4\ndim w in [0, inf] opt 4\n"
    "const %two : i64[] = {2}\ninput \"x\" %x : i64[s]\n"
    "%p = nonzero(%x) : i64[u,1]\n%i = reshape(%p) {shape=[u]} : i64[u]\n%a = index_select(%x, %i) {axis=0} : i64[u]\n"
    "%m = gt(%a, %two) : bool[u]\n%q = nonzero(%m) : i64[v,1]\n%j = reshape(%q) {shape=[v]} : i64[v]\n"
    "%b = index_select(%a, %j) {axis=0} : i64[v]\n%k = repeat_index(%b) : i64[w]\n"
    "%c = index_select(%b, %k) {axis=0} : i64[w]\n%sum = sum(%c) {axes=[0]} : i64[]\n%back = neg(%x) : i64[s]\n"
    "output \"c\" %c\noutput \"sum\" %sum\noutput \"back\" %back\noutput \"b\" %b\n";

/* The number in a tensor is a size. */
static const char counted[] =
    "kiln.graph 1\ndim u in [0, 6] opt 4\ninput \"x\" %x : f32[6]\ninput \"n\" %n : i64[]\n"
    "%k = data_size(%n) {size=u} : i64[]\n%y = slice(%x) {axis=0, start=0, end=u} : f32[u]\n"
    "%e = exp(%y) : f32[u]\noutput \"e\" %e\n";

/* Equal only if the data says so. */
static const char equal[] =
    "kiln.graph 1\ndim u in [0, inf] opt 4\ndim v in [0, inf] opt 4\ninput \"a\" %a : bool[6]\ninput \"b\" %b : "
    "bool[6]\n"
    "%p = nonzero(%a) : i64[u,1]\n%q = nonzero(%b) : i64[v,1]\n%y = add(%p, %q) : i64[u,1]\noutput \"y\" %y\n";

static graph *parse(const char *s) {
  graph *g = NULL;
  expect_ok(graph_parse(s, strlen(s), NULL, NULL, &g));
  return g;
}

static kiln_context *open_context(const char *source, const char *target_name) {
  graph *g = parse(source);
  expect_ok(passes_portable(g, true));
  kiln_engine *e = check_engine(g, target_name);
  kiln_context *c = NULL;
  expect_ok(kiln_context_create(e, &c));
  kiln_engine_destroy(e);
  graph_destroy(g);
  return c;
}

static kiln_tensor given(kiln_dtype dtype, int32_t rank, int64_t *shape, void *data) {
  kiln_tensor t = {.data = data, .ndim = rank, .shape = shape};
  t.device.type = KILN_DEVICE_CPU;
  kiln_tensor_set_dtype(&t, dtype);
  return t;
}

static const char *const targets[] = {"reference", "cpu", "cpu:scalar"};

static void masks_pick_rows(void **unused) {
  (void)unused;
  for (size_t k = 0; k < KILN_COUNT(targets); k++) {
    kiln_context *c = open_context(picked, targets[k]);
    uint32_t random = 9;
    for (int round = 0; round < 60; round++) {
      const int64_t s = check_random(&random) % 20;
      static const float w[3][4] = {{1, 2, 3, 4}, {0, 1, 0, 1}, {-1, 0, 1, 0}};
      float x[20 * 4];
      bool mask[20];
      int64_t shapes[2][2] = {{s, 4}, {s, 0}}, count = 0;
      for (int i = 0; i < 80; i++) x[i] = (float)(check_random(&random) % 100) / 10 - 5;
      for (int i = 0; i < 20; i++) mask[i] = check_random(&random) % 2 != 0;
      kiln_tensor in[2] = {given(KILN_F32, 2, shapes[0], x), given(KILN_BOOL, 1, shapes[1], mask)}, out[5] = {0};
      expect_ok(kiln_context_run(c, in, 2, out, 5));
      const float *z = out[0].data;
      for (int64_t i = 0; i < s; i++) {
        for (int r = 0; mask[i] && r < 3; r++) {
          float sum = 0;
          for (int q = 0; q < 4; q++) sum += 2 * x[i * 4 + q] * w[r][q];
          assert_true(fabsf(z[count * 3 + r] - sum) < 1e-3f);
        }
        count += mask[i];
        for (int q = 0; q < 4; q++) {
          const float d = 2 * x[i * 4 + q];
          assert_true(((const float *)out[2].data)[i * 4 + q] == d);
          assert_true(((const float *)out[3].data)[i * 4 + q] == (d > 0 ? d : 0));
          assert_true(((const float *)out[4].data)[i * 4 + q] == x[i * 4 + q]);
        }
      }
      assert_int_equal(out[0].shape[0], count);
      assert_int_equal(out[0].shape[1], 3);
      assert_int_equal(*(const int64_t *)out[1].data, count);
    }
    kiln_context_destroy(c);
  }
}

static void stages_follow_each_other(void **unused) {
  (void)unused;
  for (size_t k = 0; k < KILN_COUNT(targets); k++) {
    kiln_context *c = open_context(chain, targets[k]);
    uint32_t random = 4;
    for (int round = 0; round < 100; round++) {
      int64_t x[16], shape = check_random(&random) % 16, expected[100], n = 0, sum = 0;
      for (int i = 0; i < 16; i++) x[i] = check_random(&random) % 6;
      kiln_tensor in = given(KILN_I64, 1, &shape, x), out[4] = {0};
      expect_ok(kiln_context_run(c, &in, 1, out, 4));
      for (int64_t i = 0; i < shape; i++) {
        assert_int_equal(((const int64_t *)out[2].data)[i], -x[i]);
        for (int64_t r = 0; x[i] > 2 && r < x[i]; r++, n++) sum += expected[n] = x[i];
      }
      assert_int_equal(out[0].shape[0], n);
      if (n) assert_memory_equal(out[0].data, expected, (size_t)n * sizeof *expected);
      assert_int_equal(*(const int64_t *)out[1].data, sum);
    }
    kiln_context_destroy(c);
  }
}

/* Memory for outputs: those of known size may have some. Sizes that come again cost no allocation. */
static void outputs_and_allocations(void **unused) {
  (void)unused;
  kiln_context *c = open_context(chain, "cpu");
  int64_t x[6] = {1, 3, 0, 5, 2, 4}, shape = 6, back[6], wrong[16], size = 16;
  kiln_tensor in = given(KILN_I64, 1, &shape, x), out[4] = {0};
  expect_ok(kiln_context_prepare(c, &in, 1, NULL, 0));
  out[2] = given(KILN_I64, 1, &shape, back);
  expect_ok(kiln_context_run(c, &in, 1, out, 4));
  assert_int_equal(back[3], -5);
  assert_int_equal(out[0].shape[0], 12);
  out[0] = given(KILN_I64, 1, &size, wrong);
  out[1] = out[3] = (kiln_tensor){0};
  expect_failure(kiln_context_run(c, &in, 1, out, 4), KILN_INVALID_ARGUMENT, "depends on data");
  const size_t steps = kiln_context_step_count(c);
  assert_true(steps > 6);
  const int64_t before = mem_test_total_allocations();
  for (int i = 0; i < 10; i++) {
    x[1] = 3 + i % 3; /* three sizes */
    memset(out, 0, sizeof out);
    expect_ok(kiln_context_run(c, &in, 1, out, 4));
    assert_int_equal(out[0].shape[0], 12 + i % 3);
    if (i == 2) assert_true(mem_test_total_allocations() > before);
  }
  const int64_t after = mem_test_total_allocations();
  for (int i = 0; i < 10; i++) {
    x[1] = 3 + i % 3;
    memset(out, 0, sizeof out);
    expect_ok(kiln_context_run(c, &in, 1, out, 4));
  }
  assert_int_equal(mem_test_total_allocations(), after);
  kiln_context_destroy(c);
}

static void sizes_are_checked(void **unused) {
  (void)unused;
  kiln_context *c = open_context(counted, "cpu");
  float x[6] = {0, 1, 2, 3, 4, 5};
  int64_t n = 0, six = 6;
  kiln_tensor in[2] = {given(KILN_F32, 1, &six, x), given(KILN_I64, 0, NULL, &n)}, out = {0};
  for (n = -2; n < 9; n++) {
    out = (kiln_tensor){0};
    if (n < 0 || n > 6) {
      expect_failure(kiln_context_run(c, in, 2, &out, 1), KILN_INVALID_ARGUMENT, "which the model does not allow");
    } else {
      expect_ok(kiln_context_run(c, in, 2, &out, 1));
      assert_int_equal(out.shape[0], n);
      if (n) assert_true(fabsf(((const float *)out.data)[n - 1] - expf(x[n - 1])) < 1e-3f);
    }
  }
  kiln_context_destroy(c);

  c = open_context(equal, "cpu");
  bool a[6] = {1, 0, 1, 0, 0, 0}, b[6] = {0, 0, 0, 1, 1, 0};
  kiln_tensor masks[2] = {given(KILN_BOOL, 1, &six, a), given(KILN_BOOL, 1, &six, b)};
  out = (kiln_tensor){0};
  expect_ok(kiln_context_run(c, masks, 2, &out, 1));
  assert_int_equal(((const int64_t *)out.data)[1], 2 + 4);
  b[0] = true;
  out = (kiln_tensor){0};
  expect_failure(kiln_context_run(c, masks, 2, &out, 1), KILN_INVALID_ARGUMENT, "to be equal");
  kiln_context_destroy(c);
}

static void interpreted_graphs_agree(void **unused) {
  (void)unused;
  graph *g = parse(picked);
  int64_t symbols[2] = {5, DIM_ERROR};
  float x[20], z[9], d[20], t[20], again[20];
  bool mask[5] = {true, false, true, true, false};
  int64_t n = 0;
  for (int i = 0; i < 20; i++) x[i] = (float)i - 9;
  tensor params[2] = {{.data = x, .dtype = KILN_F32, .rank = 2, .shape = {5, 4}},
                      {.data = mask, .dtype = KILN_BOOL, .rank = 1, .shape = {5}}},
         results[5] = {{.data = z, .dtype = KILN_F32, .rank = 2, .shape = {3, 3}},
                       {.data = &n, .dtype = KILN_I64},
                       {.data = d, .dtype = KILN_F32, .rank = 2, .shape = {5, 4}},
                       {.data = t, .dtype = KILN_F32, .rank = 2, .shape = {5, 4}},
                       {.data = again, .dtype = KILN_F32, .rank = 2, .shape = {5, 4}}};
  for (int i = 0; i < 2; i++) tensor_make_contiguous_strides(&params[i]);
  for (int i = 0; i < 5; i++) tensor_make_contiguous_strides(&results[i]);
  expect_ok(reference_run_graph(g, symbols, params, results));
  assert_int_equal(n, 3);
  assert_true(z[0] == 2 * (x[0] + 2 * x[1] + 3 * x[2] + 4 * x[3]) && again[19] == x[19]);
  graph_destroy(g);
}

/* Inside a branch such a node is refused when the engine is made. */
static void branches_refuse_them(void **unused) {
  (void)unused;
  static const char branch[] =
      "kiln.graph 1\ndim u in [0, inf] opt 4\ninput \"x\" %x : i64[6]\ninput \"c\" %c : bool[]\n"
      "%y = if(%c) : i64[]\n  block() {\n    %p = nonzero(%x) : i64[u,1]\n    %s = sum(%p) {axes=[0, 1]} : i64[]\n"
      "    return %s\n  }\n  block() {\n    %t = sum(%x) {axes=[0]} : i64[]\n    return %t\n  }\noutput \"y\" %y\n";
  graph *g = parse(branch), *plan = NULL;
  target t;
  const plan_options options = {0};
  expect_ok(target_parse("cpu", &t));
  expect_failure(plan_create(g, &t, &options, &plan, NULL), KILN_UNSUPPORTED, "inside branches and loops");
  graph_destroy(g);
}

static kiln_status everything(void) {
  graph *g = NULL, *plan = NULL;
  kiln_engine *e = NULL;
  kiln_context *c = NULL;
  target t;
  void *bytes = NULL;
  size_t size = 0;
  const plan_options options = {0};
  const kiln_context_options single = {sizeof single, 1};
  int64_t x[6] = {1, 3, 0, 5, 2, 4}, shape = 6;
  KILN_TRY(graph_parse(chain, strlen(chain), NULL, NULL, &g));
  kiln_status status = passes_portable(g, true);
  if (status == KILN_OK) status = target_parse("cpu", &t);
  if (status == KILN_OK) status = plan_create(g, &t, &options, &plan, NULL);
  if (status == KILN_OK) status = engine_write(g, plan, &t, "", &bytes, &size);
  if (status == KILN_OK && (status = engine_open_bytes(bytes, size, bytes, NULL, &e)) != KILN_OK)
    mem_free_aligned(bytes);
  if (status == KILN_OK) status = kiln_context_create_with(e, &single, &c);
  for (int i = 0; i < 2 && status == KILN_OK; i++) {
    kiln_tensor in = given(KILN_I64, 1, &shape, x), out[4] = {0};
    x[0] = 5 * i;
    status = kiln_context_run(c, &in, 1, out, 4);
    if (status == KILN_OK) assert_int_equal(out[0].shape[0], 12 + 5 * i);
  }
  kiln_context_destroy(c);
  kiln_engine_destroy(e);
  graph_destroy(plan);
  graph_destroy(g);
  return status;
}

static void memory_runs_out(void **unused) {
  (void)unused;
  expect_ok(everything());
  const int64_t live = mem_test_live_blocks();
  kiln_status status = KILN_OUT_OF_MEMORY;
  for (int64_t n = 0; status != KILN_OK; n++) {
    mem_test_fail_after(n);
    status = everything();
    const bool reached = mem_test_fail_left() <= 0;
    mem_test_fail_after(-1);
    if (status != KILN_OK) expect_failure(status, KILN_OUT_OF_MEMORY, "");
    assert_int_equal(mem_test_live_blocks(), live);
    if (status == KILN_OK && reached) status = KILN_OUT_OF_MEMORY; /* what failed was optional: go on */
    assert_true(n < 20000);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(masks_pick_rows),      cmocka_unit_test(stages_follow_each_other),
      cmocka_unit_test(sizes_are_checked),    cmocka_unit_test(outputs_and_allocations),
      cmocka_unit_test(branches_refuse_them), cmocka_unit_test(interpreted_graphs_agree),
      cmocka_unit_test(memory_runs_out),
  };
  return cmocka_run_group_tests_name("stages", tests, NULL, NULL);
}
