/* Fused attention: shapes and strides to the macros of attention.cu (f16, bf16) or attention_simt.cu (f32), and how to
 * cut it. */
#include <math.h>
#include <stdio.h>

#include "backends/cuda/gemm.h"
#include "backends/cuda/texts.h"

/* Warps along queries and keys, rows of 16 of a warp, keys of a tile, blocks that registers must allow. */
typedef struct attention_tile {
  int warps_q, warps_kv, rows16, keys, blocks;
} attention_tile;

/* An operand as the copy engine sees it: columns, rows, heads, batches. */
typedef struct attention_map {
  int64_t sizes[4], strides[4]; /* strides in bytes */
} attention_map;

typedef struct attention_state {
  const cuda_function *function, *zero;
  dense_copy copy[3];
  int64_t blocks;
  int split, threads, len_k;
  size_t shared, counters_at, partials_at;
  bool wgmma;
  attention_map maps[3];
  int keys, items, section; /* keys of a tile; items that the blocks share; heads whose parts lie beside each other */
} attention_state;

typedef struct attention_shape {
  int64_t batch, heads, group, len_q, len_k, dim, dim_v; /* heads: of k and v */
  bool causal;
} attention_shape;

static int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

/* ---- Text -------------------------------------------------------------------------------------------------------- */

/* NAME_AT(b, h): offset of head h of batch b (leading dimensions flattened), with broadcasting. */
static void put_offset(text *t, const char *name, const tensor *x, const tensor *y, bool dense) {
  int64_t strides[KILN_MAX_RANK], step = 1;
  for (int r = x->rank - 1; r >= 0; r--) {
    strides[r] = dense ? step : x->strides[r];
    step *= x->shape[r];
  }
  text_printf(t, "#define %s_AT(b, h) (0LL", name);
  step = 1;
  for (int r = y->rank - 3; r >= 0; r--) {
    const int k = r - (y->rank - x->rank);
    const bool head = r == y->rank - 3;
    if (k >= 0 && x->shape[k] != 1 && strides[k] != 0) {
      if (head)
        text_printf(t, " + (long long)(h) * %lldLL", (long long)strides[k]);
      else
        text_printf(t, " + (long long)(b) / %lldLL %% %lldLL * %lldLL", (long long)step, (long long)y->shape[r],
                    (long long)strides[k]);
    }
    if (!head) step *= y->shape[r] ? y->shape[r] : 1;
  }
  text_puts(t, ")\n");
}

static int64_t row_pitch(const tensor *x, bool dense) {
  return x->shape[x->rank - 2] == 1 ? x->shape[x->rank - 1] : dense ? x->shape[x->rank - 1] : x->strides[x->rank - 2];
}

static int operand_vector(const kernel_prep *p, const tensor *x, int align, bool dense) {
  int64_t numbers[KILN_MAX_RANK + 1];
  int count = 0;
  numbers[count++] = x->shape[x->rank - 1];
  for (int r = 0; r < x->rank - 1 && !dense; r++) {
    if (x->shape[r] != 1) numbers[count++] = x->strides[r];
  }
  (void)p;
  return cuda_vector(8, 2, dense ? 16 : align, count, numbers);
}

static void put_mask(text *t, const tensor *m, const tensor *y) {
  if (!m) {
    text_puts(t, "#define MASK_KIND 0\n");
    return;
  }
  const int64_t rows = m->rank >= 2 ? m->shape[m->rank - 2] : 1, cols = m->rank >= 1 ? m->shape[m->rank - 1] : 1;
  text_printf(t, "#define MASK_KIND %d\n#define MASK_TYPE %s\n#define MASK_ROW %lldLL\n#define MASK_COL %lldLL\n",
              m->dtype == KILN_BOOL ? 1 : 2, cuda_mx_type(m->dtype),
              (long long)(rows == 1 ? 0 : m->strides[m->rank - 2]),
              (long long)(cols == 1 ? 0 : m->strides[m->rank - 1]));
  put_offset(t, "MASK", m, y, false);
}

static void put_shape(text *t, kernel_prep *p, const attention_shape *s, const attention_state *state) {
  static const char *const names[] = {"Q", "K", "V"};
  const tensor *y = &p->args.out[0];
  text_printf(t,
              "#define IN_TYPE %s\n#define PDL 1\n#define HEADS %lld\n#define GROUP %lld\n#define LEN_Q %lld\n#define "
              "LEN_K %lld\n",
              cuda_mx_type(y->dtype), (long long)s->heads, (long long)s->group, (long long)s->len_q,
              (long long)s->len_k);
  text_printf(t,
              "#define DIM %lld\n#define DIM_V %lld\n#define HD %lld\n#define HDV %lld\n#define CAUSAL %d\n#define "
              "SCALE %.9ef\n",
              (long long)s->dim, (long long)s->dim_v, (long long)round_up(s->dim, 16),
              (long long)round_up(s->dim_v, 16), s->causal, arg_float(&p->args, "scale") + 0.0);
  for (int i = 0; i < 3; i++) {
    const tensor *x = &p->args.in[i];
    const bool dense = state->copy[i].function != NULL;
    put_offset(t, names[i], x, y, dense);
    text_printf(t, "#define %s_ROW %lldLL\n#define VEC_%s %d\n", names[i], (long long)row_pitch(x, dense), names[i],
                operand_vector(p, x, cuda_in_alignment(p, i), dense));
  }
  put_offset(t, "O", y, y, false);
  text_printf(t, "#define O_ROW %lldLL\n#define VEC_O %d\n", (long long)row_pitch(y, false),
              operand_vector(p, y, cuda_out_alignment(p, 0), false));
}

/* ---- How to cut it ----------------------------------------------------------------------------------------------- */

static const attention_tile tiles[] = {
    {1, 4, 1, 64, 1},  {1, 4, 1, 128, 1}, {2, 2, 1, 64, 1}, {2, 2, 1, 128, 1}, {4, 1, 1, 64, 4},
    {4, 2, 1, 128, 1}, {8, 1, 1, 64, 2},  {4, 1, 1, 32, 4}, {8, 1, 1, 128, 1},
};

static size_t tile_shared(const attention_shape *s, const attention_tile *t) {
  const int64_t hd = round_up(s->dim, 16), hdv = round_up(s->dim_v, 16), bq = t->warps_q * t->rows16 * 16;
  const int64_t loop = bq * (hd + 8) * 2 + 2 * t->keys * (hd + hdv + 16) * 2;
  const int64_t out = t->warps_kv * bq * (hdv + 6) * 4 + 16;
  return (size_t)(loop > out ? loop : out);
}

/* Few blocks: small ones that share keys among warps, so that all multiprocessors work. Orders are from timings on an
 * H100 (docs/performance.md). */
static attention_tile choose_tile(const cuda_facts *gpu, const attention_shape *s, int rank) {
  static const int few[] = {0, 3, 1, 2}, middle[] = {5, 3, 2, 4}, middle_short[] = {2, 4, 3, 0}, many[] = {4, 6, 7, 5},
                   many_wide[] = {6, 4, 7, 5}, decode_long[] = {1, 0, 3, 2};
  const int64_t sms = gpu->sm_count > 0 ? gpu->sm_count : 132, rows = s->group * s->len_q, heads = s->batch * s->heads;
  const int *order = rows >= 128 && !s->causal ? many_wide : many;
  if (heads * cuda_div_up(rows, 64) < 2 * sms) order = s->len_k > 64 ? middle : middle_short;
  if (heads * cuda_div_up(rows, 32) < sms) order = few;
  if (rows <= 16) order = s->len_k >= 2048 ? decode_long : few;
  attention_tile t = tiles[order[rank & 3]];
  const bool large = round_up(s->dim, 16) > 128 || round_up(s->dim_v, 16) > 128;
  if (large && t.keys > 32 * t.warps_kv) t.keys = 32 * t.warps_kv; /* accumulators fill the registers */
  if (round_up(s->dim, 16) > 64 || round_up(s->dim_v, 16) > 64) t.blocks = 1;
  while (tile_shared(s, &t) > gpu->shared_block && t.keys > 16 * t.warps_kv) t.keys /= 2;
  return t;
}

/* Blocks that share the keys of few queries. */
static int choose_split(const cuda_facts *gpu, const attention_shape *s, const attention_tile *t, int64_t blocks) {
  const int64_t sms = gpu->sm_count > 0 ? gpu->sm_count : 132, key_tiles = cuda_div_up(s->len_k, t->keys);
  int64_t split = sms / (blocks > 0 ? blocks : 1);
  if (s->len_q > 64 || key_tiles < 8) return 1;
  if (split > key_tiles / 2) split = key_tiles / 2;
  return (int)(split < 1 ? 1 : split > 32 ? 32 : split);
}

/* ---- wgmma (sm_90a) ---------------------------------------------------------------------------------------------- */

/* Can the copy engine read this operand? Batches must have one stride. */
static bool map_of(const kernel_prep *p, int operand, bool dense, const tensor *y, attention_map *out) {
  const tensor *x = &p->args.in[operand];
  const int64_t size = 2, row = x->shape[x->rank - 1];
  const int64_t heads = operand == 0 ? y->shape[y->rank - 3] : p->args.in[1].shape[p->args.in[1].rank - 3];
  int64_t batch = 1, step = 0;
  if ((!dense && cuda_in_alignment(p, operand) < 16) || x->shape[x->rank - 3] != heads) return false;
  int64_t strides[KILN_MAX_RANK], next = 1;
  for (int r = x->rank - 1; r >= 0; r--) {
    strides[r] = dense ? next : x->strides[r];
    next *= x->shape[r];
  }
  for (int r = y->rank - 4, k = x->rank - 4; r >= 0; r--, k--) {
    if (y->shape[r] == 1) continue;
    if (k < 0 || x->shape[k] != y->shape[r]) return false;
    if (batch == 1)
      step = strides[k];
    else if (strides[k] != step * batch)
      return false;
    batch *= y->shape[r];
  }
  const int64_t spare = round_up(row * size, 16); /* stride of dimensions of one element */
  *out = (attention_map){.sizes = {row, x->shape[x->rank - 2], x->shape[x->rank - 3], batch}};
  const int64_t elements[4] = {0, strides[x->rank - 2], strides[x->rank - 3], step};
  for (int d = 1; d < 4; d++) {
    out->strides[d] = out->sizes[d] == 1 ? spare : elements[d] * size;
    if (out->strides[d] <= 0 || out->strides[d] % 16 != 0) return false;
  }
  return true;
}

/* Warpgroups of 64 queries, keys of a tile, tiles in flight. */
typedef struct wgmma_tile {
  int groups, keys, stages;
} wgmma_tile;

static size_t wgmma_shared(const wgmma_tile *t, int64_t hd, int64_t hdv) {
  return (size_t)(2 * t->groups * 64 * hd * 2 + t->stages * t->keys * (hd + hdv) * 2 + t->groups * 64 * (hdv + 8) * 2 +
                  32 + t->stages * 32);
}

/* wgmma is faster where there are blocks for a third of the multiprocessors, with many queries each. */
static bool wgmma_suits(const kernel_prep *p, const attention_shape *s, attention_state *state) {
  const cuda_facts *gpu = cuda_device_facts(p->device);
  const tensor *y = &p->args.out[0];
  const int64_t sms = gpu->sm_count > 0 ? gpu->sm_count : 132;
  if (gpu->arch != 90 || y->dtype == KILN_F32 || s->dim > 128 || s->dim_v > 128 || s->len_q < 64) return false;
  if (s->batch * s->heads * s->group * cuda_div_up(s->len_q, 128) * 3 < sms) return false;
  for (int i = 0; i < 3; i++) {
    if (!map_of(p, i, state->copy[i].function != NULL, y, &state->maps[i])) return false;
  }
  return true;
}

/* How much more the busiest block does than all on average if causal attention's items are dealt out `section` heads at a time (as in
 * attention_wgmma.cu: longest first, every other turn backwards). An item is its tiles of keys and 1.5 for its start and end. */
static double section_load(const attention_shape *s, const wgmma_tile *tile, int64_t items, int64_t blocks,
                           int64_t section, float *load) {
  const int64_t bq = tile->groups * 64, parts = cuda_div_up(s->len_q, bq), all = cuda_div_up(s->len_k, tile->keys);
  double total = 0, most = 0;
  for (int64_t b = 0; b < blocks; b++) load[b] = 0;
  for (int64_t i = 0; i < items; i++) {
    const int64_t turn = i / blocks, first = i / (section * parts) * section, left = items / parts - first;
    const int64_t row = parts - 1 - (i - first * parts) / (section < left ? section : left);
    const int64_t last = (row + 1) * bq < s->len_q ? (row + 1) * bq - 1 : s->len_q - 1, keys = last / tile->keys + 1;
    const float work = (float)(keys < all ? keys : all) + 1.5f;
    load[turn % 2 ? blocks - 1 - i % blocks : i % blocks] += work;
    total += (double)work;
  }
  for (int64_t b = 0; b < blocks; b++)
    if ((double)load[b] > most) most = (double)load[b];
  return most * (double)blocks / total;
}

/* Parts of few heads at a time find keys and values in the cache; the blocks' loads differ least where sections are whole turns, or
 * all heads. The fewest that are within 3 % of the best. */
static kiln_status choose_section(kernel_prep *p, const attention_shape *s, const wgmma_tile *tile, int64_t items,
                                  int64_t blocks, int *section) {
  const int64_t parts = cuda_div_up(s->len_q, tile->groups * 64), heads = items / parts;
  int64_t a = blocks, b = parts;
  while (b) {
    const int64_t rest = a % b;
    a = b, b = rest;
  }
  const int64_t candidates[3] = {blocks / a, 2 * (blocks / a), heads};
  double loads[3], best = 0;
  *section = !s->causal ? 1 : items <= 1 << 18 || candidates[1] > heads ? (int)heads : (int)candidates[1];
  if (!s->causal || items <= blocks || items > 1 << 18) return KILN_OK;
  float *room = arena_alloc(p->arena, (size_t)blocks * sizeof *room);
  if (!room) return KILN_NO_MEMORY("attention");
  for (int i = 0; i < 3; i++) {
    loads[i] = candidates[i] < heads || i == 2 ? section_load(s, tile, items, blocks, candidates[i], room) : HUGE_VAL;
    if (i == 0 || loads[i] < best) best = loads[i];
  }
  for (int i = 2; i >= 0; i--)
    if (loads[i] <= best * 1.03) *section = (int)candidates[i];
  return KILN_OK;
}

static kiln_status compile_wgmma(kernel_prep *p, const attention_shape *s, attention_state *state, text *t) {
  const int64_t hd = s->dim <= 64 ? 64 : 128, hdv = s->dim_v <= 64 ? 64 : 128;
  const int64_t items = cuda_div_up(s->len_q, 128) * s->batch * s->heads * s->group;
  const int sms = cuda_device_facts(p->device)->sm_count;
  const bool many_keys = items > 132 && ((hd == 64 && hdv == 64) || !s->causal); /* by timings on an H100 */
  const wgmma_tile tile = {2, many_keys ? 128 : 64, 2};
  if (items > INT32_MAX / 2) return KILN_FAIL(KILN_UNSUPPORTED, "attention: too many blocks for a GPU kernel");
  state->shared = wgmma_shared(&tile, hd, hdv);
  state->items = (int)items;
  state->blocks = sms > 0 && items > sms ? sms : items;
  state->threads = tile.groups * 128 + 128;
  state->split = 1;
  state->keys = tile.keys;
  state->wgmma = true;
  KILN_TRY(choose_section(p, s, &tile, items, state->blocks, &state->section));
  text_printf(
      t, "#undef HD\n#undef HDV\n#define HD %lld\n#define HDV %lld\n#define GROUPS %d\n#define BKV %d\n#define BN %d\n",
      (long long)hd, (long long)hdv, tile.groups, tile.keys, tile.keys);
  text_printf(t, "#define STAGES %d\n", tile.stages);
  text_puts(t, cuda_text_matrix_common);
  text_puts(t, cuda_text_wgmma);
  const char *front = NULL;
  KILN_TRY(cuda_text_keep(p, t, &front));
  return cuda_compile(p,
                      &(cuda_source){.entry = "kiln_attention_wgmma",
                                     .defines = front,
                                     .text = cuda_text_attention_wgmma,
                                     .shared = state->shared,
                                     .specific = true},
                      &state->function);
}

static kiln_status run_wgmma(const kernel_args *a, const attention_state *s, const void *const data[3],
                             const void *mask) {
  cuda_map maps[3];
  void *o = a->out[0].data;
  int items = s->items, section = s->section;
  for (int i = 0; i < 3; i++) {
    const int box[4] = {64, i == 0 ? 64 : s->keys, 1, 1};
    KILN_TRY(cuda_map_tiled(a, &maps[i], data[i], a->out[0].dtype, 4, s->maps[i].sizes, s->maps[i].strides, box, 128));
  }
  const cuda_launch_config launch = {
      .function = s->function,
      .grid = {(unsigned)s->blocks, 1, 1},
      .block = {(unsigned)s->threads, 1, 1},
      .shared = s->shared,
      .overlap = true,
      .params = CUDA_PARAMS(&maps[0], &maps[1], &maps[2], &o, &mask, &items, &section),
  };
  return cuda_launch(a, &launch);
}

static const char zero_text[] =
    "extern \"C\" __global__ void __launch_bounds__(256) zero_words(u32 *p, int n) {\n"
    "  KILN_WAIT;\n  const int i = blockIdx.x * 256 + threadIdx.x;\n  if (i < n) p[i] = 0;\n}\n";

static kiln_status compile_tensor(kernel_prep *p, const attention_shape *s, attention_state *state, text *t, int rank) {
  const cuda_facts *gpu = cuda_device_facts(p->device);
  const attention_tile tile = choose_tile(gpu, s, rank);
  const int64_t bq = tile.warps_q * tile.rows16 * 16;
  state->blocks = cuda_div_up(s->group * s->len_q, bq) * s->batch * s->heads;
  state->split = choose_split(gpu, s, &tile, state->blocks);
  state->threads = tile.warps_q * tile.warps_kv * 32;
  state->shared = tile_shared(s, &tile);
  text_printf(t,
              "#define WARPS_Q %d\n#define WARPS_KV %d\n#define ROWS16 %d\n#define BKV %d\n#define STAGES 2\n"
              "#define MIN_CTAS %d\n#define SPLIT %d\n",
              tile.warps_q, tile.warps_kv, tile.rows16, tile.keys, tile.blocks, state->split);
  text_puts(t, cuda_text_matrix_common);
  if (state->split > 1) {
    const size_t floats = (size_t)(state->blocks * state->split * bq * (round_up(s->dim_v, 16) + 2));
    KILN_TRY(workspace_reserve(p, (size_t)state->blocks * 4, &state->counters_at));
    KILN_TRY(workspace_reserve(p, floats * 4, &state->partials_at));
    KILN_TRY(cuda_compile(p, &(cuda_source){.entry = "zero_words", .text = zero_text}, &state->zero));
  }
  const char *front = NULL;
  KILN_TRY(cuda_text_keep(p, t, &front));
  return cuda_compile(
      p,
      &(cuda_source){.entry = "kiln_attention", .defines = front, .text = cuda_text_attention, .shared = state->shared},
      &state->function);
}

static kiln_status compile_plain(kernel_prep *p, const attention_shape *s, attention_state *state, text *t) {
  state->blocks = cuda_div_up(s->group * s->len_q, 32) * s->batch * s->heads;
  state->split = 1;
  state->threads = 128;
  state->shared = (size_t)(64 * (s->dim + 1) + 32 * s->dim_v + 32 * 33) * 4;
  text_puts(t, cuda_text_matrix_common);
  const char *front = NULL;
  KILN_TRY(cuda_text_keep(p, t, &front));
  return cuda_compile(
      p,
      &(cuda_source){
          .entry = "kiln_attention_simt", .defines = front, .text = cuda_text_attention_simt, .shared = state->shared},
      &state->function);
}

static kiln_status attention_prepare(kernel_prep *p) {
  const tensor *q = &p->args.in[0], *k = &p->args.in[1], *v = &p->args.in[2], *y = &p->args.out[0];
  const tensor *mask = node_in(p->args.node, 3) ? &p->args.in[3] : NULL;
  attention_state *state = ARENA_NEW(p->arena, attention_state);
  if (!state) return KILN_NO_MEMORY("attention");
  p->state = state;
  attention_shape s = {.batch = 1,
                       .heads = k->shape[k->rank - 3],
                       .len_q = q->shape[q->rank - 2],
                       .len_k = k->shape[k->rank - 2],
                       .dim = q->shape[q->rank - 1],
                       .dim_v = v->shape[v->rank - 1],
                       .causal = arg_bool(&p->args, "causal")};
  for (int r = 0; r < y->rank - 3; r++) s.batch *= y->shape[r];
  if (tensor_numel(y) == 0) return KILN_OK;
  s.group = y->shape[y->rank - 3] / s.heads;
  if (s.group * s.len_q > INT32_MAX / 2 || s.len_k > INT32_MAX / 2 || s.batch > INT32_MAX / 2)
    return KILN_FAIL(KILN_UNSUPPORTED, "attention: %lld queries and %lld keys are too many for a GPU kernel",
                     (long long)s.len_q, (long long)s.len_k);
  for (int i = 0; i < 3; i++) {
    const tensor *x = &p->args.in[i];
    if (x->shape[x->rank - 1] != 1 && x->strides[x->rank - 1] != 1) KILN_TRY(dense_copy_prepare(p, x, &state->copy[i]));
  }
  state->len_k = (int)s.len_k;
  text t = {0};
  put_shape(&t, p, &s, state);
  put_mask(&t, mask, y);
  const bool tensor_cores = y->dtype != KILN_F32;
  const bool wgmma = wgmma_suits(p, &s, state);
  const int rank = p->kernel->variant;
  const kiln_status status = wgmma && rank == 0 ? compile_wgmma(p, &s, state, &t)
                             : tensor_cores     ? compile_tensor(p, &s, state, &t, rank - (wgmma ? 1 : 0))
                                                : compile_plain(p, &s, state, &t);
  text_free(&t);
  if (status == KILN_OK && state->blocks > INT32_MAX)
    return KILN_FAIL(KILN_UNSUPPORTED, "attention: too many blocks for a GPU kernel");
  return status;
}

static kiln_status attention_run(const kernel_args *a) {
  const attention_state *s = a->state;
  const void *data[3], *mask = node_in(a->node, 3) ? a->in[3].data : NULL;
  void *o = a->out[0].data, *counters = NULL, *partials = NULL;
  int len_k = s->len_k;
  if (!s->function) return KILN_OK;
  for (int i = 0; i < 3; i++) KILN_TRY(dense_copy_run(a, &s->copy[i], i, &data[i]));
  if (s->wgmma) return run_wgmma(a, s, data, mask);
  if (s->split > 1) {
    int words = (int)s->blocks;
    counters = (char *)a->workspace + s->counters_at;
    partials = (char *)a->workspace + s->partials_at;
    KILN_TRY(cuda_launch_1d(a, s->zero, cuda_div_up(words, 256), 256, 0, CUDA_PARAMS(&counters, &words)));
  }
  const bool plain = a->out[0].dtype == KILN_F32;
  const cuda_launch_config launch = {
      .function = s->function,
      .grid = {(unsigned)s->blocks, (unsigned)s->split, 1},
      .block = {(unsigned)s->threads, 1, 1},
      .shared = s->shared,
      .overlap = cuda_device_facts(a->device)->arch >= 90,
      .params = plain ? CUDA_PARAMS(&data[0], &data[1], &data[2], &o, &mask, &len_k)
                      : CUDA_PARAMS(&data[0], &data[1], &data[2], &o, &mask, &partials, &counters, &len_k),
  };
  return cuda_launch(a, &launch);
}

bool cuda_attention_fits(const node *n, const char **why) {
  const tensor_type *q = &node_in(n, 0)->type, *v = &node_in(n, 2)->type;
  for (int i = 0; i < 3; i++) {
    if (!cuda_is_float(node_in(n, i)->type.dtype)) {
      *why = "needs f32, f16 or bf16";
      return false;
    }
  }
  const dim e = q->dims[q->rank - 1], ev = v->dims[v->rank - 1];
  if (!dim_is_const(e) || !dim_is_const(ev) || e < 1 || ev < 1 || e > 256 || ev > 256) {
    *why = "head sizes above 256, or not constant";
    return false;
  }
  return true;
}

#define ATTENTION(suffix, rank)      \
  {.op = "attention",                \
   .name = "attention.flash" suffix, \
   .isa = 80,                        \
   .fits = cuda_attention_fits,      \
   .prepare = attention_prepare,     \
   .run = attention_run,             \
   .strided_in = 15,                 \
   .strided_out = 1,                 \
   .variant = rank},
/* clang-format off */
const kernel cuda_attention_rows[] = {
    ATTENTION("", 0) ATTENTION(".2nd", 1) ATTENTION(".3rd", 2) ATTENTION(".4th", 3)
    {.op = NULL},
};
