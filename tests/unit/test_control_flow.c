/* Loops and branches: what each program must compute, on every backend, as text, in engine files, under memory that
 * runs out. Random programs are in test_control_random.c. */
#include "engine_check.h"

/* ---- programs ---------------------------------------------------------------------------------------------------- */

/* y = x * 2^n; outer value %w stays what it was; the body adds it as often as the loop runs. */
static const char doubling[] =
    "kiln.graph 1\nconst %zero : i64[] = {0}\nconst %one : i64[] = {1}\n"
    "input \"x\" %x : f32[4]\ninput \"n\" %n : i64[]\n"
    "%w = neg(%x) : f32[4]\n"
    "%i, %y, %s = while(%zero, %x, %w) : i64[], f32[4], f32[4]\n"
    "  block(%ci : i64[], %cy : f32[4], %cs : f32[4]) {\n    %go = lt(%ci, %n) : bool[]\n    return %go\n  }\n"
    "  block(%bi : i64[], %by : f32[4], %bs : f32[4]) {\n    %next = add(%bi, %one) : i64[]\n"
    "    %twice = add(%by, %by) : f32[4]\n    %sum = add(%bs, %w) : f32[4]\n    return %next, %twice, %sum\n  }\n"
    "%z = add(%w, %s) : f32[4]\n"
    "output \"i\" %i\noutput \"y\" %y\noutput \"z\" %z\n";

/* Two carried values change places, a third is a view of itself, a fourth of another. */
static const char exchange[] =
    "kiln.graph 1\nconst %zero : i64[] = {0}\nconst %one : i64[] = {1}\n"
    "input \"a\" %a : f32[3,3]\ninput \"b\" %b : f32[3,3]\ninput \"n\" %n : i64[]\n"
    "%i, %p, %q, %r, %s = while(%zero, %a, %b, %a, %b) : i64[], f32[3,3], f32[3,3], f32[3,3], f32[3,3]\n"
    "  block(%c0 : i64[], %c1 : f32[3,3], %c2 : f32[3,3], %c3 : f32[3,3], %c4 : f32[3,3]) {\n"
    "    %go = lt(%c0, %n) : bool[]\n    return %go\n  }\n"
    "  block(%b0 : i64[], %b1 : f32[3,3], %b2 : f32[3,3], %b3 : f32[3,3], %b4 : f32[3,3]) {\n"
    "    %next = add(%b0, %one) : i64[]\n    %t = permute(%b3) {order=[1, 0]} : f32[3,3]\n"
    "    %u = permute(%b1) {order=[1, 0]} : f32[3,3]\n    return %next, %b2, %b1, %t, %u\n  }\n"
    "output \"i\" %i\noutput \"p\" %p\noutput \"q\" %q\noutput \"r\" %r\noutput \"s\" %s\n";

/* a, b = b, a + b */
static const char fibonacci[] =
    "kiln.graph 1\nconst %zero : i64[] = {0}\nconst %one : i64[] = {1}\ninput \"n\" %n : i64[]\n"
    "%i, %a, %b = while(%zero, %zero, %one) : i64[], i64[], i64[]\n"
    "  block(%ci : i64[], %ca : i64[], %cb : i64[]) {\n    %go = lt(%ci, %n) : bool[]\n    return %go\n  }\n"
    "  block(%bi : i64[], %ba : i64[], %bb : i64[]) {\n    %next = add(%bi, %one) : i64[]\n"
    "    %sum = add(%ba, %bb) : i64[]\n    return %next, %bb, %sum\n  }\n"
    "output \"a\" %a\noutput \"b\" %b\n";

/* for i in range(n): for j in range(i): y = y * 0.5 + x, where even i take another way */
static const char nested[] =
    "kiln.graph 1\ndim s in [1, 8] opt 4\nconst %zero : i64[] = {0}\nconst %one : i64[] = {1}\n"
    "const %two : i64[] = {2}\nconst %half : f32[] = {0.5}\nconst %w : f32[4,4] = {0.5, 0.1, 0, 0, 0, 0.5, 0.1, 0, 0, "
    "0, "
    "0.5, 0.1, 0.1, 0, 0, 0.5}\n"
    "input \"x\" %x : f32[s,4]\ninput \"n\" %n : i64[]\nstate \"runs\" %runs : i64[] = %zero\n"
    "%i, %y, %k = while(%zero, %x, %runs) : i64[], f32[s,4], i64[]\n"
    "  block(%ci : i64[], %cy : f32[s,4], %ck : i64[]) {\n    %go = lt(%ci, %n) : bool[]\n    return %go\n  }\n"
    "  block(%bi : i64[], %by : f32[s,4], %bk : i64[]) {\n    %next = add(%bi, %one) : i64[]\n"
    "    %j, %z = while(%zero, %by) : i64[], f32[s,4]\n"
    "      block(%dj : i64[], %dz : f32[s,4]) {\n        %more = lt(%dj, %bi) : bool[]\n        return %more\n      }\n"
    "      block(%ej : i64[], %ez : f32[s,4]) {\n        %nj = add(%ej, %one) : i64[]\n"
    "        %m = remainder(%ej, %two) : i64[]\n        %even = eq(%m, %zero) : bool[]\n"
    "        %v = if(%even, %ez) : f32[s,4]\n"
    "          block(%fz : f32[s,4]) {\n            %g = mul(%fz, %half) : f32[s,4]\n"
    "            %h = add(%g, %x) : f32[s,4]\n            return %h\n          }\n"
    "          block(%hz : f32[s,4]) {\n            %l = linear(%hz, %w, none) : f32[s,4]\n"
    "            %r = relu(%l) : f32[s,4]\n            %t = sub(%r, %by) : f32[s,4]\n            return %t\n          "
    "}\n"
    "        return %nj, %v\n      }\n"
    "    %bk1 = add(%bk, %j) : i64[]\n    return %next, %z, %bk1\n  }\n"
    "output \"y\" %y\noutput \"k\" %k\nupdate \"runs\" %k\n";

/* The condition is computed by the body, carried; with one element in two dimensions. What the loop makes goes into a
 * concat. */
static const char carried_condition[] =
    "kiln.graph 1\nconst %zero : i64[1,1] = {0}\nconst %one : i64[1,1] = {1}\nconst %yes : bool[1,1] = {1}\n"
    "input \"x\" %x : f32[2,3]\ninput \"n\" %n : i64[1,1]\n"
    "%i, %p, %y = while(%zero, %yes, %x) : i64[1,1], bool[1,1], f32[2,3]\n"
    "  block(%ci : i64[1,1], %cp : bool[1,1], %cy : f32[2,3]) {\n    return %cp\n  }\n"
    "  block(%bi : i64[1,1], %bp : bool[1,1], %by : f32[2,3]) {\n    %next = add(%bi, %one) : i64[1,1]\n"
    "    %go = lt(%next, %n) : bool[1,1]\n    %e = concat(%by, %x) {axis=1} : f32[2,6]\n"
    "    %f = slice(%e) {axis=1, start=1, end=4} : f32[2,3]\n    return %next, %go, %f\n  }\n"
    "%a = neg(%y) : f32[2,3]\n%z = concat(%y, %a, %x) {axis=1} : f32[2,9]\n"
    "output \"z\" %z\noutput \"y\" %y\noutput \"i\" %i\n";

static const char *const programs[] = {doubling, exchange, fibonacci, nested, carried_condition};
static const char *const targets[] = {"reference", "cpu", "cpu:scalar"};

static graph *parse(const char *s) {
  graph *g = NULL;
  expect_ok(graph_parse(s, strlen(s), NULL, NULL, &g));
  return g;
}

/* ---- right results ----------------------------------------------------------------------------------------------- */

static void all_ways_agree(void **unused) {
  (void)unused;
  for (size_t i = 0; i < KILN_COUNT(programs); i++) {
    graph *g = parse(programs[i]);
    for (size_t t = 0; t < KILN_COUNT(targets); t++) {
      for (uint32_t seed = 1; seed < 12; seed++)
        check_all_ways(g, targets[t], (const int64_t[]){1 + seed % 8}, seed, 2);
    }
    graph_destroy(g);
  }
}

static void run_numbers(const char *source, const char *target_name, int64_t n, const float *x, float *y, int64_t *k) {
  graph *g = parse(source);
  expect_ok(passes_portable(g, true));
  kiln_engine *e = check_engine(g, target_name);
  kiln_context *c = NULL;
  expect_ok(kiln_context_create(e, &c));
  check_io io = check_make(g, (const int64_t[]){1}, 1);
  for (int32_t i = 0; i < g->n_inputs; i++) {
    if (io.params[i].dtype == KILN_F32) memcpy(io.params[i].data, x, check_bytes(&io.params[i]));
    if (io.params[i].dtype == KILN_I64) memcpy(io.params[i].data, &n, sizeof n);
  }
  check_context(c, g, &io);
  for (int32_t i = 0; i < g->n_outputs; i++) {
    if (io.results[i].dtype == KILN_F32) memcpy(y, io.results[i].data, check_bytes(&io.results[i]));
    if (io.results[i].dtype == KILN_I64) memcpy(k, io.results[i].data, sizeof *k);
  }
  check_free(&io);
  kiln_context_destroy(c);
  kiln_engine_destroy(e);
  graph_destroy(g);
}

/* Numbers worked out by hand: the reference interpreter could be wrong in the same way. */
static void known_numbers(void **unused) {
  (void)unused;
  for (size_t t = 0; t < KILN_COUNT(targets); t++) {
    static const int64_t expected[] = {1, 1, 2, 3, 5, 8, 13};
    const float x[4] = {1, -2, 0.5f, 3};
    float y[9];
    int64_t k = -1;
    for (int64_t n = 0; n < 7; n++) {
      run_numbers(fibonacci, targets[t], n, NULL, NULL, &k);
      assert_int_equal(k, expected[n]);
      run_numbers(doubling, targets[t], n, x, y, &k); /* the last output: w + w + n * w with w = -x */
      assert_int_equal(k, n);
      for (int i = 0; i < 4; i++) assert_true(y[i] == -x[i] * (float)(n + 2));
    }
    run_numbers(fibonacci, targets[t], -5, NULL, NULL, &k);
    assert_int_equal(k, 1);
    run_numbers(fibonacci, targets[t], 80, NULL, NULL, &k);
    assert_true(k == 37889062373143906);
  }
}

static void the_steady_state_does_not_allocate(void **unused) {
  (void)unused;
  for (size_t i = 0; i < KILN_COUNT(programs); i++) {
    graph *g = parse(programs[i]);
    kiln_engine *e = check_engine(g, "cpu");
    kiln_context *c = NULL;
    expect_ok(kiln_context_create(e, &c));
    check_io io = check_make(g, (const int64_t[]){3}, 5);
    check_context(c, g, &io);
    const int64_t before = mem_test_total_allocations();
    for (int k = 0; k < 20; k++) check_context(c, g, &io);
    assert_int_equal(mem_test_total_allocations(), before);
    check_free(&io);
    kiln_context_destroy(c);
    kiln_engine_destroy(e);
    graph_destroy(g);
  }
}

/* ---- copies ------------------------------------------------------------------------------------------------------ */

static size_t steps_of(const char *source, const char *kernel_part) {
  graph *g = parse(source);
  kiln_engine *e = check_engine(g, "cpu");
  kiln_context *c = NULL;
  expect_ok(kiln_context_create(e, &c));
  check_io io = check_make(g, (const int64_t[]){3}, 5);
  check_context(c, g, &io);
  size_t n = 0;
  for (size_t i = 0; i < kiln_context_step_count(c); i++) {
    kiln_step_info info;
    expect_ok(kiln_context_step(c, i, &info));
    n += str_eq(info.op, kernel_part);
  }
  check_free(&io);
  kiln_context_destroy(c);
  kiln_engine_destroy(e);
  graph_destroy(g);
  return n;
}

/* Only the first values are copied: n, x and w must stay; the body writes where the carried values are. */
static void bodies_write_in_place(void **unused) {
  (void)unused;
  assert_int_equal(steps_of(doubling, "contiguous"), 3);
}

/* Work is that of one run: what a loop does counts as often as it is done. */
static void profiles_count_iterations(void **unused) {
  (void)unused;
  graph *g = parse(doubling);
  kiln_engine *e = check_engine(g, "cpu");
  kiln_context *c = NULL;
  expect_ok(kiln_context_create(e, &c));
  check_io io = check_make(g, (const int64_t[]){1}, 5);
  check_context(c, g, &io);
  kiln_context_profile(c, 1);
  for (int64_t n = 3; n < 6; n++) { /* 3 + 4 + 5 iterations in three runs */
    memcpy(io.params[1].data, &n, sizeof n);
    check_context(c, g, &io);
  }
  double flops = 0, seconds = 0;
  for (size_t i = 0; i < kiln_context_step_count(c); i++) {
    kiln_step_info info;
    expect_ok(kiln_context_step(c, i, &info));
    flops += str_eq(info.op, "add") ? info.flops : 0;
    seconds += info.seconds;
  }
  assert_true(flops == 4 * (1 + 4 + 4) + 4 && seconds > 0); /* counter, twice, sum; after the loop %z */
  check_free(&io);
  kiln_context_destroy(c);
  kiln_engine_destroy(e);
  graph_destroy(g);
}

/* ---- form -------------------------------------------------------------------------------------------------------- */

static void text_and_copies_are_the_same(void **unused) {
  (void)unused;
  for (size_t i = 0; i < KILN_COUNT(programs); i++) {
    graph *g = parse(programs[i]), *copy = NULL;
    text first = {0}, second = {0}, third = {0};
    graph_print(g, 256, &first);
    graph *again = parse(first.data);
    graph_print(again, 256, &second);
    assert_string_equal(first.data, second.data);
    expect_ok(graph_clone(g, &copy));
    expect_ok(graph_verify(copy));
    graph_print(copy, 256, &third);
    assert_true(third.length == first.length); /* numbers of values may differ, names do not */
    text_free(&first);
    text_free(&second);
    text_free(&third);
    graph_destroy(g);
    graph_destroy(again);
    graph_destroy(copy);
  }
}

#define LOOP(operands, types, cond_params, cond, body_params, body)                                              \
  "kiln.graph 1\ndim s in [1, 8] opt 4\nconst %yes : bool[] = {1}\ninput \"x\" %x : f32[s,4]\ninput \"n\" %n : " \
  "i64[]\n" operands " = while" types "\n  block(" cond_params ") {\n    " cond "\n  }\n  block(" body_params    \
  ") {\n    " body "\n  }\noutput \"y\" %y\n"

typedef struct wrong {
  const char *program, *text;
} wrong;

static const wrong wrong_loops[] = {
    {LOOP("%y", "(%x) : f32[s,4]", "%c : f32[s,4]", "return %c", "%b : f32[s,4]", "return %b"), "expected bool"},
    {LOOP("%y", "(%n) : i64[]", "%c : i64[]", "return %yes", "%b : i64[]", "return %x"), "a loop cannot change types"},
    {LOOP("%y", "(%x) : f32[s,4]", "%c : f32[s,4]", "return %yes", "%b : f32[s,4]",
          "%t = slice(%b) {axis=1, start=0, end=2} : f32[s,2]\n    return %t"),
     "differ"},
    {LOOP("%y", "(%x) : f32[s,4]", "%c : f32[s,4]", "return %yes", "%b : f32[s,4]", "return %c"), "is not defined"},
    {LOOP("%y", "(%x) : f32[s,4]", "%c : f32[s,4], %d : i64[]", "return %yes", "%b : f32[s,4]", "return %b"),
     "parameters are not like its operands"},
    {LOOP("%y", "(%x) : f32[s,4]", "%c : f32[s,4]", "return %yes", "%b : f32[s,4]", "return %b, %b"),
     "1 parameters and 2 results, expected 1 and 1"},
    {LOOP("%y, %z", "(%x) : f32[s,4], f32[s,4]", "%c : f32[s,4]", "return %yes", "%b : f32[s,4]", "return %b"),
     "2 results for 1 carried values"},
    {LOOP("%y", "() : f32[s,4]", "", "return %yes", "", "return %x"), "carries no values"},
    {LOOP("%y", "(%x) : f32[s,4]", "%c : f32[s,4]", "%k = eq(%c, %c) : bool[s,4]\n    return %k", "%b : f32[s,4]",
          "return %b"),
     "must have one element"},
};

static void wrong_loops_are_refused(void **unused) {
  (void)unused;
  for (size_t i = 0; i < KILN_COUNT(wrong_loops); i++) {
    graph *g = NULL;
    const char *s = wrong_loops[i].program;
    const kiln_status status = graph_parse(s, strlen(s), NULL, NULL, &g);
    if (status == KILN_OK || !strstr(error_text(), wrong_loops[i].text))
      fail_msg("loop %zu: status %d, `%s` should contain `%s`", i, (int)status, error_text(), wrong_loops[i].text);
  }
}

/* Sizes that may be equal become a check when shapes are bound. */
static void sizes_are_checked_when_bound(void **unused) {
  (void)unused;
  static const char source[] =
      "kiln.graph 1\ndim s in [1, 8] opt 3\ndim t in [1, 8] opt 3\nconst %no : bool[] = {0}\n"
      "input \"x\" %x : f32[s]\ninput \"y\" %y : f32[t]\ninput \"p\" %p : bool[s]\n"
      "%z = while(%x) : f32[s]\n  block(%c : f32[s]) {\n    return %no\n  }\n"
      "  block(%b : f32[s]) {\n    %d = neg(%y) : f32[t]\n    return %d\n  }\n"
      "%w = if(%p, %z) : f32[s]\n  block(%k : f32[s]) {\n    return %k\n  }\n  block(%l : f32[s]) {\n    return %l\n  "
      "}\n"
      "output \"w\" %w\n";
  graph *g = parse(source);
  kiln_engine *e = check_engine(g, "cpu");
  kiln_context *c = NULL;
  expect_ok(kiln_context_create(e, &c));
  for (int64_t s = 1; s < 3; s++) {
    for (int64_t t = 1; t < 3; t++) {
      float x[4] = {1, 2}, y[4] = {0};
      bool p[4] = {true};
      int64_t shapes[3] = {s, t, s};
      kiln_tensor in[3] = {{.data = x, .ndim = 1, .shape = &shapes[0]},
                           {.data = y, .ndim = 1, .shape = &shapes[1]},
                           {.data = p, .ndim = 1, .shape = &shapes[2]}},
                  out = {0};
      for (int i = 0; i < 3; i++) in[i].device.type = KILN_DEVICE_CPU;
      kiln_tensor_set_dtype(&in[0], KILN_F32);
      kiln_tensor_set_dtype(&in[1], KILN_F32);
      kiln_tensor_set_dtype(&in[2], KILN_BOOL);
      const kiln_status status = kiln_context_run(c, in, 3, &out, 1);
      assert_int_equal(status, s == 1 && t == 1 ? KILN_OK : KILN_INVALID_ARGUMENT);
      if (status != KILN_OK) assert_non_null(strstr(error_text(), "to be equal"));
    }
  }
  kiln_context_destroy(c);
  kiln_engine_destroy(e);
  graph_destroy(g);
}

/* ---- memory runs out --------------------------------------------------------------------------------------------- */

static kiln_status everything(const char *source, const char *target_name) {
  graph *g = NULL, *plan = NULL;
  kiln_engine *e = NULL;
  kiln_context *c = NULL;
  target t;
  void *bytes = NULL;
  size_t size = 0;
  const plan_options options = {0};
  const kiln_context_options single = {sizeof single, 1};
  int64_t n = 3, shape[2] = {2, 4};
  float x[9] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
  KILN_TRY(graph_parse(source, strlen(source), NULL, NULL, &g));
  kiln_status status = passes_portable(g, true);
  if (status == KILN_OK) status = target_parse(target_name, &t);
  if (status == KILN_OK) status = plan_create(g, &t, &options, &plan, NULL);
  if (status == KILN_OK) status = engine_write(g, plan, &t, "", &bytes, &size);
  if (status == KILN_OK && (status = engine_open_bytes(bytes, size, bytes, NULL, &e)) != KILN_OK)
    mem_free_aligned(bytes);
  if (status == KILN_OK) status = kiln_context_create_with(e, &single, &c);
  if (status == KILN_OK) {
    kiln_tensor in[3] = {0}, out[8] = {0};
    for (int32_t i = 0; i < g->n_inputs; i++) {
      const tensor_type *type = &g->body.params[i]->type;
      in[i] = (kiln_tensor){.data = x, .ndim = type->rank, .shape = shape};
      if (type->dtype == KILN_I64) in[i].data = &n;
      in[i].device.type = KILN_DEVICE_CPU;
      kiln_tensor_set_dtype(&in[i], type->dtype);
    }
    status = kiln_context_run(c, in, (size_t)g->n_inputs, out, (size_t)g->n_outputs);
  }
  kiln_context_destroy(c);
  kiln_engine_destroy(e);
  graph_destroy(plan);
  graph_destroy(g);
  return status;
}

static void memory_runs_out(void **unused) {
  (void)unused;
  static const char *const names[] = {"cpu", "reference"};
  for (size_t t = 0; t < KILN_COUNT(names); t++) {
    expect_ok(everything(nested, names[t]));
    const int64_t live = mem_test_live_blocks();
    kiln_status status = KILN_OUT_OF_MEMORY;
    int64_t n = 0;
    for (; status != KILN_OK; n++) {
      mem_test_fail_after(n);
      status = everything(nested, names[t]);
      const bool reached = mem_test_fail_left() <= 0;
      mem_test_fail_after(-1);
      if (status != KILN_OK) expect_failure(status, KILN_OUT_OF_MEMORY, "");
      assert_int_equal(mem_test_live_blocks(), live);
      if (status == KILN_OK && reached) status = KILN_OUT_OF_MEMORY; /* what failed was optional: go on */
      assert_true(n < 20000);
    }
    assert_true(n > 100);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(all_ways_agree),
      cmocka_unit_test(known_numbers),
      cmocka_unit_test(the_steady_state_does_not_allocate),
      cmocka_unit_test(bodies_write_in_place),
      cmocka_unit_test(profiles_count_iterations),
      cmocka_unit_test(text_and_copies_are_the_same),
      cmocka_unit_test(wrong_loops_are_refused),
      cmocka_unit_test(sizes_are_checked_when_bound),
      cmocka_unit_test(memory_runs_out),
  };
  return cmocka_run_group_tests_name("control flow", tests, NULL, NULL);
}
