/* What operators do to complex tensors: most do the same to both parts, products mix them, and the rest is arithmetic. */
#include <string.h>

#include "import/aten.h"
#include "import/complex_internal.h"
#include "import/complex_math.h"
#include "ops/lowering.h"

static value *unary(lower_call *c, const char *name, value *x) { return build(&c->b, name, IN(x), NO_ATTRS); }

static value *binary(lower_call *c, const char *name, value *x, value *y) {
  if (!x || !y) return NULL;
  lower_promote(&c->b, &x, false, &y, false);
  return lower_binary(&c->b, name, x, y);
}

static kiln_status refuse(lower_call *c) { return LOWER_FAIL(c, "complex tensors are not supported here"); }

/* Positional arguments; the others have their defaults. The result is a tensor. */
static kiln_status run_other(lower_call *c, const char *name, const char *overload, int n, const ivalue *given,
                             ivalue *out) {
  ivalue args[COMPLEX_MAX_ARGS];
  lower_call other = *c;
  other.schema = aten_find_overload(name, overload);
  if (!other.schema || other.schema->n_args > COMPLEX_MAX_ARGS || other.schema->n_args < n)
    return KILN_FAIL(KILN_INTERNAL, "%s.%s is missing", name, overload);
  for (int32_t i = 0; i < other.schema->n_args; i++) args[i] = i < n ? given[i] : other.schema->args[i].fallback;
  other.args = args;
  other.results = out;
  other.n_results = 1;
  other.in_place = false;
  return lower_run(&other);
}

static ivalue tensor_of(lower_call *c, complex_value z) {
  ivalue v = {.kind = IV_TENSOR};
  itensor *re = z.re ? lower_tensor(c->im, z.re) : NULL;
  v.u.t = z.im && re ? complex_tensor(c->im, re, lower_tensor(c->im, z.im)) : re;
  return v;
}

static ivalue int_of(int64_t i) {
  ivalue v = {.kind = IV_INT};
  v.u.i = i;
  return v;
}

/* ---- by parts ------------------------------------------------------------------------------------ */

/* Views and copies: all that is complex is the first argument. */
static kiln_status by_parts_of_first(lower_call *c) {
  const ivalue *v = &c->args[0];
  if (v->kind == IV_LIST) return complex_by_parts(c, " tensors ");
  return complex_is(v) && complex_count(c) == 1 ? complex_by_parts(c, NULL) : refuse(c);
}

/* The other tensor tells a shape only. */
static kiln_status like_other(lower_call *c) {
  int pick[2] = {0, 0};
  if (complex_is(&c->args[0])) return complex_by_parts(c, NULL);
  return complex_run_parts(c, pick, NULL, c->results);
}

/* Values that go into a complex tensor, or next to it. */
static kiln_status mixes(lower_call *c) {
  if (str_eq(c->schema->name, "aten::where") && c->schema->n_args != 3) return refuse(c);
  if (!str_eq(c->schema->name, "aten::where") && !complex_is(&c->args[0])) return refuse(c);
  return complex_by_parts(c, " self other src source value values ");
}

/* A dtype that is asked for, of parts; false: a real one. */
static bool part_asked(const lower_call *c, ivalue *args, kiln_dtype *out, bool *any) {
  *any = false;
  memcpy(args, c->args, (size_t)c->schema->n_args * sizeof *args);
  for (int32_t i = 0; i < c->schema->n_args; i++) {
    if (args[i].kind != IV_DTYPE) continue;
    if (!complex_dtype(&args[i], out)) return false;
    args[i].u.i = (int64_t)*out;
    *any = true;
  }
  return true;
}

static kiln_status reduction(lower_call *c) {
  ivalue args[COMPLEX_MAX_ARGS];
  lower_call of_parts = *c;
  kiln_dtype dtype;
  bool any;
  if (!part_asked(c, args, &dtype, &any)) return LOWER_FAIL(c, "argument dtype is real, the tensor is complex");
  of_parts.args = args;
  return by_parts_of_first(&of_parts);
}

static kiln_status padding(lower_call *c) {
  if (call_is_none(c, "value") || str_eq(c->schema->name, "aten::constant_pad_nd") ||
      str_eq(call_str(c, "mode"), "constant"))
    return complex_is(&c->args[0]) ? complex_by_parts(c, " value ") : refuse(c);
  return by_parts_of_first(c);
}

/* Operators that only ask which elements are not 0. */
static kiln_status by_truth(lower_call *c) {
  ivalue args[COMPLEX_MAX_ARGS];
  lower_call real = *c;
  for (int32_t i = 0; i < c->schema->n_args; i++) {
    complex_value z;
    args[i] = c->args[i];
    if (!complex_is(&args[i])) continue;
    KILN_TRY(complex_argument(c, c->schema->args[i].name, &z));
    value *zero = lowering_scalar_like(&c->b, z.re, 0);
    args[i] = tensor_of(
        c, (complex_value){binary(c, "logical_or", binary(c, "ne", z.re, zero), binary(c, "ne", z.im, zero)), NULL});
    if (!args[i].u.t) return complex_no_memory(c);
  }
  real.args = args;
  real.in_place = false;
  return lower_run(&real);
}

/* Norms of the magnitudes. */
static kiln_status by_magnitude(lower_call *c) {
  ivalue args[COMPLEX_MAX_ARGS];
  lower_call real = *c;
  complex_value z;
  kiln_dtype dtype;
  bool any;
  if (!part_asked(c, args, &dtype, &any)) return refuse(c);
  KILN_TRY(complex_argument(c, c->schema->args[0].name, &z));
  args[0] = tensor_of(c, (complex_value){complex_abs(&c->b, z), NULL});
  if (!args[0].u.t) return complex_no_memory(c);
  real.args = args;
  return lower_run(&real);
}

/* Of matrices, those norms are not of magnitudes that come from singular values. */
static kiln_status matrix_norm(lower_call *c) {
  const ivalue *ord = call_arg(c, "ord");
  const double order = ord->kind == IV_INT ? (double)ord->u.i : ord->kind == IV_FLOAT ? ord->u.f : 0;
  const value *x = complex_is(&c->args[0]) ? lower_value(&c->b, c->args[0].u.t->parts[0]) : NULL;
  if (!x) return refuse(c);
  const ivalue *axes = call_arg(c, "dim");
  const bool vector = str_eq(c->schema->name, "aten::linalg_norm") &&
                      (axes->kind == IV_INT || (axes->kind == IV_LIST && axes->count == 1) ||
                       (axes->kind == IV_NONE && x->type.rank < 2));
  const bool frobenius = ord->kind == IV_NONE || (ord->kind == IV_STR && str_eq(ord->u.s, "fro"));
  if (!vector && !frobenius && (ord->kind == IV_STR || order == 2 || order == -2))
    return LOWER_FAIL(c, "norms by singular values of complex matrices are not supported");
  return by_magnitude(c);
}

/* Indices that are masks become places: their number must be the same for both parts. */
static kiln_status indexing(lower_call *c) {
  ivalue args[COMPLEX_MAX_ARGS], items[3 * KILN_MAX_RANK];
  const ivalue *given = call_arg(c, "indices");
  lower_call placed = *c;
  int32_t n = 0;
  if (!complex_is(&c->args[0])) return refuse(c);
  memcpy(args, c->args, (size_t)c->schema->n_args * sizeof *args);
  for (int32_t i = 0; given->kind == IV_LIST && i < given->count && n <= KILN_MAX_RANK; i++) {
    const ivalue *v = &given->u.items[i];
    const value *x = v->kind == IV_TENSOR ? lower_value(&c->b, v->u.t) : NULL;
    ivalue places = {.kind = IV_LIST, .count = 1};
    places.u.items = (ivalue *)(uintptr_t)v;
    if (x && x->type.dtype == KILN_BOOL) KILN_TRY(run_other(c, "aten::nonzero_numpy", "", 1, v, &places));
    for (int32_t k = 0; places.kind == IV_LIST && k < places.count && n < 2 * KILN_MAX_RANK; k++)
      items[n++] = places.u.items[k];
  }
  args[1] = (ivalue){.kind = IV_LIST, .count = n};
  args[1].u.items = arena_copy(c->im->arena, items, (size_t)(n ? n : 1) * sizeof *items);
  if (!args[1].u.items) return complex_no_memory(c);
  placed.args = args;
  return complex_by_parts(&placed, " values ");
}

static kiln_status masked_select(lower_call *c) {
  complex_value z;
  value *mask;
  ivalue list = {.kind = IV_LIST, .count = 1};
  KILN_TRY(complex_argument(c, "self", &z));
  KILN_TRY(lowering_tensor(c, "mask", &mask));
  value *all[3] = {z.re, z.im, mask};
  if (!z.im) return refuse(c);
  lowering_broadcast(&c->b, 3, all);
  const ivalue item = tensor_of(c, (complex_value){all[2], NULL});
  list.u.items = arena_copy(c->im->arena, &item, sizeof item);
  const ivalue given[2] = {tensor_of(c, (complex_value){all[0], all[1]}), list};
  if (!item.u.t || !list.u.items || !given[0].u.t) return complex_no_memory(c);
  return run_other(c, "aten::index", "Tensor", 2, given, &c->results[0]);
}

/* ---- products ------------------------------------------------------------------------------------ */

/* What is linear in each of two tensors: (a + bi)(c + di) = ac - bd + (ad + bc)i. */
static kiln_status product(lower_call *c) {
  value *rr, *ii, *ri, *ir;
  const int n = complex_count(c);
  if (n == 1) return complex_by_parts(c, NULL);
  if (n > 2 || c->n_results != 1) return LOWER_FAIL(c, "products of more than two complex tensors are not supported");
  lower_call plain = *c;
  plain.in_place = false; /* the parts are needed until the end */
  KILN_TRY(complex_run_values(&plain, 0, 0, &rr));
  KILN_TRY(complex_run_values(&plain, 1, 1, &ii));
  KILN_TRY(complex_run_values(&plain, 0, 1, &ri));
  KILN_TRY(complex_run_values(&plain, 1, 0, &ir));
  complex_return(c, 0, (complex_value){binary(c, "sub", rr, ii), binary(c, "add", ri, ir)});
  return KILN_OK;
}

/* The same with a bias. */
static kiln_status biased_product(lower_call *c) {
  ivalue args[COMPLEX_MAX_ARGS], result, bias = {0};
  lower_call plain = *c;
  int at = -1;
  memcpy(args, c->args, (size_t)c->schema->n_args * sizeof *args);
  for (int32_t i = 0; i < c->schema->n_args; i++)
    if (str_eq(c->schema->args[i].name, "bias")) at = i;
  if (at >= 0) {
    bias = args[at];
    args[at] = (ivalue){.kind = IV_NONE};
  }
  plain.args = args;
  plain.results = &result;
  if (complex_count(&plain) == 0) return refuse(c);
  KILN_TRY(product(&plain));
  c->results[0] = result;
  if (bias.kind != IV_TENSOR || !complex_is(&result)) return KILN_OK;
  itensor *w = call_arg(c, "weight")->u.t, *parts[2];
  const value *weight = lower_value(&c->b, w->parts[0] ? w->parts[0] : w);
  const int spatial = weight ? weight->type.rank - 2 : 0; /* dimensions behind the channels */
  for (int k = 0; k < 2; k++) {
    itensor *t = bias.u.t->parts[0] ? bias.u.t->parts[k] : bias.u.t;
    value *v = lower_value(&c->b, t);
    for (int i = 0; i < spatial && v; i++) v = lowering_unsqueeze(&c->b, v, 1);
    parts[k] = v ? lower_tensor(c->im, v) : NULL;
    if (!parts[k]) return complex_no_memory(c);
  }
  if (bias.u.t->parts[0])
    bias.u.t = complex_tensor(c->im, parts[0], parts[1]);
  else
    bias.u.t = parts[0];
  const ivalue sum[2] = {result, bias};
  return bias.u.t ? run_other(c, "aten::add", "Tensor", 2, sum, &c->results[0]) : complex_no_memory(c);
}

/* The conjugate of argument 0 in the product. */
static kiln_status conjugate_product(lower_call *c) {
  ivalue args[COMPLEX_MAX_ARGS];
  lower_call plain = *c;
  complex_value z;
  memcpy(args, c->args, (size_t)c->schema->n_args * sizeof *args);
  if (complex_is(&args[0])) {
    KILN_TRY(complex_argument(c, c->schema->args[0].name, &z));
    args[0] = tensor_of(c, (complex_value){z.re, unary(c, "neg", z.im)});
    if (!args[0].u.t) return complex_no_memory(c);
  }
  plain.args = args;
  return product(&plain);
}

/* beta input + alpha (a b), of addmm and its relatives. */
static kiln_status add_product(lower_call *c) {
  static const char *const pairs[][2] = {{"aten::addmm", "aten::mm"},
                                         {"aten::addmv", "aten::mv"},
                                         {"aten::baddbmm", "aten::bmm"},
                                         {"aten::addr", "aten::outer"},
                                         {"aten::addbmm", "aten::bmm"}};
  const char *inner = NULL;
  ivalue r, given[2] = {c->args[1], c->args[2]};
  for (size_t i = 0; i < KILN_COUNT(pairs); i++)
    if (str_eq(c->schema->name, pairs[i][0])) inner = pairs[i][1];
  if (!inner || c->schema->n_args < 5) return refuse(c);
  KILN_TRY(run_other(c, inner, "", 2, given, &r));
  if (str_eq(c->schema->name, "aten::addbmm")) {
    ivalue zero = int_of(0), axes = {.kind = IV_LIST, .count = 1};
    axes.u.items = arena_copy(c->im->arena, &zero, sizeof zero);
    if (!axes.u.items) return complex_no_memory(c);
    const ivalue sum[2] = {r, axes};
    KILN_TRY(run_other(c, "aten::sum", "dim_IntList", 2, sum, &r));
  }
  const ivalue scaled[2] = {r, *call_arg(c, "alpha")}, kept[2] = {c->args[0], *call_arg(c, "beta")};
  ivalue sum[2];
  KILN_TRY(run_other(c, "aten::mul", "Scalar", 2, kept, &sum[0]));
  KILN_TRY(run_other(c, "aten::mul", "Scalar", 2, scaled, &sum[1]));
  return run_other(c, "aten::add", "Tensor", 2, sum, &c->results[0]);
}

/* self + value a b, and self + value a / b */
static kiln_status add_scaled(lower_call *c) {
  ivalue r, given[2] = {c->args[1], c->args[2]};
  const bool divides = str_eq(c->schema->name, "aten::addcdiv");
  KILN_TRY(run_other(c, divides ? "aten::div" : "aten::mul", "Tensor", 2, given, &r));
  const ivalue scaled[2] = {r, *call_arg(c, "value")};
  ivalue sum[2] = {c->args[0], r};
  KILN_TRY(run_other(c, "aten::mul", "Scalar", 2, scaled, &sum[1]));
  return run_other(c, "aten::add", "Tensor", 2, sum, &c->results[0]);
}

/* start + weight (end - start) */
static kiln_status interpolate(lower_call *c) {
  ivalue r;
  const ivalue given[2] = {c->args[1], c->args[0]};
  const ivalue *weight = call_arg(c, "weight");
  KILN_TRY(run_other(c, "aten::sub", "Tensor", 2, given, &r));
  const ivalue scaled[2] = {r, *weight};
  ivalue sum[2] = {c->args[0], r};
  KILN_TRY(run_other(c, "aten::mul", weight->kind == IV_TENSOR ? "Tensor" : "Scalar", 2, scaled, &sum[1]));
  return run_other(c, "aten::add", "Tensor", 2, sum, &c->results[0]);
}

static kiln_status divide(lower_call *c) {
  complex_value x, y;
  if (c->schema->n_args > 2) return refuse(c); /* a rounding mode */
  if (!complex_is(call_arg(c, "other"))) return complex_by_parts(c, NULL);
  KILN_TRY(complex_argument(c, "self", &x));
  KILN_TRY(complex_argument(c, "other", &y));
  complex_return(c, 0, complex_divide(&c->b, x, y));
  return KILN_OK;
}

static kiln_status add_sub(lower_call *c) {
  complex_value x, y;
  const ivalue *alpha = call_arg(c, "alpha");
  const bool reverse = str_eq(c->schema->name, "aten::rsub");
  const bool subtract = reverse || str_starts(c->schema->name, "aten::sub");
  const char *name = subtract ? "sub" : "add";
  KILN_TRY(complex_argument(c, reverse ? "other" : "self", &x));
  KILN_TRY(complex_argument(c, reverse ? "self" : "other", &y));
  if (!(alpha->kind == IV_INT && alpha->u.i == 1)) {
    complex_value scale = {0};
    KILN_TRY(complex_argument(c, "alpha", &scale));
    if (!y.im) { /* as a complex number, so that the result is one of the right type */
      value *as_float = lowering_float(&c->b, y.re);
      y.re = as_float;
    }
    y = complex_multiply(&c->b, y, scale);
  }
  complex_value z = {NULL, NULL};
  value *a = x.re, *b = y.re;
  if (!a || !b) return complex_no_memory(c);
  lower_promote(&c->b, &a, reverse && lowering_is_number(c, "other"), &b, !reverse && lowering_is_number(c, "other"));
  z.re = lower_binary(&c->b, name, a, b);
  LOWER_NEED(c, z.re);
  if (x.im && y.im)
    z.im = binary(c, name, x.im, y.im);
  else if (x.im)
    z.im = x.im;
  else
    z.im = subtract ? unary(c, "neg", y.im) : y.im;
  if (!z.im) return complex_no_memory(c);
  z.im = lower_expand(&c->b, lower_cast(&c->b, z.im, z.re->type.dtype), z.re->type.rank, z.re->type.dims);
  LOWER_NEED(c, z.im);
  complex_return(c, 0, z);
  return KILN_OK;
}

static kiln_status power(lower_call *c) {
  const ivalue *e = call_arg(c, "exponent");
  complex_value x, y;
  const double known = e->kind == IV_INT ? (double)e->u.i : e->kind == IV_FLOAT ? e->u.f : 0.1;
  const bool widens = str_eq(c->schema->name, "aten::float_power");
  KILN_TRY(complex_argument(c, "self", &x));
  if (widens) x = (complex_value){lower_cast(&c->b, x.re, KILN_F64), x.im ? lower_cast(&c->b, x.im, KILN_F64) : NULL};
  if (x.im && (known == 2 || known == 3)) {
    const complex_value z = complex_multiply(&c->b, x, x);
    complex_return(c, 0, known == 2 ? z : complex_multiply(&c->b, z, x));
    return KILN_OK;
  }
  const char *name = known == 0.5 ? "sqrt" : known == -0.5 ? "rsqrt" : known == -1 ? "reciprocal" : NULL;
  if (x.im && name) {
    complex_return(c, 0, complex_function_find(name)(&c->b, x));
    return KILN_OK;
  }
  KILN_TRY(complex_argument(c, "exponent", &y));
  x.re = lowering_float(&c->b, x.re);
  y.re = lowering_float(&c->b, y.re);
  if (!x.re || !y.re) return complex_no_memory(c);
  lower_promote(&c->b, &x.re, lowering_is_number(c, "self"), &y.re, lowering_is_number(c, "exponent"));
  complex_return(c, 0, complex_power(&c->b, x, y));
  return KILN_OK;
}

/* ---- one tensor --------------------------------------------------------------------------------- */

static kiln_status function(lower_call *c) {
  const complex_function f = complex_function_find(c->schema->name + strlen("aten::"));
  complex_value z;
  KILN_TRY(complex_argument(c, c->schema->args[0].name, &z));
  if (!f || !z.im) return refuse(c);
  complex_return(c, 0, f(&c->b, z));
  return KILN_OK;
}

static kiln_status absolute(lower_call *c) {
  complex_value z;
  KILN_TRY(complex_argument(c, "self", &z));
  call_return(c, 0, complex_abs(&c->b, z));
  return KILN_OK;
}

static kiln_status angle(lower_call *c) {
  complex_value z;
  KILN_TRY(complex_argument(c, "self", &z));
  call_return(c, 0, binary(c, "atan2", z.im, z.re));
  return KILN_OK;
}

/* z / |z|, and 0 of 0. */
static kiln_status direction(lower_call *c) {
  complex_value z;
  KILN_TRY(complex_argument(c, "self", &z));
  value *length = complex_abs(&c->b, z), *zero = lowering_scalar_like(&c->b, z.re, 0);
  value *none = binary(c, "eq", length, zero);
  complex_return(c, 0,
                 (complex_value){build(&c->b, "where", IN(none, zero, binary(c, "div", z.re, length)), NO_ATTRS),
                                 build(&c->b, "where", IN(none, zero, binary(c, "div", z.im, length)), NO_ATTRS)});
  return KILN_OK;
}

static kiln_status part(lower_call *c) {
  itensor *t = call_arg(c, "self")->u.t->parts[str_ends(c->schema->name, "imag")];
  value *v = lower_value(&c->b, t);
  if (v) complex_return_tensor(c, 0, handle_view(c->im, t, v));
  return v ? KILN_OK : complex_no_memory(c);
}

/* A conjugate shares memory in PyTorch; here it is a copy, so a write to either makes the other unreadable. */
static kiln_status conjugate(lower_call *c) {
  const itensor *t = call_arg(c, "self")->u.t;
  complex_value z;
  KILN_TRY(complex_argument(c, "self", &z));
  complex_return(c, 0, (complex_value){z.re, unary(c, "neg", z.im)});
  KILN_TRY(graph_check(c->b.graph));
  if (str_ends(c->schema->name, "physical")) return KILN_OK;
  for (int i = 0; i < 2; i++)
    if (!handle_link(c->im, t->parts[i], c->results[0].u.t->parts[i])) return complex_no_memory(c);
  return KILN_OK;
}

/* The conjugate of what the row makes of the parts: mH and the like. */
static kiln_status conjugate_view(lower_call *c) {
  ivalue view;
  lower_call of_parts = *c;
  of_parts.results = &view;
  KILN_TRY(by_parts_of_first(&of_parts));
  return run_other(c, "aten::conj", "", 1, &view, &c->results[0]);
}

static kiln_status itself(lower_call *c) {
  c->results[0] = c->args[0];
  return KILN_OK;
}

static kiln_status as_real(lower_call *c) {
  const itensor *t = call_arg(c, "self")->u.t;
  complex_value z;
  KILN_TRY(complex_argument(c, "self", &z));
  if (z.re->type.rank == KILN_MAX_RANK)
    return LOWER_FAIL(c, "the result would have more than %d dimensions", KILN_MAX_RANK);
  call_return(c, 0, complex_pack(&c->b, t));
  KILN_TRY(graph_check(c->b.graph));
  for (int i = 0; i < 2 && !str_ends(c->schema->name, "_copy"); i++) /* as in conjugate */
    if (!handle_link(c->im, t->parts[i], c->results[0].u.t)) return complex_no_memory(c);
  return KILN_OK;
}

/* .to(dtype): of the parts for complex ones; the real part for real ones, as PyTorch does with a warning. */
static kiln_status convert(lower_call *c) {
  ivalue args[COMPLEX_MAX_ARGS];
  kiln_dtype dtype;
  bool any;
  if (!complex_is(&c->args[0]) || str_eq(c->schema->overload, "other")) return refuse(c);
  const ivalue *asked = call_arg(c, "dtype");
  complex_value z;
  if (asked->kind == IV_DTYPE && asked->u.i >= 0) {
    KILN_TRY(complex_argument(c, "self", &z));
    if (asked->u.i == KILN_BOOL) return LOWER_FAIL(c, "bool() of a complex tensor is not supported; compare it with 0");
    call_return(c, 0, lower_cast(&c->b, z.re, (kiln_dtype)asked->u.i));
    return KILN_OK;
  }
  lower_call of_parts = *c;
  if (!part_asked(c, args, &dtype, &any)) return refuse(c);
  of_parts.args = args;
  return complex_by_parts(&of_parts, NULL);
}

/* Of the differences' lengths. */
static kiln_status distance(lower_call *c) {
  ivalue r;
  complex_value z;
  KILN_TRY(run_other(c, "aten::sub", "Tensor", 2, c->args, &r));
  if (!complex_is(&r)) return refuse(c);
  z = (complex_value){lower_value(&c->b, r.u.t->parts[0]), lower_value(&c->b, r.u.t->parts[1])};
  value *length = complex_abs(&c->b, z);
  ivalue given[3] = {tensor_of(c, (complex_value){length, NULL}), {0}, {0}};
  if (!given[0].u.t) return complex_no_memory(c);
  if (str_ends(c->schema->name, "dist")) {
    given[1] = *call_arg(c, "p");
    return run_other(c, "aten::linalg_vector_norm", "", 2, given, &c->results[0]);
  }
  given[1] = tensor_of(
      c, (complex_value){lowering_full(&c->b, length->type.dtype, length->type.rank, length->type.dims, 0), NULL});
  given[2] = *call_arg(c, "reduction");
  return given[1].u.t ? run_other(c, c->schema->name, "", 3, given, &c->results[0]) : complex_no_memory(c);
}

static kiln_status copy(lower_call *c) {
  if (!complex_is(&c->args[0])) return LOWER_FAIL(c, "a complex tensor copied to a real one is not supported");
  if (complex_is(call_arg(c, "src"))) return complex_by_parts(c, NULL);
  value *x = call_tensor(c, "src"), *re = lower_value(&c->b, c->args[0].u.t->parts[0]);
  if (!x || !re) return complex_no_memory(c);
  x = lower_expand(&c->b, lower_cast(&c->b, x, re->type.dtype), re->type.rank, re->type.dims);
  complex_return(c, 0, (complex_value){x, lowering_full(&c->b, re->type.dtype, re->type.rank, re->type.dims, 0)});
  return KILN_OK;
}

static kiln_status compare(lower_call *c) {
  complex_value x, y;
  const bool equal = str_eq(c->schema->name, "aten::eq");
  const char *name = equal ? "eq" : "ne";
  KILN_TRY(complex_argument(c, "self", &x));
  KILN_TRY(complex_argument(c, "other", &y));
  value *im = x.im && y.im ? binary(c, name, x.im, y.im) : NULL, *only = x.im ? x.im : y.im;
  if (!im && only) im = binary(c, name, only, lowering_scalar_like(&c->b, only, 0));
  call_return(c, 0, binary(c, equal ? "logical_and" : "logical_or", binary(c, name, x.re, y.re), im));
  return KILN_OK;
}

static kiln_status of_any_part(lower_call *c) {
  complex_value z;
  KILN_TRY(complex_argument(c, "self", &z));
  if (str_ends(c->schema->name, "isfinite")) {
    value *lost[2];
    for (int i = 0; i < 2; i++) {
      value *v = i ? z.im : z.re;
      lost[i] = binary(c, "logical_or", unary(c, "isnan", v), unary(c, "isinf", v));
    }
    call_return(c, 0, unary(c, "logical_not", binary(c, "logical_or", lost[0], lost[1])));
    return KILN_OK;
  }
  const char *name = str_ends(c->schema->name, "isnan") ? "isnan" : "isinf";
  call_return(c, 0, binary(c, "logical_or", unary(c, name, z.re), unary(c, name, z.im)));
  return KILN_OK;
}

/* ---- reductions --------------------------------------------------------------------------------- */

/* The variance of z is that of its parts added. */
static kiln_status variance(lower_call *c) {
  ivalue results[2][COMPLEX_MAX_RESULTS];
  value *v[2];
  const bool deviation = str_starts(c->schema->name, "aten::std");
  if (!complex_is(&c->args[0]) || c->n_results > 2) return refuse(c);
  for (int k = 0; k < 2; k++) {
    KILN_TRY(complex_run_parts(c, &k, NULL, results[k]));
    v[k] = results[k][0].kind == IV_TENSOR ? lower_value(&c->b, results[k][0].u.t) : NULL;
    if (deviation && v[k]) v[k] = unary(c, "square", v[k]);
  }
  value *sum = binary(c, "add", v[0], v[1]);
  call_return(c, 0, deviation && sum ? unary(c, "sqrt", sum) : sum);
  if (c->n_results == 2) complex_return_tensor(c, 1, complex_tensor(c->im, results[0][1].u.t, results[1][1].u.t));
  return KILN_OK;
}

/* By lengths and angles. */
static kiln_status product_of_all(lower_call *c) {
  ivalue args[COMPLEX_MAX_ARGS], lengths, angles;
  lower_call real = *c;
  complex_value z;
  kiln_dtype dtype;
  bool any;
  const char *sum = str_eq(c->schema->name, "aten::cumprod") ? "aten::cumsum" : "aten::sum";
  if (!part_asked(c, args, &dtype, &any)) return refuse(c);
  KILN_TRY(complex_argument(c, "self", &z));
  args[0] = tensor_of(c, (complex_value){complex_abs(&c->b, z), NULL});
  if (!args[0].u.t) return complex_no_memory(c);
  real.args = args;
  real.results = &lengths;
  real.in_place = false;
  KILN_TRY(lower_run(&real));
  value *turns = binary(c, "atan2", z.im, z.re);
  ivalue given[3] = {tensor_of(c, (complex_value){turns, NULL}), {0}, {0}};
  if (!given[0].u.t) return complex_no_memory(c);
  int n = 1;
  const char *overload = "";
  if (str_eq(sum, "aten::cumsum")) {
    given[n++] = *call_arg(c, "dim");
  } else if (str_eq(c->schema->overload, "dim_int")) {
    given[1] = (ivalue){.kind = IV_LIST, .count = 1};
    given[1].u.items = arena_copy(c->im->arena, call_arg(c, "dim"), sizeof(ivalue));
    given[2] = *call_arg(c, "keepdim");
    if (!given[1].u.items) return complex_no_memory(c);
    n = 3;
    overload = "dim_IntList";
  }
  KILN_TRY(run_other(c, sum, overload, n, given, &angles));
  value *length = lengths.kind == IV_TENSOR ? lower_value(&c->b, lengths.u.t) : NULL;
  value *turn = angles.kind == IV_TENSOR ? lower_value(&c->b, angles.u.t) : NULL;
  if (!length || !turn) return complex_no_memory(c);
  complex_return(c, 0, complex_from_polar(&c->b, length, lower_cast(&c->b, turn, length->type.dtype)));
  return KILN_OK;
}

/* ---- matrices ----------------------------------------------------------------------------------- */

/* [[A, -B], [B, A]] of A + Bi: sums, products and inverses of such matrices are those of the complex ones. */
static value *embed(lower_call *c, complex_value z) {
  if (!z.re) return NULL;
  const int rank = z.re->type.rank;
  value *im = z.im ? z.im : lowering_full(&c->b, z.re->type.dtype, rank, z.re->type.dims, 0);
  value *top = build(&c->b, "concat", IN(z.re, im ? unary(c, "neg", im) : NULL), ATTRS(A_INT("axis", rank - 1)));
  value *bottom = build(&c->b, "concat", IN(im, z.re), ATTRS(A_INT("axis", rank - 1)));
  return build(&c->b, "concat", IN(top, bottom), ATTRS(A_INT("axis", rank - 2)));
}

/* Its left half. */
static complex_value unembed(lower_call *c, value *v) {
  complex_value z = {NULL, NULL};
  if (!v || v->type.rank < 2) return z;
  const int rank = v->type.rank;
  const dim rows = dim_floordiv(c->b.graph->dims, v->type.dims[rank - 2], 2);
  const dim columns = dim_floordiv(c->b.graph->dims, v->type.dims[rank - 1], 2);
  value *left = lowering_slice(&c->b, v, rank - 1, 0, columns, 1);
  z.re = left ? lowering_slice(&c->b, left, rank - 2, 0, rows, 1) : NULL;
  z.im = left ? lowering_slice(&c->b, left, rank - 2, rows, v->type.dims[rank - 2], 1) : NULL;
  return z;
}

/* The hermitian matrix that the lower (or upper) triangle of z tells. */
static kiln_status hermitian(lower_call *c, bool upper, complex_value *z) {
  const char *name = upper ? "aten::triu" : "aten::tril";
  value *parts[2] = {z->re, z->im};
  for (int k = 0; k < 2; k++) {
    ivalue strict, whole, given[2] = {tensor_of(c, (complex_value){parts[k], NULL}), int_of(upper ? 1 : -1)};
    if (!given[0].u.t) return complex_no_memory(c);
    KILN_TRY(run_other(c, name, "", 2, given, &strict));
    given[1] = int_of(0);
    KILN_TRY(run_other(c, name, "", 2, given, &whole));
    value *part = strict.kind == IV_TENSOR ? lower_value(&c->b, strict.u.t) : NULL;
    value *half = whole.kind == IV_TENSOR ? lower_value(&c->b, whole.u.t) : NULL;
    const int rank = part ? part->type.rank : 0;
    value *mirrored = part ? lowering_move_axis(&c->b, part, rank - 1, rank - 2) : NULL;
    parts[k] = binary(c, k ? "sub" : "add", k ? part : half, mirrored);
  }
  *z = (complex_value){parts[0], parts[1]};
  return z->re && z->im ? KILN_OK : complex_no_memory(c);
}

static kiln_status by_embedding(lower_call *c) {
  ivalue args[COMPLEX_MAX_ARGS];
  lower_call real = *c;
  complex_value z;
  memcpy(args, c->args, (size_t)c->schema->n_args * sizeof *args);
  KILN_TRY(complex_argument(c, c->schema->args[0].name, &z));
  if (!z.re || z.re->type.rank < 2) return refuse(c);
  for (int i = 0; i < 2; i++)
    if (!dim_is_const(z.re->type.dims[z.re->type.rank - 1 - i])) return LOWER_FAIL(c, "complex matrices of open size");
  for (int32_t i = 0; i < c->schema->n_args; i++)
    if (str_eq(c->schema->args[i].name, "hermitian") && c->args[i].u.i && z.im) KILN_TRY(hermitian(c, false, &z));
  args[0] = tensor_of(c, (complex_value){embed(c, z), NULL});
  if (!args[0].u.t) return complex_no_memory(c);
  real.args = args;
  real.in_place = false;
  if (complex_count(&real)) return refuse(c); /* other complex arguments: tolerances, say */
  KILN_TRY(lower_run(&real));
  if (c->results[0].kind != IV_TENSOR) return refuse(c);
  complex_return(c, 0, unembed(c, lower_value(&c->b, c->results[0].u.t)));
  return KILN_OK;
}

/* Singular and eigenvalues are there twice. */
static kiln_status every_second(lower_call *c) {
  ivalue args[COMPLEX_MAX_ARGS];
  lower_call real = *c;
  complex_value z;
  memcpy(args, c->args, (size_t)c->schema->n_args * sizeof *args);
  KILN_TRY(complex_argument(c, c->schema->args[0].name, &z));
  if (!z.im || z.re->type.rank < 2) return refuse(c);
  if (str_ends(c->schema->name, "eigvalsh")) KILN_TRY(hermitian(c, *call_str(c, "UPLO") == 'U', &z));
  args[0] = tensor_of(c, (complex_value){embed(c, z), NULL});
  if (!args[0].u.t) return complex_no_memory(c);
  real.args = args;
  KILN_TRY(lower_run(&real));
  value *all = c->results[0].kind == IV_TENSOR ? lower_value(&c->b, c->results[0].u.t) : NULL;
  if (!all) return complex_no_memory(c);
  call_return(c, 0, lowering_slice(&c->b, all, all->type.rank - 1, 0, all->type.dims[all->type.rank - 1], 2));
  return KILN_OK;
}

/* X of A X = B, or of X A = B, by the inverse's embedding: [[A, -B], [B, A]] [re; im] = [re; im]. */
static kiln_status solve(lower_call *c) {
  complex_value a, b;
  ivalue r;
  const bool left = c->schema->n_args < 3 || call_bool(c, "left");
  KILN_TRY(complex_argument(c, "A", &a));
  KILN_TRY(complex_argument(c, "B", &b));
  if (!left || !a.re || !b.re || a.re->type.rank < 2) return refuse(c);
  const bool vector = b.re->type.rank == 1 || (b.re->type.rank == a.re->type.rank - 1 && a.re->type.rank > 2);
  const int axis = b.re->type.rank - (vector ? 1 : 2);
  value *im = b.im ? b.im : lowering_full(&c->b, b.re->type.dtype, b.re->type.rank, b.re->type.dims, 0);
  value *stacked = build(&c->b, "concat", IN(b.re, im), ATTRS(A_INT("axis", axis)));
  const ivalue given[2] = {tensor_of(c, (complex_value){embed(c, a), NULL}),
                           tensor_of(c, (complex_value){stacked, NULL})};
  if (!given[0].u.t || !given[1].u.t) return complex_no_memory(c);
  KILN_TRY(run_other(c, "aten::linalg_solve", "", 2, given, &r));
  value *x = r.kind == IV_TENSOR ? lower_value(&c->b, r.u.t) : NULL;
  if (!x) return complex_no_memory(c);
  const int at = x->type.rank - (vector ? 1 : 2);
  const dim half = dim_floordiv(c->b.graph->dims, x->type.dims[at], 2);
  complex_return(c, 0,
                 (complex_value){lowering_slice(&c->b, x, at, 0, half, 1),
                                 lowering_slice(&c->b, x, at, half, x->type.dims[at], 1)});
  for (int32_t i = 1; i < c->n_results; i++) c->results[i] = (ivalue){.kind = IV_NONE};
  return KILN_OK;
}

/* ---- the table ---------------------------------------------------------------------------------- */

static const struct {
  complex_rule run;
  const char *names; /* in spaces */
} rules[] = {
    {by_parts_of_first,
     " alias alias_copy atleast_1d atleast_2d atleast_3d broadcast_tensors broadcast_to cat channel_shuffle chunk "
     "clone column_stack concat concatenate contiguous cpu detach detach_copy diag diag_embed diagonal diagonal_copy "
     "diff dropout dsplit dstack expand expand_copy flatten flip fliplr flipud gather hsplit hstack im2col col2im "
     "index_select lift_fresh lift_fresh_copy linalg_diagonal meshgrid movedim moveaxis mT narrow narrow_copy "
     "native_channel_shuffle neg negative numpy_T permute permute_copy pixel_shuffle pixel_unshuffle positive ravel "
     "repeat repeat_interleave reshape roll rot90 select select_copy slice slice_copy split split_copy "
     "split_with_sizes split_with_sizes_copy squeeze squeeze_copy stack swapaxes swapdims t t_copy take take_along_dim "
     "tensor_split tile trace transpose transpose_copy tril triu unbind unbind_copy unflatten unfold unfold_copy "
     "unsafe_chunk unsafe_split unsafe_split_with_sizes unsqueeze unsqueeze_copy _unsafe_view view view_copy vsplit "
     "vstack "},
    {like_other, " expand_as view_as reshape_as "},
    {mixes,
     " where masked_fill fill index_fill index_add index_copy scatter scatter_add "
     "slice_scatter select_scatter diagonal_scatter masked_scatter put zero "},
    {indexing, " index index_put _unsafe_index _unsafe_index_put "},
    {masked_select, " masked_select "},
    {reduction, " sum mean cumsum "},
    {padding, " pad constant_pad_nd "},
    {by_truth,
     " any all count_nonzero nonzero nonzero_numpy nonzero_static logical_not logical_and logical_or logical_xor "},
    {by_magnitude, " linalg_vector_norm norm frobenius_norm "},
    {matrix_norm, " linalg_norm linalg_matrix_norm "},
    {product, " bmm einsum matmul linalg_matmul mm mul multiply mv dot outer ger inner kron tensordot linalg_cross "},
    {biased_product, " linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution "},
    {conjugate_product, " vdot linalg_vecdot "},
    {add_product, " addmm addmv baddbmm addbmm addr "},
    {add_scaled, " addcmul addcdiv "},
    {interpolate, " lerp "},
    {divide, " div divide true_divide "},
    {add_sub, " add sub subtract rsub "},
    {power, " pow float_power "},
    {absolute, " abs absolute "},
    {angle, " angle "},
    {direction, " sgn "},
    {part, " real imag "},
    {conjugate, " conj _conj conj_physical _conj_physical "},
    {conjugate_view, " mH matrix_H adjoint "},
    {itself, " resolve_conj resolve_neg "},
    {as_real, " view_as_real view_as_real_copy "},
    {convert, " to _to_copy "},
    {copy, " copy "},
    {distance, " dist l1_loss "},
    {compare, " eq ne not_equal "},
    {of_any_part, " isfinite isnan isinf "},
    {variance, " var std var_mean std_mean "},
    {product_of_all, " prod cumprod "},
    {by_embedding, " linalg_inv linalg_inv_ex inverse linalg_pinv pinverse linalg_matrix_exp matrix_exp "},
    {every_second, " linalg_svdvals linalg_eigvalsh "},
    {solve, " linalg_solve "},
};

complex_rule complex_rule_find(const char *name) {
  const size_t n = strlen(name);
  if (n == 0 || strchr(name, ' ')) return NULL;
  if (complex_function_find(name)) return function;
  for (size_t i = 0; i < KILN_COUNT(rules); i++)
    for (const char *s = rules[i].names; (s = strstr(s, name)) != NULL; s++)
      if (s[-1] == ' ' && s[n] == ' ') return rules[i].run;
  return NULL;
}
