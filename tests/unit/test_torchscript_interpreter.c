/* The abstract interpreter of TorchScript: what Python semantics give at build time, what becomes of branches, loops and state, and
 * what is refused. Programs are written as the serialized code of a module with one int attribute, n = 5. */
#include <stdlib.h>

#include "base/text.h"
#include "import/torchscript/torchscript.h"
#include "ops/op.h"
#include "unit/expect.h"
#include "unit/zip_writer.h"

static const char head[] =
    "class M(Module):\n  __parameters__ = []\n  __buffers__ = []\n  n : int\n"
    "  def again(self: __torch__.M, x: Tensor) -> Tensor:\n    return (self).again(x, )\n"
    "  def forward(self: __torch__.M, x: Tensor):\n";
static const char pickle[] =
    "\x80\x02"
    "c__torch__\nM\n)\x81}(X\x01\0\0\0nK\x05ub.";

/* `body`: lines of forward, each indented by four. */
static kiln_status import_body(const char *body, graph **out) {
  text code = {0}, bytes = {0};
  text_puts(&code, head);
  text_puts(&code, body);
  const zip_part parts[] = {{"m/version", "3\n", 2},
                            {"m/code/__torch__.py", code.data, code.length},
                            {"m/data.pkl", pickle, sizeof pickle - 1},
                            {"m/constants.pkl", "\x80\x02).", 4}};
  static const kiln_input_spec input = {
      .name = "x", .dtype = KILN_F32, .rank = 2, .min = {2, 3}, .opt = {2, 3}, .max = {2, 3}};
  kiln_build_options options = KILN_BUILD_OPTIONS_INIT;
  options.inputs = &input;
  options.input_count = 1;
  mem_test_fail_after(-1);
  zip_write(parts, 4, &bytes);
  const kiln_status status = torchscript_import(bytes.data, bytes.length, "made", &options, out);
  text_free(&code);
  text_free(&bytes);
  return status;
}

/* The method returns constants; their JSON is in the graph's metadata. */
static void gives(const char *expression, const char *expected) {
  graph *g = NULL;
  text body = {0};
  expect_ok(ops_init());
  text_printf(&body, "    return %s\n", expression);
  expect_ok(import_body(body.data, &g));
  text_free(&body);
  if (strcmp(graph_metadata(g, "torch.outputs"), expected) != 0)
    fail_msg("%s gives %s, expected %s", expression, graph_metadata(g, "torch.outputs"), expected);
  graph_destroy(g);
}

static void fails(const char *body, kiln_status code, const char *part) {
  graph *g = NULL;
  expect_ok(ops_init());
  expect_failure(import_body(body, &g), code, part);
}

#define ONE(v) "[{\"value\": " v "}]"

static void computes_numbers(void **state) {
  (void)state;
  gives("torch.floordiv(-7, 2)", ONE("-4"));
  gives("torch.remainder(-7, 3)", ONE("2"));
  gives("torch.remainder(-7.5, 2.)", ONE("0.5"));
  gives("torch.div(7, 2)", ONE("3.5"));
}

static void computes_more_numbers(void **state) {
  (void)state;
  gives("torch.pow(2, 3)", ONE("8.0"));
  gives("torch.round(2.5)", ONE("2.0"));
  gives("int(-3.9)", ONE("-3"));
  gives("torch.__and__(True, False)", ONE("false"));
  gives("torch.eq(1, 1.)", ONE("true"));
  gives("ops.prim.max([3, 9, 4])", ONE("9"));
  gives("torch.__range_length(10, 0, -3)", ONE("4"));
  gives("torch.size(x, -1)", ONE("3"));
  gives("torch.numel(x)", ONE("6"));
}

static void computes_texts(void **state) {
  (void)state;
  gives("torch.format(\"{} {} {}\", 1, 2.5, [1, 2])", ONE("\"1 2.5 [1, 2]\""));
  gives("torch.percentFormat(\"%d-%.2f-%s\", (3, 0.5, \"q\"))", ONE("\"3-0.50-q\""));
  gives("torch.slice(\"abcdef\", 1, -1, 2)", ONE("\"bd\""));
  gives("torch.join(\", \", torch.split(\"a b  c\"))", ONE("\"a, b, c\""));
  gives("str(1e20)", ONE("\"1e+20\""));
  gives("torch.find(\"hello\", \"l\")", ONE("2"));
}

static void shares_containers(void **state) {
  (void)state;
  graph *g = NULL;
  expect_ok(ops_init());
  expect_ok(
      import_body("    a = [1, 2]\n    b = a\n    _0 = torch.append(b, 3)\n    _1 = torch._set_item(a, -1, 7)\n"
                  "    d = {\"k\": a}\n    torch.Delete(d[\"k\"], 0)\n    return (a, torch.len(b))\n",
                  &g));
  assert_string_equal(graph_metadata(g, "torch.outputs"), "[{\"value\": 2}, {\"value\": 7}, {\"value\": 2}]");
  graph_destroy(g);
}

static int count_nodes(const block *b, const char *name) {
  int n = 0;
  for (const node *k = b->first; k; k = k->next) {
    n += strcmp(k->op->name, name) == 0;
    for (int32_t i = 0; i < k->n_blocks; i++) n += count_nodes(k->blocks[i], name);
  }
  return n;
}

static void branches_on_data(void **state) {
  (void)state;
  graph *g = NULL;
  expect_ok(ops_init());
  expect_ok(import_body(
      "    l = [1, 1]\n    y = torch.mul(x, 2)\n    if bool(torch.gt(torch.sum(x), 0)):\n"
      "      _0 = torch.add_(torch.select(y, 0, 0), 1)\n      _1 = torch._set_item(l, 0, 4)\n      k = True\n"
      "    else:\n      k = False\n    return (y, l, k)\n",
      &g));
  expect_ok(graph_verify(g));
  assert_int_equal(count_nodes(&g->body, "if"), 1);
  /* y, written on one side, and l[0]; l[1] is the same on both, and k is the condition itself */
  assert_string_equal(graph_metadata(g, "torch.outputs"),
                      "[{\"tensor\": 0}, {\"int\": 1}, {\"value\": 1}, {\"bool\": 2}]");
  graph_destroy(g);
  expect_ok(import_body(
      "    if torch.gt(torch.size(x, 0), 1):\n      y = torch.neg(x)\n    else:\n      y = x\n    return y\n", &g));
  assert_int_equal(count_nodes(&g->body, "if"), 0);
  graph_destroy(g);
}

static void loops_on_data(void **state) {
  (void)state;
  graph *g = NULL;
  expect_ok(ops_init());
  expect_ok(import_body(
      "    y = x\n    k = 0\n    _0 = bool(torch.gt(torch.sum(y), 1))\n    while _0:\n      y0 = torch.mul(y, 0.5)\n"
      "      k0 = torch.add(k, 1)\n      _1 = bool(torch.gt(torch.sum(y0), 1))\n      _0, y, k = _1, y0, k0\n"
      "    return (y, k)\n",
      &g));
  expect_ok(graph_verify(g));
  assert_int_equal(count_nodes(&g->body, "while"), 1);
  assert_int_equal(g->body.first ? 1 : 0, 1);
  graph_destroy(g);
  expect_ok(import_body("    y = x\n    for i in range(3):\n      y = torch.add(y, i)\n    return y\n", &g));
  assert_int_equal(count_nodes(&g->body, "while"), 0);
  assert_int_equal(count_nodes(&g->body, "add"), 3);
  graph_destroy(g);
}

static void keeps_state(void **state) {
  (void)state;
  graph *g = NULL;
  expect_ok(ops_init());
  expect_ok(import_body("    n = self.n\n    self.n = torch.add(n, 1)\n    return torch.mul(x, n)\n", &g));
  expect_ok(graph_verify(g));
  assert_int_equal(g->n_states, 1);
  assert_string_equal(g->states[0].name, "n");
  assert_int_equal(*(const int64_t *)g->states[0].initial->constant->data, 5);
  graph_destroy(g);
  expect_ok(import_body("    n = self.n\n    self.n = 5\n    return torch.mul(x, n)\n", &g));
  assert_int_equal(g->n_states, 0); /* as it was */
  graph_destroy(g);
}

/* The side that raises is left out where the condition is data, and counts where it is not. */
static void drops_raising_branches(void **state) {
  (void)state;
  graph *g = NULL;
  expect_ok(ops_init());
  expect_ok(import_body(
      "    if bool(torch.gt(torch.sum(x), 0)):\n      ops.prim.RaiseException(\"no\", \"builtins.ValueError\")\n"
      "    else:\n      pass\n    return torch.neg(x)\n",
      &g));
  assert_int_equal(count_nodes(&g->body, "if"), 0);
  assert_non_null(strstr(graph_metadata(g, "kiln.import_notes"), "ValueError: no"));
  graph_destroy(g);
  fails(
      "    if torch.eq(torch.size(x, 0), 2):\n      ops.prim.RaiseException(torch.format(\"size {}\", torch.size(x, "
      "0)))\n"
      "    else:\n      pass\n    return x\n",
      KILN_INVALID_ARGUMENT, "size 2");
}

static void refuses_with_a_place(void **state) {
  (void)state;
  fails("    return torch.mul(4611686018427387904, -2)\n", KILN_UNSUPPORTED, "out of range");
  fails("    return y\n", KILN_INVALID_FILE, "code/__torch__.py:8: `y` is used before it is set");
  fails("    l = [1]\n    return l[1]\n", KILN_INVALID_ARGUMENT, "code/__torch__.py:9");
  fails("    return torch.floordiv(1, 0)\n", KILN_INVALID_ARGUMENT, "division by zero");
  fails("    return (self).again(x, )\n", KILN_UNSUPPORTED, "nested more than 200 deep");
  fails("    a = True\n    while a:\n      b = 1\n    return x\n", KILN_UNSUPPORTED, "steps at build time");
  fails("    return torch.mul([0], 100000000)\n", KILN_UNSUPPORTED, "items");
  fails("    return CONSTANTS.c0\n", KILN_INVALID_FILE, "CONSTANTS.c0");
  fails("    return self.m\n", KILN_INVALID_FILE, "has no attribute m");
  fails("    return torch.frobnicate(x)\n", KILN_UNSUPPORTED, "aten::frobnicate is not supported");
  fails("    return torch.add(x, \"s\")\n", KILN_UNSUPPORTED, "no supported variant takes (a tensor, a string)");
  fails("    if bool(torch.gt(torch.sum(x), 0)):\n      y = x\n    else:\n      y = torch.sum(x)\n    return y\n",
        KILN_UNSUPPORTED, "f32[2,3] and f32[]");
  fails("    l = [x]\n    for i in range(int(torch.sum(x))):\n      _0 = torch.pop(l)\n    return torch.stack(l)\n",
        KILN_UNSUPPORTED, "takes items from a list");
  fails("    l = [1]\n    for i in range(int(torch.sum(x))):\n      _0 = torch.append(l, 2)\n    return torch.len(l)\n",
        KILN_UNSUPPORTED, "a list that grows in a loop");
  fails(
      "    a = torch.neg(x)\n    b = torch.abs(x)\n    if bool(torch.gt(torch.sum(x), 0)):\n      y = a\n    else:\n   "
      "   y = b\n"
      "    _0 = torch.add_(y, 1)\n    return (a, y)\n",
      KILN_UNSUPPORTED, "clone() it");
}

/* Memory runs out at each allocation. */
static void survives_allocation_failures(void **state) {
  (void)state;
  static const char body[] =
      "    y = torch.mul(x, 2)\n    v = torch.select(y, 0, 0)\n    k = 0\n    l = [x]\n"
      "    _0 = bool(torch.gt(torch.sum(y), 1))\n    while _0:\n      _4 = torch.append(l, torch.neg(y))\n"
      "      _2 = torch.mul_(v, 0.5)\n      if bool(torch.gt(torch.sum(v), 9)):\n        _3 = torch.zero_(y)\n        "
      "k1 = k\n      else:\n"
      "        k1 = torch.add(k, 1)\n      _0, k = bool(torch.gt(torch.sum(y), 1)), k1\n    n = self.n\n    self.n = "
      "torch.add(n, k)\n"
      "    return (torch.stack(l), y, {\"k\": k}, torch.format(\"{}\", torch.size(x)))\n";
  graph *g = NULL;
  text code = {0}, bytes = {0};
  expect_ok(ops_init());
  expect_ok(import_body(body, &g));
  expect_ok(graph_verify(g));
  graph_destroy(g);
  text_puts(&code, head);
  text_puts(&code, body);
  const zip_part parts[] = {{"m/version", "3\n", 2},
                            {"m/code/__torch__.py", code.data, code.length},
                            {"m/data.pkl", pickle, sizeof pickle - 1},
                            {"m/constants.pkl", "\x80\x02).", 4}};
  zip_write(parts, 4, &bytes);
  static const kiln_input_spec input = {
      .name = "x", .dtype = KILN_F32, .rank = 2, .min = {2, 3}, .opt = {2, 3}, .max = {2, 3}};
  kiln_build_options options = KILN_BUILD_OPTIONS_INIT;
  options.inputs = &input;
  options.input_count = 1;
  const int64_t live = mem_test_live_blocks();
  bool done = false;
  for (int64_t n = 0; !done; n++) {
    mem_test_fail_after(n);
    const kiln_status status = torchscript_import(bytes.data, bytes.length, "made", &options, &g);
    done = mem_test_fail_left() >= 0;
    mem_test_fail_after(-1);
    if (status == KILN_OK) {
      expect_ok(graph_verify(g));
      graph_destroy(g);
    } else if (status != KILN_OUT_OF_MEMORY) {
      fail_msg("allocation %lld: status %s: %s", (long long)n, kiln_status_name(status), error_text());
    }
    if (mem_test_live_blocks() != live) fail_msg("allocation %lld: blocks leak: %s", (long long)n, error_text());
  }
  text_free(&code);
  text_free(&bytes);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(computes_numbers),     cmocka_unit_test(computes_more_numbers),
      cmocka_unit_test(computes_texts),       cmocka_unit_test(shares_containers),
      cmocka_unit_test(branches_on_data),     cmocka_unit_test(loops_on_data),
      cmocka_unit_test(keeps_state),          cmocka_unit_test(drops_raising_branches),
      cmocka_unit_test(refuses_with_a_place), cmocka_unit_test(survives_allocation_failures),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
