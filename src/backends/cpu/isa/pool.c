/* Pooling in 1 to 3 dimensions. Channels last: vectors over channels, one output position at a time. Channels first:
 * the rows of a window are joined into one row with vectors along it, then windows are taken along that row (sum and
 * maximum are separable). */
#include "backends/cpu/kernels.h"
#include "backends/cpu/parallel.h"
#include "backends/cpu/simd/f32.h"
#include "base/memory.h"

typedef struct pool_span { /* one output place along one dimension: input places first + step * k, k < count */
  int64_t first, count, divisor;
} pool_span;

typedef struct pool_plan {
  bool last, max;
  int64_t batch, channels;
  int64_t in[3], out[3], step[3]; /* depth, height, width; missing ones are 1 */
  pool_span *spans[3];
  int64_t stride, whole, whole_end; /* channels first: of columns; those whose window is whole, with one divisor */
  int64_t divisor;                  /* given, or 0 */
  int64_t parts;                    /* channels last: an output row is cut into so many ranges of channels */
  const float *x;
  float *y;
  float *rows; /* workspace: one input row for each thread */
} pool_plan;

VF_INLINE vf pool_join(const bool max, vf m, vf x) {
  return max ? vf_select(vf_eq(m, m), vf_max(m, x), m) : vf_add(m, x); /* vf_max(m, x) is x if either is NaN */
}

static float pool_scale(const pool_plan *p, const pool_span *d, const pool_span *h, const pool_span *w) {
  if (p->max) return 1.0f;
  return (float)(1.0 / (double)(p->divisor ? p->divisor : d->divisor * h->divisor * w->divisor));
}

/* ---- Channels last ----------------------------------------------------------------------------------------------- */

/* Channels [begin, end) of one output position. */
VF_INLINE void pool_position(const pool_plan *p, const bool max, const float *x, float *y, int64_t begin, int64_t end,
                             const pool_span *d, const pool_span *h, const pool_span *w) {
  const int64_t c = p->channels, row = p->in[2] * c, plane = p->in[1] * row;
  const bool empty = d->count <= 0 || h->count <= 0 || w->count <= 0;
  const vf none = vf_set1(max ? -INFINITY : 0.0f), scale = vf_set1(empty ? 1.0f : pool_scale(p, d, h, w));
  for (int64_t i = begin; i < end; i += 4 * VF) {
    vf m[4] = {none, none, none, none};
    const int64_t lanes = end - i < 4 * VF ? end - i : 4 * VF;
    vm tail[4];
    for (int v = 0; v < 4; ++v) {
      const int64_t left = lanes - v * VF;
      tail[v] = vf_tail(left < 0 ? 0 : left < VF ? left : VF);
    }
    for (int64_t a = 0; a < d->count && !empty; ++a) {
      for (int64_t b = 0; b < h->count; ++b) {
        const float *from =
            x + (d->first + a * p->step[0]) * plane + (h->first + b * p->step[1]) * row + w->first * c + i;
        for (int64_t k = 0; k < w->count; ++k, from += p->step[2] * c) {
          if (lanes == 4 * VF) {
            for (int v = 0; v < 4; ++v) m[v] = pool_join(max, m[v], vf_load(from + v * VF));
          } else {
            for (int v = 0; v * VF < lanes; ++v) m[v] = pool_join(max, m[v], vf_load_mask(from + v * VF, tail[v]));
          }
        }
      }
    }
    for (int v = 0; v * VF < lanes; ++v) vf_store_mask(y + i + v * VF, tail[v], max ? m[v] : vf_mul(m[v], scale));
  }
}

static void pool_last(void *user, int64_t begin, int64_t end, int worker) {
  (void)worker;
  const pool_plan *p = user;
  const int64_t c = p->channels, sample = p->in[0] * p->in[1] * p->in[2] * c;
  for (int64_t unit = begin; unit < end; ++unit) { /* one output row, one range of channels */
    const int64_t u = unit / p->parts, oh = u % p->out[1], od = u / p->out[1] % p->out[0],
                  n = u / p->out[1] / p->out[0];
    int64_t first, last;
    range_split(c, p->parts, 4 * VF, unit % p->parts, &first, &last);
    for (int64_t ow = 0; ow < p->out[2]; ++ow) {
      const pool_span *d = &p->spans[0][od], *h = &p->spans[1][oh], *w = &p->spans[2][ow];
      float *y = p->y + (u * p->out[2] + ow) * c;
      if (p->max)
        pool_position(p, true, p->x + n * sample, y, first, last, d, h, w);
      else
        pool_position(p, false, p->x + n * sample, y, first, last, d, h, w);
    }
  }
}

/* ---- Channels first ---------------------------------------------------------------------------------------------- */

VF_INLINE void pool_join_rows(const pool_plan *p, const bool max, const float *x, float *row, const pool_span *d,
                              const pool_span *h) {
  const int64_t w = p->in[2];
  for (int64_t i = 0; i < w; i += VF) {
    const vm tail = vf_tail(w - i < VF ? w - i : VF);
    vf m = vf_set1(max ? -INFINITY : 0.0f);
    for (int64_t a = 0; a < d->count; ++a) {
      for (int64_t b = 0; b < h->count; ++b) {
        const int64_t at = ((d->first + a * p->step[0]) * p->in[1] + h->first + b * p->step[1]) * w;
        m = pool_join(max, m, vf_load_mask(x + at + i, tail));
      }
    }
    vf_store_mask(row + i, tail, m);
  }
}

/* Whole windows [0, n) along a row: places are so far apart, the first starts at row[0]. Loops over places vectorize
 * for a stride known to the compiler. A NaN in m stays: no comparison with it is true. */
VF_INLINE void pool_windows(const bool max, const float *restrict row, float *restrict y, int64_t n,
                            const int64_t stride, int64_t step, int64_t taps, float scale) {
  for (int64_t i = 0; i < n; ++i) y[i] = row[i * stride];
  for (int64_t k = 1; k < taps; ++k) {
    const float *from = row + k * step;
    if (max) {
      for (int64_t i = 0; i < n; ++i) {
        const float v = from[i * stride], m = y[i];
        y[i] = ((v > m) | (v != v)) ? v : m;
      }
    } else {
      for (int64_t i = 0; i < n; ++i) y[i] += from[i * stride];
    }
  }
  if (!max) {
    for (int64_t i = 0; i < n; ++i) y[i] *= scale;
  }
}

static void pool_whole_windows(const pool_plan *p, const float *row, float *y, int64_t n, int64_t taps, float scale) {
#define POOL_WINDOWS(stride)                                           \
  do {                                                                 \
    if (p->max)                                                        \
      pool_windows(true, row, y, n, stride, p->step[2], taps, scale);  \
    else                                                               \
      pool_windows(false, row, y, n, stride, p->step[2], taps, scale); \
  } while (0)
  if (p->stride == 1)
    POOL_WINDOWS(1);
  else if (p->stride == 2)
    POOL_WINDOWS(2);
  else
    POOL_WINDOWS(p->stride);
}

static void pool_first(void *user, int64_t begin, int64_t end, int worker) {
  const pool_plan *p = user;
  float *row = p->rows + (int64_t)worker * p->in[2];
  for (int64_t u = begin; u < end; ++u) { /* one output row */
    const int64_t oh = u % p->out[1], od = u / p->out[1] % p->out[0], plane = u / p->out[1] / p->out[0];
    const pool_span *d = &p->spans[0][od], *h = &p->spans[1][oh];
    const float *x = p->x + plane * p->in[0] * p->in[1] * p->in[2];
    float *y = p->y + u * p->out[2];
    if (p->max)
      pool_join_rows(p, true, x, row, d, h);
    else
      pool_join_rows(p, false, x, row, d, h);
    const bool empty = d->count <= 0 || h->count <= 0;
    if (p->whole_end > p->whole && !empty) {
      const pool_span *w = &p->spans[2][p->whole];
      pool_whole_windows(p, row + w->first, y + p->whole, p->whole_end - p->whole, w->count, pool_scale(p, d, h, w));
    }
    for (int64_t ow = 0; ow < p->out[2]; ++ow) {
      if (ow == p->whole && p->whole_end > p->whole && !empty) ow = p->whole_end; /* done above */
      if (ow >= p->out[2]) break;
      const pool_span *w = &p->spans[2][ow];
      const float *from = row + w->first;
      if (p->max) {
        float m = -INFINITY;
        for (int64_t k = 0; k < w->count; ++k) {
          const float v = from[k * p->step[2]];
          m = ((v > m) | (v != v)) ? v : m;
        }
        y[ow] = m;
      } else {
        float sum = 0.0f;
        for (int64_t k = 0; k < w->count; ++k) sum += from[k * p->step[2]];
        y[ow] = empty || w->count <= 0 ? 0.0f : sum * pool_scale(p, d, h, w);
      }
    }
  }
}

/* ---- Prepare and run --------------------------------------------------------------------------------------------- */

static int64_t pool_int(const kernel_args *a, const char *name, int index, int64_t fallback) {
  const attr *v = arg_attr(a, name);
  return v && index >= 0 && index < v->count ? v->u.ints[index] : fallback;
}

/* Spans of dimension `d`, whose attributes are number `index`, or -1 for a missing dimension. */
static void pool_make_spans(const kernel_args *a, pool_plan *p, int d, int index, bool adaptive, bool include_pad) {
  const int64_t size = p->in[d];
  const int64_t width = adaptive ? 1 : pool_int(a, "kernel", index, 1),
                stride = adaptive ? 1 : pool_int(a, "stride", index, 1);
  const int64_t pad = adaptive ? 0 : pool_int(a, "pad", index, 0);
  for (int64_t o = 0; o < p->out[d]; ++o) {
    pool_span *s = &p->spans[d][o];
    if (adaptive) {
      s->first = o * size / p->out[d];
      s->count = s->divisor = ((o + 1) * size + p->out[d] - 1) / p->out[d] - s->first;
      continue;
    }
    const int64_t start = o * stride - pad;
    int64_t first = start, end = start + (width - 1) * p->step[d] + 1;
    if (first < 0) first += (-first + p->step[d] - 1) / p->step[d] * p->step[d];
    if (end > size) end = size;
    s->first = first;
    s->count = end > first ? (end - first + p->step[d] - 1) / p->step[d] : 0;
    s->divisor = s->count;
    if (include_pad) s->divisor = (start + width < size + pad ? start + width : size + pad) - start;
  }
}

static kiln_status pool_prepare(kernel_prep *k) {
  const kernel_args *a = &k->args;
  const tensor *x = &a->in[0], *y = &a->out[0];
  const char *name = a->node->op->name;
  const bool adaptive = strcmp(name, "adaptive_avg_pool") == 0;
  pool_plan *p = ARENA_NEW(k->arena, pool_plan);
  if (!p) return KILN_NO_MEMORY("pooling");
  p->last = arg_bool(a, "channels_last");
  p->max = strcmp(name, "max_pool") == 0;
  p->batch = x->shape[0];
  p->channels = x->shape[p->last ? x->rank - 1 : 1];
  const int count = x->rank - 2, first = p->last ? 1 : 2;
  const bool average = !p->max && !adaptive;
  if (average) p->divisor = arg_int(a, "divisor");
  for (int d = 0; d < 3; ++d) {
    const int index = d - (3 - count);
    p->in[d] = index < 0 ? 1 : x->shape[first + index];
    p->out[d] = index < 0 ? 1 : y->shape[first + index];
    p->step[d] = p->max ? pool_int(a, "dilation", index, 1) : 1;
    p->spans[d] = ARENA_ARRAY(k->arena, pool_span, p->out[d] + 1);
    if (!p->spans[d]) return KILN_NO_MEMORY("pooling");
    pool_make_spans(a, p, d, index, adaptive, average && arg_bool(a, "count_include_pad"));
  }
  p->stride = adaptive ? 1 : pool_int(a, "stride", count - 1, 1);
  const int64_t taps = adaptive ? 0 : pool_int(a, "kernel", count - 1, 1);
  while (p->whole < p->out[2] && p->spans[2][p->whole].count != taps) ++p->whole;
  p->whole_end = p->whole;
  while (p->whole_end < p->out[2] && p->spans[2][p->whole_end].count == taps &&
         p->spans[2][p->whole_end].divisor == p->spans[2][p->whole].divisor) {
    ++p->whole_end;
  }
  k->state = p;
  if (!p->last && !size_mul((size_t)p->in[2] * sizeof(float), (size_t)k->threads, &k->workspace_size))
    return KILN_NO_MEMORY("pooling");
  return KILN_OK;
}

static kiln_status pool_run_kernel(const kernel_args *a) {
  pool_plan p = *(const pool_plan *)a->state;
  if (tensor_numel(&a->out[0]) == 0) return KILN_OK;
  p.x = a->in[0].data;
  p.y = a->out[0].data;
  p.rows = a->workspace;
  int64_t window = 1;
  for (int d = 0; d < 3; ++d) window *= p.spans[d][p.out[d] / 2].count + 1;
  const int64_t rows = p.batch * p.out[0] * p.out[1], blocks = (p.channels + 4 * VF - 1) / (4 * VF);
  p.parts = rows >= 4 * pool_threads(a->pool) || blocks < 1 ? 1 : blocks;
  if (p.last)
    cpu_parallel(a->pool, rows * p.parts, p.out[2] * p.channels * window / 2 / p.parts, pool_last, &p);
  else
    cpu_parallel(a->pool, p.batch * p.channels * p.out[0] * p.out[1], p.in[2] * window, pool_first, &p);
  return KILN_OK;
}

#define POOL_ROW(op_name)                                                                                   \
  CPU_ROW(.op = #op_name, .name = #op_name "." CPU_ISA_NAME, .fits = cpu_fits_f32, .prepare = pool_prepare, \
          .run = pool_run_kernel)

const kernel KERNEL(pool_kernels)[] = {
    POOL_ROW(max_pool), POOL_ROW(avg_pool), POOL_ROW(adaptive_avg_pool), {.op = NULL}};
