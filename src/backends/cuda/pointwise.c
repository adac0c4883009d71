/* Pointwise operators and chains, copies, and results that depend on their place only. One generator: a thread makes V neighbours of the
 * result along its last (collapsed) dimension; operands that lie alike are read as vectors of up to 16 bytes, the rest one by one. */
#include <stdio.h>
#include <string.h>

#include "backends/cuda/codegen.h"
#include "backends/cuda/internal.h"

enum { THREADS = 256 };

/* The widest access that the last dimension, all strides and all addresses allow, at most 16 bytes of any tensor. */
static int choose_width(const kernel_prep *p, const cuda_space *s, const int *operand) {
  const int last = s->rank - 1;
  const int out = s->n - 1;
  int v = 8;
  for (int i = 0; i < s->n; ++i) {
    const tensor *t = i == out ? &p->args.out[0] : &p->args.in[operand[i]];
    const int size = (int)kiln_dtype_size(t->dtype);
    const int align = i == out ? cuda_out_alignment(p, 0) : cuda_in_alignment(p, operand[i]);
    if (i != out && s->strides[i][last] != 1) continue; /* read one by one, or one for all */
    if (s->strides[i][last] != 1) return 1;
    while (v > 1 && (v * size > 16 || v * size > align || s->shape[last] % v != 0)) v /= 2;
    for (int d = 0; d < last; ++d) {
      while (v > 1 && s->strides[i][d] % v != 0) v /= 2;
    }
  }
  while (v > 1 && s->total / v < 132 * 64) v /= 2; /* small tensors: rather more threads */
  return s->shape[last] % v ? 1 : v;
}

static void put_load(text *t, const cuda_space *s, int i, const tensor *x, int v) {
  const int last = s->rank - 1;
  const char *type = cuda_type(x->dtype);
  text_printf(t, "  const %s *a%d = in%d + ", type, i, i);
  cuda_offset(t, "c", s->rank, s->shape, s->strides[i]);
  text_puts(t, ";\n");
  if (v > 1 && s->strides[i][last] == 1) {
    text_printf(t, "  const vec<%s, %d> l%d = load_vec<%s, %d>(a%d);\n", type, v, i, type, v, i);
  } else if (s->strides[i][last] == 0) {
    text_printf(t, "  const %s l%d = *a%d;\n", type, i, i);
  }
}

static void put_element(text *t, const cuda_space *s, int i, const tensor *x, int v) {
  const int last = s->rank - 1;
  char element[64];
  if (s->strides[i][last] == 0)
    snprintf(element, sizeof element, "l%d", i);
  else if (v > 1 && s->strides[i][last] == 1)
    snprintf(element, sizeof element, "l%d.v[k]", i);
  else
    snprintf(element, sizeof element, "a%d[k * %lldLL]", i, (long long)s->strides[i][last]);
  text_printf(t, "    const %s x%d = ", cuda_value_type(x->dtype), i);
  cuda_widen(t, x->dtype, element);
  text_puts(t, ";\n");
}

/* Operands in order of the node; the same value twice is loaded once by the compiler. */
static kiln_status prepare_chain(kernel_prep *p) {
  const node *n = p->args.node;
  const tensor *out = &p->args.out[0];
  cuda_space s = {.rank = out->rank, .n = p->args.n_in + 1};
  int operand[CUDA_SPACE_TENSORS];
  char names[CUDA_SPACE_TENSORS][16];
  const char *params[CUDA_SPACE_TENSORS];
  if (s.n > CUDA_SPACE_TENSORS) return KILN_FAIL(KILN_UNSUPPORTED, "a chain of %d operands", (int)p->args.n_in);
  memcpy(s.shape, out->shape, sizeof s.shape);
  for (int i = 0; i < p->args.n_in; ++i) {
    operand[i] = i;
    snprintf(names[i], sizeof names[i], "x%d", i);
    params[i] = names[i];
    cuda_broadcast_strides(&p->args.in[i], out->rank, out->shape, s.strides[i]);
  }
  for (int d = 0; d < out->rank; ++d) s.strides[s.n - 1][d] = out->strides[d];
  cuda_space_collapse(&s);
  const int v = s.total > 0 ? choose_width(p, &s, operand) : 1;
  const int64_t items = s.total / v;
  const char *index_type = items + THREADS < INT32_MAX ? "u32" : "i64";
  text t = {0};
  char result[64];
  text_printf(&t, "extern \"C\" __global__ void __launch_bounds__(%d) chain(", THREADS);
  for (int i = 0; i < p->args.n_in; ++i) text_printf(&t, "const %s *in%d, ", cuda_type(p->args.in[i].dtype), i);
  text_printf(
      &t, "%s *out) {\n  KILN_WAIT;\n  const %s i = (%s)blockIdx.x * %d + threadIdx.x;\n  if (i >= %lldLL) return;\n",
      cuda_type(out->dtype), index_type, index_type, THREADS, (long long)items);
  int64_t shape[KILN_MAX_RANK];
  memcpy(shape, s.shape, sizeof shape);
  shape[s.rank - 1] /= v;
  cuda_coordinates(&t, index_type, "g", "i", s.rank, shape);
  for (int d = 0; d < s.rank; ++d) {
    if (d == s.rank - 1 && v > 1)
      text_printf(&t, "  const %s c%d = g%d * %d;\n", index_type, d, d, v);
    else
      text_printf(&t, "  const %s c%d = g%d; (void)c%d;\n", index_type, d, d, d);
  }
  for (int i = 0; i < p->args.n_in; ++i) put_load(&t, &s, i, &p->args.in[i], v);
  text_printf(&t, "  %s *to = out + ", cuda_type(out->dtype));
  cuda_offset(&t, "c", s.rank, s.shape, s.strides[s.n - 1]);
  text_puts(&t, ";\n");
  const bool pack = v > 1 && cuda_is_float(out->dtype);
  if (pack)
    text_printf(&t, "  float r[%d];\n", v);
  else if (v > 1)
    text_printf(&t, "  vec<%s, %d> r;\n", cuda_type(out->dtype), v);
  text_printf(&t, "#pragma unroll\n  for (int k = 0; k < %d; k++) {\n", v);
  for (int i = 0; i < p->args.n_in; ++i) put_element(&t, &s, i, &p->args.in[i], v);
  if (strcmp(n->op->name, "contiguous") == 0 || strcmp(n->op->name, "identity") == 0)
    snprintf(result, sizeof result, "x0");
  else
    cuda_chain_emit(&t, n, params, "t", result);
  text_puts(&t, pack ? "    r[k] = " : v > 1 ? "    r.v[k] = " : "    *to = ");
  if (pack)
    text_puts(&t, result);
  else
    cuda_narrow(&t, out->dtype, result);
  text_puts(&t, ";\n  }\n");
  if (pack)
    text_printf(&t, "  store_floats<%s, %d>(to, r);\n", cuda_type(out->dtype), v);
  else if (v > 1)
    text_printf(&t, "  store_vec<%s, %d>(to, r);\n", cuda_type(out->dtype), v);
  text_puts(&t, "}\n");
  return cuda_simple_prepare(p, "chain", &t, cuda_div_up(items, THREADS), THREADS, 0);
}

/* ---- transposing copies ------------------------------------------------------------------------------------------------- */

/* A copy whose source is contiguous along another dimension than its result: through tiles of shared memory. */
static bool transposed(const cuda_space *s, int *source_dim) {
  const int last = s->rank - 1;
  if (s->rank < 2 || s->strides[1][last] != 1 || s->strides[0][last] == 1 || s->shape[last] < 8) return false;
  for (int d = 0; d < last; ++d) {
    if (s->strides[0][d] != 1 || s->shape[d] < 8) continue;
    *source_dim = d;
    return true;
  }
  return false;
}

static kiln_status prepare_transpose(kernel_prep *p, const cuda_space *s, int a) {
  const int b = s->rank - 1; /* of the result; `a` is the source's own last dimension */
  const char *type = cuda_type(p->args.out[0].dtype);
  const int64_t ta = cuda_div_up(s->shape[a], 32), tb = cuda_div_up(s->shape[b], 32);
  int64_t rest = 1, shape[KILN_MAX_RANK], in[KILN_MAX_RANK], out[KILN_MAX_RANK];
  int n = 0;
  for (int d = 0; d < s->rank; ++d) {
    if (d == a || d == b) continue;
    rest *= s->shape[d];
    shape[n] = s->shape[d];
    in[n] = s->strides[0][d];
    out[n++] = s->strides[1][d];
  }
  text t = {0};
  text_printf(&t,
              "extern \"C\" __global__ void __launch_bounds__(256) transpose(const %s *in, %s *out) {\n"
              "  __shared__ %s tile[32][33];\n  KILN_WAIT;\n"
              "  const u32 ba = blockIdx.x %% %lldu * 32, bb = blockIdx.x / %lldu %% %lldu * 32;\n"
              "  const i64 rest = blockIdx.x / %lldLL;\n",
              type, type, type, (long long)ta, (long long)ta, (long long)tb, (long long)(ta * tb));
  cuda_coordinates(&t, "i64", "c", "rest", n, shape);
  text_puts(&t, "  in += ");
  cuda_offset(&t, "c", n, shape, in);
  text_puts(&t, ";\n  out += ");
  cuda_offset(&t, "c", n, shape, out);
  text_printf(
      &t,
      ";\n  const int x = threadIdx.x %% 32, y = threadIdx.x / 32;\n"
      "#pragma unroll\n  for (int j = y; j < 32; j += 8)\n"
      "    if (ba + x < %lldu && bb + j < %lldu) tile[j][x] = in[(i64)(ba + x) + (i64)(bb + j) * %lldLL];\n"
      "  __syncthreads();\n"
      "#pragma unroll\n  for (int j = y; j < 32; j += 8)\n"
      "    if (bb + x < %lldu && ba + j < %lldu) out[(i64)(bb + x) + (i64)(ba + j) * %lldLL] = tile[x][j];\n}\n",
      (long long)s->shape[a], (long long)s->shape[b], (long long)s->strides[0][b], (long long)s->shape[b],
      (long long)s->shape[a], (long long)s->strides[1][a]);
  return cuda_simple_prepare(p, "transpose", &t, ta * tb * rest, 256, 0);
}

static kiln_status prepare_copy(kernel_prep *p) {
  const tensor *in = &p->args.in[0], *out = &p->args.out[0];
  cuda_space s = {.rank = out->rank, .n = 2};
  memcpy(s.shape, out->shape, sizeof s.shape);
  cuda_broadcast_strides(in, out->rank, out->shape, s.strides[0]);
  for (int d = 0; d < out->rank; ++d) s.strides[1][d] = out->strides[d];
  cuda_space_collapse(&s);
  int source = 0;
  if (s.total > 0 && transposed(&s, &source)) return prepare_transpose(p, &s, source);
  return prepare_chain(p);
}

/* ---- results that depend on their place only ------------------------------------------------------------------------------ */

/* full, arange, eye, size: an expression of the linear index i. */
static kiln_status prepare_made(kernel_prep *p) {
  const tensor *out = &p->args.out[0];
  const char *name = p->args.node->op->name, *type = cuda_type(out->dtype);
  const int64_t total = tensor_numel(out);
  const bool real = dtype_is_float(out->dtype);
  text t = {0};
  text_printf(&t,
              "extern \"C\" __global__ void __launch_bounds__(256) made(%s *out) {\n  KILN_WAIT;\n"
              "  const i64 i = (i64)blockIdx.x * 256 + threadIdx.x;\n  if (i >= %lldLL) return;\n  typedef %s KT;\n  "
              "const KT v = ",
              type, (long long)total, real ? "double" : "i64");
  if (strcmp(name, "full") == 0) {
    const double v = arg_float(&p->args, "value");
    const bool whole = v >= -0x1p62 && v <= 0x1p62;
    cuda_literal(&t, real ? KILN_F64 : KILN_I64, v, whole ? (int64_t)v : 0);
  } else if (strcmp(name, "arange") == 0) {
    text_printf(&t, "(KT)(%.17g + (double)i * %.17g)", arg_float(&p->args, "start"), arg_float(&p->args, "step"));
  } else if (strcmp(name, "eye") == 0) {
    text_printf(&t, "i / %lldLL == i %% %lldLL", (long long)out->shape[1], (long long)out->shape[1]);
  } else {
    text_printf(&t, "%lldLL", (long long)arg_int(&p->args, "value"));
  }
  if (cuda_is_float(out->dtype))
    text_printf(&t, ";\n  out[i] = from_float<%s>((float)v);\n}\n", type);
  else
    text_printf(&t, ";\n  out[i] = (%s)v;\n}\n", type);
  return cuda_simple_prepare(p, "made", &t, cuda_div_up(total, 256), 256, 0);
}

static bool fits_made(const node *n, const char **why) {
  if (n->n_outputs != 1 || n->epilogue) return *why = "has an epilogue", false;
  return true;
}

/* ---- rows --------------------------------------------------------------------------------------------------------------------- */

#define CHAIN(op_name)                \
  {.op = op_name,                     \
   .name = "chain.cuda",              \
   .isa = 80,                         \
   .fits = cuda_chain_fits,           \
   .prepare = prepare_chain,          \
   .run = cuda_simple_run,            \
   .strided_in = KERNEL_STRIDED_ALL,  \
   .strided_out = KERNEL_STRIDED_ALL, \
   .inplace = KERNEL_STRIDED_ALL},
#define COPY(op_name)                \
  {.op = op_name,                    \
   .name = "copy.cuda",              \
   .isa = 80,                        \
   .prepare = prepare_copy,          \
   .run = cuda_simple_run,           \
   .strided_in = KERNEL_STRIDED_ALL, \
   .strided_out = KERNEL_STRIDED_ALL},
#define CHAIN_F(name, ...) CHAIN(#name)
#define MADE(op_name) \
  {.op = op_name, .name = "made.cuda", .isa = 80, .fits = fits_made, .prepare = prepare_made, .run = cuda_simple_run},
#include "ops/pointwise_rows.h"

const kernel cuda_pointwise_rows[] = {
    POINTWISE_ROWS(CHAIN_F, CHAIN_F, CHAIN_F) CHAIN("cast") CHAIN("pointwise") COPY("contiguous") COPY("identity")
        MADE("full") MADE("arange") MADE("eye") MADE("size"){.op = NULL},
};
