/* Passes one by one: dead code, common subexpressions, constant folding, the driver, the whole pipeline. */
#include "expect.h"
#include "graph/graph.h"
#include "ops/op.h"
#include "passes/pass.h"
#include "passes/rule_files.h"

static graph *parse(const char *s) {
  graph *g = NULL;
  expect_ok(graph_parse(s, strlen(s), NULL, NULL, &g));
  return g;
}

static int count(const block *b, const char *op_name) {
  int n = 0;
  for (const node *i = b->first; i; i = i->next) {
    n += !op_name || str_eq(i->op->name, op_name);
    for (int32_t k = 0; k < i->n_blocks; k++) n += count(i->blocks[k], op_name);
  }
  return n;
}

#define HEAD "kiln.graph 1\ninput \"x\" %x : f32[2,3]\n"

static void dead_nodes_go_and_live_ones_stay(void **state) {
  (void)state;
  graph *g = parse(
      "kiln.graph 1\ninput \"x\" %x : f32[2,3]\ninput \"f\" %f : bool[]\n%0 = relu(%x) : f32[2,3]\n%1 = neg(%0) : "
      "f32[2,3]\n"
      "%2, %3 = topk(%x) {k=1, axis=1} : f32[2,1], i64[2,1]\n%4 = if(%f, %x) : f32[2,3]\n  block(%5 : f32[2,3]) {\n"
      "    %6 = exp(%5) : f32[2,3]\n    return %5\n  }\n  block(%7 : f32[2,3]) {\n    return %7\n  }\noutput \"y\" "
      "%4\noutput \"i\" %3\n");
  expect_ok(pass_dead_code(g));
  expect_ok(graph_verify(g));
  assert_int_equal(count(&g->body, NULL), 2);
  assert_int_equal(count(&g->body, "topk"), 1);
  graph_destroy(g);
}

static void equal_nodes_become_one(void **state) {
  (void)state;
  graph *g = parse(HEAD
                   "%0 = softmax(%x) {axis=1} : f32[2,3]\n%1 = softmax(%x) {axis=1} : f32[2,3]\n%2 = softmax(%x) "
                   "{axis=0} : f32[2,3]\n"
                   "%3 = neg(%0) : f32[2,3]\n%4 = neg(%1) : f32[2,3]\n%5 = add(%3, %4) : f32[2,3]\n%6 = add(%5, %2) : "
                   "f32[2,3]\noutput \"y\" %6\n");
  expect_ok(pass_cse(g));
  expect_ok(graph_verify(g));
  assert_int_equal(count(&g->body, "softmax"), 2);
  assert_int_equal(count(&g->body, "neg"), 1);
  graph_destroy(g);
}

static void equal_constants_become_one(void **state) {
  (void)state;
  graph *g = parse(
      "kiln.graph 1\nconst %a : f32[3] = {1, 2, 3}\nconst %b : f32[3] = {1, 2, 3}\nconst %c : i32[3] = {1, 2, "
      "3}\nconst %d : f32[1,3] = {1, 2, 3}\n"
      "input \"x\" %x : f32[2,3]\ninput \"i\" %i : i32[3]\n%0 = add(%x, %a) : f32[2,3]\n%1 = add(%x, %b) : "
      "f32[2,3]\n%2 = add(%x, %d) : f32[2,3]\n"
      "%3 = add(%i, %c) : i32[3]\n%4 = mul(%0, %1) : f32[2,3]\n%5 = mul(%4, %2) : f32[2,3]\noutput \"y\" %5\noutput "
      "\"z\" %3\n");
  expect_ok(pass_cse(g));
  expect_ok(graph_verify(g));
  assert_int_equal(count(&g->body, "add"), 3); /* other shapes and types are other constants */
  graph_destroy(g);
}

static void constants_are_evaluated(void **state) {
  (void)state;
  graph *g = parse(
      "kiln.graph 1\nconst %a : f32[2] = {1, 2}\nconst %b : f32[2] = {10, 20}\ninput \"x\" %x : f32[2]\n%0 = add(%a, "
      "%b) : f32[2]\n"
      "%1 = neg(%0) : f32[2]\n%2, %3 = topk(%1) {k=1, axis=0} : f32[1], i64[1]\n%4 = mul(%x, %2) : f32[2]\noutput "
      "\"y\" %4\noutput \"i\" %3\n");
  expect_ok(pass_constant_fold(g, 64));
  expect_ok(graph_verify(g));
  assert_int_equal(count(&g->body, NULL), 1);
  float v = 0;
  memcpy(&v, node_in(g->body.first, 1)->constant->data, sizeof v);
  assert_true(v == -11);
  graph_destroy(g);
}

static void folding_does_not_blow_up_files(void **state) {
  (void)state;
  static const char big[] =
      "kiln.graph 1\nconst %a : f32[] = {1}\n%0 = expand(%a) {shape=[100, 100]} : f32[100,100]\n"
      "%1 = contiguous(%0) : f32[100,100]\noutput \"y\" %1\n";
  graph *g = parse(big);
  expect_ok(pass_constant_fold(g, 1000));
  assert_int_equal(count(&g->body, NULL), 2);
  expect_ok(pass_constant_fold(g, 40000));
  assert_int_equal(count(&g->body, NULL), 0);
  graph_destroy(g);
}

static void symbolic_sizes_are_not_folded(void **state) {
  (void)state;
  graph *g = parse(
      "kiln.graph 1\ndim s in [1, 8] opt 4\nconst %a : f32[] = {1}\ninput \"x\" %x : f32[s]\n%0 = expand(%a) "
      "{shape=[s]} : f32[s]\n"
      "%1 = size() {value=s} : i64[]\noutput \"y\" %0\noutput \"n\" %1\n");
  expect_ok(pass_constant_fold(g, 1 << 16));
  expect_ok(graph_verify(g));
  assert_int_equal(count(&g->body, NULL), 2);
  graph_destroy(g);
}

/* ---- the driver -------------------------------------------------------------------------------------------------- */

static bool swap_forever(builder *b, node *n) {
  value *v = build(b, "add", IN(node_in(n, 1), node_in(n, 0)), NO_ATTRS);
  if (!v) return false;
  value_replace_uses(n->outputs[0], v);
  return true;
}

static void rules_that_do_not_settle_are_an_error(void **state) {
  (void)state;
  static const rule bad[] = {{"swap", "add", swap_forever, NULL}};
  graph *g = parse(
      "kiln.graph 1\ninput \"x\" %x : f32[2]\ninput \"y\" %y : f32[2]\n%0 = add(%x, %y) : f32[2]\noutput \"y\" %0\n");
  expect_failure(rules_run(g, bad, 1), KILN_INTERNAL, "did not settle");
  graph_destroy(g);
}

static bool fails(builder *b, node *n) {
  (void)n;
  return build(b, "no_such_operator", 0, NULL, NO_ATTRS) != NULL;
}

static void failures_inside_rules_are_returned(void **state) {
  (void)state;
  static const rule bad[] = {{"fails", "relu", fails, NULL}};
  graph *g = parse(HEAD "%0 = relu(%x) : f32[2,3]\noutput \"y\" %0\n");
  expect_failure(rules_run(g, bad, 1), KILN_INTERNAL, "no operator");
  graph_destroy(g);
}

/* ---- the pipeline ------------------------------------------------------------------------------------------------ */

static void all_passes_together(void **state) {
  (void)state;
  graph *g = parse(
      "kiln.graph 1\nconst %w : f32[2,1,1,1] = {2, -3}\nconst %m : f32[2] = {0.5, 1}\nconst %v : f32[2] = {1, "
      "4}\nconst %h : f32[2,1,1] = {1, 2}\n"
      "input \"x\" %x : f32[1,1,3,2]\n%p = pad(%x) {before=[0, 0, 1, 1], after=[0, 0, 1, 1]} : f32[1,1,5,4]\n"
      "%c = conv(%p, %w, none) {stride=[1, 1], pad=[0, 0], pad_end=[0, 0], dilation=[1, 1], output_pad=[0, 0]} : "
      "f32[1,2,5,4]\n"
      "%b = batch_norm(%c, %m, %v, %v, %m) {eps=1e-05} : f32[1,2,5,4]\n%a = add(%b, %h) : f32[1,2,5,4]\n%n = mul(%a, "
      "%h) : f32[1,2,5,4]\n"
      "%s = sigmoid(%n) : f32[1,2,5,4]\n%y = mul(%s, %n) : f32[1,2,5,4]\noutput \"y\" %y\n");
  expect_ok(passes_portable(g, true));
  assert_int_equal(count(&g->body, NULL), 2); /* conv and silu */
  assert_int_equal(count(&g->body, "conv"), 1);
  assert_int_equal(count(&g->body, "silu"), 1);
  text once = {0}, twice = {0};
  graph_print(g, 64, &once);
  expect_ok(passes_portable(g, true));
  graph_print(g, 64, &twice);
  assert_string_equal(once.data, twice.data); /* nothing is left to do */
  text_free(&once);
  text_free(&twice);
  graph_destroy(g);
}

static const char decomposed_attention[] =
    "kiln.graph 1\ndim b in [1, 8] opt 2\ndim l in [2, 64] opt 9\nconst %s : f32[] = {0.5}\nconst %low : f32[] = "
    "{-inf}\nconst %zero : f32[] = {0}\n"
    "input \"q\" %q : f32[b,l,2,4]\ninput \"k\" %k : f32[b,l,2,4]\ninput \"v\" %v : f32[b,l,2,4]\n"
    "%0 = permute(%q) {order=[0, 2, 1, 3]} : f32[b,2,l,4]\n%1 = permute(%k) {order=[0, 2, 3, 1]} : f32[b,2,4,l]\n"
    "%2 = permute(%v) {order=[0, 2, 1, 3]} : f32[b,2,l,4]\n%3 = mul(%0, %s) : f32[b,2,l,4]\n%4 = mul(%1, %s) : "
    "f32[b,2,4,l]\n"
    "%5 = reshape(%3) {shape=[2*b, l, 4]} : f32[2*b,l,4]\n%6 = reshape(%4) {shape=[2*b, 4, l]} : f32[2*b,4,l]\n%7 = "
    "matmul(%5, %6) : f32[2*b,l,l]\n"
    "%8 = reshape(%7) {shape=[b, 2, l, l]} : f32[b,2,l,l]\n%9 = softmax(%8) {axis=3} : f32[b,2,l,l]\n%10 = eq(%8, "
    "%low) : bool[b,2,l,l]\n"
    "%11 = logical_not(%10) : bool[b,2,l,l]\n%12 = any(%11) {axes=[3], keepdim=true} : bool[b,2,l,1]\n%13 = "
    "logical_not(%12) : bool[b,2,l,1]\n"
    "%14 = where(%13, %zero, %9) : f32[b,2,l,l]\n%15 = reshape(%14) {shape=[2*b, l, l]} : f32[2*b,l,l]\n%16 = "
    "reshape(%2) {shape=[2*b, l, 4]} : f32[2*b,l,4]\n"
    "%17 = matmul(%15, %16) : f32[2*b,l,4]\n%18 = reshape(%17) {shape=[b, 2, l, 4]} : f32[b,2,l,4]\noutput \"y\" %18\n";

static void decomposed_attention_of_any_size_is_found(void **state) {
  (void)state;
  graph *g = parse(decomposed_attention);
  expect_ok(passes_portable(g, true));
  assert_int_equal(count(&g->body, "attention"), 1);
  assert_int_equal(count(&g->body, NULL), 4); /* and three permutes */
  const node *a = g->body.last;
  assert_true(node_float(a, "scale") == 0.25 && !node_bool(a, "causal"));
  graph_destroy(g);
}

static void scores_that_are_read_elsewhere_stay(void **state) {
  (void)state;
  graph *g = parse(
      "kiln.graph 1\ninput \"q\" %q : f32[1,2,3,4]\n%p = matmul(%q, %q) {transpose_b=true} : f32[1,2,3,3]\n%c = "
      "softmax(%p) {axis=3} : f32[1,2,3,3]\n"
      "%y = matmul(%c, %q) : f32[1,2,3,4]\noutput \"y\" %y\noutput \"weights\" %c\n");
  expect_ok(passes_portable(g, true));
  assert_int_equal(count(&g->body, "attention"), 0);
  graph_destroy(g);
}

static void zeros_are_not_dropped_where_signs_would_change(void **state) {
  (void)state;
  graph *g = parse(
      "kiln.graph 1\nconst %z : f32[] = {0}\nconst %i : i64[] = {0}\ninput \"x\" %x : f32[2]\ninput \"k\" %k : i64[2]\n"
      "%0 = add(%x, %z) : f32[2]\n%1 = add(%k, %i) : i64[2]\noutput \"y\" %0\noutput \"z\" %1\n");
  expect_ok(passes_portable(g, true));
  assert_int_equal(count(&g->body, NULL), 1);
  graph_destroy(g);
}

static void layers_with_other_readers_keep_their_weights(void **state) {
  (void)state;
  graph *g = parse(
      "kiln.graph 1\nconst %w : f32[2,3] = {1, 2, 3, 4, 5, 6}\nconst %c : f32[2] = {2, 3}\ninput \"x\" %x : "
      "f32[4,3]\n%l = linear(%x, %w, none) : f32[4,2]\n"
      "%y = mul(%l, %c) : f32[4,2]\noutput \"y\" %y\noutput \"l\" %l\n");
  expect_ok(passes_portable(g, true));
  assert_int_equal(count(&g->body, "mul"), 1);
  graph_destroy(g);
}

static void every_failed_allocation_is_reported(void **state) {
  (void)state;
  for (int64_t n = 0; n < 100000; n++) {
    graph *g = parse(decomposed_attention);
    mem_test_fail_after(n);
    const kiln_status status = passes_portable(g, true);
    mem_test_fail_after(-1);
    graph_destroy(g);
    if (status == KILN_OK) return;
    if (status != KILN_OUT_OF_MEMORY)
      fail_msg("allocation %lld: status %d, %s", (long long)n, (int)status, error_text());
  }
  fail_msg("never succeeds");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(dead_nodes_go_and_live_ones_stay),
      cmocka_unit_test(equal_nodes_become_one),
      cmocka_unit_test(equal_constants_become_one),
      cmocka_unit_test(constants_are_evaluated),
      cmocka_unit_test(folding_does_not_blow_up_files),
      cmocka_unit_test(symbolic_sizes_are_not_folded),
      cmocka_unit_test(rules_that_do_not_settle_are_an_error),
      cmocka_unit_test(failures_inside_rules_are_returned),
      cmocka_unit_test(all_passes_together),
      cmocka_unit_test(decomposed_attention_of_any_size_is_found),
      cmocka_unit_test(scores_that_are_read_elsewhere_stay),
      cmocka_unit_test(zeros_are_not_dropped_where_signs_would_change),
      cmocka_unit_test(layers_with_other_readers_keep_their_weights),
      cmocka_unit_test(every_failed_allocation_is_reported),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
