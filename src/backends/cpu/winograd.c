/* 3x3 convolutions with stride 1 by Winograd's algorithm F(4x4, 3x3) (Lavin and Gray, "Fast Algorithms for
 * Convolutional Neural Networks", 2015): 36 matrix products over tiles instead of 9 over pixels, 4 times fewer
 * multiplications. Two schedules:
 *   - apart: a task takes a block of tiles through all three stages in its own scratch memory; when the transformed
 * weights stay in L2;
 *   - shared: each stage is done for all tiles by all threads, so that large weights are read once. */
#include "backends/cpu/winograd.h"

#include <math.h>
#include <string.h>

#include "backends/cpu/conv.h"
#include "base/memory.h"

static int64_t div_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
static int64_t min_i64(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t max_i64(int64_t a, int64_t b) { return a > b ? a : b; }

/* ---- Weights ----------------------------------------------------------------------------------------------------- */

static const winograd_isa *winograd_isa_of(int isa) {
  return isa >= ISA_AVX512 ? &winograd_isa_avx512 : isa == ISA_AVX2 ? &winograd_isa_avx2 : &winograd_isa_scalar;
}

enum { WINOGRAD_FEWEST = 16 }; /* channels with which the algorithm can win */

/* The least number of outputs also bounds what a hostile file can ask for: 8 times its own weights. */
static bool winograd_takes(const tensor_type *t) {
  if (t->dtype != KILN_F32 || t->rank != 4 || t->dims[2] != 3 || t->dims[3] != 3) return false;
  return dim_is_const(t->dims[0]) && dim_is_const(t->dims[1]) && t->dims[0] >= WINOGRAD_FEWEST && t->dims[1] >= 0;
}

bool winograd_pack_size(const tensor_type *type, int nr, size_t *out) {
  return winograd_takes(type) && gemm_packed_floats(type->dims[1], type->dims[0], nr, out) &&
         size_mul(*out, WINOGRAD_PLANES * sizeof(float), out);
}

int64_t winograd_pack_parts(const tensor_type *type, int nr) {
  return winograd_takes(type) ? div_up(type->dims[0], nr) : 0;
}

void winograd_pack_part(const tensor_type *type, const void *plain, void *packed, int nr, int64_t part) {
  const int isa = nr % WINOGRAD_WEIGHTS == 0 ? (int)cpu_best_isa() : ISA_SCALAR;
  winograd_isa_of(isa)->weights(plain, type->dims[0], type->dims[1], nr, part, packed);
}

void winograd_pack(const tensor_type *type, const void *plain, void *packed, int nr) {
  for (int64_t p = 0; p < winograd_pack_parts(type, nr); p++) winograd_pack_part(type, plain, packed, nr, p);
}

/* ---- Preparing --------------------------------------------------------------------------------------------------- */

typedef struct winograd_state {
  conv_geometry g;
  const gemm_isa *gemm;
  const winograd_isa *isa;
  int64_t tiles_h, tiles_w, tiles;
  bool shared, copy_x, copy_y, pack_w;
  int64_t block;            /* tiles in memory at once: of one task, or all */
  int64_t n_block, n_tasks; /* output channels multiplied at once */
  int64_t group;            /* shared: tiles of a transform task */
  int64_t v_plane,
      m_plane; /* floats from plane to plane; an odd number of cache lines, so that they do not collide in L1 */
  size_t each, epilogue_at; /* bytes of a thread, and where its epilogue scratch is */
  size_t v_at, m_at, threads_at, x_at, y_at, w_at;
  const float *zeros;
  epilogue *chain;
  float lo, hi;
} winograd_state;

typedef struct winograd_pass {
  const winograd_state *s;
  const kernel_args *args;
  const float *x, *w, *bias;
  float *y, *v, *m; /* v, m: shared */
} winograd_pass;

static kiln_status workspace_add(size_t *size, size_t bytes, size_t *out_at) {
  *out_at = *size;
  if (!size_add(*size, size_align(bytes, 64), size))
    return KILN_FAIL(KILN_OUT_OF_MEMORY, "convolution: workspace is too large");
  return KILN_OK;
}

static int64_t odd_lines(int64_t floats) {
  const int64_t lines = div_up(floats, 16);
  return (lines | 1) * 16;
}

static void winograd_schedule(winograd_state *s, int64_t threads) {
  const conv_geometry *g = &s->g;
  const int64_t c = g->in_channels, o = g->out_channels, mr = s->gemm->mr, nr = s->gemm->nr,
                l2 = (int64_t)cpu_l2_bytes();
  const int64_t panels = div_up(o, nr), weights = WINOGRAD_PLANES * c * o * 4;
  int64_t per_task = max_i64(1, l2 / 2 / (WINOGRAD_PLANES * c * 4) / mr) * mr;
  per_task = min_i64(per_task, 4 * mr);
  /* Enough blocks for all threads to end together. */
  while (per_task > mr && div_up(s->tiles, per_task) < 3 * threads) per_task -= mr;
  if (div_up(s->tiles, per_task) < 3 * threads) per_task = max_i64(1, div_up(s->tiles, min_i64(threads, s->tiles)));
  per_task = min_i64(per_task, 4 * mr);
  const double traffic_apart = weights <= l2 / 2 ? 0.0 : (double)div_up(s->tiles, per_task) * (double)weights;
  const double traffic_shared = (double)weights + 2.0 * WINOGRAD_PLANES * 4.0 * (double)s->tiles * (double)(c + o);
  s->shared = traffic_apart > traffic_shared;
  if (s->shared) {
    s->block = s->tiles;
    s->n_tasks = min_i64(panels, max_i64(div_up(4 * threads, WINOGRAD_PLANES), div_up(c * o * 4, l2 / 2)));
    s->n_block = div_up(panels, max_i64(1, s->n_tasks)) * nr;
    s->group = max_i64(1, min_i64(8, div_up(s->tiles, 4 * threads)));
  } else {
    s->block = per_task;
    s->n_block = min_i64(panels, max_i64(1, l2 / 4 / (WINOGRAD_PLANES * per_task * 4) / nr)) * nr;
  }
  s->n_tasks = div_up(max_i64(1, o), max_i64(1, s->n_block));
  s->v_plane = odd_lines(s->block * c);
  s->m_plane = odd_lines(s->block * (s->shared ? o : s->n_block));
}

static kiln_status winograd_workspace(winograd_state *s, kernel_prep *p, size_t threads) {
  size_t size = 0, v, m;
  if (!size_mul((size_t)s->v_plane, WINOGRAD_PLANES * sizeof(float), &v) ||
      !size_mul((size_t)s->m_plane, WINOGRAD_PLANES * sizeof(float), &m)) {
    return KILN_FAIL(KILN_OUT_OF_MEMORY, "convolution: workspace is too large");
  }
  s->epilogue_at = s->shared ? 0 : v + m;
  /* After the epilogue's scratch: a pixel for outputs outside the image. */
  s->each = s->epilogue_at + epilogue_scratch(s->chain) + size_align((size_t)s->g.out_channels * sizeof(float), 64);
  if (!size_mul(s->each, threads, &m) && !s->shared)
    return KILN_FAIL(KILN_OUT_OF_MEMORY, "convolution: workspace is too large");
  KILN_TRY(workspace_add(&size, s->each * threads, &s->threads_at));
  if (s->shared) {
    KILN_TRY(workspace_add(&size, v, &s->v_at));
    KILN_TRY(workspace_add(&size, (size_t)s->m_plane * WINOGRAD_PLANES * sizeof(float), &s->m_at));
  }
  if (s->copy_x) KILN_TRY(workspace_add(&size, (size_t)tensor_numel(&p->args.in[0]) * sizeof(float), &s->x_at));
  if (s->copy_y) KILN_TRY(workspace_add(&size, (size_t)tensor_numel(&p->args.out[0]) * sizeof(float), &s->y_at));
  if (s->pack_w) {
    size_t floats;
    if (!gemm_packed_floats(s->g.in_channels * WINOGRAD_PLANES, s->g.out_channels, s->gemm->nr, &floats) ||
        !size_mul(floats, sizeof(float), &floats)) {
      return KILN_FAIL(KILN_OUT_OF_MEMORY, "convolution: the weights are too large");
    }
    KILN_TRY(workspace_add(&size, floats, &s->w_at));
  }
  p->workspace_size = size;
  return KILN_OK;
}

static kiln_status winograd_prepare(kernel_prep *p, int isa) {
  winograd_state *s = ARENA_NEW(p->arena, winograd_state);
  if (!s) return KILN_NO_MEMORY("conv");
  conv_geometry *g = &s->g;
  conv_geometry_of(&p->args, g);
  s->gemm = gemm_isa_of(isa);
  s->isa = winograd_isa_of(isa);
  KILN_TRY(gemm_epilogue(p, &s->chain, &s->lo, &s->hi));
  s->copy_x = !conv_pixels_contiguous(&p->args.in[0]);
  s->copy_y = !conv_pixels_contiguous(&p->args.out[0]);
  if (s->copy_x) conv_geometry_dense_x(g);
  if (s->copy_y) conv_geometry_dense_y(g);
  s->pack_w = !p->args.in[1].packing;
  s->tiles_h = div_up(g->out[1], WINOGRAD_OUT);
  s->tiles_w = div_up(g->out[2], WINOGRAD_OUT);
  s->tiles = g->batch * s->tiles_h * s->tiles_w;
  if (s->tiles > 0) winograd_schedule(s, max_i64(1, p->threads));
  float *zeros = ARENA_ARRAY(p->arena, float, g->in_channels > 0 ? g->in_channels : 1);
  if (!zeros) return KILN_NO_MEMORY("convolution padding");
  s->zeros = zeros;
  p->state = s;
  return winograd_workspace(s, p, p->threads > 0 ? (size_t)p->threads : 1);
}

/* ---- Running ----------------------------------------------------------------------------------------------------- */

typedef struct tile_place {
  int64_t n, h, w; /* image, first output row and column */
} tile_place;

static tile_place place_of(const winograd_state *s, int64_t tile) {
  return (tile_place){tile / s->tiles_w / s->tiles_h, tile / s->tiles_w % s->tiles_h * WINOGRAD_OUT,
                      tile % s->tiles_w * WINOGRAD_OUT};
}

/* Tiles [t0, t1) into v, tile t0 first. */
static void winograd_inputs(const winograd_pass *r, int64_t t0, int64_t t1, float *v) {
  const winograd_state *s = r->s;
  const conv_geometry *g = &s->g;
  for (int64_t t = t0; t < t1; t++) {
    const tile_place at = place_of(s, t);
    const float *x[WINOGRAD_PLANES];
    for (int64_t i = 0; i < WINOGRAD_IN; i++) {
      const int64_t h = at.h - g->pad[1] + i;
      const bool row = h >= 0 && h < g->in[1];
      const float *line = r->x + at.n * g->x_batch + h * g->x_step[1];
      for (int64_t j = 0; j < WINOGRAD_IN; j++) {
        const int64_t w = at.w - g->pad[2] + j;
        x[i * WINOGRAD_IN + j] = row && w >= 0 && w < g->in[2] ? line + w * g->x_step[2] : s->zeros;
      }
    }
    s->isa->input(x, g->in_channels, v + (t - t0) * g->in_channels, s->v_plane);
  }
}

/* Plane `plane` of `tiles` tiles, output channels [n0, n1); m has `pitch` channels, of which n0 is at m. */
static void winograd_multiply(const winograd_pass *r, int64_t plane, int64_t tiles, int64_t n0, int64_t n1,
                              const float *v, float *m, int64_t pitch) {
  const winograd_state *s = r->s;
  const int64_t c = s->g.in_channels, nr = s->gemm->nr, mr = s->gemm->mr;
  gemm_strip strip = {.taps = 1,
                      .kc = c,
                      .b = r->w + (plane * div_up(s->g.out_channels, nr) + n0 / nr) * nr * c,
                      .b_k = nr,
                      .b_panel = nr * c,
                      .ldc = pitch,
                      .n = n1 - n0,
                      .lo = -INFINITY,
                      .hi = INFINITY};
  const float *rows[GEMM_MAX_MR];
  int64_t strips = div_up(tiles, mr);
  for (int64_t t = 0; t < tiles; strips--) { /* strips of nearly the same height */
    const int count = (int)div_up(tiles - t, strips);
    for (int i = 0; i < count; i++) rows[i] = v + plane * s->v_plane + (t + i) * c;
    strip.a = rows;
    strip.fetch = t == 0;
    strip.c = m + plane * s->m_plane + t * pitch;
    s->gemm->strip(&strip, count);
    t += count;
  }
}

/* Tiles [t0, t1) from m (tile t0 first, channel n0 first) to y, and the epilogue over runs of tiles in a line. */
static void winograd_outputs(const winograd_pass *r, int64_t t0, int64_t t1, int64_t n0, int64_t n1, const float *m,
                             int64_t pitch, char *scratch) {
  const winograd_state *s = r->s;
  const conv_geometry *g = &s->g;
  float *outside = (float *)(void *)(scratch + s->epilogue_at + epilogue_scratch(s->chain));
  for (int64_t t = t0; t < t1;) {
    const tile_place at = place_of(s, t);
    const int64_t run = min_i64(t1 - t, s->tiles_w - t % s->tiles_w);
    const int64_t lines = min_i64(WINOGRAD_OUT, g->out[1] - at.h),
                  width = min_i64(run * WINOGRAD_OUT, g->out[2] - at.w);
    float *corner = r->y + at.n * g->y_batch + at.h * g->y_step[1] + at.w * g->y_step[2] + n0;
    for (int64_t k = 0; k < run; k++) {
      float *y[WINOGRAD_OUT * WINOGRAD_OUT];
      for (int64_t i = 0; i < WINOGRAD_OUT; i++) {
        for (int64_t j = 0; j < WINOGRAD_OUT; j++) {
          const int64_t w = k * WINOGRAD_OUT + j;
          y[i * WINOGRAD_OUT + j] = i < lines && w < width ? corner + i * g->y_step[1] + w * g->y_step[2] : outside;
        }
      }
      s->isa->output(m + (t + k - t0) * pitch, s->m_plane, n1 - n0, r->bias ? r->bias + n0 : NULL, y, s->lo, s->hi);
    }
    for (int64_t i = 0; s->chain && i < lines; i++) {
      epilogue_apply(s->chain, r->args, corner + i * g->y_step[1], (at.n * g->out[1] + at.h + i) * g->out[2] + at.w,
                     width, n0, n1 - n0, g->y_step[2], scratch + s->epilogue_at);
    }
    t += run;
  }
}

static char *thread_scratch(const winograd_pass *r, int worker) {
  return (char *)r->args->workspace + r->s->threads_at + (size_t)worker * r->s->each;
}

static void apart_task(void *user, int64_t index, int worker) {
  const winograd_pass *r = user;
  const winograd_state *s = r->s;
  const int64_t t0 = index * s->block, t1 = min_i64(s->tiles, t0 + s->block), o = s->g.out_channels;
  char *scratch = thread_scratch(r, worker);
  float *v = (float *)(void *)scratch, *m = v + WINOGRAD_PLANES * s->v_plane;
  winograd_inputs(r, t0, t1, v);
  for (int64_t n0 = 0; n0 < o; n0 += s->n_block) {
    const int64_t n1 = min_i64(o, n0 + s->n_block);
    for (int64_t plane = 0; plane < WINOGRAD_PLANES; plane++)
      winograd_multiply(r, plane, t1 - t0, n0, n1, v, m, s->n_block);
    winograd_outputs(r, t0, t1, n0, n1, m, s->n_block, scratch);
  }
}

static void shared_input_task(void *user, int64_t index, int worker) {
  (void)worker;
  const winograd_pass *r = user;
  const int64_t t0 = index * r->s->group;
  winograd_inputs(r, t0, min_i64(r->s->tiles, t0 + r->s->group), r->v + t0 * r->s->g.in_channels);
}

static void shared_multiply_task(void *user, int64_t index, int worker) {
  (void)worker;
  const winograd_pass *r = user;
  const winograd_state *s = r->s;
  const int64_t plane = index / s->n_tasks, n0 = index % s->n_tasks * s->n_block;
  winograd_multiply(r, plane, s->tiles, n0, min_i64(s->g.out_channels, n0 + s->n_block), r->v, r->m + n0,
                    s->g.out_channels);
}

static void shared_output_task(void *user, int64_t index, int worker) {
  const winograd_pass *r = user;
  const winograd_state *s = r->s;
  const int64_t t0 = index * s->group, o = s->g.out_channels;
  winograd_outputs(r, t0, min_i64(s->tiles, t0 + s->group), 0, o, r->m + t0 * o, o, thread_scratch(r, worker));
}

static void transform_weights_task(void *user, int64_t panel, int worker) {
  (void)worker;
  const winograd_pass *r = user;
  const winograd_state *s = r->s;
  s->isa->weights(r->args->in[1].data, s->g.out_channels, s->g.in_channels, s->gemm->nr, panel,
                  (float *)(uintptr_t)r->w);
}

static kiln_status winograd_run(const kernel_args *a) {
  const winograd_state *s = a->state;
  const conv_geometry *g = &s->g;
  char *workspace = a->workspace;
  winograd_pass r = {
      .s = s, .args = a, .x = a->in[0].data, .w = a->in[1].data, .bias = gemm_optional(a, 2), .y = a->out[0].data};
  if (s->tiles <= 0 || g->out_channels <= 0) return KILN_OK;
  if (s->copy_x) {
    float *copy = (float *)(void *)(workspace + s->x_at);
    tensor_gather_f32(&a->in[0], copy, a->pool);
    r.x = copy;
  }
  if (s->copy_y) r.y = (float *)(void *)(workspace + s->y_at);
  if (s->pack_w) {
    r.w = (const float *)(const void *)(workspace + s->w_at);
    pool_run(a->pool, div_up(g->out_channels, s->gemm->nr), transform_weights_task, &r);
  }
  if (s->shared) {
    r.v = (float *)(void *)(workspace + s->v_at);
    r.m = (float *)(void *)(workspace + s->m_at);
    pool_run(a->pool, div_up(s->tiles, s->group), shared_input_task, &r);
    pool_run(a->pool, WINOGRAD_PLANES * s->n_tasks, shared_multiply_task, &r);
    pool_run(a->pool, div_up(s->tiles, s->group), shared_output_task, &r);
  } else {
    pool_run(a->pool, div_up(s->tiles, s->block), apart_task, &r);
  }
  if (s->copy_y) tensor_scatter_f32(r.y, &a->out[0], a->pool);
  return KILN_OK;
}

/* ---- Rows -------------------------------------------------------------------------------------------------------- */

/* In cycles: multiplications at `lanes` a cycle and 8 bytes of weights a cycle. */
bool winograd_wins(const tensor_type *w, const int64_t *out, double lanes) {
  const double batch = (double)out[0], h = (double)out[1], v = (double)out[2];
  const double c = (double)w->dims[1], o = (double)w->dims[0],
               tiles = batch * ceil(h / WINOGRAD_OUT) * ceil(v / WINOGRAD_OUT);
  if (c < WINOGRAD_FEWEST || o < WINOGRAD_FEWEST) return false;
  const double direct = fmax(9.0 * c * o * batch * h * v / lanes, 9.0 * c * o * 4.0 / 8.0);
  const double transforms = tiles * (c + o) * 320.0 / lanes;
  const double multiply = fmax(WINOGRAD_PLANES * tiles * c * o / lanes, WINOGRAD_PLANES * c * o * 4.0 / 8.0);
  return transforms + multiply < direct * 0.9;
}

bool winograd_can(const node *n, const char **why) {
  if (!conv_fits_common(n, false, why)) return false;
  const value *w = node_in(n, 1);
  const attr *stride = node_attr(n, "stride"), *dilation = node_attr(n, "dilation");
  bool square = w->type.rank == 4 && node_int(n, "groups") == 1 && w->type.dims[2] == 3 && w->type.dims[3] == 3;
  for (int i = 0; square && i < stride->count; i++) square = stride->u.ints[i] == 1;
  for (int i = 0; square && i < dilation->count; i++) square = dilation->u.ints[i] == 1;
  if (!square) {
    *why = "not 3x3 with stride 1";
    return false;
  }
  if (!w->constant) {
    *why = "weights are not constant";
    return false;
  }
  return true;
}

static bool winograd_fits(const node *n, const char **why, double lanes) {
  if (!winograd_can(n, why)) return false;
  int64_t out[3];
  for (int i = 0; i < 3; i++) out[i] = dim_hint(n->parent->graph->dims, n->outputs[0]->type.dims[i]);
  if (winograd_wins(&node_in(n, 1)->type, out, lanes)) return true;
  *why = "the direct form is faster at these sizes";
  return false;
}

#define WINOGRAD_ROWS(set, level, nr, lanes)                                                                \
  static bool winograd_fits_##set(const node *n, const char **why) { return winograd_fits(n, why, lanes); } \
  static kiln_status winograd_prepare_##set(kernel_prep *p) { return winograd_prepare(p, level); }          \
  const kernel cpu_winograd_##set[] = {                                                                     \
      {.op = "conv",                                                                                        \
       .name = "conv.winograd4." #set,                                                                      \
       .isa = level,                                                                                        \
       .fits = winograd_fits_##set,                                                                         \
       .prepare = winograd_prepare_##set,                                                                   \
       .run = winograd_run,                                                                                 \
       .strided_in = 1,                                                                                     \
       .strided_out = 1,                                                                                    \
       .epilogue = true,                                                                                    \
       .pack_operand = 1,                                                                                   \
       .packing = "winograd:" #nr},                                                                         \
      {.op = NULL},                                                                                         \
  };
WINOGRAD_ROWS(avx512, ISA_AVX512, 32, 32.0)
WINOGRAD_ROWS(avx2, ISA_AVX2, 16, 16.0)
WINOGRAD_ROWS(scalar, ISA_SCALAR, 4, 2.0)
