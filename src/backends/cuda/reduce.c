/* Reductions over any set of axes. A block has TX results side by side and TY threads for each: TX is 1 where the reduced axes are the
 * contiguous ones (threads read neighbours of one result), up to 32 where the kept ones are (threads read neighbouring results). A thread
 * reads V neighbours at once where it can: elements of one result, or one element of each of V results. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "backends/cuda/codegen.h"
#include "backends/cuda/internal.h"

typedef struct reduction {
  int kept, reduced;
  int64_t kept_shape[KILN_MAX_RANK], kept_in[KILN_MAX_RANK], kept_out[2][KILN_MAX_RANK];
  int64_t shape[KILN_MAX_RANK], strides[KILN_MAX_RANK];
  int64_t outputs, count;
  int v;       /* neighbours that a thread reads at once, 1 where they are not neighbours in memory */
  bool across; /* they belong to v results */
  int tx, ty;
} reduction;

static uint32_t reduced_axes(const kernel_prep *p) {
  const tensor *in = &p->args.in[0];
  uint32_t mask = 0;
  if (op_attr_index(p->args.node->op, "axis") >= 0) return in->rank ? 1u << arg_int(&p->args, "axis") : 0;
  const attr *axes = arg_attr(&p->args, "axes");
  for (int i = 0; i < axes->count; i++) mask |= 1u << axes->u.ints[i];
  return mask;
}

static reduction reduction_over(const kernel_prep *p, uint32_t mask) {
  const tensor *in = &p->args.in[0];
  reduction r = {.outputs = 1, .count = 1, .v = 1};
  for (int i = 0; i < in->rank; i++) {
    if (mask >> i & 1) {
      r.shape[r.reduced] = in->shape[i];
      r.strides[r.reduced++] = in->strides[i];
      r.count *= in->shape[i];
    } else {
      for (int k = 0; k < p->args.n_out; k++) {
        const tensor *out = &p->args.out[k];
        r.kept_out[k][r.kept] = out->strides[out->rank == in->rank ? i : r.kept];
      }
      r.kept_shape[r.kept] = in->shape[i];
      r.kept_in[r.kept++] = in->strides[i];
      r.outputs *= in->shape[i];
    }
  }
  return r;
}

typedef struct reduce_text { /* of one operator; T is the accumulator, x the element, i its place along the axis */
  const char *start, *step, *merge, *finish;
} reduce_text;

/* Joins reduced dimensions that are walked as one. */
static void join_reduced(reduction *r) {
  int n = 0;
  for (int i = 0; i < r->reduced; i++) {
    if (n && r->strides[n - 1] == r->strides[i] * r->shape[i]) {
      r->shape[n - 1] *= r->shape[i];
      r->strides[n - 1] = r->strides[i];
      continue;
    }
    r->shape[n] = r->shape[i];
    r->strides[n++] = r->strides[i];
  }
  r->reduced = n;
}

static bool divides(int v, int n, const int64_t *shape, const int64_t *strides, int but) {
  for (int i = 0; i < n; i++) {
    if (i != but && shape[i] > 1 && strides[i] % v) return false;
  }
  return true;
}

/* Chooses v for sums of floats: 16 bytes at once, if sizes, strides and addresses allow. */
static void widen_reads(reduction *r, const kernel_prep *p, bool inner) {
  const kiln_dtype d = p->args.in[0].dtype;
  const int size = (int)kiln_dtype_size(d), n = inner ? r->reduced : r->kept;
  int64_t *shape = inner ? r->shape : r->kept_shape, *strides = inner ? r->strides : r->kept_in;
  if (!cuda_is_float(d) || p->args.n_out > 1 || n == 0 || strides[n - 1] != 1) return;
  if (!inner && r->kept_out[0][n - 1] != 1) return;
  int v = 16 / size;
  while (v > 1 && (shape[n - 1] % v || v * size > cuda_in_alignment(p, 0) ||
                   !divides(v, r->kept, r->kept_shape, r->kept_in, inner ? -1 : n - 1) ||
                   !divides(v, r->reduced, r->shape, r->strides, inner ? n - 1 : -1)))
    v /= 2;
  while (inner && v > 1 && r->count / v < 64) v /= 2; /* a row is better spread over a warp */
  while (!inner && v > 1 && r->outputs * size < 32LL * 132 && v * size > 8) v /= 2; /* few results: more blocks */
  r->v = v;
  r->across = !inner;
  shape[n - 1] /= v;
  strides[n - 1] = v;
  if (inner) {
    r->count /= v;
  } else {
    r->outputs /= v;
    r->kept_out[0][n - 1] = v;
  }
}

/* The block, for a device of about 132 multiprocessors and reads in sectors of 32 bytes. */
static void shape_of_block(reduction *r, const kernel_prep *p, bool wide) {
  bool inner = r->kept == 0;
  for (int i = 0; i < r->reduced; i++) inner = inner || (r->strides[i] == 1 && r->shape[i] > 1);
  join_reduced(r);
  if (wide) widen_reads(r, p, inner);
  const int bytes = r->v * (int)kiln_dtype_size(p->args.in[0].dtype);
  r->tx = inner ? 1 : 32;
  while (!inner && r->tx > 1 && r->tx * bytes > 32 && cuda_div_up(r->outputs, r->tx) < 2 * 132) r->tx /= 2;
  r->ty = 1;
  const int most = inner ? 256 : 512 / r->tx;
  while (r->ty < most && r->ty < r->count) r->ty *= 2;
  while (r->tx * r->ty < 32) r->tx *= 2;
}

/* Reads element `e` (or V of them) of the reduced space as x[V]; needs c-coordinates' base offset in `base`. */
static void put_element(text *t, const reduction *r, kiln_dtype d) {
  cuda_coordinates(t, r->count < INT32_MAX ? "u32" : "i64", "r", "e", r->reduced, r->shape);
  text s = {0};
  text_puts(&s, "in[base + ");
  cuda_offset(&s, "r", r->reduced, r->shape, r->strides);
  text_puts(&s, "]");
  if (r->v > 1) {
    text_printf(t, "  VT xs[V];\n  load_floats<IN, V>(xs, &%s);\n", s.data ? s.data : "");
  } else {
    text_puts(t, "  const VT xs[1] = {");
    cuda_widen(t, d, s.data ? s.data : "");
    text_puts(t, "};\n");
  }
  t->failed |= s.failed;
  text_free(&s);
}

static void put_tree(text *t, const char *merge) {
  text_printf(t,
              "#pragma unroll\n  for (int k = 0; k < W; k++) part[ty][tx][k] = accs[k];\n  __syncthreads();\n"
              "  for (int d = TY / 2; d; d /= 2) {\n"
              "    if (ty < d) for (int k = 0; k < W; k++) {\n"
              "      const T a = part[ty][tx][k], b = part[ty + d][tx][k]; T m; %s part[ty][tx][k] = m; }\n"
              "    __syncthreads();\n  }\n  for (int k = 0; k < W; k++) accs[k] = part[0][tx][k];\n",
              merge);
}

/* Declarations, the place of this thread's result and its offsets. */
static void put_head(text *t, const kernel_prep *p, const reduction *r, const char *accumulator) {
  const kiln_dtype d = p->args.in[0].dtype;
  text_printf(t,
              "%s\ntypedef %s VT;\ntypedef %s IN;\n#define TX %d\n#define TY %d\n"
              "#define V %d /* neighbours read */\n#define W %d /* results made */\n"
              "extern \"C\" __global__ void __launch_bounds__(%d) reduce(const IN *in",
              accumulator, cuda_value_type(d), cuda_type(d), r->tx, r->ty, r->v, r->across ? r->v : 1, r->tx * r->ty);
  for (int k = 0; k < p->args.n_out; k++) text_printf(t, ", %s *out%d", cuda_type(p->args.out[k].dtype), k);
  text_printf(
      t,
      ") {\n  __shared__ T part[TY][TX][W];\n  KILN_WAIT;\n  const int tx = threadIdx.x %% TX, ty = threadIdx.x / TX;\n"
      "  const i64 o = (i64)blockIdx.x * TX + tx;\n  const bool live = o < %lldLL;\n",
      (long long)r->outputs);
  cuda_coordinates(t, "i64", "c", "o", r->kept, r->kept_shape);
  text_puts(t, "  const i64 base = ");
  cuda_offset(t, "c", r->kept, r->kept_shape, r->kept_in);
  text_puts(t, ";\n");
  for (int k = 0; k < p->args.n_out; k++) {
    text_printf(t, "  const i64 to%d = ", k);
    cuda_offset(t, "c", r->kept, r->kept_shape, r->kept_out[k]);
    text_puts(t, ";\n");
  }
}

static void put_loop(text *t, const kernel_prep *p, const reduction *r, const char *start, const char *step) {
  text_printf(t,
              "#pragma unroll\n  for (int k = 0; k < W; k++) accs[k] = %s;\n#pragma unroll 4\n"
              "  if (live) for (%s e = ty; e < %lld; e += TY) {\n",
              start, r->count < INT32_MAX ? "u32" : "i64", (long long)r->count);
  put_element(t, r, p->args.in[0].dtype);
  text_printf(
      t,
      "#pragma unroll\n    for (int k = 0; k < V; k++) { T &acc = accs[W > 1 ? k : 0]; const VT x = xs[k]; %s }\n  }\n",
      step);
}

static void put_store(text *t, const kernel_prep *p, int k, const char *v) {
  text_printf(t, "  if (live && ty == 0) for (int k = 0; k < W; k++) { const T acc = accs[k]; out%d[to%d + k] = ", k,
              k);
  cuda_narrow(t, p->args.out[k].dtype, v);
  text_puts(t, "; }\n");
}

static kiln_status finish(kernel_prep *p, const reduction *r, text *t) {
  text_puts(t, "}\n");
  return cuda_simple_prepare(p, "reduce", t, cuda_div_up(r->outputs, r->tx), r->tx * r->ty, 0);
}

/* ---- sum, mean, prod, amax, amin, any, all, norm ------------------------------------------------------------------------------ */

static kiln_status prepare_reduce(kernel_prep *p) {
  const char *name = p->args.node->op->name;
  reduction r = reduction_over(p, reduced_axes(p));
  const kiln_dtype d = p->args.in[0].dtype;
  const bool integer = !dtype_is_float(d);
  const char *sum_type = d == KILN_F64 ? "double" : integer ? "i64" : "float";
  reduce_text x = {"0", "acc = acc + (T)x;", "m = a + b;", "acc"};
  char finish_text[160];
  char accumulator[40];
  if (strcmp(name, "mean") == 0) {
    snprintf(finish_text, sizeof finish_text, "acc / (T)%lld", (long long)r.count);
    x.finish = r.count ? finish_text : "(T)KILN_NAN";
  } else if (strcmp(name, "prod") == 0) {
    x = (reduce_text){"1", "acc = acc * (T)x;", "m = a * b;", "acc"};
  } else if (strcmp(name, "amax") == 0) {
    x = (reduce_text){integer ? "(-9223372036854775807LL-1)" : "-(T)KILN_INF", "acc = k_max((T)x, acc);",
                      "m = k_max(a, b);", "acc"};
  } else if (strcmp(name, "amin") == 0) {
    x = (reduce_text){integer ? "9223372036854775807LL" : "(T)KILN_INF", "acc = k_min((T)x, acc);", "m = k_min(a, b);",
                      "acc"};
  } else if (strcmp(name, "any") == 0) {
    sum_type = "int";
    x = (reduce_text){"0", "acc = acc | (x != 0);", "m = a | b;", "acc != 0"};
  } else if (strcmp(name, "all") == 0) {
    sum_type = "int";
    x = (reduce_text){"1", "acc = acc & (x != 0);", "m = a & b;", "acc != 0"};
  } else if (strcmp(name, "norm") == 0) {
    const double power = arg_float(&p->args, "p");
    if (isinf(power) && power > 0)
      x = (reduce_text){"0", "acc = k_max(k_abs(x), acc);", "m = k_max(a, b);", "acc"};
    else if (isinf(power))
      x = (reduce_text){"(T)KILN_INF", "acc = k_min(k_abs(x), acc);", "m = k_min(a, b);", "acc"};
    else if (power == 0)
      x.step = "acc += x != 0;";
    else if (power == 1)
      x.step = "acc += k_abs(x);";
    else if (power == 2)
      x.step = "acc += x * x;", x.finish = "k_sqrt(acc)";
    else {
      x.step = cuda_text(p, "acc += k_pow(k_abs(x), (T)%.17g);", power);
      snprintf(finish_text, sizeof finish_text, "k_pow(acc, (T)%.17g)", 1 / power);
      x.finish = finish_text;
      if (!x.step) return KILN_OUT_OF_MEMORY;
    }
  }
  if ((strcmp(name, "amax") == 0 || strcmp(name, "amin") == 0) && r.count == 0 && r.outputs > 0)
    return KILN_FAIL(KILN_INVALID_ARGUMENT, "%s: nothing to take the extreme of (an axis has size 0)", name);
  text t = {0};
  shape_of_block(&r, p, true);
  snprintf(accumulator, sizeof accumulator, "typedef %s T;", sum_type);
  put_head(&t, p, &r, accumulator);
  text_puts(&t, "  T accs[W];\n");
  put_loop(&t, p, &r, x.start, x.step);
  put_tree(&t, x.merge);
  put_store(&t, p, 0, x.finish);
  return finish(p, &r, &t);
}

kiln_status cuda_mean_prepare(kernel_prep *p, uint32_t axes) {
  reduction r = reduction_over(p, axes);
  const long long count = r.count;
  text t = {0};
  shape_of_block(&r, p, true);
  put_head(&t, p, &r, p->args.in[0].dtype == KILN_F64 ? "typedef double T;" : "typedef float T;");
  text_puts(&t, "  T accs[W];\n");
  put_loop(&t, p, &r, "0", "acc = acc + (T)x;");
  put_tree(&t, "m = a + b;");
  char done[64];
  snprintf(done, sizeof done, count ? "acc / (T)%lld" : "(T)KILN_NAN", count);
  put_store(&t, p, 0, done);
  return finish(p, &r, &t);
}

/* ---- variance: the mean first, then the squares of the distances to it --------------------------------------------------------- */

static kiln_status prepare_var(kernel_prep *p) {
  reduction r = reduction_over(p, reduced_axes(p));
  const bool wide = p->args.in[0].dtype == KILN_F64;
  const double rest = fmax(0, (double)r.count - arg_float(&p->args, "correction"));
  const long long count = r.count ? r.count : 1;
  text t = {0};
  shape_of_block(&r, p, false);
  put_head(&t, p, &r, wide ? "typedef double T;" : "typedef float T;");
  text_puts(&t, "  T accs[W];\n");
  put_loop(&t, p, &r, "0", "acc += x;");
  put_tree(&t, "m = a + b;");
  text_printf(&t, "  const T mean = accs[0] / (T)%lld;\n  __syncthreads();\n", count);
  put_loop(&t, p, &r, "0", "acc += (x - mean) * (x - mean);");
  put_tree(&t, "m = a + b;");
  char done[64];
  snprintf(done, sizeof done, "acc / (T)%.17g", rest);
  put_store(&t, p, 0, rest > 0 ? done : "acc / (T)0");
  return finish(p, &r, &t);
}

/* ---- places of extremes ------------------------------------------------------------------------------------------------------------ */

static kiln_status prepare_extreme(kernel_prep *p) {
  const char *name = p->args.node->op->name;
  const bool largest = strcmp(name, "argmax") == 0 || strcmp(name, "max_index") == 0;
  reduction r = reduction_over(p, reduced_axes(p));
  if (r.count == 0 && r.outputs > 0) return KILN_FAIL(KILN_INVALID_ARGUMENT, "%s: the axis has size 0", name);
  const kiln_dtype d = p->args.in[0].dtype;
  char accumulator[700];
  snprintf(accumulator, sizeof accumulator,
           "struct T { %s v; i64 i; };\n"
           "FN bool better(T a, T b) {\n" /* the first NaN, else the first extreme; i < 0 is none */
           "  if (a.i < 0 || b.i < 0) return b.i < 0;\n"
           "  if (b.v != b.v) return a.v != a.v && a.i < b.i;\n"
           "  if (a.v != a.v) return true;\n"
           "  return a.v %s b.v || (a.v == b.v && a.i < b.i);\n}\n",
           cuda_value_type(d), largest ? ">" : "<");
  text t = {0};
  shape_of_block(&r, p, false);
  put_head(&t, p, &r, accumulator);
  text_puts(&t, "  T accs[W];\n");
  put_loop(&t, p, &r, "T{0, -1}", "const T c = {x, (i64)e}; if (better(c, acc)) acc = c;");
  put_tree(&t, "m = better(b, a) ? b : a;");
  if (p->args.n_out > 1) put_store(&t, p, 0, "acc.v");
  put_store(&t, p, p->args.n_out - 1, "acc.i");
  return finish(p, &r, &t);
}

#define REDUCE(op_name, prepare_fn)  \
  {.op = op_name,                    \
   .name = "reduce.cuda",            \
   .isa = 80,                        \
   .prepare = prepare_fn,            \
   .run = cuda_simple_run,           \
   .strided_in = KERNEL_STRIDED_ALL, \
   .strided_out = KERNEL_STRIDED_ALL},

const kernel cuda_reduce_rows[] = {
    REDUCE("sum", prepare_reduce) REDUCE("mean", prepare_reduce) REDUCE("prod", prepare_reduce)
        REDUCE("amax", prepare_reduce) REDUCE("amin", prepare_reduce) REDUCE("any", prepare_reduce)
            REDUCE("all", prepare_reduce) REDUCE("norm", prepare_reduce) REDUCE("var", prepare_var)
                REDUCE("argmax", prepare_extreme) REDUCE("argmin", prepare_extreme) REDUCE("max_index", prepare_extreme)
                    REDUCE("min_index", prepare_extreme){.op = NULL},
};
