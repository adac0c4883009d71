/* LSTM, GRU and plain recurrences: one launch for each step; a warp makes one element of the state from its rows of the weights. The whole
 * sequence is part of the program's graph. */
#include <stdio.h>
#include <string.h>

#include "backends/cuda/codegen.h"
#include "backends/cuda/internal.h"

static const char rnn_text[] =
    "FN float sigmoid(float v) { return 1.0f / (1.0f + expf(-v)); }\n"
    "extern \"C\" __global__ void __launch_bounds__(128) rnn(const IN *__restrict__ x, const IN *h, const IN "
    "*__restrict__ w_ih,\n"
    "    const IN *__restrict__ w_hh, const IN *__restrict__ b_ih, const IN *__restrict__ b_hh, const IN *c0, float "
    "*c, IN *y, IN *h_last,\n"
    "    IN *c_last, int first, int last) {\n"
    "  KILN_WAIT;\n"
    "  const int lane = threadIdx.x % 32, item = blockIdx.x * 4 + threadIdx.x / 32;\n"
    "  if (item >= BATCH * HIDDEN) return;\n"
    "  const int n = item / HIDDEN, i = item % HIDDEN;\n"
    "  float gx[GATES], gh[GATES];\n"
    "#pragma unroll\n"
    "  for (int g = 0; g < GATES; g++) {\n"
    "    const IN *w = w_ih + (i64)(g * HIDDEN + i) * INPUT, *u = w_hh + (i64)(g * HIDDEN + i) * HIDDEN;\n"
    "    float a = 0, b = 0;\n"
    "    for (int k = lane; k < INPUT; k += 32) a += to_float(w[k]) * to_float(x[(i64)n * INPUT + k]);\n"
    "    for (int k = lane; k < HIDDEN; k += 32) b += to_float(u[k]) * to_float(h[(i64)n * HIDDEN + k]);\n"
    "    gx[g] = warp_sum(a) + (HAS_B_IH ? to_float(b_ih[g * HIDDEN + i]) : 0.0f);\n"
    "    gh[g] = warp_sum(b) + (HAS_B_HH ? to_float(b_hh[g * HIDDEN + i]) : 0.0f);\n"
    "  }\n"
    "  if (lane) return;\n"
    "  float v;\n"
    "#if GATES == 4\n"
    "  const float before = first ? to_float(c0[item]) : c[item];\n"
    "  const float now = sigmoid(gx[1] + gh[1]) * before + sigmoid(gx[0] + gh[0]) * tanhf(gx[2] + gh[2]);\n"
    "  c[item] = now;\n  if (last) c_last[item] = from_float<IN>(now);\n"
    "  v = sigmoid(gx[3] + gh[3]) * tanhf(now);\n"
    "#elif GATES == 3\n"
    "  const float r = sigmoid(gx[0] + gh[0]), z = sigmoid(gx[1] + gh[1]);\n"
    "  v = (1 - z) * tanhf(gx[2] + r * gh[2]) + z * to_float(h[item]);\n"
    "#else\n"
    "  v = gx[0] + gh[0];\n  v = RELU ? (v < 0 ? 0.0f : v) : tanhf(v);\n"
    "#endif\n"
    "  y[item] = from_float<IN>(v);\n  if (last) h_last[item] = from_float<IN>(v);\n}\n";

typedef struct rnn_state {
  const cuda_function *f;
  int states;
  bool reverse;
} rnn_state;

static kiln_status prepare_rnn(kernel_prep *p) {
  const char *name = p->args.node->op->name;
  const int gates = strcmp(name, "lstm") == 0 ? 4 : strcmp(name, "gru") == 0 ? 3 : 1, states = gates == 4 ? 2 : 1;
  const tensor *x = &p->args.in[0], *in = p->args.in;
  const bool b_ih = p->args.n_in > states + 3 && in[states + 3].rank >= 0,
             b_hh = p->args.n_in > states + 4 && in[states + 4].rank >= 0;
  const char *text_out = NULL;
  rnn_state *s = ARENA_NEW(p->arena, rnn_state);
  if (!s) return KILN_NO_MEMORY("recurrence");
  s->states = states;
  s->reverse = arg_bool(&p->args, "reverse");
  text t = {0};
  text_printf(&t,
              "#define IN %s\n#define BATCH %lld\n#define HIDDEN %lld\n#define INPUT %lld\n#define GATES %d\n#define "
              "HAS_B_IH %d\n#define HAS_B_HH %d\n#define RELU %d\n",
              cuda_type(x->dtype), (long long)x->shape[1], (long long)in[1].shape[1], (long long)x->shape[2], gates,
              b_ih, b_hh, gates == 1 && strcmp(arg_attr(&p->args, "nonlinearity")->u.s, "relu") == 0);
  text_puts(&t, rnn_text);
  KILN_TRY(cuda_text_keep(p, &t, &text_out));
  p->state = s;
  p->workspace_size = gates == 4 ? (size_t)tensor_numel(&in[1]) * sizeof(float) + 16 : 0;
  if (x->shape[0] == 0) return KILN_FAIL(KILN_UNSUPPORTED, "%s over a sequence of no steps", name);
  return cuda_compile(p, &(cuda_source){.entry = "rnn", .text = text_out}, &s->f);
}

static kiln_status run_rnn(const kernel_args *a) {
  const rnn_state *s = a->state;
  const tensor *x = &a->in[0], *y = &a->out[0];
  const int64_t steps = x->shape[0], items = tensor_numel(&a->in[1]);
  const size_t size = kiln_dtype_size(x->dtype);
  const int64_t x_step = x->shape[1] * x->shape[2];
  void *w_ih = a->in[s->states + 1].data, *w_hh = a->in[s->states + 2].data;
  void *b_ih = a->n_in > s->states + 3 ? a->in[s->states + 3].data : NULL,
       *b_hh = a->n_in > s->states + 4 ? a->in[s->states + 4].data : NULL;
  void *c0 = s->states == 2 ? a->in[2].data : NULL, *c_last = s->states == 2 ? a->out[2].data : NULL, *c = a->workspace,
       *h_last = a->out[1].data;
  void *h = a->in[1].data;
  for (int64_t k = 0; k < steps; k++) {
    const int64_t at = s->reverse ? steps - 1 - k : k;
    void *x_at = (char *)x->data + (size_t)(at * x_step) * size, *y_at = (char *)y->data + (size_t)(at * items) * size;
    int first = k == 0, last = k == steps - 1;
    KILN_TRY(cuda_launch_1d(
        a, s->f, cuda_div_up(items, 4), 128, 0,
        CUDA_PARAMS(&x_at, &h, &w_ih, &w_hh, &b_ih, &b_hh, &c0, &c, &y_at, &h_last, &c_last, &first, &last)));
    h = y_at;
  }
  return KILN_OK;
}

#define RNN(op_name) \
  {.op = op_name, .name = "rnn.cuda", .isa = 80, .fits = cuda_fits_float, .prepare = prepare_rnn, .run = run_rnn},

const kernel cuda_plain_rows[] = {RNN("lstm") RNN("gru") RNN("rnn"){.op = NULL}};
