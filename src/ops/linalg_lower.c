/* PyTorch's linear algebra in terms of the operators of ops/linalg.c: solutions, inverses, determinants, bases, norms. Calls that PyTorch
 * would end with an error (a singular matrix, say) give infinities or NaN. */
#include "ops/linalg_lower.h"

#include <float.h>
#include <math.h>

#include "import/complex.h"
#include "ops/matmul_lower.h"

/* ---- pieces ------------------------------------------------------------------------------------------------------------ */

static value *transposed(builder *b, value *x) {
  return x && x->type.rank >= 2 ? lowering_move_axis(b, x, x->type.rank - 1, x->type.rank - 2) : x;
}

static dim rows_of(const value *x) { return x->type.dims[x->type.rank - 2]; }
static dim columns_of(const value *x) { return x->type.dims[x->type.rank - 1]; }

/* A matrix argument of at least rank 2, in floats. */
static kiln_status matrix_arg(lower_call *c, const char *name, value **out) {
  KILN_TRY(lowering_tensor(c, name, out));
  if ((*out)->type.rank < 2 || !dtype_is_float((*out)->type.dtype))
    return LOWER_FAIL(c, "argument %s: expected matrices of floats", name);
  return KILN_OK;
}

/* x with its last `core` dimensions, and these batch dimensions in front. */
static value *in_batch(builder *b, value *x, int core, int count, const dim *batch) {
  dim dims[2 * KILN_MAX_RANK];
  if (!x || count + core > KILN_MAX_RANK) return x;
  for (int i = 0; i < count; i++) dims[i] = batch[i];
  for (int i = 0; i < core; i++) dims[count + i] = x->type.dims[x->type.rank - core + i];
  return lower_expand(b, x, count + core, dims);
}

/* Gives both matrices the same batch dimensions. */
static kiln_status common_batch(lower_call *c, value **x, value **y) {
  dim batch[KILN_MAX_RANK];
  LOWER_NEED(c, *x);
  LOWER_NEED(c, *y);
  const tensor_type *longer = (*x)->type.rank >= (*y)->type.rank ? &(*x)->type : &(*y)->type,
                    *other = longer == &(*x)->type ? &(*y)->type : &(*x)->type;
  const int count = longer->rank - 2, shift = longer->rank - other->rank;
  for (int i = 0; i < count; i++)
    batch[i] = longer->dims[i] == 1 && i >= shift ? other->dims[i - shift] : longer->dims[i];
  *x = in_batch(&c->b, *x, 2, count, batch);
  *y = in_batch(&c->b, *y, 2, count, batch);
  LOWER_NEED(c, *x);
  LOWER_NEED(c, *y);
  return KILN_OK;
}

static value *eye_like(builder *b, value *x, dim rows, dim columns) {
  return x ? build(b, "eye", 0, NULL,
                   ATTRS(A_INT("rows", rows), A_INT("cols", columns), A_DTYPE("dtype", x->type.dtype)))
           : NULL;
}

static value *triangle(builder *b, value *x, bool upper, int diagonal) {
  return build(b, upper ? "triu" : "tril", IN(x), ATTRS(A_INT("diagonal", diagonal)));
}

static value *solve_triangular(builder *b, value *a, value *x, bool upper, bool unit) {
  return build(b, "solve_triangular", IN(a, x), ATTRS(A_BOOL("upper", upper), A_BOOL("unit", unit)));
}

static value *row_order(builder *b, value *pivots, dim rows) {
  return build(b, "pivot_order", IN(pivots), ATTRS(A_INT("rows", rows)));
}

/* P of P L U */
static value *permutation(builder *b, value *pivots, dim rows, kiln_dtype dtype) {
  value *order = row_order(b, pivots, rows);
  if (!order) return NULL;
  value *places = lowering_unsqueeze(b, lowering_iota(b, rows), 1);
  return lower_cast(b, build(b, "eq", IN(lowering_unsqueeze(b, order, order->type.rank - 1), places), NO_ATTRS), dtype);
}

static value *lower_part(builder *b, value *lu) {
  const dim r = lowering_min(b->graph->dims, rows_of(lu), columns_of(lu));
  value *l = lowering_slice(b, lu, lu->type.rank - 1, 0, r, 1);
  return lower_binary(b, "add", triangle(b, l, false, -1), eye_like(b, lu, rows_of(lu), r));
}

static value *upper_part(builder *b, value *lu) {
  const dim r = lowering_min(b->graph->dims, rows_of(lu), columns_of(lu));
  return triangle(b, lowering_slice(b, lu, lu->type.rank - 2, 0, r, 1), true, 0);
}

/* a x = y, or its transpose, for a = P L U */
static value *lu_solution(builder *b, value *lu, value *pivots, value *y, bool adjoint) {
  if (!lu || !pivots || !y) return NULL;
  value *p = permutation(b, pivots, rows_of(lu), lu->type.dtype);
  if (adjoint) {
    y = solve_triangular(b, transposed(b, lu), y, false, false);
    return matmul_product(b, p, solve_triangular(b, transposed(b, lu), y, true, true));
  }
  y = solve_triangular(b, lu, matmul_product(b, transposed(b, p), y), false, true);
  return solve_triangular(b, lu, y, true, false);
}

/* 1 or -1: whether the pivots change an even number of rows. */
static value *parity(builder *b, value *pivots, kiln_dtype dtype) {
  if (!pivots) return NULL;
  const int64_t axis = pivots->type.rank - 1;
  value *places = lowering_iota(b, pivots->type.dims[axis]);
  value *same = build(
      b, "eq", IN(lower_cast(b, pivots, KILN_I64), lower_binary(b, "add", places, lowering_scalar_like(b, places, 1))),
      NO_ATTRS);
  value *sign = lower_cast(b, same, dtype); /* 1 or 0 */
  sign = lower_binary(b, "mul", sign, lowering_scalar_like(b, sign, 2));
  sign = lower_binary(b, "sub", sign, lowering_scalar_like(b, sign, 1));
  return build(b, "prod", IN(sign), ATTRS(A_INTS("axes", &axis, 1)));
}

static value *diagonal_of(builder *b, value *x) {
  return x ? build(b, "diagonal", IN(x),
                   ATTRS(A_INT("offset", 0), A_INT("axis1", x->type.rank - 2), A_INT("axis2", x->type.rank - 1)))
           : NULL;
}

static value *last_axis(builder *b, const char *name, value *x) {
  if (!x) return NULL;
  const int64_t axis = x->type.rank - 1;
  return build(b, name, IN(x), ATTRS(A_INTS("axes", &axis, 1)));
}

/* ---- LU ----------------------------------------------------------------------------------------------------------------- */

static kiln_status factor(lower_call *c, const char *name, value **a, node **out) {
  KILN_TRY(matrix_arg(c, name, a));
  *out = build_node(&c->b, "lu", IN(*a), NO_ATTRS);
  return *out ? KILN_OK : lowering_missing(c, name);
}

static kiln_status lower_lu_factor(lower_call *c) {
  value *a;
  KILN_TRY(matrix_arg(c, "A", &a));
  node *n = build_node(&c->b, "lu", IN(a), ATTRS(A_BOOL("pivot", call_bool(c, "pivot"))));
  if (!n) return lowering_missing(c, "A");
  for (int i = 0; i < c->n_results && i < 3; i++) call_return(c, i, n->outputs[i]);
  return KILN_OK;
}

static kiln_status unpacked(lower_call *c, value *lu, value *pivots) {
  LOWER_NEED(c, lu);
  LOWER_NEED(c, pivots);
  call_return(c, 0, permutation(&c->b, pivots, rows_of(lu), lu->type.dtype));
  call_return(c, 1, lower_part(&c->b, lu));
  call_return(c, 2, upper_part(&c->b, lu));
  return KILN_OK;
}

static kiln_status lower_lu(lower_call *c) {
  value *a;
  KILN_TRY(matrix_arg(c, "A", &a));
  if (!call_bool(c, "pivot")) return LOWER_FAIL(c, "argument pivot must be True");
  node *n = build_node(&c->b, "lu", IN(a), NO_ATTRS);
  return n ? unpacked(c, n->outputs[0], n->outputs[1]) : lowering_missing(c, "A");
}

static kiln_status lower_lu_unpack(lower_call *c) {
  value *lu, *pivots;
  KILN_TRY(matrix_arg(c, "LU_data", &lu));
  KILN_TRY(lowering_tensor(c, "LU_pivots", &pivots));
  if (!call_bool(c, "unpack_data") || !call_bool(c, "unpack_pivots"))
    return LOWER_FAIL(c, "arguments unpack_data and unpack_pivots must be True");
  return unpacked(c, lu, pivots);
}

static kiln_status lower_lu_solve(lower_call *c) {
  value *lu, *pivots, *y;
  builder *b = &c->b;
  KILN_TRY(matrix_arg(c, "LU", &lu));
  KILN_TRY(lowering_tensor(c, "pivots", &pivots));
  KILN_TRY(matrix_arg(c, "B", &y));
  const bool left = call_bool(c, "left"), adjoint = call_bool(c, "adjoint");
  if (!left) y = transposed(b, y);
  KILN_TRY(common_batch(c, &lu, &y));
  pivots = in_batch(b, pivots, 1, lu->type.rank - 2, lu->type.dims);
  y = lu_solution(b, lu, pivots, y, adjoint == left);
  call_return(c, 0, left ? y : transposed(b, y));
  return KILN_OK;
}

static kiln_status lower_det(lower_call *c) {
  value *a;
  node *n;
  builder *b = &c->b;
  KILN_TRY(factor(c, "A", &a, &n));
  value *product = last_axis(b, "prod", diagonal_of(b, n->outputs[0]));
  call_return(c, 0, lower_binary(b, "mul", parity(b, n->outputs[1], a->type.dtype), product));
  for (int i = 1; i < c->n_results; i++) call_return(c, i, n->outputs[i - 1]);
  return KILN_OK;
}

static kiln_status lower_slogdet(lower_call *c) {
  value *a;
  node *n;
  builder *b = &c->b;
  KILN_TRY(factor(c, "A", &a, &n));
  value *diagonal = diagonal_of(b, n->outputs[0]);
  value *sign = last_axis(b, "prod", build(b, "sign", IN(diagonal), NO_ATTRS));
  value *size = build(b, "log", IN(build(b, "abs", IN(diagonal), NO_ATTRS)), NO_ATTRS);
  call_return(c, 0, lower_binary(b, "mul", parity(b, n->outputs[1], a->type.dtype), sign));
  call_return(c, 1, last_axis(b, "sum", size));
  for (int i = 2; i < c->n_results; i++) call_return(c, i, n->outputs[i - 2]);
  return KILN_OK;
}

static kiln_status lower_inverse(lower_call *c) {
  value *a;
  node *n;
  builder *b = &c->b;
  KILN_TRY(factor(c, c->schema->args[0].name, &a, &n));
  value *one = in_batch(b, eye_like(b, a, rows_of(a), rows_of(a)), 2, a->type.rank - 2, a->type.dims);
  call_return(c, 0, lu_solution(b, n->outputs[0], n->outputs[1], one, false));
  if (c->n_results > 1) call_return(c, 1, n->outputs[2]);
  return KILN_OK;
}

static kiln_status lower_solve(lower_call *c) {
  value *a, *y;
  builder *b = &c->b;
  KILN_TRY(matrix_arg(c, "A", &a));
  KILN_TRY(lowering_tensor(c, "B", &y));
  const bool left = call_bool(c, "left");
  bool vector = y->type.rank == 1 || y->type.rank == a->type.rank - 1;
  for (int i = 0; vector && y->type.rank > 1 && i < y->type.rank; i++) vector = y->type.dims[i] == a->type.dims[i];
  if (vector) y = lowering_unsqueeze(b, y, y->type.rank);
  if (!left && !vector) y = transposed(b, y);
  KILN_TRY(common_batch(c, &a, &y));
  node *n = build_node(b, "lu", IN(a), NO_ATTRS);
  if (!n) return lowering_missing(c, "A");
  value *x = lu_solution(b, n->outputs[0], n->outputs[1], y, !left && !vector);
  LOWER_NEED(c, x);
  if (vector)
    x = lowering_squeeze(b, x, x->type.rank - 1);
  else if (!left)
    x = transposed(b, x);
  call_return(c, 0, x);
  if (c->n_results == 2) call_return(c, 1, n->outputs[2]);
  for (int i = 1; c->n_results == 4 && i < 4; i++) call_return(c, i, n->outputs[i - 1]);
  return KILN_OK;
}

/* ---- Cholesky and triangles ------------------------------------------------------------------------------------------------- */

static kiln_status lower_cholesky(lower_call *c) {
  value *a;
  builder *b = &c->b;
  KILN_TRY(matrix_arg(c, "self", &a));
  const bool upper = call_bool(c, "upper");
  node *n = build_node(b, "cholesky", IN(upper ? transposed(b, a) : a), NO_ATTRS);
  if (!n) return lowering_missing(c, "self");
  call_return(c, 0, upper ? transposed(b, n->outputs[0]) : n->outputs[0]);
  if (c->n_results > 1) call_return(c, 1, n->outputs[1]);
  return KILN_OK;
}

/* l l^T x = y, or u^T u x = y */
static value *cholesky_solution(builder *b, value *l, value *y, bool upper) {
  value *low = upper ? transposed(b, l) : l, *high = upper ? l : transposed(b, l);
  return solve_triangular(b, high, solve_triangular(b, low, y, false, false), true, false);
}

static kiln_status lower_cholesky_solve(lower_call *c) {
  value *y, *l;
  KILN_TRY(matrix_arg(c, "self", &y));
  KILN_TRY(matrix_arg(c, "input2", &l));
  KILN_TRY(common_batch(c, &l, &y));
  call_return(c, 0, cholesky_solution(&c->b, l, y, call_bool(c, "upper")));
  return KILN_OK;
}

static kiln_status lower_cholesky_inverse(lower_call *c) {
  value *l;
  KILN_TRY(matrix_arg(c, "self", &l));
  value *one = in_batch(&c->b, eye_like(&c->b, l, rows_of(l), rows_of(l)), 2, l->type.rank - 2, l->type.dims);
  call_return(c, 0, cholesky_solution(&c->b, l, one, call_bool(c, "upper")));
  return KILN_OK;
}

static kiln_status lower_solve_triangular(lower_call *c) {
  value *a, *y;
  builder *b = &c->b;
  KILN_TRY(matrix_arg(c, "self", &a));
  KILN_TRY(matrix_arg(c, "B", &y));
  const bool left = call_bool(c, "left"), upper = call_bool(c, "upper");
  if (!left) {
    a = transposed(b, a);
    y = transposed(b, y);
  }
  KILN_TRY(common_batch(c, &a, &y));
  value *x = solve_triangular(b, a, y, upper == left, call_bool(c, "unitriangular"));
  call_return(c, 0, left ? x : transposed(b, x));
  return KILN_OK;
}

static kiln_status lower_triangular_solve(lower_call *c) {
  value *a, *y;
  builder *b = &c->b;
  KILN_TRY(matrix_arg(c, "self", &y));
  KILN_TRY(matrix_arg(c, "A", &a));
  KILN_TRY(common_batch(c, &a, &y));
  const bool turned = call_bool(c, "transpose"), upper = call_bool(c, "upper");
  value *x = solve_triangular(b, turned ? transposed(b, a) : a, y, upper != turned, call_bool(c, "unitriangular"));
  call_return(c, 0, x);
  call_return(c, 1, a);
  return KILN_OK;
}

/* ---- QR ------------------------------------------------------------------------------------------------------------------------ */

static value *householder(builder *b, value *a, value *tau, dim columns) {
  return build(b, "householder", IN(a, tau), ATTRS(A_INT("columns", columns)));
}

static kiln_status lower_qr(lower_call *c) {
  value *a;
  builder *b = &c->b;
  KILN_TRY(matrix_arg(c, "A", &a));
  const char *mode = call_str(c, "mode");
  node *n = build_node(b, "qr_factor", IN(a), NO_ATTRS);
  if (!n) return lowering_missing(c, "A");
  const dim r = lowering_min(b->graph->dims, rows_of(a), columns_of(a)), zero = 0;
  const dim columns = str_eq(mode, "complete") ? rows_of(a) : r;
  if (str_eq(mode, "r"))
    call_return(c, 0, lowering_full(b, a->type.dtype, 1, &zero, 0));
  else
    call_return(c, 0, householder(b, n->outputs[0], n->outputs[1], columns));
  call_return(c, 1, triangle(b, lowering_slice(b, n->outputs[0], a->type.rank - 2, 0, columns, 1), true, 0));
  return KILN_OK;
}

static kiln_status lower_geqrf(lower_call *c) {
  value *a;
  KILN_TRY(matrix_arg(c, "self", &a));
  node *n = build_node(&c->b, "qr_factor", IN(a), NO_ATTRS);
  if (!n) return lowering_missing(c, "self");
  call_return(c, 0, n->outputs[0]);
  call_return(c, 1, n->outputs[1]);
  return KILN_OK;
}

static kiln_status lower_householder_product(lower_call *c) {
  value *a, *tau;
  KILN_TRY(matrix_arg(c, c->schema->args[0].name, &a));
  KILN_TRY(lowering_tensor(c, c->schema->args[1].name, &tau));
  call_return(c, 0, householder(&c->b, a, tau, columns_of(a)));
  return KILN_OK;
}

static kiln_status lower_ormqr(lower_call *c) {
  value *a, *tau, *y;
  builder *b = &c->b;
  KILN_TRY(matrix_arg(c, "self", &a));
  KILN_TRY(lowering_tensor(c, "input2", &tau));
  KILN_TRY(matrix_arg(c, "input3", &y));
  value *q = householder(b, a, tau, rows_of(a));
  if (call_bool(c, "transpose")) q = transposed(b, q);
  call_return(c, 0, call_bool(c, "left") ? matmul_product(b, q, y) : matmul_product(b, y, q));
  return KILN_OK;
}

/* ---- eigenvalues and singular values ---------------------------------------------------------------------------------------- */

static node *eigen(builder *b, value *a, bool upper) {
  return build_node(b, "eigh", IN(upper ? transposed(b, a) : a), NO_ATTRS);
}

/* Of any shape: u, s and v, with as many columns as the smaller side has. */
static bool singular(builder *b, value *a, value **u, value **s, value **v) {
  const int wide = a ? dim_compare_le(b->graph->dims, columns_of(a), rows_of(a)) : -1;
  if (wide < 0) return false;
  node *n = build_node(b, "svd", IN(wide == 0 ? transposed(b, a) : a), NO_ATTRS);
  *u = n ? n->outputs[wide == 0 ? 2 : 0] : NULL;
  *s = n ? n->outputs[1] : NULL;
  *v = n ? n->outputs[wide == 0 ? 0 : 2] : NULL;
  return true;
}

static value *singular_values(builder *b, value *x) {
  value *u, *s, *v;
  return singular(b, x, &u, &s, &v) ? s : NULL;
}

/* Orthonormal columns to which others are added until there are as many as rows. */
static value *completed(builder *b, value *u) {
  if (!u) return NULL;
  const int axis = u->type.rank - 1;
  const dim rows = rows_of(u), columns = columns_of(u);
  if (dim_compare_equal(b->graph->dims, rows, columns) == 1) return u;
  node *n = build_node(b, "qr_factor", IN(u), NO_ATTRS);
  value *q = n ? householder(b, n->outputs[0], n->outputs[1], rows) : NULL;
  return build(b, "concat", IN(u, lowering_slice(b, q, axis, columns, rows, 1)), ATTRS(A_INT("axis", axis)));
}

static kiln_status lower_svd(lower_call *c) {
  value *a, *u, *s, *v;
  builder *b = &c->b;
  KILN_TRY(matrix_arg(c, "A", &a));
  if (!singular(b, a, &u, &s, &v)) return LOWER_FAIL(c, "matrices whose larger side is not known");
  if (call_bool(c, "full_matrices")) {
    u = completed(b, u);
    v = completed(b, v);
  }
  call_return(c, 0, u);
  call_return(c, 1, s);
  call_return(c, 2, transposed(b, v));
  return KILN_OK;
}

static kiln_status lower_internal_svd(lower_call *c) {
  value *a, *u, *s, *v;
  const dim zero = 0;
  if (call_bool(c, "compute_uv")) return lower_svd(c);
  KILN_TRY(matrix_arg(c, "A", &a));
  if (!singular(&c->b, a, &u, &s, &v)) return LOWER_FAIL(c, "matrices whose larger side is not known");
  call_return(c, 0, lowering_full(&c->b, a->type.dtype, 1, &zero, 0));
  call_return(c, 1, s);
  call_return(c, 2, lowering_full(&c->b, a->type.dtype, 1, &zero, 0));
  return KILN_OK;
}

static kiln_status lower_old_svd(lower_call *c) {
  value *a, *u, *s, *v;
  builder *b = &c->b;
  KILN_TRY(matrix_arg(c, "self", &a));
  if (!call_bool(c, "compute_uv")) return LOWER_FAIL(c, "argument compute_uv must be True");
  if (!singular(b, a, &u, &s, &v)) return LOWER_FAIL(c, "matrices whose larger side is not known");
  const bool some = call_bool(c, "some");
  call_return(c, 0, some ? u : completed(b, u));
  call_return(c, 1, s);
  call_return(c, 2, some ? v : completed(b, v));
  return KILN_OK;
}

static kiln_status lower_svdvals(lower_call *c) {
  value *a;
  KILN_TRY(matrix_arg(c, "A", &a));
  value *s = singular_values(&c->b, a);
  if (!s && graph_check(c->b.graph) == KILN_OK) return LOWER_FAIL(c, "matrices whose larger side is not known");
  call_return(c, 0, s);
  return KILN_OK;
}

static kiln_status lower_eigh(lower_call *c) {
  value *a;
  const dim zero = 0;
  KILN_TRY(matrix_arg(c, c->schema->args[0].name, &a));
  const char *side = call_str(c, "UPLO");
  node *n = eigen(&c->b, a, side && (side[0] == 'U' || side[0] == 'u'));
  if (!n) return lowering_missing(c, "A");
  call_return(c, 0, n->outputs[0]);
  if (c->n_results < 2) return KILN_OK;
  bool vectors = true;
  for (int i = 0; i < c->schema->n_args; i++) {
    if (str_eq(c->schema->args[i].name, "compute_v")) vectors = call_bool(c, "compute_v");
  }
  call_return(c, 1, vectors ? n->outputs[1] : lowering_full(&c->b, a->type.dtype, 1, &zero, 0));
  return KILN_OK;
}

/* The number, tensor or None `name` as a tensor of x's dtype that broadcasts with singular values; NULL: None. */
static value *limit_arg(lower_call *c, const char *name, const value *x) {
  for (int i = 0; i < c->schema->n_args; i++) {
    if (!str_eq(c->schema->args[i].name, name) || call_is_none(c, name)) continue;
    value *v = lower_cast(&c->b, call_tensor(c, name), x->type.dtype);
    return v && v->type.rank ? lowering_unsqueeze(&c->b, v, v->type.rank) : v;
  }
  return NULL;
}

/* The largest singular value times rtol, or atol: below it values count as 0. */
static value *pinv_limit(lower_call *c, value *a, value *largest) {
  builder *b = &c->b;
  value *atol = limit_arg(c, "atol", a), *rtol = limit_arg(c, "rtol", a), *rcond = limit_arg(c, "rcond", a);
  if (!rtol) rtol = rcond;
  if (!rtol) {
    const dim rows = rows_of(a), columns = columns_of(a);
    if (!dim_is_const(rows) || !dim_is_const(columns)) return NULL;
    const double side = (double)(rows > columns ? rows : columns);
    rtol = lowering_scalar_like(b, a, side * (a->type.dtype == KILN_F64 ? DBL_EPSILON : FLT_EPSILON));
    if (atol) {
      value *given = build(b, "gt", IN(atol, lowering_scalar_like(b, atol, 0)), NO_ATTRS);
      rtol = build(b, "where", IN(given, lowering_scalar_like(b, a, 0), rtol), NO_ATTRS);
    }
  }
  value *limit = lower_binary(b, "mul", largest, rtol);
  return atol ? lower_binary(b, "maximum", limit, atol) : limit;
}

static kiln_status lower_pinv(lower_call *c) {
  value *a, *u, *s, *v;
  builder *b = &c->b;
  KILN_TRY(matrix_arg(c, "self", &a));
  bool hermitian = false;
  for (int i = 0; i < c->schema->n_args; i++) {
    if (str_eq(c->schema->args[i].name, "hermitian")) hermitian = call_bool(c, "hermitian");
  }
  if (hermitian) {
    node *n = eigen(b, a, false);
    if (!n) return lowering_missing(c, "self");
    s = n->outputs[0];
    u = v = n->outputs[1];
  } else if (!singular(b, a, &u, &s, &v)) {
    return LOWER_FAIL(c, "matrices whose larger side is not known");
  }
  LOWER_NEED(c, s);
  const int axis = s->type.rank - 1;
  value *size = build(b, "abs", IN(s), NO_ATTRS);
  value *largest = lowering_slice(b, size, axis, 0, 1, 1); /* of values that fall, or rise from negative ones */
  if (hermitian && s->type.dims[axis] != 0)
    largest = lower_binary(b, "maximum", largest, lowering_slice(b, size, axis, -1, s->type.dims[axis], 1));
  LOWER_NEED(c, largest);
  value *limit = pinv_limit(c, a, largest);
  if (!limit) return LOWER_FAIL(c, "argument rtol must be given for matrices of unknown size");
  value *keep = build(b, "gt", IN(size, limit), NO_ATTRS), *zero = lowering_scalar_like(b, s, 0);
  value *inverse = build(b, "where", IN(keep, build(b, "reciprocal", IN(s), NO_ATTRS), zero), NO_ATTRS);
  LOWER_NEED(c, inverse);
  v = lower_binary(b, "mul", v, lowering_unsqueeze(b, inverse, inverse->type.rank - 1));
  call_return(c, 0, matmul_product(b, v, transposed(b, u)));
  return KILN_OK;
}

kiln_status lower_matrix_norm(lower_call *c, value *x, double order, int row_axis, int column_axis, bool keep) {
  builder *b = &c->b;
  value *y;
  LOWER_NEED(c, x);
  const int rank = x->type.rank;
  const char *extreme = order > 0 ? "amax" : "amin";
  const int64_t row = row_axis, column = column_axis;
  if (order == 1 || order == -1 || isinf(order)) {
    const int64_t inner = isinf(order) ? column : row, outer = isinf(order) ? row : column;
    y = build(b, "abs", IN(x), NO_ATTRS);
    y = build(b, "sum", IN(y), ATTRS(A_INTS("axes", &inner, 1), A_BOOL("keepdim", true)));
    y = build(b, extreme, IN(y), ATTRS(A_INTS("axes", &outer, 1), A_BOOL("keepdim", true)));
  } else if (order == 0 || order == 2 || order == -2) {
    dim order_of[KILN_MAX_RANK], dims[KILN_MAX_RANK];
    int n = 0;
    for (int i = 0; i < rank; i++) {
      dims[i] = i == row || i == column ? 1 : x->type.dims[i];
      if (i != row && i != column) order_of[n++] = i;
    }
    order_of[n++] = row;
    order_of[n++] = column;
    value *s = singular_values(b, lower_permute(b, x, rank, order_of));
    if (!s && graph_check(b->graph) == KILN_OK) return LOWER_FAIL(c, "matrices whose larger side is not known");
    y = last_axis(b, order == 0 ? "sum" : extreme, s);
    y = lower_reshape(b, y, rank, dims);
  } else {
    return LOWER_FAIL(c, "argument ord: expected \"fro\", \"nuc\", 1, 2, inf or the negative of one");
  }
  LOWER_NEED(c, y);
  for (int i = rank - 1; !keep && i >= 0; i--) {
    if (i == row || i == column) y = lowering_squeeze(b, y, i);
  }
  call_return(c, 0, y);
  return KILN_OK;
}

/* The inverse of a tensor as a map from its last dimensions to its first `ind` ones. */
static kiln_status lower_tensorinv(lower_call *c) {
  value *a;
  builder *b = &c->b;
  dim_table *t = b->graph->dims;
  KILN_TRY(lowering_tensor(c, "self", &a));
  const dim ind = call_int(c, "ind");
  const int rank = a->type.rank;
  if (!dim_is_const(ind) || ind < 1 || ind >= rank) return LOWER_FAIL(c, "argument ind must be 1 to the rank less one");
  dim dims[KILN_MAX_RANK], sides[2] = {1, 1};
  for (int i = 0; i < rank; i++) {
    sides[i >= ind] = dim_mul(t, sides[i >= ind], a->type.dims[i]);
    dims[i] = a->type.dims[i < rank - ind ? i + ind : i - (rank - ind)];
  }
  if (dim_compare_equal(t, sides[0], sides[1]) == 0) return LOWER_FAIL(c, "the sizes on both sides differ");
  node *n = build_node(b, "lu", IN(lower_reshape(b, a, 2, sides)), NO_ATTRS);
  if (!n) return lowering_missing(c, "self");
  value *x = lu_solution(b, n->outputs[0], n->outputs[1], eye_like(b, a, sides[0], sides[0]), false);
  call_return(c, 0, lower_reshape(b, x, rank, dims));
  return KILN_OK;
}

/* What is checked is the host's concern; here nothing is left to do. */
static kiln_status lower_nothing(lower_call *c) {
  (void)c;
  return KILN_OK;
}

/* ---- rows ---------------------------------------------------------------------------------------------------------------------- */

const torch_row linalg_torch_infer_lu[] = {
    {"aten::linalg_lu_factor_ex(Tensor A, *, bool pivot=True, bool check_errors=False) -> (Tensor LU, Tensor pivots, "
     "Tensor info)",
     NULL, lower_lu_factor},
    {"aten::linalg_lu_factor(Tensor A, *, bool pivot=True) -> (Tensor LU, Tensor pivots)", NULL, lower_lu_factor},
    {"aten::linalg_lu(Tensor A, *, bool pivot=True) -> (Tensor P, Tensor L, Tensor U)", NULL, lower_lu},
    {"aten::linalg_det(Tensor A) -> Tensor", NULL, lower_det},
    {"aten::_linalg_det(Tensor A) -> (Tensor result, Tensor LU, Tensor pivots)", NULL, lower_det},
    {"aten::linalg_slogdet(Tensor A) -> (Tensor sign, Tensor logabsdet)", NULL, lower_slogdet},
    {"aten::_linalg_slogdet(Tensor A) -> (Tensor sign, Tensor logabsdet, Tensor LU, Tensor pivots)", NULL,
     lower_slogdet},
    {"aten::linalg_inv(Tensor A) -> Tensor", NULL, lower_inverse},
    {"aten::linalg_inv_ex(Tensor A, *, bool check_errors=False) -> (Tensor inverse, Tensor info)", NULL, lower_inverse},
    {"aten::inverse(Tensor self) -> Tensor", NULL, lower_inverse},
    {"aten::linalg_tensorinv(Tensor self, int ind=2) -> Tensor", NULL, lower_tensorinv},
    {"aten::linalg_solve(Tensor A, Tensor B, *, bool left=True) -> Tensor", NULL, lower_solve},
    {"aten::linalg_solve_ex(Tensor A, Tensor B, *, bool left=True, bool check_errors=False) -> (Tensor result, Tensor "
     "info)",
     NULL, lower_solve},
    {"aten::_linalg_solve_ex(Tensor A, Tensor B, *, bool left=True, bool check_errors=False) -> (Tensor result, Tensor "
     "LU, Tensor pivots, Tensor info)",
     NULL, lower_solve},
    {"aten::_linalg_check_errors(Tensor info, str api_name, *, bool is_matrix) -> ()", NULL, lower_nothing},
    {NULL, NULL, NULL}};
const torch_row linalg_torch_infer_pivot_order[] = {
    {"aten::lu_unpack(Tensor LU_data, Tensor LU_pivots, bool unpack_data=True, bool unpack_pivots=True) -> (Tensor P, "
     "Tensor L, Tensor U)",
     NULL, lower_lu_unpack},
    {"aten::linalg_lu_solve(Tensor LU, Tensor pivots, Tensor B, *, bool left=True, bool adjoint=False) -> Tensor", NULL,
     lower_lu_solve},
    {NULL, NULL, NULL}};
const torch_row linalg_torch_infer_cholesky[] = {
    {"aten::cholesky(Tensor self, bool upper=False) -> Tensor", NULL, lower_cholesky},
    {"aten::linalg_cholesky(Tensor self, *, bool upper=False) -> Tensor", NULL, lower_cholesky},
    {"aten::linalg_cholesky_ex(Tensor self, *, bool upper=False, bool check_errors=False) -> (Tensor L, Tensor info)",
     NULL, lower_cholesky},
    {"aten::cholesky_solve(Tensor self, Tensor input2, bool upper=False) -> Tensor", NULL, lower_cholesky_solve},
    {"aten::cholesky_inverse(Tensor self, bool upper=False) -> Tensor", NULL, lower_cholesky_inverse},
    {NULL, NULL, NULL}};
const torch_row linalg_torch_infer_solve_triangular[] = {
    {"aten::linalg_solve_triangular(Tensor self, Tensor B, *, bool upper, bool left=True, bool unitriangular=False) -> "
     "Tensor",
     NULL, lower_solve_triangular},
    {"aten::triangular_solve(Tensor self, Tensor A, bool upper=True, bool transpose=False, bool unitriangular=False) "
     "-> (Tensor solution, Tensor cloned_coefficient)",
     NULL, lower_triangular_solve},
    {NULL, NULL, NULL}};
const torch_row linalg_torch_infer_qr_factor[] = {
    {"aten::geqrf(Tensor self) -> (Tensor a, Tensor tau)", NULL, lower_geqrf},
    {"aten::linalg_qr(Tensor A, str mode=\"reduced\") -> (Tensor Q, Tensor R)", NULL, lower_qr},
    {NULL, NULL, NULL}};
const torch_row linalg_torch_infer_householder[] = {
    {"aten::linalg_householder_product(Tensor input, Tensor tau) -> Tensor", NULL, lower_householder_product},
    {"aten::orgqr(Tensor self, Tensor input2) -> Tensor", NULL, lower_householder_product},
    {"aten::ormqr(Tensor self, Tensor input2, Tensor input3, bool left=True, bool transpose=False) -> Tensor", NULL,
     lower_ormqr},
    {NULL, NULL, NULL}};
const torch_row linalg_torch_infer_eigh[] = {
    {"aten::linalg_eigh(Tensor self, str UPLO=\"L\") -> (Tensor eigenvalues, Tensor eigenvectors)", NULL, lower_eigh},
    {"aten::linalg_eigvalsh(Tensor self, str UPLO=\"L\") -> Tensor", NULL, lower_eigh},
    {"aten::_linalg_eigh(Tensor A, str UPLO=\"L\", bool compute_v=True) -> (Tensor eigenvalues, Tensor eigenvectors)",
     NULL, lower_eigh},
    {NULL, NULL, NULL}};
const torch_row linalg_torch_infer_eig[] = {
    {"aten::linalg_eig(Tensor self) -> (Tensor eigenvalues, Tensor eigenvectors)", NULL, lower_eig},
    {"aten::linalg_eigvals(Tensor self) -> Tensor", NULL, lower_eig},
    {"aten::_linalg_eigvals(Tensor self) -> Tensor", NULL, lower_eig},
    {NULL, NULL, NULL}};
const torch_row linalg_torch_infer_svd[] = {
    {"aten::linalg_svd(Tensor A, bool full_matrices=True, *, str? driver=None) -> (Tensor U, Tensor S, Tensor Vh)",
     NULL, lower_svd},
    {"aten::_linalg_svd(Tensor A, bool full_matrices=False, bool compute_uv=True, *, str? driver=None) -> (Tensor U, "
     "Tensor S, Tensor Vh)",
     NULL, lower_internal_svd},
    {"aten::svd(Tensor self, bool some=True, bool compute_uv=True) -> (Tensor U, Tensor S, Tensor V)", NULL,
     lower_old_svd},
    {"aten::linalg_svdvals(Tensor A, *, str? driver=None) -> Tensor", NULL, lower_svdvals},
    {"aten::linalg_pinv.atol_rtol_float(Tensor self, *, float? atol=None, float? rtol=None, bool hermitian=False) -> "
     "Tensor",
     NULL, lower_pinv},
    {"aten::linalg_pinv(Tensor self, float rcond, bool hermitian=False) -> Tensor", NULL, lower_pinv},
    {"aten::pinverse(Tensor self, float rcond=1e-15) -> Tensor", NULL, lower_pinv},
    {"aten::linalg_pinv.atol_rtol_tensor(Tensor self, *, Tensor? atol=None, Tensor? rtol=None, bool hermitian=False) "
     "-> Tensor",
     NULL, lower_pinv},
    {NULL, NULL, NULL}};
