/* Convolution as an indirect matrix product: rows are output pixels, K is (window place, input channel), and each strip
 * of rows gets pointers to the pixels under its window, or to zeros where the window hangs over the edge. Pointers are
 * made per strip, so nothing depends on the batch size. Three forms:
 *   - 1x1, stride 1: the plain matrix product;
 *   - few input channels: the window's rows are contiguous in memory (width x channels), so one pointer covers a row of
 * places;
 *   - transposed: output pixels of one phase (position modulo stride) see the same subset of places, so each phase is a
 * product. */
#include "backends/cpu/conv.h"

#include <string.h>

#include "base/memory.h"

/* ---- Geometry ---------------------------------------------------------------------------------------------------- */

static void conv_ints(const kernel_args *a, const char *name, int count, int64_t fill, int64_t out[3]) {
  const attr *v = arg_attr(a, name);
  for (int i = 0; i < 3; i++) {
    const int at = i - (3 - count);
    out[i] = at >= 0 && at < v->count ? v->u.ints[at] : fill;
  }
}

static void conv_dense(const int64_t size[3], int64_t channels, int64_t *batch, int64_t step[3]) {
  step[2] = channels;
  step[1] = step[2] * size[2];
  step[0] = step[1] * size[1];
  *batch = step[0] * size[0];
}

void conv_geometry_dense_x(conv_geometry *g) { conv_dense(g->in, g->in_channels, &g->x_batch, g->x_step); }
void conv_geometry_dense_y(conv_geometry *g) { conv_dense(g->out, g->out_channels, &g->y_batch, g->y_step); }

void conv_geometry_of(const kernel_args *a, conv_geometry *g) {
  const tensor *x = &a->in[0], *w = &a->in[1], *y = &a->out[0];
  const int count = x->rank - 2;
  *g = (conv_geometry){.batch = x->shape[0],
                       .in_channels = x->shape[x->rank - 1],
                       .out_channels = y->shape[y->rank - 1],
                       .groups = arg_int(a, "groups"),
                       .taps = 1,
                       .x_batch = x->strides[0],
                       .y_batch = y->strides[0]};
  for (int i = 0; i < 3; i++) {
    const int at = i - (3 - count);
    g->in[i] = at >= 0 ? x->shape[1 + at] : 1;
    g->out[i] = at >= 0 ? y->shape[1 + at] : 1;
    g->kernel[i] = at >= 0 ? w->shape[2 + at] : 1;
    g->x_step[i] = at >= 0 ? x->strides[1 + at] : 0;
    g->y_step[i] = at >= 0 ? y->strides[1 + at] : 0;
    g->taps *= g->kernel[i];
  }
  conv_ints(a, "stride", count, 1, g->stride);
  conv_ints(a, "pad", count, 0, g->pad);
  conv_ints(a, "dilation", count, 1, g->dilation);
}

bool conv_pixels_contiguous(const tensor *t) { return t->shape[t->rank - 1] == 1 || t->strides[t->rank - 1] == 1; }

bool conv_fits_common(const node *n, bool transposed, const char **why) {
  if (!node_bool(n, "channels_last")) {
    *why = "not channels_last";
    return false;
  }
  if (node_bool(n, "transposed") != transposed) {
    *why = transposed ? "not transposed" : "transposed";
    return false;
  }
  return gemm_fits_f32(n, why);
}

/* ---- The igemm kernel -------------------------------------------------------------------------------------------- */

typedef struct conv_phase { /* of a transposed convolution */
  int32_t *tap;             /* places of the window that count, as numbers and coordinates */
  int64_t taps;
  int64_t (*place)[3];
  int64_t first[3], size[3]; /* first output position of this phase, and how many there are */
} conv_phase;

typedef struct conv_state {
  gemm_job job;
  conv_geometry g;
  const float *zeros;
  bool plain;  /* 1x1 */
  bool merged; /* a pointer covers kernel[2] pixels */
  bool copy_x, copy_y;
  bool pack_w; /* the weights come unpacked */
  size_t scratch_at, x_at, y_at, w_at;
  bool *counts[3];    /* igemm: per place of the window along each dimension: is it inside the image for any output? */
  conv_phase *phases; /* transposed only */
  int64_t n_phases;
  size_t epilogue_at, epilogue_each;
  int64_t epilogue_rows; /* per task, after a transposed convolution */
} conv_state;

typedef struct conv_pass { /* what rows callbacks need: state and, when transposed, the phase */
  const conv_state *state;
  const conv_phase *phase;
} conv_pass;

static void pixel_of(const int64_t size[3], int64_t m, int64_t *n, int64_t at[3]) {
  at[2] = m % size[2];
  m /= size[2];
  at[1] = m % size[1];
  m /= size[1];
  at[0] = m % size[0];
  *n = m / size[0];
}

static void pixel_next(const int64_t size[3], int64_t *n, int64_t at[3]) {
  if (++at[2] < size[2]) return;
  at[2] = 0;
  if (++at[1] < size[1]) return;
  at[1] = 0;
  if (++at[0] < size[0]) return;
  at[0] = 0;
  ++*n;
}

static inline bool inside(int64_t i, int64_t size) { return (uint64_t)i < (uint64_t)size; }

/* Rows [i0, i1) of a strip, output pixels of one line that begin at `at`. */
typedef struct line_part {
  const float *x; /* image */
  int64_t at[3];
  int i0, i1, mr;
} line_part;

static void conv_line(const conv_state *s, const line_part *l, const float **a) {
  const conv_geometry *g = &s->g;
  const int64_t count = l->i1 - l->i0, step = g->stride[2] * g->x_step[2];
  const int64_t w0 = l->at[2] * g->stride[2] - g->pad[2];
  const float **to = a + l->i0;
  for (int64_t kd = 0; kd < g->kernel[0]; kd++) {
    const int64_t d = l->at[0] * g->stride[0] - g->pad[0] + kd * g->dilation[0];
    if (!s->counts[0][kd]) continue;
    for (int64_t kh = 0; kh < g->kernel[1]; kh++) {
      const int64_t h = l->at[1] * g->stride[1] - g->pad[1] + kh * g->dilation[1];
      const bool row_inside = inside(d, g->in[0]) && inside(h, g->in[1]);
      const float *row = l->x + d * g->x_step[0] + h * g->x_step[1];
      if (!s->counts[1][kh]) continue;
      for (int64_t kw = 0; kw < g->kernel[2]; kw++) {
        if (!s->counts[2][kw]) continue;
        const int64_t w = w0 + kw * g->dilation[2];
        const float *first = row + w * g->x_step[2];
        if (row_inside && w >= 0 && w + (count - 1) * g->stride[2] < g->in[2]) {
          for (int64_t i = 0; i < count; i++) to[i] = first + i * step;
        } else {
          for (int64_t i = 0; i < count; i++) {
            to[i] = row_inside && inside(w + i * g->stride[2], g->in[2]) ? first + i * step : s->zeros;
          }
        }
        to += l->mr;
      }
    }
  }
}

/* One pointer for each row of the window; rows that hang over the edge are copied with zeros around. Returns the rest
 * of `copy`. */
static float *conv_line_merged(const conv_state *s, const line_part *l, const float **a, float *copy) {
  const conv_geometry *g = &s->g;
  const int64_t channels = g->in_channels, width = g->kernel[2], step = g->stride[2];
  const int64_t w0 = l->at[2] * step - g->pad[2], count = l->i1 - l->i0;
  const float **to = a + l->i0;
  const bool all_inside = w0 >= 0 && w0 + (count - 1) * step + width <= g->in[2];
  for (int64_t kd = 0; kd < g->kernel[0]; kd++) {
    const int64_t d = l->at[0] * g->stride[0] - g->pad[0] + kd * g->dilation[0];
    for (int64_t kh = 0; kh < g->kernel[1]; kh++, to += l->mr) {
      const int64_t h = l->at[1] * g->stride[1] - g->pad[1] + kh * g->dilation[1];
      const bool row_inside = inside(d, g->in[0]) && inside(h, g->in[1]);
      const float *row = l->x + d * g->x_step[0] + h * g->x_step[1] + w0 * channels;
      if (row_inside && all_inside) {
        for (int64_t i = 0; i < count; i++) to[i] = row + i * step * channels;
        continue;
      }
      for (int64_t i = 0; i < count; i++) {
        const int64_t w = w0 + i * step, from = w < 0 ? (-w < width ? -w : width) : 0;
        const int64_t until = g->in[2] - w < width ? g->in[2] - w : width;
        if (!row_inside || until <= from) {
          to[i] = s->zeros;
        } else if (until - from == width) {
          to[i] = row + i * step * channels;
        } else {
          for (int64_t c = 0; c < from * channels; c++) copy[c] = 0.0f;
          memcpy(copy + from * channels, row + (i * step + from) * channels,
                 (size_t)((until - from) * channels) * sizeof(float));
          for (int64_t c = until * channels; c < width * channels; c++) copy[c] = 0.0f;
          to[i] = copy;
          copy += width * channels;
        }
      }
    }
  }
  return copy;
}

static void conv_rows(const gemm_job *j, int64_t batch, int64_t m0, int mr, const float **a, void *scratch) {
  (void)batch;
  const conv_state *s = ((const conv_pass *)j->user)->state;
  const conv_geometry *g = &s->g;
  line_part l = {.mr = mr};
  float *copy = scratch;
  int64_t n;
  pixel_of(g->out, m0, &n, l.at);
  while (l.i0 < mr) {
    const int64_t left = g->out[2] - l.at[2];
    l.i1 = left < mr - l.i0 ? l.i0 + (int)left : mr;
    l.x = j->a + n * g->x_batch;
    if (s->merged) {
      copy = conv_line_merged(s, &l, a, copy);
    } else {
      conv_line(s, &l, a);
    }
    l.i0 = l.i1;
    l.at[2] = g->out[2] - 1;
    pixel_next(g->out, &n, l.at);
  }
}

/* The row pitch of pixels if all of them have one. */
static bool pixel_pitch(const conv_geometry *g, const int64_t size[3], const int64_t step[3], int64_t batch_step,
                        int64_t *pitch) {
  *pitch = size[2] > 1 ? step[2] : size[1] > 1 ? step[1] : size[0] > 1 ? step[0] : batch_step;
  int64_t expect = *pitch;
  for (int i = 2; i >= 0; i--) {
    if (size[i] > 1 && step[i] != expect) return false;
    expect *= size[i];
  }
  return g->batch <= 1 || batch_step == expect;
}

static kiln_status workspace_add(size_t *size, size_t bytes, size_t *out_at) {
  *out_at = *size;
  if (!size_add(*size, size_align(bytes, 64), size))
    return KILN_FAIL(KILN_OUT_OF_MEMORY, "convolution: workspace is too large");
  return KILN_OK;
}

/* What igemm and transposed share: operands that must be copied, weights that must be packed, zeros for the padding. */
static kiln_status conv_prepare_common(kernel_prep *p, conv_state *s, int isa, size_t *size) {
  const tensor *x = &p->args.in[0], *y = &p->args.out[0], *w = &p->args.in[1];
  conv_geometry *g = &s->g;
  gemm_job *j = &s->job;
  conv_geometry_of(&p->args, g);
  if (g->groups < 1 || g->in_channels % g->groups || g->out_channels % g->groups) {
    return KILN_FAIL(KILN_INVALID_ARGUMENT, "conv: %lld and %lld channels do not divide into %lld groups",
                     (long long)g->in_channels, (long long)g->out_channels, (long long)g->groups);
  }
  j->isa = gemm_isa_of(isa);
  j->batches = 1;
  j->groups = g->groups;
  j->n = g->out_channels;
  j->kc = g->in_channels / g->groups;
  s->pack_w = !w->packing;
  s->copy_x = !conv_pixels_contiguous(x);
  s->copy_y = !conv_pixels_contiguous(y);
  int64_t pitch;
  if (!s->copy_y && !pixel_pitch(g, g->out, g->y_step, g->y_batch, &pitch)) s->copy_y = true;
  if (s->copy_x) {
    conv_geometry_dense_x(g);
    KILN_TRY(workspace_add(size, (size_t)tensor_numel(x) * sizeof(float), &s->x_at));
  }
  if (s->copy_y) {
    conv_geometry_dense_y(g);
    KILN_TRY(workspace_add(size, (size_t)tensor_numel(y) * sizeof(float), &s->y_at));
  }
  return KILN_OK;
}

static kiln_status conv_zeros(kernel_prep *p, conv_state *s, int64_t count) {
  s->zeros = ARENA_ARRAY(p->arena, float, count > 0 ? count : 1);
  return s->zeros ? KILN_OK : KILN_NO_MEMORY("convolution padding");
}

/* Of widely dilated windows some places see nothing but padding (24 apart over 16 pixels: all but the middle): they are left out. */
static kiln_status conv_places(kernel_prep *p, conv_state *s) {
  const conv_geometry *g = &s->g;
  int64_t taps = 1;
  for (int i = 0; i < 3; i++) {
    bool *counts = s->counts[i] = ARENA_ARRAY(p->arena, bool, g->kernel[i] > 0 ? g->kernel[i] : 1);
    if (!counts) return KILN_NO_MEMORY("convolution window");
    int64_t n = 0;
    for (int64_t k = 0; k < g->kernel[i]; k++) {
      const int64_t first = k * g->dilation[i] - g->pad[i]; /* output o sees first + o * stride */
      const int64_t o = first < 0 ? (-first + g->stride[i] - 1) / g->stride[i] : 0;
      counts[k] = o < g->out[i] && first + o * g->stride[i] < g->in[i];
      n += counts[k];
    }
    taps *= n;
  }
  if (taps == g->taps) return KILN_OK;
  if (taps == 0) { /* nothing but padding */
    for (int i = 0; i < 3; i++) {
      for (int64_t k = 0; k < g->kernel[i]; k++) s->counts[i][k] = true;
    }
    return KILN_OK;
  }
  int32_t *tap = ARENA_ARRAY(p->arena, int32_t, taps);
  if (!tap) return KILN_NO_MEMORY("convolution window");
  s->job.tap = tap;
  s->job.taps = taps;
  for (int64_t t = 0; t < g->taps; t++) {
    const int64_t kw = t % g->kernel[2], kh = t / g->kernel[2] % g->kernel[1], kd = t / g->kernel[2] / g->kernel[1];
    if (s->counts[0][kd] && s->counts[1][kh] && s->counts[2][kw]) *tap++ = (int32_t)t;
  }
  return KILN_OK;
}

static kiln_status conv_prepare(kernel_prep *p, int isa) {
  conv_state *s = ARENA_NEW(p->arena, conv_state);
  if (!s) return KILN_NO_MEMORY("conv");
  size_t size = 0;
  KILN_TRY(conv_prepare_common(p, s, isa, &size));
  const conv_geometry *g = &s->g;
  gemm_job *j = &s->job;
  j->m = g->batch * g->out[0] * g->out[1] * g->out[2];
  j->taps = g->taps;
  j->b_tap = j->kc * j->isa->nr;
  j->b_panel = g->taps * j->kc * j->isa->nr;
  pixel_pitch(g, g->out, g->y_step, g->y_batch, &j->ldc);
  s->plain = g->taps == 1 && pixel_pitch(g, g->in, g->x_step, g->x_batch, &j->lda);
  for (int i = 0; i < 3; i++) s->plain = s->plain && g->stride[i] == 1 && g->pad[i] == 0 && g->out[i] == g->in[i];
  if (!s->plain) {
    const int64_t row = g->kernel[2] * g->in_channels;
    s->merged = g->groups == 1 && g->dilation[2] == 1 && g->kernel[2] > 1 && g->in_channels <= 16 &&
                g->x_step[2] == g->in_channels && (row <= 96 || g->in_channels == 1);
    j->rows = conv_rows;
    if (s->merged) {
      j->taps = g->kernel[0] * g->kernel[1];
      j->kc = row;
      j->b_tap = row * j->isa->nr;
      if (!size_mul((size_t)(j->taps * j->isa->mr), (size_t)row * sizeof(float), &j->row_scratch)) {
        return KILN_FAIL(KILN_OUT_OF_MEMORY, "conv: the window is too large");
      }
    } else {
      KILN_TRY(conv_places(p, s));
    }
    KILN_TRY(conv_zeros(p, s, s->merged ? row : g->in_channels));
  }
  KILN_TRY(gemm_job_plan(j, p));
  KILN_TRY(workspace_add(&size, gemm_job_scratch(j, p->threads), &s->scratch_at));
  if (s->pack_w) {
    size_t floats;
    if (!gemm_packed_floats(g->taps * (g->in_channels / g->groups), g->out_channels, j->isa->nr, &floats) ||
        !size_mul(floats, sizeof(float), &floats)) {
      return KILN_FAIL(KILN_OUT_OF_MEMORY, "conv: the weights are too large");
    }
    KILN_TRY(workspace_add(&size, floats, &s->w_at));
  }
  p->state = s;
  p->workspace_size = size;
  return KILN_OK;
}

typedef struct pack_weights {
  const float *plain;
  float *packed;
  int64_t s_tap, s_k, s_n, taps, kc, n;
  int nr;
} pack_weights;

static void pack_weights_task(void *user, int64_t panel, int worker) {
  (void)worker;
  const pack_weights *w = user;
  gemm_pack_panel(w->plain, w->s_tap, w->s_k, w->s_n, w->taps, w->kc, w->n, w->nr, panel,
                  w->packed + panel * w->taps * w->kc * w->nr);
}

static void pack_weights_run(const pack_weights *w, pool *workers) {
  pool_run(workers, (w->n + w->nr - 1) / w->nr, pack_weights_task, (void *)(uintptr_t)w);
}

/* Sets the job's pointers; copies and packs what must be. */
static void conv_bind(const conv_state *s, const kernel_args *a, gemm_job *j) {
  char *workspace = a->workspace;
  j->args = a;
  j->scratch = workspace + s->scratch_at;
  j->a = a->in[0].data;
  j->b = a->in[1].data;
  j->c = a->out[0].data;
  j->bias = gemm_optional(a, 2);
  if (s->copy_x) {
    float *copy = (float *)(void *)(workspace + s->x_at);
    tensor_gather_f32(&a->in[0], copy, a->pool);
    j->a = copy;
  }
  if (s->copy_y) j->c = (float *)(void *)(workspace + s->y_at);
}

static kiln_status conv_run(const kernel_args *a) {
  const conv_state *s = a->state;
  const conv_geometry *g = &s->g;
  gemm_job j = s->job;
  conv_bind(s, a, &j);
  const conv_pass pass = {s, NULL};
  j.user = &pass;
  if (s->pack_w) {
    const int64_t kc = g->in_channels / g->groups;
    float *packed = (float *)(void *)((char *)a->workspace + s->w_at);
    const pack_weights w = {j.b, packed, 1, g->taps, kc * g->taps, g->taps, kc, g->out_channels, j.isa->nr};
    pack_weights_run(&w, a->pool);
    j.b = packed;
  }
  gemm_job_run(&j, a->pool);
  if (s->copy_y) tensor_scatter_f32(j.c, &a->out[0], a->pool);
  return KILN_OK;
}

static bool conv_fits(const node *n, const char **why) { return conv_fits_common(n, false, why); }

/* ---- Transposed -------------------------------------------------------------------------------------------------- */

static void transposed_rows(const gemm_job *j, int64_t batch, int64_t m0, int mr, const float **a, void *scratch) {
  (void)batch;
  (void)scratch;
  const conv_pass *pass = j->user;
  const conv_state *s = pass->state;
  const conv_phase *f = pass->phase;
  const conv_geometry *g = &s->g;
  int64_t n, at[3];
  pixel_of(f->size, m0, &n, at);
  for (int i = 0; i < mr; i++, pixel_next(f->size, &n, at)) {
    for (int64_t t = 0; t < f->taps; t++) {
      const float *x = j->a + n * g->x_batch;
      bool in = true;
      for (int d = 0; d < 3;
           d++) { /* o + pad = i * stride + k * dilation; the division has no remainder in this phase */
        const int64_t o = f->first[d] + at[d] * g->stride[d];
        const int64_t scaled = o + g->pad[d] - f->place[t][d] * g->dilation[d];
        const int64_t position = scaled / g->stride[d];
        in = in && scaled >= 0 && position < g->in[d];
        x += position * g->x_step[d];
      }
      a[t * mr + i] = in ? x : s->zeros;
    }
  }
}

static void transposed_out_rows(const gemm_job *j, int64_t batch, int64_t m0, int mr, float **c) {
  (void)batch;
  const conv_pass *pass = j->user;
  const conv_phase *f = pass->phase;
  const conv_geometry *g = &pass->state->g;
  int64_t n, at[3];
  pixel_of(f->size, m0, &n, at);
  for (int i = 0; i < mr; i++, pixel_next(f->size, &n, at)) {
    c[i] = j->c + n * g->y_batch;
    for (int d = 0; d < 3; d++) c[i] += (f->first[d] + at[d] * g->stride[d]) * g->y_step[d];
  }
}

/* The phase whose output positions o see place k of the window in dimension d: o + pad = i * stride + k * dilation for
 * some i. */
static int64_t phase_of_place(const conv_geometry *g, int d, int64_t k) {
  const int64_t rest = (k * g->dilation[d] - g->pad[d]) % g->stride[d];
  return rest < 0 ? rest + g->stride[d] : rest;
}

/* Number of the phase that sees place `t` of the window, and the place's coordinates; -1 if no output position does. */
static int64_t phase_of_tap(const conv_geometry *g, const int64_t count[3], int64_t t, int64_t place[3]) {
  place[2] = t % g->kernel[2];
  place[1] = t / g->kernel[2] % g->kernel[1];
  place[0] = t / g->kernel[2] / g->kernel[1];
  int64_t index = 0;
  for (int d = 0; d < 3; d++) {
    const int64_t phase = phase_of_place(g, d, place[d]);
    if (phase >= count[d]) return -1;
    index = index * count[d] + phase;
  }
  return index;
}

static kiln_status transposed_phases(kernel_prep *p, conv_state *s) {
  const conv_geometry *g = &s->g;
  int64_t count[3], place[3];
  s->n_phases = 1;
  for (int d = 0; d < 3; d++) {
    count[d] = g->stride[d] < g->out[d] ? g->stride[d] : g->out[d];
    s->n_phases *= count[d];
  }
  s->phases = ARENA_ARRAY(p->arena, conv_phase, s->n_phases > 0 ? s->n_phases : 1);
  int32_t *tap = ARENA_ARRAY(p->arena, int32_t, g->taps > 0 ? g->taps : 1);
  int64_t(*places)[3] = arena_array(p->arena, g->taps > 0 ? (size_t)g->taps : 1, sizeof *places);
  if (!s->phases || !tap || !places) return KILN_NO_MEMORY("transposed convolution");
  for (int64_t t = 0; t < g->taps; t++) {
    const int64_t index = phase_of_tap(g, count, t, place);
    if (index >= 0) s->phases[index].taps++;
  }
  for (int64_t i = 0; i < s->n_phases; i++) { /* each phase has its part of the two lists */
    conv_phase *f = &s->phases[i];
    f->tap = tap;
    f->place = places;
    tap += f->taps;
    places += f->taps;
    f->taps = 0;
    const int64_t first[3] = {i / count[2] / count[1], i / count[2] % count[1], i % count[2]};
    for (int d = 0; d < 3; d++) {
      f->first[d] = first[d];
      f->size[d] = (g->out[d] - first[d] - 1) / g->stride[d] + 1;
    }
  }
  for (int64_t t = 0; t < g->taps; t++) {
    const int64_t index = phase_of_tap(g, count, t, place);
    if (index < 0) continue;
    conv_phase *f = &s->phases[index];
    f->tap[f->taps] = (int32_t)t;
    memcpy(f->place[f->taps++], place, sizeof place);
  }
  return KILN_OK;
}

static kiln_status transposed_prepare(kernel_prep *p, int isa) {
  conv_state *s = ARENA_NEW(p->arena, conv_state);
  if (!s) return KILN_NO_MEMORY("conv");
  size_t size = 0;
  KILN_TRY(conv_prepare_common(p, s, isa, &size));
  const conv_geometry *g = &s->g;
  gemm_job *j = &s->job;
  const int64_t nr = j->isa->nr, group_out = g->out_channels / g->groups;
  pixel_pitch(g, g->out, g->y_step, g->y_batch, &j->ldc);
  j->b_by_group = g->groups > 1;
  j->b_tap = g->in_channels * nr;
  j->b_panel = g->taps * g->in_channels * nr;
  j->rows = transposed_rows;
  j->out_rows = transposed_out_rows;
  KILN_TRY(conv_zeros(p, s, g->in_channels));
  KILN_TRY(transposed_phases(p, s));
  int64_t most = 0;
  for (int64_t i = 0; i < s->n_phases; i++) most = s->phases[i].taps > most ? s->phases[i].taps : most;
  j->taps = most;
  j->m = g->batch * ((g->out[0] - 1) / g->stride[0] + 1) * ((g->out[1] - 1) / g->stride[1] + 1) *
         ((g->out[2] - 1) / g->stride[2] + 1);
  KILN_TRY(gemm_job_plan(j, p)); /* for the largest phase: the others have fewer blocks of rows */
  KILN_TRY(workspace_add(&size, gemm_job_scratch(j, p->threads), &s->scratch_at));
  if (j->chain) {
    s->epilogue_each = epilogue_scratch(j->chain);
    KILN_TRY(workspace_add(&size, s->epilogue_each * (size_t)(p->threads > 0 ? p->threads : 1), &s->epilogue_at));
    s->epilogue_rows = 4096 / (g->out_channels > 0 ? g->out_channels : 1) + 1;
  }
  if (s->pack_w) {
    size_t floats;
    if (!gemm_packed_floats(g->taps * g->in_channels, group_out, (int)nr, &floats) ||
        !size_mul(floats, sizeof(float), &floats)) {
      return KILN_FAIL(KILN_OUT_OF_MEMORY, "conv: the weights are too large");
    }
    KILN_TRY(workspace_add(&size, floats, &s->w_at));
  }
  p->state = s;
  p->workspace_size = size;
  return KILN_OK;
}

static void transposed_epilogue_task(void *user, int64_t index, int worker) {
  const gemm_job *j = user;
  const conv_state *s = ((const conv_pass *)j->user)->state;
  const int64_t rows = s->g.batch * s->g.out[0] * s->g.out[1] * s->g.out[2], begin = index * s->epilogue_rows;
  const int64_t count = rows - begin < s->epilogue_rows ? rows - begin : s->epilogue_rows;
  epilogue_apply(j->chain, j->args, j->c + begin * j->ldc, begin, count, 0, j->n, j->ldc,
                 (char *)j->args->workspace + s->epilogue_at + (size_t)worker * s->epilogue_each);
}

static kiln_status transposed_run(const kernel_args *a) {
  const conv_state *s = a->state;
  const conv_geometry *g = &s->g;
  gemm_job j = s->job;
  conv_bind(s, a, &j);
  if (s->pack_w) {
    const int64_t group_out = g->out_channels / g->groups;
    float *packed = (float *)(void *)((char *)a->workspace + s->w_at);
    const pack_weights w = {j.b,       packed,   1, group_out * g->taps, g->taps, g->taps, g->in_channels,
                            group_out, j.isa->nr};
    pack_weights_run(&w, a->pool);
    j.b = packed;
  }
  for (int64_t i = 0; i < s->n_phases; i++) {
    const conv_phase *f = &s->phases[i];
    const conv_pass pass = {s, f};
    j.user = &pass;
    j.tap = f->tap;
    j.taps = f->taps;
    j.m = g->batch * f->size[0] * f->size[1] * f->size[2];
    j.m_tasks = (j.m + j.m_block - 1) / j.m_block;
    gemm_job_run(&j, a->pool);
  }
  if (j.chain) {
    const conv_pass pass = {s, NULL};
    j.user = &pass;
    const int64_t rows = g->batch * g->out[0] * g->out[1] * g->out[2];
    if (j.n > 0) pool_run(a->pool, (rows + s->epilogue_rows - 1) / s->epilogue_rows, transposed_epilogue_task, &j);
  }
  if (s->copy_y) tensor_scatter_f32(j.c, &a->out[0], a->pool);
  return KILN_OK;
}

static bool transposed_fits(const node *n, const char **why) { return conv_fits_common(n, true, why); }

/* ---- Rows -------------------------------------------------------------------------------------------------------- */

#define CONV_ROWS(set, level, nr)                                                                      \
  static kiln_status conv_prepare_##set(kernel_prep *p) { return conv_prepare(p, level); }             \
  static kiln_status transposed_prepare_##set(kernel_prep *p) { return transposed_prepare(p, level); } \
  const kernel cpu_conv_##set[] = {                                                                    \
      {.op = "conv",                                                                                   \
       .name = "conv.igemm." #set,                                                                     \
       .isa = level,                                                                                   \
       .fits = conv_fits,                                                                              \
       .prepare = conv_prepare_##set,                                                                  \
       .run = conv_run,                                                                                \
       .strided_in = 1,                                                                                \
       .strided_out = 1,                                                                               \
       .epilogue = true,                                                                               \
       .pack_operand = 1,                                                                              \
       .packing = "gemm_b:" #nr},                                                                      \
      {.op = "conv",                                                                                   \
       .name = "conv.transposed." #set,                                                                \
       .isa = level,                                                                                   \
       .fits = transposed_fits,                                                                        \
       .prepare = transposed_prepare_##set,                                                            \
       .run = transposed_run,                                                                          \
       .strided_in = 1,                                                                                \
       .strided_out = 1,                                                                               \
       .epilogue = true,                                                                               \
       .pack_operand = 1,                                                                              \
       .packing = "gemm_bt:" #nr},                                                                     \
      {.op = NULL},                                                                                    \
  };
CONV_ROWS(avx512, ISA_AVX512, 32)
CONV_ROWS(avx2, ISA_AVX2, 16)
CONV_ROWS(scalar, ISA_SCALAR, 4)
