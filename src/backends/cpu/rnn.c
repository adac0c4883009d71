/* lstm, gru and rnn: the inputs' part of all gates of all steps is one matrix product; then each step adds the product
 * of the previous state and w_hh, packed gate by gate, and applies the cell. A task owns a range of hidden units in all
 * gates, so that the cell needs no second pass; the previous state is read from the step before in y, so tasks of one
 * step do not disturb each other. */
#include "backends/cpu/rnn.h"

#include <math.h>
#include <string.h>

#include "backends/cpu/gemm.h"
#include "base/memory.h"

typedef struct rnn_state {
  gemm_job inputs; /* x w_ih^T + biases -> gates */
  const rnn_isa *isa;
  int gates, states;
  int64_t steps, batch, in, hidden;
  int64_t block, tasks; /* hidden units of a task */
  const float *w_hh;    /* packed at prepare; NULL: at run */
  bool pack_ih, reverse, relu;
  bool fetch; /* a task's part of w_hh does not stay in L2 from step to step */
  size_t gates_at, bias_at, cell_at, hidden_n_at, w_hh_at, w_ih_at, scratch_at;
} rnn_state;

typedef struct rnn_step {
  const rnn_state *s;
  const float *w_hh, *bias_n; /* bias_n: gru's b_hh of n, or NULL */
  const float *h;             /* previous state [batch, hidden] */
  float *gates;               /* [batch, gates * hidden] of this step */
  float *hidden_n, *c, *y;    /* [batch, hidden] */
} rnn_step;

static kiln_status workspace_add(size_t *size, int64_t a, int64_t b, int64_t c, size_t *out_at) {
  size_t bytes;
  *out_at = *size;
  if (!size_mul((size_t)a, (size_t)b, &bytes) || !size_mul(bytes, (size_t)c, &bytes) ||
      !size_mul(bytes, sizeof(float), &bytes) || !size_add(bytes, 63, &bytes) ||
      !size_add(*size, bytes / 64 * 64, size)) {
    return KILN_FAIL(KILN_OUT_OF_MEMORY, "recurrent layer: workspace is too large");
  }
  return KILN_OK;
}

/* Floats of w_hh packed gate by gate. */
static int64_t w_hh_gate_floats(const rnn_state *s) {
  const int64_t nr = s->inputs.isa->nr;
  return (s->hidden + nr - 1) / nr * nr * s->hidden;
}

static void pack_w_hh(const rnn_state *s, const float *plain, float *packed) {
  const int64_t nr = s->inputs.isa->nr, h = s->hidden;
  for (int g = 0; g < s->gates; g++) {
    for (int64_t p = 0; p * nr < h; p++) {
      gemm_pack_panel(plain + g * h * h, 0, 1, h, 1, h, h, (int)nr, p, packed + g * w_hh_gate_floats(s) + p * h * nr);
    }
  }
}

static kiln_status rnn_prepare(kernel_prep *p, int isa, int gates, int states) {
  const kernel_args *a = &p->args;
  rnn_state *s = ARENA_NEW(p->arena, rnn_state);
  if (!s) return KILN_NO_MEMORY("recurrent layer");
  const tensor *x = &a->in[0], *w_ih = &a->in[states + 1], *w_hh = &a->in[states + 2];
  s->gates = gates;
  s->states = states;
  s->steps = x->shape[0];
  s->batch = x->shape[1];
  s->in = x->shape[2];
  s->hidden = a->in[1].shape[1];
  s->reverse = arg_bool(a, "reverse");
  s->relu = gates == 1 && strcmp(arg_attr(a, "nonlinearity")->u.s, "relu") == 0;
  s->isa = isa >= ISA_AVX512 ? &rnn_isa_avx512 : isa == ISA_AVX2 ? &rnn_isa_avx2 : &rnn_isa_scalar;
  gemm_job *j = &s->inputs;
  j->isa = gemm_isa_of(isa);
  j->batches = j->groups = j->taps = 1;
  j->m = s->steps * s->batch;
  j->kc = j->lda = s->in;
  j->n = j->ldc = gates * s->hidden;
  j->b_panel = s->in * j->isa->nr;
  KILN_TRY(gemm_job_plan(j, p));
  const int64_t nr = j->isa->nr, panels = (s->hidden + nr - 1) / nr;
  const int64_t work = s->batch * gates * s->hidden * s->hidden;
  int64_t tasks = p->threads > 1 && work > 100000 ? p->threads : 1;
  if (tasks > panels) tasks = panels > 0 ? panels : 1;
  s->block = (panels + tasks - 1) / tasks * nr;
  s->tasks = s->block > 0 ? (s->hidden + s->block - 1) / s->block : 0;
  s->fetch = (double)gates * (double)s->hidden * (double)s->block * sizeof(float) > (double)cpu_l2_bytes() / 2;
  size_t size = gemm_job_scratch(j, p->threads);
  KILN_TRY(workspace_add(&size, s->steps * s->batch, gates, s->hidden, &s->gates_at));
  KILN_TRY(workspace_add(&size, gates, s->hidden, 1, &s->bias_at));
  KILN_TRY(workspace_add(&size, s->batch, s->hidden, 1, &s->cell_at));
  KILN_TRY(workspace_add(&size, s->batch, s->hidden, 1, &s->hidden_n_at));
  s->pack_ih = !w_ih->packing;
  size_t floats;
  if (s->pack_ih) {
    if (!gemm_packed_floats(s->in, gates * s->hidden, (int)nr, &floats))
      return KILN_FAIL(KILN_OUT_OF_MEMORY, "weights are too large");
    KILN_TRY(workspace_add(&size, (int64_t)floats, 1, 1, &s->w_ih_at));
  }
  const value *v = node_in(a->node, states + 2);
  if (v->constant && w_hh->data) {
    float *packed = ARENA_ARRAY(p->arena, float, gates *w_hh_gate_floats(s) + 1);
    if (!packed) return KILN_NO_MEMORY("packed weights");
    pack_w_hh(s, w_hh->data, packed);
    s->w_hh = packed;
  } else {
    KILN_TRY(workspace_add(&size, gates, w_hh_gate_floats(s), 1, &s->w_hh_at));
  }
  p->state = s;
  p->workspace_size = size;
  return KILN_OK;
}

static void rnn_cells(const rnn_step *t, int64_t row, int64_t j0, int64_t count) {
  const rnn_state *s = t->s;
  const int64_t h = s->hidden, at = row * h + j0;
  rnn_cell cell = {.h = t->h + at, .y = t->y + at, .count = count, .relu = s->relu};
  for (int g = 0; g < s->gates; g++) cell.gate[g] = t->gates + (row * s->gates + g) * h + j0;
  if (s->gates == 4) {
    cell.c = t->c + at;
    s->isa->lstm(&cell);
  } else if (s->gates == 3) {
    cell.hidden_n = t->hidden_n + at;
    s->isa->gru(&cell);
  } else {
    s->isa->rnn(&cell);
  }
}

static void rnn_task(void *user, int64_t index, int worker) {
  (void)worker;
  const rnn_step *t = user;
  const rnn_state *s = t->s;
  const int64_t h = s->hidden, j0 = index * s->block, count = h - j0 < s->block ? h - j0 : s->block;
  const gemm_isa *isa = s->inputs.isa;
  for (int64_t m = 0; m < s->batch; m += isa->mr) {
    const int mr = (int)(s->batch - m < isa->mr ? s->batch - m : isa->mr);
    const float *rows[GEMM_MAX_MR];
    for (int i = 0; i < mr; i++) rows[i] = t->h + (m + i) * h;
    for (int g = 0; g < s->gates; g++) {
      const bool apart = s->gates == 3 && g == 2; /* gru multiplies the hidden part of n by r */
      const gemm_strip strip = {.a = rows,
                                .taps = 1,
                                .kc = h,
                                .b = t->w_hh + g * w_hh_gate_floats(s) + j0 * h,
                                .b_k = isa->nr,
                                .b_panel = h * isa->nr,
                                .c = apart ? t->hidden_n + m * h + j0 : t->gates + (m * s->gates + g) * h + j0,
                                .ldc = apart ? h : s->gates * h,
                                .n = count,
                                .bias = apart && t->bias_n ? t->bias_n + j0 : NULL,
                                .accumulate = !apart,
                                .fetch = s->fetch,
                                .lo = -INFINITY,
                                .hi = INFINITY};
      isa->strip(&strip, mr);
    }
    for (int i = 0; i < mr; i++) rnn_cells(t, m + i, j0, count);
  }
}

/* What is added to all gates of the inputs: b_ih, and b_hh but for gru's n. */
static void rnn_bias(const rnn_state *s, const float *b_ih, const float *b_hh, float *out) {
  for (int64_t i = 0; i < s->gates * s->hidden; i++) {
    out[i] = b_ih ? b_ih[i] : 0.0f;
    if (b_hh && !(s->gates == 3 && i >= 2 * s->hidden)) out[i] += b_hh[i];
  }
}

static kiln_status rnn_run(const kernel_args *a) {
  const rnn_state *s = a->state;
  char *workspace = a->workspace;
  const int64_t h = s->hidden, rows = s->batch * h;
  const float *b_ih = gemm_optional(a, s->states + 3), *b_hh = gemm_optional(a, s->states + 4);
  float *gates = (float *)(void *)(workspace + s->gates_at), *bias = (float *)(void *)(workspace + s->bias_at);
  float *y = a->out[0].data;
  rnn_bias(s, b_ih, b_hh, bias);
  gemm_job j = s->inputs;
  j.args = a;
  j.scratch = workspace;
  j.a = a->in[0].data;
  j.b = a->in[s->states + 1].data;
  j.c = gates;
  j.bias = bias;
  if (s->pack_ih) {
    float *packed = (float *)(void *)(workspace + s->w_ih_at);
    for (int64_t p = 0; p * j.isa->nr < j.n; p++)
      gemm_pack_panel(j.b, 0, 1, s->in, 1, s->in, j.n, j.isa->nr, p, packed + p * j.b_panel);
    j.b = packed;
  }
  gemm_job_run(&j, a->pool);
  rnn_step t = {.s = s,
                .w_hh = s->w_hh,
                .bias_n = b_hh ? b_hh + 2 * h : NULL,
                .h = a->in[1].data,
                .hidden_n = (float *)(void *)(workspace + s->hidden_n_at),
                .c = (float *)(void *)(workspace + s->cell_at)};
  if (!t.w_hh) {
    float *packed = (float *)(void *)(workspace + s->w_hh_at);
    pack_w_hh(s, a->in[s->states + 2].data, packed);
    t.w_hh = packed;
  }
  if (s->states == 2 && rows > 0) memcpy(t.c, a->in[2].data, (size_t)rows * sizeof(float));
  for (int64_t step = 0; step < s->steps; step++) {
    const int64_t at = s->reverse ? s->steps - 1 - step : step;
    t.gates = gates + at * rows * s->gates;
    t.y = y + at * rows;
    if (rows > 0) pool_run(s->tasks > 1 ? a->pool : NULL, s->tasks, rnn_task, &t);
    t.h = t.y;
  }
  if (rows > 0) memcpy(a->out[1].data, t.h, (size_t)rows * sizeof(float));
  if (s->states == 2 && rows > 0) memcpy(a->out[2].data, t.c, (size_t)rows * sizeof(float));
  return KILN_OK;
}

static bool rnn_fits(const node *n, const char **why) { return gemm_fits_f32(n, why); }

#define RNN_ROW(set, level, nr, kind, gates, states)                                                           \
  {                                                                                                            \
    .op = #kind, .name = #kind ".gemm." #set, .isa = level, .fits = rnn_fits, .prepare = kind##_prepare_##set, \
    .run = rnn_run, .pack_operand = (states) + 1, .packing = "gemm_b:" #nr                                     \
  }
#define RNN_ROWS(set, level, nr)                                                                \
  static kiln_status lstm_prepare_##set(kernel_prep *p) { return rnn_prepare(p, level, 4, 2); } \
  static kiln_status gru_prepare_##set(kernel_prep *p) { return rnn_prepare(p, level, 3, 1); }  \
  static kiln_status rnn_prepare_##set(kernel_prep *p) { return rnn_prepare(p, level, 1, 1); }  \
  const kernel cpu_rnn_##set[] = {                                                              \
      RNN_ROW(set, level, nr, lstm, 4, 2),                                                      \
      RNN_ROW(set, level, nr, gru, 3, 1),                                                       \
      RNN_ROW(set, level, nr, rnn, 1, 1),                                                       \
      {.op = NULL},                                                                             \
  };
RNN_ROWS(avx512, ISA_AVX512, 32)
RNN_ROWS(avx2, ISA_AVX2, 16)
RNN_ROWS(scalar, ISA_SCALAR, 4)
