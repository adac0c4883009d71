/* Softmax and log-softmax. Along the last axis: one row at a time, three passes that stay in L1 or L2 (maximum,
 * exponentials and their sum, scale). Along another axis: vectors run over the elements after it, so nothing is
 * gathered. */
#include "backends/cpu/kernels.h"
#include "backends/cpu/parallel.h"
#include "backends/cpu/simd/f32.h"

typedef struct softmax_job {
  int64_t outer, n, inner;
  const float *x;
  float *y;
  bool log;
} softmax_job;

/* NaN is skipped here and comes back through the exponentials. */
static float softmax_max(const float *x, int64_t n) {
  vf m = vf_set1(-INFINITY), m1 = m, m2 = m, m3 = m;
  int64_t i = 0;
  for (; i + 4 * VF <= n; i += 4 * VF) {
    m = vf_max(vf_load(x + i), m);
    m1 = vf_max(vf_load(x + i + VF), m1);
    m2 = vf_max(vf_load(x + i + 2 * VF), m2);
    m3 = vf_max(vf_load(x + i + 3 * VF), m3);
  }
  for (; i + VF <= n; i += VF) m = vf_max(vf_load(x + i), m);
  if (i < n) {
    const vm tail = vf_tail(n - i);
    m1 = vf_select(tail, vf_max(vf_load_mask(x + i, tail), m1), m1);
  }
  return vf_reduce_max(vf_max(vf_max(m, m1), vf_max(m2, m3)));
}

/* y = exp(x - max), or only the sum if y is NULL. */
static float softmax_exp_sum(const float *x, float *y, int64_t n, float max) {
  const vf m = vf_set1(max);
  vf s = vf_zero(), s1 = s;
  int64_t i = 0;
  for (; i + 2 * VF <= n; i += 2 * VF) {
    const vf e = vf_exp_nonpositive(vf_sub(vf_load(x + i), m)), e1 = vf_exp_nonpositive(vf_sub(vf_load(x + i + VF), m));
    if (y) vf_store(y + i, e), vf_store(y + i + VF, e1);
    s = vf_add(s, e);
    s1 = vf_add(s1, e1);
  }
  for (; i < n; i += VF) {
    const vm tail = vf_tail(n - i < VF ? n - i : VF);
    const vf e = vf_select(tail, vf_exp_nonpositive(vf_sub(vf_load_mask(x + i, tail), m)), vf_zero());
    if (y) vf_store_mask(y + i, tail, e);
    s = vf_add(s, e);
  }
  return vf_reduce_add(vf_add(s, s1));
}

static void softmax_rows(void *user, int64_t begin, int64_t end, int worker) {
  (void)worker;
  const softmax_job *j = user;
  for (int64_t r = begin; r < end; ++r) {
    const float *x = j->x + r * j->n;
    float *y = j->y + r * j->n;
    const float max = softmax_max(x, j->n), sum = softmax_exp_sum(x, j->log ? NULL : y, j->n, max);
    const vf a = vf_set1(j->log ? logf(sum) : 1.0f / sum), m = vf_set1(max);
    int64_t i = 0;
    for (; i + VF <= j->n; i += VF) {
      vf_store(y + i, j->log ? vf_sub(vf_sub(vf_load(x + i), m), a) : vf_mul(vf_load(y + i), a));
    }
    if (i < j->n) {
      const vm tail = vf_tail(j->n - i);
      vf_store_mask(y + i, tail,
                    j->log ? vf_sub(vf_sub(vf_load_mask(x + i, tail), m), a) : vf_mul(vf_load_mask(y + i, tail), a));
    }
  }
}

/* One vector of elements after the axis, for all `n` steps along it. */
static void softmax_column(const softmax_job *j, int64_t at, vm tail) {
  const float *x = j->x + at;
  float *y = j->y + at;
  vf m = vf_set1(-INFINITY), s = vf_zero();
  for (int64_t k = 0; k < j->n; ++k) m = vf_max(vf_load_mask(x + k * j->inner, tail), m);
  for (int64_t k = 0; k < j->n; ++k) {
    const vf e = vf_exp_nonpositive(vf_sub(vf_load_mask(x + k * j->inner, tail), m));
    if (!j->log) vf_store_mask(y + k * j->inner, tail, e);
    s = vf_add(s, e);
  }
  if (j->log) {
    float sums[VF];
    vf_store(sums, s);
    for (int i = 0; i < VF; ++i) sums[i] = logf(sums[i]);
    const vf a = vf_load(sums);
    for (int64_t k = 0; k < j->n; ++k) {
      vf_store_mask(y + k * j->inner, tail, vf_sub(vf_sub(vf_load_mask(x + k * j->inner, tail), m), a));
    }
  } else {
    const vf a = vf_div(vf_set1(1.0f), s);
    for (int64_t k = 0; k < j->n; ++k) {
      vf_store_mask(y + k * j->inner, tail, vf_mul(vf_load_mask(y + k * j->inner, tail), a));
    }
  }
}

static void softmax_columns(void *user, int64_t begin, int64_t end, int worker) {
  (void)worker;
  const softmax_job *j = user;
  const int64_t vectors = (j->inner + VF - 1) / VF;
  for (int64_t u = begin; u < end; ++u) {
    const int64_t i = u % vectors * VF;
    softmax_column(j, u / vectors * j->n * j->inner + i, vf_tail(j->inner - i < VF ? j->inner - i : VF));
  }
}

static kiln_status softmax_prepare(kernel_prep *p) {
  softmax_job *j = ARENA_NEW(p->arena, softmax_job);
  if (!j) return KILN_NO_MEMORY("softmax");
  const tensor *x = &p->args.in[0];
  const int64_t axis = arg_int(&p->args, "axis");
  j->outer = j->inner = j->n = 1;
  for (int64_t d = 0; d < x->rank; ++d) {
    if (d < axis)
      j->outer *= x->shape[d];
    else if (d == axis)
      j->n = x->shape[d];
    else
      j->inner *= x->shape[d];
  }
  j->log = strcmp(p->args.node->op->name, "log_softmax") == 0;
  p->state = j;
  return KILN_OK;
}

static kiln_status softmax_run(const kernel_args *a) {
  softmax_job j = *(const softmax_job *)a->state;
  j.x = a->in[0].data;
  j.y = a->out[0].data;
  if (j.outer * j.n * j.inner == 0) return KILN_OK;
  if (j.inner == 1)
    cpu_parallel(a->pool, j.outer, 4 * j.n, softmax_rows, &j);
  else
    cpu_parallel(a->pool, j.outer * ((j.inner + VF - 1) / VF), 4 * j.n * VF, softmax_columns, &j);
  return KILN_OK;
}

const kernel KERNEL(softmax_kernels)[] = {
    CPU_ROW(.op = "softmax", .name = "softmax." CPU_ISA_NAME, .fits = cpu_fits_f32, .prepare = softmax_prepare,
            .run = softmax_run, .inplace = 1),
    CPU_ROW(.op = "log_softmax", .name = "log_softmax." CPU_ISA_NAME, .fits = cpu_fits_f32, .prepare = softmax_prepare,
            .run = softmax_run, .inplace = 1),
    {.op = NULL},
};
