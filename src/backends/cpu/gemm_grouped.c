/* grouped_matmul on the matrix driver: one product for each matrix that has rows. */
#include "backends/cpu/gemm.h"
#include "base/memory.h"

typedef struct grouped_state {
  gemm_job job;
  int64_t rows;
} grouped_state;

static kiln_status grouped_prepare(kernel_prep *p, int isa) {
  const tensor *x = &p->args.in[0], *w = &p->args.in[1], *y = &p->args.out[0];
  grouped_state *s = ARENA_NEW(p->arena, grouped_state);
  if (!s) return KILN_NO_MEMORY("grouped_matmul");
  gemm_job *j = &s->job;
  s->rows = y->shape[0];
  j->isa = gemm_isa_of(isa);
  j->batches = j->groups = j->taps = 1;
  /* Planned for rows that are evenly spread; more than few, so that there is room for packing. */
  j->m = s->rows / (w->shape[0] > 0 ? w->shape[0] : 1) + GEMM_MAX_MR;
  j->n = y->shape[1];
  j->kc = x->shape[1];
  j->lda = x->shape[1];
  j->ldc = y->shape[1];
  j->pack = true;
  j->s_k = w->strides[1];
  j->s_n = w->strides[2];
  KILN_TRY(gemm_job_plan(j, p));
  p->state = s;
  p->workspace_size = gemm_job_scratch(j, p->threads);
  return KILN_OK;
}

static int64_t offset_load(const tensor *t, int64_t i) {
  return t->dtype == KILN_I64 ? ((const int64_t *)t->data)[i] : ((const int32_t *)t->data)[i];
}

static kiln_status grouped_run(const kernel_args *a) {
  const grouped_state *s = a->state;
  const tensor *w = &a->in[1], *offsets = &a->in[2];
  const float *x = a->in[0].data;
  float *y = a->out[0].data;
  int64_t row = 0;
  for (int64_t e = 0; e < w->shape[0]; e++) {
    const int64_t end = offset_load(offsets, e);
    if (end < row || end > s->rows)
      return KILN_FAIL(KILN_INVALID_ARGUMENT, "grouped_matmul: offsets[%lld] is %lld, expected %lld to %lld",
                       (long long)e, (long long)end, (long long)row, (long long)s->rows);
    if (end == row) continue;
    gemm_job j = s->job;
    j.args = a;
    j.scratch = a->workspace;
    j.m = end - row;
    j.m_tasks = (j.m + j.m_block - 1) / j.m_block;
    j.a = x + row * j.lda;
    j.b = (const float *)w->data + e * w->strides[0];
    j.c = y + row * j.ldc;
    gemm_job_run(&j, a->pool);
    row = end;
  }
  for (int64_t i = row * a->out[0].shape[1]; i < s->rows * a->out[0].shape[1]; i++) y[i] = 0;
  return KILN_OK;
}

static bool grouped_fits(const node *n, const char **why) {
  for (int i = 0; i < 2; i++)
    if (!node_operand_f32(n, i)) {
      *why = "operands are not f32";
      return false;
    }
  return true;
}

#define GROUPED_ROWS(set, level)                                                                 \
  static kiln_status grouped_prepare_##set(kernel_prep *p) { return grouped_prepare(p, level); } \
  const kernel cpu_grouped_##set[] = {                                                           \
      {.op = "grouped_matmul",                                                                   \
       .name = "grouped_matmul.gemm." #set,                                                      \
       .isa = level,                                                                             \
       .fits = grouped_fits,                                                                     \
       .prepare = grouped_prepare_##set,                                                         \
       .run = grouped_run,                                                                       \
       .strided_in = 2},                                                                         \
      {.op = NULL},                                                                              \
  };
GROUPED_ROWS(avx512, ISA_AVX512)
GROUPED_ROWS(avx2, ISA_AVX2)
GROUPED_ROWS(scalar, ISA_SCALAR)
