/* The operator table's PyTorch rows: every schema parses, every map fits, and the values come out as PyTorch means
 * them. */
#include <math.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "import/aten.h"
#include "import/sympy.h"

static void every_row_is_consistent(void **state) {
  (void)state;
  assert_int_equal(aten_init(), KILN_OK);
  assert_true(aten_count() > 300);
  int bad = 0;
  for (int i = 0; i < aten_count(); i++) {
    const aten_schema *s = aten_at(i);
    assert_non_null(strstr(s->name, "::"));
    if (lower_check_row(s) != KILN_OK) {
      print_error("%s\n", error_text());
      bad++;
    }
    for (int32_t k = 0; k < s->n_args; k++) {
      if (!s->args[k].has_default || aten_type_accepts(s->args[k].type, &s->args[k].fallback)) continue;
      print_error("%s.%s: the default of %s does not fit its type %s\n", s->name, s->overload, s->args[k].name,
                  s->args[k].type);
      bad++;
    }
  }
  assert_int_equal(bad, 0);
}

static const aten_arg *arg_of(const aten_schema *s, const char *name) {
  for (int32_t i = 0; i < s->n_args; i++)
    if (strcmp(s->args[i].name, name) == 0) return &s->args[i];
  fail_msg("%s has no argument %s", s->name, name);
  return NULL;
}

static void defaults_and_flags(void **state) {
  (void)state;
  const aten_schema *conv = aten_find_overload("aten::conv2d", "default");
  assert_non_null(conv);
  const ivalue *stride = &arg_of(conv, "stride")->fallback;
  if (stride->kind == IV_LIST) stride = stride->u.items;
  assert_int_equal(stride->kind, IV_INT);
  assert_int_equal(stride->u.i, 1);
  const aten_schema *triangle = aten_find_overload("aten::tril_indices", "");
  assert_non_null(triangle);
  assert_int_equal(arg_of(triangle, "dtype")->fallback.kind, IV_DTYPE);
  assert_int_equal(arg_of(triangle, "dtype")->fallback.u.i, KILN_I64);
  assert_int_equal(arg_of(conv, "bias")->fallback.kind, IV_NONE);
  assert_false(arg_of(conv, "weight")->has_default);
  const aten_schema *norm = aten_find_overload("aten::layer_norm", "");
  assert_non_null(norm);
  assert_int_equal(arg_of(norm, "eps")->fallback.kind, IV_FLOAT);
  assert_true(arg_of(norm, "eps")->fallback.u.f == 1e-5);
  const aten_schema *pad = aten_find_overload("aten::pad", "");
  assert_non_null(pad);
  assert_string_equal(arg_of(pad, "mode")->fallback.u.s, "constant");
  const aten_schema *to = aten_find_overload("aten::to", "dtype_layout");
  assert_non_null(to);
  assert_true(arg_of(to, "dtype")->keyword_only);
  assert_string_equal(arg_of(to, "dtype")->type, "ScalarType?");
  const aten_schema *grad = aten_find_overload("aten::requires_grad_", "");
  assert_non_null(grad);
  assert_true(grad->args[0].written);
  assert_string_equal(grad->args[0].type, "Tensor");
}

static void in_place_names(void **state) {
  (void)state;
  bool in_place;
  const aten_schema *s = aten_resolve("aten::relu_", "default", &in_place);
  assert_non_null(s);
  assert_true(in_place);
  assert_string_equal(s->name, "aten::relu");
  s = aten_resolve("aten::relu", "default", &in_place);
  assert_non_null(s);
  assert_false(in_place);
  s = aten_resolve("aten::__ior__", "Tensor", &in_place);
  assert_non_null(s);
  assert_true(in_place);
  assert_null(aten_resolve("aten::no_such_operator_", "default", &in_place));
  assert_null(aten_resolve("aten::relu", "out", &in_place));
  assert_null(aten_resolve("_", "", &in_place));
  assert_null(aten_resolve("", "", &in_place));
}

static void kinds(void **state) {
  (void)state;
  ivalue i = {.kind = IV_INT}, f = {.kind = IV_FLOAT}, n = {.kind = IV_NONE}, t = {.kind = IV_TENSOR},
         s = {.kind = IV_STR};
  ivalue pair[2] = {i, i}, mixed[2] = {t, n};
  ivalue ints = {.kind = IV_LIST, .count = 2}, tensors = {.kind = IV_LIST, .count = 2};
  ints.u.items = pair;
  tensors.u.items = mixed;
  assert_true(aten_type_accepts("int[2]", &i));
  assert_true(aten_type_accepts("int[2]", &ints));
  assert_false(aten_type_accepts("int[]", &i));
  assert_false(aten_type_accepts("int[2]", &f));
  assert_true(aten_type_accepts("int[1]?", &n));
  assert_false(aten_type_accepts("int[1]", &n));
  assert_true(aten_type_accepts("Tensor?[]", &tensors));
  assert_false(aten_type_accepts("Tensor[]", &tensors));
  assert_true(aten_type_accepts("Tensor", &f));
  assert_false(aten_type_accepts("Tensor", &s));
  assert_false(aten_type_accepts("Tensor", &n));
  assert_true(aten_type_accepts("Tensor?", &n));
  assert_false(aten_type_accepts("Scalar", &t));
  assert_true(aten_type_accepts("float", &i));
  assert_false(aten_type_accepts("int", &f));
}

/* ---- symbolic sizes ----------------------------------------------------------------------------- */

static int64_t at(dim_table *t, const char *expression, int64_t s0, int64_t s1) {
  dim d = DIM_ERROR;
  int64_t out = INT64_MIN;
  if (sympy_parse(t, expression, true, &d) != KILN_OK) fail_msg("%s", error_text());
  const int64_t symbols[2] = {s0, s1};
  assert_true(dim_eval(t, d, symbols, &out));
  return out;
}
#define S0 "Symbol('s0', positive=True, integer=True)"
#define S1 "Symbol('s1', integer=True)"

static void symbolic_sizes(void **state) {
  (void)state;
  arena a = {0};
  dim_table *t;
  assert_int_equal(dim_table_create(&a, &t), KILN_OK);
  assert_int_equal(at(t, S0, 7, 0), 7);
  assert_int_equal(at(t, S1, 7, 5), 5);
  assert_int_equal(at(t, "Add(" S0 ", Integer(-2))", 7, 0), 5);
  assert_int_equal(at(t, "Mul(Integer(8), " S0 ", " S1 ")", 7, 3), 168);
  assert_int_equal(at(t, "FloorDiv(Add(" S0 ", Integer(1)), Integer(2))", 8, 0), 4);
  assert_int_equal(at(t, "Mod(" S0 ", Integer(3))", 8, 0), 2);
  assert_int_equal(at(t, "Mul(Rational(1, 2), " S0 ")", 8, 0), 4);
  assert_int_equal(at(t, "Add(Mul(Rational(1, 2), " S0 "), Integer(3))", 8, 0), 7);
  assert_int_equal(at(t, "CeilToInt(IntTrueDiv(" S0 ", Integer(2)))", 7, 0), 4);
  assert_int_equal(at(t, "FloorToInt(IntTrueDiv(" S0 ", Integer(2)))", 7, 0), 3);
  assert_int_equal(at(t, "Max(Integer(1), " S0 ", " S1 ")", 7, 9), 9);
  assert_int_equal(at(t, "Min(Integer(5), " S0 ")", 7, 9), 5);
  assert_int_equal(at(t, "Pow(" S0 ", Integer(2))", 7, 9), 49);
  assert_int_equal(at(t, "ModularIndexing(" S0 ", Integer(2), Integer(3))", 11, 9), 2);
  /* 0.7*90 is 62.99999999999999 in doubles */
#define TIMES(f) "(Mul(Float('" f "', precision=53), ToFloat(" S0 ")))"
  assert_int_equal(at(t, "FloorToInt" TIMES("0.69999999999999996"), 90, 0), 62);
  assert_int_equal(at(t, "TruncToInt" TIMES("0.69999999999999996"), 10, 0), 7);
  assert_int_equal(at(t, "CeilToInt" TIMES("1.1000000000000001"), 50, 0), 56);
  assert_int_equal(at(t, "RoundToInt" TIMES("0.29999999999999999"), 15, 0), 4);
  assert_int_equal(at(t, "CeilToInt" TIMES("1.5"), 7, 0), 11);
  assert_int_equal(at(t, "FloorToInt(FloatTrueDiv(ToFloat(" S0 "), Float('3.0', precision=53)))", 11, 0), 3);
  for (int64_t n = 0; n < 24; n++) {
    assert_int_equal(at(t, "RoundToInt(IntTrueDiv(" S0 ", Integer(2)))", n, 0), (int64_t)nearbyint((double)n / 2));
    assert_int_equal(at(t, "RoundToInt(IntTrueDiv(" S0 ", Integer(6)))", n, 0), (int64_t)nearbyint((double)n / 6));
    assert_int_equal(at(t, "RoundToInt(IntTrueDiv(" S0 ", Integer(7)))", n, 0), (int64_t)nearbyint((double)n / 7));
  }
  arena_free(&a);
}

static void bad_symbolic_sizes(void **state) {
  (void)state;
  arena a = {0};
  dim_table *t;
  dim d;
  assert_int_equal(dim_table_create(&a, &t), KILN_OK);
  static const char *const bad[] = {
      "",
      "7",
      "Integer(",
      "Integer(1",
      "Integer(99999999999999999999)",
      "Symbol('s0",
      "Symbol(s0)",
      "Symbol('')",
      "Add()",
      "Add(Integer(1)",
      "Add(Integer(1),,Integer(2))",
      "Mod(Integer(1))",
      "Mod(Integer(1), Integer(0))",
      "FloorDiv(Integer(1), Integer(0))",
      "Rational(1, 0)",
      "Rational(1, -2)",
      "Integer(1) Integer(2)",
      "Pow(Integer(2), Integer(-1))",
      "Mul(Integer(1), Integer(2)))",
      "Mul(Integer(2000000000000000000), Integer(2000000000000000000))",
      "Function('f')(Integer(1))",
      "Float('0.3')",
      "Float(0.3)",
      "Float('')",
      "Float('x')",
      "Float('1e300')",
      "FloorToInt(Float('0.3'",
      "FloorToInt(Mul(Float('-0.3'), " S0 "))",
      "FloorToInt(Mul(Float('0.3'), Float('0.7'), " S0 "))",
      "FloorToInt(Add(Float('0.3'), " S0 "))",
      "FloorToInt(Mul(Float('0.3'), Rational(1, 3)))",
  };
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    const kiln_status s = sympy_parse(t, bad[i], true, &d);
    if (s != KILN_INVALID_FILE && s != KILN_UNSUPPORTED) fail_msg("\"%s\" was read", bad[i]);
    assert_true(strlen(error_text()) > 10);
  }
  assert_int_equal(sympy_parse(t, "Symbol('u9', integer=True)", false, &d), KILN_UNSUPPORTED);
  char deep[4000] = "";
  for (int i = 0; i < 300; i++) strcat(deep, "Add(");
  assert_int_equal(sympy_parse(t, deep, true, &d), KILN_INVALID_FILE);
  assert_non_null(strstr(error_text(), "nested too deeply"));
  arena_free(&a);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_row_is_consistent), cmocka_unit_test(defaults_and_flags),
      cmocka_unit_test(in_place_names),          cmocka_unit_test(kinds),
      cmocka_unit_test(symbolic_sizes),          cmocka_unit_test(bad_symbolic_sizes),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
