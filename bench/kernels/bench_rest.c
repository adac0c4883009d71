/* Times the CPU kernels that are not matrix work: GB/s next to what memcpy reaches on the same bytes, or GFLOP/s next
 * to the FMA peak of one core times the threads. Prints one line for each case; the best of several runs. gcc -O2
 * -std=gnu17 -Isrc -Iinclude bench/kernels/bench_rest.c build/libkiln.a -lz -ljansson -lpthread -lm -o bench_rest
 *   ./bench_rest [threads [part of a case's or kernel's name]] */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "backends/backend.h"
#include "base/cpu_features.h"
#include "base/memory.h"
#include "ops/ref.h"

typedef struct bench {
  graph *g;
  builder b;
  tensor in[8];
  int n_in;
  value *inputs[8];
} bench;

static int threads = 1;
static const char *filter = "";
static pool *workers;

static value *add_in(bench *c, kiln_dtype dtype, int rank, const int64_t *shape) {
  tensor *t = &c->in[c->n_in];
  *t = (tensor){.dtype = dtype, .rank = rank};
  memcpy(t->shape, shape, (size_t)rank * sizeof *shape);
  tensor_make_contiguous_strides(t);
  t->data = mem_alloc_aligned((size_t)tensor_numel(t) * kiln_dtype_size(dtype));
  for (int64_t i = 0, n = tensor_numel(t); i < n; ++i) {
    const double v = (double)((i * 7919) % 2003) / 1000.0 - 1.0;
    ref_store(t, i, dtype == KILN_F32 ? v : fabs(v) * 50.0);
  }
  const tensor_type type = type_of(dtype, rank, shape);
  return c->inputs[c->n_in++] = graph_add_param(&c->g->body, NULL, &type);
}
#define IN_F32(c, ...) \
  add_in(c, KILN_F32, (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (const int64_t[]){__VA_ARGS__})

static bench begin(void) {
  bench c = {0};
  if (graph_create(&c.g) != KILN_OK) exit(1);
  c.b = builder_at_end(&c.g->body);
  return c;
}

/* Wall time; for long runs of one thread its CPU time, as other processes would take part of the wall time. */
typedef struct bench_time {
  double wall, cpu;
} bench_time;
static bench_time bench_now(void) {
  struct timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return (bench_time){time_now(), (double)t.tv_sec + 1e-9 * (double)t.tv_nsec};
}
static double bench_since(bench_time start) {
  const bench_time now = bench_now();
  const double wall = now.wall - start.wall;
  return threads == 1 && wall > 2e-3 ? now.cpu - start.cpu : wall;
}

static double seconds_of(const kernel *k, const kernel_args *a) {
  double best = 1e9;
  const double start = time_now();
  for (int i = 0; i < 5 || time_now() - start < 0.25; ++i) {
    const bench_time t = bench_now();
    if (k->run(a) != KILN_OK) exit(1);
    const double s = bench_since(t);
    if (s < best) best = s;
  }
  return best;
}

static double copy_seconds(size_t bytes) { /* read + write of bytes/2 each */
  static char *x, *y;
  static size_t size;
  if (bytes / 2 > size) {
    mem_free_aligned(x), mem_free_aligned(y);
    size = bytes / 2;
    x = mem_alloc_aligned(size), y = mem_alloc_aligned(size);
    if (!x || !y) exit(1);
    memset(x, 1, size), memset(y, 2, size);
  }
  double best = 1e9;
  for (int i = 0; i < 20; ++i) {
    const bench_time t = bench_now();
    memcpy(y, x, bytes / 2);
    const double s = bench_since(t);
    if (s < best) best = s;
  }
  return best;
}

static void finish(bench *c, const char *label, node *n, double flops) {
  if (!n || graph_check(c->g) != KILN_OK) {
    printf("%-44s %s\n", label, kiln_last_error());
    graph_destroy(c->g);
    return;
  }
  tensor out[4];
  size_t bytes = 0;
  for (int i = 0; i < c->n_in; ++i) bytes += (size_t)tensor_numel(&c->in[i]) * kiln_dtype_size(c->in[i].dtype);
  for (int i = 0; i < n->n_outputs; ++i) {
    out[i] = (tensor){.dtype = n->outputs[i]->type.dtype, .rank = n->outputs[i]->type.rank};
    for (int d = 0; d < out[i].rank; ++d) out[i].shape[d] = n->outputs[i]->type.dims[d];
    tensor_make_contiguous_strides(&out[i]);
    out[i].data = mem_alloc_aligned((size_t)tensor_numel(&out[i]) * kiln_dtype_size(out[i].dtype));
    bytes += (size_t)tensor_numel(&out[i]) * kiln_dtype_size(out[i].dtype);
  }
  for (const kernel *const *k = backend_cpu.kernels; *k; ++k) {
    const char *why;
    if (strcmp((*k)->op, n->op->name) != 0 || (*k)->isa > (int)cpu_best_isa() || ((*k)->fits && !(*k)->fits(n, &why)))
      continue;
    if (*filter && !strstr(label, filter) && !strstr((*k)->name, filter)) continue;
    if (strstr((*k)->name, ".scalar") && !*filter) continue;
    arena memory = {0};
    kernel_prep p = {
        .args = {.node = n, .attrs = n->attrs, .in = c->in, .n_in = c->n_in, .out = out, .n_out = n->n_outputs},
        .arena = &memory,
        .threads = threads};
    if ((*k)->prepare && (*k)->prepare(&p) != KILN_OK) exit(1);
    kernel_args a = p.args;
    a.state = p.state;
    a.workspace = mem_alloc_aligned(p.workspace_size + 64);
    a.pool = workers;
    const double s = seconds_of(*k, &a);
    if (flops > 0.0)
      printf("%-44s %-24s %9.1f us %8.1f GFLOP/s\n", label, (*k)->name, s * 1e6, flops / s * 1e-9);
    else
      printf("%-44s %-24s %9.1f us %8.1f GB/s   memcpy %6.1f us\n", label, (*k)->name, s * 1e6,
             (double)bytes / s * 1e-9, copy_seconds(bytes) * 1e6);
    fflush(stdout);
    mem_free_aligned(a.workspace);
    arena_free(&memory);
  }
  for (int i = 0; i < c->n_in; ++i) mem_free_aligned(c->in[i].data);
  for (int i = 0; i < n->n_outputs; ++i) mem_free_aligned(out[i].data);
  graph_destroy(c->g);
}

static void masked_attention(const char *label, int64_t h, int64_t l, int64_t e, kiln_dtype mask) {
  bench c = begin();
  IN_F32(&c, 1, h, l, e);
  IN_F32(&c, 1, h, l, e);
  IN_F32(&c, 1, h, l, e);
  add_in(&c, mask, 4, (const int64_t[]){1, 1, l, l});
  node *n = build_node(&c.b, "attention", 4, c.inputs, ATTRS(A_FLOAT("scale", 0.125)));
  finish(&c, label, n, 4.0 * (double)(h * l) * (double)(l * e));
}

static void attention(const char *label, int64_t b, int64_t h, int64_t l, int64_t s, int64_t e, bool causal) {
  bench c = begin();
  IN_F32(&c, b, h, l, e);
  IN_F32(&c, b, h, s, e);
  IN_F32(&c, b, h, s, e);
  node *n = build_node(&c.b, "attention", 3, c.inputs, ATTRS(A_FLOAT("scale", 0.125), A_BOOL("causal", causal)));
  finish(&c, label, n, 4.0 * (double)(b * h * l) * (double)(s * e) * (causal ? 0.5 : 1.0));
}

static void unary(const char *name, int64_t size) {
  bench c = begin();
  IN_F32(&c, size);
  char label[64];
  snprintf(label, sizeof label, "%s %lld", name, (long long)size);
  finish(&c, label, build_node(&c.b, name, 1, c.inputs, NO_ATTRS), 0);
}

static void attentions(void) {
  attention("attention ViT-B 12x197x64", 1, 12, 197, 197, 64, false);
  attention("attention BERT 12x128x64", 1, 12, 128, 128, 64, false);
  masked_attention("attention bool mask 12x128x64", 12, 128, 64, KILN_BOOL);
  masked_attention("attention float mask 12x128x64", 12, 128, 64, KILN_F32);
  attention("attention GPT-2 causal 12x512x64", 1, 12, 512, 512, 64, true);
  attention("attention Swin 192x49x32", 64, 3, 49, 49, 32, false);
  attention("attention long 8x2048x64", 1, 8, 2048, 2048, 64, false);
  attention("attention decode 12x1x1024x64", 1, 12, 1, 1024, 64, false);
  attention("attention head size 128", 1, 8, 256, 256, 128, false);
}

static void pointwise(void) {
  static const char *const names[] = {"relu", "exp", "gelu", "silu", "tanh", "log", "sin", "erf", "pow"};
  for (size_t i = 0; i < KILN_COUNT(names) - 1; ++i) unary(names[i], 100000);
  unary("gelu", 4000000);
  bench c = begin();
  IN_F32(&c, 196, 768);
  IN_F32(&c, 196, 768);
  finish(&c, "add [196,768]", build_node(&c.b, "add", 2, c.inputs, NO_ATTRS), 0);
  c = begin();
  IN_F32(&c, 1, 56, 56, 64);
  IN_F32(&c, 64);
  finish(&c, "mul [1,56,56,64] by [64]", build_node(&c.b, "mul", 2, c.inputs, NO_ATTRS), 0);
  c = begin();
  IN_F32(&c, 1, 64, 56, 56);
  IN_F32(&c, 64, 1, 1);
  finish(&c, "mul [1,64,56,56] by [64,1,1]", build_node(&c.b, "mul", 2, c.inputs, NO_ATTRS), 0);
}

static void norms(void) {
  bench c = begin();
  IN_F32(&c, 197, 768);
  finish(&c, "softmax [197,768]", build_node(&c.b, "softmax", 1, c.inputs, ATTRS(A_INT("axis", 1))), 0);
  c = begin();
  IN_F32(&c, 197, 768), IN_F32(&c, 768), IN_F32(&c, 768);
  finish(&c, "layer_norm [197,768]",
         build_node(&c.b, "layer_norm", 3, c.inputs, ATTRS(A_INT("dims", 1), A_FLOAT("eps", 1e-5))), 0);
  c = begin();
  IN_F32(&c, 3136, 96), IN_F32(&c, 96), IN_F32(&c, 96);
  finish(&c, "layer_norm [3136,96]",
         build_node(&c.b, "layer_norm", 3, c.inputs, ATTRS(A_INT("dims", 1), A_FLOAT("eps", 1e-5))), 0);
  c = begin();
  IN_F32(&c, 197, 768), IN_F32(&c, 768);
  finish(&c, "rms_norm [197,768]",
         build_node(&c.b, "rms_norm", 2, c.inputs, ATTRS(A_INT("dims", 1), A_FLOAT("eps", 1e-5))), 0);
  c = begin();
  IN_F32(&c, 1, 64, 64, 128), IN_F32(&c, 128), IN_F32(&c, 128);
  finish(&c, "group_norm 32 channels_last [1,64,64,128]",
         build_node(&c.b, "group_norm", 3, c.inputs,
                    ATTRS(A_INT("groups", 32), A_FLOAT("eps", 1e-5), A_BOOL("channels_last", 1))),
         0);
}

static void pools(void) {
  static const int64_t one[] = {1, 1}, two[] = {2, 2}, three[] = {3, 3}, big[] = {112, 112};
  static const double scales[] = {0, 0};
  bench c = begin();
  IN_F32(&c, 1, 112, 112, 64);
  finish(&c, "max_pool 3x3/2 channels_last [1,112,112,64]",
         build_node(&c.b, "max_pool", 1, c.inputs,
                    ATTRS(A_INTS("kernel", three, 2), A_INTS("stride", two, 2), A_INTS("pad", one, 2),
                          A_INTS("dilation", one, 2), A_BOOL("channels_last", 1))),
         0);
  c = begin();
  IN_F32(&c, 1, 64, 112, 112);
  finish(&c, "max_pool 3x3/2 [1,64,112,112]",
         build_node(&c.b, "max_pool", 1, c.inputs,
                    ATTRS(A_INTS("kernel", three, 2), A_INTS("stride", two, 2), A_INTS("pad", one, 2),
                          A_INTS("dilation", one, 2))),
         0);
  c = begin();
  IN_F32(&c, 1, 56, 56, 144);
  finish(&c, "adaptive_avg_pool to 1 [1,56,56,144]",
         build_node(&c.b, "adaptive_avg_pool", 1, c.inputs, ATTRS(A_INTS("size", one, 2), A_BOOL("channels_last", 1))),
         0);
  c = begin();
  IN_F32(&c, 1, 56, 56, 64);
  finish(&c, "resize linear channels_last to 112",
         build_node(&c.b, "resize", 1, c.inputs,
                    ATTRS(A_INTS("size", big, 2), A_STR("mode", "linear"), A_FLOATS("scales", scales, 2),
                          A_BOOL("channels_last", 1))),
         0);
  c = begin();
  IN_F32(&c, 64, 3136);
  finish(&c, "mean over last axis [64,3136]", build_node(&c.b, "mean", 1, c.inputs, ATTRS(A_INTS("axes", one, 1))), 0);
  c = begin();
  IN_F32(&c, 30000, 384);
  add_in(&c, KILN_I64, 1, (const int64_t[]){128});
  finish(&c, "embedding 128 of [30000,384]", build_node(&c.b, "embedding", 2, c.inputs, NO_ATTRS), 0);
}

static void moves(void) {
  static const int64_t nhwc[] = {0, 2, 3, 1}, nchw[] = {0, 3, 1, 2}, heads[] = {0, 2, 1, 3}, back[] = {1, 0};
  bench c = begin();
  IN_F32(&c, 1, 64, 56, 56);
  finish(&c, "permute NCHW to NHWC [1,64,56,56]",
         build_node(&c.b, "permute", 1, c.inputs, ATTRS(A_INTS("order", nhwc, 4))), 0);
  c = begin();
  IN_F32(&c, 1, 3, 224, 224);
  finish(&c, "permute NCHW to NHWC [1,3,224,224]",
         build_node(&c.b, "permute", 1, c.inputs, ATTRS(A_INTS("order", nhwc, 4))), 0);
  c = begin();
  IN_F32(&c, 1, 56, 56, 64);
  finish(&c, "permute NHWC to NCHW [1,56,56,64]",
         build_node(&c.b, "permute", 1, c.inputs, ATTRS(A_INTS("order", nchw, 4))), 0);
  c = begin();
  IN_F32(&c, 1, 197, 12, 64);
  finish(&c, "permute heads [1,197,12,64]", build_node(&c.b, "permute", 1, c.inputs, ATTRS(A_INTS("order", heads, 4))),
         0);
  c = begin();
  IN_F32(&c, 1000, 777);
  finish(&c, "transpose [1000,777]", build_node(&c.b, "permute", 1, c.inputs, ATTRS(A_INTS("order", back, 2))), 0);
  c = begin();
  IN_F32(&c, 1, 56, 56, 64), IN_F32(&c, 1, 56, 56, 32);
  finish(&c, "concat channels [1,56,56,64+32]", build_node(&c.b, "concat", 2, c.inputs, ATTRS(A_INT("axis", 3))), 0);
}

int main(int argc, char **argv) {
  if (argc > 1) threads = atoi(argv[1]);
  if (argc > 2) filter = argv[2];
  if (threads < 1 || ops_init() != KILN_OK || (threads > 1 && pool_create(threads, &workers) != KILN_OK)) return 1;
  printf("%d threads, best instruction set %s\n", threads, cpu_isa_name(cpu_best_isa()));
  attentions();
  pointwise();
  norms();
  pools();
  moves();
  pool_destroy(workers);
  return 0;
}
