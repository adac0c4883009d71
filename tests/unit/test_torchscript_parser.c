/* The parser of serialized TorchScript code: the shapes that PyTorch's printer writes, and texts that it never writes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "import/torchscript/ast.h"

static ts_stmt *parse(arena *a, const char *code) {
  ts_stmt *first = NULL;
  if (ts_parse(a, "code.py", code, strlen(code), &first) != KILN_OK) fail_msg("%s\nin:\n%s", error_text(), code);
  return first;
}

static void reads_a_module(void **unused) {
  (void)unused;
  arena a = {0};
  const ts_stmt *c = parse(&a,
                           "class Net(Module):\n"
                           "  __parameters__ = [\"weight\", ]\n"
                           "  training : bool\n"
                           "  weight : Tensor\n"
                           "  n : Final[int] = 3\n"
                           "  def forward(self: __torch__.Net,\n"
                           "    x: Tensor,\n"
                           "    k: int=2) -> Tuple[Tensor, int]:\n"
                           "    _0 = torch.size(x, -1) # a comment\n"
                           "    a, b, = torch.split(x, [1, 2], dim=1)\n"
                           "    if torch.gt(_0, 3):\n"
                           "      y = annotate(List[int], [])\n"
                           "    else:\n"
                           "      pass\n"
                           "    for i in range(k):\n"
                           "      z = (self).weight\n"
                           "    return (torch.add(x, 1.5e-3), -k)\n");
  assert_int_equal(c->kind, TS_CLASS);
  assert_string_equal(c->name, "Net");
  const ts_stmt *s = c->body;
  assert_int_equal(s->kind, TS_ASSIGN);
  assert_int_equal(s->value->kind, TS_LIST);
  assert_int_equal(s->value->count, 1);
  s = s->next;
  assert_int_equal(s->kind, TS_DECLARE);
  s = s->next->next;
  assert_int_equal(s->kind, TS_DECLARE);
  assert_int_equal(s->value->u.i, 3);
  s = s->next;
  assert_int_equal(s->kind, TS_DEF);
  assert_int_equal(s->n_params, 3);
  assert_string_equal(s->params[2].name, "k");
  assert_int_equal(s->params[2].fallback->u.i, 2);
  assert_int_equal(s->type->kind, TS_INDEX);
  assert_int_equal(s->type->count, 2);
  const ts_stmt *b = s->body;
  assert_int_equal(b->line, 9);
  assert_int_equal(b->value->items[1]->kind, TS_NEG);
  b = b->next;
  assert_true(b->unpack);
  assert_int_equal(b->count, 2);
  assert_string_equal(b->value->names[2], "dim");
  b = b->next;
  assert_int_equal(b->kind, TS_IF);
  assert_int_equal(b->body->value->kind, TS_CALL);
  assert_int_equal(b->orelse->kind, TS_PASS);
  b = b->next;
  assert_int_equal(b->kind, TS_FOR);
  b = b->next;
  assert_int_equal(b->kind, TS_RETURN);
  assert_int_equal(b->value->kind, TS_TUPLE);
  assert_null(b->next);
  arena_free(&a);
}

static void reads_literals(void **unused) {
  (void)unused;
  arena a = {0};
  const ts_stmt *s = parse(&a, "x = [1., -inf, nan, \"a\\n\\x41\\\"\", True, None, (1,), (2), {\"k\": 3}, 2.+3.j]\n");
  ts_expr *const *v = s->value->items;
  assert_true(v[0]->kind == TS_FLOAT && v[0]->u.f == 1);
  assert_true(v[1]->kind == TS_NEG && v[1]->a->u.f > 1e300);
  assert_true(v[2]->u.f != v[2]->u.f);
  assert_string_equal(v[3]->s, "a\nA\"");
  assert_int_equal(v[4]->kind, TS_TRUE);
  assert_int_equal(v[5]->kind, TS_NONE);
  assert_true(v[6]->kind == TS_TUPLE && v[6]->count == 1);
  assert_int_equal(v[7]->kind, TS_INT);
  assert_true(v[8]->kind == TS_DICT && v[8]->count == 2);
  assert_int_equal(v[9]->kind, TS_COMPLEX);
  arena_free(&a);
}

static void refuses_what_is_no_torchscript(void **unused) {
  (void)unused;
  static const char *const bad[] = {"x = 1 * 2\n",
                                    "def f(:\n  pass\n",
                                    "x = (1\n",
                                    "  x = 1\n y = 2\n",
                                    "x = \"abc\n",
                                    "if x:\npass\n",
                                    "x = 99999999999999999999\n",
                                    "x = )\n",
                                    "x = lambda y: y\n",
                                    "a, b\n",
                                    "x = \"\\q\"\n",
                                    "\tx = 1\n",
                                    "x = $\n",
                                    "for in x:\n  pass\n"};
  for (size_t i = 0; i < KILN_COUNT(bad); i++) {
    arena a = {0};
    ts_stmt *first = NULL;
    assert_int_equal(ts_parse(&a, "code.py", bad[i], strlen(bad[i]), &first), KILN_INVALID_FILE);
    assert_non_null(strstr(error_text(), "code.py:"));
    arena_free(&a);
  }
}

static void deep_nesting_is_refused(void **unused) {
  (void)unused;
  char code[4096];
  memset(code, '(', sizeof code);
  arena a = {0};
  ts_stmt *first = NULL;
  assert_int_equal(ts_parse(&a, "deep.py", code, sizeof code, &first), KILN_INVALID_FILE);
  assert_non_null(strstr(error_text(), "nested"));
  memset(code, '-', sizeof code);
  assert_int_equal(ts_parse(&a, "deep.py", code, sizeof code, &first), KILN_INVALID_FILE);
  arena_free(&a);
}

static void every_prefix_and_every_flipped_byte_is_survived(void **unused) {
  (void)unused;
  static const char code[] =
      "class A(Module):\n  x : int\n  def f(self, a: List[int]) -> int:\n    with torch.no_grad():\n      b = (a)[0]\n "
      "   return b\n";
  char copy[sizeof code];
  for (size_t n = 0; n < sizeof code; n++) {
    for (int bit = 0; bit < 8; bit++) {
      arena a = {0};
      ts_stmt *first = NULL;
      memcpy(copy, code, sizeof code);
      copy[n] = (char)(copy[n] ^ (1 << bit));
      (void)!ts_parse(&a, "c", copy, sizeof code - 1, &first);
      (void)!ts_parse(&a, "c", code, n, &first);
      arena_free(&a);
    }
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(reads_a_module), cmocka_unit_test(reads_literals),
                                     cmocka_unit_test(refuses_what_is_no_torchscript),
                                     cmocka_unit_test(deep_nesting_is_refused),
                                     cmocka_unit_test(every_prefix_and_every_flipped_byte_is_survived)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
