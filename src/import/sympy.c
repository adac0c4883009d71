/* sympy's srepr texts to dims: a recursive descent over calls, Name(argument, ...). Fractions appear only inside
 * products that are whole ("Mul(Rational(1, 2), s)" of an even s), so every value is a dim over a positive integer
 * denominator. */
#include "import/sympy.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_DEPTH = 100, MAX_NAME = 64 };

typedef struct fraction {
  dim above;
  int64_t below; /* > 0 */
  double factor; /* 0: none; else times this double, and the product is rounded to doubles: `below` is 1 */
} fraction;

typedef struct reader {
  dim_table *t;
  const char *s, *whole;
  bool create;
  int depth;
} reader;

static kiln_status fail(reader *r, const char *what) {
  return KILN_FAIL(KILN_INVALID_FILE, "symbolic size \"%.200s\": %s at \"%.30s\"", r->whole, what, r->s);
}

static void skip(reader *r) {
  while (*r->s == ' ' || *r->s == '\n') r->s++;
}

static bool take(reader *r, char c) {
  skip(r);
  if (*r->s != c) return false;
  r->s++;
  return true;
}

kiln_status dim_failure(void) {
  return str_starts(error_text(), "out of memory") ? KILN_OUT_OF_MEMORY : KILN_INVALID_FILE;
}

static kiln_status checked(reader *r, dim above, int64_t below, fraction *out) {
  if (above == DIM_ERROR) return error_note(dim_failure(), __FILE__, __LINE__, "in symbolic size \"%.200s\"", r->whole);
  *out = (fraction){.above = above, .below = below};
  return KILN_OK;
}

static kiln_status read_int(reader *r, int64_t *out) {
  skip(r);
  const bool quoted = *r->s == '\'';
  if (quoted) r->s++;
  char *end;
  const long long v = strtoll(r->s, &end, 10);
  if (end == r->s || v > INT64_MAX / 4 || v < -(INT64_MAX / 4))
    return fail(r, "expected an integer of less than 62 bits");
  r->s = end;
  if (quoted && !take(r, '\'')) return fail(r, "unclosed quote");
  *out = v;
  return KILN_OK;
}

/* Symbol('s0', positive=True, integer=True), after the parenthesis. */
static kiln_status read_symbol(reader *r, fraction *out) {
  char name[MAX_NAME];
  size_t n = 0;
  if (!take(r, '\'')) return fail(r, "expected a quoted symbol");
  for (; *r->s && *r->s != '\''; r->s++) {
    if (n + 1 == sizeof name) return fail(r, "symbol name too long");
    name[n++] = *r->s;
  }
  name[n] = 0;
  if (n == 0 || !take(r, '\'')) return fail(r, "unclosed quote");
  const bool positive = strncmp(r->s, ", positive=True", 15) == 0;
  while (*r->s && *r->s != ')') r->s++; /* assumptions */
  if (!take(r, ')')) return fail(r, "expected )");
  dim d = dim_find_symbol(r->t, name);
  if (d == DIM_ERROR) {
    if (!r->create)
      return KILN_FAIL(KILN_UNSUPPORTED, "symbolic size \"%.200s\": symbol %s depends on the values of a tensor",
                       r->whole, name);
    d = dim_symbol(r->t, name, positive ? 1 : 0, DIM_UNBOUNDED);
  }
  return checked(r, d, 1, out);
}

static kiln_status add(reader *r, fraction a, fraction b, fraction *out) {
  int64_t below;
  if (__builtin_mul_overflow(a.below, b.below, &below)) return fail(r, "overflow");
  if (a.below == b.below) return checked(r, dim_add(r->t, a.above, b.above), a.below, out);
  return checked(r, dim_add(r->t, dim_mul(r->t, a.above, b.below), dim_mul(r->t, b.above, a.below)), below, out);
}

static kiln_status multiply(reader *r, fraction a, fraction b, fraction *out) {
  int64_t below;
  if (a.factor != 0 || b.factor != 0) {
    if ((a.factor != 0 && b.factor != 0) || a.below != 1 || b.below != 1) return fail(r, "products of several floats");
    KILN_TRY(checked(r, dim_mul(r->t, a.above, b.above), 1, out));
    out->factor = a.factor + b.factor;
    return KILN_OK;
  }
  if (__builtin_mul_overflow(a.below, b.below, &below)) return fail(r, "overflow");
  return checked(r, dim_mul(r->t, a.above, b.above), below, out);
}

static dim whole(reader *r, fraction f) { return f.below == 1 ? f.above : dim_floordiv(r->t, f.above, f.below); }

/* a/b as an exact fraction where b is a positive constant. */
static kiln_status divide(reader *r, fraction a, fraction b, fraction *out) {
  if (!dim_is_const(b.above) || b.above <= 0) return fail(r, "division by something that is no positive constant");
  int64_t below;
  if (__builtin_mul_overflow(a.below, b.above, &below)) return fail(r, "overflow");
  return checked(r, dim_mul(r->t, a.above, b.below), below, out);
}

static kiln_status power(reader *r, fraction a, fraction b, fraction *out) {
  if (!dim_is_const(b.above) || b.below != 1 || b.above < 0 || b.above > 16)
    return fail(r, "power that is no small constant");
  *out = (fraction){.above = 1, .below = 1};
  for (int64_t i = 0; i < b.above; i++) KILN_TRY(multiply(r, *out, a, out));
  return KILN_OK;
}

typedef enum function {
  F_ADD,
  F_MUL,
  F_MAX,
  F_MIN,
  F_FLOORDIV,
  F_MOD,
  F_TRUEDIV,
  F_POW,
  F_MODULAR,
  F_CEIL,
  F_FLOOR,
  F_ROUND,
  F_SAME
} function;

static kiln_status apply(reader *r, function f, fraction a, fraction b, fraction *out) {
  if (f != F_MUL && (a.factor != 0 || b.factor != 0)) return fail(r, "arithmetic on floats");
  switch (f) {
    case F_ADD:
      return add(r, a, b, out);
    case F_MUL:
      return multiply(r, a, b, out);
    case F_MAX:
      return checked(r, dim_max(r->t, whole(r, a), whole(r, b)), 1, out);
    case F_MIN:
      return checked(r, dim_min(r->t, whole(r, a), whole(r, b)), 1, out);
    case F_FLOORDIV:
      return checked(r, dim_floordiv(r->t, whole(r, a), whole(r, b)), 1, out);
    case F_MODULAR: /* (a // b) % c: the third argument arrives as another b */
    case F_MOD:
      return checked(r, dim_mod(r->t, whole(r, a), whole(r, b)), 1, out);
    case F_TRUEDIV:
      return divide(r, a, b, out);
    case F_POW:
      return power(r, a, b, out);
    default:
      return fail(r, "too many arguments");
  }
}

static kiln_status read_expression(reader *r, fraction *out);

/* To the nearest integer, halves to the even one. */
static dim nearest(reader *r, fraction a) {
  dim_table *t = r->t;
  const int64_t half = a.below / 2;
  const dim up = dim_floordiv(t, dim_add(t, a.above, half), a.below);
  if (a.below % 2) return up;
  const dim off = dim_sub(t, dim_mod(t, a.above, a.below), half);
  const dim tie = dim_sub(t, 1, dim_min(t, 1, dim_max(t, off, dim_sub(t, 0, off))));
  return dim_sub(t, up, dim_mul(t, tie, dim_mod(t, up, 2)));
}

static kiln_status round_to(reader *r, function f, fraction a, fraction *out) {
  const dim_rounding how = f == F_CEIL ? DIM_CEIL : f == F_ROUND ? DIM_ROUND : DIM_FLOOR;
  if (a.factor != 0) return checked(r, dim_scale(r->t, a.above, a.factor, how), 1, out);
  if (a.below == 1 || f == F_FLOOR) return checked(r, whole(r, a), 1, out);
  if (f == F_ROUND) return checked(r, nearest(r, a), 1, out);
  const dim negative = dim_floordiv(r->t, dim_mul(r->t, a.above, -1), a.below);
  return checked(r, dim_mul(r->t, negative, -1), 1, out);
}

static kiln_status read_arguments(reader *r, function f, fraction *out) {
  int n = 0;
  for (; !take(r, ')'); n++) {
    fraction a;
    KILN_TRY(read_expression(r, &a));
    if (n == 0)
      *out = a;
    else
      KILN_TRY(apply(r, f == F_MODULAR && n == 1 ? F_FLOORDIV : f, *out, a, out));
    skip(r);
    if (!take(r, ',') && *r->s != ')') return fail(r, "expected , or )");
  }
  const int most = f == F_MODULAR ? 3 : f <= F_MIN ? n : f < F_CEIL ? 2 : 1;
  const int least = f == F_MODULAR ? 3 : f >= F_FLOORDIV && f < F_CEIL ? 2 : 1;
  if (n < least || n > most) return fail(r, "wrong number of arguments");
  return f == F_FLOOR || f == F_CEIL || f == F_ROUND ? round_to(r, f, *out, out) : KILN_OK;
}

/* Float('0.29999999999999999', precision=53), after the parenthesis. Those of few bits are exact fractions. */
static kiln_status read_float(reader *r, fraction *out) {
  char word[48], *end;
  size_t n = 0;
  if (!take(r, '\'')) return fail(r, "expected a quoted number");
  for (; *r->s && *r->s != '\''; r->s++) {
    if (n + 1 == sizeof word) return fail(r, "number too long");
    word[n++] = *r->s;
  }
  word[n] = 0;
  const double f = strtod(word, &end);
  if (n == 0 || *end || !(fabs(f) < 0x1p40)) return fail(r, "expected a number");
  while (*r->s && *r->s != ')') r->s++; /* precision */
  if (!take(r, ')')) return fail(r, "expected )");
  *out = (fraction){.above = 1, .below = 1, .factor = f};
  for (int64_t q = 1; q <= 64; q *= 2) {
    if (f * (double)q != floor(f * (double)q)) continue;
    *out = (fraction){.above = (int64_t)(f * (double)q), .below = q};
    break;
  }
  return out->factor < 0 ? fail(r, "a negative factor") : KILN_OK;
}

static kiln_status read_call(reader *r, fraction *out) {
  static const struct {
    const char *name;
    function f;
  } functions[] = {
      {"Add", F_ADD},
      {"Mul", F_MUL},
      {"Max", F_MAX},
      {"Min", F_MIN},
      {"FloorDiv", F_FLOORDIV},
      {"Mod", F_MOD},
      {"PythonMod", F_MOD},
      {"CleanDiv", F_FLOORDIV},
      {"IntTrueDiv", F_TRUEDIV},
      {"FloatTrueDiv", F_TRUEDIV},
      {"Pow", F_POW},
      {"PowByNatural", F_POW},
      {"ModularIndexing", F_MODULAR},
      {"CeilToInt", F_CEIL},
      {"ceiling", F_CEIL},
      {"FloorToInt", F_FLOOR},
      {"floor", F_FLOOR},
      {"TruncToInt", F_FLOOR},
      {"RoundToInt", F_ROUND},
      {"ToFloat", F_SAME},
      {"Identity", F_SAME},
  };
  char name[MAX_NAME];
  size_t n = 0;
  skip(r);
  while ((*r->s >= 'a' && *r->s <= 'z') || (*r->s >= 'A' && *r->s <= 'Z') || *r->s == '_' || *r->s == '.') {
    if (n + 1 == sizeof name) return fail(r, "name too long");
    name[n++] = *r->s++;
  }
  name[n] = 0;
  if (!take(r, '(')) return fail(r, "expected Name(...)");
  if (str_eq(name, "Symbol")) return read_symbol(r, out);
  if (str_eq(name, "Integer")) {
    int64_t i;
    KILN_TRY(read_int(r, &i));
    *out = (fraction){.above = i, .below = 1};
    return take(r, ')') ? KILN_OK : fail(r, "expected )");
  }
  if (str_eq(name, "Float")) return read_float(r, out);
  if (str_eq(name, "Rational")) {
    int64_t p, q;
    KILN_TRY(read_int(r, &p));
    if (!take(r, ',')) return fail(r, "expected ,");
    KILN_TRY(read_int(r, &q));
    if (q <= 0) return fail(r, "a denominator that is not positive");
    *out = (fraction){.above = p, .below = q};
    return take(r, ')') ? KILN_OK : fail(r, "expected )");
  }
  for (size_t i = 0; i < KILN_COUNT(functions); i++)
    if (str_eq(name, functions[i].name)) return read_arguments(r, functions[i].f, out);
  return KILN_FAIL(KILN_UNSUPPORTED, "symbolic size \"%.200s\": the function %s is not supported", r->whole, name);
}

static kiln_status read_expression(reader *r, fraction *out) {
  if (++r->depth > MAX_DEPTH) return fail(r, "nested too deeply");
  const kiln_status status = read_call(r, out);
  r->depth--;
  return status;
}

kiln_status sympy_parse(dim_table *t, const char *expression, bool create, dim *out) {
  reader r = {t, expression, expression, create, 0};
  fraction f = {.below = 1};
  KILN_TRY(read_expression(&r, &f));
  skip(&r);
  if (*r.s) return fail(&r, "text after the end");
  if (f.factor != 0) return fail(&r, "a float that is not rounded");
  KILN_TRY(checked(&r, whole(&r, f), 1, &f));
  *out = f.above;
  return KILN_OK;
}
