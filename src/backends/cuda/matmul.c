/* linear and matmul as matrix problems. Operands are read in place whatever their batch strides are; a matrix with
 * other strides than a pitch is copied first. */
#include "backends/cuda/cublaslt.h"
#include "backends/cuda/gemm.h"

typedef struct matmul_state {
  gemm_plan plan;
  dense_copy copy[2];
  bool bias;
  cublaslt_plan library; /* of the library's rows */
} matmul_state;

/* Rows of the library fall back to the best way where it cannot do what is asked. */
static kiln_status plan_product(kernel_prep *p, const gemm_problem *q, const cublaslt_batch *batch, matmul_state *s) {
  int rank = p->kernel->variant;
  if (rank >= CUBLASLT_VARIANT) {
    KILN_TRY(cublaslt_plan_make(p, q, batch, &s->library));
    if (s->library.library) return KILN_OK;
    rank = 0;
  }
  return gemm_plan_make(p, q, rank, &s->plan);
}

static const char *const zero_offset = "0LL";

/* ---- linear ------------------------------------------------------------------------------------------------------ */

static kiln_status linear_prepare(kernel_prep *p) {
  const tensor *x = &p->args.in[0], *w = &p->args.in[1], *y = &p->args.out[0];
  const int size = (int)kiln_dtype_size(x->dtype);
  matmul_state *s = ARENA_NEW(p->arena, matmul_state);
  if (!s) return KILN_NO_MEMORY("linear");
  p->state = s;
  gemm_problem q = {.dtype = x->dtype,
                    .n = w->shape[0],
                    .k = w->shape[1],
                    .m = 1,
                    .batches = 1,
                    .a_offset = zero_offset,
                    .b_offset = zero_offset,
                    .bias_offset = zero_offset,
                    .out_row = "row",
                    .out_col = "col",
                    .has_bias = node_in(p->args.node, 2) != NULL,
                    .bias_constant = cuda_is_constant(p, 2),
                    .b_constant = w->data != NULL,
                    .a_elements = tensor_numel(x)};
  for (int r = 0; r < y->rank - 1; r++) q.m *= y->shape[r];
  int a_align = cuda_in_alignment(p, 0), b_align = cuda_in_alignment(p, 1);
  if (!cuda_matrix(x, &q.lda)) {
    KILN_TRY(dense_copy_prepare(p, &p->args.in[0], &s->copy[0]));
    q.lda = q.k;
    a_align = 16;
  }
  q.ldb = w->strides[0];
  if (q.n == 1) q.ldb = q.k;
  if (w->strides[1] != 1 && q.k != 1) {
    if (w->strides[0] == 1 || q.n == 1) {
      q.b_kn = true;
      q.ldb = w->strides[1];
    } else {
      KILN_TRY(dense_copy_prepare(p, &p->args.in[1], &s->copy[1]));
      q.ldb = q.k;
      b_align = 16;
    }
  }
  s->bias = q.has_bias;
  q.a_aligned = a_align == 16;
  q.b_aligned = b_align == 16;
  q.vec_a = cuda_vector(16 / size, size, a_align, 2, (int64_t[]){q.k, q.m == 1 ? 0 : q.lda});
  q.vec_b = cuda_vector(16 / size, size, b_align, 2, (int64_t[]){q.b_kn ? q.n : q.k, q.ldb});
  q.vec_c = cuda_bias_vector(p, 2, cuda_result_vector(p, 8, q.n));
  return plan_product(p, &q, NULL, s);
}

static kiln_status matmul_run(const kernel_args *a) {
  matmul_state *s = a->state;
  const void *data[2], *bias = s->bias ? a->in[2].data : NULL;
  if (!s->plan.function && !s->library.library) return KILN_OK;
  for (int i = 0; i < 2; i++) KILN_TRY(dense_copy_run(a, &s->copy[i], i, &data[i]));
  if (s->library.library) return cublaslt_plan_run(a, &s->library, data[0], data[1], bias);
  return gemm_plan_run(a, &s->plan, data[0], data[1], bias);
}

static bool fits(const node *n, const char **why) { return cuda_fits_float(n, why) && cuda_epilogue_fits(n, why); }

/* ---- matmul ------------------------------------------------------------------------------------------------------ */

/* Offset of batch z of `t` as an expression; its batch dimensions broadcast to those of `y`. `size`: elements of one
 * matrix if the operand is copied, 0 if read in place. */
static kiln_status batch_offset(kernel_prep *p, const tensor *t, const tensor *y, bool dense, const char **out) {
  text e = {0};
  int64_t step = 1, own = dense ? t->shape[t->rank - 1] * t->shape[t->rank - 2] : 0;
  bool any = false;
  for (int r = y->rank - 3; r >= 0; r--) {
    const int k = r - (y->rank - t->rank);
    if (k >= 0 && t->shape[k] != 1) {
      const int64_t stride = dense ? own : t->strides[k];
      if (stride != 0) {
        text_printf(&e, "%s(long long)(z) / %lldLL %% %lldLL * %lldLL", any ? " + " : "", (long long)step,
                    (long long)y->shape[r], (long long)stride);
        any = true;
      }
    }
    if (k >= 0 && dense) own *= t->shape[k];
    step *= y->shape[r] ? y->shape[r] : 1;
  }
  if (!any) text_puts(&e, zero_offset);
  return cuda_text_keep(p, &e, out);
}

typedef struct matrix_layout {
  bool transposed, dense;
  int64_t pitch;
  int align;
} matrix_layout;

/* How the last two dimensions of an operand lie: rows with a pitch, or columns with one. */
static matrix_layout layout_of(const kernel_prep *p, int operand) {
  const tensor *t = &p->args.in[operand];
  const int64_t rows = t->shape[t->rank - 2], cols = t->shape[t->rank - 1];
  const int64_t s_row = t->strides[t->rank - 2], s_col = t->strides[t->rank - 1];
  matrix_layout l = {.align = cuda_in_alignment(p, operand)};
  if (cols == 1 || s_col == 1) {
    l.pitch = rows == 1 ? cols : s_row;
    if (cols == 1 && s_col != 1 && rows != 1 && s_row == 1) l.pitch = 1; /* one column: any way is right */
  } else if (rows == 1 || s_row == 1) {
    l.transposed = true;
    l.pitch = s_col;
  } else {
    l.dense = true;
  }
  if (l.dense) {
    l.pitch = cols;
    l.align = 16;
  }
  return l;
}

/* Strides of the batch dimensions must keep vectors aligned, too. */
static int operand_vector(const tensor *t, const matrix_layout *l, int64_t along) {
  const int size = (int)kiln_dtype_size(t->dtype);
  int64_t numbers[KILN_MAX_RANK + 2] = {along, l->pitch};
  int count = 2;
  if (l->dense) numbers[count++] = t->shape[t->rank - 1] * t->shape[t->rank - 2];
  for (int r = 0; r < t->rank - 2 && !l->dense; r++) {
    if (t->shape[r] != 1) numbers[count++] = t->strides[r];
  }
  return cuda_vector(16 / size, size, l->align, count, numbers);
}

/* Elements from matrix to matrix, where one stride leads through the whole batch; -1: none does. */
static int64_t batch_stride(const tensor *t, const tensor *y, bool dense) {
  int64_t stride = -1, next = 0, own = t->shape[t->rank - 1] * t->shape[t->rank - 2], size = 1;
  for (int r = y->rank - 3; r >= 0; r--) {
    const int k = r - (y->rank - t->rank);
    if (y->shape[r] == 1) continue;
    const int64_t step = k < 0 || t->shape[k] == 1 ? 0 : dense ? own * size : t->strides[k];
    if (stride < 0)
      stride = step;
    else if (step != next)
      return -1;
    next = step * y->shape[r];
    size *= k < 0 ? 1 : t->shape[k];
  }
  return stride < 0 ? 0 : stride;
}

static kiln_status matmul_prepare(kernel_prep *p) {
  const tensor *a = &p->args.in[0], *b = &p->args.in[1], *y = &p->args.out[0];
  matmul_state *s = ARENA_NEW(p->arena, matmul_state);
  if (!s) return KILN_NO_MEMORY("matmul");
  p->state = s;
  matrix_layout la = layout_of(p, 0), lb = layout_of(p, 1);
  if (la.transposed) { /* rows of A must be contiguous */
    la = (matrix_layout){.dense = true, .pitch = a->shape[a->rank - 1], .align = 16};
  }
  if (la.dense) KILN_TRY(dense_copy_prepare(p, &p->args.in[0], &s->copy[0]));
  if (lb.dense) KILN_TRY(dense_copy_prepare(p, &p->args.in[1], &s->copy[1]));
  const bool transpose_b = arg_bool(&p->args, "transpose_b");
  gemm_problem q = {.dtype = a->dtype,
                    .m = y->shape[y->rank - 2],
                    .n = y->shape[y->rank - 1],
                    .k = a->shape[a->rank - 1],
                    .batches = 1,
                    .lda = la.pitch,
                    .ldb = lb.pitch,
                    .b_kn = transpose_b == lb.transposed,
                    .bias_offset = zero_offset,
                    .b_constant = b->data != NULL && !lb.dense,
                    .a_elements = tensor_numel(a)};
  for (int r = 0; r < y->rank - 2; r++) q.batches *= y->shape[r];
  int64_t pitch;
  const bool shared_b = tensor_numel(b) == b->shape[b->rank - 1] * b->shape[b->rank - 2];
  if (shared_b && !la.dense && tensor_numel(a) == q.batches * q.m * q.k &&
      cuda_matrix(a, &pitch)) { /* one tall matrix */
    q.m *= q.batches;
    q.batches = 1;
    q.lda = la.pitch = pitch;
  }
  KILN_TRY(batch_offset(p, a, y, la.dense, &q.a_offset));
  KILN_TRY(batch_offset(p, b, y, lb.dense, &q.b_offset));
  if (q.batches == 1) q.a_offset = q.b_offset = zero_offset;
  q.a_aligned = la.align == 16;
  q.b_aligned = lb.align == 16;
  q.vec_a = operand_vector(a, &la, q.k);
  q.vec_b = operand_vector(b, &lb, q.b_kn ? q.n : q.k);
  q.vec_c = cuda_result_vector(p, 8, q.n);
  q.out_row = cuda_text(p, "(long long)(z) * %lldLL + (row)", (long long)q.m);
  q.out_col = "col";
  if (!q.out_row) return KILN_NO_MEMORY("matmul");
  const cublaslt_batch batch = {batch_stride(a, y, la.dense), batch_stride(b, y, lb.dense), batch_stride(y, y, false)};
  const bool regular = q.batches == 1 || (batch.a >= 0 && batch.b >= 0 && batch.d >= 0);
  return plan_product(p, &q, regular ? &batch : NULL, s);
}

/* ---- Rows: the best way by the cost model, and the next ones for the tuner --------------------------------------- */

#define LINEAR(suffix, rank)     \
  {.op = "linear",               \
   .name = "linear.gemm" suffix, \
   .isa = 80,                    \
   .fits = fits,                 \
   .prepare = linear_prepare,    \
   .run = matmul_run,            \
   .strided_in = 3,              \
   .strided_out = 1,             \
   .epilogue = true,             \
   .variant = rank},
#define MATMUL(suffix, rank)     \
  {.op = "matmul",               \
   .name = "matmul.gemm" suffix, \
   .isa = 80,                    \
   .fits = fits,                 \
   .prepare = matmul_prepare,    \
   .run = matmul_run,            \
   .strided_in = 3,              \
   .strided_out = 1,             \
   .epilogue = true,             \
   .variant = rank},
#define LIBRARY(operator, fits_, prepare_, suffix, rank) \
  {.op = operator,                                       \
   .name = operator".cublaslt" suffix,                   \
   .isa = 80,                                            \
   .fits = fits_,                                        \
   .prepare = prepare_,                                  \
   .run = matmul_run,                                    \
   .strided_in = 3,                                      \
   .strided_out = 1,                                     \
   .epilogue = true,                                     \
   .needs = cublaslt_needs,                              \
   .instead = operator".gemm",                           \
   .variant = CUBLASLT_VARIANT + (rank)},
#define LINEAR_LIBRARY(suffix, rank) LIBRARY("linear", cublaslt_fits, linear_prepare, suffix, rank)
#define MATMUL_LIBRARY(suffix, rank) LIBRARY("matmul", cublaslt_fits, matmul_prepare, suffix, rank)
/* clang-format off */
const kernel cuda_gemm_rows[] = {
    LINEAR("", 0) LINEAR(".2nd", 1) LINEAR(".3rd", 2) LINEAR(".4th", 3) LINEAR(".5th", 4) LINEAR(".6th", 5) LINEAR(".7th", 6)
    LINEAR(".8th", 7) LINEAR(".9th", 8) LINEAR(".10th", 9)
    MATMUL("", 0) MATMUL(".2nd", 1) MATMUL(".3rd", 2) MATMUL(".4th", 3) MATMUL(".5th", 4) MATMUL(".6th", 5)
    LINEAR_LIBRARY("", 0) LINEAR_LIBRARY(".2nd", 1) LINEAR_LIBRARY(".3rd", 2) LINEAR_LIBRARY(".4th", 3)
    LINEAR_LIBRARY(".5th", 4) LINEAR_LIBRARY(".6th", 5) LINEAR_LIBRARY(".7th", 6) LINEAR_LIBRARY(".8th", 7)
    MATMUL_LIBRARY("", 0) MATMUL_LIBRARY(".2nd", 1) MATMUL_LIBRARY(".3rd", 2)
    {.op = NULL},
};
