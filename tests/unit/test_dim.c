/* Symbolic dimensions: canonical forms, simplification, ranges, text, limits. */
#include <math.h>

#include "expect.h"

#include "graph/dim.h"

typedef struct fixture {
  arena arena;
  dim_table *t;
  dim a, b, c; /* a in [1, 8], b in [2, inf], c in [-4, 4] */
} fixture;

/* The table keeps a pointer to its arena. */
static void make(fixture *f) {
  *f = (fixture){0};
  expect_ok(dim_table_create(&f->arena, &f->t));
  f->a = dim_symbol(f->t, "a", 1, 8);
  f->b = dim_symbol(f->t, "b", 2, DIM_UNBOUNDED);
  f->c = dim_symbol(f->t, "c", -4, 4);
}

/* Parses (without ranges) and prints. */
static void prints_at(fixture *f, dim d, const char *expected, int line) {
  text out = {0};
  dim_print(f->t, d, &out);
  if (!out.data || strcmp(out.data, expected) != 0)
    fail_msg("line %d: `%s`, expected `%s`", line, out.data ? out.data : "", expected);
  const char *cursor = out.data;
  dim again = 0;
  expect_ok(dim_parse(f->t, &cursor, &again));
  if (*cursor || again != d) fail_msg("line %d: `%s` does not read back", line, out.data);
  text_free(&out);
}
#define prints(d, expected) prints_at(&f, (d), (expected), __LINE__)

static dim parse(fixture *f, const char *s) {
  dim d = DIM_ERROR;
  const char *cursor = s;
  expect_ok(dim_parse(f->t, &cursor, &d));
  assert_int_equal(*cursor, 0);
  return d;
}

static void sums_and_products_are_canonical(void **state) {
  (void)state;
  fixture f;
  make(&f);
  dim_table *t = f.t;
  assert_int_equal(dim_add(t, f.a, f.b), dim_add(t, f.b, f.a));
  assert_int_equal(dim_sub(t, dim_add(t, f.a, 3), f.a), 3);
  assert_int_equal(dim_mul(t, f.a, 0), 0);
  prints(dim_add(t, dim_mul(t, 4, f.a), 1), "4*a + 1");
  prints(dim_mul(t, dim_add(t, f.a, 1), dim_sub(t, f.a, 1)), "a*a - 1");
  prints(dim_sub(t, 0, f.a), "-a");
  prints(dim_sub(t, dim_mul(t, f.a, f.b), dim_mul(t, 3, f.c)), "a*b - 3*c");
  assert_int_equal(parse(&f, "(a + b)*(a - b) + b*b"), dim_mul(t, f.a, f.a));
  const dim dims[3] = {f.a, 3, f.b};
  prints(dim_product(t, dims, 3), "3*a*b");
  arena_free(&f.arena);
}

static void division_simplifies(void **state) {
  (void)state;
  fixture f;
  make(&f);
  dim_table *t = f.t;
  assert_int_equal(dim_floordiv(t, dim_mul(t, 4, f.a), 4), f.a);
  assert_int_equal(dim_floordiv(t, dim_mul(t, f.a, f.b), f.b), f.a);
  assert_int_equal(dim_floordiv(t, dim_add(t, dim_mul(t, f.a, f.b), f.a), dim_add(t, f.b, 1)), f.a);
  prints(dim_floordiv(t, f.a, 2), "a//2");
  prints(dim_floordiv(t, dim_add(t, dim_mul(t, 5, f.a), 3), 2), "2*a + (a + 1)//2 + 1");
  prints(dim_add(t, dim_floordiv(t, dim_sub(t, f.a, 1), 2), 1), "(a + 1)//2");
  prints(dim_floordiv(t, dim_floordiv(t, f.b, 2), 2), "b//4");
  prints(dim_floordiv(t, dim_add(t, dim_mul(t, 2, f.b), 1), 4), "b//2");
  assert_int_equal(dim_floordiv(t, f.a, 9), 0); /* 1 <= a <= 8 */
  assert_int_equal(dim_floordiv(t, dim_add(t, dim_mul(t, 9, f.b), f.a), 9), f.b);
  prints(dim_floordiv(t, f.c, -3), "-c + (2*c)//3");
  prints(dim_mul(t, 3, dim_floordiv(t, f.b, f.a)), "3*(b//a)");
  assert_int_equal(dim_floordiv(t, 7, -2), -4);
  assert_int_equal(dim_floordiv(t, f.a, 1), f.a);
  arena_free(&f.arena);
}

static void mod_simplifies(void **state) {
  (void)state;
  fixture f;
  make(&f);
  dim_table *t = f.t;
  assert_int_equal(dim_mod(t, dim_mul(t, 6, f.b), 3), 0);
  assert_int_equal(dim_mod(t, f.a, 9), f.a);
  assert_int_equal(dim_mod(t, dim_mul(t, f.a, f.b), f.b), 0);
  prints(dim_mod(t, f.b, 4), "b % 4");
  prints(dim_mod(t, dim_add(t, dim_mul(t, 2, f.b), 3), 4), "2*((b + 1) % 2) + 1");
  assert_int_equal(dim_mod(t, -7, 3), 2);
  assert_int_equal(dim_mod(t, 7, -3), -2);
  arena_free(&f.arena);
}

static void extremes_use_ranges(void **state) {
  (void)state;
  fixture f;
  make(&f);
  dim_table *t = f.t;
  assert_int_equal(dim_max(t, f.a, 0), f.a);
  assert_int_equal(dim_min(t, f.a, 8), f.a);
  assert_int_equal(dim_min(t, f.a, dim_add(t, f.a, 1)), f.a);
  assert_int_equal(dim_max(t, f.b, f.a), dim_max(t, f.a, f.b));
  prints(dim_min(t, f.b, 512), "min(b, 512)");
  prints(dim_add(t, dim_mul(t, 2, dim_max(t, f.c, 0)), 1), "2*max(c, 0) + 1");
  int64_t min, max;
  dim_range(t, dim_max(t, f.c, 0), &min, &max);
  assert_int_equal(min, 0);
  assert_int_equal(max, 4);
  arena_free(&f.arena);
}

static void ranges_and_comparisons(void **state) {
  (void)state;
  fixture f;
  make(&f);
  dim_table *t = f.t;
  int64_t min, max;
  dim_range(t, dim_sub(t, dim_mul(t, 2, f.a), f.b), &min, &max);
  assert_true(min == -DIM_UNBOUNDED && max == 14);
  dim_range(t, dim_mul(t, f.c, f.c), &min, &max);
  assert_true(min == -16 && max == 16);
  dim_range(t, dim_mod(t, f.b, 4), &min, &max);
  assert_true(min == 0 && max == 3);
  assert_int_equal(dim_compare_equal(t, f.a, f.a), 1);
  assert_int_equal(dim_compare_equal(t, f.a, f.b), -1);
  assert_int_equal(dim_compare_equal(t, f.a, 9), 0);
  assert_int_equal(dim_compare_equal(t, dim_add(t, f.a, 1), f.a), 0);
  assert_int_equal(dim_compare_le(t, f.a, 8), 1);
  assert_int_equal(dim_compare_le(t, f.b, 1), 0);
  assert_int_equal(dim_compare_le(t, f.a, f.b), -1);
  arena_free(&f.arena);
}

static void values_at_symbols(void **state) {
  (void)state;
  fixture f;
  make(&f);
  const dim d = parse(&f, "a*b - (c - 1)//2 + (b % 3)*max(a, c) - min(a, b)");
  for (int64_t a = 1; a <= 8; a++) {
    for (int64_t c = -4; c <= 4; c++) {
      const int64_t b = a + 5, symbols[3] = {a, b, c};
      int64_t got = 0;
      assert_true(dim_eval(f.t, d, symbols, &got));
      const int64_t half = (c - 1 - (((c - 1) % 2 + 2) % 2)) / 2;
      assert_int_equal(got, a * b - half + b % 3 * (a > c ? a : c) - (a < b ? a : b));
    }
  }
  int64_t out;
  const int64_t zero[3] = {0, 2, 0};
  assert_false(dim_eval(f.t, dim_floordiv(f.t, f.b, f.a), zero, &out));
  dim_symbol_set_range(f.t, 0, 1, 8, 5);
  assert_int_equal(dim_hint(f.t, dim_mul(f.t, f.a, 3)), 15);
  arena_free(&f.arena);
}

/* Each simplification keeps the value: random expressions, built with ranges, against plain integers. */
static void random_expressions_keep_their_values(void **state) {
  (void)state;
  fixture f;
  make(&f);
  uint32_t seed = 1;
  for (int round = 0; round < 300; round++) {
    dim pool[12] = {f.a, f.b, f.c, 1, 2, 3};
    const int64_t symbols[3] = {1 + round % 8, 2 + round % 11, round % 9 - 4};
    int64_t values[12] = {symbols[0], symbols[1], symbols[2], 1, 2, 3};
    int n = 6;
    while (n < 12) {
      seed = seed * 1664525u + 1013904223u;
      const int i = (int)(seed >> 8) % n, k = (int)(seed >> 16) % n, what = (int)(seed >> 24) % 7;
      const int64_t x = values[i], y = values[k];
      if ((what == 3 || what == 4) && (pool[k] == 0 || y == 0)) continue;
      const int64_t q = what == 3 || what == 4 ? x / y - (x % y != 0 && (x % y < 0) != (y < 0)) : 0;
      dim (*const op[])(dim_table *, dim, dim) = {dim_add, dim_sub, dim_mul, dim_floordiv, dim_mod, dim_max, dim_min};
      const int64_t expected[] = {x + y, x - y, x * y, q, x - q * y, x > y ? x : y, x < y ? x : y};
      const dim d = op[what](f.t, pool[i], pool[k]);
      if (d == DIM_ERROR) continue; /* beyond a limit */
      int64_t got = 0;
      assert_true(dim_eval(f.t, d, symbols, &got));
      if (got != expected[what]) {
        text out = {0};
        dim_print(f.t, d, &out);
        fail_msg("round %d: %s is %lld, expected %lld", round, out.data, (long long)got, (long long)expected[what]);
      }
      int64_t min, max;
      dim_range(f.t, d, &min, &max);
      assert_true(min <= got && got <= max);
      text out = {0};
      dim_print(f.t, d, &out);
      assert_int_equal(parse(&f, out.data), d);
      text_free(&out);
      pool[n] = d;
      values[n++] = got;
    }
  }
  arena_free(&f.arena);
}

static void affine_forms(void **state) {
  (void)state;
  fixture f;
  make(&f);
  int symbol = -1;
  int64_t k = 0, c = 0;
  assert_true(dim_as_affine(f.t, dim_sub(f.t, dim_mul(f.t, 3, f.b), 7), &symbol, &k, &c));
  assert_true(symbol == 1 && k == 3 && c == -7);
  assert_false(dim_as_affine(f.t, dim_mul(f.t, f.a, f.b), &symbol, &k, &c));
  assert_false(dim_as_affine(f.t, dim_floordiv(f.t, f.b, 2), &symbol, &k, &c));
  assert_false(dim_as_affine(f.t, 5, &symbol, &k, &c));
  assert_int_equal(dim_symbol_index(f.t, f.b), 1);
  assert_int_equal(dim_symbol_index(f.t, dim_add(f.t, f.b, 1)), -1);
  arena_free(&f.arena);
}

static void limits_and_errors_have_texts(void **state) {
  (void)state;
  fixture f;
  make(&f);
  dim_table *t = f.t;
  assert_int_equal(dim_floordiv(t, f.a, 0), DIM_ERROR);
  assert_non_null(strstr(error_text(), "divided by zero"));
  assert_int_equal(dim_add(t, DIM_ERROR, 1), DIM_ERROR);
  assert_int_equal(dim_mul(t, dim_mul(t, INT64_MAX, f.a), 2), DIM_ERROR);
  assert_int_equal(dim_add(t, INT64_MAX, 1), DIM_ERROR);
  assert_int_equal(dim_mul(t, -(INT64_C(1) << 61), 4), DIM_ERROR); /* such numbers are handles */
  dim power = f.a;
  for (int i = 0; i < 64 && power != DIM_ERROR; i++) power = dim_mul(t, power, f.a);
  assert_int_equal(power, DIM_ERROR);
  assert_non_null(strstr(error_text(), "too complicated"));
  dim deep = f.b;
  for (int i = 0; i < 100 && deep != DIM_ERROR; i++)
    deep = dim_floordiv(t, dim_mul(t, deep, f.b), dim_add(t, f.c, 100 + i));
  assert_int_equal(deep, DIM_ERROR);
  static const char *const bad[] = {"",     "a +", "(a", "a/2",     "max(a)", "nobody", "99999999999999999999",
                                    "a//0", "--",  "*",  "min(a, b"};
  for (size_t i = 0; i < KILN_COUNT(bad); i++) {
    const char *cursor = bad[i];
    dim d;
    if (dim_parse(t, &cursor, &d) == KILN_OK && !*cursor) fail_msg("`%s` was accepted", bad[i]);
  }
  char nested[4096];
  memset(nested, '(', sizeof nested);
  nested[sizeof nested - 1] = 0;
  const char *cursor = nested;
  dim d;
  expect_failure(dim_parse(t, &cursor, &d), KILN_INVALID_ARGUMENT, "too deeply");
  assert_int_equal(dim_symbol(t, "not a name", 0, 1), DIM_ERROR);
  assert_int_equal(dim_symbol(t, "x", 2, 1), DIM_ERROR);
  assert_int_equal(dim_find_symbol(t, "x"), DIM_ERROR);
  arena_free(&f.arena);
}

static void clones_keep_handles(void **state) {
  (void)state;
  fixture f;
  make(&f);
  const dim d = parse(&f, "(a + 1)//2*b + max(a, c)");
  arena other = {0};
  dim_table *copy = NULL;
  expect_ok(dim_table_clone(f.t, &other, &copy));
  arena_free(&f.arena);
  const int64_t symbols[3] = {5, 7, 1};
  int64_t v = 0;
  assert_true(dim_eval(copy, d, symbols, &v));
  assert_int_equal(v, 3 * 7 + 5);
  assert_int_equal(dim_find_symbol(copy, "b"), f.b);
  const dim e = dim_add(copy, d, 1);
  assert_int_equal(dim_sub(copy, e, 1), d);
  arena_free(&other);
}

static void fresh_symbols_differ(void **state) {
  (void)state;
  fixture f;
  make(&f);
  assert_true(dim_symbol(f.t, "u1", 0, 9) != DIM_ERROR);
  const dim x = dim_fresh(f.t, "u", 0, 9), y = dim_fresh(f.t, "u", 0, 9), z = dim_fresh(f.t, "u", 0, 9);
  assert_true(x != y && y != z && x != z && z != DIM_ERROR);
  assert_int_equal(dim_symbol_count(f.t), 7);
  arena_free(&f.arena);
}

static void every_failed_allocation_is_reported(void **state) {
  (void)state;
  for (int64_t n = 0; n < 40; n++) {
    arena a = {0};
    dim_table *t = NULL;
    mem_test_fail_after(n);
    const kiln_status status = dim_table_create(&a, &t);
    dim d = status == KILN_OK ? dim_symbol(t, "a", 1, 100000) : DIM_ERROR;
    for (int i = 1; i < 400 && d != DIM_ERROR; i++) {
      const dim e = dim_floordiv(t, dim_symbol(t, "a", 1, 100000), i + 1);
      if (e == DIM_ERROR) d = e;
    }
    mem_test_fail_after(-1);
    if (d == DIM_ERROR) assert_non_null(strstr(error_text(), "memory"));
    arena_free(&a);
  }
}

static void products_with_doubles(void **state) {
  (void)state;
  fixture f;
  make(&f);
  dim_table *t = f.t;
  int64_t min = 0, max = 0, v = 0;
  assert_int_equal(dim_scale(t, 90, 0.7, DIM_FLOOR), 62);
  assert_int_equal(dim_scale(t, 50, 1.1, DIM_CEIL), 56);
  assert_int_equal(dim_scale(t, 5, 0.5, DIM_ROUND), 2);
  prints(dim_scale(t, f.a, 1.5, DIM_FLOOR), "a + a//2");
  assert_int_equal(dim_scale(t, f.a, 2.0, DIM_CEIL), dim_mul(t, f.a, 2));
  const dim d = dim_scale(t, f.a, 0.7, DIM_FLOOR);
  assert_int_equal(dim_scale(t, f.a, 0.7, DIM_FLOOR), d);
  assert_int_not_equal(dim_scale(t, f.a, 0.7, DIM_CEIL), d);
  prints(d, "scale_floor(a, 4604480259023595110)");
  dim_symbol_set_range(t, 0, 1, 90, 10);
  dim_range(t, d, &min, &max);
  assert_int_equal(min, 0);
  assert_int_equal(max, 62);
  const int64_t symbols[] = {90, 1, 1, 1};
  assert_true(dim_eval(t, d, symbols, &v) && v == 62);
  for (int how = 0; how < 3; how++) { /* texts read back as they were */
    const dim x = dim_add(t, dim_scale(t, dim_add(t, f.a, 3), 0.3, (dim_rounding)how), 1);
    text s = {0};
    dim_print(t, x, &s);
    prints(x, s.data);
    text_free(&s);
  }
  static const char *const bad[] = {"scale_floor(a)", "scale_floor(a, 0)", "scale_floor(a, b)",
                                    "scale_ceil(a, 9218868437227405312)", "scale_round(a, 1"};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    const char *at = bad[i];
    dim y = 0;
    if (dim_parse(t, &at, &y) == KILN_OK) fail_msg("`%s` was read", bad[i]);
  }
  assert_int_equal(dim_scale(t, f.a, -0.5, DIM_FLOOR), DIM_ERROR);
  assert_int_equal(dim_scale(t, f.a, NAN, DIM_FLOOR), DIM_ERROR);
  arena_free(&f.arena);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_teardown(sums_and_products_are_canonical, expect_no_leak),
      cmocka_unit_test_teardown(division_simplifies, expect_no_leak),
      cmocka_unit_test_teardown(mod_simplifies, expect_no_leak),
      cmocka_unit_test_teardown(extremes_use_ranges, expect_no_leak),
      cmocka_unit_test_teardown(ranges_and_comparisons, expect_no_leak),
      cmocka_unit_test_teardown(values_at_symbols, expect_no_leak),
      cmocka_unit_test_teardown(random_expressions_keep_their_values, expect_no_leak),
      cmocka_unit_test_teardown(products_with_doubles, expect_no_leak),
      cmocka_unit_test_teardown(affine_forms, expect_no_leak),
      cmocka_unit_test_teardown(limits_and_errors_have_texts, expect_no_leak),
      cmocka_unit_test_teardown(clones_keep_handles, expect_no_leak),
      cmocka_unit_test_teardown(fresh_symbols_differ, expect_no_leak),
      cmocka_unit_test_teardown(every_failed_allocation_is_reported, expect_no_leak),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
