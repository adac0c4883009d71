/* The CPU backend's matrix kernels (linear, matmul, conv, recurrent) against the reference kernels, each row that fits,
 * on many odd sizes: packed and plain weights, strided operands and results, epilogues, with and without threads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <math.h>

#include "backends/cpu/kernels.h"
#include "base/cpu_features.h"
#include "base/memory.h"
#include "runtime/program.h"

#define GROUP(name) name##_avx512, name##_avx2, name##_scalar
static const kernel *const groups[] = {GROUP(cpu_gemm), GROUP(cpu_depthwise), GROUP(cpu_winograd), GROUP(cpu_conv),
                                       GROUP(cpu_rnn)};

static pool *workers;
static int rows_run;
static uint32_t seed = 1;
static float random_float(void) {
  seed = seed * 1664525u + 1013904223u;
  return (float)(seed >> 8) / 8388608.0f - 1.0f;
}
static int64_t pick(int64_t lo, int64_t hi) {
  seed = seed * 1664525u + 1013904223u;
  return lo + (int64_t)((seed >> 10) % (uint32_t)(hi - lo + 1));
}

typedef struct memory {
  float *base;
  size_t count;
} memory;

/* A tensor of this type in memory of its own, exactly as large as needed. `gap`: the last dimension's rows lie that
 * much further apart; `step`: of the last dimension, -1: see below. */
static tensor make_tensor(const tensor_type *type, int64_t gap, int64_t step, memory *m) {
  tensor t = {.dtype = type->dtype, .rank = type->rank};
  int64_t stride = step;
  for (int r = type->rank - 1; r >= 0; r--) {
    t.shape[r] = type->dims[r];
    t.strides[r] = stride;
    stride *= t.shape[r];
    if (r == type->rank - 1) stride += gap;
  }
  if (step < 0) { /* channels first in memory: the last dimension is the slowest but for the first */
    stride = 1;
    for (int r = type->rank - 2; r >= 1; r--) {
      t.strides[r] = stride;
      stride *= t.shape[r];
    }
    t.strides[type->rank - 1] = stride;
    t.strides[0] = stride * t.shape[type->rank - 1];
  }
  int64_t last = 0;
  for (int r = 0; r < type->rank; r++) last += (t.shape[r] - 1) * t.strides[r];
  m->count = tensor_numel(&t) > 0 ? (size_t)last + 1 : 1;
  m->base = malloc(m->count * sizeof(float));
  assert_non_null(m->base);
  for (size_t i = 0; i < m->count; i++) m->base[i] = 0.5f * random_float();
  t.data = m->base;
  return t;
}

typedef struct options {
  int64_t in_gap, in_step, out_gap, out_step;
  bool plain_weights;
  int threads;
} options;

static float value_at(const tensor *t, int64_t linear) {
  int64_t offset = 0;
  for (int r = t->rank - 1; r >= 0; r--) {
    offset += linear % t->shape[r] * t->strides[r];
    linear /= t->shape[r];
  }
  return ((const float *)t->data)[offset];
}

static void run_row(const node *n, const kernel *k, tensor *in, tensor *want, const options *o) {
  kernel_args args = {.node = n, .attrs = n->attrs, .in = in, .n_in = n->n_inputs, .n_out = n->n_outputs};
  tensor local[16], out[4];
  memory packed = {0}, made[4];
  memcpy(local, in, (size_t)n->n_inputs * sizeof *in);
  args.in = local;
  args.out = out;
  args.pool = o->threads > 1 ? workers : NULL;
  if (k->packing && !o->plain_weights) {
    const packing *p = packing_find(k->packing);
    const tensor_type *type = &n->inputs[k->pack_operand].v->type;
    size_t size, plain_size;
    assert_non_null(p);
    assert_true(p->size(type, &size));
    assert_true(type_bytes(type, &plain_size));
    packed.base = malloc(size + 1);
    float *again = malloc((p->unpack ? plain_size : size) + 1);
    p->pack(type, local[k->pack_operand].data, packed.base);
    if (p->unpack) {
      p->unpack(type, packed.base, again);
      assert_memory_equal(again, local[k->pack_operand].data, plain_size);
    } else {
      for (int64_t part = 0; part < p->parts(type); part++)
        p->pack_part(type, local[k->pack_operand].data, again, part);
      assert_memory_equal(again, packed.base, size);
    }
    free(again);
    local[k->pack_operand].data = packed.base;
    local[k->pack_operand].packing = k->packing;
  }
  for (int i = 0; i < n->n_outputs; i++) {
    out[i] = make_tensor(&n->outputs[i]->type, i ? 0 : o->out_gap, i ? 1 : o->out_step, &made[i]);
    for (size_t e = 0; e < made[i].count; e++) made[i].base[e] = 12345.0f;
  }
  arena a = {0};
  kernel_prep p = {.args = args, .arena = &a, .threads = o->threads};
  if (k->prepare) assert_int_equal(k->prepare(&p), KILN_OK);
  void *workspace = NULL;
  assert_int_equal(posix_memalign(&workspace, 64, p.workspace_size + 1), 0);
  memset(workspace, 0xff, p.workspace_size);
  args.state = p.state;
  args.workspace = workspace;
  args.workspace_size = p.workspace_size;
  assert_int_equal(k->run(&args), KILN_OK);
  for (int i = 0; i < n->n_outputs; i++) {
    size_t touched = 0;
    float most =
        0; /* Winograd's transforms spread an error of one output over its tile: measured against the largest */
    for (int64_t e = 0; strstr(k->name, "winograd") && e < tensor_numel(&want[i]); e++)
      most = fmaxf(most, fabsf(value_at(&want[i], e)));
    for (int64_t e = 0; e < tensor_numel(&want[i]); e++) {
      const float got = value_at(&out[i], e), expected = value_at(&want[i], e);
      if (!(fabsf(got - expected) <= 1e-5f * (1.0f + fmaxf(most, fabsf(expected)))) &&
          !(isnan(got) && isnan(expected))) {
        fail_msg("%s result %d element %lld: %.8g, expected %.8g", k->name, i, (long long)e, got, expected);
      }
    }
    for (size_t e = 0; e < made[i].count; e++) touched += made[i].base[e] != 12345.0f;
    assert_true(touched <= (size_t)tensor_numel(&want[i])); /* nothing between the rows was written */
    free(made[i].base);
  }
  rows_run++;
  free(workspace);
  free(packed.base);
  arena_free(&a);
}

/* All rows for node `n`, with random operands. Returns how many rows took it. */
static int check_node(graph *g, const node *n, const options *o) {
  assert_int_equal(graph_check(g), KILN_OK);
  assert_non_null(n);
  tensor in[16], want[4];
  memory in_memory[16], want_memory[4];
  for (int i = 0; i < n->n_inputs; i++) {
    in[i] = (tensor){0};
    in_memory[i].base = NULL;
    const value *v = n->inputs[i].v;
    if (v) in[i] = make_tensor(&v->type, i ? 0 : o->in_gap, i ? 1 : o->in_step, &in_memory[i]);
  }
  for (int i = 0; i < n->n_outputs; i++) want[i] = make_tensor(&n->outputs[i]->type, 0, 1, &want_memory[i]);
  assert_int_equal(reference_run_node(n, n->attrs, in, n->n_inputs, want, n->n_outputs, NULL), KILN_OK);
  int taken = 0;
  for (size_t q = 0; q < KILN_COUNT(groups); q++) {
    for (const kernel *k = groups[q]; k->op; k++) {
      const char *why = "";
      if (strcmp(k->op, n->op->name) != 0 || k->isa > (int)cpu_best_isa() || (k->fits && !k->fits(n, &why))) continue;
      run_row(n, k, in, want, o);
      taken++;
    }
  }
  for (int i = 0; i < n->n_inputs; i++) free(in_memory[i].base);
  for (int i = 0; i < n->n_outputs; i++) free(want_memory[i].base);
  return taken;
}

static graph *new_graph(void) {
  graph *g = NULL;
  assert_int_equal(ops_init(), KILN_OK);
  assert_int_equal(graph_create(&g), KILN_OK);
  return g;
}

static value *param(graph *g, int rank, const int64_t *shape) {
  const tensor_type type = type_of(KILN_F32, rank, shape);
  return graph_add_param(&g->body, NULL, &type);
}
#define PARAM(g, ...) param((g), (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (int64_t[]){__VA_ARGS__})

/* A constant: check_node gives it other values, which only the kernels' own arguments show. */
static value *constant_zeros(graph *g, int rank, const int64_t *shape) {
  const tensor_type type = type_of(KILN_F32, rank, shape);
  size_t bytes = 0;
  assert_true(type_bytes(&type, &bytes));
  void *zeros = calloc(1, bytes + 1);
  value *v = graph_constant_copy(g, &type, zeros);
  free(zeros);
  return v;
}

/* Moves "relu", or "add of another operand, then sigmoid" into the node. */
static void add_epilogue(graph *g, node *n, int kind) {
  if (!kind || !n) return;
  block *b = graph_new_block(g, n);
  const tensor_type type = n->outputs[0]->type;
  value *anchor = graph_add_param(b, NULL, &type), *result, *extra = NULL;
  builder at = builder_at_end(b);
  if (kind == 1) {
    result = build(&at, "relu", IN(anchor), NO_ATTRS);
  } else {
    extra = graph_add_param(&g->body, NULL, &type);
    value *inner = graph_add_param(b, NULL, &type);
    result = build(&at, "sigmoid", IN(build(&at, "add", IN(anchor, inner), NO_ATTRS)), NO_ATTRS);
  }
  block_set_results(b, 1, &result);
  node_set_epilogue(n, b, extra ? 1 : 0, &extra);
}

static options random_options(void) {
  const int64_t kind = pick(0, 6);
  return (options){.in_gap = kind == 1   ? 3
                             : kind == 2 ? 64
                                         : 0,
                   .in_step = kind == 3   ? 2
                              : kind == 4 ? -1
                                          : 1,
                   .out_gap = pick(0, 3) == 0 ? 5 : 0,
                   .out_step = pick(0, 7) == 0   ? 3
                               : pick(0, 7) == 0 ? -1
                                                 : 1,
                   .plain_weights = pick(0, 2) == 0,
                   .threads = (int)pick(1, 2)};
}

static const int64_t odd_sizes[] = {1, 2, 3, 5, 7, 13, 14, 15, 16, 17, 29, 31, 32, 33, 48, 63, 64, 65, 100, 131};
static int64_t odd(int64_t most) {
  int64_t size;
  do size = odd_sizes[pick(0, (int64_t)KILN_COUNT(odd_sizes) - 1)];
  while (size > most);
  return size;
}

static void test_linear(void **state) {
  (void)state;
  for (int i = 0; i < 120; i++) {
    graph *g = new_graph();
    const int64_t m = odd(131), k = i == 0 ? 1500 : odd(131), n = odd(131);
    value *x = i % 3 ? PARAM(g, m, k) : PARAM(g, 2, m, k), *w = PARAM(g, n, k), *b = i % 2 ? PARAM(g, n) : NULL;
    builder at = builder_at_end(&g->body);
    node *made = build_node(&at, "linear", IN(x, w, b), NO_ATTRS);
    add_epilogue(g, made, i % 3);
    const options o = random_options();
    assert_true(check_node(g, made, &o) > 0);
    graph_destroy(g);
  }
}

static void test_matmul(void **state) {
  (void)state;
  for (int i = 0; i < 120; i++) {
    graph *g = new_graph();
    const int64_t m = odd(65), k = odd(131), n = odd(131);
    const bool transpose = i & 1;
    const int64_t b0 = transpose ? n : k, b1 = transpose ? k : n;
    value *a, *b;
    switch (i / 2 % 5) {
      case 0:
        a = PARAM(g, m, k), b = PARAM(g, b0, b1);
        break;
      case 1:
        a = PARAM(g, 3, m, k), b = PARAM(g, 3, b0, b1);
        break;
      case 2:
        a = PARAM(g, 3, m, k), b = PARAM(g, b0, b1);
        break;
      case 3:
        a = PARAM(g, 2, 1, m, k), b = PARAM(g, 3, b0, b1);
        break;
      default:
        a = PARAM(g, m, k), b = PARAM(g, 2, 3, b0, b1);
        break;
    }
    builder at = builder_at_end(&g->body);
    node *made = build_node(&at, "matmul", IN(a, b), ATTRS(A_BOOL("transpose_b", transpose)));
    add_epilogue(g, made, i % 3);
    const options o = random_options();
    assert_true(check_node(g, made, &o) > 0);
    graph_destroy(g);
  }
}

typedef struct conv_case {
  int count;
  int64_t batch, in[3], channels, out_channels, kernel[3], stride[3], pad[3], pad_end[3], dilation[3], output_pad[3],
      groups;
  bool transposed, bias;
  int chain;
} conv_case;

static node *build_conv(graph *g, const conv_case *c) {
  int64_t x[5] = {c->batch}, w[5];
  for (int i = 0; i < c->count; i++) {
    x[1 + i] = c->in[i];
    w[2 + i] = c->kernel[i];
  }
  x[1 + c->count] = c->channels;
  w[0] = c->transposed ? c->channels : c->out_channels;
  w[1] = (c->transposed ? c->out_channels : c->channels) / c->groups;
  value *xv = param(g, c->count + 2, x), *wv = constant_zeros(g, c->count + 2, w),
        *bv = c->bias ? PARAM(g, c->out_channels) : NULL;
  builder at = builder_at_end(&g->body);
  node *n = build_node(&at, "conv", IN(xv, wv, bv),
                       ATTRS(A_INTS("stride", c->stride, c->count), A_INTS("pad", c->pad, c->count),
                             A_INTS("pad_end", c->pad_end, c->count), A_INTS("dilation", c->dilation, c->count),
                             A_INT("groups", c->groups), A_BOOL("transposed", c->transposed),
                             A_INTS("output_pad", c->output_pad, c->count), A_BOOL("channels_last", true)));
  add_epilogue(g, n, c->chain);
  return n;
}

static void check_conv(const conv_case *c, const options *o) {
  graph *g = new_graph();
  node *n = build_conv(g, c);
  if (!n || n->outputs[0]->type.dims[1] <= 0) {
    fail_msg("conv case does not build: %s", error_text());
  }
  assert_true(check_node(g, n, o) > 0);
  graph_destroy(g);
}

static conv_case random_conv(bool transposed) {
  conv_case c = {.count = (int)pick(1, 3),
                 .batch = pick(1, 2),
                 .transposed = transposed,
                 .bias = pick(0, 1),
                 .chain = (int)pick(0, 2)};
  c.groups = pick(0, 2) ? 1 : pick(2, 4);
  c.channels = c.groups * (c.groups > 1 ? odd(17) : odd(48));
  c.out_channels = c.groups * odd(c.groups > 1 ? 33 : 65);
  for (int i = 0; i < c.count; i++) {
    c.kernel[i] = pick(1, c.count == 3 ? 3 : 5);
    c.stride[i] = pick(1, 3);
    c.dilation[i] = pick(0, 2) ? 1 : pick(1, 3);
    c.pad[i] = pick(0, c.kernel[i] - 1);
    c.pad_end[i] = pick(0, c.kernel[i] - 1);
    c.output_pad[i] = transposed ? pick(0, c.stride[i] - 1) : 0;
    c.in[i] = (c.kernel[i] - 1) * c.dilation[i] + 1 + pick(0, c.count == 3 ? 4 : 9);
  }
  return c;
}

static void test_conv(void **state) {
  (void)state;
  for (int i = 0; i < 250; i++) {
    const conv_case c = random_conv(i % 3 == 0);
    const options o = random_options();
    check_conv(&c, &o);
  }
}

static void test_conv_pointwise(void **state) {
  (void)state;
  for (int i = 0; i < 40; i++) {
    conv_case c = {.count = 2,
                   .batch = pick(1, 2),
                   .in = {pick(1, 9), pick(1, 9)},
                   .channels = odd(64),
                   .out_channels = odd(100),
                   .kernel = {1, 1},
                   .stride = {1, 1},
                   .dilation = {1, 1},
                   .groups = 1,
                   .bias = true,
                   .chain = i % 3};
    if (i % 4 == 0) c.stride[0] = c.stride[1] = 2;
    const options o = random_options();
    check_conv(&c, &o);
  }
}

static void test_conv_first_layer(void **state) {
  (void)state;
  for (int i = 0; i < 30; i++) {
    const int64_t k = i % 3 == 0 ? 7 : 3;
    const conv_case c = {.count = 2,
                         .batch = pick(1, 2),
                         .in = {pick(7, 30), pick(7, 30)},
                         .channels = pick(1, 4),
                         .out_channels = odd(65),
                         .kernel = {k, k},
                         .stride = {2, pick(1, 2)},
                         .pad = {k / 2, k / 2},
                         .pad_end = {k / 2, k / 2},
                         .dilation = {1, 1},
                         .groups = 1,
                         .bias = i % 2,
                         .chain = i % 3};
    const options o = random_options();
    check_conv(&c, &o);
  }
}

static void test_depthwise(void **state) {
  (void)state;
  for (int i = 0; i < 120; i++) {
    conv_case c = random_conv(false);
    c.channels = c.out_channels = c.groups = odd(131);
    if (i % 2) {
      for (int d = 0; d < c.count; d++) {
        c.dilation[d] = 1;
        c.kernel[d] = i % 4 == 1 ? 3 : c.count < 3 && i % 8 == 3 ? 7 : 5;
        c.stride[d] = 1 + i / 8 % 2;
        c.pad[d] = c.pad_end[d] = c.kernel[d] / 2;
        c.in[d] = pick(1, c.count == 3 ? 6 : 25);
      }
    }
    const options o = random_options();
    check_conv(&c, &o);
  }
}

/* 3x3, stride 1, many channels: what Winograd's algorithm takes. */
static void test_conv_3x3(void **state) {
  (void)state;
  for (int i = 0; i < 40; i++) {
    const conv_case c = {.count = 2,
                         .batch = pick(1, 2),
                         .in = {pick(1, 21), pick(1, 21)},
                         .channels = odd(131),
                         .out_channels = odd(131),
                         .kernel = {3, 3},
                         .stride = {1, 1},
                         .pad = {1, pick(1, 2)},
                         .pad_end = {pick(1, 2), 1},
                         .dilation = {1, 1},
                         .groups = 1,
                         .bias = i % 2,
                         .chain = i % 3};
    const options o = random_options();
    check_conv(&c, &o);
  }
}

static void test_nan_and_infinity_pass(void **state) {
  (void)state;
  graph *g = new_graph();
  value *x = PARAM(g, 3, 5), *w = PARAM(g, 7, 5);
  builder at = builder_at_end(&g->body);
  node *n = build_node(&at, "linear", IN(x, w, NULL), NO_ATTRS);
  add_epilogue(g, n, 1);
  float xs[15], ws[35];
  for (int i = 0; i < 15; i++) xs[i] = 1.0f;
  for (int i = 0; i < 35; i++) ws[i] = 1.0f;
  xs[0] = NAN;
  xs[5] = INFINITY;
  xs[10] = -INFINITY;
  tensor in[3] = {{.data = xs, .dtype = KILN_F32, .rank = 2, .shape = {3, 5}, .strides = {5, 1}},
                  {.data = ws, .dtype = KILN_F32, .rank = 2, .shape = {7, 5}, .strides = {5, 1}}};
  float ys[21];
  tensor want = {.data = ys, .dtype = KILN_F32, .rank = 2, .shape = {3, 7}, .strides = {7, 1}};
  for (int i = 0; i < 21; i++) ys[i] = i < 7 ? NAN : i < 14 ? INFINITY : 0.0f;
  const options o = {.in_step = 1, .out_step = 1, .threads = 1};
  for (size_t q = 0; q < KILN_COUNT(groups); q++) {
    for (const kernel *k = groups[q]; k->op; k++) {
      if (strcmp(k->op, "linear") != 0 || k->isa > (int)cpu_best_isa()) continue;
      arena a = {0};
      float got[21];
      tensor out = want;
      out.data = got;
      kernel_args args = {.node = n, .attrs = n->attrs, .in = in, .n_in = n->n_inputs, .out = &out, .n_out = 1};
      kernel_prep p = {.args = args, .arena = &a, .threads = o.threads};
      assert_int_equal(k->prepare(&p), KILN_OK);
      args.state = p.state;
      args.workspace = NULL;
      assert_int_equal(posix_memalign(&args.workspace, 64, p.workspace_size + 1), 0);
      assert_int_equal(k->run(&args), KILN_OK);
      for (int i = 0; i < 21; i++) assert_true(got[i] == ys[i] || (isnan(got[i]) && isnan(ys[i])));
      free(args.workspace);
      arena_free(&a);
    }
  }
  graph_destroy(g);
}

static void test_recurrent(void **state) {
  (void)state;
  for (int i = 0; i < 60; i++) {
    graph *g = new_graph();
    const int64_t t = pick(1, 7), batch = odd(16), input = odd(65), hidden = odd(65);
    const char *const names[] = {"lstm", "gru", "rnn"};
    const int kind = i % 3;
    const int64_t gates = kind == 0 ? 4 : kind == 1 ? 3 : 1;
    value *x = PARAM(g, t, batch, input), *h0 = PARAM(g, batch, hidden), *c0 = PARAM(g, batch, hidden);
    value *w_ih = PARAM(g, gates * hidden, input), *w_hh = PARAM(g, gates * hidden, hidden);
    value *b_ih = i % 2 ? PARAM(g, gates * hidden) : NULL, *b_hh = i % 4 < 2 ? PARAM(g, gates * hidden) : NULL;
    builder at = builder_at_end(&g->body);
    const bool reverse = i / 3 % 2;
    node *n = kind == 0
                  ? build_node(&at, names[0], IN(x, h0, c0, w_ih, w_hh, b_ih, b_hh), ATTRS(A_BOOL("reverse", reverse)))
              : kind == 1
                  ? build_node(&at, names[1], IN(x, h0, w_ih, w_hh, b_ih, b_hh), ATTRS(A_BOOL("reverse", reverse)))
                  : build_node(&at, names[2], IN(x, h0, w_ih, w_hh, b_ih, b_hh),
                               ATTRS(A_BOOL("reverse", reverse), A_STR("nonlinearity", i % 6 == 2 ? "relu" : "tanh")));
    const options o = {.in_step = 1, .out_step = 1, .plain_weights = i % 5 == 0, .threads = 1 + i % 2};
    assert_true(check_node(g, n, &o) > 0);
    graph_destroy(g);
  }
}

/* Every allocation of every prepare may fail: an error, and nothing lost. */
static void prepare_without_memory(const node *n, const kernel *k, tensor *in, tensor *out) {
  for (int64_t after = 0; after < 100; after++) {
    arena a = {0};
    kernel_prep p = {
        .args = {.node = n, .attrs = n->attrs, .in = in, .n_in = n->n_inputs, .out = out, .n_out = n->n_outputs},
        .arena = &a,
        .threads = 2};
    const int64_t live = mem_test_live_blocks();
    mem_test_fail_after(after);
    const kiln_status status = k->prepare(&p);
    mem_test_fail_after(-1);
    arena_free(&a);
    assert_int_equal(mem_test_live_blocks(), live);
    if (status == KILN_OK) return;
    assert_int_equal(status, KILN_OUT_OF_MEMORY);
  }
  fail_msg("%s still fails after 100 allocations", k->name);
}

static void test_out_of_memory(void **state) {
  (void)state;
  const conv_case cases[] = {
      {.count = 2,
       .batch = 1,
       .in = {20, 20},
       .channels = 64,
       .out_channels = 64,
       .kernel = {3, 3},
       .stride = {1, 1},
       .pad = {1, 1},
       .pad_end = {1, 1},
       .dilation = {1, 1},
       .groups = 1,
       .chain = 2},
      {.count = 2,
       .batch = 1,
       .in = {9, 9},
       .channels = 8,
       .out_channels = 8,
       .kernel = {4, 4},
       .stride = {2, 2},
       .dilation = {1, 1},
       .groups = 2,
       .transposed = true,
       .chain = 2},
      {.count = 1,
       .batch = 1,
       .in = {30},
       .channels = 24,
       .out_channels = 24,
       .kernel = {3},
       .stride = {1},
       .dilation = {1},
       .groups = 24,
       .chain = 2},
  };
  int checked = 0;
  for (size_t c = 0; c < KILN_COUNT(cases); c++) {
    graph *g = new_graph();
    const node *n = build_conv(g, &cases[c]);
    assert_int_equal(graph_check(g), KILN_OK);
    tensor in[8] = {{0}}, out;
    memory made[9] = {{0}};
    for (int i = 0; i < n->n_inputs; i++) {
      if (n->inputs[i].v) in[i] = make_tensor(&n->inputs[i].v->type, 0, 1, &made[i]);
    }
    out = make_tensor(&n->outputs[0]->type, 0, 1, &made[8]);
    for (size_t q = 0; q < KILN_COUNT(groups); q++) {
      for (const kernel *k = groups[q]; k->op; k++) {
        const char *why = "";
        if (strcmp(k->op, "conv") != 0 || k->isa > (int)cpu_best_isa() || !k->fits(n, &why)) continue;
        prepare_without_memory(n, k, in, &out);
        checked++;
      }
    }
    for (size_t i = 0; i < KILN_COUNT(made); i++) free(made[i].base);
    graph_destroy(g);
  }
  assert_true(checked >= 3);
}

static int setup(void **state) {
  (void)state;
  return pool_create(2, &workers) == KILN_OK ? 0 : -1;
}
static int teardown(void **state) {
  (void)state;
  pool_destroy(workers);
  print_message("%d kernel runs compared\n", rows_run);
  return 0;
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_linear),
      cmocka_unit_test(test_matmul),
      cmocka_unit_test(test_conv),
      cmocka_unit_test(test_conv_pointwise),
      cmocka_unit_test(test_conv_first_layer),
      cmocka_unit_test(test_depthwise),
      cmocka_unit_test(test_conv_3x3),
      cmocka_unit_test(test_nan_and_infinity_pass),
      cmocka_unit_test(test_recurrent),
      cmocka_unit_test(test_out_of_memory),
  };
  return cmocka_run_group_tests(tests, setup, teardown);
}
