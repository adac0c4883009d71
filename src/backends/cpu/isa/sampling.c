/* Sampling on a grid, adaptive maximum pooling with places, and local response normalization. Loops run over neighbouring
 * places and are left to the compiler to vectorize. */
#include <math.h>
#include <string.h>

#include "backends/cpu/kernels.h"
#include "backends/cpu/parallel.h"
#include "backends/cpu/simd/f32.h"
#include "ops/grid.h"
#include "ops/ref.h"

static int64_t sampling_product(const int64_t *sizes, int first, int rank) {
  int64_t n = 1;
  for (int i = first; i < rank; ++i) n *= sizes[i];
  return n;
}
static int64_t sampling_min(int64_t a, int64_t b) { return a < b ? a : b; }

/* ---- grid_sample ------------------------------------------------------------------------------------------------- */

enum { GRID_BLOCK = 64, GRID_MAX_TAPS = 16 }; /* cubic in two dimensions; linear in three has 8 */

typedef struct grid_job {
  const kernel_args *a;
  int dims;
  char mode;
  int64_t channels, plane, places, blocks; /* plane: pixels of x; places: of y */
  grid_axis axes[3];
  int64_t strides[3];
} grid_job;

typedef struct grid_block { /* what each place of the block reads, of each channel */
  int count;
  int64_t at[GRID_MAX_TAPS][GRID_BLOCK];
  float weight[GRID_MAX_TAPS][GRID_BLOCK];
  uint32_t inside[GRID_MAX_TAPS][GRID_BLOCK]; /* all bits, or none: infinity times 0 would not be 0 */
} grid_block;

static void grid_place(const grid_job *j, const float *coordinates, int64_t place, grid_block *b) {
  taps t[3] = {{.count = 1, .weight = {1}}, {.count = 1, .weight = {1}}, {.count = 1, .weight = {1}}};
  for (int d = 0; d < j->dims; ++d) /* the last coordinate belongs to the first dimension */
    grid_taps(&j->axes[d], j->mode, (double)coordinates[j->dims - 1 - d], &t[d]);
  int n = 0;
  for (int i = 0; i < t[0].count; ++i) {
    for (int k = 0; k < t[1].count; ++k) {
      for (int m = 0; m < t[2].count; ++m, ++n) {
        const bool inside = t[0].at[i] >= 0 && t[1].at[k] >= 0 && t[2].at[m] >= 0;
        const int64_t at = t[0].at[i] * j->strides[0] + t[1].at[k] * j->strides[1] + t[2].at[m] * j->strides[2];
        b->at[n][place] = inside ? at : 0;
        b->weight[n][place] = inside ? (float)(t[0].weight[i] * t[1].weight[k] * t[2].weight[m]) : 0.0f;
        b->inside[n][place] = inside ? UINT32_MAX : 0;
      }
    }
  }
  b->count = n;
}

/* `count` is known to the compiler, so that the sum of all taps stays in registers. */
VF_INLINE void grid_sum(const grid_block *restrict b, const float *restrict x, float *restrict y, int64_t n,
                        const int count) {
  for (int64_t i = 0; i < n; ++i) {
    float sum = 0.0f;
#pragma GCC unroll 16
    for (int t = 0; t < count; ++t) {
      uint32_t bits;
      float v;
      memcpy(&bits, &x[b->at[t][i]], sizeof bits);
      bits &= b->inside[t][i];
      memcpy(&v, &bits, sizeof v);
      sum += b->weight[t][i] * v;
    }
    y[i] = sum;
  }
}

static void grid_channel(const grid_block *b, const float *x, float *y, int64_t n) {
  switch (b->count) {
    case 1:
      grid_sum(b, x, y, n, 1);
      break;
    case 4:
      grid_sum(b, x, y, n, 4);
      break;
    case 8:
      grid_sum(b, x, y, n, 8);
      break;
    default:
      grid_sum(b, x, y, n, GRID_MAX_TAPS);
      break;
  }
}

static void grid_blocks(void *user, int64_t begin, int64_t end, int worker) {
  (void)worker;
  const grid_job *j = user;
  const float *x = j->a->in[0].data, *grid = j->a->in[1].data;
  float *y = j->a->out[0].data;
  grid_block b = {0};
  for (int64_t u = begin; u < end; ++u) {
    const int64_t image = u / j->blocks, first = u % j->blocks * GRID_BLOCK,
                  n = sampling_min(GRID_BLOCK, j->places - first);
    for (int64_t i = 0; i < n; ++i) grid_place(j, grid + (image * j->places + first + i) * j->dims, i, &b);
    for (int64_t c = image * j->channels; c < (image + 1) * j->channels; ++c)
      grid_channel(&b, x + c * j->plane, y + c * j->places + first, n);
  }
}

static kiln_status grid_run(const kernel_args *a) {
  const tensor *x = &a->in[0], *y = &a->out[0];
  grid_job j = {.a = a, .dims = x->rank - 2, .mode = arg_attr(a, "mode")->u.s[0], .channels = x->shape[1]};
  if (tensor_numel(y) == 0) return KILN_OK;
  j.plane = sampling_product(x->shape, 2, x->rank);
  j.places = sampling_product(y->shape, 2, y->rank);
  j.blocks = (j.places + GRID_BLOCK - 1) / GRID_BLOCK;
  if (j.plane == 0) { /* everything is outside */
    memset(y->data, 0, (size_t)tensor_numel(y) * sizeof(float));
    return KILN_OK;
  }
  for (int d = 0; d < j.dims; ++d) {
    j.axes[d] = (grid_axis){x->shape[2 + d], arg_bool(a, "align_corners"), arg_attr(a, "padding")->u.s[0]};
    j.strides[d] = x->strides[2 + d];
  }
  cpu_parallel(a->pool, x->shape[0] * j.blocks, GRID_BLOCK * (40 + 8 * j.channels), grid_blocks, &j);
  return KILN_OK;
}

/* ---- adaptive_max_pool_index ------------------------------------------------------------------------------------- */

typedef struct places_job {
  const kernel_args *a;
  int64_t in[3], out[3]; /* missing dimensions are 1 */
} places_job;

/* The window of `o`: from floor(o * in / out) to ceil((o + 1) * in / out). */
static int64_t window_first(const places_job *j, int d, int64_t o) { return o * j->in[d] / j->out[d]; }
static int64_t window_end(const places_job *j, int d, int64_t o) {
  return ((o + 1) * j->in[d] + j->out[d] - 1) / j->out[d];
}

/* The first of equal values counts, and the last NaN over all. */
static int64_t window_best(const places_job *j, const float *x, const int64_t *o) {
  int64_t best = -1;
  for (int64_t d = window_first(j, 0, o[0]); d < window_end(j, 0, o[0]); ++d) {
    for (int64_t h = window_first(j, 1, o[1]); h < window_end(j, 1, o[1]); ++h) {
      const int64_t row = (d * j->in[1] + h) * j->in[2];
      for (int64_t i = row + window_first(j, 2, o[2]); i < row + window_end(j, 2, o[2]); ++i) {
        if (best < 0 || x[i] > x[best] || isnan(x[i])) best = i;
      }
    }
  }
  return best;
}

static void places_planes(void *user, int64_t begin, int64_t end, int worker) {
  (void)worker;
  const places_job *j = user;
  const int64_t plane = j->in[0] * j->in[1] * j->in[2];
  int64_t at = begin * j->out[0] * j->out[1] * j->out[2];
  for (int64_t u = begin; u < end; ++u) {
    const float *x = (const float *)j->a->in[0].data + u * plane;
    int64_t o[3];
    for (o[0] = 0; o[0] < j->out[0]; ++o[0]) {
      for (o[1] = 0; o[1] < j->out[1]; ++o[1]) {
        for (o[2] = 0; o[2] < j->out[2]; ++o[2], ++at) {
          const int64_t best = window_best(j, x, o);
          ((float *)j->a->out[0].data)[at] = best < 0 ? -INFINITY : x[best];
          ((int64_t *)j->a->out[1].data)[at] = best < 0 ? 0 : best;
        }
      }
    }
  }
}

static kiln_status places_run(const kernel_args *a) {
  const tensor *x = &a->in[0], *y = &a->out[0];
  places_job j = {a, {1, 1, 1}, {1, 1, 1}};
  if (tensor_numel(y) == 0) return KILN_OK;
  for (int d = 2; d < x->rank; ++d) {
    j.in[d + 3 - x->rank] = x->shape[d];
    j.out[d + 3 - x->rank] = y->shape[d];
  }
  cpu_parallel(a->pool, x->shape[0] * x->shape[1], 4 * sampling_product(x->shape, 2, x->rank), places_planes, &j);
  return KILN_OK;
}

static bool places_fits(const node *n, const char **why) {
  if (n->inputs[0].v->type.dtype != KILN_F32) return *why = "not f32", false;
  return true;
}

/* ---- local_response_norm ----------------------------------------------------------------------------------------- */

enum { RESPONSE_BLOCK = 256 };

typedef struct response_job {
  const kernel_args *a;
  int64_t channels, inner, blocks, before, after;
  float alpha, beta, k; /* alpha: over the size */
} response_job;

static void response_scale(const response_job *j, const float *restrict x, const float *restrict sum, float *restrict y,
                           int64_t n) {
  if (j->beta == 0.75f) {
    for (int64_t i = 0; i < n; ++i) {
      const float root = sqrtf(j->k + j->alpha * sum[i]);
      y[i] = x[i] / (root * sqrtf(root));
    }
  } else if (j->beta == 0.5f) {
    for (int64_t i = 0; i < n; ++i) y[i] = x[i] / sqrtf(j->k + j->alpha * sum[i]);
  } else {
    for (int64_t i = 0; i < n; ++i) y[i] = x[i] / powf(j->k + j->alpha * sum[i], j->beta);
  }
}

static void response_blocks(void *user, int64_t begin, int64_t end, int worker) {
  (void)worker;
  const response_job *j = user;
  float sum[RESPONSE_BLOCK];
  for (int64_t u = begin; u < end; ++u) {
    const int64_t first = u % j->blocks * RESPONSE_BLOCK, n = sampling_min(RESPONSE_BLOCK, j->inner - first);
    const int64_t base = u / j->blocks * j->channels * j->inner + first;
    const float *x = (const float *)j->a->in[0].data + base;
    float *y = (float *)j->a->out[0].data + base;
    for (int64_t c = 0; c < j->channels; ++c) {
      const int64_t from = c < j->before ? 0 : c - j->before, to = sampling_min(j->channels - 1, c + j->after);
      for (int64_t i = 0; i < n; ++i) sum[i] = 0.0f;
      for (int64_t o = from; o <= to; ++o) {
        const float *v = x + o * j->inner;
        for (int64_t i = 0; i < n; ++i) sum[i] += v[i] * v[i];
      }
      response_scale(j, x + c * j->inner, sum, y + c * j->inner, n);
    }
  }
}

static kiln_status response_run(const kernel_args *a) {
  const tensor *x = &a->in[0];
  const int64_t size = arg_int(a, "size");
  response_job j = {.a = a, .channels = x->shape[1], .inner = sampling_product(x->shape, 2, x->rank)};
  if (tensor_numel(x) == 0) return KILN_OK;
  j.blocks = (j.inner + RESPONSE_BLOCK - 1) / RESPONSE_BLOCK;
  j.before = sampling_min(size / 2, j.channels);
  j.after = sampling_min((size - 1) / 2, j.channels);
  j.alpha = (float)(arg_float(a, "alpha") / (double)size);
  j.beta = (float)arg_float(a, "beta");
  j.k = (float)arg_float(a, "k");
  const int64_t window = j.before + j.after + 1;
  cpu_parallel(a->pool, x->shape[0] * j.blocks, sampling_min(RESPONSE_BLOCK, j.inner) * j.channels * (window + 8),
               response_blocks, &j);
  return KILN_OK;
}

/* ---- Rows -------------------------------------------------------------------------------------------------------- */

const kernel KERNEL(sampling_kernels)[] = {
    CPU_ROW(.op = "grid_sample", .name = "grid_sample." CPU_ISA_NAME, .fits = cpu_fits_f32, .run = grid_run),
    CPU_ROW(.op = "adaptive_max_pool_index", .name = "adaptive_max_pool_index." CPU_ISA_NAME, .fits = places_fits,
            .run = places_run),
    CPU_ROW(.op = "local_response_norm", .name = "local_response_norm." CPU_ISA_NAME, .fits = cpu_fits_f32,
            .run = response_run),
    {.op = NULL},
};
