/* The text form of graphs: what is printed reads back as the same text and the same bits; damaged texts fail with a
 * place. */
#include <math.h>

#include "expect.h"
#include "graph/graph.h"
#include "graph/number.h"

static const char full[] =
    "kiln.graph 1\n"
    "meta \"producer\" \"a \\\"test\\\"\\n\\x01\"\n"
    "dim s0 in [1, 8] opt 4\n"
    "dim s1 in [2, inf] opt 7\n"
    "const %cache : f32[2] = {0, 0.5}\n"
    "const %w : f32[3,4] = weight 2\n"
    "const %bias : f32[3] = {1, -0, 1.4013e-45}\n"
    "const %four : f32[] = {4}\n"
    "const %packed : f32[3,4] = weight 5 packed \"gemm_b:32\"\n"
    "input \"x\" %x : f32[s0,s1,4]\n"
    "input \"flag\" %\"odd name\" : bool[]\n"
    "state \"cache\" %c : f32[2] = %cache\n"
    "%0 = linear(%x, %w, %bias) : f32[s0,s1,3] tactic \"linear.any\" @ \"layer.0\" \"model.py:17\"\n"
    "  epilogue(%1 : f32[s0,s1,3], %2 : f32[] = %four) {\n"
    "    %3 = mul(%1, %2) : f32[s0,s1,3]\n"
    "    return %3\n"
    "  }\n"
    "%4 = linear(%x, %packed, none) : f32[s0,s1,3] @ \"layer.1\"\n"
    "%5 = reshape(%4) {shape=[s0*s1, 3]} : f32[s0*s1,3]\n"
    "%6 = slice(%5) {axis=1, start=1, end=3} : f32[s0*s1,2]\n"
    "%7, %8 = topk(%6) {k=1, axis=1} : f32[s0*s1,1], i64[s0*s1,1]\n"
    "%9 = clamp(%7) {max=6} : f32[s0*s1,1] @ \"\" \"model.py:20\"\n"
    "%10 = if(%\"odd name\", %9) : f32[s0*s1,1]\n"
    "  block(%11 : f32[s0*s1,1]) {\n"
    "    %12 = relu(%11) : f32[s0*s1,1]\n"
    "    return %12\n"
    "  }\n"
    "  block(%13 : f32[s0*s1,1]) {\n"
    "    return %13\n"
    "  }\n"
    "%14 = add(%c, %four) : f32[2]\n"
    "output \"y\" %0\n"
    "output \"index\" %8\n"
    "output \"z\" %10\n"
    "update \"cache\" %14\n";

static float weights[12];
static int opened; /* weights that were asked for */

static kiln_status give_weight(void *user, int64_t index, const tensor_type *type, const char *packing,
                               const void **out_data, size_t *out_size) {
  (void)user;
  (void)type;
  if (index != 2 && index != 5) return KILN_FAIL(KILN_INVALID_FILE, "there is no weight %lld", (long long)index);
  if ((index == 5) != (packing != NULL))
    return KILN_FAIL(KILN_INVALID_FILE, "weight %lld is stored otherwise", (long long)index);
  opened++;
  *out_data = weights;
  *out_size = sizeof weights;
  return KILN_OK;
}

static kiln_status parse(const char *s, graph **out) { return graph_parse(s, strlen(s), give_weight, NULL, out); }

static void everything_reads_back_as_the_same_text(void **state) {
  (void)state;
  graph *g = NULL;
  text out = {0};
  opened = 0;
  expect_ok(parse(full, &g));
  assert_int_equal(opened, 2);
  graph_print(g, 16, &out);
  assert_string_equal(out.data, full);
  graph *copy = NULL;
  expect_ok(graph_clone(g, &copy));
  expect_ok(graph_verify(copy)); /* numbers may differ; what they mean does not */
  text_free(&out);
  graph_print(copy, 16, &out);
  assert_int_equal(strlen(full) <= out.length, 1);
  graph *again = NULL;
  expect_ok(graph_parse(out.data, out.length, give_weight, NULL, &again));
  graph_destroy(again);
  assert_int_equal(g->n_inputs, 2);
  assert_int_equal(g->n_states, 1);
  assert_int_equal(g->states[0].result, 3);
  assert_string_equal(graph_metadata(g, "producer"), "a \"test\"\n\x01");
  graph_destroy(copy);
  graph_destroy(g);
  text_free(&out);
}

/* ---- numbers ----------------------------------------------------------------------------------------------------- */

static void constants_keep_their_bits(void **state) {
  (void)state;
  static const kiln_dtype types[] = {KILN_F32, KILN_F64, KILN_F16, KILN_BF16, KILN_I8,
                                     KILN_U8,  KILN_I16, KILN_I32, KILN_I64};
  uint64_t seed = 3;
  for (size_t t = 0; t < KILN_COUNT(types); t++) {
    uint8_t bytes[4096];
    for (size_t i = 0; i < sizeof bytes; i++) {
      seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
      bytes[i] = (uint8_t)(seed >> 56);
    }
    memset(bytes, 0, 8);
    memset(bytes + 8, 0xff, 8); /* a NaN with all bits, or -1 */
    const dim n = (dim)(sizeof bytes / kiln_dtype_size(types[t]));
    const tensor_type type = type_of(types[t], 1, &n);
    graph *g = NULL, *again = NULL;
    text out = {0};
    expect_ok(graph_create(&g));
    value *c = graph_constant(g, &type, bytes);
    block_set_results(&g->body, 1, &c);
    g->n_outputs = 1;
    graph_print(g, sizeof bytes, &out);
    expect_ok(graph_parse(out.data, out.length, NULL, NULL, &again));
    assert_memory_equal(again->body.results[0].v->constant->data, bytes, sizeof bytes);
    graph_destroy(again);
    graph_destroy(g);
    text_free(&out);
  }
}

static void numbers_print_short(void **state) {
  (void)state;
  static const struct {
    double v;
    bool single;
    const char *expected;
  } cases[] = {{1, false, "1"},
               {0.1, false, "0.1"},
               {(double)0.1f, true, "0.1"},
               {-0.0, false, "-0"},
               {1e300, false, "1e+300"},
               {INFINITY, true, "inf"},
               {-INFINITY, false, "-inf"},
               {NAN, true, "nan"},
               {5e-324, false, "4.94065645841247e-324"},
               {1.0 / 3, false, "0.3333333333333333"},
               {16777216, true, "16777216"},
               {1e-30, true, "1e-30"}};
  for (size_t i = 0; i < KILN_COUNT(cases); i++) {
    text out = {0};
    number_print(&out, cases[i].v, cases[i].single);
    assert_string_equal(out.data, cases[i].expected);
    const char *cursor = out.data;
    double back = 0;
    assert_true(number_read(&cursor, &back));
    if (cases[i].v == cases[i].v) assert_true(cases[i].single ? (float)back == (float)cases[i].v : back == cases[i].v);
    text_free(&out);
  }
  double v;
  const char *bad[] = {"", "-", "e5", ".", "+1"};
  for (size_t i = 0; i < KILN_COUNT(bad); i++) {
    const char *cursor = bad[i];
    assert_false(number_read(&cursor, &v));
  }
}

/* ---- failures ---------------------------------------------------------------------------------------------------- */

#define HEAD "kiln.graph 1\ninput \"x\" %x : f32[2,3]\n"

static void damaged_texts_say_where(void **state) {
  (void)state;
  static const struct {
    const char *source, *part;
  } cases[] = {
      {"", "line 1, column 1"},
      {"kiln.graph 2\n", "version 2"},
      {HEAD "%y = relu(%z) : f32[2,3]\noutput \"y\" %y\n", "line 3, column 13"},
      {HEAD "%y = no_such(%x) : f32[2,3]\n", "line 3"},
      {HEAD "%y = relu(%x, %x) : f32[2,3]\n", "as many operands"},
      {HEAD "%y = relu(%x) {slope=1} : f32[2,3]\n", "an attribute that the operator has"},
      {HEAD "%y = relu(%x) : f32[2,4]\noutput \"y\" %y\n", "types are not those"},
      {HEAD "%y = relu(%x) : f16[2,3]\noutput \"y\" %y\n", "types are not those"},
      {HEAD "%y = relu(%x) : f99[2,3]\n", "element type"},
      {HEAD "%y = relu(%x) : f32[2,-3]\n", "not negative"},
      {HEAD "%y = relu(%x) : f32[2,u0]\n", "a size"},
      {HEAD "%y = relu(%x) : f32[1,1,1,1,1,1,1,1,1]\n", "at most 8"},
      {HEAD "%x = relu(%x) : f32[2,3]\n", "not taken"},
      {HEAD "%y = relu(none) : f32[2,3]\n", "missing"},
      {HEAD "%y = permute(%x) : f32[2,3]\n", "order"},
      {HEAD "output \"y\" %x extra\n", "end of the line"},
      {HEAD "junk\n", "output or update"},
      {HEAD "output \"y %x\n", "closing quote"},
      {"kiln.graph 1\nconst %c : f32[2] = {1}\n", "`,`"},
      {"kiln.graph 1\nconst %c : f32[2] = {1, 2, 3}\n", "`}`"},
      {"kiln.graph 1\nconst %c : f32[99999999999] = {1}\n", "small constant"},
      {"kiln.graph 1\nconst %c : f32[3,4] = weight 7\n", "no weight 7"},
      {"kiln.graph 1\nconst %c : f32[3,5] = weight 2\n", "has 48 bytes"},
      {"kiln.graph 1\ndim s in [3, 2] opt 3\n", "min <= opt <= max"},
      {"kiln.graph 1\ndim s in [1, 2] opt 1\ndim s in [1, 2] opt 1\n", "new symbol"},
      {"kiln.graph 1\nstate \"s\" %s : f32[] = %s\n", "defined above"},
      {"kiln.graph 1\nconst %c : f32[] = {1}\nstate \"s\" %s : f32[] = %c\n", "update for each state"},
      {HEAD "%y = mul(%x, %x) : f32[2,3]\n  epilogue(%a : f32[2,3]) {\n    return %a\n  }\noutput \"y\" %y\n",
       "epilogue"},
      {HEAD "%y = relu(%x) : f32[2,3]\n  block(%a : f32[2,3]) {\n    return %a\n  }\noutput \"y\" %y\n", "blocks"},
      {"kiln.graph 1\ninput \"c\" %c : bool[]\n%y = if(%c) : f32[]\noutput \"y\" %y\n", "0 blocks"},
  };
  for (size_t i = 0; i < KILN_COUNT(cases); i++) {
    graph *g = NULL;
    if (parse(cases[i].source, &g) == KILN_OK) fail_msg("case %zu was accepted", i);
    if (!strstr(error_text(), cases[i].part))
      fail_msg("case %zu: `%s` should contain `%s`", i, error_text(), cases[i].part);
  }
}

static void every_shorter_text_is_refused_or_whole(void **state) {
  (void)state;
  const size_t size = sizeof full - 1;
  for (size_t n = 0; n < size; n++) {
    graph *g = NULL;
    if (graph_parse(full, n, give_weight, NULL, &g) != KILN_OK) {
      assert_true(error_text()[0] != 0);
      continue;
    }
    expect_ok(graph_verify(g));
    graph_destroy(g);
  }
}

static void changed_bytes_never_break_the_reader(void **state) {
  (void)state;
  static const char alphabet[] = "%(){}[]=:,\"\\ \n0123456789-.xsinfabelockrtn*/@";
  uint32_t seed = 9;
  char copy[sizeof full];
  for (int round = 0; round < 4000; round++) {
    memcpy(copy, full, sizeof full);
    for (int k = 0; k < 1 + round % 3; k++) {
      seed = seed * 1664525u + 1013904223u;
      copy[(seed >> 8) % (sizeof full - 1)] = alphabet[(seed >> 3) % (sizeof alphabet - 1)];
    }
    graph *g = NULL;
    if (parse(copy, &g) != KILN_OK) continue;
    text out = {0};
    graph_print(g, 16, &out); /* what was accepted can be printed and read again */
    graph *again = NULL;
    expect_ok(parse(out.data, &again));
    graph_destroy(again);
    graph_destroy(g);
    text_free(&out);
  }
}

static void deep_nesting_is_refused(void **state) {
  (void)state;
  text t = {0};
  text_puts(&t, "kiln.graph 1\ninput \"c\" %c : bool[]\n");
  for (int i = 0; i < 5000; i++) text_printf(&t, "%%%d = if(%%c) : f32[]\nblock() {\n", i);
  graph *g = NULL;
  expect_failure(parse(t.data, &g), KILN_INVALID_FILE, "fewer blocks inside each other");
  text_free(&t);
}

static void long_graphs_take_linear_time(void **state) {
  (void)state;
  text t = {0};
  text_puts(&t, HEAD "%0 = relu(%x) : f32[2,3]\n");
  for (int i = 1; i < 20000; i++)
    text_printf(&t, "%%%d = add(%%%d, %%x) : f32[2,3] @ \"layer.%d\" \"model.py:%d\"\n", i, i - 1, i % 100, i);
  text_puts(&t, "output \"y\" %19999\n");
  graph *g = NULL;
  text out = {0};
  expect_ok(parse(t.data, &g)); /* minutes if anything were quadratic */
  graph_print(g, 16, &out);
  assert_string_equal(out.data, t.data);
  graph_destroy(g);
  text_free(&t);
  text_free(&out);
}

static void every_failed_allocation_is_reported(void **state) {
  (void)state;
  for (int64_t n = 0;; n++) {
    graph *g = NULL;
    mem_test_fail_after(n);
    const kiln_status status = parse(full, &g);
    mem_test_fail_after(-1);
    if (status == KILN_OK) {
      graph_destroy(g);
      assert_true(n > 5);
      break;
    }
    if (status != KILN_OUT_OF_MEMORY)
      fail_msg("allocation %lld: status %d, %s", (long long)n, (int)status, error_text());
  }
}

static int start(void **state) {
  (void)state;
  graph *g = NULL;
  if (parse(HEAD, &g) == KILN_OK) graph_destroy(g); /* the operator table is made once and stays */
  return 0;
}

static int64_t live_before;
static int remember(void **state) {
  (void)state;
  live_before = mem_test_live_blocks();
  return 0;
}
static int no_more_than_before(void **state) {
  (void)state;
  mem_test_fail_after(-1);
  if (mem_test_live_blocks() == live_before) return 0;
  print_error("%lld blocks leaked\n", (long long)(mem_test_live_blocks() - live_before));
  return -1;
}
#define TEST(name) cmocka_unit_test_setup_teardown(name, remember, no_more_than_before)

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(everything_reads_back_as_the_same_text),
      TEST(constants_keep_their_bits),
      TEST(numbers_print_short),
      TEST(damaged_texts_say_where),
      TEST(every_shorter_text_is_refused_or_whole),
      TEST(changed_bytes_never_break_the_reader),
      TEST(deep_nesting_is_refused),
      TEST(long_graphs_take_linear_time),
      TEST(every_failed_allocation_is_reported),
  };
  return cmocka_run_group_tests(tests, start, NULL);
}
