/* Driver of depthwise convolutions: lines of output pixels go to threads; pixels whose window hangs over the line's ends go one
 * by one, those between in tiles. Window rows outside the image are left out. */
#include "backends/cpu/depthwise.h"

#include <math.h>

#include "backends/cpu/conv.h"
#include "base/memory.h"

typedef struct depthwise_state {
  conv_geometry g;
  const depthwise_isa *isa;
  bool copy_x, copy_y, pack_w;
  size_t scratch_at, scratch_each, epilogue_at, x_at, y_at, w_at;
  epilogue *chain;
  float lo, hi;
  int64_t block, blocks; /* output pixels of a line that are done at once, and how many such blocks a line has */
  int64_t units, units_per_task;
} depthwise_state;

typedef struct depthwise_run_args {
  const depthwise_state *state;
  const kernel_args *args;
  const float *x, *w, *bias;
  float *y;
} depthwise_run_args;

static kiln_status workspace_add(size_t *size, size_t bytes, size_t *out_at) {
  *out_at = *size;
  if (!size_add(*size, size_align(bytes, 64), size)) return KILN_FAIL(KILN_OUT_OF_MEMORY, "convolution: workspace is too large");
  return KILN_OK;
}

static kiln_status depthwise_prepare(kernel_prep *p, int isa) {
  depthwise_state *s = ARENA_NEW(p->arena, depthwise_state);
  if (!s) return KILN_NO_MEMORY("depthwise convolution");
  const tensor *x = &p->args.in[0], *y = &p->args.out[0];
  conv_geometry *g = &s->g;
  conv_geometry_of(&p->args, g);
  s->isa = isa >= ISA_AVX512 ? &depthwise_isa_avx512 : isa == ISA_AVX2 ? &depthwise_isa_avx2 : &depthwise_isa_scalar;
  s->lo = -INFINITY;
  s->hi = INFINITY;
  if (p->args.node->epilogue) {
    epilogue *chain;
    KILN_TRY(epilogue_compile(p, p->args.node->epilogue, &chain));
    if (!epilogue_clamp(chain, &s->lo, &s->hi)) s->chain = chain;
  }
  const int64_t threads = p->threads > 0 ? p->threads : 1, channels = g->out_channels > 0 ? g->out_channels : 1;
  s->copy_x = !conv_pixels_contiguous(x);
  s->copy_y = !conv_pixels_contiguous(y);
  s->pack_w = !p->args.in[1].packing;
  if (s->copy_x) conv_geometry_dense_x(g);
  if (s->copy_y) conv_geometry_dense_y(g);
  /* About 16 KiB of output at a time, in multiples of the register tile. */
  s->block = 4096 / channels / 8 * 8;
  if (s->block < 8) s->block = 8;
  if (s->block > g->out[2]) s->block = g->out[2] > 0 ? g->out[2] : 1;
  s->blocks = (g->out[2] + s->block - 1) / s->block;
  s->units = g->batch * g->out[0] * g->out[1] * s->blocks;
  const double flops = 2.0 * (double)s->units * (double)s->block * (double)channels * (double)g->taps;
  const int64_t tasks = flops < 100000.0 ? 1 : threads * 4;
  s->units_per_task = (s->units + tasks - 1) / tasks;
  if (s->units_per_task < 1) s->units_per_task = 1;
  size_t size = 0, pairs;
  if (!size_mul((size_t)g->taps, 2 * sizeof(float *), &pairs)) return KILN_FAIL(KILN_OUT_OF_MEMORY, "conv: the window is too large");
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
static int64_t window_rows(const depthwise_run_args *r, int64_t n, int64_t d, int64_t h, const float **x, const float **w) {
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

static void depthwise_pixels(const depthwise_run_args *r, const float *const *lines, const float *const *weights, int64_t rows,
                             int64_t first, int64_t end, float *y, const float **x, const float **w) {
  const depthwise_state *s = r->state;
  const conv_geometry *g = &s->g;
  for (int64_t o = first; o < end; o++) {
    int64_t taps = 0;
    for (int64_t i = 0; i < rows; i++) {
      for (int64_t k = 0; k < g->kernel[2]; k++) {
        const int64_t at = o * g->stride[2] - g->pad[2] + k * g->dilation[2];
        if (at < 0 || at >= g->in[2]) continue;
        x[taps] = lines[i] + at * g->x_step[2];
        w[taps++] = weights[i] + k * g->out_channels;
      }
    }
    const depthwise_pixel p = {x, w, taps, r->bias, y + (o - first) * g->y_step[2], g->out_channels, s->lo, s->hi};
    s->isa->pixel(&p);
  }
}

enum { DEPTHWISE_MAX_ROWS = 64 };

static void depthwise_unit(const depthwise_run_args *r, int64_t unit, char *scratch) {
  const depthwise_state *s = r->state;
  const conv_geometry *g = &s->g;
  const int64_t line = unit / s->blocks, first = unit % s->blocks * s->block;
  const int64_t end = first + s->block < g->out[2] ? first + s->block : g->out[2];
  const int64_t h = line % g->out[1], d = line / g->out[1] % g->out[0], n = line / g->out[1] / g->out[0];
  const float *x[DEPTHWISE_MAX_ROWS], *w[DEPTHWISE_MAX_ROWS];
  const int64_t rows = window_rows(r, n, d, h, x, w);
  float *y = r->y + n * g->y_batch + d * g->y_step[0] + h * g->y_step[1] + first * g->y_step[2];
  const float **pair_x = (const float **)(void *)scratch, **pair_w = pair_x + g->taps;
  /* Outputs [inner, outer) have their window inside the line. */
  int64_t inner = (g->pad[2] + g->stride[2] - 1) / g->stride[2];
  const int64_t span = (g->kernel[2] - 1) * g->dilation[2], room = g->in[2] - 1 - span + g->pad[2];
  int64_t outer = room < 0 ? 0 : room / g->stride[2] + 1;
  if (inner < first) inner = first;
  if (outer > end) outer = end;
  if (outer <= inner || !depthwise_line_fits(g->kernel[2], g->stride[2], g->dilation[2])) inner = outer = end;
  depthwise_pixels(r, x, w, rows, first, inner, y, pair_x, pair_w);
  if (inner < outer) {
    const int64_t skip = inner * g->stride[2] - g->pad[2];
    for (int64_t i = 0; i < rows; i++) x[i] += skip * g->x_step[2];
    const depthwise_line l = {x,
                              w,
                              (int)rows,
                              g->kernel[2],
                              g->stride[2],
                              g->dilation[2],
                              g->x_step[2],
                              g->y_step[2],
                              r->bias,
                              y + (inner - first) * g->y_step[2],
                              outer - inner,
                              g->out_channels,
                              s->lo,
                              s->hi};
    s->isa->line(&l);
    for (int64_t i = 0; i < rows; i++) x[i] -= skip * g->x_step[2];
  }
  depthwise_pixels(r, x, w, rows, outer, end, y + (outer - first) * g->y_step[2], pair_x, pair_w);
  if (s->chain) {
    epilogue_apply(s->chain, r->args, y, line * g->out[2] + first, end - first, 0, g->out_channels, g->y_step[2],
                   scratch + s->epilogue_at);
  }
}

static void depthwise_task(void *user, int64_t index, int worker) {
  const depthwise_run_args *r = user;
  const depthwise_state *s = r->state;
  char *scratch = (char *)r->args->workspace + s->scratch_at + (size_t)worker * s->scratch_each;
  const int64_t begin = index * s->units_per_task, end = begin + s->units_per_task;
  for (int64_t unit = begin; unit < end && unit < s->units; unit++) depthwise_unit(r, unit, scratch);
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
    pool_run(a->pool, (s->units + s->units_per_task - 1) / s->units_per_task, depthwise_task, &r);
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
    if (!dim_is_const(w->dims[r])) rows = DEPTHWISE_MAX_ROWS + 1;
    else if (r < w->rank - 1 && rows <= DEPTHWISE_MAX_ROWS) rows *= w->dims[r] < 1000 ? w->dims[r] : 1000;
  }
  if (w->dims[0] != groups || w->dims[1] != 1 || rows > DEPTHWISE_MAX_ROWS) {
    *why = "not depthwise with one output for each channel, or the window is too tall";
    return false;
  }
  return true;
}

#define DEPTHWISE_ROWS(set, level)                                                                                            \
  static kiln_status depthwise_prepare_##set(kernel_prep *p) { return depthwise_prepare(p, level); }                          \
  const kernel cpu_depthwise_##set[] = {                                                                                      \
      {.op = "conv",                                                                                                          \
       .name = "conv.depthwise." #set,                                                                                        \
       .isa = level,                                                                                                          \
       .fits = depthwise_fits,                                                                                                \
       .prepare = depthwise_prepare_##set,                                                                                    \
       .run = depthwise_run,                                                                                                  \
       .strided_in = 1,                                                                                                       \
       .strided_out = 1,                                                                                                      \
       .epilogue = true,                                                                                                      \
       .pack_operand = 1,                                                                                                     \
       .packing = "taps_first"},                                                                                              \
      {.op = NULL},                                                                                                           \
  };
DEPTHWISE_ROWS(avx512, ISA_AVX512)
DEPTHWISE_ROWS(avx2, ISA_AVX2)
DEPTHWISE_ROWS(scalar, ISA_SCALAR)
