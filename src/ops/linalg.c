/* Linear algebra: factorizations and solutions of batches of matrices. Everything else (determinants, inverses, norms, ...) is written in
 * terms of these by ops/linalg_lower.c. */
#include "ops/linalg.h"

#include "base/memory.h"
#include "ops/infer.h"
#include "ops/linalg_lower.h"
#include "ops/linalg_math.h"
#include "ops/ref.h"

/* ---- layout ---------------------------------------------------------------------------------------------------------- */

typedef void (*linalg_function)(const long long *d, int flags, const double *a, const double *b, double *x, double *y,
                                double *z);

static const struct linalg_row {
  const char *name;
  linalg_function f;
  int in[2], out[3]; /* ranks of one matrix's part; -1: no such operand or result */
} functions[] = {
    {"lu", la_lu, {2, -1}, {2, 1, 0}},
    {"pivot_order", la_pivot_order, {1, -1}, {1, -1, -1}},
    {"cholesky", la_cholesky, {2, -1}, {2, 0, -1}},
    {"solve_triangular", la_solve_triangular, {2, 2}, {2, -1, -1}},
    {"qr_factor", la_qr_factor, {2, -1}, {2, 1, -1}},
    {"householder", la_householder, {2, 1}, {2, -1, -1}},
    {"eigh", la_eigh, {2, -1}, {1, 2, -1}},
    {"eig", la_eig, {2, 2}, {2, 3, -1}},
    {"svd", la_svd, {2, -1}, {2, 1, 2}},
};

static const struct linalg_row *row_of(const char *name) {
  for (size_t i = 0; i < KILN_COUNT(functions); i++) {
    if (str_eq(functions[i].name, name)) return &functions[i];
  }
  return NULL;
}

static int64_t part(const tensor *t, int core) {
  int64_t count = 1;
  for (int i = t->rank - core; i < t->rank; i++) count *= t->shape[i];
  return count;
}

kiln_status linalg_layout_of(const kernel_args *a, linalg_layout *out) {
  const struct linalg_row *row = row_of(a->node->op->name);
  const tensor *first = &a->in[0];
  *out = (linalg_layout){.count = 1};
  for (int i = 0; i < first->rank - row->in[0]; i++) out->count *= first->shape[i];
  out->sizes[0] = row->in[0] == 2 ? first->shape[first->rank - 2] : 1;
  out->sizes[1] = first->shape[first->rank - 1];
  out->sizes[3] = row->out[0] ? a->out[0].shape[a->out[0].rank - 1] : 1;
  if (row->in[1] >= 0) {
    const tensor *second = &a->in[1];
    out->sizes[2] = second->shape[second->rank - 1];
    out->sizes[4] = second->shape[second->rank - row->in[1]];
    int64_t count = 1; /* sizes that inference could only assume to be equal */
    for (int i = 0; i < second->rank - row->in[1]; i++) count *= second->shape[i];
    if (count != out->count || out->sizes[4] > out->sizes[0] || (row->in[1] == 1 && out->sizes[4] > out->sizes[1]) ||
        (row->in[1] == 2 && out->sizes[4] != out->sizes[0]))
      return KILN_FAIL(KILN_INVALID_ARGUMENT, "%s: the sizes of the operands do not fit each other", row->name);
  }
  size_t total = 0;
  for (int i = 0; i < 2; i++) {
    out->in[i] = row->in[i] >= 0 ? part(&a->in[i], row->in[i]) : 0;
    if (!size_add(total, (size_t)out->in[i], &total)) return KILN_NO_MEMORY("matrices");
  }
  for (int i = 0; i < 3; i++) {
    out->x[i] = i < a->n_out && row->out[i] >= 0 ? part(&a->out[i], row->out[i]) : 0;
    if (!size_add(total, (size_t)out->x[i], &total)) return KILN_NO_MEMORY("matrices");
  }
  if (str_eq(row->name, "eigh") || str_eq(row->name, "eig")) { /* a copy of the matrix */
    out->x[2] = str_eq(row->name, "eig") ? out->x[1] : out->in[0];
    if (!size_add(total, (size_t)out->x[2], &total)) return KILN_NO_MEMORY("matrices");
  }
  out->total = (int64_t)total;
  for (int i = 0; i < op_schema_of(a->node->op)->n_attrs; i++) {
    if (op_schema_of(a->node->op)->attrs[i].kind == ATTR_BOOL && a->attrs[i].u.i) out->flags |= 1 << i;
  }
  return total < ((size_t)1 << 60) / sizeof(double) ? KILN_OK : KILN_NO_MEMORY("matrices");
}

/* ---- reference --------------------------------------------------------------------------------------------------------- */

/* Elements of matrix `m` of a tensor, to or from `v`. */
static void move_part(const tensor *t, int64_t m, int64_t count, double *v, bool store) {
  int64_t index[KILN_MAX_RANK];
  for (int64_t e = 0; e < count; e++) {
    int64_t rest = m * count + e;
    for (int i = t->rank - 1; i >= 0; i--) {
      index[i] = rest % t->shape[i];
      rest /= t->shape[i];
    }
    if (store)
      ref_store(t, tensor_offset(t, index), v[e]);
    else
      v[e] = ref_load(t, tensor_offset(t, index));
  }
}

static kiln_status linalg_ref(const kernel_args *a) {
  const struct linalg_row *row = row_of(a->node->op->name);
  linalg_layout l;
  KILN_TRY(linalg_layout_of(a, &l));
  double *room = mem_alloc(((size_t)l.total + 1) * sizeof(double));
  if (!room) return KILN_NO_MEMORY("matrices");
  double *in[2] = {room, room + l.in[0]}, *x = room + l.in[0] + l.in[1];
  double *out[3] = {x, x + l.x[0], x + l.x[0] + l.x[1]};
  const long long d[5] = {l.sizes[0], l.sizes[1], l.sizes[2], l.sizes[3], l.sizes[4]};
  for (int64_t m = 0; m < l.count; m++) {
    for (int i = 0; i < a->n_in; i++) move_part(&a->in[i], m, l.in[i], in[i], false);
    row->f(d, l.flags, in[0], in[1], out[0], out[1], out[2]);
    for (int i = 0; i < a->n_out; i++) move_part(&a->out[i], m, l.x[i], out[i], true);
  }
  mem_free(room);
  return KILN_OK;
}

/* ---- inference ----------------------------------------------------------------------------------------------------------- */

static kiln_status infer_matrix(const node *n) {
  KILN_TRY(infer_rank_between(n, 0, 2, KILN_MAX_RANK));
  return infer_float(n, 0);
}

static kiln_status infer_square(graph *g, const node *n) {
  KILN_TRY(infer_matrix(n));
  const tensor_type *a = in_type(n, 0);
  return infer_same_dim(g, n, "rows and columns", a->dims[a->rank - 2], a->dims[a->rank - 1]);
}

/* Output k: the batch of operand 0 and these last sizes. */
static void set_parts(node *n, int k, kiln_dtype dtype, int count, dim first, dim second) {
  const tensor_type *a = in_type(n, 0);
  dim dims[KILN_MAX_RANK];
  int rank = a->rank - 2;
  for (int i = 0; i < rank; i++) dims[i] = a->dims[i];
  if (count > 0) dims[rank++] = first;
  if (count > 1) dims[rank++] = second;
  set_out(n, k, dtype, rank, dims);
}

static kiln_status infer_lu(graph *g, node *n) {
  KILN_TRY(infer_matrix(n));
  const tensor_type *a = in_type(n, 0);
  set_out(n, 0, a->dtype, a->rank, a->dims);
  set_parts(n, 1, KILN_I32, 1, lowering_min(g->dims, a->dims[a->rank - 2], a->dims[a->rank - 1]), 0);
  set_parts(n, 2, KILN_I32, 0, 0, 0);
  return KILN_OK;
}

static kiln_status infer_pivot_order(graph *g, node *n) {
  (void)g;
  KILN_TRY(infer_rank_between(n, 0, 1, KILN_MAX_RANK));
  const tensor_type *a = in_type(n, 0);
  if (a->dtype != KILN_I32) return INFER_FAIL(n, "operand pivots is %s, expected i32", kiln_dtype_name(a->dtype));
  dim dims[KILN_MAX_RANK];
  for (int i = 0; i < a->rank; i++) dims[i] = a->dims[i];
  dims[a->rank - 1] = node_int(n, "rows");
  set_out(n, 0, KILN_I64, a->rank, dims);
  return KILN_OK;
}

static kiln_status infer_cholesky(graph *g, node *n) {
  KILN_TRY(infer_square(g, n));
  const tensor_type *a = in_type(n, 0);
  set_out(n, 0, a->dtype, a->rank, a->dims);
  set_parts(n, 1, KILN_I32, 0, 0, 0);
  return KILN_OK;
}

static kiln_status infer_batches(graph *g, node *n, int core) {
  const tensor_type *a = in_type(n, 0), *b = in_type(n, 1);
  if (b->dtype != a->dtype) return INFER_FAIL(n, "operands have different dtypes");
  if (b->rank - core != a->rank - 2) return INFER_FAIL(n, "operands have different numbers of batch dimensions");
  for (int i = 0; i < a->rank - 2; i++) KILN_TRY(infer_same_dim(g, n, "batch dimensions", a->dims[i], b->dims[i]));
  return KILN_OK;
}

static kiln_status infer_solve_triangular(graph *g, node *n) {
  KILN_TRY(infer_square(g, n));
  KILN_TRY(infer_rank_between(n, 1, 2, KILN_MAX_RANK));
  KILN_TRY(infer_batches(g, n, 2));
  const tensor_type *a = in_type(n, 0), *b = in_type(n, 1);
  KILN_TRY(infer_same_dim(g, n, "rows", a->dims[a->rank - 1], b->dims[b->rank - 2]));
  set_out(n, 0, b->dtype, b->rank, b->dims);
  return KILN_OK;
}

static kiln_status infer_qr_factor(graph *g, node *n) {
  KILN_TRY(infer_matrix(n));
  const tensor_type *a = in_type(n, 0);
  set_out(n, 0, a->dtype, a->rank, a->dims);
  set_parts(n, 1, a->dtype, 1, lowering_min(g->dims, a->dims[a->rank - 2], a->dims[a->rank - 1]), 0);
  return KILN_OK;
}

static kiln_status infer_householder(graph *g, node *n) {
  KILN_TRY(infer_matrix(n));
  KILN_TRY(infer_rank_between(n, 1, 1, KILN_MAX_RANK));
  KILN_TRY(infer_batches(g, n, 1));
  const tensor_type *a = in_type(n, 0), *tau = in_type(n, 1);
  const dim m = a->dims[a->rank - 2], r = tau->dims[tau->rank - 1];
  if (dim_compare_le(g->dims, r, m) == 0 || dim_compare_le(g->dims, r, a->dims[a->rank - 1]) == 0)
    return INFER_FAIL(n, "more factors than rows or columns");
  set_parts(n, 0, a->dtype, 2, m, node_int(n, "columns"));
  return KILN_OK;
}

static kiln_status infer_eigh(graph *g, node *n) {
  KILN_TRY(infer_square(g, n));
  const tensor_type *a = in_type(n, 0);
  set_parts(n, 0, a->dtype, 1, a->dims[a->rank - 1], 0);
  set_out(n, 1, a->dtype, a->rank, a->dims);
  return KILN_OK;
}

/* Complex results are pairs in a last dimension more. */
static kiln_status infer_eig(graph *g, node *n) {
  KILN_TRY(infer_square(g, n));
  KILN_TRY(infer_rank_between(n, 0, 2, KILN_MAX_RANK - 1));
  const tensor_type *a = in_type(n, 0), *b = in_type(n, 1);
  if (b->dtype != a->dtype || b->rank != a->rank) return INFER_FAIL(n, "the two parts have different types");
  for (int i = 0; i < a->rank; i++) KILN_TRY(infer_same_dim(g, n, "sizes of the parts", a->dims[i], b->dims[i]));
  dim dims[KILN_MAX_RANK];
  for (int i = 0; i < a->rank; i++) dims[i] = a->dims[i];
  dims[a->rank] = 2;
  const kiln_dtype dtype = a->dtype;
  const int rank = a->rank;
  set_out(n, 1, dtype, rank + 1, dims);
  dims[rank - 1] = 2;
  set_out(n, 0, dtype, rank, dims);
  return KILN_OK;
}

static kiln_status infer_svd(graph *g, node *n) {
  KILN_TRY(infer_matrix(n));
  const tensor_type *a = in_type(n, 0);
  const dim rows = a->dims[a->rank - 2], columns = a->dims[a->rank - 1];
  if (dim_compare_le(g->dims, columns, rows) == 0) return INFER_FAIL(n, "more columns than rows");
  set_out(n, 0, a->dtype, a->rank, a->dims);
  set_parts(n, 1, a->dtype, 1, columns, 0);
  set_parts(n, 2, a->dtype, 2, columns, columns);
  return KILN_OK;
}

/* ---- rows ------------------------------------------------------------------------------------------------------------------ */

static const char *const cases_any[] = {"x:f32[2,5,3]", "x:f32[N,N] N:1,4,9", "x:f64[3,5]",
                                        "x:f32[0,3]",   "x:f32[2,0,0]",       NULL};
static const char *const cases_tall[] = {"x:f32[2,5,1]", "x:f64[3,0]", "x:f32[1,1]", NULL};
static const char *const cases_one[] = {"x:f32[1,1]=positive", "x:f32[3,1,1]=positive", "x:f32[0,0]", NULL};
static const char *const cases_eig[] = {"re:f32[1,1] im:f32[1,1]", "re:f64[3,1,1] im:f64[3,1,1]",
                                        "re:f32[0,0] im:f32[0,0]", NULL};
static const char *const cases_order[] = {"pivots:i32[3,2]=range(3,4) rows=5", "pivots:i32[0] rows=4", NULL};
static const char *const cases_triangular[] = {"a:f32[N,N]=positive b:f32[N,3] N:1,2,4",
                                               "a:f64[2,3,3]=positive b:f64[2,3,1] upper=1",
                                               "a:f32[3,3] b:f32[3,2] upper=1 unit=1", NULL};
static const char *const cases_householder[] = {"a:f32[4,3] tau:f32[2] columns=4",
                                                "a:f64[2,4,3] tau:f64[2,3] columns=2", NULL};

#define OP(op_name, op_sig, op_attrs, infer_fn, op_cases) \
  {.name = op_name,                                       \
   .sig = op_sig,                                         \
   .attrs = op_attrs,                                     \
   .infer = infer_fn,                                     \
   .ref = linalg_ref,                                     \
   .torch = linalg_torch_##infer_fn,                      \
   .cases = op_cases,                                     \
   .tolerance = 1e-4f},
static const op rows[] = {
    OP("lu", "x -> lu pivots info", "pivot:bool=1", infer_lu, cases_any)
        OP("pivot_order", "pivots -> order", "rows:int", infer_pivot_order, cases_order)
            OP("cholesky", "x -> l info", "", infer_cholesky, cases_one)
                OP("solve_triangular", "a b -> x", "upper:bool=0 unit:bool=0", infer_solve_triangular, cases_triangular)
                    OP("qr_factor", "x -> a tau", "", infer_qr_factor, cases_any)
                        OP("householder", "a tau -> q", "columns:int", infer_householder, cases_householder)
                            OP("eigh", "x -> values vectors", "", infer_eigh, cases_one)
                                OP("eig", "re im -> values vectors", "", infer_eig, cases_eig)
                                    OP("svd", "x -> u s v", "", infer_svd, cases_tall)};

extern const op_family ops_linalg;
OP_FAMILY(ops_linalg, rows);
