/* Products of f64 matrices: a thread makes one result. What models in double precision do is seldom bound by them; results are what
 * matters. (Convolutions in f64 are conv_direct.cu; attention and norms in f64 become these and chains in decompose.c.) */
#include <stdio.h>

#include "backends/cuda/internal.h"
#include "backends/cuda/mapped.h"

/* Ends a kernel whose text has `u_at` and `v_at`: the sum over K of in0[u_at + k * u_step] * in1[v_at + k * v_step], with a bias. */
static kiln_status finish(kernel_prep *p, text *t, int64_t depth, int64_t u_step, int64_t v_step, const char *entry) {
  const int last = p->args.out[0].rank - 1;
  char at[80];
  text_printf(t, "  double sum = 0;\n  for (i64 k = 0; k < %lldLL; k++) {\n", (long long)depth);
  snprintf(at, sizeof at, "u_at + k * %lldLL", (long long)u_step);
  mapped_load(t, p, 0, "u", at);
  snprintf(at, sizeof at, "v_at + k * %lldLL", (long long)v_step);
  mapped_load(t, p, 1, "v", at);
  text_puts(t, "    sum += u * v;\n  }\n");
  if (p->args.n_in > 2 && p->args.in[2].rank >= 0)
    text_printf(t, "  sum += in2[c%d * %lldLL];\n", last, (long long)p->args.in[2].strides[0]);
  mapped_store(t, p, 0, "sum");
  return mapped_end(p, t, entry, 1);
}

static kiln_status prepare_linear(kernel_prep *p) {
  const tensor *x = &p->args.in[0], *w = &p->args.in[1];
  const int last = x->rank - 1;
  text t = {0};
  mapped_begin(&t, p, "linear", 1);
  text_puts(&t, "  const i64 u_at = ");
  cuda_offset(&t, "c", last, x->shape, x->strides);
  text_printf(&t, ", v_at = c%d * %lldLL;\n", last, (long long)w->strides[0]);
  return finish(p, &t, x->shape[last], x->strides[last], w->strides[1], "linear");
}

/* Where the matrix of operand `name` begins: the result's batch coordinates, broadcast. */
static void put_matrix(text *t, const char *name, const tensor *m, const tensor *y) {
  text_printf(t, "  const i64 %s = 0", name);
  for (int r = 0; r < y->rank - 2; r++) {
    const int k = r - (y->rank - m->rank);
    if (k >= 0 && m->shape[k] != 1) text_printf(t, " + c%d * %lldLL", r, (long long)m->strides[k]);
  }
}

static kiln_status prepare_matmul(kernel_prep *p) {
  const tensor *a = &p->args.in[0], *b = &p->args.in[1], *y = &p->args.out[0];
  const int row = arg_bool(&p->args, "transpose_b") ? b->rank - 1 : b->rank - 2; /* b's dimension that is summed over */
  const int column = 2 * b->rank - 3 - row;
  text t = {0};
  mapped_begin(&t, p, "matmul", 1);
  put_matrix(&t, "u_at", a, y);
  text_printf(&t, " + c%d * %lldLL;\n", y->rank - 2, (long long)a->strides[a->rank - 2]);
  put_matrix(&t, "v_at", b, y);
  text_printf(&t, " + c%d * %lldLL;\n", y->rank - 1, (long long)b->strides[column]);
  return finish(p, &t, a->shape[a->rank - 1], a->strides[a->rank - 1], b->strides[row], "matmul");
}

static bool fits(const node *n, const char **why) {
  *why = "operands are not f64, or something runs in the epilogue";
  if (n->epilogue || n->outputs[0]->type.dtype != KILN_F64) return false;
  for (int i = 0; i < n->n_inputs; i++) {
    if (node_in(n, i) && node_in(n, i)->type.dtype != KILN_F64) return false;
  }
  *why = NULL;
  return true;
}

#define ROW(op_name, prepare_fn)     \
  {.op = op_name,                    \
   .name = op_name ".f64",           \
   .isa = 80,                        \
   .fits = fits,                     \
   .prepare = prepare_fn,            \
   .run = cuda_simple_run,           \
   .strided_in = KERNEL_STRIDED_ALL, \
   .strided_out = KERNEL_STRIDED_ALL},

const kernel cuda_f64_rows[] = {ROW("linear", prepare_linear) ROW("matmul", prepare_matmul){.op = NULL}};
