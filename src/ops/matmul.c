/* Matrix products: linear (a weight stored [N, K]) and matmul (batched, broadcasting), and PyTorch's many ways to ask
 * for them. */
#include <string.h>

#include "base/memory.h"
#include "ops/lowering.h"
#include "ops/matmul_lower.h"
#include "ops/spatial.h"

/* ---- linear ------------------------------------------------------------------------------------------------------ */

static kiln_status linear_infer(graph *g, node *n) {
  KILN_TRY(infer_rank_between(n, 0, 1, KILN_MAX_RANK));
  KILN_TRY(infer_rank_between(n, 1, 2, 2));
  const tensor_type *x = in_type(n, 0), *w = in_type(n, 1);
  if (w->dtype != x->dtype) return INFER_FAIL(n, "operands x and w have different dtypes");
  if (x->dtype == KILN_BOOL) return INFER_FAIL(n, "operand x is bool, expected numbers");
  KILN_TRY(infer_same_dim(g, n, "last size of x and second size of w", x->dims[x->rank - 1], w->dims[1]));
  if (n->inputs[2].v) {
    KILN_TRY(infer_rank_between(n, 2, 1, 1));
    if (in_type(n, 2)->dtype != x->dtype) return INFER_FAIL(n, "operands x and b have different dtypes");
    KILN_TRY(infer_same_dim(g, n, "size of b and first size of w", in_type(n, 2)->dims[0], w->dims[0]));
  }
  dim dims[KILN_MAX_RANK];
  for (int i = 0; i < x->rank - 1; i++) dims[i] = x->dims[i];
  dims[x->rank - 1] = w->dims[0];
  set_out(n, 0, x->dtype, x->rank, dims);
  return KILN_OK;
}

static double dot_double(const double *x, const double *y, int64_t n) {
  double a = 0, b = 0;
  int64_t i = 0;
  for (; i + 1 < n; i += 2) {
    a += x[i] * y[i];
    b += x[i + 1] * y[i + 1];
  }
  return i < n ? a + b + x[i] * y[i] : a + b;
}

/* One element of an integer product, wrapping as the machine does. */
static int64_t dot_int(const tensor *a, int64_t a_at, int64_t a_step, const tensor *b, int64_t b_at, int64_t b_step,
                       int64_t n) {
  uint64_t sum = 0;
  for (int64_t i = 0; i < n; i++)
    sum += (uint64_t)ref_load_int(a, a_at + i * a_step) * (uint64_t)ref_load_int(b, b_at + i * b_step);
  return (int64_t)sum;
}

static kiln_status linear_ref_int(const kernel_args *a) {
  const tensor *x = &a->in[0], *w = &a->in[1], *b = a->in[2].data ? &a->in[2] : NULL, *y = &a->out[0];
  for (ref_iter it = ref_begin(y->rank, y->shape); ref_valid(&it); ref_next(&it)) {
    int64_t index[KILN_MAX_RANK];
    memcpy(index, it.index, sizeof index);
    const int64_t o = index[y->rank - 1];
    index[y->rank - 1] = 0;
    uint64_t sum = (uint64_t)dot_int(x, tensor_offset(x, index), x->strides[x->rank - 1], w, o * w->strides[0],
                                     w->strides[1], w->shape[1]);
    if (b) sum += (uint64_t)ref_load_int(b, o * b->strides[0]);
    ref_store_int(y, tensor_offset(y, it.index), (int64_t)sum);
  }
  return KILN_OK;
}

static kiln_status linear_ref(const kernel_args *a) {
  if (!dtype_is_float(a->in[0].dtype)) return linear_ref_int(a);
  const tensor *y = &a->out[0];
  const int64_t k = a->in[1].shape[1], n = a->in[1].shape[0];
  double *x = NULL, *w = NULL, *b = NULL;
  kiln_status status = ref_to_doubles(&a->in[0], &x);
  if (status == KILN_OK) status = ref_to_doubles(&a->in[1], &w);
  if (status == KILN_OK) status = ref_to_doubles(&a->in[2], &b);
  if (status == KILN_OK)
    for (ref_iter it = ref_begin(y->rank, y->shape); ref_valid(&it); ref_next(&it)) {
      const int64_t row = it.linear / n, o = it.linear % n;
      ref_store(y, tensor_offset(y, it.index), dot_double(x + row * k, w + o * k, k) + (b ? b[o] : 0));
    }
  mem_free(x);
  mem_free(w);
  mem_free(b);
  return status;
}

/* ---- matmul ------------------------------------------------------------------------------------------------------ */

static kiln_status matmul_infer(graph *g, node *n) {
  KILN_TRY(infer_rank_between(n, 0, 2, KILN_MAX_RANK));
  KILN_TRY(infer_rank_between(n, 1, 2, KILN_MAX_RANK));
  const tensor_type *a = in_type(n, 0), *b = in_type(n, 1);
  if (a->dtype != b->dtype) return INFER_FAIL(n, "operands a and b have different dtypes");
  if (a->dtype == KILN_BOOL) return INFER_FAIL(n, "operand a is bool, expected numbers");
  const bool transposed = node_bool(n, "transpose_b");
  const dim k = b->dims[b->rank - (transposed ? 1 : 2)], columns = b->dims[b->rank - (transposed ? 2 : 1)];
  KILN_TRY(infer_same_dim(g, n, "inner sizes of a and b", a->dims[a->rank - 1], k));
  tensor_type a_batch = *a, b_batch = *b, batch = *a;
  a_batch.rank -= 2;
  b_batch.rank -= 2;
  KILN_TRY(infer_broadcast(g, n, &a_batch, &b_batch, &batch));
  batch.dims[batch.rank] = a->dims[a->rank - 2];
  batch.dims[batch.rank + 1] = columns;
  set_out(n, 0, a->dtype, batch.rank + 2, batch.dims);
  return KILN_OK;
}

/* Offset of the matrix of `t` for the batch index of a result of rank `rank`. */
static int64_t matrix_offset(const tensor *t, const int64_t *index, int rank) {
  int64_t at = 0;
  const int skip = rank - t->rank;
  for (int i = 0; i < t->rank - 2; i++)
    if (t->shape[i] != 1) at += index[i + skip] * t->strides[i];
  return at;
}

static kiln_status matmul_ref_int(const kernel_args *a, bool transposed) {
  const tensor *x = &a->in[0], *w = &a->in[1], *y = &a->out[0];
  const int64_t k_step = w->strides[w->rank - (transposed ? 1 : 2)],
                n_step = w->strides[w->rank - (transposed ? 2 : 1)];
  for (ref_iter it = ref_begin(y->rank, y->shape); ref_valid(&it); ref_next(&it)) {
    const int64_t row = it.index[y->rank - 2], column = it.index[y->rank - 1];
    ref_store_int(
        y, tensor_offset(y, it.index),
        dot_int(x, matrix_offset(x, it.index, y->rank) + row * x->strides[x->rank - 2], x->strides[x->rank - 1], w,
                matrix_offset(w, it.index, y->rank) + column * n_step, k_step, x->shape[x->rank - 1]));
  }
  return KILN_OK;
}

/* Copies one matrix as doubles, row by row. */
static void matrix_load(const tensor *t, int64_t at, int64_t rows_n, int64_t row_step, int64_t columns,
                        int64_t column_step, double *out) {
  for (int64_t r = 0; r < rows_n; r++)
    for (int64_t c = 0; c < columns; c++) out[r * columns + c] = ref_load(t, at + r * row_step + c * column_step);
}

static kiln_status matmul_ref(const kernel_args *a) {
  const bool transposed = arg_bool(a, "transpose_b");
  const tensor *x = &a->in[0], *w = &a->in[1], *y = &a->out[0];
  if (!dtype_is_float(x->dtype)) return matmul_ref_int(a, transposed);
  const int rank = y->rank;
  const int64_t m = y->shape[rank - 2], n = y->shape[rank - 1], k = x->shape[x->rank - 1];
  const int64_t k_step = w->strides[w->rank - (transposed ? 1 : 2)],
                n_step = w->strides[w->rank - (transposed ? 2 : 1)];
  size_t mk, nk, total;
  if (!size_mul((size_t)m, (size_t)k, &mk) || !size_mul((size_t)n, (size_t)k, &nk) || !size_add(mk, nk, &total) ||
      !size_mul(total, sizeof(double), &total))
    return KILN_NO_MEMORY("reference kernel");
  double *buffer = mem_alloc(total);
  if (!buffer) return KILN_NO_MEMORY("reference kernel");
  for (ref_iter it = ref_begin(rank - 2, y->shape); ref_valid(&it); ref_next(&it)) {
    matrix_load(x, matrix_offset(x, it.index, rank), m, x->strides[x->rank - 2], k, x->strides[x->rank - 1], buffer);
    matrix_load(w, matrix_offset(w, it.index, rank), n, n_step, k, k_step, buffer + mk);
    const int64_t at = matrix_offset(y, it.index, rank);
    for (int64_t r = 0; r < m; r++)
      for (int64_t c = 0; c < n; c++)
        ref_store(y, at + r * y->strides[rank - 2] + c * y->strides[rank - 1],
                  dot_double(buffer + r * k, buffer + mk + c * k, k));
  }
  mem_free(buffer);
  return KILN_OK;
}

/* ---- PyTorch: building blocks ------------------------------------------------------------------------------------ */

/* Is `v` a weight, or a view or cast of one? */
static bool is_weight(const value *v) {
  for (int depth = 0; v && depth < 8; depth++) {
    if (v->constant) return true;
    const node *n = v->producer;
    if (!n || n->n_inputs != 1 || !((n->op->flags & OP_VIEW) || str_eq(n->op->name, "cast"))) return false;
    v = n->inputs[0].v;
  }
  return false;
}

/* [K, N] to [N, K] and back, undoing the transposition that made it where there is one. */
static value *transposed_matrix(builder *b, value *v) {
  if (!v) return NULL;
  const node *n = v->producer;
  if (n && str_eq(n->op->name, "permute") && n->inputs[0].v->type.rank == 2 && node_attr(n, "order")->u.ints[0] == 1)
    return n->inputs[0].v;
  return lower_permute(b, v, 2, (dim[]){1, 0});
}

/* a @ b, ranks of at least 2. */
value *matmul_product(builder *b, value *x, value *y) {
  if (!x || !y) return NULL;
  if (y->type.rank == 2 && is_weight(y)) return build(b, "linear", IN(x, transposed_matrix(b, y), NULL), NO_ATTRS);
  return build(b, "matmul", IN(x, y), NO_ATTRS);
}

/* alpha * v for a Scalar argument (1 if absent). */
static value *scaled(lower_call *c, value *v, const char *name) {
  const double alpha = call_float(c, name);
  if (!v || alpha == 1) return v;
  value *factor = dtype_is_float(v->type.dtype) ? graph_scalar(c->b.graph, v->type.dtype, alpha)
                                                : graph_scalar_int(c->b.graph, v->type.dtype, (int64_t)alpha);
  return lower_binary(&c->b, "mul", v, factor);
}

/* beta * self + alpha * p; beta = 0 ignores self's NaN. */
static kiln_status blend(lower_call *c, value *self, value *p) {
  p = scaled(c, p, "alpha");
  if (p && self && call_float(c, "beta") != 0) p = lower_binary(&c->b, "add", scaled(c, self, "beta"), p);
  if (p && self && call_float(c, "beta") == 0 && !type_equal(&self->type, &p->type) && self->type.rank > p->type.rank)
    return LOWER_FAIL(c, "argument self has more dimensions than the product");
  call_return(c, 0, p);
  return KILN_OK;
}

static kiln_status lower_linear(lower_call *c) {
  value *x, *w, *bias = call_tensor(c, "bias");
  KILN_TRY(lowering_tensor(c, "input", &x));
  KILN_TRY(lowering_tensor(c, "weight", &w));
  const bool vector = w->type.rank == 1;
  if (vector) w = lowering_unsqueeze(&c->b, w, 0);
  LOWER_NEED(c, w);
  const bool fits = bias && bias->type.rank == 1 && !vector &&
                    dim_compare_equal(c->b.graph->dims, bias->type.dims[0], w->type.dims[0]) != 0;
  value *y = build(&c->b, "linear", IN(x, w, fits ? bias : NULL), NO_ATTRS);
  if (vector && y) y = lowering_squeeze(&c->b, y, y->type.rank - 1);
  if (bias && !fits) y = lower_binary(&c->b, "add", y, bias);
  call_return(c, 0, y);
  return KILN_OK;
}

static kiln_status lower_addmm(lower_call *c) {
  value *self, *x, *y;
  KILN_TRY(lowering_tensor(c, "self", &self));
  KILN_TRY(lowering_tensor(c, "mat1", &x));
  KILN_TRY(lowering_tensor(c, "mat2", &y));
  const bool plain = call_float(c, "beta") == 1 && call_float(c, "alpha") == 1;
  if (plain && self->type.rank == 1 && y->type.rank == 2 && is_weight(y) &&
      dim_compare_equal(c->b.graph->dims, self->type.dims[0], y->type.dims[1]) == 1) {
    call_return(c, 0, build(&c->b, "linear", IN(x, transposed_matrix(&c->b, y), self), NO_ATTRS));
    return KILN_OK;
  }
  return blend(c, self, matmul_product(&c->b, x, y));
}

static kiln_status two(lower_call *c, const char *a, const char *b, value **x, value **y) {
  KILN_TRY(lowering_tensor(c, a, x));
  return lowering_tensor(c, b, y);
}

static kiln_status lower_mm(lower_call *c) {
  value *x, *y;
  KILN_TRY(two(c, "self", "mat2", &x, &y));
  call_return(c, 0, matmul_product(&c->b, x, y));
  return KILN_OK;
}

static kiln_status lower_chain_matmul(lower_call *c) {
  value *list[16];
  const int n = call_tensors(c, "matrices", list, 16);
  if (n < 1) return LOWER_FAIL(c, "argument matrices: expected 1 to 16");
  for (int i = 1; i < n; i++) list[0] = matmul_product(&c->b, list[0], list[i]);
  call_return(c, 0, list[0]);
  return KILN_OK;
}

static kiln_status lower_baddbmm(lower_call *c) {
  value *x, *y;
  KILN_TRY(two(c, "batch1", "batch2", &x, &y));
  return blend(c, call_tensor(c, "self"), matmul_product(&c->b, x, y));
}

static kiln_status lower_addbmm(lower_call *c) {
  value *x, *y;
  KILN_TRY(two(c, "batch1", "batch2", &x, &y));
  value *p = build(&c->b, "sum", IN(matmul_product(&c->b, x, y)), ATTRS(A_INTS("axes", ((int64_t[]){0}), 1)));
  return blend(c, call_tensor(c, "self"), p);
}

/* x @ y for all ranks, as torch.matmul. */
static value *any_matmul(builder *b, value *x, value *y) {
  if (!x || !y) return NULL;
  const bool x_vector = x->type.rank == 1, y_vector = y->type.rank == 1;
  if (x_vector) x = lowering_unsqueeze(b, x, 0);
  if (y_vector) y = lowering_unsqueeze(b, y, 1);
  value *p = matmul_product(b, x, y);
  if (!p) return NULL;
  if (y_vector) p = lowering_squeeze(b, p, p->type.rank - 1);
  if (x_vector && p) p = lowering_squeeze(b, p, p->type.rank - (y_vector ? 1 : 2));
  return p;
}

static kiln_status lower_matmul(lower_call *c) {
  value *x, *y;
  KILN_TRY(two(c, "self", "other", &x, &y));
  if (x->type.rank == 0 || y->type.rank == 0) return LOWER_FAIL(c, "operands must have at least 1 dimension");
  call_return(c, 0, any_matmul(&c->b, x, y));
  return KILN_OK;
}

static kiln_status lower_mv(lower_call *c) {
  value *x, *y;
  KILN_TRY(two(c, "self", "vec", &x, &y));
  call_return(c, 0, any_matmul(&c->b, x, y));
  return KILN_OK;
}

static kiln_status lower_addmv(lower_call *c) {
  value *x, *y;
  KILN_TRY(two(c, "mat", "vec", &x, &y));
  return blend(c, call_tensor(c, "self"), any_matmul(&c->b, x, y));
}

/* inner(x, y): over the last axis of both. */
static kiln_status lower_inner(lower_call *c) {
  value *x, *y;
  builder *b = &c->b;
  KILN_TRY(two(c, "self", "other", &x, &y));
  if (x->type.rank == 0 || y->type.rank == 0) {
    call_return(c, 0, lower_binary(b, "mul", x, y));
    return KILN_OK;
  }
  const int xr = x->type.rank, yr = y->type.rank;
  if (xr + yr - 2 > KILN_MAX_RANK) return LOWER_FAIL(c, "the result has more than %d dimensions", KILN_MAX_RANK);
  dim dims[KILN_MAX_RANK];
  for (int i = 0; i < xr - 1; i++) dims[i] = x->type.dims[i];
  for (int i = 0; i < yr - 1; i++) dims[xr - 1 + i] = y->type.dims[i];
  value *w = lower_reshape(b, y, 2, (dim[]){dim_product(b->graph->dims, y->type.dims, yr - 1), y->type.dims[yr - 1]});
  value *p = build(b, "linear", IN(x, w, NULL), NO_ATTRS);
  call_return(c, 0, p ? lower_reshape(b, p, xr + yr - 2, dims) : NULL);
  return KILN_OK;
}

static value *outer(lower_call *c, const char *a, const char *b) {
  value *x = lowering_unsqueeze(&c->b, call_tensor(c, a), 1), *y = lowering_unsqueeze(&c->b, call_tensor(c, b), 0);
  if (x && y) lower_promote(&c->b, &x, false, &y, false);
  return x && y ? lower_binary(&c->b, "mul", x, y) : NULL;
}
static kiln_status lower_addr(lower_call *c) { return blend(c, call_tensor(c, "self"), outer(c, "vec1", "vec2")); }

/* bilinear: y[..., o] = sum_ij x1[..., i] w[o, i, j] x2[..., j] + b[o], as (x1 (x) x2) against w of [O, I*J]. */
static kiln_status lower_bilinear(lower_call *c) {
  value *x, *y, *w;
  builder *b = &c->b;
  KILN_TRY(two(c, "input1", "input2", &x, &y));
  KILN_TRY(lowering_tensor(c, "weight", &w));
  const int rank = x->type.rank;
  if (rank < 1 || rank > KILN_MAX_RANK - 1 || y->type.rank != rank || w->type.rank != 3)
    return LOWER_FAIL(c, "expected inputs of one rank and a weight of rank 3");
  dim_table *t = b->graph->dims;
  dim dims[KILN_MAX_RANK];
  for (int i = 0; i < rank; i++) dims[i] = x->type.dims[i];
  dims[rank - 1] = dim_mul(t, w->type.dims[1], w->type.dims[2]);
  value *pair = lower_binary(b, "mul", lowering_unsqueeze(b, x, rank), lowering_unsqueeze(b, y, rank - 1));
  if (pair) pair = lower_reshape(b, pair, rank, dims);
  w = lower_reshape(b, w, 2, (dim[]){w->type.dims[0], dims[rank - 1]});
  call_return(c, 0, build(b, "linear", IN(pair, w, call_tensor(c, "bias")), NO_ATTRS));
  return KILN_OK;
}

static kiln_status lower_vecdot(lower_call *c) {
  value *x, *y;
  builder *b = &c->b;
  KILN_TRY(two(c, "x", "y", &x, &y));
  lower_promote(b, &x, false, &y, false);
  value *p = lower_binary(b, "mul", x, y);
  LOWER_NEED(c, p);
  int axis;
  KILN_TRY(lowering_axis(c, "dim", p->type.rank, &axis));
  const int64_t axis_list = axis;
  call_return(c, 0, build(b, "sum", IN(p), ATTRS(A_INTS("axes", &axis_list, 1))));
  return KILN_OK;
}

/* cdist: p-norm of x1[..., i, :] - x2[..., j, :]. */
static kiln_status lower_cdist(lower_call *c) {
  value *x, *y;
  builder *b = &c->b;
  KILN_TRY(two(c, "x1", "x2", &x, &y));
  if (x->type.rank < 2 || x->type.rank >= KILN_MAX_RANK || y->type.rank < 2 || y->type.rank >= KILN_MAX_RANK)
    return LOWER_FAIL(c, "expected inputs of rank 2 to %d", KILN_MAX_RANK - 1);
  value *d =
      lower_binary(b, "sub", lowering_unsqueeze(b, x, x->type.rank - 1), lowering_unsqueeze(b, y, y->type.rank - 2));
  LOWER_NEED(c, d);
  const int64_t axis = d->type.rank - 1;
  call_return(c, 0, build(b, "norm", IN(d), ATTRS(A_FLOAT("p", call_float(c, "p")), A_INTS("axes", &axis, 1))));
  return KILN_OK;
}

/* ---- rows -------------------------------------------------------------------------------------------------------- */

static const torch_row linear_torch[] = {
    {"aten::linear(Tensor input, Tensor weight, Tensor? bias=None) -> Tensor", NULL, lower_linear},
    {"aten::addmm(Tensor self, Tensor mat1, Tensor mat2, *, Scalar beta=1, Scalar alpha=1) -> Tensor", NULL,
     lower_addmm},
    {"aten::bilinear(Tensor input1, Tensor input2, Tensor weight, Tensor? bias=None) -> Tensor", NULL, lower_bilinear},
    {NULL, NULL, NULL}};

static const torch_row matmul_torch[] = {
    {"aten::mm(Tensor self, Tensor mat2) -> Tensor", NULL, lower_mm},
    {"aten::bmm(Tensor self, Tensor mat2) -> Tensor", NULL, lower_mm},
    {"aten::baddbmm(Tensor self, Tensor batch1, Tensor batch2, *, Scalar beta=1, Scalar alpha=1) -> Tensor", NULL,
     lower_baddbmm},
    {"aten::addbmm(Tensor self, Tensor batch1, Tensor batch2, *, Scalar beta=1, Scalar alpha=1) -> Tensor", NULL,
     lower_addbmm},
    {"aten::matmul(Tensor self, Tensor other) -> Tensor", NULL, lower_matmul},
    {"aten::linalg_matmul(Tensor self, Tensor other) -> Tensor", NULL, lower_matmul},
    {"aten::chain_matmul(Tensor[] matrices) -> Tensor", NULL, lower_chain_matmul},
    {"aten::mv(Tensor self, Tensor vec) -> Tensor", NULL, lower_mv},
    {"aten::addmv(Tensor self, Tensor mat, Tensor vec, *, Scalar beta=1, Scalar alpha=1) -> Tensor", NULL, lower_addmv},
    {"aten::inner(Tensor self, Tensor other) -> Tensor", NULL, lower_inner},
    {"aten::addr(Tensor self, Tensor vec1, Tensor vec2, *, Scalar beta=1, Scalar alpha=1) -> Tensor", NULL, lower_addr},
    {"aten::linalg_vecdot(Tensor x, Tensor y, *, int dim=-1) -> Tensor", NULL, lower_vecdot},
    {"aten::cdist(Tensor x1, Tensor x2, float p=2., int? compute_mode=None) -> Tensor", NULL, lower_cdist},
    {"aten::_cdist_forward(Tensor x1, Tensor x2, float p, int? compute_mode) -> Tensor", NULL, lower_cdist},
    {"aten::_trilinear(Tensor i1, Tensor i2, Tensor i3, int[] expand1, int[] expand2, int[] expand3, int[] sumdim, int "
     "unroll_dim=1) "
     "-> Tensor",
     NULL, lower_trilinear},
    {"aten::tensordot(Tensor self, Tensor other, int[] dims_self, int[] dims_other) -> Tensor", NULL, lower_tensordot},
    {"aten::embedding_bag(Tensor weight, Tensor indices, Tensor offsets, bool scale_grad_by_freq=False, int mode=0, "
     "bool sparse=False, "
     "Tensor? per_sample_weights=None, bool include_last_offset=False) -> (Tensor, Tensor, Tensor, Tensor)",
     NULL, lower_embedding_bag},
    {"aten::embedding_bag.padding_idx(Tensor weight, Tensor indices, Tensor offsets, bool scale_grad_by_freq, int "
     "mode, bool sparse, "
     "Tensor? per_sample_weights, bool include_last_offset, int? padding_idx) -> (Tensor, Tensor, Tensor, Tensor)",
     NULL, lower_embedding_bag},
    {"aten::_embedding_bag(Tensor weight, Tensor indices, Tensor offsets, bool scale_grad_by_freq=False, int mode=0, "
     "bool "
     "sparse=False, Tensor? per_sample_weights=None, bool include_last_offset=False, int padding_idx=-1) -> (Tensor, "
     "Tensor, Tensor, "
     "Tensor)",
     NULL, lower_embedding_bag},
    {"aten::_embedding_bag_forward_only(Tensor weight, Tensor indices, Tensor offsets, bool scale_grad_by_freq=False, "
     "int mode=0, bool "
     "sparse=False, Tensor? per_sample_weights=None, bool include_last_offset=False, int padding_idx=-1) -> (Tensor, "
     "Tensor, Tensor, "
     "Tensor)",
     NULL, lower_embedding_bag},
    {NULL, NULL, NULL}};

static const char *const linear_cases[] = {"x:f32[5,K] w:f32[7,K] b:f32[7] K:1,3,16,31,64,257",
                                           "x:f32[M,33] w:f32[48,33] b:f32[48] M:1,2,5,6,7,13,64",
                                           "x:f32[3,19] w:f32[N,19] b:f32[N] N:1,15,16,17,31,33,65",
                                           "x:f32[2,3,4,8] w:f32[5,8]",
                                           "x:f32[9] w:f32[4,9] b:f32[4]",
                                           "x:f32[0,4] w:f32[3,4] b:f32[3]",
                                           "x:f32[3,0] w:f32[2,0] b:f32[2]",
                                           "x:f64[3,5] w:f64[4,5] b:f64[4]",
                                           "x:f32[3,5]=inf w:f32[4,5] b:f32[4]",
                                           NULL};
static const char *const matmul_cases[] = {"a:f32[M,20] b:f32[20,9] M:1,4,6,7,12,33",
                                           "a:f32[3,K] b:f32[K,5] K:1,2,15,64,300",
                                           "a:f32[5,6] b:f32[6,N] N:1,8,16,17,32,47",
                                           "a:f32[2,3,4,5] b:f32[2,3,5,6]",
                                           "a:f32[2,1,4,5] b:f32[3,5,6]",
                                           "a:f32[4,5] b:f32[2,3,5,6]",
                                           "a:f32[2,3,4,5] b:f32[2,3,7,5] transpose_b=1",
                                           "a:f32[2,4,16] b:f32[2,33,16] transpose_b=1",
                                           "a:f32[0,4,5] b:f32[0,5,6]",
                                           "a:f32[2,4,0] b:f32[2,0,6]",
                                           "a:f64[3,4] b:f64[4,5]",
                                           "a:i64[3,4]=range(-9,9) b:i64[4,5]=range(-9,9)",
                                           "a:f32[3,4]=inf b:f32[4,5]",
                                           NULL};

static const op rows[] = {
    {.name = "linear",
     .sig = "x w b? -> y",
     .attrs = "",
     .flags = OP_ANCHOR,
     .infer = linear_infer,
     .ref = linear_ref,
     .torch = linear_torch,
     .cases = linear_cases,
     .tolerance = 1e-4f},
    {.name = "matmul",
     .sig = "a b -> y",
     .attrs = "transpose_b:bool=0",
     .flags = OP_ANCHOR,
     .infer = matmul_infer,
     .ref = matmul_ref,
     .torch = matmul_torch,
     .cases = matmul_cases,
     .tolerance = 1e-4f},
};

extern const op_family ops_matmul;
OP_FAMILY(ops_matmul, rows);
