/* grouped_matmul: a product whose blocks look up which group their rows belong to (gemm.c); for f64, a thread for each result, which
 * looks up the matrix of its row. Offsets that do not rise, which the host refuses, give empty groups; rows behind the last are 0. */
#include <stdio.h>

#include "backends/cuda/gemm.h"
#include "backends/cuda/internal.h"
#include "backends/cuda/mapped.h"

/* ---- Tiles ------------------------------------------------------------------------------------------------------- */

typedef struct grouped_state {
  gemm_plan plan;
  dense_copy copy[2];
} grouped_state;

/* w [groups, k, n], read in place if k or n is contiguous. */
static kiln_status prepare_weights(kernel_prep *p, gemm_problem *q, dense_copy *copy) {
  const tensor *w = &p->args.in[1];
  const int size = (int)kiln_dtype_size(w->dtype);
  int64_t step = w->strides[0];
  int align = cuda_in_alignment(p, 1);
  q->b_kn = w->strides[2] == 1 || q->n == 1;
  if (q->b_kn && w->strides[2] == 1) {
    q->ldb = q->k == 1 ? q->n : w->strides[1];
  } else if (w->strides[1] == 1 || q->k == 1) {
    q->b_kn = false;
    q->ldb = q->n == 1 ? q->k : w->strides[2];
  } else {
    KILN_TRY(dense_copy_prepare(p, w, copy));
    q->b_kn = true;
    q->ldb = q->n;
    step = q->k * q->n;
    align = 16;
  }
  q->b_offset = cuda_text(p, "(long long)(z) * %lldLL", (long long)step);
  if (!q->b_offset) return KILN_NO_MEMORY("grouped_matmul");
  q->vec_b = cuda_vector(16 / size, size, align, 3, (int64_t[]){q->b_kn ? q->n : q->k, q->ldb, step});
  return KILN_OK;
}

static kiln_status prepare_product(kernel_prep *p) {
  const tensor *x = &p->args.in[0], *w = &p->args.in[1], *ends = &p->args.in[2];
  const int size = (int)kiln_dtype_size(x->dtype);
  int align = cuda_in_alignment(p, 0);
  grouped_state *s = ARENA_NEW(p->arena, grouped_state);
  if (!s) return KILN_NO_MEMORY("grouped_matmul");
  p->state = s;
  gemm_problem q = {.dtype = x->dtype,
                    .m = x->shape[0],
                    .n = w->shape[2],
                    .k = w->shape[1],
                    .batches = 1,
                    .a_offset = "0LL",
                    .bias_offset = "0LL",
                    .out_row = "row",
                    .out_col = "col",
                    .groups = w->shape[0],
                    .ends_dtype = ends->dtype,
                    .ends_step = ends->strides[0],
                    .a_elements = tensor_numel(x)};
  if (q.m == 0 || q.n == 0) return KILN_OK;
  if (!cuda_matrix(x, &q.lda)) {
    KILN_TRY(dense_copy_prepare(p, x, &s->copy[0]));
    q.lda = q.k;
    align = 16;
  }
  q.vec_a = cuda_vector(16 / size, size, align, 2, (int64_t[]){q.k, q.m == 1 ? 0 : q.lda});
  q.vec_c = cuda_result_vector(p, 8, q.n);
  KILN_TRY(prepare_weights(p, &q, &s->copy[1]));
  return gemm_plan_make(p, &q, p->kernel->variant, &s->plan);
}

static kiln_status run_product(const kernel_args *a) {
  grouped_state *s = a->state;
  const void *data[2];
  if (!s->plan.function) return KILN_OK;
  for (int i = 0; i < 2; i++) KILN_TRY(dense_copy_run(a, &s->copy[i], i, &data[i]));
  return gemm_plan_run_groups(a, &s->plan, data[0], data[1], a->in[2].data);
}

static bool product_fits(const node *n, const char **why) {
  const tensor_type *w = &node_in(n, 1)->type;
  *why = "operands are not f32, f16 or bf16";
  if (!cuda_is_float(node_in(n, 0)->type.dtype) || w->dtype != node_in(n, 0)->type.dtype) return false;
  *why = "no groups, or not a constant number";
  if (!dim_is_const(w->dims[0]) || w->dims[0] < 1) return false;
  *why = NULL;
  return true;
}

/* ---- A thread for each result ------------------------------------------------------------------------------------ */

static kiln_status prepare_grouped(kernel_prep *p) {
  const tensor *x = &p->args.in[0], *w = &p->args.in[1], *offsets = &p->args.in[2];
  text t = {0};
  mapped_begin(&t, p, "grouped", 1);
  text_printf(&t,
              "  i64 e = 0;\n  while (e < %lldLL && c0 >= (i64)in2[e * %lldLL]) e++;\n"
              "  const i64 x0 = c0 * %lldLL, w0 = e * %lldLL + c1 * %lldLL;\n  %s sum = 0;\n"
              "  for (i64 k = 0; e < %lldLL && k < %lldLL; k++) {\n",
              (long long)w->shape[0], (long long)offsets->strides[0], (long long)x->strides[0],
              (long long)w->strides[0], (long long)w->strides[2], cuda_value_type(x->dtype), (long long)w->shape[0],
              (long long)x->shape[1]);
  char at[64];
  snprintf(at, sizeof at, "x0 + k * %lldLL", (long long)x->strides[1]);
  mapped_load(&t, p, 0, "u", at);
  snprintf(at, sizeof at, "w0 + k * %lldLL", (long long)w->strides[1]);
  mapped_load(&t, p, 1, "v", at);
  text_puts(&t, "    sum += u * v;\n  }\n");
  mapped_store(&t, p, 0, "sum");
  return mapped_end(p, &t, "grouped", 1);
}

static bool grouped_fits(const node *n, const char **why) {
  if (dtype_is_float(node_in(n, 0)->type.dtype)) return true;
  *why = "operands are not floats";
  return false;
}

#define PRODUCT(suffix, rank)     \
  {.op = "grouped_matmul",        \
   .name = "grouped.gemm" suffix, \
   .isa = 80,                     \
   .fits = product_fits,          \
   .prepare = prepare_product,    \
   .run = run_product,            \
   .strided_in = 3,               \
   .strided_out = 1,              \
   .variant = rank},
/* clang-format off */
const kernel cuda_grouped_rows[] = {
    PRODUCT("", 0) PRODUCT(".2nd", 1) PRODUCT(".3rd", 2) PRODUCT(".4th", 3)
    {.op = "grouped_matmul",
     .name = "grouped.cuda",
     .isa = 80,
     .fits = grouped_fits,
     .prepare = prepare_grouped,
     .run = cuda_simple_run,
     .strided_in = KERNEL_STRIDED_ALL,
     .strided_out = 1},
    {.op = NULL},
};
