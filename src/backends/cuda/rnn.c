/* LSTM, GRU and plain recurrences: one matrix product for the inputs of all steps, then the steps (kernels/rnn.cu): in one launch by clusters
 * of blocks that keep the weights, where type, size and GPU allow, else one launch each. All of it is part of the program's graph. */
#include <string.h>

#include "backends/cuda/gemm.h"
#include "backends/cuda/internal.h"
#include "backends/cuda/texts.h"
#include "base/memory.h"

/* How the steps are written and cut; see kernels/rnn.cu. */
typedef enum rnn_kind { RNN_STEP, RNN_TILE, RNN_CLUSTER, RNN_ROWS, RNN_BLOCK } rnn_kind;
typedef struct rnn_cut {
  rnn_kind kind;
  int cluster, columns, split, threads;
  int64_t units;
  bool in_registers;
  size_t shared;
} rnn_cut;

typedef struct rnn_state {
  const cuda_function *step;
  gemm_plan inputs;
  rnn_cut cut;
  int states, gates, items;
  bool b_ih, reverse;
  size_t gates_at, cell_at;
} rnn_state;

static bool cluster_fits(const cuda_facts *gpu, int64_t hidden, int gates, int cluster, int columns, bool in_registers,
                         rnn_cut *out) {
  if (hidden % (16LL * cluster)) return false;
  const int units = (int)hidden / cluster, groups = units / 16;
  int split = 1;
  if (groups > 16) return false;
  while (groups * split * 2 <= 16 && hidden / 16 % (split * 2LL) == 0) split *= 2;
  const int slices = (int)(hidden / 16) / split, threads = groups * split * 32;
  if (in_registers && gates * slices * 4 > (threads <= 256 ? 128 : 64)) return false;
  const size_t pitch = (size_t)hidden + 8, n = (size_t)columns, u = (size_t)units, g = (size_t)gates;
  const size_t shared =
      2 * n * pitch * 2 + n * u * 2 + (size_t)split * g * n * (u + 4) * 4 + (in_registers ? 0 : g * u * pitch * 2);
  if (shared > gpu->shared_block) return false;
  *out = (rnn_cut){RNN_CLUSTER, cluster, columns, split, threads, units, in_registers, shared};
  return true;
}

static bool rows_fit(const cuda_facts *gpu, int64_t hidden, int gates, int cluster, int columns, rnn_cut *out) {
  const int64_t units = cuda_div_up(hidden, cluster), rows = gates * units;
  int split = 1;
  if (rows > 512) return false;
  while (rows * split * 2 <= 512 && hidden / (split * 2) >= 16) split *= 2;
  const int64_t slice = cuda_div_up(hidden, split), all = units * cluster,
                high = slice * split > all ? slice * split : all;
  if (slice > 72) return false;
  const size_t shared = (size_t)((2 * high + units + split * rows) * columns) * 4;
  if (shared > gpu->shared_block) return false;
  *out = (rnn_cut){RNN_ROWS, cluster, columns, split, (int)cuda_div_up(rows * split, 32) * 32, units, true, shared};
  return true;
}

/* One block if its registers hold the weights and a thread all gates of its cells; else the smallest cluster whose registers hold them, else
 * whose shared memory does: barriers of small clusters are cheaper. What no cluster holds goes step by step. */
static rnn_cut cut_of(const cuda_facts *gpu, kiln_dtype d, int64_t hidden, int64_t batch, int gates, bool aligned) {
  const bool cores = (d == KILN_F16 || d == KILN_BF16) && aligned;
  const bool fits = gpu->arch >= 90 && hidden <= 4096;
  rnn_cut cut = {0};
  if (cores && hidden % 16 == 0 && hidden <= 256 && gates * hidden / 4 <= 128)
    return (rnn_cut){RNN_BLOCK, 1, 8, 1, (int)hidden * 2, hidden, true, 0};
  for (int in_registers = 1; fits && cores && in_registers >= 0; in_registers--) {
    for (int cluster = 1; cluster <= 16; cluster *= 2) {
      const int columns = batch > 8 && (batch + 7) / 8 * cluster > 64 ? 16 : 8; /* sequences of a cluster */
      if (cluster_fits(gpu, hidden, gates, cluster, columns, in_registers, &cut)) return cut;
    }
  }
  for (int cluster = 1; fits && d == KILN_F32 && cluster <= 16; cluster *= 2) {
    if (rows_fit(gpu, hidden, gates, cluster, batch <= 4 ? 4 : 8, &cut)) return cut;
  }
  if (cores && hidden % 32 == 0) {
    const int columns = batch <= 8 ? 8 : batch <= 16 ? 16 : 32, warps = 8;
    const int64_t registers = cuda_div_up(hidden / 32, warps) * gates * 8;
    cut = (rnn_cut){RNN_TILE,   0,  columns,          warps,
                    warps * 32, 16, registers <= 128, (size_t)(warps * gates * columns * 20) * 4};
    if (cut.shared <= gpu->shared_block) return cut;
  }
  return (rnn_cut){0};
}

static bool given(const kernel_prep *p, int i) { return p->args.n_in > i && p->args.in[i].rank >= 0; }

/* gates = x w_ih^T + b_ih: a problem of its own whose result is a matrix in the workspace. */
static kiln_status prepare_inputs(kernel_prep *p, rnn_state *s, int64_t hidden) {
  const tensor *x = &p->args.in[0], *w = &p->args.in[s->states + 1];
  const int64_t rows = x->shape[0] * x->shape[1], columns = s->gates * hidden;
  const int size = (int)kiln_dtype_size(x->dtype), x_align = cuda_in_alignment(p, 0),
            w_align = cuda_in_alignment(p, s->states + 1);
  size_t elements;
  if (!size_mul((size_t)rows, (size_t)columns, &elements) || elements > PTRDIFF_MAX / 8)
    return KILN_FAIL(KILN_OUT_OF_MEMORY, "gates of %lld steps are too large", (long long)x->shape[0]);
  KILN_TRY(workspace_reserve(p, elements * (size_t)size, &s->gates_at));
  tensor result = {.dtype = x->dtype, .rank = 2, .shape = {rows, columns}, .strides = {columns, 1}};
  int64_t offsets[8];
  for (int i = 0; i < p->args.n_in; i++) offsets[i] = p->offsets ? p->offsets[i] : -1;
  offsets[p->args.n_in] = 0;
  kernel_prep sub = *p;
  sub.args.out = &result;
  sub.args.n_out = 1;
  sub.offsets = offsets;
  const gemm_problem q = {
      .dtype = x->dtype,
      .m = rows,
      .n = columns,
      .k = x->shape[2],
      .batches = 1,
      .lda = x->shape[2],
      .ldb = x->shape[2],
      .a_offset = "0LL",
      .b_offset = "0LL",
      .bias_offset = "0LL",
      .out_row = "row",
      .out_col = "col",
      .has_bias = s->b_ih,
      .bias_constant = cuda_is_constant(p, s->states + 3),
      .b_constant = w->data != NULL,
      .a_elements = tensor_numel(x),
      .a_aligned = x_align == 16,
      .b_aligned = w_align == 16,
      .vec_a = cuda_vector(16 / size, size, x_align, 1, (int64_t[]){x->shape[2]}),
      .vec_b = cuda_vector(16 / size, size, w_align, 1, (int64_t[]){x->shape[2]}),
      .vec_c = s->b_ih ? cuda_bias_vector(&sub, s->states + 3, cuda_result_vector(&sub, 8, columns))
                       : cuda_result_vector(&sub, 8, columns),
  };
  KILN_TRY(gemm_plan_make(&sub, &q, 0, &s->inputs));
  p->workspace_size = sub.workspace_size;
  return KILN_OK;
}

static kiln_status prepare_steps(kernel_prep *p, rnn_state *s, int64_t batch, int64_t hidden) {
  const tensor *x = &p->args.in[0];
  const int size = (int)kiln_dtype_size(x->dtype), w = s->states + 2;
  int align = 16;
  const int border[] = {cuda_in_alignment(p, 1), cuda_out_alignment(p, 0), cuda_out_alignment(p, 1)};
  for (int i = 0; i < 3; i++) align = border[i] < align ? border[i] : align;
  const int w_align = cuda_in_alignment(p, w), least = w_align < align ? w_align : align;
  const rnn_cut c = cut_of(cuda_device_facts(p->device), x->dtype, hidden, batch, s->gates, w_align == 16);
  s->cut = c;
  s->items = batch < 8 ? (int)batch : 8;
  const char *front = cuda_text(
      p,
      "#define KIND %d\n#define IN %s\n#define MX \"%s\"\n#define STEPS %lld\n#define BATCH %lld\n#define HIDDEN %lld\n"
      "#define GATES %d\n#define HAS_B_HH %d\n#define RELU %d\n#define REVERSE %d\n#define CLUSTER %d\n#define COLUMNS "
      "%d\n"
      "#define SPLIT %d\n#define WARPS %d\n#define THREADS %d\n#define UNITS %lld\n#define IN_REGISTERS %d\n#define "
      "CONSTANT %d\n"
      "#define ALIGNED %d\n#define ITEMS %d\n#define V %d\n",
      (int)c.kind, cuda_type(x->dtype), x->dtype == KILN_BF16 ? "bf16" : "f16", (long long)x->shape[0],
      (long long)batch, (long long)hidden, s->gates, given(p, s->states + 4),
      s->gates == 1 && strcmp(arg_attr(&p->args, "nonlinearity")->u.s, "relu") == 0, s->reverse, c.cluster, c.columns,
      c.split, c.split, c.threads, (long long)c.units, c.in_registers, p->args.in[w].data != NULL, align == 16,
      s->items, cuda_vector(16 / size, size, least, 1, &hidden));
  if (!front) return KILN_OUT_OF_MEMORY;
  static const char *const entries[] = {"rnn_step", "rnn_tile", "rnn_cluster", "rnn_rows", "rnn_block"};
  const cuda_source source = {.entry = entries[c.kind], .defines = front, .text = cuda_text_rnn, .shared = c.shared};
  return cuda_compile(p, &source, &s->step);
}

static kiln_status prepare_rnn(kernel_prep *p) {
  const char *name = p->args.node->op->name;
  const tensor *x = &p->args.in[0];
  const int64_t batch = x->shape[1], hidden = p->args.in[1].shape[1];
  rnn_state *s = ARENA_NEW(p->arena, rnn_state);
  if (!s) return KILN_NO_MEMORY("recurrence");
  p->state = s;
  s->gates = strcmp(name, "lstm") == 0 ? 4 : strcmp(name, "gru") == 0 ? 3 : 1;
  s->states = s->gates == 4 ? 2 : 1;
  s->b_ih = given(p, s->states + 3);
  s->reverse = arg_bool(&p->args, "reverse");
  if (x->shape[0] == 0) return KILN_FAIL(KILN_UNSUPPORTED, "%s over a sequence of no steps", name);
  if (batch == 0 || hidden == 0) return KILN_OK;
  if (batch * hidden > INT32_MAX / 8)
    return KILN_FAIL(KILN_UNSUPPORTED, "%s: a state of %lld x %lld is too large for a GPU kernel", name,
                     (long long)batch, (long long)hidden);
  KILN_TRY(prepare_inputs(p, s, hidden));
  KILN_TRY(prepare_steps(p, s, batch, hidden));
  if (s->gates == 4 && s->cut.kind <= RNN_TILE)
    KILN_TRY(workspace_reserve(p, (size_t)(batch * hidden) * sizeof(float), &s->cell_at));
  return KILN_OK;
}

static kiln_status run_cluster(const kernel_args *a, const rnn_state *s, void *gates, void *b_hh) {
  void *h = a->in[1].data, *w_hh = a->in[s->states + 2].data, *y = a->out[0].data, *h_last = a->out[1].data;
  void *c0 = s->states == 2 ? a->in[2].data : NULL, *c_last = s->states == 2 ? a->out[2].data : NULL;
  const int64_t clusters = cuda_div_up(a->in[0].shape[1], s->cut.columns);
  const cuda_launch_config launch = {
      .function = s->step,
      .grid = {(unsigned)(clusters * s->cut.cluster), 1, 1},
      .block = {(unsigned)s->cut.threads, 1, 1},
      .cluster = {s->cut.cluster > 1 ? (unsigned)s->cut.cluster : 0, 0, 0},
      .shared = s->cut.shared,
      .overlap = true,
      .params = CUDA_PARAMS(&gates, &h, &w_hh, &b_hh, &c0, &y, &h_last, &c_last),
  };
  return cuda_launch(a, &launch);
}

static kiln_status run_rnn(const kernel_args *a) {
  const rnn_state *s = a->state;
  const tensor *x = &a->in[0], *y = &a->out[0];
  if (!s->step) return KILN_OK;
  const int64_t steps = x->shape[0], batch = x->shape[1], hidden = a->in[1].shape[1], items = batch * hidden;
  const size_t size = kiln_dtype_size(x->dtype);
  char *gates = (char *)a->workspace + s->gates_at;
  void *b_ih = s->b_ih ? a->in[s->states + 3].data : NULL;
  void *b_hh = a->n_in > s->states + 4 ? a->in[s->states + 4].data : NULL;
  tensor result = {.dtype = x->dtype, .rank = 2, .data = gates};
  kernel_args inputs = *a;
  inputs.out = &result;
  inputs.n_out = 1;
  KILN_TRY(gemm_plan_run(&inputs, &s->inputs, x->data, a->in[s->states + 1].data, b_ih));
  if (s->cut.kind >= RNN_CLUSTER) return run_cluster(a, s, gates, b_hh);
  void *w_hh = a->in[s->states + 2].data, *h = a->in[1].data, *h_last = a->out[1].data;
  void *c0 = s->states == 2 ? a->in[2].data : NULL, *c_last = s->states == 2 ? a->out[2].data : NULL;
  void *c = (char *)a->workspace + s->cell_at;
  const bool tile = s->cut.kind == RNN_TILE;
  const int64_t blocks = tile ? hidden / 16 : cuda_div_up(cuda_div_up(batch, s->items) * hidden, 4);
  for (int64_t k = 0; k < steps; k++) {
    const int64_t at = s->reverse ? steps - 1 - k : k;
    void *y_at = (char *)y->data + (size_t)(at * items) * size;
    void *gates_at = gates + (size_t)(at * items * s->gates) * size;
    int first = k == 0, last = k == steps - 1;
    const cuda_launch_config launch = {
        .function = s->step,
        .grid = {(unsigned)blocks, tile ? (unsigned)cuda_div_up(batch, s->cut.columns) : 1, 1},
        .block = {tile ? (unsigned)s->cut.threads : 128, 1, 1},
        .shared = s->cut.shared,
        .overlap = cuda_device_facts(a->device)->arch >= 90,
        .params = CUDA_PARAMS(&gates_at, &h, &w_hh, &b_hh, &c0, &c, &y_at, &h_last, &c_last, &first, &last),
    };
    KILN_TRY(cuda_launch(a, &launch));
    h = y_at;
  }
  return KILN_OK;
}

#define RNN(op_name) \
  {.op = op_name, .name = "rnn.cuda", .isa = 80, .fits = cuda_fits_float, .prepare = prepare_rnn, .run = run_rnn},

const kernel cuda_plain_rows[] = {RNN("lstm") RNN("gru") RNN("rnn"){.op = NULL}};
