/* GFLOP/s of the CPU's matrix kernels on typical layers, against the measured peak of the FMA units. Links the static
 * library's internals: gcc -O2 -std=gnu17 -Isrc -Iinclude bench/kernels/bench_gemm.c build/libkiln.a -lz -ljansson
 * -lpthread -lm -o bench_gemm
 *   ./bench_gemm [threads [kernel name part [layer name part]]] */
#include <immintrin.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "backends/cpu/kernels.h"
#include "base/cpu_features.h"
#include "base/memory.h"
#include "graph/graph.h"

#define GROUP(name) name##_avx512, name##_avx2, name##_scalar
static const kernel *const groups[] = {GROUP(cpu_gemm), GROUP(cpu_depthwise), GROUP(cpu_winograd), GROUP(cpu_conv),
                                       GROUP(cpu_rnn)};

#define CHAINS 12
__attribute__((target("avx512f"))) static float fma_avx512(int64_t n) {
  __m512 a[CHAINS];
  const __m512 x = _mm512_set1_ps(0.999f), y = _mm512_set1_ps(0.001f);
  for (int i = 0; i < CHAINS; i++) a[i] = _mm512_set1_ps((float)i);
  for (int64_t k = 0; k < n; k++) {
    _Pragma("GCC unroll 12") for (int i = 0; i < CHAINS; i++) a[i] = _mm512_fmadd_ps(a[i], x, y);
  }
  float sum = 0;
  for (int i = 0; i < CHAINS; i++) sum += _mm512_reduce_add_ps(a[i]);
  return sum;
}
__attribute__((target("avx2,fma"))) static float fma_avx2(int64_t n) {
  __m256 a[CHAINS];
  const __m256 x = _mm256_set1_ps(0.999f), y = _mm256_set1_ps(0.001f);
  for (int i = 0; i < CHAINS; i++) a[i] = _mm256_set1_ps((float)i);
  for (int64_t k = 0; k < n; k++) {
    _Pragma("GCC unroll 12") for (int i = 0; i < CHAINS; i++) a[i] = _mm256_fmadd_ps(a[i], x, y);
  }
  float sum = 0, lanes[8];
  for (int i = 0; i < CHAINS; i++) {
    _mm256_storeu_ps(lanes, a[i]);
    sum += lanes[0];
  }
  return sum;
}

/* With one thread: its own time, so that other processes on the core do not count. */
static double clock_of(const pool *p) {
  struct timespec t;
  if (pool_threads(p) > 1) return time_now();
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static volatile float sink;
static void peak_task(void *user, int64_t i, int worker) {
  (void)i;
  (void)worker;
  sink = *(int *)user == ISA_AVX512 ? fma_avx512(200000) : fma_avx2(200000);
}
static double peak(pool *p, int isa) {
  double best = 0;
  for (int r = 0; r < 30; r++) {
    const double t = clock_of(p);
    pool_run(p, pool_threads(p), peak_task, &isa);
    const double g = 200000.0 * CHAINS * (isa == ISA_AVX512 ? 32 : 16) * pool_threads(p) / (clock_of(p) - t) / 1e9;
    if (g > best) best = g;
  }
  return best;
}

typedef struct layer { /* conv: in x in x channels -> out_channels; linear: rows x channels -> out_channels */
  const char *name;
  int64_t in, channels, out_channels, kernel, stride, groups;
} layer;

static const layer layers[] = {
    {"resnet50 7x7/2 3-64 @224", 224, 3, 64, 7, 2, 1},     {"resnet50 1x1 64-64 @56", 56, 64, 64, 1, 1, 1},
    {"resnet50 3x3 64-64 @56", 56, 64, 64, 3, 1, 1},       {"resnet50 1x1 64-256 @56", 56, 64, 256, 1, 1, 1},
    {"resnet50 1x1 256-64 @56", 56, 256, 64, 1, 1, 1},     {"resnet50 3x3/2 128-128 @56", 56, 128, 128, 3, 2, 1},
    {"resnet50 3x3 128-128 @28", 28, 128, 128, 3, 1, 1},   {"resnet50 1x1 512-128 @28", 28, 512, 128, 1, 1, 1},
    {"resnet50 1x1/2 256-512 @56", 56, 256, 512, 1, 2, 1}, {"resnet50 3x3 256-256 @14", 14, 256, 256, 3, 1, 1},
    {"resnet50 1x1 1024-256 @14", 14, 1024, 256, 1, 1, 1}, {"resnet50 1x1 256-1024 @14", 14, 256, 1024, 1, 1, 1},
    {"resnet50 3x3 512-512 @7", 7, 512, 512, 3, 1, 1},     {"resnet50 1x1 2048-512 @7", 7, 2048, 512, 1, 1, 1},
    {"resnet50 1x1 512-2048 @7", 7, 512, 2048, 1, 1, 1},   {"vgg16 3x3 64-64 @224", 224, 64, 64, 3, 1, 1},
    {"vgg16 3x3 256-256 @56", 56, 256, 256, 3, 1, 1},      {"vgg16 3x3 512-512 @14", 14, 512, 512, 3, 1, 1},
    {"mobilenet 1x1 32-16 @112", 112, 32, 16, 1, 1, 1},    {"mobilenet 1x1 16-96 @112", 112, 16, 96, 1, 1, 1},
    {"mobilenet 1x1 144-24 @56", 56, 144, 24, 1, 1, 1},    {"mobilenet 1x1 64-384 @14", 14, 64, 384, 1, 1, 1},
    {"mobilenet 1x1 960-160 @7", 7, 960, 160, 1, 1, 1},    {"mobilenet 3x3/2 3-32 @224", 224, 3, 32, 3, 2, 1},
    {"depthwise 3x3 32 @112", 112, 32, 32, 3, 1, 32},      {"depthwise 3x3/2 96 @112", 112, 96, 96, 3, 2, 96},
    {"depthwise 3x3 144 @56", 56, 144, 144, 3, 1, 144},    {"depthwise 3x3 384 @14", 14, 384, 384, 3, 1, 384},
    {"depthwise 5x5 672 @14", 14, 672, 672, 5, 1, 672},    {"depthwise 3x3 960 @7", 7, 960, 960, 3, 1, 960},
    {"depthwise 7x7 96 @56", 56, 96, 96, 7, 1, 96},        {"bert linear 128x768-768", 128, 768, 768, 0, 0, 0},
    {"bert linear 128x768-3072", 128, 768, 3072, 0, 0, 0}, {"bert linear 128x3072-768", 128, 3072, 768, 0, 0, 0},
    {"vit linear 197x768-3072", 197, 768, 3072, 0, 0, 0},  {"linear 1024x1024-1024", 1024, 1024, 1024, 0, 0, 0},
    {"linear 1x2048-1000", 1, 2048, 1000, 0, 0, 0},        {"linear 1x4096-4096", 1, 4096, 4096, 0, 0, 0},
    {"linear 8x768-3072", 8, 768, 3072, 0, 0, 0},
};

static node *layer_node(graph *g, const layer *l, double *flops) {
  builder at = builder_at_end(&g->body);
  tensor_type x, w;
  const tensor_type b = type_of(KILN_F32, 1, (dim[]){l->out_channels});
  if (!l->kernel) {
    x = type_of(KILN_F32, 2, (dim[]){l->in, l->channels});
    w = type_of(KILN_F32, 2, (dim[]){l->out_channels, l->channels});
  } else {
    x = type_of(KILN_F32, 4, (dim[]){1, l->in, l->in, l->channels});
    w = type_of(KILN_F32, 4, (dim[]){l->out_channels, l->channels / l->groups, l->kernel, l->kernel});
  }
  size_t bytes = 0;
  void *zeros = type_bytes(&w, &bytes) ? calloc(1, bytes) : NULL;
  value *xv = graph_add_param(&g->body, NULL, &x), *wv = graph_constant_copy(g, &w, zeros),
        *bv = graph_add_param(&g->body, NULL, &b);
  free(zeros);
  if (!l->kernel) {
    *flops = 2.0 * (double)(l->in * l->channels * l->out_channels);
    return build_node(&at, "linear", IN(xv, wv, bv), NO_ATTRS);
  }
  const int64_t stride[2] = {l->stride, l->stride}, pad[2] = {l->kernel / 2, l->kernel / 2}, one[2] = {1, 1},
                zero[2] = {0, 0};
  node *n = build_node(&at, "conv", IN(xv, wv, bv),
                       ATTRS(A_INTS("stride", stride, 2), A_INTS("pad", pad, 2), A_INTS("pad_end", pad, 2),
                             A_INTS("dilation", one, 2), A_INT("groups", l->groups), A_BOOL("transposed", false),
                             A_INTS("output_pad", zero, 2), A_BOOL("channels_last", true)));
  if (n) {
    const int64_t out = n->outputs[0]->type.dims[1];
    *flops = 2.0 * (double)(out * out * l->out_channels * l->kernel * l->kernel * (l->channels / l->groups));
  }
  return n;
}

static void *random_floats(size_t bytes) {
  float *f = mem_alloc_aligned(bytes + 64);
  for (size_t i = 0; f && i < bytes / sizeof(float); i++) f[i] = (float)rand() / (float)RAND_MAX - 0.5f;
  return f;
}

static tensor tensor_for(const tensor_type *type) {
  tensor t = {.dtype = type->dtype, .rank = type->rank};
  for (int r = 0; r < t.rank; r++) t.shape[r] = type->dims[r];
  tensor_make_contiguous_strides(&t);
  t.data = random_floats((size_t)tensor_numel(&t) * sizeof(float));
  return t;
}

static double time_kernel(const node *n, const kernel *k, pool *p) {
  tensor in[8], out = tensor_for(&n->outputs[0]->type);
  void *plain = NULL;
  kernel_args args = {.node = n, .attrs = n->attrs, .in = in, .n_in = n->n_inputs, .out = &out, .n_out = 1, .pool = p};
  for (int i = 0; i < n->n_inputs; i++) in[i] = tensor_for(&n->inputs[i].v->type);
  if (k->packing) {
    const packing *pack = packing_find(k->packing);
    size_t size = 0;
    const tensor_type *type = &n->inputs[k->pack_operand].v->type;
    if (!pack || !pack->size(type, &size)) return -1;
    plain = in[k->pack_operand].data;
    in[k->pack_operand].data = mem_alloc_aligned(size);
    pack->pack(type, plain, in[k->pack_operand].data);
    in[k->pack_operand].packing = k->packing;
  }
  arena a = {0};
  kernel_prep prep = {.args = args, .arena = &a, .threads = pool_threads(p)};
  double best = -1;
  if (k->prepare(&prep) == KILN_OK) {
    args.state = prep.state;
    args.workspace = mem_alloc_aligned(prep.workspace_size + 1);
    args.workspace_size = prep.workspace_size;
    const double begin = time_now();
    for (int r = 0; r < 8 || (r < 2000 && time_now() - begin < 0.6); r++) {
      const double t = clock_of(p);
      if (k->run(&args) != KILN_OK) break;
      const double used = clock_of(p) - t;
      if (best < 0 || used < best) best = used;
    }
    mem_free_aligned(args.workspace);
  }
  for (int i = 0; i < n->n_inputs; i++) mem_free_aligned(in[i].data);
  mem_free_aligned(plain);
  mem_free_aligned(out.data);
  arena_free(&a);
  return best;
}

int main(int argc, char **argv) {
  const int threads = argc > 1 ? atoi(argv[1]) : 1;
  const char *kernel_part = argc > 2 ? argv[2] : "", *layer_part = argc > 3 ? argv[3] : "";
  pool *p = NULL;
  if (ops_init() != KILN_OK || pool_create(threads, &p) != KILN_OK) return 1;
  double peaks[ISA_COUNT] = {0};
  for (int i = ISA_AVX2; i <= (int)cpu_best_isa(); i++) {
    peaks[i] = peak(p, i);
    printf("peak of %d threads, %s: %.1f GFLOP/s\n", threads, cpu_isa_name((cpu_isa)i), peaks[i]);
  }
  printf("%-30s %-24s %10s %9s %6s\n", "layer", "kernel", "us", "GFLOP/s", "peak");
  for (size_t i = 0; i < KILN_COUNT(layers); i++) {
    if (!strstr(layers[i].name, layer_part)) continue;
    graph *g = NULL;
    double flops = 0;
    if (graph_create(&g) != KILN_OK) return 1;
    const node *n = layer_node(g, &layers[i], &flops);
    if (!n) return 1;
    for (size_t q = 0; q < KILN_COUNT(groups); q++) {
      for (const kernel *k = groups[q]; k->op; k++) {
        const char *why = "";
        if (strcmp(k->op, n->op->name) != 0 || k->isa > (int)cpu_best_isa() || !strstr(k->name, kernel_part)) continue;
        if (k->isa == ISA_SCALAR && !*kernel_part) continue;
        if (layers[i].groups > 1 && strstr(k->name, "igemm")) continue;
        if (k->fits && !k->fits(n, &why)) continue;
        const double s = time_kernel(n, k, p);
        const double now = k->isa ? peak(p, k->isa) : 0, top = now > peaks[k->isa] ? now : peaks[k->isa];
        printf("%-30s %-24s %10.1f %9.1f %5.0f%%\n", layers[i].name, k->name, s * 1e6, flops / s / 1e9,
               top > 0 ? 100 * flops / s / 1e9 / top : 0);
      }
    }
    graph_destroy(g);
  }
  pool_destroy(p);
  return 0;
}
