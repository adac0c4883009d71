/* Resizing: taps of every output place along each dimension are made in prepare; a run joins the input rows of an
 * output row (vectors along the row), then the columns of that row (vectors over channels if they are last). */
#include "backends/cpu/kernels.h"
#include "backends/cpu/parallel.h"
#include "backends/cpu/simd/f32.h"
#include "base/memory.h"
#include "base/text.h"

typedef struct resize_taps {
  int64_t at[4];
  float weight[4];
} resize_taps;

typedef struct resize_plan {
  bool last, nearest;
  int count[3]; /* taps in each dimension: 1, 2 or 4; missing dimensions have 1 */
  int64_t batch, channels, in[3], out[3];
  resize_taps *taps[3];
  const float *x;
  float *y;
  float *rows; /* workspace: a joined row for each thread */
} resize_plan;

/* ---- Taps: positions as PyTorch's CPU kernels compute them (see ops/resize.c) ------------------------------------ */

static int64_t resize_clamp(double v, int64_t size) {
  return !(v > 0) ? 0 : v >= (double)(size - 1) ? size - 1 : (int64_t)v;
}
static double resize_near(double x) { return (1.25 * x - 2.25) * x * x + 1.0; } /* cubic convolution, A = -0.75 */
static double resize_far(double x) { return ((-0.75 * x + 3.75) * x - 6.0) * x + 3.0; }

typedef struct resize_axis {
  const char *mode;
  bool align;
  int64_t in, out;
  double scale;
} resize_axis;

static void resize_tap(const resize_axis *r, int64_t o, resize_taps *t) {
  if (r->mode[0] == 'n') {
    const float scale = r->scale > 0 ? (float)(1.0 / r->scale) : (float)r->in / (float)r->out;
    const bool exact = str_eq(r->mode, "nearest_exact");
    const float position = exact ? ((float)o + 0.5f) * scale : (float)o * scale;
    t->at[0] = r->out == r->in && !exact ? o : resize_clamp((double)floorf(position), r->in);
    t->weight[0] = 1.0f;
    return;
  }
  double step = r->scale > 0 ? 1.0 / r->scale : (double)r->in / (double)r->out;
  if (r->align) step = r->out > 1 ? (double)(r->in - 1) / (double)(r->out - 1) : 0.0;
  step = (double)(float)step;
  double position = r->align ? step * (double)o : step * ((double)o + 0.5) - 0.5;
  if (r->mode[0] == 'c') {
    const double base = floor(position), f = position - base;
    const double weights[4] = {resize_far(f + 1.0), resize_near(f), resize_near(1.0 - f), resize_far(2.0 - f)};
    for (int i = 0; i < 4; ++i) {
      t->at[i] = resize_clamp(base + i - 1, r->in);
      t->weight[i] = (float)weights[i];
    }
    return;
  }
  if (position < 0) position = 0;
  const int64_t low = resize_clamp(floor(position), r->in);
  const double f = fmin(fmax(position - (double)low, 0.0), 1.0);
  t->at[0] = low;
  t->at[1] = low + (low < r->in - 1 ? 1 : 0);
  t->weight[0] = (float)(1.0 - f);
  t->weight[1] = (float)f;
}

/* ---- Rows -------------------------------------------------------------------------------------------------------- */

/* The input row (of `width` floats) that output row (od, oh) reads: in place, or joined into `row`. */
static const float *resize_join_rows(const resize_plan *p, const float *x, int64_t od, int64_t oh, int64_t width,
                                     float *row) {
  const resize_taps *d = &p->taps[0][od], *h = &p->taps[1][oh];
  if (p->count[0] * p->count[1] == 1) return x + (d->at[0] * p->in[1] + h->at[0]) * width;
  for (int64_t i = 0; i < width; i += VF) {
    const vm tail = vf_tail(width - i < VF ? width - i : VF);
    vf s = vf_zero();
    for (int a = 0; a < p->count[0]; ++a) {
      for (int b = 0; b < p->count[1]; ++b) {
        const vf w = vf_set1(d->weight[a] * h->weight[b]);
        s = vf_fma(w, vf_load_mask(x + (d->at[a] * p->in[1] + h->at[b]) * width + i, tail), s);
      }
    }
    vf_store_mask(row + i, tail, s);
  }
  return row;
}

VF_INLINE void resize_pixel(const float *row, float *y, int64_t c, const resize_taps *t, const int count) {
  for (int64_t i = 0; i < c; i += VF) {
    const vm tail = vf_tail(c - i < VF ? c - i : VF);
    vf s = vf_mul(vf_set1(t->weight[0]), vf_load_mask(row + t->at[0] * c + i, tail));
    for (int k = 1; k < count; ++k) s = vf_fma(vf_set1(t->weight[k]), vf_load_mask(row + t->at[k] * c + i, tail), s);
    vf_store_mask(y + i, tail, s);
  }
}

static void resize_last(void *user, int64_t begin, int64_t end, int worker) {
  const resize_plan *p = user;
  const int64_t c = p->channels, width = p->in[2] * c;
  float *space = p->rows + (int64_t)worker * width;
  for (int64_t u = begin; u < end; ++u) {
    const int64_t oh = u % p->out[1], od = u / p->out[1] % p->out[0], n = u / p->out[1] / p->out[0];
    const float *row = resize_join_rows(p, p->x + n * p->in[0] * p->in[1] * width, od, oh, width, space);
    float *y = p->y + u * p->out[2] * c;
    for (int64_t ow = 0; ow < p->out[2]; ++ow, y += c) {
      const resize_taps *t = &p->taps[2][ow];
      if (p->nearest)
        memcpy(y, row + t->at[0] * c, (size_t)c * sizeof *y);
      else if (p->count[2] == 2)
        resize_pixel(row, y, c, t, 2);
      else
        resize_pixel(row, y, c, t, 4);
    }
  }
}

static void resize_first(void *user, int64_t begin, int64_t end, int worker) {
  const resize_plan *p = user;
  const int64_t width = p->in[2];
  float *space = p->rows + (int64_t)worker * width;
  for (int64_t u = begin; u < end; ++u) {
    const int64_t oh = u % p->out[1], od = u / p->out[1] % p->out[0], plane = u / p->out[1] / p->out[0];
    const float *row = resize_join_rows(p, p->x + plane * p->in[0] * p->in[1] * width, od, oh, width, space);
    float *y = p->y + u * p->out[2];
    const resize_taps *t = p->taps[2];
    if (p->nearest) {
      for (int64_t ow = 0; ow < p->out[2]; ++ow) y[ow] = row[t[ow].at[0]];
    } else if (p->count[2] == 2) {
      for (int64_t ow = 0; ow < p->out[2]; ++ow)
        y[ow] = row[t[ow].at[0]] * t[ow].weight[0] + row[t[ow].at[1]] * t[ow].weight[1];
    } else {
      for (int64_t ow = 0; ow < p->out[2]; ++ow) {
        float s = 0.0f;
        for (int k = 0; k < 4; ++k) s += row[t[ow].at[k]] * t[ow].weight[k];
        y[ow] = s;
      }
    }
  }
}

static kiln_status resize_prepare(kernel_prep *k) {
  const kernel_args *a = &k->args;
  const tensor *x = &a->in[0], *y = &a->out[0];
  const char *mode = arg_attr(a, "mode")->u.s;
  const attr *scales = arg_attr(a, "scales");
  resize_plan *p = ARENA_NEW(k->arena, resize_plan);
  if (!p) return KILN_NO_MEMORY("resize");
  p->last = arg_bool(a, "channels_last");
  p->nearest = mode[0] == 'n';
  p->batch = x->shape[0];
  p->channels = x->shape[p->last ? x->rank - 1 : 1];
  const int count = x->rank - 2, first = p->last ? 1 : 2;
  for (int d = 0; d < 3; ++d) {
    const int index = d - (3 - count);
    p->in[d] = index < 0 ? 1 : x->shape[first + index];
    p->out[d] = index < 0 ? 1 : y->shape[first + index];
    p->count[d] = index < 0 || p->nearest ? 1 : mode[0] == 'c' ? 4 : 2;
    p->taps[d] = ARENA_ARRAY(k->arena, resize_taps, p->out[d] + 1);
    if (!p->taps[d]) return KILN_NO_MEMORY("resize");
    const bool stays = mode[0] == 'l' && p->in[d] == p->out[d]; /* not resized, whatever the scale */
    const resize_axis axis = {index < 0 ? "nearest" : mode, arg_bool(a, "align_corners"), p->in[d], p->out[d],
                              index >= 0 && index < scales->count && !stays ? scales->u.floats[index] : 0.0};
    if (p->in[d] < 1 && tensor_numel(y) > 0)
      return KILN_FAIL(KILN_INVALID_ARGUMENT, "resize: a spatial dimension of x is empty");
    for (int64_t o = 0; o < p->out[d]; ++o) resize_tap(&axis, o, &p->taps[d][o]);
  }
  k->state = p;
  size_t row;
  if (!size_mul((size_t)p->in[2] * sizeof(float), p->last ? (size_t)p->channels : 1, &row) ||
      !size_mul(row, (size_t)k->threads, &k->workspace_size)) {
    return KILN_NO_MEMORY("resize");
  }
  return KILN_OK;
}

static kiln_status resize_run(const kernel_args *a) {
  resize_plan p = *(const resize_plan *)a->state;
  if (tensor_numel(&a->out[0]) == 0) return KILN_OK;
  p.x = a->in[0].data;
  p.y = a->out[0].data;
  p.rows = a->workspace;
  const int64_t rows = p.batch * p.out[0] * p.out[1];
  if (p.last)
    cpu_parallel(a->pool, rows, p.out[2] * p.channels, resize_last, &p);
  else
    cpu_parallel(a->pool, rows * p.channels, p.out[2] * 2, resize_first, &p);
  return KILN_OK;
}

const kernel KERNEL(resize_kernels)[] = {
    CPU_ROW(.op = "resize", .name = "resize." CPU_ISA_NAME, .fits = cpu_fits_f32, .prepare = resize_prepare,
            .run = resize_run),
    {.op = NULL},
};
