/* linear and matmul on the matrix driver. Constant weights of linear are packed at build; other right-hand sides are
 * packed by each task for itself, or read in place when the product has few rows. */
#include <math.h>
#include <string.h>

#include "backends/cpu/gemm.h"
#include "base/memory.h"

typedef struct matmul_state {
  gemm_job job;
  bool copy_a, copy_c; /* operands that are no matrices: through workspace */
  size_t a_at, c_at, b_at;
} matmul_state;

static kiln_status workspace_add(size_t *size, size_t bytes, size_t *out_at) {
  *out_at = *size;
  if (!size_add(*size, size_align(bytes, 64), size)) return KILN_FAIL(KILN_OUT_OF_MEMORY, "workspace is too large");
  return KILN_OK;
}

static int64_t leading(const tensor *t, int trailing) {
  int64_t n = 1;
  for (int r = 0; r < t->rank - trailing; r++) n *= t->shape[r];
  return n;
}

/* ---- linear ------------------------------------------------------------------------------------------------------ */

static kiln_status linear_prepare(kernel_prep *p, int isa) {
  const tensor *x = &p->args.in[0], *w = &p->args.in[1], *y = &p->args.out[0];
  matmul_state *s = ARENA_NEW(p->arena, matmul_state);
  if (!s) return KILN_NO_MEMORY("linear");
  gemm_job *j = &s->job;
  j->isa = gemm_isa_of(isa);
  j->batches = j->groups = j->taps = 1;
  j->m = leading(x, 1);
  j->kc = w->shape[1];
  j->n = w->shape[0];
  j->b_panel = j->kc * j->isa->nr;
  j->pack = !w->packing;
  j->s_k = w->strides[1];
  j->s_n = w->strides[0];
  KILN_TRY(gemm_job_plan(j, p));
  size_t size = gemm_job_scratch(j, p->threads);
  int64_t pitch;
  s->copy_a = !tensor_as_matrix(x, 1, &pitch);
  s->copy_c = !tensor_as_matrix(y, 1, &pitch);
  if (s->copy_a) KILN_TRY(workspace_add(&size, (size_t)tensor_numel(x) * sizeof(float), &s->a_at));
  if (s->copy_c) KILN_TRY(workspace_add(&size, (size_t)tensor_numel(y) * sizeof(float), &s->c_at));
  p->state = s;
  p->workspace_size = size;
  return KILN_OK;
}

static kiln_status matmul_operand(const matmul_state *s, const kernel_args *a, gemm_job *j, int64_t columns) {
  char *workspace = a->workspace;
  j->args = a;
  j->scratch = workspace;
  j->a = a->in[0].data;
  j->c = a->out[0].data;
  if (s->copy_a) {
    float *copy = (float *)(void *)(workspace + s->a_at);
    tensor_gather_f32(&a->in[0], copy, a->pool);
    j->a = copy;
    j->lda = j->kc;
  } else if (!tensor_as_matrix(&a->in[0], 1, &j->lda)) {
    return KILN_FAIL(KILN_INTERNAL, "%s: operand 0 has other strides than at prepare", a->node->op->name);
  }
  if (s->copy_c) {
    j->c = (float *)(void *)(workspace + s->c_at);
    j->ldc = columns;
  } else if (!tensor_as_matrix(&a->out[0], 1, &j->ldc)) {
    return KILN_FAIL(KILN_INTERNAL, "%s: the result has other strides than at prepare", a->node->op->name);
  }
  return KILN_OK;
}

static kiln_status linear_run(const kernel_args *a) {
  const matmul_state *s = a->state;
  gemm_job j = s->job;
  KILN_TRY(matmul_operand(s, a, &j, j.n));
  j.b = a->in[1].data;
  j.bias = gemm_optional(a, 2);
  gemm_job_run(&j, a->pool);
  if (s->copy_c) tensor_scatter_f32(j.c, &a->out[0], a->pool);
  return KILN_OK;
}

static bool linear_fits(const node *n, const char **why) { return gemm_fits_f32(n, why); }

/* ---- matmul ------------------------------------------------------------------------------------------------------ */

/* Offsets of the batches of `t`, broadcast to the batch dimensions of `y`; NULL in *out if all are 0. */
static kiln_status batch_offsets(const tensor *t, const tensor *y, arena *memory, const int64_t **out) {
  const int64_t batches = leading(y, 2);
  int64_t *offsets = ARENA_ARRAY(memory, int64_t, batches > 0 ? batches : 1);
  if (!offsets) return KILN_NO_MEMORY("matmul batches");
  bool any = false;
  for (int64_t b = 0; b < batches; b++) {
    int64_t rest = b, offset = 0;
    for (int r = y->rank - 3; r >= 0; r--) {
      const int64_t index = rest % y->shape[r];
      rest /= y->shape[r];
      const int own = r - (y->rank - t->rank);
      if (own >= 0 && t->shape[own] != 1) offset += index * t->strides[own];
    }
    offsets[b] = offset;
    any |= offset != 0;
  }
  *out = any ? offsets : NULL;
  return KILN_OK;
}

/* The tensor as if it were contiguous. */
static tensor contiguous_of(const tensor *t) {
  tensor out = *t;
  tensor_make_contiguous_strides(&out);
  return out;
}

static kiln_status matmul_prepare(kernel_prep *p, int isa) {
  const kernel_args *args = &p->args;
  const bool transpose = arg_bool(args, "transpose_b");
  tensor a = args->in[0], y = args->out[0];
  const tensor *b = &args->in[1];
  matmul_state *s = ARENA_NEW(p->arena, matmul_state);
  if (!s) return KILN_NO_MEMORY("matmul");
  size_t size = 0;
  s->copy_a = a.shape[a.rank - 1] != 1 && a.strides[a.rank - 1] != 1;
  s->copy_c = y.shape[y.rank - 1] != 1 && y.strides[y.rank - 1] != 1;
  if (s->copy_a) {
    KILN_TRY(workspace_add(&size, (size_t)tensor_numel(&a) * sizeof(float), &s->a_at));
    a = contiguous_of(&a);
  }
  if (s->copy_c) {
    KILN_TRY(workspace_add(&size, (size_t)tensor_numel(&y) * sizeof(float), &s->c_at));
    y = contiguous_of(&y);
  }
  gemm_job *j = &s->job;
  j->isa = gemm_isa_of(isa);
  j->groups = j->taps = 1;
  j->batches = leading(&y, 2);
  j->m = y.shape[y.rank - 2];
  j->n = y.shape[y.rank - 1];
  j->kc = a.shape[a.rank - 1];
  j->lda = a.strides[a.rank - 2];
  j->ldc = y.strides[y.rank - 2];
  j->pack = true;
  j->s_n = b->strides[transpose ? b->rank - 2 : b->rank - 1];
  j->s_k = b->strides[transpose ? b->rank - 1 : b->rank - 2];
  KILN_TRY(batch_offsets(&a, &y, p->arena, &j->a_batch));
  KILN_TRY(batch_offsets(b, &y, p->arena, &j->b_batch));
  KILN_TRY(batch_offsets(&y, &y, p->arena, &j->c_batch));
  /* One right-hand side for all batches: the batches are rows. */
  if (!j->b_batch && j->batches > 1) {
    int64_t lda, ldc;
    if (leading(&a, 2) == j->batches && tensor_as_matrix(&a, 1, &lda) && tensor_as_matrix(&y, 1, &ldc)) {
      j->m *= j->batches;
      j->batches = 1;
      j->lda = lda;
      j->ldc = ldc;
      j->a_batch = j->c_batch = NULL;
    }
  }
  KILN_TRY(gemm_job_plan(j, p));
  KILN_TRY(workspace_add(&size, gemm_job_scratch(j, p->threads), &s->b_at));
  p->state = s;
  p->workspace_size = size;
  return KILN_OK;
}

static kiln_status matmul_run(const kernel_args *a) {
  const matmul_state *s = a->state;
  gemm_job j = s->job;
  char *workspace = a->workspace;
  j.args = a;
  j.scratch = workspace + s->b_at;
  j.a = a->in[0].data;
  j.b = a->in[1].data;
  j.c = a->out[0].data;
  if (s->copy_a) {
    float *copy = (float *)(void *)(workspace + s->a_at);
    tensor_gather_f32(&a->in[0], copy, a->pool);
    j.a = copy;
  }
  if (s->copy_c) j.c = (float *)(void *)(workspace + s->c_at);
  gemm_job_run(&j, a->pool);
  if (s->copy_c) tensor_scatter_f32(j.c, &a->out[0], a->pool);
  return KILN_OK;
}

static bool matmul_fits(const node *n, const char **why) { return gemm_fits_f32(n, why); }

/* ---- Rows -------------------------------------------------------------------------------------------------------- */

#define GEMM_ROWS(set, level, nr)                                                              \
  static kiln_status linear_prepare_##set(kernel_prep *p) { return linear_prepare(p, level); } \
  static kiln_status matmul_prepare_##set(kernel_prep *p) { return matmul_prepare(p, level); } \
  const kernel cpu_gemm_##set[] = {                                                            \
      {.op = "linear",                                                                         \
       .name = "linear.gemm." #set,                                                            \
       .isa = level,                                                                           \
       .fits = linear_fits,                                                                    \
       .prepare = linear_prepare_##set,                                                        \
       .run = linear_run,                                                                      \
       .strided_in = 3,                                                                        \
       .strided_out = 1,                                                                       \
       .epilogue = true,                                                                       \
       .pack_operand = 1,                                                                      \
       .packing = "gemm_b:" #nr},                                                              \
      {.op = "matmul",                                                                         \
       .name = "matmul.gemm." #set,                                                            \
       .isa = level,                                                                           \
       .fits = matmul_fits,                                                                    \
       .prepare = matmul_prepare_##set,                                                        \
       .run = matmul_run,                                                                      \
       .strided_in = 3,                                                                        \
       .strided_out = 1,                                                                       \
       .epilogue = true},                                                                      \
      {.op = NULL},                                                                            \
  };
GEMM_ROWS(avx512, ISA_AVX512, 32)
GEMM_ROWS(avx2, ISA_AVX2, 16)
GEMM_ROWS(scalar, ISA_SCALAR, 4)
