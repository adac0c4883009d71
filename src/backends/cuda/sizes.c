/* Operators whose results are as large as the data says. The runtime has measured the size before such a kernel is prepared, so it is a
 * constant here. One block goes through the operand in order and keeps a running count. */
#include <stdio.h>
#include <string.h>

#include "backends/cuda/codegen.h"

enum { SIZES_THREADS = 1024 };

/* "(cond) widened element" of operand 0 at the coordinates c0.. */
static void put_element(text *t, const tensor *in, const char *name) {
  char element[700];
  text offset = {0};
  cuda_offset(&offset, "c", in->rank, in->shape, in->strides);
  snprintf(element, sizeof element, "in[%s]", offset.data ? offset.data : "0");
  text_printf(t, "const %s %s = ", cuda_value_type(in->dtype), name);
  cuda_widen(t, in->dtype, element);
  text_puts(t, ";\n");
  if (offset.failed) t->failed = true;
  text_free(&offset);
}

/* Where this thread's results begin: `start` + those of the warps and lanes before it; `start` moves on by all of this round. */
static const char scan[] =
    "typedef %s C;\n"
    "__device__ __forceinline__ i64 place_of(C own, i64 &start) {\n"
    "  __shared__ C sums[32];\n"
    "  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;\n"
    "  C upto = own;\n"
    "  for (int d = 1; d < 32; d *= 2) {\n"
    "    const C other = __shfl_up_sync(0xffffffffu, upto, d);\n"
    "    if (lane >= d) upto += other;\n"
    "  }\n"
    "  if (lane == 31) sums[warp] = upto;\n"
    "  __syncthreads();\n"
    "  C before = 0, all = 0;\n"
    "  for (int w = 0; w < 32; w++) {\n"
    "    if (w < warp) before += sums[w];\n"
    "    all += sums[w];\n"
    "  }\n"
    "  __syncthreads();\n"
    "  const i64 place = start + before + upto - own;\n"
    "  start += all;\n"
    "  return place;\n"
    "}\n";

static void put_head(text *t, const kernel_prep *p, const char *entry, const char *count_type) {
  const tensor *in = &p->args.in[0];
  text_printf(t, scan, count_type);
  text_printf(t,
              "extern \"C\" __global__ void __launch_bounds__(%d) %s(const %s *in, long long *out) {\n"
              "  KILN_WAIT;\n  i64 start = 0;\n"
              "  for (i64 first = 0; first < %lldLL; first += %d) {\n    const i64 i = first + threadIdx.x;\n",
              SIZES_THREADS, entry, cuda_type(in->dtype), (long long)tensor_numel(in), SIZES_THREADS);
}

static kiln_status prepare_nonzero(kernel_prep *p) {
  const tensor *in = &p->args.in[0], *out = &p->args.out[0];
  text t = {0};
  put_head(&t, p, "nonzero", "int");
  text_printf(&t, "    bool live = i < %lldLL;\n    if (live) {\n", (long long)tensor_numel(in));
  cuda_coordinates(&t, "i64", "c", "i", in->rank, in->shape);
  put_element(&t, in, "x");
  text_printf(&t,
              "      live = x != 0;\n    }\n    const i64 row = place_of(live, start);\n"
              "    if (live && row < %lldLL) {\n",
              (long long)out->shape[0]);
  cuda_coordinates(&t, "i64", "c", "i", in->rank, in->shape);
  for (int d = 0; d < in->rank; d++)
    text_printf(&t, "      out[row * %lldLL + %lldLL] = c%d;\n", (long long)out->strides[0],
                (long long)out->strides[1] * d, d);
  text_puts(&t, "    }\n  }\n}\n");
  return cuda_simple_prepare(p, "nonzero", &t, tensor_numel(out) ? 1 : 0, SIZES_THREADS, 0);
}

static kiln_status prepare_repeat_index(kernel_prep *p) {
  const tensor *in = &p->args.in[0], *out = &p->args.out[0];
  text t = {0};
  put_head(&t, p, "repeat_index", "i64");
  text_printf(&t, "    i64 count = 0;\n    if (i < %lldLL) {\n", (long long)tensor_numel(in));
  cuda_coordinates(&t, "i64", "c", "i", in->rank, in->shape);
  put_element(&t, in, "x");
  text_printf(&t,
              "      count = x;\n    }\n    const i64 row = place_of(count, start);\n"
              "    for (i64 k = 0; k < count && row + k < %lldLL; k++) out[(row + k) * %lldLL] = i;\n  }\n}\n",
              (long long)out->shape[0], (long long)out->strides[0]);
  return cuda_simple_prepare(p, "repeat_index", &t, tensor_numel(out) ? 1 : 0, SIZES_THREADS, 0);
}

static kiln_status prepare_data_size(kernel_prep *p) {
  const tensor *in = &p->args.in[0];
  text t = {0};
  text_printf(&t, "extern \"C\" __global__ void data_size(const %s *in, long long *out) {\n  KILN_WAIT;\n",
              cuda_type(in->dtype));
  text_puts(&t, "  out[0] = (long long)(");
  cuda_widen(&t, in->dtype, "in[0]");
  text_puts(&t, ");\n}\n");
  return cuda_simple_prepare(p, "data_size", &t, 1, 1, 0);
}

#define SIZES(op_name, prepare_fn)                                                                 \
  {                                                                                                \
    .op = op_name, .name = "sizes.cuda", .isa = 80, .prepare = prepare_fn, .run = cuda_simple_run, \
    .strided_in = KERNEL_STRIDED_ALL, .strided_out = KERNEL_STRIDED_ALL                            \
  }

extern const kernel cuda_size_rows[];
const kernel cuda_size_rows[] = {SIZES("nonzero", prepare_nonzero),
                                 SIZES("repeat_index", prepare_repeat_index),
                                 SIZES("data_size", prepare_data_size),
                                 {.op = NULL}};
