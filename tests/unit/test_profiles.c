/* Optimization profiles: what an engine tells of them, which one a context takes, tactics of each, sizes outside, shared sizes, damaged
 * texts. */
#include <stdlib.h>
#include <unistd.h>

#include "backends/backend.h"
#include "unit/engine_check.h"

static const char head[] = "kiln.graph 1\n";
static const char body[] =
    "dim s0 in [1, 32] opt 2\n"
    "input \"a\" %a : f32[s0,4]\n"
    "input \"b\" %b : f32[s0,4]\n"
    "%y = add(%a, %b) : f32[s0,4]\n"
    "output \"y\" %y\n";
static const char two[] = "meta \"kiln.optimization_profiles\" \"0.0=1:2:8,1.0=1:2:8;0.0=4:16:32,1.0=4:16:32\"\n";

static graph *parse(const char *meta, const char *rest) {
  char whole[2048];
  graph *g = NULL;
  expect_ok(ops_init());
  snprintf(whole, sizeof whole, "%s%s%s", head, meta, rest);
  expect_ok(graph_parse(whole, strlen(whole), NULL, NULL, &g));
  return g;
}

static kiln_engine *engine_with(const char *meta) {
  graph *g = parse(meta, body);
  kiln_engine *e = check_engine(g, "reference");
  graph_destroy(g);
  return e;
}

static kiln_status prepare(kiln_context *c, int64_t a, int64_t b) {
  int64_t shapes[2][2] = {{a, 4}, {b, 4}};
  kiln_tensor in[2] = {0};
  for (int i = 0; i < 2; i++) {
    in[i] = (kiln_tensor){.device = {KILN_DEVICE_CPU, 0}, .ndim = 2, .shape = shapes[i]};
    kiln_tensor_set_dtype(&in[i], KILN_F32);
  }
  return kiln_context_prepare(c, in, 2, NULL, 0);
}

static void contexts_take_the_profile_that_fits(void **unused) {
  (void)unused;
  kiln_engine *e = engine_with(two);
  kiln_context *c = NULL;
  kiln_io_info info;
  assert_int_equal(kiln_engine_optimization_profile_count(e), 2);
  expect_ok(kiln_engine_optimization_profile_input(e, 1, 0, &info));
  assert_int_equal(info.min[0], 4);
  assert_int_equal(info.opt[0], 16);
  assert_int_equal(info.max[0], 32);
  assert_int_equal(info.min[1], 4);
  expect_failure(kiln_engine_optimization_profile_input(e, 2, 0, &info), KILN_INVALID_ARGUMENT, "profile 2 of 2");
  expect_ok(kiln_context_create(e, &c));
  assert_int_equal(kiln_context_optimization_profile(c), -1);
  static const struct {
    int64_t size;
    int profile;
  } cases[] = {{1, 0}, {2, 0}, {5, 0}, {8, 1}, {16, 1}, {32, 1}, {2, 0}};
  for (size_t i = 0; i < KILN_COUNT(cases); i++) {
    expect_ok(prepare(c, cases[i].size, cases[i].size));
    assert_int_equal(kiln_context_optimization_profile(c), cases[i].profile);
  }
  expect_failure(prepare(c, 33, 33), KILN_INVALID_ARGUMENT,
                 "input 0 (\"a\"), dimension 0 is 33, outside optimization profile 0 (1 to 8)");
  expect_failure(prepare(c, 33, 33), KILN_INVALID_ARGUMENT, "outside optimization profile 1 (4 to 32)");
  expect_ok(kiln_context_set_optimization_profile(c, 1)); /* the same shapes as before, but in the other profile */
  expect_failure(prepare(c, 2, 2), KILN_INVALID_ARGUMENT, "profile 0 contains these sizes");
  expect_ok(prepare(c, 5, 5));
  assert_int_equal(kiln_context_optimization_profile(c), 1);
  expect_ok(kiln_context_set_optimization_profile(c, -1));
  expect_ok(prepare(c, 5, 5));
  assert_int_equal(kiln_context_optimization_profile(c), 0);
  expect_failure(kiln_context_set_optimization_profile(c, 2), KILN_INVALID_ARGUMENT, "the engine has 2");
  expect_failure(kiln_context_set_optimization_profile(c, -2), KILN_INVALID_ARGUMENT, "the engine has 2");
  expect_failure(kiln_context_set_optimization_profile(NULL, 0), KILN_INVALID_ARGUMENT, "NULL");
  kiln_context_destroy(c);
  kiln_engine_destroy(e);
}

static void engines_without_profiles_have_one(void **unused) {
  (void)unused;
  kiln_engine *e = engine_with("");
  kiln_context *c = NULL;
  kiln_io_info info;
  assert_int_equal(kiln_engine_optimization_profile_count(e), 1);
  expect_ok(kiln_engine_optimization_profile_input(e, 0, 1, &info));
  assert_int_equal(info.max[0], 32);
  assert_int_equal(info.opt[0], 2);
  expect_ok(kiln_context_create(e, &c));
  expect_ok(kiln_context_set_optimization_profile(c, 0));
  expect_ok(prepare(c, 32, 32));
  assert_int_equal(kiln_context_optimization_profile(c), 0);
  expect_failure(prepare(c, 33, 33), KILN_INVALID_ARGUMENT,
                 "dimension 0 is 33, a size outside the engine's range (1 to 32), optimization profile 0");
  kiln_context_destroy(c);
  kiln_engine_destroy(e);
}

static void sizes_that_must_be_the_same(void **unused) {
  (void)unused;
  static const char apart[] =
      "dim s0 in [1, 32] opt 2\ndim s1 in [1, 32] opt 2\ndim s2 in [2, 64] opt 4\n"
      "input \"a\" %a : f32[s0,4]\ninput \"b\" %b : f32[s1,4]\n"
      "output \"y\" %a\noutput \"z\" %b\n";
  kiln_engine *e = engine_with("");
  kiln_context *c = NULL;
  expect_ok(kiln_context_create(e, &c));
  expect_failure(prepare(c, 3, 4), KILN_INVALID_ARGUMENT,
                 "input 1 (\"b\"), dimension 0 is 4, but input 0 (\"a\"), dimension 0 is 3: these two sizes must be "
                 "the same (`s0`)");
  kiln_context_destroy(c);
  kiln_engine_destroy(e);
  graph *g = parse("meta \"kiln.shared_dims\" \"0.0=1.0\"\n", apart);
  e = check_engine(g, "reference");
  graph_destroy(g);
  expect_ok(kiln_context_create(e, &c));
  expect_ok(prepare(c, 3, 3));
  expect_failure(prepare(c, 3, 4), KILN_INVALID_ARGUMENT,
                 "input 1 (\"b\"), dimension 0 is 4, but input 0 (\"a\"), dimension 0 is 3: these two sizes were "
                 "declared to be the same");
  kiln_context_destroy(c);
  kiln_engine_destroy(e);
}

static void sizes_that_follow_from_others(void **unused) {
  (void)unused;
  static const char derived[] =
      "dim s0 in [1, 32] opt 2\n"
      "input \"a\" %a : f32[s0,4]\ninput \"b\" %b : f32[2*s0 + 1,4]\noutput \"y\" %a\noutput \"z\" %b\n";
  graph *g = parse("", derived);
  kiln_engine *e = check_engine(g, "reference");
  kiln_context *c = NULL;
  graph_destroy(g);
  expect_ok(kiln_context_create(e, &c));
  expect_ok(prepare(c, 3, 7));
  expect_failure(
      prepare(c, 3, 9), KILN_INVALID_ARGUMENT,
      "input 1 (\"b\"), dimension 0 is 9, but must be `2*s0 + 1` = 7, since input 0 (\"a\"), dimension 0 is 3");
  kiln_context_destroy(c);
  kiln_engine_destroy(e);
}

static void damaged_texts_are_refused(void **unused) {
  (void)unused;
  static const char *const texts[] = {"",
                                      ";",
                                      "0.0",
                                      "0.0=1:2",
                                      "0.0=1:2:3;",
                                      "0.0=1:2:3,",
                                      "2.0=1:2:3",
                                      "0.2=1:2:3",
                                      "0.0=3:2:1",
                                      "0.0=-1:2:3",
                                      "x",
                                      "0.0=1:2:99999999999999999999",
                                      "0.0=1:2:3 ",
                                      "0.0=1:2:3;;0.0=1:2:3",
                                      "99999999999.0=1:2:3"};
  static const char *const shared[] = {"", "0.0", "0.0=1.0,", "0.0=2.0", "0.3=1.0", "0.0=1.0;", "=", "0.0==1.0"};
  char meta[256];
  for (size_t i = 0; i < KILN_COUNT(texts) + KILN_COUNT(shared); i++) {
    const bool first = i < KILN_COUNT(texts);
    arena a = {0};
    profile_list list;
    snprintf(meta, sizeof meta, "meta \"%s\" \"%s\"\n", first ? "kiln.optimization_profiles" : "kiln.shared_dims",
             first ? texts[i] : shared[i - KILN_COUNT(texts)]);
    graph *g = parse(meta, body);
    expect_failure(profiles_read(g, &a, &list), KILN_INVALID_FILE, "metadata");
    graph_destroy(g);
    arena_free(&a);
  }
  char many[1024] = "meta \"kiln.optimization_profiles\" \"0.0=1:1:1";
  for (int i = 0; i < MAX_PROFILES; i++) strcat(many, ";0.0=1:1:1");
  strcat(many, "\"\n");
  arena a = {0};
  profile_list list;
  graph *g = parse(many, body);
  expect_failure(profiles_read(g, &a, &list), KILN_INVALID_FILE, "65 optimization profiles, at most 64");
  graph_destroy(g);
  arena_free(&a);
}

/* ---- tactics ------------------------------------------------------------------------------------------------------ */

static const char product[] =
    "dim s0 in [1, 512] opt 8\n"
    "input \"a\" %a : f32[s0,64]\ninput \"b\" %b : f32[64,64]\n"
    "%y = matmul(%a, %b) : f32[s0,64]\noutput \"y\" %y\n";
static const char product_profiles[] = "meta \"kiln.optimization_profiles\" \"0.0=1:8:16;0.0=17:256:512;0.0=1:2:4\"\n";

/* A tuner's cache says what is fastest at each opt size; without a GPU the plan takes what it says. */
static void each_profile_has_its_tactics(void **unused) {
  (void)unused;
  target t;
  graph *g = parse(product_profiles, product), *plan = NULL;
  const kernel *tactics[64];
  expect_ok(target_parse("cuda:sm_80", &t));
  const int count = backend_tactics(&t, g->body.first, tactics, 64, NULL);
  int other = 1;
  while (other < count && (tactics[other]->needs || !str_eq(tactics[other]->packing, tactics[0]->packing))) other++;
  assert_true(other < count - 1);
  char path[] = "kiln-profiles-XXXXXX"; /* in the build folder */
  const int file = mkstemp(path);
  assert_true(file >= 0);
  dprintf(file, "cuda:sm_80 t1 matmul f32[256,64] f32[64,64] 0\t%s\t1e-6\t2e-6\n", tactics[other]->name);
  close(file);
  const plan_options options = {.cache = path, .threads = 1};
  expect_ok(plan_create(g, &t, &options, &plan, NULL));
  const node *n = plan->body.first;
  assert_string_equal(n->tactic, tactics[0]->name);
  assert_int_equal(n->n_more_tactics, 2);
  assert_string_equal(n->more_tactics[0], tactics[other]->name);
  assert_string_equal(n->more_tactics[1], tactics[0]->name);
  assert_int_equal(dim_hint(plan->dims, plan->body.params[0]->type.dims[0]), 8);
  text x = {0}, y = {0}; /* and it stays in files */
  graph *again = NULL, *copy = NULL;
  graph_print(plan, 64, &x);
  assert_non_null(strstr(x.data, "\" or \""));
  expect_ok(graph_parse(x.data, x.length, NULL, NULL, &again));
  expect_ok(graph_clone(again, &copy));
  graph_print(copy, 64, &y);
  assert_string_equal(x.data, y.data);
  text_free(&x);
  text_free(&y);
  graph_destroy(copy);
  graph_destroy(again);
  graph_destroy(plan);
  graph_destroy(g);
  unlink(path);
}

/* The program of a profile runs its kernels. */
static void programs_run_the_tactics_of_their_profile(void **unused) {
  (void)unused;
  static const char *const names[] = {"reference", "linear.gemm.scalar", "reference"};
  target t;
  graph *g = parse(
      "",
      "dim s0 in [1, 512] opt 8\ninput \"a\" %a : f32[s0,2]\ninput \"b\" %b : f32[2,2]\n%y = linear(%a, %b, none) : "
      "f32[s0,2] tactic \"reference\" or \"linear.gemm.scalar\"\noutput \"y\" %y\n");
  const int64_t symbols[] = {3};
  expect_ok(target_parse("cpu:scalar", &t));
  for (int32_t k = 0; k < 3; k++) { /* a profile that the node does not know takes the first */
    program *p = NULL;
    expect_ok(program_create_profile(g, k, &t, NULL, symbols, NULL, 1, &p));
    assert_string_equal(program_step_kernel(p, 0), names[k]);
    program_destroy(p);
  }
  graph_destroy(g);
}

static void null_arguments_are_answered(void **unused) {
  (void)unused;
  kiln_memory_info memory = {1, 1, 1};
  kiln_step_info step;
  kiln_engine *e = engine_with(two);
  kiln_context *c = NULL;
  expect_ok(kiln_context_create(e, &c));
  kiln_context_memory(c, NULL);
  kiln_context_memory(NULL, &memory);
  assert_true(memory.weights == 0 && memory.arena == 0 && memory.state == 0);
  kiln_context_profile(NULL, 1);
  assert_int_equal(kiln_context_step_count(NULL), 0);
  expect_failure(kiln_context_step(NULL, 0, &step), KILN_INVALID_ARGUMENT, "context is NULL");
  expect_failure(kiln_context_step(c, 0, NULL), KILN_INVALID_ARGUMENT, "out_info is NULL");
  kiln_tensor_set_dtype(NULL, KILN_F32);
  assert_int_equal(kiln_tensor_get_dtype(NULL), KILN_DTYPE_COUNT);
  kiln_context_destroy(c);
  kiln_engine_destroy(e);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(contexts_take_the_profile_that_fits),
                                     cmocka_unit_test(null_arguments_are_answered),
                                     cmocka_unit_test(engines_without_profiles_have_one),
                                     cmocka_unit_test(sizes_that_must_be_the_same),
                                     cmocka_unit_test(sizes_that_follow_from_others),
                                     cmocka_unit_test(damaged_texts_are_refused),
                                     cmocka_unit_test(each_profile_has_its_tactics),
                                     cmocka_unit_test(programs_run_the_tactics_of_their_profile)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
