/* Scans and sorts along one axis. A sort counts for each element how many come before it (stable, any size, any layout); scans go through a
 * line block by block. */
#include <stdio.h>
#include <string.h>

#include "backends/cuda/internal.h"
#include "backends/cuda/mapped.h"

typedef struct lines {
  int n;
  int64_t shape[KILN_MAX_RANK], in[KILN_MAX_RANK], out[2][KILN_MAX_RANK];
  int64_t count, size, out_size, in_stride, out_stride[2];
} lines;

static lines lines_of(const kernel_prep *p) {
  const tensor *in = &p->args.in[0];
  const int axis = in->rank ? (int)arg_int(&p->args, "axis") : 0;
  lines l = {.count = 1, .size = 1, .out_size = 1, .in_stride = 1, .out_stride = {1, 1}};
  for (int i = 0; i < in->rank; i++) {
    if (i == axis) {
      l.size = in->shape[i];
      l.in_stride = in->strides[i];
      l.out_size = p->args.out[0].shape[i];
      for (int k = 0; k < p->args.n_out; k++) l.out_stride[k] = p->args.out[k].strides[i];
      continue;
    }
    l.shape[l.n] = in->shape[i];
    l.in[l.n] = in->strides[i];
    for (int k = 0; k < p->args.n_out; k++) l.out[k][l.n] = p->args.out[k].strides[i];
    l.count *= in->shape[i];
    l.n++;
  }
  return l;
}

static void put_head(text *t, const kernel_prep *p, const char *entry, int threads) {
  const kiln_dtype d = p->args.in[0].dtype;
  text_printf(t, "typedef %s VT;\nextern \"C\" __global__ void __launch_bounds__(%d) %s(const %s *in",
              cuda_value_type(d), threads, entry, cuda_type(d));
  for (int k = 0; k < p->args.n_out; k++) text_printf(t, ", %s *out%d", cuda_type(p->args.out[k].dtype), k);
  text_puts(t, ") {\n  KILN_WAIT;\n");
}

static void put_bases(text *t, const kernel_prep *p, const lines *l) {
  cuda_coordinates(t, "i64", "c", "line", l->n, l->shape);
  text_puts(t, "  const i64 base = ");
  cuda_offset(t, "c", l->n, l->shape, l->in);
  for (int k = 0; k < p->args.n_out; k++) {
    text_printf(t, ", to%d = ", k);
    cuda_offset(t, "c", l->n, l->shape, l->out[k]);
  }
  text_puts(t, ";\n");
}

/* "widened in[base + (i) * stride]" */
static void put_get(text *t, const kernel_prep *p, const lines *l) {
  char element[100];
  snprintf(element, sizeof element, "in[base + (i64)(e) * %lldLL]", (long long)l->in_stride);
  text_puts(t, "#define GET(e) ");
  cuda_widen(t, p->args.in[0].dtype, element);
  text_puts(t, "\n");
}

/* ---- sort, topk --------------------------------------------------------------------------------------------------------------- */

enum { SORT_THREADS = 256 };

static kiln_status prepare_sort(kernel_prep *p) {
  const bool top = strcmp(p->args.node->op->name, "topk") == 0;
  const bool descending = arg_bool(&p->args, top ? "largest" : "descending");
  const lines l = lines_of(p);
  if (l.out_size > l.size)
    return KILN_FAIL(KILN_INVALID_ARGUMENT, "topk: k is %lld, the axis has %lld", (long long)l.out_size,
                     (long long)l.size);
  const int64_t chunks = cuda_div_up(l.size, SORT_THREADS);
  text t = {0};
  put_get(&t, p, &l);
  /* NaN comes last ascending, first descending. */
  text_printf(&t, "#define BEFORE(a, b) %s\n",
              descending ? "((b) < (a) || ((a) != (a) && (b) == (b)))" : "((a) < (b) || ((b) != (b) && (a) == (a)))");
  put_head(&t, p, "sort", SORT_THREADS);
  text_printf(&t,
              "  __shared__ VT tile[%d];\n  const i64 line = blockIdx.x / %lldLL, i = (i64)(blockIdx.x %% %lldLL) * %d "
              "+ threadIdx.x;\n",
              SORT_THREADS, (long long)chunks, (long long)chunks, SORT_THREADS);
  put_bases(&t, p, &l);
  text_printf(
      &t,
      "  const bool live = i < %lldLL;\n  VT own = 0;\n  if (live) own = GET(i);\n  i64 rank = 0;\n"
      "  for (i64 first = 0; first < %lldLL; first += %d) {\n    __syncthreads();\n"
      "    if (first + threadIdx.x < %lldLL) tile[threadIdx.x] = GET(first + threadIdx.x);\n    __syncthreads();\n"
      "    const int n = (int)(%lldLL - first < %d ? %lldLL - first : %d);\n"
      "    for (int k = 0; k < n; k++) {\n      const VT x = tile[k];\n"
      "      rank += BEFORE(x, own) || (first + k < i && !BEFORE(own, x)); }\n  }\n"
      "  if (live && rank < %lldLL) {\n    out0[to0 + rank * %lldLL] = in[base + i * %lldLL];\n    out1[to1 + rank * "
      "%lldLL] = i;\n  }\n}\n",
      (long long)l.size, (long long)l.size, SORT_THREADS, (long long)l.size, (long long)l.size, SORT_THREADS,
      (long long)l.size, SORT_THREADS, (long long)l.out_size, (long long)l.out_stride[0], (long long)l.in_stride,
      (long long)l.out_stride[1]);
  return cuda_simple_prepare(p, "sort", &t, tensor_numel(&p->args.out[0]) ? l.count * chunks : 0, SORT_THREADS, 0);
}

/* ---- sums and products ---------------------------------------------------------------------------------------------------------- */

static kiln_status prepare_scan(kernel_prep *p) {
  const bool product = strcmp(p->args.node->op->name, "cumprod") == 0;
  const lines l = lines_of(p);
  const char op_char = product ? '*' : '+';
  text t = {0};
  put_get(&t, p, &l);
  const bool whole = !dtype_is_float(p->args.in[0].dtype);
  text_printf(&t, "typedef %s AT;\n", whole ? "u64" : cuda_value_type(p->args.in[0].dtype));
  put_head(&t, p, "scan", 256);
  text_puts(&t, "  __shared__ AT part[2][256];\n  const i64 line = blockIdx.x;\n");
  put_bases(&t, p, &l);
  text_printf(&t,
              "  AT carry = %d;\n  for (i64 first = 0; first < %lldLL; first += 256) {\n"
              "    const i64 i = first + threadIdx.x;\n    const int x = threadIdx.x;\n    int from = 0;\n"
              "    part[0][x] = i < %lldLL ? (AT)GET(i) : (AT)%d;\n    __syncthreads();\n"
              "    for (int d = 1; d < 256; d *= 2, from ^= 1) {\n"
              "      part[from ^ 1][x] = x >= d ? part[from][x] %c part[from][x - d] : part[from][x];\n      "
              "__syncthreads();\n    }\n"
              "    const VT v = (VT)(carry %c part[from][x]);\n    if (i < %lldLL) out0[to0 + i * %lldLL] = ",
              product, (long long)l.size, (long long)l.size, product, op_char, op_char, (long long)l.size,
              (long long)l.out_stride[0]);
  cuda_narrow(&t, p->args.out[0].dtype, "v");
  text_printf(&t, ";\n    carry = carry %c part[from][255];\n    __syncthreads();\n  }\n}\n", op_char);
  return cuda_simple_prepare(p, "scan", &t, l.size ? l.count : 0, 256, 0);
}

/* Running extremes: a thread for each line. The last one of equals counts, and NaN stays once seen. */
static kiln_status prepare_extremes(kernel_prep *p) {
  const bool largest = strcmp(p->args.node->op->name, "cummax") == 0;
  const lines l = lines_of(p);
  text t = {0};
  put_get(&t, p, &l);
  text_puts(&t, "#define BEFORE(a, b) ((a) < (b) || ((b) != (b) && (a) == (a)))\n");
  put_head(&t, p, "extremes", 64);
  text_printf(&t, "  const i64 line = (i64)blockIdx.x * 64 + threadIdx.x;\n  if (line >= %lldLL) return;\n",
              (long long)l.count);
  put_bases(&t, p, &l);
  text_printf(&t,
              "  i64 best = 0;\n  for (i64 i = 0; i < %lldLL; i++) {\n    const VT x = GET(i), b = GET(best);\n"
              "    const bool not_worse = %s;\n    if (b != b ? x != x : not_worse) best = i;\n"
              "    out0[to0 + i * %lldLL] = in[base + best * %lldLL];\n    out1[to1 + i * %lldLL] = best;\n  }\n}\n",
              (long long)l.size, largest ? "!BEFORE(x, b)" : "!BEFORE(b, x) || x != x", (long long)l.out_stride[0],
              (long long)l.in_stride, (long long)l.out_stride[1]);
  return cuda_simple_prepare(p, "extremes", &t, l.size ? cuda_div_up(l.count, 64) : 0, 64, 0);
}

#define SORT(op_name, prepare_fn)    \
  {.op = op_name,                    \
   .name = "sort.cuda",              \
   .isa = 80,                        \
   .prepare = prepare_fn,            \
   .run = cuda_simple_run,           \
   .strided_in = KERNEL_STRIDED_ALL, \
   .strided_out = KERNEL_STRIDED_ALL},

const kernel cuda_sort_rows[] = {
    SORT("sort", prepare_sort) SORT("topk", prepare_sort) SORT("cumsum", prepare_scan) SORT("cumprod", prepare_scan)
        SORT("cummax", prepare_extremes) SORT("cummin", prepare_extremes){.op = NULL},
};
