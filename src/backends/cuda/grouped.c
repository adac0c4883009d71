/* grouped_matmul: a thread for each result, which looks up the matrix of its row. Neighbouring threads make neighbouring
 * columns, so that they share x and read w side by side. Offsets that do not rise, which the host refuses, give rows of 0. */
#include <stdio.h>

#include "backends/cuda/internal.h"
#include "backends/cuda/mapped.h"

static kiln_status prepare_grouped(kernel_prep *p) {
  const tensor *x = &p->args.in[0], *w = &p->args.in[1], *offsets = &p->args.in[2];
  text t = {0};
  mapped_begin(&t, p, "grouped", 1);
  text_printf(&t,
              "  i64 e = 0;\n  while (e < %lldLL && c0 >= (i64)in2[e * %lldLL]) e++;\n"
              "  const i64 x0 = c0 * %lldLL, w0 = e * %lldLL + c1 * %lldLL;\n  %s sum = 0;\n"
              "  for (i64 k = 0; e < %lldLL && k < %lldLL; k++) {\n",
              (long long)w->shape[0], (long long)offsets->strides[0], (long long)x->strides[0],
              (long long)w->strides[0], (long long)w->strides[2], cuda_value_type(x->dtype), (long long)w->shape[0],
              (long long)x->shape[1]);
  char at[64];
  snprintf(at, sizeof at, "x0 + k * %lldLL", (long long)x->strides[1]);
  mapped_load(&t, p, 0, "u", at);
  snprintf(at, sizeof at, "w0 + k * %lldLL", (long long)w->strides[1]);
  mapped_load(&t, p, 1, "v", at);
  text_puts(&t, "    sum += u * v;\n  }\n");
  mapped_store(&t, p, 0, "sum");
  return mapped_end(p, &t, "grouped", 1);
}

static bool grouped_fits(const node *n, const char **why) {
  if (dtype_is_float(node_in(n, 0)->type.dtype)) return true;
  *why = "operands are not floats";
  return false;
}

const kernel cuda_grouped_rows[] = {
    {.op = "grouped_matmul",
     .name = "grouped.cuda",
     .isa = 80,
     .fits = grouped_fits,
     .prepare = prepare_grouped,
     .run = cuda_simple_run,
     .strided_in = KERNEL_STRIDED_ALL,
     .strided_out = 1},
    {.op = NULL},
};
