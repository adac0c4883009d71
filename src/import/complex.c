/* Complex tensors as pairs of handles: at the border of a graph, as arguments and results of operators, and operators that run on the parts.
 * What each operator does is in complex_rules.c. */
#include "import/complex.h"

#include <string.h>

#include "import/complex_internal.h"
#include "import/complex_math.h"
#include "import/fourier.h"
#include "ops/lowering.h"

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

int complex_count(const lower_call *c) {
  int n = 0;
  for (int32_t i = 0; i < c->schema->n_args; i++) {
    const ivalue *v = &c->args[i];
    n += complex_is(v);
    for (int32_t k = 0; v->kind == IV_LIST && k < v->count; k++) n += complex_is(&v->u.items[k]);
  }
  return n;
}

static const char *short_name(const aten_schema *schema) {
  return str_starts(schema->name, "aten::") ? schema->name + 6 : "";
}

/* Operators that fill a new tensor. */
static bool fills(const aten_schema *schema) {
  static const char *const names[] = {"zeros",      "ones",      "full",      "empty",     "zeros_like",   "ones_like",
                                      "empty_like", "full_like", "new_zeros", "new_empty", "new_ones",     "new_full",
                                      "eye",        "linspace",  "logspace",  "arange",    "scalar_tensor"};
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

bool complex_call(const lower_call *c) { return complex_count(c) > 0 || (asks_complex(c) && fills(c->schema)); }

kiln_status complex_no_memory(const lower_call *c) {
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

/* ---- values ------------------------------------------------------------------------------------- */

kiln_status complex_argument(lower_call *c, const char *name, complex_value *out) {
  const ivalue *v = call_arg(c, name);
  *out = (complex_value){0};
  if (v->kind == IV_COMPLEX) {
    const kiln_dtype dtype = part_dtype(c);
    out->re = graph_scalar(c->b.graph, dtype, v->u.items[0].u.f);
    out->im = graph_scalar(c->b.graph, dtype, v->u.items[1].u.f);
    return out->re && out->im ? KILN_OK : complex_no_memory(c);
  }
  if (!complex_is(v)) return lowering_tensor(c, name, &out->re);
  out->re = lower_value(&c->b, v->u.t->parts[0]);
  out->im = lower_value(&c->b, v->u.t->parts[1]);
  return out->re && out->im ? KILN_OK : complex_no_memory(c);
}

void complex_return_tensor(lower_call *c, int i, itensor *t) {
  ivalue r = {.kind = IV_TENSOR};
  r.u.t = t;
  if (t) call_return_ivalue(c, i, r);
}

void complex_return(lower_call *c, int i, complex_value z) {
  if (!z.im) {
    call_return(c, i, z.re);
  } else if (z.re) {
    complex_return_tensor(c, i, complex_tensor(c->im, lower_tensor(c->im, z.re), lower_tensor(c->im, z.im)));
  }
}

/* ---- by parts ----------------------------------------------------------------------------------- */

static bool is_named(const char *list, const char *name) {
  const size_t n = strlen(name);
  for (const char *s = list; s && (s = strstr(s, name)) != NULL; s++)
    if (s[-1] == ' ' && s[n] == ' ') return true;
  return false;
}

/* Part `k` of a real number or tensor. */
static kiln_status lift_real(lower_call *c, int k, ivalue *v) {
  if (v->kind == IV_INT || v->kind == IV_FLOAT || v->kind == IV_BOOL) {
    if (k == 0) return KILN_OK;
    *v = (ivalue){.kind = IV_FLOAT};
    return KILN_OK;
  }
  if (v->kind != IV_TENSOR || k == 0) return KILN_OK;
  const value *x = lower_value(&c->b, v->u.t);
  value *zero = x ? lowering_full(&c->b, x->type.dtype, x->type.rank, x->type.dims, 0) : NULL;
  v->u.t = zero ? lower_tensor(c->im, zero) : NULL;
  return v->u.t ? KILN_OK : complex_no_memory(c);
}

static void take_part(ivalue *v, int k) {
  if (v->kind == IV_COMPLEX) {
    const ivalue number = v->u.items[k];
    *v = number;
  } else {
    v->u.t = v->u.t->parts[k];
  }
}

kiln_status complex_run_parts(lower_call *c, const int *pick, const char *lift, ivalue *results) {
  ivalue args[COMPLEX_MAX_ARGS];
  lower_call part = *c;
  int n = 0;
  for (int32_t i = 0; i < c->schema->n_args; i++) {
    const bool lifted = is_named(lift, c->schema->args[i].name);
    args[i] = c->args[i];
    if (complex_is(&args[i]))
      take_part(&args[i], pick[n++]);
    else if (lifted)
      KILN_TRY(lift_real(c, pick[0], &args[i]));
    if (args[i].kind != IV_LIST || args[i].count == 0) continue;
    args[i].u.items = arena_copy(c->im->arena, c->args[i].u.items, (size_t)args[i].count * sizeof(ivalue));
    if (!args[i].u.items) return complex_no_memory(c);
    for (int32_t k = 0; k < args[i].count; k++) {
      ivalue *item = &args[i].u.items[k];
      if (complex_is(item))
        take_part(item, pick[n++]);
      else if (lifted)
        KILN_TRY(lift_real(c, pick[0], item));
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
    return out->u.t ? KILN_OK : complex_no_memory(c);
  }
  if (re->kind != IV_LIST) return KILN_OK;
  out->u.items = ARENA_ARRAY(c->im->arena, ivalue, re->count ? re->count : 1);
  if (!out->u.items) return complex_no_memory(c);
  for (int32_t i = 0; i < re->count; i++) KILN_TRY(join(c, &re->u.items[i], &im->u.items[i], &out->u.items[i]));
  return KILN_OK;
}

kiln_status complex_by_parts(lower_call *c, const char *lift) {
  ivalue results[2][COMPLEX_MAX_RESULTS];
  const int n = complex_count(c);
  if (n > COMPLEX_MAX_PARTS || c->n_results > COMPLEX_MAX_RESULTS)
    return LOWER_FAIL(c, "more than %d complex tensors", COMPLEX_MAX_PARTS);
  for (int k = 0; k < 2; k++) {
    int pick[COMPLEX_MAX_PARTS] = {0};
    for (int i = 0; i < n; i++) pick[i] = k;
    KILN_TRY(complex_run_parts(c, pick, lift, results[k]));
  }
  for (int32_t i = 0; i < c->n_results; i++) KILN_TRY(join(c, &results[0][i], &results[1][i], &c->results[i]));
  if (c->in_place && c->n_results) c->results[0] = c->args[0];
  return KILN_OK;
}

kiln_status complex_run_values(lower_call *c, int first, int second, value **out) {
  ivalue results[COMPLEX_MAX_RESULTS];
  const int pick[2] = {first, second};
  KILN_TRY(complex_run_parts(c, pick, NULL, results));
  *out = results[0].kind == IV_TENSOR ? lower_value(&c->b, results[0].u.t) : NULL;
  return *out ? KILN_OK : complex_no_memory(c);
}

/* ---- new tensors ---- */

/* The row with the real parts of what is complex, and again with the imaginary ones where that makes a difference. */
static kiln_status fill_part(lower_call *c, int k, ivalue *result, bool *is_real) {
  ivalue args[COMPLEX_MAX_ARGS];
  lower_call real = *c;
  kiln_dtype dtype;
  for (int32_t i = 0; i < c->schema->n_args; i++) {
    const bool number = is_named(" fill_value value start end s ", c->schema->args[i].name);
    args[i] = c->args[i];
    if (args[i].kind == IV_COMPLEX)
      args[i] = args[i].u.items[k];
    else if (number && k)
      KILN_TRY(lift_real(c, k, &args[i]));
    if (complex_is(&args[i])) args[i].u.t = args[i].u.t->parts[k];
    *is_real |= args[i].kind == IV_DTYPE && args[i].u.i >= 0;
    if (complex_dtype(&args[i], &dtype)) args[i].u.i = (int64_t)dtype;
  }
  real.args = args;
  real.results = result;
  return lower_run(&real);
}

static kiln_status fill(lower_call *c) {
  ivalue parts[2];
  bool is_real = false, numbers = false;
  KILN_TRY(fill_part(c, 0, &parts[0], &is_real));
  const value *re = parts[0].kind == IV_TENSOR ? lower_value(&c->b, parts[0].u.t) : NULL;
  if (!re) return complex_no_memory(c);
  c->results[0] = parts[0];
  if (is_real) return KILN_OK;
  for (int32_t i = 0; i < c->schema->n_args; i++) numbers |= complex_is(&c->args[i]);
  if (numbers && str_eq(c->schema->name, "aten::logspace")) return LOWER_FAIL(c, "complex exponents are not supported");
  if (numbers && !str_ends(c->schema->name, "s_like") && !str_ends(c->schema->name, "_zeros") &&
      !str_ends(c->schema->name, "_ones")) {
    KILN_TRY(fill_part(c, 1, &parts[1], &is_real));
  } else {
    value *zeros = lowering_full(&c->b, re->type.dtype, re->type.rank, re->type.dims, 0);
    parts[1] = (ivalue){.kind = IV_TENSOR};
    parts[1].u.t = zeros ? lower_tensor(c->im, zeros) : NULL;
  }
  if (parts[1].kind != IV_TENSOR || !parts[1].u.t) return complex_no_memory(c);
  complex_return_tensor(c, 0, complex_tensor(c->im, parts[0].u.t, parts[1].u.t));
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
  complex_return(c, 0, complex_from_polar(&c->b, length, turn));
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
    if (!v) return complex_no_memory(c);
    parts[i] = handle_view(c->im, call_arg(c, "self")->u.t, v);
  }
  complex_return_tensor(c, 0, complex_tensor(c->im, parts[0], parts[1]));
  return c->results[0].kind == IV_TENSOR ? KILN_OK : complex_no_memory(c);
}

/* Eigenvalues and eigenvectors of any square matrix, complex or not. */
kiln_status lower_eig(lower_call *c) {
  complex_value z;
  KILN_TRY(complex_argument(c, "self", &z));
  LOWER_NEED(c, z.re);
  value *im = z.im ? z.im : lowering_full(&c->b, z.re->type.dtype, z.re->type.rank, z.re->type.dims, 0);
  node *n = build_node(&c->b, "eig", IN(z.re, im), NO_ATTRS);
  if (!n) return complex_no_memory(c);
  for (int32_t i = 0; i < c->n_results; i++) complex_return_tensor(c, i, complex_unpack(c->im, &c->b, n->outputs[i]));
  return graph_check(c->b.graph);
}

kiln_status lower_needs_complex(lower_call *c) { return LOWER_FAIL(c, "expected a complex tensor"); }

/* ---- calls ---- */

/* Rows that take or make complex tensors themselves. */
static bool has_own_row(const aten_schema *schema) {
  return str_starts(schema->name, "aten::_fft_") || str_starts(schema->name, "aten::fft_") ||
         str_eq(schema->name, "aten::stft") || str_eq(schema->name, "aten::istft") ||
         str_eq(schema->name, "aten::linalg_eig") || str_ends(schema->name, "linalg_eigvals");
}

bool complex_operator(const aten_schema *schema) {
  static const char *const makers[] = {"aten::complex", "aten::polar", "aten::view_as_complex"};
  for (size_t i = 0; i < KILN_COUNT(makers); i++)
    if (str_eq(schema->name, makers[i])) return true;
  return has_own_row(schema) || fills(schema) || complex_rule_find(short_name(schema)) != NULL;
}

/* The results of rules that do not write themselves go to the first argument. */
static kiln_status write_back(lower_call *c) {
  ivalue *self = &c->args[0];
  if (c->n_results == 0 || (complex_is(self) && c->results[0].u.t == self->u.t)) return KILN_OK;
  if (!complex_is(self) || !complex_is(&c->results[0]))
    return LOWER_FAIL(c, "a write that mixes complex and real tensors is not supported");
  for (int i = 0; i < 2; i++) {
    value *v = lower_value(&c->b, c->results[0].u.t->parts[i]);
    if (!v) return complex_no_memory(c);
    KILN_TRY(lower_write(&c->b, self->u.t->parts[i], v));
  }
  c->results[0] = *self;
  return graph_check(c->b.graph);
}

kiln_status complex_run(lower_call *c) {
  if (has_own_row(c->schema))
    return c->in_place ? LOWER_FAIL(c, "there is no in-place form") : c->schema->row->lower(c);
  complex_rule rule = NULL;
  if (c->schema->n_args > COMPLEX_MAX_ARGS) return LOWER_FAIL(c, "complex tensors are not supported here");
  if (!fills(c->schema) && !(rule = complex_rule_find(short_name(c->schema))))
    return LOWER_FAIL(c, "complex tensors are not supported here");
  KILN_TRY(rule ? rule(c) : fill(c));
  KILN_TRY(graph_check(c->b.graph));
  if (c->im->arena->failed) return complex_no_memory(c);
  return c->in_place ? write_back(c) : KILN_OK;
}
