/* Driver of depthwise convolutions. A unit of work is a block of output lines (or parts of lines); it goes through few
 * channels at a time, so that the input lines that the window covers stay in L1 from one output line to the next.
 * Pixels whose window hangs over the line's ends go one by one, those between in tiles. Window rows outside the image
 * are left out. */
#include "backends/cpu/depthwise.h"

#include <math.h>

#include "backends/cpu/conv.h"
#include "base/memory.h"

enum { DEPTHWISE_MAX_ROWS = 64 }; /* of a window: depth times height */

typedef struct depthwise_state {
  conv_geometry g;
  const depthwise_isa *isa;
  bool copy_x, copy_y, pack_w;
  size_t scratch_at, scratch_each, epilogue_at, x_at, y_at, w_at;
  epilogue *chain;
  float lo, hi;
  int64_t width, widths;   /* output pixels of a line that are done at once, and how many such parts a line has */
  int64_t height, heights; /* the same of lines of an image plane */
  int64_t channels;        /* done at once */
  int64_t units;
} depthwise_state;

typedef struct depthwise_run_args {
  const depthwise_state *state;
  const kernel_args *args;
  const float *x, *w, *bias;
  float *y;
} depthwise_run_args;

static kiln_status workspace_add(size_t *size, size_t bytes, size_t *out_at) {
  *out_at = *size;
  if (!size_add(*size, size_align(bytes, 64), size))
    return KILN_FAIL(KILN_OUT_OF_MEMORY, "convolution: workspace is too large");
  return KILN_OK;
}

static kiln_status depthwise_prepare(kernel_prep *p, int isa) {
  depthwise_state *s = ARENA_NEW(p->arena, depthwise_state);
  if (!s) return KILN_NO_MEMORY("depthwise convolution");
  const tensor *x = &p->args.in[0], *y = &p->args.out[0];
  conv_geometry *g = &s->g;
  conv_geometry_of(&p->args, g);
  s->isa = isa >= ISA_AVX512 ? &depthwise_isa_avx512 : isa == ISA_AVX2 ? &depthwise_isa_avx2 : &depthwise_isa_scalar;
  KILN_TRY(gemm_epilogue(p, &s->chain, &s->lo, &s->hi));
  const int64_t threads = p->threads > 0 ? p->threads : 1, channels = g->out_channels > 0 ? g->out_channels : 1;
  s->copy_x = !conv_pixels_contiguous(x);
  s->copy_y = !conv_pixels_contiguous(y);
  s->pack_w = !p->args.in[1].packing;
  if (s->copy_x) conv_geometry_dense_x(g);
  if (s->copy_y) conv_geometry_dense_y(g);
  s->width = g->out[2] < 128 ? g->out[2] : 128;
  const int64_t line_bytes = (g->kernel[1] + 1) * (s->width * g->stride[2] + g->kernel[2]) * 4,
                l1 = (int64_t)cpu_l1_bytes();
  s->channels = l1 * 5 / 8 / line_bytes / 16 * 16;
  if (s->channels < 96) s->channels = 96; /* a few vectors at once also hide latency at the ends of lines */
  if (s->channels > channels) s->channels = channels;
  s->widths = s->width > 0 ? (g->out[2] + s->width - 1) / s->width : 0;
  const int64_t lines = g->batch * g->out[0] * g->out[1] * s->widths;
  const double flops = 2.0 * (double)lines * (double)s->width * (double)channels * (double)g->taps;
  const int64_t tasks = flops < 100000.0 ? 1 : threads * 4;
  s->height = (lines + tasks - 1) / tasks;
  if (s->height > 16) s->height = 16; /* lines of a unit should stay in L2 while all channels are done */
  if (s->height > g->out[1]) s->height = g->out[1];
  if (s->height < 1) s->height = 1;
  s->heights = (g->out[1] + s->height - 1) / s->height;
  s->units = g->batch * g->out[0] * s->heights * s->widths;
  size_t size = 0, pairs;
  if (!size_mul((size_t)g->taps, 2 * sizeof(float *), &pairs))
    return KILN_FAIL(KILN_OUT_OF_MEMORY, "conv: the window is too large");
  s->epilogue_at = size_align(pairs, 64);
  s->scratch_each = s->epilogue_at + epilogue_scratch(s->chain);
  KILN_TRY(workspace_add(&size, s->scratch_each * (size_t)threads, &s->scratch_at));
  if (s->copy_x) KILN_TRY(workspace_add(&size, (size_t)tensor_numel(x) * sizeof(float), &s->x_at));
  if (s->copy_y) KILN_TRY(workspace_add(&size, (size_t)tensor_numel(y) * sizeof(float), &s->y_at));
  if (s->pack_w) KILN_TRY(workspace_add(&size, (size_t)tensor_numel(&p->args.in[1]) * sizeof(float), &s->w_at));
  p->state = s;
  p->workspace_size = size;
  return KILN_OK;
}

/* The window's rows that are inside the image, above output line (d, h). Returns how many. */
static int64_t window_rows(const depthwise_run_args *r, int64_t n, int64_t d, int64_t h, const float **x,
                           const float **w) {
  const conv_geometry *g = &r->state->g;
  int64_t rows = 0;
  for (int64_t kd = 0; kd < g->kernel[0]; kd++) {
    const int64_t id = d * g->stride[0] - g->pad[0] + kd * g->dilation[0];
    if (id < 0 || id >= g->in[0]) continue;
    for (int64_t kh = 0; kh < g->kernel[1]; kh++) {
      const int64_t ih = h * g->stride[1] - g->pad[1] + kh * g->dilation[1];
      if (ih < 0 || ih >= g->in[1]) continue;
      x[rows] = r->x + n * g->x_batch + id * g->x_step[0] + ih * g->x_step[1];
      w[rows++] = r->w + (kd * g->kernel[1] + kh) * g->kernel[2] * g->out_channels;
    }
  }
  return rows;
}

typedef struct depthwise_window { /* above one output line: the window's rows inside the image */
  const float *x[DEPTHWISE_MAX_ROWS], *w[DEPTHWISE_MAX_ROWS];
  int64_t rows;
  const float **pair_x, **pair_w; /* scratch for all places of a window */
} depthwise_window;

static void depthwise_pixels(const depthwise_run_args *r, const depthwise_window *v, int64_t first, int64_t end,
                             float *y, int64_t c0, int64_t channels) {
  const depthwise_state *s = r->state;
  const conv_geometry *g = &s->g;
  for (int64_t o = first; o < end; o++) {
    int64_t taps = 0;
    for (int64_t i = 0; i < v->rows; i++) {
      for (int64_t k = 0; k < g->kernel[2]; k++) {
        const int64_t at = o * g->stride[2] - g->pad[2] + k * g->dilation[2];
        if (at < 0 || at >= g->in[2]) continue;
        v->pair_x[taps] = v->x[i] + at * g->x_step[2];
        v->pair_w[taps++] = v->w[i] + k * g->out_channels;
      }
    }
    const depthwise_pixel p = {v->pair_x, v->pair_w, taps,  r->bias, y + (o - first) * g->y_step[2],
                               c0,        channels,  s->lo, s->hi};
    s->isa->pixel(&p);
  }
}

/* Output pixels [first, end) of the line under `v`, channels [c0, c0 + channels). */
static void depthwise_part(const depthwise_run_args *r, const depthwise_window *v, int64_t first, int64_t end, float *y,
                           int64_t c0, int64_t channels) {
  const depthwise_state *s = r->state;
  const conv_geometry *g = &s->g;
  /* Outputs [inner, outer) have their window inside the line. */
  int64_t inner = (g->pad[2] + g->stride[2] - 1) / g->stride[2];
  const int64_t span = (g->kernel[2] - 1) * g->dilation[2], room = g->in[2] - 1 - span + g->pad[2];
  int64_t outer = room < 0 ? 0 : room / g->stride[2] + 1;
  if (inner < first) inner = first;
  if (outer > end) outer = end;
  if (outer - inner < (depthwise_line_is_common(g->kernel[2], g->stride[2], g->dilation[2]) ? 1 : 8))
    inner = outer = end;
  depthwise_pixels(r, v, first, inner, y, c0, channels);
  if (inner < outer) {
    const float *x[DEPTHWISE_MAX_ROWS];
    for (int64_t i = 0; i < v->rows; i++) x[i] = v->x[i] + (inner * g->stride[2] - g->pad[2]) * g->x_step[2];
    const depthwise_line l = {.x = x,
                              .w = v->w,
                              .rows = (int)v->rows,
                              .kernel = g->kernel[2],
                              .stride = g->stride[2],
                              .dilation = g->dilation[2],
                              .x_step = g->x_step[2],
                              .y_step = g->y_step[2],
                              .w_step = g->out_channels,
                              .first = c0,
                              .bias = r->bias,
                              .y = y + (inner - first) * g->y_step[2],
                              .count = outer - inner,
                              .channels = channels,
                              .lo = s->lo,
                              .hi = s->hi};
    s->isa->line(&l);
  }
  depthwise_pixels(r, v, outer, end, y + (outer - first) * g->y_step[2], c0, channels);
}

static void depthwise_task(void *user, int64_t index, int worker) {
  const depthwise_run_args *r = user;
  const depthwise_state *s = r->state;
  const conv_geometry *g = &s->g;
  char *scratch = (char *)r->args->workspace + s->scratch_at + (size_t)worker * s->scratch_each;
  depthwise_window v = {.pair_x = (const float **)(void *)scratch};
  v.pair_w = v.pair_x + g->taps;
  const int64_t plane = index / s->widths / s->heights, d = plane % g->out[0], n = plane / g->out[0];
  const int64_t first = index % s->widths * s->width, h0 = index / s->widths % s->heights * s->height;
  const int64_t end = first + s->width < g->out[2] ? first + s->width : g->out[2];
  const int64_t h1 = h0 + s->height < g->out[1] ? h0 + s->height : g->out[1];
  for (int64_t c0 = 0; c0 < g->out_channels; c0 += s->channels) {
    const int64_t channels = g->out_channels - c0 < s->channels ? g->out_channels - c0 : s->channels;
    for (int64_t h = h0; h < h1; h++) {
      v.rows = window_rows(r, n, d, h, v.x, v.w);
      float *y = r->y + n * g->y_batch + d * g->y_step[0] + h * g->y_step[1] + first * g->y_step[2];
      depthwise_part(r, &v, first, end, y, c0, channels);
      if (s->chain) {
        epilogue_apply(s->chain, r->args, y + c0, (plane * g->out[1] + h) * g->out[2] + first, end - first, c0,
                       channels, g->y_step[2], scratch + s->epilogue_at);
      }
    }
  }
}

static kiln_status depthwise_run(const kernel_args *a) {
  const depthwise_state *s = a->state;
  const conv_geometry *g = &s->g;
  char *workspace = a->workspace;
  depthwise_run_args r = {s, a, a->in[0].data, a->in[1].data, gemm_optional(a, 2), a->out[0].data};
  if (s->copy_x) {
    float *copy = (float *)(void *)(workspace + s->x_at);
    tensor_gather_f32(&a->in[0], copy, a->pool);
    r.x = copy;
  }
  if (s->pack_w) {
    float *packed = (float *)(void *)(workspace + s->w_at);
    for (int64_t c = 0; c < g->out_channels; c++) {
      for (int64_t t = 0; t < g->taps; t++) packed[t * g->out_channels + c] = r.w[c * g->taps + t];
    }
    r.w = packed;
  }
  if (s->copy_y) r.y = (float *)(void *)(workspace + s->y_at);
  if (g->out_channels > 0 && s->units > 0) {
    pool_run(a->pool, s->units, depthwise_task, &r);
  }
  if (s->copy_y) tensor_scatter_f32(r.y, &a->out[0], a->pool);
  return KILN_OK;
}

static bool depthwise_fits(const node *n, const char **why) {
  if (!conv_fits_common(n, false, why)) return false;
  const tensor_type *w = &node_in(n, 1)->type;
  const int64_t groups = node_int(n, "groups");
  int64_t rows = 1;
  for (int r = 2; r < w->rank; r++) {
    if (!dim_is_const(w->dims[r]))
      rows = DEPTHWISE_MAX_ROWS + 1;
    else if (r < w->rank - 1 && rows <= DEPTHWISE_MAX_ROWS)
      rows *= w->dims[r] < 1000 ? w->dims[r] : 1000;
  }
  if (w->dims[0] != groups || w->dims[1] != 1 || rows > DEPTHWISE_MAX_ROWS) {
    *why = "not depthwise with one output for each channel, or the window is too tall";
    return false;
  }
  return true;
}

#define DEPTHWISE_ROWS(set, level)                                                                   \
  static kiln_status depthwise_prepare_##set(kernel_prep *p) { return depthwise_prepare(p, level); } \
  const kernel cpu_depthwise_##set[] = {                                                             \
      {.op = "conv",                                                                                 \
       .name = "conv.depthwise." #set,                                                               \
       .isa = level,                                                                                 \
       .fits = depthwise_fits,                                                                       \
       .prepare = depthwise_prepare_##set,                                                           \
       .run = depthwise_run,                                                                         \
       .strided_in = 1,                                                                              \
       .strided_out = 1,                                                                             \
       .epilogue = true,                                                                             \
       .pack_operand = 1,                                                                            \
       .packing = "taps_first"},                                                                     \
      {.op = NULL},                                                                                  \
  };
DEPTHWISE_ROWS(avx512, ISA_AVX512)
DEPTHWISE_ROWS(avx2, ISA_AVX2)
DEPTHWISE_ROWS(scalar, ISA_SCALAR)
