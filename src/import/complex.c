/* Operators on complex tensors: most of them do the same to both parts; the others are written here in terms of real
 * operators. */
#include "import/complex.h"

#include <string.h>

#include "import/fourier.h"
#include "import/handles.h"
#include "ops/lowering.h"

enum { MAX_ARGS = 64 };

itensor *complex_tensor(importer *im, itensor *re, itensor *imaginary) {
  itensor *t = re && imaginary ? lower_tensor(im, NULL) : NULL;
  if (!t) return NULL;
  t->parts[0] = re;
  t->parts[1] = imaginary;
  return t;
}

itensor *complex_unpack(importer *im, builder *b, value *pairs) {
  itensor *parts[2] = {NULL, NULL};
  for (int i = 0; i < 2 && pairs; i++) {
    value *v = lowering_select(b, pairs, pairs->type.rank - 1, i);
    parts[i] = v ? lower_tensor(im, v) : NULL;
  }
  return complex_tensor(im, parts[0], parts[1]);
}

value *complex_pack(builder *b, const itensor *t) {
  value *re = lower_value(b, t->parts[0]), *im = lower_value(b, t->parts[1]);
  if (!re || !im) return NULL;
  const int rank = re->type.rank;
  if (rank == KILN_MAX_RANK && !b->graph->failed) {
    b->graph->failed = true;
    b->graph->failure = KILN_FAIL(KILN_UNSUPPORTED, "a complex input or output with more than %d dimensions", rank - 1);
  }
  return build(b, "concat", IN(lowering_unsqueeze(b, re, rank), lowering_unsqueeze(b, im, rank)),
               ATTRS(A_INT("axis", rank)));
}

value *complex_value_of(builder *b, itensor *t, bool *out_complex) {
  *out_complex = t && t->parts[0];
  return *out_complex ? complex_pack(b, t) : lower_value(b, t);
}

uint32_t complex_version(const itensor *t) {
  return t->parts[0] ? t->parts[0]->version + t->parts[1]->version : t->version;
}

kiln_status complex_write(builder *b, itensor *t, itensor *from) {
  if (!t->parts[0] && !from->parts[0]) return lower_write(b, t, lower_value(b, from));
  if (!t->parts[0] || !from->parts[0])
    return KILN_FAIL(KILN_UNSUPPORTED, "a write that mixes complex and real tensors is not supported");
  for (int i = 0; i < 2; i++) KILN_TRY(lower_write(b, t->parts[i], lower_value(b, from->parts[i])));
  return KILN_OK;
}

static bool is_complex(const ivalue *v) { return v->kind == IV_TENSOR && v->u.t->parts[0]; }

/* How many complex tensors are among the arguments? */
static int count_complex(const lower_call *c) {
  int n = 0;
  for (int32_t i = 0; i < c->schema->n_args; i++) {
    const ivalue *v = &c->args[i];
    n += is_complex(v) || v->kind == IV_COMPLEX;
    for (int32_t k = 0; v->kind == IV_LIST && k < v->count; k++) n += is_complex(&v->u.items[k]);
  }
  return n;
}

static const char *short_name(const aten_schema *schema) {
  return str_starts(schema->name, "aten::") ? schema->name + 6 : "";
}

/* Operators that fill a new tensor. */
static bool fills(const aten_schema *schema) {
  static const char *const names[] = {"zeros",      "ones",      "full",      "empty",     "zeros_like", "ones_like",
                                      "empty_like", "full_like", "new_zeros", "new_empty", "new_ones",   "new_full"};
  const char *name = short_name(schema);
  for (size_t i = 0; i < KILN_COUNT(names); i++)
    if (str_eq(names[i], name)) return true;
  return false;
}

static bool asks_complex(const lower_call *c) {
  kiln_dtype part;
  for (int32_t i = 0; i < c->schema->n_args; i++)
    if (complex_dtype(&c->args[i], &part)) return true;
  return false;
}

bool complex_call(const lower_call *c) { return count_complex(c) > 0 || (asks_complex(c) && fills(c->schema)); }

static kiln_status no_memory(const lower_call *c) {
  KILN_TRY(graph_check(c->b.graph));
  return KILN_NO_MEMORY("complex tensor");
}

/* The floats that the call's complex numbers become part of. */
static kiln_dtype part_dtype(lower_call *c) {
  for (int32_t i = 0; i < c->schema->n_args; i++) {
    const ivalue *v = &c->args[i];
    if (v->kind == IV_LIST && v->count) v = &v->u.items[0];
    if (v->kind != IV_TENSOR) continue;
    const value *x = lower_value(&c->b, v->u.t->parts[0] ? v->u.t->parts[0] : v->u.t);
    if (x && dtype_is_float(x->type.dtype)) return x->type.dtype;
  }
  return KILN_F32;
}

/* Python's complex numbers become tensors. */
static kiln_status convert_numbers(lower_call *c) {
  for (int32_t i = 0; i < c->schema->n_args; i++) {
    ivalue *v = &c->args[i];
    itensor *parts[2];
    if (v->kind != IV_COMPLEX) continue;
    const kiln_dtype dtype = part_dtype(c);
    for (int k = 0; k < 2; k++) {
      value *x = graph_scalar(c->b.graph, dtype, v->u.items[k].u.f);
      parts[k] = x ? lower_tensor(c->im, x) : NULL;
    }
    *v = (ivalue){.kind = IV_TENSOR};
    v->u.t = complex_tensor(c->im, parts[0], parts[1]);
    if (!v->u.t) return no_memory(c);
  }
  return KILN_OK;
}

/* ---- values ------------------------------------------------------------------------------------- */

kiln_status complex_argument(lower_call *c, const char *name, complex_value *out) {
  const ivalue *v = call_arg(c, name);
  *out = (complex_value){0};
  if (!is_complex(v)) return lowering_tensor(c, name, &out->re);
  out->re = lower_value(&c->b, v->u.t->parts[0]);
  out->im = lower_value(&c->b, v->u.t->parts[1]);
  return out->re && out->im ? KILN_OK : no_memory(c);
}

static void return_tensor(lower_call *c, int i, itensor *t) {
  ivalue r = {.kind = IV_TENSOR};
  r.u.t = t;
  if (t) call_return_ivalue(c, i, r);
}

void complex_return(lower_call *c, int i, complex_value z) {
  if (!z.im) {
    call_return(c, i, z.re);
  } else if (z.re) {
    return_tensor(c, i, complex_tensor(c->im, lower_tensor(c->im, z.re), lower_tensor(c->im, z.im)));
  }
}

static value *unary(lower_call *c, const char *name, value *x) { return build(&c->b, name, IN(x), NO_ATTRS); }
static value *binary(lower_call *c, const char *name, value *x, value *y) { return lower_binary(&c->b, name, x, y); }
static value *squares(lower_call *c, complex_value z) {
  return binary(c, "add", unary(c, "square", z.re), unary(c, "square", z.im));
}

/* ---- by parts ----------------------------------------------------------------------------------- */

/* The call's row with part pick[n] in place of the n-th complex tensor. */
static kiln_status run_parts(lower_call *c, const int *pick, ivalue *results) {
  ivalue args[MAX_ARGS];
  lower_call part = *c;
  int n = 0;
  for (int32_t i = 0; i < c->schema->n_args; i++) {
    args[i] = c->args[i];
    if (is_complex(&args[i])) args[i].u.t = args[i].u.t->parts[pick[n++]];
    if (args[i].kind != IV_LIST || args[i].count == 0) continue;
    args[i].u.items = arena_copy(c->im->arena, c->args[i].u.items, (size_t)args[i].count * sizeof(ivalue));
    if (!args[i].u.items) return no_memory(c);
    for (int32_t k = 0; k < args[i].count; k++) {
      ivalue *item = &args[i].u.items[k];
      if (is_complex(item)) item->u.t = item->u.t->parts[pick[n++]];
    }
  }
  part.args = args;
  part.results = results;
  return lower_run(&part);
}

static kiln_status join(lower_call *c, const ivalue *re, const ivalue *im, ivalue *out) {
  *out = *re;
  if (re->kind == IV_TENSOR) {
    out->u.t = complex_tensor(c->im, re->u.t, im->u.t);
    return out->u.t ? KILN_OK : no_memory(c);
  }
  if (re->kind != IV_LIST) return KILN_OK;
  out->u.items = ARENA_ARRAY(c->im->arena, ivalue, re->count ? re->count : 1);
  if (!out->u.items) return no_memory(c);
  for (int32_t i = 0; i < re->count; i++) KILN_TRY(join(c, &re->u.items[i], &im->u.items[i], &out->u.items[i]));
  return KILN_OK;
}

enum { MAX_PARTS = 64, MAX_RESULTS = 16 };

/* The same to the real and to the imaginary part. */
static kiln_status by_parts(lower_call *c) {
  ivalue results[2][MAX_RESULTS];
  const int n = count_complex(c);
  if (n > MAX_PARTS || c->n_results > MAX_RESULTS) return LOWER_FAIL(c, "more than %d complex tensors", MAX_PARTS);
  for (int k = 0; k < 2; k++) {
    int pick[MAX_PARTS] = {0};
    for (int i = 0; i < n; i++) pick[i] = k;
    KILN_TRY(run_parts(c, pick, results[k]));
  }
  for (int32_t i = 0; i < c->n_results; i++) KILN_TRY(join(c, &results[0][i], &results[1][i], &c->results[i]));
  if (c->in_place && c->n_results) c->results[0] = c->args[0];
  return KILN_OK;
}

/* The same, of one tensor or a list in which all are complex. */
static kiln_status by_parts_of_first(lower_call *c) {
  const ivalue *v = &c->args[0];
  const int n = count_complex(c);
  if (v->kind == IV_LIST ? n != v->count : n != 1 || !is_complex(v))
    return LOWER_FAIL(c, "complex and real tensors together are not supported here");
  return by_parts(c);
}

static kiln_status where(lower_call *c) {
  if (c->schema->n_args != 3 || !is_complex(call_arg(c, "self")) || !is_complex(call_arg(c, "other")))
    return LOWER_FAIL(c, "complex and real tensors together are not supported here");
  return by_parts(c);
}

static kiln_status reduction(lower_call *c) {
  if (!call_is_none(c, "dtype")) return LOWER_FAIL(c, "argument dtype is not supported for complex tensors");
  return by_parts_of_first(c);
}

/* Padding puts the number into the real part only, so it must be 0. */
static kiln_status padding(lower_call *c) {
  const bool fills = str_ends(c->schema->name, "constant_pad_nd");
  if ((fills || str_eq(call_str(c, "mode"), "constant")) && !call_is_none(c, "value") && call_float(c, "value") != 0)
    return LOWER_FAIL(c, "complex tensors are padded with 0 only");
  return by_parts_of_first(c);
}

/* ---- products ----------------------------------------------------------------------------------- */

static kiln_status run_values(lower_call *c, int first, int second, value **out) {
  ivalue results[MAX_RESULTS];
  const int pick[2] = {first, second};
  KILN_TRY(run_parts(c, pick, results));
  *out = results[0].kind == IV_TENSOR ? lower_value(&c->b, results[0].u.t) : NULL;
  return *out ? KILN_OK : no_memory(c);
}

/* What is linear in each of two tensors: (a + bi)(c + di) = ac - bd + (ad + bc)i. */
static kiln_status product(lower_call *c) {
  value *rr, *ii, *ri, *ir;
  const int n = count_complex(c);
  if (n == 1) return by_parts(c);
  if (n > 2 || c->n_results != 1) return LOWER_FAIL(c, "products of more than two complex tensors are not supported");
  lower_call plain = *c;
  plain.in_place = false; /* the parts are needed until the end */
  KILN_TRY(run_values(&plain, 0, 0, &rr));
  KILN_TRY(run_values(&plain, 1, 1, &ii));
  KILN_TRY(run_values(&plain, 0, 1, &ri));
  KILN_TRY(run_values(&plain, 1, 0, &ir));
  complex_return(c, 0, (complex_value){binary(c, "sub", rr, ii), binary(c, "add", ri, ir)});
  return KILN_OK;
}

static kiln_status square_power(lower_call *c) {
  const ivalue *e = call_arg(c, "exponent");
  complex_value z;
  if (!(e->kind == IV_INT && e->u.i == 2) && !(e->kind == IV_FLOAT && e->u.f == 2))
    return LOWER_FAIL(c, "of complex tensors, only power 2 is supported");
  KILN_TRY(complex_argument(c, "self", &z));
  value *product_of = binary(c, "mul", z.re, z.im);
  complex_return(c, 0,
                 (complex_value){binary(c, "sub", unary(c, "square", z.re), unary(c, "square", z.im)),
                                 binary(c, "add", product_of, product_of)});
  return KILN_OK;
}

static value *promoted(lower_call *c, const char *name, value *x, value *y, bool y_is_number) {
  lower_promote(&c->b, &x, false, &y, y_is_number);
  return binary(c, name, x, y);
}

/* x / y = x conj(y) / |y|^2. */
static kiln_status divide(lower_call *c) {
  complex_value x, y;
  if (!is_complex(call_arg(c, "other"))) return by_parts(c);
  KILN_TRY(complex_argument(c, "self", &x));
  KILN_TRY(complex_argument(c, "other", &y));
  value *norm = squares(c, y), *re = promoted(c, "mul", y.re, x.re, false), *im;
  if (x.im) {
    re = binary(c, "add", re, promoted(c, "mul", y.im, x.im, false));
    im = binary(c, "sub", promoted(c, "mul", y.re, x.im, false), promoted(c, "mul", y.im, x.re, false));
  } else {
    im = unary(c, "neg", promoted(c, "mul", y.im, x.re, false));
  }
  complex_return(c, 0, (complex_value){promoted(c, "div", re, norm, false), promoted(c, "div", im, norm, false)});
  return KILN_OK;
}

static kiln_status reciprocal(lower_call *c) {
  complex_value z;
  KILN_TRY(complex_argument(c, "self", &z));
  value *norm = squares(c, z);
  complex_return(c, 0, (complex_value){binary(c, "div", z.re, norm), binary(c, "div", unary(c, "neg", z.im), norm)});
  return KILN_OK;
}

static kiln_status add_sub(lower_call *c) {
  complex_value x, y;
  const ivalue *alpha = call_arg(c, "alpha");
  const bool number = lowering_is_number(c, "other"), subtract = str_eq(c->schema->name, "aten::sub");
  const char *name = subtract ? "sub" : "add";
  if (!(alpha->kind == IV_INT && alpha->u.i == 1) && !(alpha->kind == IV_FLOAT && alpha->u.f == 1))
    return LOWER_FAIL(c, "argument alpha of complex tensors is not 1");
  KILN_TRY(complex_argument(c, "self", &x));
  KILN_TRY(complex_argument(c, "other", &y));
  complex_value z = {promoted(c, name, x.re, y.re, number), NULL};
  LOWER_NEED(c, z.re);
  if (x.im && y.im)
    z.im = promoted(c, name, x.im, y.im, false);
  else if (x.im)
    z.im = x.im;
  else
    z.im = subtract ? unary(c, "neg", y.im) : y.im;
  z.im = lower_expand(&c->b, lower_cast(&c->b, z.im, z.re->type.dtype), z.re->type.rank, z.re->type.dims);
  LOWER_NEED(c, z.im);
  complex_return(c, 0, z);
  return KILN_OK;
}

/* ---- one tensor --------------------------------------------------------------------------------- */

static kiln_status absolute(lower_call *c) {
  complex_value z;
  KILN_TRY(complex_argument(c, "self", &z));
  call_return(c, 0, unary(c, "sqrt", squares(c, z)));
  return KILN_OK;
}

static kiln_status angle(lower_call *c) {
  complex_value z;
  KILN_TRY(complex_argument(c, "self", &z));
  call_return(c, 0, binary(c, "atan2", z.im, z.re));
  return KILN_OK;
}

static kiln_status exponential(lower_call *c) {
  complex_value z;
  KILN_TRY(complex_argument(c, "self", &z));
  value *length = unary(c, "exp", z.re);
  complex_return(c, 0,
                 (complex_value){binary(c, "mul", length, unary(c, "cos", z.im)),
                                 binary(c, "mul", length, unary(c, "sin", z.im))});
  return KILN_OK;
}

/* z / |z|, and 0 of 0. */
static kiln_status direction(lower_call *c) {
  complex_value z;
  KILN_TRY(complex_argument(c, "self", &z));
  value *length = unary(c, "sqrt", squares(c, z)), *zero = lowering_scalar_like(&c->b, z.re, 0);
  value *none = binary(c, "eq", length, zero);
  complex_return(c, 0,
                 (complex_value){build(&c->b, "where", IN(none, zero, binary(c, "div", z.re, length)), NO_ATTRS),
                                 build(&c->b, "where", IN(none, zero, binary(c, "div", z.im, length)), NO_ATTRS)});
  return KILN_OK;
}

static kiln_status part(lower_call *c) {
  itensor *t = call_arg(c, "self")->u.t->parts[str_ends(c->schema->name, "imag")];
  value *v = lower_value(&c->b, t);
  if (v) return_tensor(c, 0, handle_view(c->im, t, v));
  return v ? KILN_OK : no_memory(c);
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
    if (!handle_link(c->im, t->parts[i], c->results[0].u.t->parts[i])) return no_memory(c);
  return KILN_OK;
}

static kiln_status itself(lower_call *c) {
  c->results[0] = c->args[0];
  return KILN_OK;
}

static kiln_status as_real(lower_call *c) {
  const itensor *t = call_arg(c, "self")->u.t;
  complex_value z;
  KILN_TRY(complex_argument(c, "self", &z));
  const int rank = z.re->type.rank;
  if (rank == KILN_MAX_RANK) return LOWER_FAIL(c, "the result would have more than %d dimensions", KILN_MAX_RANK);
  call_return(c, 0,
              build(&c->b, "concat", IN(lowering_unsqueeze(&c->b, z.re, rank), lowering_unsqueeze(&c->b, z.im, rank)),
                    ATTRS(A_INT("axis", rank))));
  KILN_TRY(graph_check(c->b.graph));
  for (int i = 0; i < 2 && !str_ends(c->schema->name, "_copy"); i++) /* as in conjugate */
    if (!handle_link(c->im, t->parts[i], c->results[0].u.t)) return no_memory(c);
  return KILN_OK;
}

/* .to(dtype): of the parts for complex ones; the real part for real ones, as PyTorch does with a warning. */
static kiln_status convert(lower_call *c) {
  kiln_dtype dtype = KILN_F32;
  ivalue args[MAX_ARGS];
  if (!is_complex(&c->args[0]) || str_eq(c->schema->overload, "other"))
    return LOWER_FAIL(c, "complex tensors are not supported here");
  const ivalue *asked = call_arg(c, "dtype");
  complex_value z;
  if (asked->kind == IV_DTYPE && asked->u.i >= 0) {
    KILN_TRY(complex_argument(c, "self", &z));
    call_return(c, 0, lower_cast(&c->b, z.re, (kiln_dtype)asked->u.i));
    return KILN_OK;
  }
  lower_call of_parts = *c;
  for (int32_t i = 0; i < c->schema->n_args; i++) {
    args[i] = c->args[i];
    if (complex_dtype(&args[i], &dtype)) args[i].u.i = (int64_t)dtype;
  }
  of_parts.args = args;
  return by_parts(&of_parts);
}

/* The row's number in the real part, 0 in the other. */
static kiln_status fill(lower_call *c) {
  ivalue args[MAX_ARGS], result;
  lower_call real = *c;
  kiln_dtype dtype;
  bool is_real = false;
  double imaginary = 0;
  for (int32_t i = 0; i < c->schema->n_args; i++) {
    args[i] = c->args[i];
    if (args[i].kind == IV_COMPLEX) {
      imaginary = args[i].u.items[1].u.f;
      args[i] = args[i].u.items[0];
    }
    if (is_complex(&args[i])) args[i].u.t = args[i].u.t->parts[0];
    is_real |= args[i].kind == IV_DTYPE && args[i].u.i >= 0;
    if (complex_dtype(&args[i], &dtype)) args[i].u.i = (int64_t)dtype;
  }
  real.args = args;
  real.results = &result;
  KILN_TRY(lower_run(&real));
  const value *re = result.kind == IV_TENSOR ? lower_value(&c->b, result.u.t) : NULL;
  if (!re) return no_memory(c);
  c->results[0] = result;
  if (is_real) return KILN_OK;
  value *im = lowering_full(&c->b, re->type.dtype, re->type.rank, re->type.dims, imaginary);
  if (im) return_tensor(c, 0, complex_tensor(c->im, result.u.t, lower_tensor(c->im, im)));
  return KILN_OK;
}

static kiln_status copy(lower_call *c) {
  if (!is_complex(&c->args[0])) return LOWER_FAIL(c, "a complex tensor copied to a real one is not supported");
  if (is_complex(call_arg(c, "src"))) return by_parts(c);
  value *x = call_tensor(c, "src"), *re = lower_value(&c->b, c->args[0].u.t->parts[0]);
  if (!x || !re) return no_memory(c);
  x = lower_expand(&c->b, lower_cast(&c->b, x, re->type.dtype), re->type.rank, re->type.dims);
  complex_return(c, 0, (complex_value){x, lowering_full(&c->b, re->type.dtype, re->type.rank, re->type.dims, 0)});
  return KILN_OK;
}

/* ---- rows --------------------------------------------------------------------------------------- */

kiln_status lower_complex(lower_call *c) {
  complex_value z;
  KILN_TRY(lowering_tensor(c, "real", &z.re));
  KILN_TRY(lowering_tensor(c, "imag", &z.im));
  lower_promote(&c->b, &z.re, false, &z.im, false);
  value *both[2] = {z.re, z.im};
  lowering_broadcast(&c->b, 2, both);
  complex_return(c, 0, (complex_value){both[0], both[1]});
  return KILN_OK;
}

kiln_status lower_polar(lower_call *c) {
  value *length, *turn;
  KILN_TRY(lowering_tensor(c, "abs", &length));
  KILN_TRY(lowering_tensor(c, "angle", &turn));
  complex_return(c, 0,
                 (complex_value){promoted(c, "mul", length, unary(c, "cos", turn), false),
                                 promoted(c, "mul", length, unary(c, "sin", turn), false)});
  return KILN_OK;
}

kiln_status lower_view_as_complex(lower_call *c) {
  value *x;
  itensor *parts[2];
  KILN_TRY(lowering_tensor(c, "self", &x));
  const int axis = x->type.rank - 1;
  if (axis < 0 || x->type.dims[axis] != 2 || call_arg(c, "self")->kind != IV_TENSOR)
    return LOWER_FAIL(c, "expected a tensor whose last dimension has 2 elements");
  for (int i = 0; i < 2; i++) {
    value *v = lowering_select(&c->b, x, axis, i);
    if (!v) return no_memory(c);
    parts[i] = handle_view(c->im, call_arg(c, "self")->u.t, v);
  }
  return_tensor(c, 0, complex_tensor(c->im, parts[0], parts[1]));
  return c->results[0].kind == IV_TENSOR ? KILN_OK : no_memory(c);
}

kiln_status lower_needs_complex(lower_call *c) { return LOWER_FAIL(c, "expected a complex tensor"); }

/* ---- the table ---------------------------------------------------------------------------------- */

static const struct rule {
  const char *name;
  kiln_status (*run)(lower_call *c);
} rules[] = {
    {"abs", absolute},
    {"absolute", absolute},
    {"add", add_sub},
    {"sub", add_sub},
    {"alias", by_parts_of_first},
    {"angle", angle},
    {"bmm", product},
    {"cat", by_parts_of_first},
    {"concat", by_parts_of_first},
    {"chunk", by_parts_of_first},
    {"clone", by_parts_of_first},
    {"conj", conjugate},
    {"_conj", conjugate},
    {"conj_physical", conjugate},
    {"_conj_physical", conjugate},
    {"constant_pad_nd", padding},
    {"pad", padding},
    {"contiguous", by_parts_of_first},
    {"copy", copy},
    {"detach", by_parts_of_first},
    {"diagonal", by_parts_of_first},
    {"div", divide},
    {"einsum", product},
    {"exp", exponential},
    {"expand", by_parts_of_first},
    {"expand_as", by_parts_of_first},
    {"flatten", by_parts_of_first},
    {"flip", by_parts_of_first},
    {"imag", part},
    {"index", by_parts_of_first},
    {"index_select", by_parts_of_first},
    {"lift_fresh_copy", by_parts_of_first},
    {"matmul", product},
    {"mean", reduction},
    {"mm", product},
    {"movedim", by_parts_of_first},
    {"mul", product},
    {"mv", product},
    {"narrow", by_parts_of_first},
    {"neg", by_parts_of_first},
    {"permute", by_parts_of_first},
    {"pow", square_power},
    {"real", part},
    {"reciprocal", reciprocal},
    {"repeat", by_parts_of_first},
    {"reshape", by_parts_of_first},
    {"resolve_conj", itself},
    {"resolve_neg", itself},
    {"roll", by_parts_of_first},
    {"select", by_parts_of_first},
    {"sgn", direction},
    {"slice", by_parts_of_first},
    {"split", by_parts_of_first},
    {"split_with_sizes", by_parts_of_first},
    {"squeeze", by_parts_of_first},
    {"stack", by_parts_of_first},
    {"sum", reduction},
    {"t", by_parts_of_first},
    {"to", convert},
    {"_to_copy", convert},
    {"transpose", by_parts_of_first},
    {"unbind", by_parts_of_first},
    {"unflatten", by_parts_of_first},
    {"unsqueeze", by_parts_of_first},
    {"_unsafe_view", by_parts_of_first},
    {"view", by_parts_of_first},
    {"view_as_real", as_real},
    {"view_as_real_copy", as_real},
    {"view_copy", by_parts_of_first},
    {"where", where},
};

static const struct rule *find_rule(const aten_schema *schema) {
  for (size_t i = 0; i < KILN_COUNT(rules); i++)
    if (str_eq(rules[i].name, short_name(schema))) return &rules[i];
  return NULL;
}

/* Rows that take or make complex tensors themselves. */
static bool has_own_row(const aten_schema *schema) {
  return str_starts(schema->name, "aten::_fft_") || str_starts(schema->name, "aten::fft_") ||
         str_eq(schema->name, "aten::stft") || str_eq(schema->name, "aten::istft");
}

bool complex_operator(const aten_schema *schema) {
  static const char *const makers[] = {"aten::complex", "aten::polar", "aten::view_as_complex"};
  for (size_t i = 0; i < KILN_COUNT(makers); i++)
    if (str_eq(schema->name, makers[i])) return true;
  return has_own_row(schema) || fills(schema) || find_rule(schema);
}

/* The results of rules that do not write themselves go to the first argument. */
static kiln_status write_back(lower_call *c) {
  ivalue *self = &c->args[0];
  if (c->n_results == 0 || (is_complex(self) && c->results[0].u.t == self->u.t)) return KILN_OK;
  if (!is_complex(self) || !is_complex(&c->results[0]))
    return LOWER_FAIL(c, "a write that mixes complex and real tensors is not supported");
  for (int i = 0; i < 2; i++) {
    value *v = lower_value(&c->b, c->results[0].u.t->parts[i]);
    if (!v) return no_memory(c);
    KILN_TRY(lower_write(&c->b, self->u.t->parts[i], v));
  }
  c->results[0] = *self;
  return graph_check(c->b.graph);
}

kiln_status complex_run(lower_call *c) {
  if (has_own_row(c->schema))
    return c->in_place ? LOWER_FAIL(c, "there is no in-place form") : c->schema->row->lower(c);
  const struct rule *rule = NULL;
  if (c->schema->n_args > MAX_ARGS) return LOWER_FAIL(c, "complex tensors are not supported here");
  if (!fills(c->schema) && !(rule = find_rule(c->schema)))
    return LOWER_FAIL(c, "complex tensors are not supported here");
  if (rule) KILN_TRY(convert_numbers(c));
  KILN_TRY(rule ? rule->run(c) : fill(c));
  KILN_TRY(graph_check(c->b.graph));
  if (c->im->arena->failed) return no_memory(c);
  return c->in_place ? write_back(c) : KILN_OK;
}
