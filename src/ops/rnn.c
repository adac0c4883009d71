/* Recurrent layers: one layer and one direction per node; lowerings chain layers and directions. Gate order is
 * PyTorch's: lstm i f g o, gru r z n. */
#include <math.h>

#include "base/memory.h"
#include "ops/lowering.h"
#include "ops/spatial.h"

/* ---- inference --------------------------------------------------------------------------------------------------- */

/* Operands: x, `states` states, w_ih, w_hh, b_ih?, b_hh?; `gates` blocks of H rows in the weights. */
static kiln_status rnn_infer_any(graph *g, node *n, int states, int gates) {
  KILN_TRY(infer_float(n, 0));
  KILN_TRY(infer_rank_between(n, 0, 3, 3));
  const tensor_type *x = in_type(n, 0), *h = in_type(n, 1);
  for (int i = 1; i < n->own_inputs; i++) {
    if (!n->inputs[i].v) continue;
    const int rank = i <= states + 2 ? 2 : 1;
    KILN_TRY(infer_rank_between(n, i, rank, rank));
    if (in_type(n, i)->dtype != x->dtype) return INFER_FAIL(n, "operand %d has another dtype than x", i);
  }
  for (int i = 1; i <= states; i++) {
    KILN_TRY(infer_same_dim(g, n, "batch sizes of x and a state", x->dims[1], in_type(n, i)->dims[0]));
    KILN_TRY(infer_same_dim(g, n, "sizes of the states", h->dims[1], in_type(n, i)->dims[1]));
  }
  const dim rows_n = dim_mul(g->dims, h->dims[1], gates);
  const tensor_type *w_ih = in_type(n, states + 1), *w_hh = in_type(n, states + 2);
  KILN_TRY(infer_same_dim(g, n, "rows of w_ih", rows_n, w_ih->dims[0]));
  KILN_TRY(infer_same_dim(g, n, "rows of w_hh", rows_n, w_hh->dims[0]));
  KILN_TRY(infer_same_dim(g, n, "sizes of x and w_ih", x->dims[2], w_ih->dims[1]));
  KILN_TRY(infer_same_dim(g, n, "sizes of the state and w_hh", h->dims[1], w_hh->dims[1]));
  for (int i = states + 3; i < n->own_inputs; i++)
    if (n->inputs[i].v) KILN_TRY(infer_same_dim(g, n, "size of a bias", rows_n, in_type(n, i)->dims[0]));
  const dim y[3] = {x->dims[0], x->dims[1], h->dims[1]};
  set_out(n, 0, x->dtype, 3, y);
  for (int i = 1; i < n->n_outputs; i++) set_out(n, i, x->dtype, 2, y + 1);
  return KILN_OK;
}
static kiln_status lstm_infer(graph *g, node *n) { return rnn_infer_any(g, n, 2, 4); }
static kiln_status gru_infer(graph *g, node *n) { return rnn_infer_any(g, n, 1, 3); }
static kiln_status rnn_infer(graph *g, node *n) {
  const char *kind = node_str(n, "nonlinearity");
  if (!str_eq(kind, "tanh") && !str_eq(kind, "relu"))
    return INFER_FAIL(n, "attribute nonlinearity must be \"tanh\" or \"relu\"");
  return rnn_infer_any(g, n, 1, 1);
}

/* ---- reference --------------------------------------------------------------------------------------------------- */

typedef struct rnn_data {
  double *x, *h, *c, *w_ih, *w_hh, *b_ih, *b_hh, *gates_x, *gates_h;
  int64_t steps, batch, in, hidden, gates;
} rnn_data;

static void rnn_free(rnn_data *d) {
  double *all[] = {d->x, d->h, d->c, d->w_ih, d->w_hh, d->b_ih, d->b_hh, d->gates_x};
  for (size_t i = 0; i < KILN_COUNT(all); i++) mem_free(all[i]);
}

static kiln_status rnn_load(const kernel_args *a, int states, int64_t gates, rnn_data *d) {
  const tensor *x = &a->in[0];
  *d = (rnn_data){
      .steps = x->shape[0], .batch = x->shape[1], .in = x->shape[2], .hidden = a->in[1].shape[1], .gates = gates};
  KILN_TRY(ref_to_doubles(x, &d->x));
  KILN_TRY(ref_to_doubles(&a->in[1], &d->h));
  if (states == 2) KILN_TRY(ref_to_doubles(&a->in[2], &d->c));
  KILN_TRY(ref_to_doubles(&a->in[states + 1], &d->w_ih));
  KILN_TRY(ref_to_doubles(&a->in[states + 2], &d->w_hh));
  KILN_TRY(ref_to_doubles(&a->in[states + 3], &d->b_ih));
  KILN_TRY(ref_to_doubles(&a->in[states + 4], &d->b_hh));
  d->gates_x = mem_calloc((size_t)(2 * gates * d->hidden) + 1, sizeof(double));
  if (!d->gates_x) return KILN_NO_MEMORY("reference kernel");
  d->gates_h = d->gates_x + gates * d->hidden;
  return KILN_OK;
}

static void affine(const double *w, const double *b, const double *x, int64_t rows_n, int64_t columns, double *out) {
  for (int64_t r = 0; r < rows_n; r++) {
    double sum = b ? b[r] : 0;
    for (int64_t k = 0; k < columns; k++) sum += w[r * columns + k] * x[k];
    out[r] = sum;
  }
}

static double sigmoid(double v) { return 1 / (1 + exp(-v)); }

static void lstm_cell(const rnn_data *d, double *h, double *c) {
  const int64_t n = d->hidden;
  for (int64_t i = 0; i < n; i++) {
    double gate[4];
    for (int k = 0; k < 4; k++) gate[k] = d->gates_x[k * n + i] + d->gates_h[k * n + i];
    c[i] = sigmoid(gate[1]) * c[i] + sigmoid(gate[0]) * tanh(gate[2]);
    h[i] = sigmoid(gate[3]) * tanh(c[i]);
  }
}

/* n = tanh(x part + r * h part); h = (1 - z) n + z h */
static void gru_cell(const rnn_data *d, double *h) {
  const int64_t n = d->hidden;
  for (int64_t i = 0; i < n; i++) {
    const double r = sigmoid(d->gates_x[i] + d->gates_h[i]), z = sigmoid(d->gates_x[n + i] + d->gates_h[n + i]);
    const double candidate = tanh(d->gates_x[2 * n + i] + r * d->gates_h[2 * n + i]);
    h[i] = (1 - z) * candidate + z * h[i];
  }
}

static void plain_cell(const rnn_data *d, double *h, bool relu) {
  for (int64_t i = 0; i < d->hidden; i++) {
    const double v = d->gates_x[i] + d->gates_h[i];
    h[i] = !relu ? tanh(v) : v < 0 ? 0 : v;
  }
}

static kiln_status rnn_run(const kernel_args *a, int states, int64_t gates) {
  const bool reverse = arg_bool(a, "reverse"), relu = gates == 1 && str_eq(arg_attr(a, "nonlinearity")->u.s, "relu");
  rnn_data d;
  const kiln_status status = rnn_load(a, states, gates, &d);
  if (status == KILN_OK) {
    const tensor *y = &a->out[0];
    for (int64_t s = 0; s < d.steps; s++) {
      const int64_t t = reverse ? d.steps - 1 - s : s;
      for (int64_t n = 0; n < d.batch; n++) {
        double *h = d.h + n * d.hidden;
        affine(d.w_ih, d.b_ih, d.x + (t * d.batch + n) * d.in, gates * d.hidden, d.in, d.gates_x);
        affine(d.w_hh, d.b_hh, h, gates * d.hidden, d.hidden, d.gates_h);
        if (gates == 4) {
          lstm_cell(&d, h, d.c + n * d.hidden);
        } else if (gates == 3) {
          gru_cell(&d, h);
        } else {
          plain_cell(&d, h, relu);
        }
        for (int64_t i = 0; i < d.hidden; i++)
          ref_store(y, t * y->strides[0] + n * y->strides[1] + i * y->strides[2], h[i]);
      }
    }
    ref_from_doubles(d.h, &a->out[1]);
    if (states == 2) ref_from_doubles(d.c, &a->out[2]);
  }
  rnn_free(&d);
  return status;
}
static kiln_status lstm_ref(const kernel_args *a) { return rnn_run(a, 2, 4); }
static kiln_status gru_ref(const kernel_args *a) { return rnn_run(a, 1, 3); }
static kiln_status rnn_ref(const kernel_args *a) { return rnn_run(a, 1, 1); }

/* ---- PyTorch ----------------------------------------------------------------------------------------------------- */

enum { RNN_MAX_LAYERS = 64, RNN_MAX_PARAMS = RNN_MAX_LAYERS * 2 * 4 };

typedef struct rnn_kind {
  const char *op, *nonlinearity;
  int states;
} rnn_kind;

static node *rnn_node(builder *b, const rnn_kind *k, value *x, value *const *state, value *const *weights, bool biases,
                      bool reverse) {
  value *w_ih = weights[0], *w_hh = weights[1], *b_ih = biases ? weights[2] : NULL, *b_hh = biases ? weights[3] : NULL;
  if (k->states == 2)
    return build_node(b, k->op, IN(x, state[0], state[1], w_ih, w_hh, b_ih, b_hh), ATTRS(A_BOOL("reverse", reverse)));
  if (k->nonlinearity)
    return build_node(b, k->op, IN(x, state[0], w_ih, w_hh, b_ih, b_hh),
                      ATTRS(A_BOOL("reverse", reverse), A_STR("nonlinearity", k->nonlinearity)));
  return build_node(b, k->op, IN(x, state[0], w_ih, w_hh, b_ih, b_hh), ATTRS(A_BOOL("reverse", reverse)));
}

/* Concatenates final states [B, H] to [layers * directions, B, H]. */
static value *stacked(builder *b, value **list, int count) {
  for (int i = 0; i < count; i++) list[i] = lowering_unsqueeze(b, list[i], 0);
  for (int i = 0; i < count; i++)
    if (!list[i]) return NULL;
  return count == 1 ? list[0] : build(b, "concat", count, list, ATTRS(A_INT("axis", 0)));
}

typedef struct rnn_call {
  int layers, directions, per_cell;
  bool biases, batch_first;
  value *states[2]; /* [layers * directions, B, H] */
  value *params[RNN_MAX_PARAMS];
} rnn_call;

static kiln_status rnn_read(lower_call *c, const rnn_kind *k, rnn_call *r) {
  const dim layers = call_int(c, "num_layers");
  if (!dim_is_const(layers) || layers < 1 || layers > RNN_MAX_LAYERS)
    return LOWER_FAIL(c, "argument num_layers: expected 1 to %d", RNN_MAX_LAYERS);
  if (call_bool(c, "train") && call_float(c, "dropout") != 0)
    return LOWER_FAIL(c, "dropout is on: export the model in eval() mode");
  r->layers = (int)layers;
  r->directions = call_bool(c, "bidirectional") ? 2 : 1;
  r->biases = call_bool(c, "has_biases");
  r->batch_first = call_bool(c, "batch_first");
  r->per_cell = r->biases ? 4 : 2;
  if (k->states == 2) {
    if (call_tensors(c, "hx", r->states, 2) != 2) return LOWER_FAIL(c, "argument hx: expected two states");
  } else {
    KILN_TRY(lowering_tensor(c, "hx", &r->states[0]));
  }
  const int expected = r->layers * r->directions * r->per_cell;
  if (call_tensors(c, "params", r->params, RNN_MAX_PARAMS) != expected)
    return LOWER_FAIL(c, "argument params: expected %d weights (projections are not supported)", expected);
  KILN_TRY(graph_check(c->b.graph));
  for (int i = 0; i < k->states; i++)
    if (!r->states[i] || r->states[i]->type.rank != 3) return LOWER_FAIL(c, "argument hx: expected rank 3");
  return KILN_OK;
}

static kiln_status rnn_emit(lower_call *c, const rnn_kind *k) {
  builder *b = &c->b;
  rnn_call r;
  value *x;
  KILN_TRY(rnn_read(c, k, &r));
  KILN_TRY(lowering_tensor(c, "input", &x));
  if (x->type.rank != 3) return LOWER_FAIL(c, "argument input has %d dimensions, expected 3", x->type.rank);
  if (r.batch_first) x = lower_permute(b, x, 3, (dim[]){1, 0, 2});
  value *last[2][RNN_MAX_LAYERS * 2];
  for (int layer = 0; layer < r.layers; layer++) {
    value *y[2] = {NULL};
    for (int d = 0; d < r.directions; d++) {
      const int cell = layer * r.directions + d;
      value *state[2] = {NULL};
      for (int s = 0; s < k->states; s++) state[s] = lowering_select(b, r.states[s], 0, cell);
      const node *n = rnn_node(b, k, x, state, r.params + cell * r.per_cell, r.biases, d == 1);
      if (!n) return graph_check(b->graph);
      y[d] = n->outputs[0];
      for (int s = 0; s < k->states; s++) last[s][cell] = n->outputs[1 + s];
    }
    x = r.directions == 1 ? y[0] : build(b, "concat", IN(y[0], y[1]), ATTRS(A_INT("axis", 2)));
  }
  if (r.batch_first && x) x = lower_permute(b, x, 3, (dim[]){1, 0, 2});
  call_return(c, 0, x);
  for (int s = 0; s < k->states; s++) call_return(c, 1 + s, stacked(b, last[s], r.layers * r.directions));
  return KILN_OK;
}

static const rnn_kind kind_lstm = {"lstm", NULL, 2}, kind_gru = {"gru", NULL, 1}, kind_tanh = {"rnn", "tanh", 1},
                      kind_relu = {"rnn", "relu", 1};
static kiln_status lower_lstm(lower_call *c) { return rnn_emit(c, &kind_lstm); }
static kiln_status lower_gru(lower_call *c) { return rnn_emit(c, &kind_gru); }
static kiln_status lower_rnn_tanh(lower_call *c) { return rnn_emit(c, &kind_tanh); }
static kiln_status lower_rnn_relu(lower_call *c) { return rnn_emit(c, &kind_relu); }

/* A cell is a sequence of one step. */
static kiln_status cell_emit(lower_call *c, const rnn_kind *k) {
  builder *b = &c->b;
  value *x, *state[2] = {NULL}, *weights[4];
  KILN_TRY(lowering_tensor(c, "input", &x));
  if (k->states == 2) {
    if (call_tensors(c, "hx", state, 2) != 2) return LOWER_FAIL(c, "argument hx: expected two states");
  } else {
    KILN_TRY(lowering_tensor(c, "hx", &state[0]));
  }
  KILN_TRY(lowering_tensor(c, "w_ih", &weights[0]));
  KILN_TRY(lowering_tensor(c, "w_hh", &weights[1]));
  weights[2] = call_tensor(c, "b_ih");
  weights[3] = call_tensor(c, "b_hh");
  if (x->type.rank != 2) return LOWER_FAIL(c, "argument input has %d dimensions, expected 2", x->type.rank);
  const node *n = rnn_node(b, k, lowering_unsqueeze(b, x, 0), state, weights, true, false);
  if (!n) return graph_check(b->graph);
  for (int s = 0; s < k->states; s++) call_return(c, s, n->outputs[1 + s]);
  return KILN_OK;
}
static kiln_status lower_lstm_cell(lower_call *c) { return cell_emit(c, &kind_lstm); }
static kiln_status lower_gru_cell(lower_call *c) { return cell_emit(c, &kind_gru); }
static kiln_status lower_tanh_cell(lower_call *c) { return cell_emit(c, &kind_tanh); }
static kiln_status lower_relu_cell(lower_call *c) { return cell_emit(c, &kind_relu); }

/* ---- rows -------------------------------------------------------------------------------------------------------- */

#define SEQUENCE_ARGS                                                                                      \
  "Tensor[] params, bool has_biases, int num_layers, float dropout, bool train, bool bidirectional, bool " \
  "batch_first) -> "                                                                                       \
  "(Tensor, Tensor"
#define CELL_ARGS "Tensor w_ih, Tensor w_hh, Tensor? b_ih=None, Tensor? b_hh=None) -> "

static const torch_row lstm_torch[] = {
    {"aten::lstm.input(Tensor input, Tensor[] hx, " SEQUENCE_ARGS ", Tensor)", NULL, lower_lstm},
    {"aten::lstm_cell(Tensor input, Tensor[] hx, " CELL_ARGS "(Tensor, Tensor)", NULL, lower_lstm_cell},
    {NULL, NULL, NULL}};
static const torch_row gru_torch[] = {
    {"aten::gru.input(Tensor input, Tensor hx, " SEQUENCE_ARGS ")", NULL, lower_gru},
    {"aten::gru_cell(Tensor input, Tensor hx, " CELL_ARGS "Tensor", NULL, lower_gru_cell},
    {NULL, NULL, NULL}};
static const torch_row rnn_torch[] = {
    {"aten::rnn_tanh.input(Tensor input, Tensor hx, " SEQUENCE_ARGS ")", NULL, lower_rnn_tanh},
    {"aten::rnn_relu.input(Tensor input, Tensor hx, " SEQUENCE_ARGS ")", NULL, lower_rnn_relu},
    {"aten::rnn_tanh_cell(Tensor input, Tensor hx, " CELL_ARGS "Tensor", NULL, lower_tanh_cell},
    {"aten::rnn_relu_cell(Tensor input, Tensor hx, " CELL_ARGS "Tensor", NULL, lower_relu_cell},
    {NULL, NULL, NULL}};

static const char *const lstm_cases[] = {
    "x:f32[T,2,5] h0:f32[2,7] c0:f32[2,7] w_ih:f32[28,5] w_hh:f32[28,7] b_ih:f32[28] b_hh:f32[28] T:1,2,9",
    "x:f32[4,B,8] h0:f32[B,16] c0:f32[B,16] w_ih:f32[64,8] w_hh:f32[64,16] b_ih:f32[64] b_hh:f32[64] reverse=1 B:1,3,8",
    "x:f32[3,2,5] h0:f32[2,3] c0:f32[2,3] w_ih:f32[12,5] w_hh:f32[12,3]",
    "x:f32[3,1,33] h0:f32[1,65] c0:f32[1,65] w_ih:f32[260,33] w_hh:f32[260,65] b_ih:f32[260] b_hh:f32[260]",
    "x:f32[3,0,5] h0:f32[0,3] c0:f32[0,3] w_ih:f32[12,5] w_hh:f32[12,3]",
    /* sizes for which GPU kernels keep the weights on the chip, in one block and in several */
    "x:f16[5,3,16] h0:f16[3,64] c0:f16[3,64] w_ih:f16[256,16]=uniform(-0.2,0.2) w_hh:f16[256,64]=uniform(-0.2,0.2) "
    "b_ih:f16[256] b_hh:f16[256]",
    "x:bf16[3,9,8] h0:bf16[9,256] c0:bf16[9,256] w_ih:bf16[1024,8]=uniform(-0.1,0.1) "
    "w_hh:bf16[1024,256]=uniform(-0.1,0.1) reverse=1",
    "x:f16[3,19,8] h0:f16[19,1056] c0:f16[19,1056] w_ih:f16[4224,8]=uniform(-0.1,0.1) "
    "w_hh:f16[4224,1056]=uniform(-0.05,0.05)",
    "x:f16[2,2,8] h0:f16[2,512] c0:f16[2,512] w_ih:f16[2048,8]=uniform(-0.1,0.1) w_hh:f16[2048,512]=uniform(-0.1,0.1)",
    NULL};
static const char *const gru_cases[] = {
    "x:f32[T,2,5] h0:f32[2,7] w_ih:f32[21,5] w_hh:f32[21,7] b_ih:f32[21] b_hh:f32[21] T:1,2,9",
    "x:f32[4,B,8] h0:f32[B,16] w_ih:f32[48,8] w_hh:f32[48,16] b_ih:f32[48] b_hh:f32[48] reverse=1 B:1,3,8",
    "x:f32[3,2,5] h0:f32[2,3] w_ih:f32[9,5] w_hh:f32[9,3]",
    "x:f32[3,6,5] h0:f32[6,150] w_ih:f32[450,5]=uniform(-0.2,0.2) w_hh:f32[450,150]=uniform(-0.1,0.1) b_hh:f32[450]",
    "x:f16[4,17,16] h0:f16[17,128] w_ih:f16[384,16]=uniform(-0.2,0.2) w_hh:f16[384,128]=uniform(-0.2,0.2) "
    "b_ih:f16[384] b_hh:f16[384]",
    NULL};
static const char *const rnn_cases[] = {
    "x:f32[T,2,5] h0:f32[2,7] w_ih:f32[7,5] w_hh:f32[7,7] b_ih:f32[7] b_hh:f32[7] T:1,2,9",
    "x:f32[4,2,5] h0:f32[2,7] w_ih:f32[7,5] w_hh:f32[7,7] reverse=1 nonlinearity=\"relu\"", NULL};

static const op rows[] = {
    {.name = "lstm",
     .sig = "x h0 c0 w_ih w_hh b_ih? b_hh? -> y h c",
     .attrs = "reverse:bool=0",
     .infer = lstm_infer,
     .ref = lstm_ref,
     .torch = lstm_torch,
     .cases = lstm_cases,
     .tolerance = 1e-4f},
    {.name = "gru",
     .sig = "x h0 w_ih w_hh b_ih? b_hh? -> y h",
     .attrs = "reverse:bool=0",
     .infer = gru_infer,
     .ref = gru_ref,
     .torch = gru_torch,
     .cases = gru_cases,
     .tolerance = 1e-4f},
    {.name = "rnn",
     .sig = "x h0 w_ih w_hh b_ih? b_hh? -> y h",
     .attrs = "reverse:bool=0 nonlinearity:str=\"tanh\"",
     .infer = rnn_infer,
     .ref = rnn_ref,
     .torch = rnn_torch,
     .cases = rnn_cases,
     .tolerance = 1e-4f},
};

extern const op_family ops_rnn;
OP_FAMILY(ops_rnn, rows);
