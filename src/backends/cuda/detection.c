/* Detection: a block that goes through all boxes in order, and a thread for each bin of a region. */
#include <stdio.h>

#include "backends/cuda/internal.h"
#include "backends/cuda/mapped.h"
#include "backends/cuda/texts.h"

static void put_front(text *t, const kernel_prep *p) {
  text_printf(t, "#define DT %s\n", p->args.in[0].dtype == KILN_F64 ? "double" : "float");
  text_puts(t, cuda_text_detection_math);
}

static kiln_status prepare_suppress(kernel_prep *p) {
  enum { THREADS = 512 };
  const tensor *in = &p->args.in[0], *out = &p->args.out[0];
  const long long count = in->shape[0];
  char element[96];
  text t = {0};
  put_front(&t, p);
  snprintf(element, sizeof element, "in[box * %lldLL + k * %lldLL]", (long long)in->strides[0],
           (long long)in->strides[1]);
  text_printf(&t,
              "extern \"C\" __global__ void __launch_bounds__(%d) suppress(const %s *in, bool *keep) {\n  KILN_WAIT;\n"
              "  for (i64 box = threadIdx.x; box < %lldLL; box += %d) keep[box * %lldLL] = true;\n  __syncthreads();\n"
              "  for (i64 i = 0; i < %lldLL; i++) {\n    if (keep[i * %lldLL]) {\n      DT a[4], b[4];\n"
              "      for (int k = 0; k < 4; k++) { const i64 box = i; a[k] = ",
              THREADS, cuda_type(in->dtype), count, THREADS, (long long)out->strides[0], count,
              (long long)out->strides[0]);
  cuda_widen(&t, in->dtype, element);
  text_printf(&t,
              "; }\n      for (i64 box = i + 1 + threadIdx.x; box < %lldLL; box += %d) {\n"
              "        for (int k = 0; k < 4; k++) b[k] = ",
              count, THREADS);
  cuda_widen(&t, in->dtype, element);
  text_puts(&t, ";\n        if (det_overlap(a, b, ");
  cuda_literal(&t, KILN_F64, arg_float(&p->args, "limit"), 0);
  text_printf(&t, ")) keep[box * %lldLL] = false;\n      }\n    }\n    __syncthreads();\n  }\n}\n",
              (long long)out->strides[0]);
  return cuda_simple_prepare(p, "suppress", &t, count ? 1 : 0, THREADS, 0);
}

static const char roi_text[] =
    "  DT sum = 0;\n  for (i64 i = 0; inside && i < rows.count; i++) {\n    i64 y0, y1, x0, x1;\n    DT wy, wx;\n"
    "    if (!det_places(rows.start + (DT)i * rows.step, HEIGHT, &y0, &y1, &wy)) continue;\n"
    "    for (i64 j = 0; j < columns.count; j++) {\n"
    "      if (!det_places(columns.start + (DT)j * columns.step, WIDTH, &x0, &x1, &wx)) continue;\n"
    "      sum += (1 - wy) * ((1 - wx) * GET(y0, x0) + wx * GET(y0, x1)) + wy * ((1 - wx) * GET(y1, x0) + wx * GET(y1, "
    "x1));\n    }\n  }\n"
    "  const DT all = (DT)rows.count * (DT)columns.count;\n  sum /= all > 1 ? all : (DT)1;\n";

static kiln_status prepare_roi(kernel_prep *p) {
  const tensor *x = &p->args.in[0], *rois = &p->args.in[1];
  char element[200];
  text t = {0};
  put_front(&t, p);
  text_printf(&t, "#define HEIGHT %lldLL\n#define WIDTH %lldLL\n#define GET(y, x) (DT)(", (long long)x->shape[2],
              (long long)x->shape[3]);
  snprintf(element, sizeof element, "in0[base + (y) * %lldLL + (x) * %lldLL]", (long long)x->strides[2],
           (long long)x->strides[3]);
  cuda_widen(&t, x->dtype, element);
  text_puts(&t, ")\n");
  mapped_begin(&t, p, "roi_align", 1);
  text_puts(&t, "  DT roi[5];\n  for (int k = 0; k < 5; k++) roi[k] = ");
  snprintf(element, sizeof element, "in1[c0 * %lldLL + k * %lldLL]", (long long)rois->strides[0],
           (long long)rois->strides[1]);
  cuda_widen(&t, rois->dtype, element);
  text_printf(&t,
              ";\n  const bool inside = roi[0] >= 0 && roi[0] < (DT)%lldLL;\n"
              "  const i64 base = (inside ? (i64)roi[0] : 0) * %lldLL + c1 * %lldLL;\n",
              (long long)x->shape[0], (long long)x->strides[0], (long long)x->strides[1]);
  for (int side = 0; side < 2; side++) {
    text_printf(&t, "  const det_side %s = det_bin(roi[%d], roi[%d], (DT)", side ? "columns" : "rows", side ? 1 : 2,
                side ? 3 : 4);
    cuda_literal(&t, KILN_F64, arg_float(&p->args, "scale"), 0);
    text_printf(&t, ", c%d, %lldLL, %lldLL, %d);\n", side ? 3 : 2,
                (long long)arg_int(&p->args, side ? "width" : "height"), (long long)arg_int(&p->args, "sampling"),
                arg_bool(&p->args, "aligned"));
  }
  text_puts(&t, roi_text);
  mapped_store(&t, p, 0, "sum");
  return mapped_end(p, &t, "roi_align", 1);
}

#define ROW(op_name, prepare_fn)     \
  {.op = op_name,                    \
   .name = "detection.cuda",         \
   .isa = 80,                        \
   .prepare = prepare_fn,            \
   .run = cuda_simple_run,           \
   .strided_in = KERNEL_STRIDED_ALL, \
   .strided_out = KERNEL_STRIDED_ALL},

const kernel cuda_detection_rows[] = {ROW("suppress", prepare_suppress) ROW("roi_align", prepare_roi){.op = NULL}};
