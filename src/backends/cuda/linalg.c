/* Linear algebra: a block of threads for each matrix, over the same text as the host's (ops/linalg_math.h), in double. */
#include <stdio.h>

#include "backends/cuda/internal.h"
#include "backends/cuda/mapped.h"
#include "backends/cuda/texts.h"
#include "base/memory.h"
#include "ops/linalg.h"

enum { LINALG_THREADS = 128 };

static void put_moves(text *t, const kernel_prep *p, const linalg_layout *l, bool store) {
  long long at = store ? l->in[0] + l->in[1] : 0;
  for (int k = 0; k < (store ? p->args.n_out : p->args.n_in); k++) {
    const tensor *one = store ? &p->args.out[k] : &p->args.in[k];
    const long long count = store ? l->x[k] : l->in[k];
    char element[96];
    snprintf(element, sizeof element, "%s%d[blockIdx.x * %lldLL + e]", store ? "out" : "in", k, count);
    text_printf(t, "  LA_EACH(e, 0, %lldLL) ", count);
    if (store) {
      char v[64];
      snprintf(v, sizeof v, "(%s)w[%lldLL + e]", cuda_value_type(one->dtype), at);
      text_printf(t, "%s = ", element);
      cuda_narrow(t, one->dtype, v);
    } else {
      text_printf(t, "w[%lldLL + e] = (double)", at);
      cuda_widen(t, one->dtype, element);
    }
    text_puts(t, ";\n");
    at += count;
  }
}

static kiln_status prepare_linalg(kernel_prep *p) {
  linalg_layout l;
  text t = {0};
  KILN_TRY(linalg_layout_of(&p->args, &l));
  text_puts(&t, cuda_text_linalg_math);
  text_printf(&t, "extern \"C\" __global__ void __launch_bounds__(%d) linalg(", LINALG_THREADS);
  for (int i = 0; i < p->args.n_in; i++) text_printf(&t, "const %s *in%d, ", cuda_type(p->args.in[i].dtype), i);
  for (int i = 0; i < p->args.n_out; i++) text_printf(&t, "%s *out%d, ", cuda_type(p->args.out[i].dtype), i);
  text_printf(&t, "double *room) {\n  KILN_WAIT;\n  double *w = room + blockIdx.x * %lldLL;\n", (long long)l.total + 1);
  put_moves(&t, p, &l, false);
  text_puts(&t, "  __syncthreads();\n");
  text_printf(&t, "  const long long d[5] = {%lldLL, %lldLL, %lldLL, %lldLL, %lldLL};\n", (long long)l.sizes[0],
              (long long)l.sizes[1], (long long)l.sizes[2], (long long)l.sizes[3], (long long)l.sizes[4]);
  const long long x = l.in[0] + l.in[1];
  text_printf(&t,
              "  la_%s(d, %d, w, w + %lldLL, w + %lldLL, w + %lldLL, w + %lldLL);\n"
              "  __syncthreads();\n",
              p->args.node->op->name, l.flags, (long long)l.in[0], x, x + (long long)l.x[0],
              x + (long long)l.x[0] + (long long)l.x[1]);
  put_moves(&t, p, &l, true);
  text_puts(&t, "}\n");
  size_t bytes = 0;
  if (!size_mul((size_t)l.total + 1, sizeof(double), &bytes) || !size_mul(bytes, (size_t)l.count, &bytes)) {
    text_free(&t);
    return KILN_NO_MEMORY("matrices");
  }
  p->workspace_size = bytes;
  return cuda_simple_prepare(p, "linalg", &t, l.count, LINALG_THREADS, 0);
}

static kiln_status run_linalg(const kernel_args *a) {
  const cuda_simple *s = a->state;
  void *params[CUDA_SPACE_TENSORS + 2], *room = a->workspace;
  int n = 0;
  if (s->blocks <= 0) return KILN_OK;
  for (int i = 0; i < a->n_in; i++) params[n++] = &a->in[i].data;
  for (int i = 0; i < a->n_out; i++) params[n++] = &a->out[i].data;
  params[n++] = &room;
  return cuda_launch_1d(a, s->f, s->blocks, s->threads, s->shared, params);
}

#define ROW(op_name) {.op = op_name, .name = "linalg.cuda", .isa = 80, .prepare = prepare_linalg, .run = run_linalg},

const kernel cuda_linalg_rows[] = {ROW("lu") ROW("pivot_order") ROW("cholesky") ROW("solve_triangular") ROW("qr_factor")
                                       ROW("householder") ROW("eigh") ROW("eig") ROW("svd"){.op = NULL}};
