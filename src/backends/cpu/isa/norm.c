/* Layer, RMS, group and batch norm. Statistics are taken in two passes over a row (mean, then centred squares), in
 * blocks whose float sums are added up in double, so that long rows lose nothing; channels-last group norm takes
 * per-channel moments of chunks of positions and joins them (Chan, Golub and LeVeque, "Updating formulae and a pairwise
 * algorithm for computing sample variances"). */
#include "backends/cpu/kernels.h"
#include "backends/cpu/parallel.h"
#include "backends/cpu/simd/f32.h"
#include "base/memory.h"

enum { NORM_BLOCK = 4096, NORM_CHUNKS = 64 };

typedef struct norm_job {
  int64_t rows, n;               /* layer and RMS norm: rows of n */
  int64_t batch, channels, area; /* the others: [batch, channels, area] or [batch, area, channels] */
  int64_t groups, chunks;
  double eps;
  bool rms, last;
  const float *x, *gamma, *beta, *mean, *var;
  float *y;
  float *scale, *shift; /* workspace: [batch, channels] */
  double *moments;      /* workspace: [batch, chunks, 2, channels] */
} norm_job;

/* ---- Rows -------------------------------------------------------------------------------------------------------- */

static double norm_sum(const float *x, int64_t n) {
  double total = 0.0;
  for (int64_t b = 0; b < n; b += NORM_BLOCK) {
    const int64_t end = n - b < NORM_BLOCK ? n : b + NORM_BLOCK;
    vf s = vf_zero(), s1 = s, s2 = s, s3 = s;
    int64_t i = b;
    for (; i + 4 * VF <= end; i += 4 * VF) {
      s = vf_add(s, vf_load(x + i));
      s1 = vf_add(s1, vf_load(x + i + VF));
      s2 = vf_add(s2, vf_load(x + i + 2 * VF));
      s3 = vf_add(s3, vf_load(x + i + 3 * VF));
    }
    for (; i < end; i += VF) s = vf_add(s, vf_load_n(x + i, end - i < VF ? end - i : VF));
    total += (double)vf_reduce_add(vf_add(vf_add(s, s1), vf_add(s2, s3)));
  }
  return total;
}

/* Sum of (x - mean)^2. */
static double norm_squares(const float *x, int64_t n, float mean) {
  double total = 0.0;
  const vf m = vf_set1(mean);
  for (int64_t b = 0; b < n; b += NORM_BLOCK) {
    const int64_t end = n - b < NORM_BLOCK ? n : b + NORM_BLOCK;
    vf s = vf_zero(), s1 = s, s2 = s, s3 = s;
    int64_t i = b;
    for (; i + 4 * VF <= end; i += 4 * VF) {
      const vf d = vf_sub(vf_load(x + i), m), d1 = vf_sub(vf_load(x + i + VF), m);
      const vf d2 = vf_sub(vf_load(x + i + 2 * VF), m), d3 = vf_sub(vf_load(x + i + 3 * VF), m);
      s = vf_fma(d, d, s);
      s1 = vf_fma(d1, d1, s1);
      s2 = vf_fma(d2, d2, s2);
      s3 = vf_fma(d3, d3, s3);
    }
    for (; i < end; i += VF) {
      const vm tail = vf_tail(end - i < VF ? end - i : VF);
      const vf d = vf_select(tail, vf_sub(vf_load_mask(x + i, tail), m), vf_zero());
      s = vf_fma(d, d, s);
    }
    total += (double)vf_reduce_add(vf_add(vf_add(s, s1), vf_add(s2, s3)));
  }
  return total;
}

/* y = (x - mean) * scale * gamma + beta; gamma and beta may be NULL. */
static void norm_affine(const float *x, float *y, int64_t n, float mean, float scale, const float *gamma,
                        const float *beta) {
  const vf m = vf_set1(mean), s = vf_set1(scale);
  for (int64_t i = 0; i < n; i += VF) {
    const vm tail = vf_tail(n - i < VF ? n - i : VF);
    vf v = vf_mul(vf_sub(vf_load_mask(x + i, tail), m), s);
    if (gamma) v = vf_mul(v, vf_load_mask(gamma + i, tail));
    if (beta) v = vf_add(v, vf_load_mask(beta + i, tail));
    vf_store_mask(y + i, tail, v);
  }
}

enum { NORM_SIDE = 4 };

/* NORM_SIDE rows side by side: each is a chain of dependent steps, and gamma and beta are loaded once for all. */
VF_INLINE void norm_four_rows(const norm_job *j, const float *x, float *y, const bool rms) {
  const int64_t n = j->n;
  vf s[NORM_SIDE], m[NORM_SIDE];
  for (int r = 0; r < NORM_SIDE; ++r) s[r] = m[r] = vf_zero();
  if (!rms) {
    for (int64_t i = 0; i < n; i += VF) {
      const vm tail = vf_tail(n - i < VF ? n - i : VF);
      for (int r = 0; r < NORM_SIDE; ++r) s[r] = vf_add(s[r], vf_load_mask(x + r * n + i, tail));
    }
    for (int r = 0; r < NORM_SIDE; ++r) {
      m[r] = vf_set1((float)((double)vf_reduce_add(s[r]) / (double)n));
      s[r] = vf_zero();
    }
  }
  for (int64_t i = 0; i < n; i += VF) {
    const vm tail = vf_tail(n - i < VF ? n - i : VF);
    for (int r = 0; r < NORM_SIDE; ++r) {
      const vf d = vf_select(tail, vf_sub(vf_load_mask(x + r * n + i, tail), m[r]), vf_zero());
      s[r] = vf_fma(d, d, s[r]);
    }
  }
  for (int r = 0; r < NORM_SIDE; ++r) {
    s[r] = vf_set1((float)(1.0 / sqrt((double)vf_reduce_add(s[r]) / (double)n + j->eps)));
  }
  for (int64_t i = 0; i < n; i += VF) {
    const vm tail = vf_tail(n - i < VF ? n - i : VF);
    const vf g = j->gamma ? vf_load_mask(j->gamma + i, tail) : vf_set1(1.0f);
    const vf b = j->beta ? vf_load_mask(j->beta + i, tail) : vf_zero();
    for (int r = 0; r < NORM_SIDE; ++r) {
      const vf v = vf_mul(vf_sub(vf_load_mask(x + r * n + i, tail), m[r]), s[r]);
      vf_store_mask(y + r * n + i, tail, vf_fma(v, g, b));
    }
  }
}

static void norm_rows(void *user, int64_t begin, int64_t end, int worker) {
  (void)worker;
  const norm_job *j = user;
  int64_t r = begin;
  for (; r + NORM_SIDE <= end && j->n <= NORM_BLOCK; r += NORM_SIDE) {
    if (j->rms)
      norm_four_rows(j, j->x + r * j->n, j->y + r * j->n, true);
    else
      norm_four_rows(j, j->x + r * j->n, j->y + r * j->n, false);
  }
  for (; r < end; ++r) {
    const float *x = j->x + r * j->n;
    const double mean = j->rms ? 0.0 : norm_sum(x, j->n) / (double)j->n;
    const double var = norm_squares(x, j->n, (float)mean) / (double)j->n;
    norm_affine(x, j->y + r * j->n, j->n, (float)mean, (float)(1.0 / sqrt(var + j->eps)), j->gamma, j->beta);
  }
}

static const float *norm_optional(const kernel_args *a, int operand) {
  return operand < a->node->own_inputs ? a->in[operand].data : NULL;
}

/* Operands from `first` on must have n elements each: inference may have had to assume it of symbolic sizes. */
static kiln_status norm_check_sizes(const kernel_args *a, int first, int64_t n) {
  for (int i = first; i < a->node->own_inputs; ++i) {
    if (!a->node->inputs[i].v || tensor_numel(&a->in[i]) == n) continue;
    return KILN_FAIL(KILN_INVALID_ARGUMENT, "%s: operand %d has %lld elements, expected %lld", a->node->op->name, i,
                     (long long)tensor_numel(&a->in[i]), (long long)n);
  }
  return KILN_OK;
}

static kiln_status layer_norm_prepare(kernel_prep *p) {
  norm_job *j = ARENA_NEW(p->arena, norm_job);
  if (!j) return KILN_NO_MEMORY("norm");
  const tensor *x = &p->args.in[0];
  const int64_t dims = arg_int(&p->args, "dims");
  j->rows = j->n = 1;
  for (int64_t d = 0; d < x->rank; ++d) *(d < x->rank - dims ? &j->rows : &j->n) *= x->shape[d];
  j->eps = arg_float(&p->args, "eps");
  j->rms = strcmp(p->args.node->op->name, "rms_norm") == 0;
  p->state = j;
  return norm_check_sizes(&p->args, 1, j->n);
}

static kiln_status layer_norm_run(const kernel_args *a) {
  norm_job j = *(const norm_job *)a->state;
  if (j.n == 0) return KILN_OK;
  j.x = a->in[0].data;
  j.y = a->out[0].data;
  j.gamma = norm_optional(a, 1);
  j.beta = j.rms ? NULL : norm_optional(a, 2);
  cpu_parallel(a->pool, j.rows, j.n, norm_rows, &j);
  return KILN_OK;
}

/* ---- Scale and shift of each channel ----------------------------------------------------------------------------- */

/* y = x * scale[c] + shift[c], for units of one channel plane, or of one position if channels are last. */
static void norm_apply(void *user, int64_t begin, int64_t end, int worker) {
  (void)worker;
  const norm_job *j = user;
  if (!j->last) {
    for (int64_t u = begin; u < end; ++u) {
      const vf s = vf_set1(j->scale[u]), t = vf_set1(j->shift[u]);
      const float *x = j->x + u * j->area;
      float *y = j->y + u * j->area;
      int64_t i = 0;
      for (; i + VF <= j->area; i += VF) vf_store(y + i, vf_fma(vf_load(x + i), s, t));
      if (i < j->area) vf_store_n(y + i, j->area - i, vf_fma(vf_load_n(x + i, j->area - i), s, t));
    }
    return;
  }
  for (int64_t u = begin; u < end; ++u) {
    const float *s = j->scale + u / j->area * j->channels, *t = j->shift + u / j->area * j->channels;
    const float *x = j->x + u * j->channels;
    float *y = j->y + u * j->channels;
    int64_t c = 0;
    for (; c + VF <= j->channels; c += VF) vf_store(y + c, vf_fma(vf_load(x + c), vf_load(s + c), vf_load(t + c)));
    if (c < j->channels) {
      const vm tail = vf_tail(j->channels - c);
      vf_store_mask(y + c, tail,
                    vf_fma(vf_load_mask(x + c, tail), vf_load_mask(s + c, tail), vf_load_mask(t + c, tail)));
    }
  }
}

static void norm_apply_all(const kernel_args *a, norm_job *j) {
  if (j->last)
    cpu_parallel(a->pool, j->batch * j->area, j->channels, norm_apply, j);
  else
    cpu_parallel(a->pool, j->batch * j->channels, j->area, norm_apply, j);
}

static norm_job *norm_channel_job(kernel_prep *p) {
  norm_job *j = ARENA_NEW(p->arena, norm_job);
  if (!j) return NULL;
  const tensor *x = &p->args.in[0];
  j->last = arg_bool(&p->args, "channels_last");
  j->batch = x->shape[0];
  j->channels = x->shape[j->last ? x->rank - 1 : 1];
  j->area = 1;
  for (int d = 1; d < x->rank; ++d) {
    if (d != (j->last ? x->rank - 1 : 1)) j->area *= x->shape[d];
  }
  j->eps = arg_float(&p->args, "eps");
  p->state = j;
  return j;
}

static kiln_status norm_workspace(kernel_prep *p, const norm_job *j) {
  size_t pairs, bytes, moments;
  if (!size_mul((size_t)j->batch, (size_t)j->channels, &pairs) || !size_mul(pairs, 2 * sizeof(float), &bytes) ||
      !size_mul(pairs, 2 * sizeof(double) * (size_t)j->chunks, &moments) ||
      !size_add(size_align(bytes, 64), moments, &bytes)) {
    return KILN_NO_MEMORY("norm workspace");
  }
  p->workspace_size = bytes;
  return KILN_OK;
}

static void norm_place(const kernel_args *a, norm_job *j) {
  const size_t pairs = (size_t)(j->batch * j->channels);
  j->x = a->in[0].data;
  j->y = a->out[0].data;
  j->scale = a->workspace;
  j->shift = j->scale + pairs;
  j->moments = (double *)(void *)((char *)a->workspace + size_align(pairs * 2 * sizeof(float), 64));
}

static kiln_status batch_norm_prepare(kernel_prep *p) {
  norm_job *j = norm_channel_job(p);
  if (!j) return KILN_NO_MEMORY("norm");
  KILN_TRY(norm_check_sizes(&p->args, 1, j->channels));
  return norm_workspace(p, j);
}

static kiln_status batch_norm_run(const kernel_args *a) {
  norm_job j = *(const norm_job *)a->state;
  norm_place(a, &j);
  const float *mean = a->in[1].data, *var = a->in[2].data, *gamma = norm_optional(a, 3), *beta = norm_optional(a, 4);
  for (int64_t b = 0; b < j.batch; ++b) {
    for (int64_t c = 0; c < j.channels; ++c) {
      const double s = (gamma ? (double)gamma[c] : 1.0) / sqrt((double)var[c] + j.eps);
      j.scale[b * j.channels + c] = (float)s;
      j.shift[b * j.channels + c] = (float)((beta ? (double)beta[c] : 0.0) - (double)mean[c] * s);
    }
  }
  norm_apply_all(a, &j);
  return KILN_OK;
}

/* ---- Group norm -------------------------------------------------------------------------------------------------- */

/* Channels first: a group is one run of memory. */
static void group_norm_planes(void *user, int64_t begin, int64_t end, int worker) {
  (void)worker;
  const norm_job *j = user;
  const int64_t per = j->channels / j->groups, n = per * j->area;
  for (int64_t u = begin; u < end; ++u) {
    const float *x = j->x + u * n;
    float *y = j->y + u * n;
    const double mean = norm_sum(x, n) / (double)n, var = norm_squares(x, n, (float)mean) / (double)n;
    const double inverse = 1.0 / sqrt(var + j->eps);
    for (int64_t k = 0; k < per; ++k) {
      const int64_t c = u % j->groups * per + k;
      const double s = inverse * (j->gamma ? (double)j->gamma[c] : 1.0);
      const vf scale = vf_set1((float)s), m = vf_set1((float)mean), t = vf_set1(j->beta ? j->beta[c] : 0.0f);
      for (int64_t i = 0; i < j->area; i += VF) {
        const vm tail = vf_tail(j->area - i < VF ? j->area - i : VF);
        vf_store_mask(y + k * j->area + i, tail, vf_fma(vf_sub(vf_load_mask(x + k * j->area + i, tail), m), scale, t));
      }
    }
  }
}

/* Channels last: sum and centred squares of each channel over one chunk of positions, relative to the chunk's first
 * value. */
static void group_norm_moments(void *user, int64_t begin, int64_t end, int worker) {
  (void)worker;
  const norm_job *j = user;
  for (int64_t u = begin; u < end; ++u) {
    int64_t first, last;
    range_split(j->area, j->chunks, 1, u % j->chunks, &first, &last);
    double *sum = j->moments + u * 2 * j->channels, *squares = sum + j->channels;
    if (first >= last) {
      memset(sum, 0, (size_t)j->channels * 2 * sizeof *sum);
      continue;
    }
    const float *x = j->x + (u / j->chunks * j->area + first) * j->channels;
    for (int64_t c = 0; c < j->channels; c += VF) {
      const int64_t lanes = j->channels - c < VF ? j->channels - c : VF;
      const vm tail = vf_tail(lanes);
      const vf base = vf_load_mask(x + c, tail);
      vf s = vf_zero(), q = vf_zero();
      for (int64_t i = 0; i < last - first; ++i) {
        const vf d = vf_sub(vf_load_mask(x + i * j->channels + c, tail), base);
        s = vf_add(s, d);
        q = vf_fma(d, d, q);
      }
      float bases[VF], sums[VF], squared[VF];
      vf_store(bases, base), vf_store(sums, s), vf_store(squared, q);
      const double n = (double)(last - first);
      for (int64_t k = 0; k < lanes; ++k) {
        const double d = (double)sums[k];
        sum[c + k] = d + n * (double)bases[k];
        squares[c + k] = (double)squared[k] - d * d / n; /* about the chunk's own mean */
      }
    }
  }
}

/* Joins chunks and channels of each group into scale and shift. */
static void group_norm_join(const norm_job *j) {
  const int64_t per = j->channels / j->groups;
  for (int64_t u = 0; u < j->batch * j->groups; ++u) {
    const int64_t b = u / j->groups, c0 = u % j->groups * per;
    double total = 0.0, spread = 0.0;
    for (int64_t k = 0; k < j->chunks; ++k) {
      const double *sum = j->moments + (b * j->chunks + k) * 2 * j->channels;
      for (int64_t c = c0; c < c0 + per; ++c) total += sum[c];
    }
    const double mean = total / (double)(per * j->area);
    for (int64_t k = 0; k < j->chunks; ++k) {
      const double *sum = j->moments + (b * j->chunks + k) * 2 * j->channels, *squares = sum + j->channels;
      int64_t first, last;
      range_split(j->area, j->chunks, 1, k, &first, &last);
      const double n = (double)(last - first);
      if (first >= last) continue;
      for (int64_t c = c0; c < c0 + per; ++c) {
        const double d = sum[c] / n - mean;
        spread += squares[c] + n * d * d;
      }
    }
    const double inverse = 1.0 / sqrt(spread / (double)(per * j->area) + j->eps);
    for (int64_t c = c0; c < c0 + per; ++c) {
      const double s = inverse * (j->gamma ? (double)j->gamma[c] : 1.0);
      j->scale[b * j->channels + c] = (float)s;
      j->shift[b * j->channels + c] = (float)((j->beta ? (double)j->beta[c] : 0.0) - mean * s);
    }
  }
}

static kiln_status group_norm_prepare(kernel_prep *p) {
  norm_job *j = norm_channel_job(p);
  if (!j) return KILN_NO_MEMORY("norm");
  j->groups = arg_int(&p->args, "groups");
  KILN_TRY(norm_check_sizes(&p->args, 1, j->channels));
  if (j->groups < 1 || j->channels % j->groups != 0) {
    return KILN_FAIL(KILN_INVALID_ARGUMENT, "group_norm: %lld groups do not divide %lld channels", (long long)j->groups,
                     (long long)j->channels);
  }
  if (!j->last) return KILN_OK;
  j->chunks = (j->area + 255) / 256;
  if (j->chunks > NORM_CHUNKS) j->chunks = NORM_CHUNKS;
  return norm_workspace(p, j);
}

static kiln_status group_norm_run(const kernel_args *a) {
  norm_job j = *(const norm_job *)a->state;
  if (j.batch * j.channels * j.area == 0) return KILN_OK;
  norm_place(a, &j);
  j.gamma = norm_optional(a, 1);
  j.beta = norm_optional(a, 2);
  if (!j.last) {
    cpu_parallel(a->pool, j.batch * j.groups, 3 * (j.channels / j.groups) * j.area, group_norm_planes, &j);
    return KILN_OK;
  }
  cpu_parallel(a->pool, j.batch * j.chunks, (j.area / j.chunks + 1) * j.channels, group_norm_moments, &j);
  group_norm_join(&j);
  norm_apply_all(a, &j);
  return KILN_OK;
}

#define NORM_ROW(op_name, function)                                                                               \
  CPU_ROW(.op = #op_name, .name = #op_name "." CPU_ISA_NAME, .fits = cpu_fits_f32, .prepare = function##_prepare, \
          .run = function##_run, .inplace = 1)

const kernel KERNEL(norm_kernels)[] = {
    NORM_ROW(layer_norm, layer_norm),
    NORM_ROW(rms_norm, layer_norm),
    NORM_ROW(batch_norm, batch_norm),
    NORM_ROW(group_norm, group_norm),
    {.op = NULL},
};
