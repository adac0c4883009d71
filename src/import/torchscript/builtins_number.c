/* Operators on numbers: Python's arithmetic as TorchScript defines it, on ints (symbolic sizes too), floats and bools;
 * numbers that are known at run time only go to the graph as rank-0 tensors (i64, f64, bool). */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "import/torchscript/interpreter.h"

static bool numbers(const ts_call *c, int n) {
  if (c->n != n) return false;
  for (int i = 0; i < n; i++)
    if (!interp_is_number(&c->args[i])) return false;
  return true;
}

/* Not computable at build time: data, or a float of a symbolic size. */
static bool needs_graph(const ts_value *v, bool as_float) {
  return v->kind == TSV_DATA || (as_float && v->kind == TSV_INT && !dim_is_const(v->u.i));
}

static double as_double(const ts_value *v) { return v->kind == TSV_FLOAT ? v->u.f : (double)v->u.i; }

static kiln_status finish_dim(interp *it, dim d, ts_value *out) {
  if (d == DIM_ERROR)
    return error_note(KILN_UNSUPPORTED, __FILE__, __LINE__, "at %s",
                      ts_source(it->a, interp_here(it), it->frame->line));
  *out = of_int(d);
  return KILN_OK;
}

static kiln_status finish_int(interp *it, int64_t i, ts_value *out) {
  if (!dim_is_const(i)) return IT_FAIL(it, KILN_UNSUPPORTED, "the integer %lld is out of range", (long long)i);
  *out = of_int(i);
  return KILN_OK;
}

/* ---- in the graph ----------------------------------------------------------------------------------------------- */

static kiln_status rank0(interp *it, const ts_value *v, kiln_dtype dtype, value **out) {
  KILN_TRY(interp_number_tensor(it, v, out));
  *out = lower_cast(&it->b, *out, dtype);
  return *out ? KILN_OK : interp_no_memory(it);
}

static kiln_status finish_data(interp *it, value *v, ts_type_kind type, ts_value *out) {
  return interp_scalar(it, v, type, out);
}

static kiln_status graph_binary(interp *it, const char *op_name, kiln_dtype dtype, const ts_value *x, const ts_value *y,
                                ts_type_kind type, ts_value *out) {
  value *a, *b;
  KILN_TRY(rank0(it, x, dtype, &a));
  KILN_TRY(rank0(it, y, dtype, &b));
  return finish_data(it, lower_binary(&it->b, op_name, a, b), type, out);
}

static kiln_status graph_unary(interp *it, const char *op_name, kiln_dtype dtype, const ts_value *x, ts_type_kind type,
                               ts_value *out) {
  value *a;
  KILN_TRY(rank0(it, x, dtype, &a));
  return finish_data(it, build(&it->b, op_name, IN(a), NO_ATTRS), type, out);
}

/* ---- arithmetic ------------------------------------------------------------------------------------------------- */

typedef struct arithmetic {
  const char *name, *op_name;
  dim (*integer)(interp *it, dim a, dim b); /* constants wrap around as int64_t */
  double (*real)(double a, double b);
} arithmetic;

static dim int_add(interp *it, dim a, dim b) {
  if (dim_is_const(a) && dim_is_const(b)) return (int64_t)((uint64_t)a + (uint64_t)b);
  return dim_add(it->g->dims, a, b);
}
static dim int_sub(interp *it, dim a, dim b) {
  if (dim_is_const(a) && dim_is_const(b)) return (int64_t)((uint64_t)a - (uint64_t)b);
  return dim_sub(it->g->dims, a, b);
}
static dim int_mul(interp *it, dim a, dim b) {
  if (dim_is_const(a) && dim_is_const(b)) return (int64_t)((uint64_t)a * (uint64_t)b);
  return dim_mul(it->g->dims, a, b);
}
static dim int_floordiv(interp *it, dim a, dim b) { return dim_floordiv(it->g->dims, a, b); }
static dim int_mod(interp *it, dim a, dim b) { return dim_mod(it->g->dims, a, b); }
static dim int_fmod(interp *it, dim a, dim b) {
  if (dim_is_const(a) && dim_is_const(b)) return b == -1 ? 0 : a % b;
  int64_t low, high, low_b, high_b;
  dim_range(it->g->dims, a, &low, &high);
  dim_range(it->g->dims, b, &low_b, &high_b);
  if (low >= 0 && low_b > 0) return dim_mod(it->g->dims, a, b);
  (void)KILN_FAIL(KILN_UNSUPPORTED, "fmod of a size that may be negative");
  return DIM_ERROR;
}
static dim int_max(interp *it, dim a, dim b) { return dim_max(it->g->dims, a, b); }
static dim int_min(interp *it, dim a, dim b) { return dim_min(it->g->dims, a, b); }

static double real_add(double a, double b) { return a + b; }
static double real_sub(double a, double b) { return a - b; }
static double real_mul(double a, double b) { return a * b; }
static double real_floordiv(double a, double b) { return floor(a / b); }
static double real_mod(double a, double b) {
  const double r = fmod(a, b);
  return r != 0 && (r < 0) != (b < 0) ? r + b : r;
}
static double real_max(double a, double b) { return a > b || isnan(a) ? a : b; }
static double real_min(double a, double b) { return a < b || isnan(a) ? a : b; }

static const arithmetic arithmetics[] = {
    {"add", "add", int_add, real_add},
    {"sub", "sub", int_sub, real_sub},
    {"mul", "mul", int_mul, real_mul},
    {"floordiv", "floor_div", int_floordiv, real_floordiv},
    {"remainder", "remainder", int_mod, real_mod},
    {"fmod", "fmod", int_fmod, fmod},
    {"prim.max", "maximum", int_max, real_max},
    {"prim.min", "minimum", int_min, real_min},
};

static kiln_status binary(interp *it, const arithmetic *a, const ts_value *x, const ts_value *y, ts_value *out) {
  const bool real = interp_number_type(x) == TST_FLOAT || interp_number_type(y) == TST_FLOAT;
  const bool divides = a->integer == int_floordiv || a->integer == int_mod || a->integer == int_fmod;
  if (divides &&
      ((y->kind == TSV_FLOAT && y->u.f == 0 && a->integer != int_fmod) || (y->kind == TSV_INT && y->u.i == 0)))
    return IT_FAIL(it, KILN_INVALID_ARGUMENT, "division by zero");
  if (needs_graph(x, real) || needs_graph(y, real))
    return graph_binary(it, a->op_name, real ? KILN_F64 : KILN_I64, x, y, real ? TST_FLOAT : TST_INT, out);
  if (real) {
    *out = of_float(a->real(as_double(x), as_double(y)));
    return KILN_OK;
  }
  const dim d = a->integer(it, x->u.i, y->u.i);
  if (dim_is_const(x->u.i) && dim_is_const(y->u.i)) return finish_int(it, d, out);
  return finish_dim(it, d, out);
}

static kiln_status do_arithmetic(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  const bool scaled = c->n == 3 && c->names && str_eq(c->names[2], "alpha");
  if (scaled || !numbers(c, 2)) return KILN_OK;
  *handled = true;
  for (size_t i = 0; i < KILN_COUNT(arithmetics); i++)
    if (str_eq(c->name, arithmetics[i].name)) return binary(it, &arithmetics[i], &c->args[0], &c->args[1], out);
  return KILN_FAIL(KILN_INTERNAL, "%s is no arithmetic", c->name);
}

/* max and min of two numbers, or of a list of them. */
static kiln_status do_extreme(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  if (numbers(c, 2)) return do_arithmetic(it, c, out, handled);
  const ts_list *l = c->n == 1 ? interp_items(&c->args[0]) : NULL;
  const arithmetic *a = NULL;
  if (!l) return KILN_OK;
  for (int i = 0; i < l->count; i++)
    if (!interp_is_number(&l->items[i])) return KILN_OK;
  *handled = true;
  for (size_t i = 0; i < KILN_COUNT(arithmetics); i++)
    if (str_eq(c->name, arithmetics[i].name)) a = &arithmetics[i];
  if (l->count == 0 || !a) return IT_FAIL(it, KILN_INVALID_ARGUMENT, "%s of an empty list", c->name);
  *out = l->items[0];
  for (int i = 1; i < l->count; i++) KILN_TRY(binary(it, a, out, &l->items[i], out));
  return KILN_OK;
}

/* True division: always a float. */
static kiln_status do_div(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  if (!numbers(c, 2)) return KILN_OK;
  const ts_value *x = &c->args[0], *y = &c->args[1];
  *handled = true;
  if (needs_graph(x, true) || needs_graph(y, true)) return graph_binary(it, "div", KILN_F64, x, y, TST_FLOAT, out);
  if (as_double(y) == 0) return IT_FAIL(it, KILN_INVALID_ARGUMENT, "division by zero");
  *out = of_float(as_double(x) / as_double(y));
  return KILN_OK;
}

static kiln_status do_pow(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  if (!numbers(c, 2)) return KILN_OK;
  const ts_value *x = &c->args[0], *y = &c->args[1];
  *handled = true;
  if (needs_graph(x, true) || needs_graph(y, true)) return graph_binary(it, "pow", KILN_F64, x, y, TST_FLOAT, out);
  *out = of_float(pow(as_double(x), as_double(y)));
  return KILN_OK;
}

static kiln_status do_neg(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  if (!numbers(c, 1)) return KILN_OK;
  const ts_value *x = &c->args[0];
  *handled = true;
  if (x->kind == TSV_FLOAT) {
    *out = of_float(-x->u.f);
    return KILN_OK;
  }
  if (x->kind != TSV_DATA) return finish_dim(it, dim_sub(it->g->dims, 0, x->u.i), out);
  const bool real = interp_number_type(x) == TST_FLOAT;
  return graph_unary(it, "neg", real ? KILN_F64 : KILN_I64, x, real ? TST_FLOAT : TST_INT, out);
}

static kiln_status do_abs(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  if (!numbers(c, 1)) return KILN_OK;
  const ts_value *x = &c->args[0];
  const bool real = interp_number_type(x) == TST_FLOAT;
  *handled = true;
  if (x->kind == TSV_DATA)
    return graph_unary(it, "abs", real ? KILN_F64 : KILN_I64, x, real ? TST_FLOAT : TST_INT, out);
  if (real)
    *out = of_float(fabs(x->u.f));
  else
    return finish_dim(it, dim_max(it->g->dims, x->u.i, dim_sub(it->g->dims, 0, x->u.i)), out);
  return KILN_OK;
}

/* ---- bits and logic --------------------------------------------------------------------------------------------- */

static kiln_status do_bits(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  static const struct {
    const char *name, *integer, *logical;
  } ops[] = {{"__and__", "bitwise_and", "logical_and"},
             {"__or__", "bitwise_or", "logical_or"},
             {"__xor__", "bitwise_xor", "logical_xor"},
             {"__lshift__", "shift_left", NULL},
             {"__rshift__", "shift_right", NULL}};
  if (!numbers(c, 2)) return KILN_OK;
  const ts_value *x = &c->args[0], *y = &c->args[1];
  size_t k = 0;
  while (k < KILN_COUNT(ops) && !str_eq(c->name, ops[k].name)) k++;
  if (k == KILN_COUNT(ops)) return KILN_OK;
  *handled = true;
  const bool logic = ops[k].logical && interp_number_type(x) == TST_BOOL && interp_number_type(y) == TST_BOOL;
  for (int i = 0; logic && i < 2 && k < 2; i++) { /* x and False, x or True: whatever x */
    if (c->args[i].kind != TSV_BOOL) continue;
    *out = (c->args[i].u.i != 0) == (k == 0) ? c->args[1 - i] : of_bool(k == 1);
    return KILN_OK;
  }
  if (x->kind == TSV_DATA || y->kind == TSV_DATA || !dim_is_const(x->u.i) || !dim_is_const(y->u.i))
    return graph_binary(it, logic ? ops[k].logical : ops[k].integer, logic ? KILN_BOOL : KILN_I64, x, y,
                        logic ? TST_BOOL : TST_INT, out);
  if (x->kind == TSV_FLOAT || y->kind == TSV_FLOAT) return IT_FAIL(it, KILN_INVALID_FILE, "%s of floats", c->name);
  const int64_t a = x->u.i, b = y->u.i;
  if (logic) {
    *out = of_bool(k == 0 ? a && b : k == 1 ? a || b : !a != !b);
    return KILN_OK;
  }
  if (k >= 3 && (b < 0 || b > 63)) return IT_FAIL(it, KILN_INVALID_ARGUMENT, "a shift by %lld bits", (long long)b);
  return finish_int(it,
                    k == 0   ? (a & b)
                    : k == 1 ? (a | b)
                    : k == 2 ? (a ^ b)
                    : k == 3 ? (int64_t)((uint64_t)a << b)
                             : a >> b,
                    out);
}

static kiln_status do_not(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  if (!numbers(c, 1)) return KILN_OK;
  *handled = true;
  if (c->args[0].kind == TSV_DATA) return graph_unary(it, "logical_not", KILN_BOOL, &c->args[0], TST_BOOL, out);
  *out = of_bool(c->args[0].u.i == 0);
  return KILN_OK;
}

static kiln_status do_bitwise_not(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  if (c->n != 1 || c->args[0].kind != TSV_INT || !dim_is_const(c->args[0].u.i)) return KILN_OK;
  *handled = true;
  return finish_int(it, ~c->args[0].u.i, out);
}

/* ---- comparisons ------------------------------------------------------------------------------------------------ */

static int int_compare(interp *it, int which, dim a, dim b) {
  dim_table *t = it->g->dims;
  int r;
  switch (which) {
    case 0:
      return dim_compare_equal(t, a, b);
    case 1:
      r = dim_compare_equal(t, a, b);
      return r < 0 ? r : !r;
    case 2: /* a < b: not b <= a */
      r = dim_compare_le(t, b, a);
      return r < 0 ? r : !r;
    case 3:
      return dim_compare_le(t, a, b);
    case 4:
      r = dim_compare_le(t, a, b);
      return r < 0 ? r : !r;
    default:
      return dim_compare_le(t, b, a);
  }
}

static bool real_compare(int which, double a, double b) {
  return which == 0   ? a == b
         : which == 1 ? a != b
         : which == 2 ? a < b
         : which == 3 ? a <= b
         : which == 4 ? a > b
                      : a >= b;
}

static const char *const comparisons[] = {"eq", "ne", "lt", "le", "gt", "ge"};

static kiln_status compare_numbers(interp *it, int which, const ts_value *x, const ts_value *y, ts_value *out) {
  const bool real = interp_number_type(x) == TST_FLOAT || interp_number_type(y) == TST_FLOAT;
  if (!needs_graph(x, real) && !needs_graph(y, real)) {
    const int known =
        real ? (int)real_compare(which, as_double(x), as_double(y)) : int_compare(it, which, x->u.i, y->u.i);
    if (known >= 0) {
      *out = of_bool(known);
      return KILN_OK;
    }
  }
  return graph_binary(it, comparisons[which], real ? KILN_F64 : KILN_I64, x, y, TST_BOOL, out);
}

static bool all_numbers(const ts_list *l) {
  for (int i = 0; i < l->count; i++)
    if (!interp_is_number(&l->items[i])) return false;
  return true;
}

/* x == y (which 0) or x != y (1) of lists of as many numbers, such as sizes that vary. */
static kiln_status compare_lists(interp *it, int which, const ts_list *x, const ts_list *y, ts_value *out) {
  ts_value all = of_bool(which == 0);
  for (int i = 0; i < x->count; i++) {
    ts_value one;
    KILN_TRY(compare_numbers(it, which, &x->items[i], &y->items[i], &one));
    if (one.kind == TSV_BOOL && one.u.i == (which == 0)) continue; /* says nothing */
    if (one.kind == TSV_BOOL || all.kind == TSV_BOOL)
      all = one;
    else
      KILN_TRY(graph_binary(it, which == 0 ? "logical_and" : "logical_or", KILN_BOOL, &all, &one, TST_BOOL, &all));
    if (all.kind == TSV_BOOL) break;
  }
  *out = all;
  return KILN_OK;
}

static kiln_status compare_others(interp *it, int which, const ts_value *x, const ts_value *y, ts_value *out) {
  if (which < 2) {
    const int same = interp_equal(it, x, y, 0);
    const ts_list *a = interp_items(x), *b = interp_items(y);
    if (same < 0 && a && b && a->count == b->count && all_numbers(a) && all_numbers(b))
      return compare_lists(it, which, a, b, out);
    if (same < 0)
      return IT_FAIL(it, KILN_UNSUPPORTED, "a comparison of %s that depends on tensor data", interp_kind_name(x));
    *out = of_bool(which == 0 ? same : !same);
    return KILN_OK;
  }
  if (x->kind != TSV_STR || y->kind != TSV_STR)
    return IT_FAIL(it, KILN_UNSUPPORTED, "%s of %s", comparisons[which], interp_kind_name(x));
  *out = of_bool(real_compare(which, strcmp(x->u.s, y->u.s), 0));
  return KILN_OK;
}

static kiln_status do_compare(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  int which = 0;
  if (c->n != 2) return KILN_OK;
  const ts_value *x = &c->args[0], *y = &c->args[1];
  if (x->kind == TSV_TENSOR || y->kind == TSV_TENSOR) return KILN_OK;
  while (which < 5 && !str_eq(c->name, comparisons[which])) which++;
  *handled = true;
  if (interp_is_number(x) && interp_is_number(y)) return compare_numbers(it, which, x, y, out);
  return compare_others(it, which, x, y, out);
}

/* ---- conversions ------------------------------------------------------------------------------------------------ */

static kiln_status do_convert(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  const char first = c->name[0];
  const ts_type_kind type = first == 'i' || first == 'I'   ? TST_INT
                            : first == 'f' || first == 'F' ? TST_FLOAT
                                                           : TST_BOOL;
  if (c->n != 1) return KILN_OK;
  const ts_value *x = &c->args[0];
  if (x->kind == TSV_TENSOR) {
    *handled = true;
    return interp_scalar(it, lower_value(&it->b, x->u.tensor), type, out);
  }
  if (!interp_is_number(x)) return KILN_OK; /* texts: builtins_string.c */
  *handled = true;
  if (interp_number_type(x) == type) {
    *out = *x;
    return KILN_OK;
  }
  if (x->kind == TSV_DATA) return interp_scalar(it, x->u.data, type, out);
  if (type == TST_INT) {
    if (x->kind != TSV_FLOAT) return finish_int(it, x->u.i, out);
    if (!(fabs(x->u.f) < 4e18)) return IT_FAIL(it, KILN_INVALID_ARGUMENT, "the float %g is no integer", x->u.f);
    return finish_int(it, (int64_t)x->u.f, out);
  }
  if (type == TST_BOOL) {
    if (x->kind != TSV_INT || dim_is_const(x->u.i)) {
      *out = of_bool(as_double(x) != 0);
      return KILN_OK;
    }
    const ts_value zero = of_int(0);
    return compare_numbers(it, 1, x, &zero, out);
  }
  if (!needs_graph(x, true)) {
    *out = of_float(as_double(x));
    return KILN_OK;
  }
  value *v;
  KILN_TRY(rank0(it, x, KILN_F64, &v));
  return interp_scalar(it, v, TST_FLOAT, out);
}

/* ---- mathematics ------------------------------------------------------------------------------------------------ */

typedef struct mathematics {
  const char *name, *op_name; /* op_name NULL: not in the graph */
  double (*fn)(double x);
  bool to_int;
} mathematics;

static double degrees(double x) { return x * (180.0 / 3.14159265358979323846); }
static double radians(double x) { return x * (3.14159265358979323846 / 180.0); }

static const mathematics unary_functions[] = {
    {"exp", "exp", exp, false},        {"expm1", "expm1", expm1, false}, {"log", "log", log, false},
    {"log1p", "log1p", log1p, false},  {"log2", "log2", log2, false},    {"log10", "log10", log10, false},
    {"sqrt", "sqrt", sqrt, false},     {"sin", "sin", sin, false},       {"cos", "cos", cos, false},
    {"tan", "tan", tan, false},        {"asin", "asin", asin, false},    {"acos", "acos", acos, false},
    {"atan", "atan", atan, false},     {"sinh", "sinh", sinh, false},    {"cosh", "cosh", cosh, false},
    {"tanh", "tanh", tanh, false},     {"asinh", "asinh", asinh, false}, {"acosh", "acosh", acosh, false},
    {"atanh", "atanh", atanh, false},  {"erf", "erf", erf, false},       {"erfc", "erfc", erfc, false},
    {"gamma", NULL, tgamma, false},    {"lgamma", NULL, lgamma, false},  {"degrees", NULL, degrees, false},
    {"radians", NULL, radians, false}, {"fabs", "abs", fabs, false},     {"floor", "floor", floor, true},
    {"ceil", "ceil", ceil, true},      {"round", "round", rint, false},  {"trunc", "trunc", trunc, true},
};

static kiln_status do_math(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  if (!numbers(c, 1)) return KILN_OK;
  const ts_value *x = &c->args[0];
  const mathematics *m = NULL;
  for (size_t i = 0; i < KILN_COUNT(unary_functions); i++)
    if (str_eq(c->name, unary_functions[i].name)) m = &unary_functions[i];
  if (!m) return KILN_OK;
  *handled = true;
  if (m->to_int && interp_number_type(x) == TST_INT) {
    *out = *x;
    return KILN_OK;
  }
  if (!needs_graph(x, true)) {
    const double r = m->fn(as_double(x));
    if (!m->to_int) {
      *out = of_float(r);
      return KILN_OK;
    }
    if (!(fabs(r) < 4e18)) return IT_FAIL(it, KILN_INVALID_ARGUMENT, "%s(%g) is no integer", c->name, as_double(x));
    return finish_int(it, (int64_t)r, out);
  }
  if (!m->op_name)
    return IT_FAIL(it, KILN_UNSUPPORTED, "%s of a number that depends on tensor data is not supported", c->name);
  return graph_unary(it, m->op_name, KILN_F64, x, m->to_int ? TST_INT : TST_FLOAT, out);
}

static double gcd(double x, double y) {
  for (x = fabs(x), y = fabs(y); y != 0;) {
    const double r = fmod(x, y);
    x = y;
    y = r;
  }
  return x;
}

static const struct {
  const char *name;
  double (*fn)(double x, double y);
  bool to_int;
} binary_functions[] = {{"atan2", atan2, false},
                        {"copysign", copysign, false},
                        {"hypot", hypot, false},
                        {"mathremainder", remainder, false},
                        {"gcd", gcd, true}};

static kiln_status do_math2(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  if (!numbers(c, 2) || needs_graph(&c->args[0], true) || needs_graph(&c->args[1], true)) return KILN_OK;
  for (size_t i = 0; i < KILN_COUNT(binary_functions); i++) {
    if (!str_eq(c->name, binary_functions[i].name)) continue;
    *handled = true;
    const double r = binary_functions[i].fn(as_double(&c->args[0]), as_double(&c->args[1]));
    if (binary_functions[i].to_int) return finish_int(it, (int64_t)r, out);
    *out = of_float(r);
  }
  return KILN_OK;
}

static kiln_status do_test(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  if (!numbers(c, 1)) return KILN_OK;
  *handled = true;
  if (needs_graph(&c->args[0], true)) {
    char name[32];
    ts_value t;
    value *v;
    (void)snprintf(name, sizeof name, "aten::%s", c->name);
    KILN_TRY(interp_number_tensor(it, &c->args[0], &v));
    KILN_TRY(interp_new_tensor(it, v, &t));
    KILN_TRY(interp_aten(it, name, 1, &t, &t));
    return interp_scalar(it, lower_value(&it->b, t.u.tensor), TST_BOOL, out);
  }
  const double x = as_double(&c->args[0]);
  *out = of_bool(str_eq(c->name, "isnan") ? isnan(x) : str_eq(c->name, "isinf") ? isinf(x) : isfinite(x));
  return KILN_OK;
}

static kiln_status do_factorial(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  if (c->n != 1 || c->args[0].kind != TSV_INT) return KILN_OK;
  int64_t r = 1;
  *handled = true;
  if (c->args[0].u.i < 0 || c->args[0].u.i > 20)
    return IT_FAIL(it, KILN_INVALID_ARGUMENT, "factorial of an int that is not in 0..20");
  for (int64_t i = 2; i <= c->args[0].u.i; i++) r *= i;
  return finish_int(it, r, out);
}

static kiln_status do_divmod(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  if (!numbers(c, 2)) return KILN_OK;
  ts_value pair[2];
  *handled = true;
  KILN_TRY(binary(it, &arithmetics[3], &c->args[0], &c->args[1], &pair[0]));
  KILN_TRY(binary(it, &arithmetics[4], &c->args[0], &c->args[1], &pair[1]));
  return interp_list_new(it, TSV_TUPLE, 2, pair, out);
}

/* ---- ranges ----------------------------------------------------------------------------------------------------- */

/* max(0, ceil((end - start) / step)) */
static kiln_status do_range_length(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  if (!numbers(c, 3)) return KILN_OK;
  const ts_value *start = &c->args[0], *end = &c->args[1], *step = &c->args[2], one = of_int(1), zero = of_int(0);
  ts_value n, s;
  int64_t low, high;
  *handled = true;
  if (step->kind != TSV_INT) return IT_FAIL(it, KILN_UNSUPPORTED, "range() with a step that depends on tensor data");
  dim_range(it->g->dims, step->u.i, &low, &high);
  if (low <= 0 && high >= 0) return IT_FAIL(it, KILN_INVALID_ARGUMENT, "range() arg 3 must not be zero");
  KILN_TRY(low > 0 ? binary(it, &arithmetics[1], end, start, &n) : binary(it, &arithmetics[1], start, end, &n));
  KILN_TRY(finish_dim(it, low > 0 ? step->u.i : dim_sub(it->g->dims, 0, step->u.i), &s));
  KILN_TRY(binary(it, &arithmetics[0], &n, &s, &n)); /* (n + s - 1) // s */
  KILN_TRY(binary(it, &arithmetics[1], &n, &one, &n));
  KILN_TRY(binary(it, &arithmetics[3], &n, &s, &n));
  return binary(it, &arithmetics[6], &n, &zero, out);
}

static kiln_status do_derive_index(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  if (!numbers(c, 3)) return KILN_OK;
  ts_value v;
  *handled = true;
  KILN_TRY(binary(it, &arithmetics[2], &c->args[0], &c->args[2], &v));
  return binary(it, &arithmetics[0], &c->args[1], &v, out);
}

const ts_builtin ts_builtins_number[] = {{"add", do_arithmetic},
                                         {"sub", do_arithmetic},
                                         {"mul", do_arithmetic},
                                         {"floordiv", do_arithmetic},
                                         {"remainder", do_arithmetic},
                                         {"fmod", do_arithmetic},
                                         {"prim.max", do_extreme},
                                         {"prim.min", do_extreme},
                                         {"div", do_div},
                                         {"pow", do_pow},
                                         {"neg", do_neg},
                                         {"abs", do_abs},
                                         {"prim.abs", do_abs},
                                         {"__and__", do_bits},
                                         {"__or__", do_bits},
                                         {"__xor__", do_bits},
                                         {"__lshift__", do_bits},
                                         {"__rshift__", do_bits},
                                         {"__not__", do_not},
                                         {"bitwise_not", do_bitwise_not},
                                         {"eq", do_compare},
                                         {"ne", do_compare},
                                         {"lt", do_compare},
                                         {"le", do_compare},
                                         {"gt", do_compare},
                                         {"ge", do_compare},
                                         {"bool", do_convert},
                                         {"Bool", do_convert},
                                         {"IntImplicit", do_convert},
                                         {"FloatImplicit", do_convert},
                                         {"Int", do_convert},
                                         {"Float", do_convert},
                                         {"exp", do_math},
                                         {"expm1", do_math},
                                         {"log", do_math},
                                         {"log1p", do_math},
                                         {"log2", do_math},
                                         {"log10", do_math},
                                         {"sqrt", do_math},
                                         {"sin", do_math},
                                         {"cos", do_math},
                                         {"tan", do_math},
                                         {"asin", do_math},
                                         {"acos", do_math},
                                         {"atan", do_math},
                                         {"sinh", do_math},
                                         {"cosh", do_math},
                                         {"tanh", do_math},
                                         {"asinh", do_math},
                                         {"acosh", do_math},
                                         {"atanh", do_math},
                                         {"erf", do_math},
                                         {"erfc", do_math},
                                         {"gamma", do_math},
                                         {"lgamma", do_math},
                                         {"degrees", do_math},
                                         {"radians", do_math},
                                         {"fabs", do_math},
                                         {"floor", do_math},
                                         {"ceil", do_math},
                                         {"round", do_math},
                                         {"trunc", do_math},
                                         {"atan2", do_math2},
                                         {"copysign", do_math2},
                                         {"hypot", do_math2},
                                         {"mathremainder", do_math2},
                                         {"gcd", do_math2},
                                         {"isnan", do_test},
                                         {"isinf", do_test},
                                         {"isfinite", do_test},
                                         {"factorial", do_factorial},
                                         {"divmod", do_divmod},
                                         {"__range_length", do_range_length},
                                         {"__derive_index", do_derive_index},
                                         {NULL, NULL}};

/* int() and float() take texts too. */
kiln_status interp_convert_number(interp *it, const ts_call *c, ts_value *out, bool *handled) {
  return do_convert(it, c, out, handled);
}
