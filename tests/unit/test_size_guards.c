/* Conditions on the sizes of inputs: what the expressions mean, texts that are none, and contexts that enforce them. */
#include "graph/size_guards.h"

#include <math.h>
#include <stdlib.h>

#include "unit/engine_check.h"

/* [0.0] is 8, [0.1] is 6, [1.0] is 0. */
static bool some_size(const void *context, int64_t input, int64_t d, int64_t *out) {
  (void)context;
  static const int64_t sizes[2][2] = {{8, 6}, {0, 0}};
  if (input > 1 || d > (input == 0)) return false;
  *out = sizes[input][d];
  return true;
}

static guard_result check(const char *guard) { return size_guard_check(guard, strlen(guard), some_size, NULL); }

static void expressions_are_pythons(void **unused) {
  (void)unused;
  static const char *const hold[] = {
      "[0.0] > [0.1]",
      "True",
      "not False",
      "[0.0] == 8 and [0.1] == 6",
      "[0.0] == 7 or [0.1] == 6",
      "not [0.0] == 7",
      "1 < [0.1] < [0.0]",
      "[0.0] - 2*[0.1] == -4",
      "-7 // 2 == -4",
      "-7 % 2 == 1",
      "7 % -2 == -1",
      "7 // -2 == -4",
      "-2**2 == -4",
      "2**-1 == 0.5",
      "(1 + 2)*3 == 9",
      "[0.0] / [0.1] > 1.3",
      "trunc(1.5*float([0.0])) == 12",
      "trunc(-2.5) == -2",
      "floor(-2.5) == -3",
      "ceil(0.3*float([0.0])) == 3",
      "round(2.5) == 2 and round(3.5) == 4",
      "sqrt(16) == 4",
      "abs(-3) == 3",
      "max(1, [0.0], [0.1]) == 8",
      "min(9, [0.1], 7) == 6",
      "1e3 == 1000",
      "[1.0] >= 0",
      "floor(0.7*90) == 62",
      "7.5 // 2 == 3 and 7.5 % 2 == 1.5",
  };
  for (size_t i = 0; i < KILN_COUNT(hold); i++)
    if (check(hold[i]) != GUARD_HOLDS) fail_msg("`%s` does not hold", hold[i]);
  static const char *const fail[] = {
      "[0.0] < [0.1]",
      "False",
      "[0.0] != 8",
      "not True",
      "[0.0] // [1.0] == 0",
      "[0.0] % [1.0] == 0",
      "[0.0] / [1.0] > 0",
      "9223372036854775807 + [0.0] > 0 or 1",
      "2**65 > 0",
      "sqrt(-1) == 0",
      "trunc(1e18*1e18) == 0",
  };
  for (size_t i = 0; i < KILN_COUNT(fail); i++)
    if (check(fail[i]) == GUARD_HOLDS) fail_msg("`%s` holds", fail[i]);
}

static void other_texts_are_refused(void **unused) {
  (void)unused;
  static const char *const bad[] = {
      "",          "[",
      "[0",        "[0.",
      "[0.0",      "[0.7] > 1",
      "[9.0] > 1", "[-1.0] > 1",
      "1 +",       "(1",
      "1)",        "log2(8)",
      "trunc()",   "trunc(1, 2)",
      "trunc(1",   "max()",
      "1 = 1",     "a",
      "1 2",       "1..2",
      "and",       "not",
      "x == 1",    "[0.0] == 8 and",
      "min(1,,2)", "\"8\" == [0.0]",
      "1e999 > 0", "max(1, 2, 3, 4, 5, 6, 7, 8, 9)",
  };
  for (size_t i = 0; i < KILN_COUNT(bad); i++)
    if (check(bad[i]) != GUARD_UNREADABLE) fail_msg("`%s` was read", bad[i]);
  static const char *const nests[] = {"(", "-", "not ", "abs(", "2**"};
  for (size_t k = 0; k < KILN_COUNT(nests); k++) {
    char deep[3000] = "";
    for (int i = 0; i < 500; i++) strcat(deep, nests[k]);
    assert_int_equal(check(deep), GUARD_UNREADABLE);
  }
}

static const char body[] =
    "dim s0 in [0, 32] opt 2\n"
    "dim s1 in [1, 32] opt 2\n"
    "input \"a\" %a : f32[s0,s1]\n"
    "%y = relu(%a) : f32[s0,s1]\n"
    "output \"y\" %y\n";

static kiln_status parse(const char *guards, graph **out) {
  char whole[2048];
  expect_ok(ops_init());
  snprintf(whole, sizeof whole, "kiln.graph 1\nmeta \"kiln.size_guards\" \"%s\"\n%s", guards, body);
  return graph_parse(whole, strlen(whole), NULL, NULL, out);
}

static kiln_status prepare(kiln_context *c, int64_t a, int64_t b) {
  int64_t shape[2] = {a, b};
  kiln_tensor in = {.device = {KILN_DEVICE_CPU, 0}, .ndim = 2, .shape = shape};
  kiln_tensor_set_dtype(&in, KILN_F32);
  return kiln_context_prepare(c, &in, 1, NULL, 0);
}

static void contexts_enforce_them(void **unused) {
  (void)unused;
  graph *g = NULL;
  kiln_context *c = NULL;
  expect_ok(parse("[0.0] > [0.1]\\n[0.0] % 2 == 0", &g));
  expect_ok(size_guards_validate(g));
  kiln_engine *e = check_engine(g, "reference");
  expect_ok(kiln_context_create(e, &c));
  expect_ok(prepare(c, 4, 3));
  expect_failure(prepare(c, 4, 4), KILN_INVALID_ARGUMENT, "a.shape[0] is 4, a.shape[1] is 4; the model was captured");
  expect_failure(prepare(c, 4, 4), KILN_INVALID_ARGUMENT, "`a.shape[0] > a.shape[1]`");
  expect_failure(prepare(c, 5, 3), KILN_INVALID_ARGUMENT, "`a.shape[0] % 2 == 0`");
  expect_failure(prepare(c, 40, 3), KILN_INVALID_ARGUMENT, "0 to 32");
  expect_ok(prepare(c, 6, 3));
  kiln_context_destroy(c);
  kiln_engine_destroy(e);
  graph_destroy(g);
}

static void engines_with_damaged_ones_do_not_load(void **unused) {
  (void)unused;
  static const char *const bad[] = {"[0.0] >", "[0.2] > 1", "[0.0] > 1\\n\\n", "[0.0] > 1\\nlog2(3) > 1"};
  for (size_t i = 0; i < KILN_COUNT(bad); i++) {
    graph *g = NULL;
    expect_ok(parse(bad[i], &g));
    expect_failure(size_guards_validate(g), KILN_INVALID_FILE, "no condition on sizes of inputs");
    graph_destroy(g);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(expressions_are_pythons),
      cmocka_unit_test(other_texts_are_refused),
      cmocka_unit_test(contexts_enforce_them),
      cmocka_unit_test(engines_with_damaged_ones_do_not_load),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
