/* Special functions: a thread for each result, over the same text as the host's (ops/special_math.h). */
#include <stdio.h>

#include "backends/cuda/internal.h"
#include "backends/cuda/mapped.h"
#include "backends/cuda/texts.h"
#include "ops/special_rows.h"

static kiln_status prepare_special(kernel_prep *p) {
  const tensor *out = &p->args.out[0];
  text t = {0};
  text_puts(&t, cuda_text_special_math);
  mapped_begin(&t, p, "special", 1);
  for (int i = 0; i < p->args.n_in; i++) {
    int64_t strides[KILN_MAX_RANK];
    char at[16];
    cuda_broadcast_strides(&p->args.in[i], out->rank, out->shape, strides);
    text_printf(&t, "  const i64 at%d = ", i);
    cuda_offset(&t, "c", out->rank, out->shape, strides);
    text_puts(&t, ";\n");
    snprintf(at, sizeof at, "at%d", i);
    mapped_load(&t, p, i, i ? "y" : "x", at);
  }
  text_printf(&t, "  const %s r = (%s)sp_%s((double)x%s);\n", cuda_value_type(out->dtype), cuda_value_type(out->dtype),
              p->args.node->op->name, p->args.n_in > 1 ? ", (double)y" : "");
  mapped_store(&t, p, 0, "r");
  return mapped_end(p, &t, "special", 1);
}

#define ROW(op_name, cases, calls)   \
  {.op = #op_name,                   \
   .name = "special.cuda",           \
   .isa = 80,                        \
   .prepare = prepare_special,       \
   .run = cuda_simple_run,           \
   .strided_in = KERNEL_STRIDED_ALL, \
   .strided_out = KERNEL_STRIDED_ALL},

const kernel cuda_special_rows[] = {SPECIAL_ROWS(ROW, ROW){.op = NULL}};
