/* Text of epilogues: see cuda.h. The result is seen as rows of its last dimension; an operand is read at the row's
 * place, in vectors where it lies like the result. */
#include <stdio.h>
#include <string.h>

#include "backends/cuda/codegen.h"
#include "backends/cuda/gemm.h"

#define OVERRIDABLE __attribute__((weak))

OVERRIDABLE bool cuda_epilogue_fits(const node *n, const char **why) {
  const value *y = n->outputs[0];
  if (!cuda_is_float(y->type.dtype)) return *why = "the result is not f32, f16 or bf16", false;
  if (!n->epilogue) return true;
  const block *b = n->epilogue;
  const int extra = n->n_inputs - n->own_inputs;
  if (b->n_params != 1 + extra) return *why = "malformed epilogue", false;
  if (extra > CUDA_EPILOGUE_MAX) return *why = "the epilogue has too many operands", false;
  if (b->n_results != 1 || !cuda_is_float(b->params[0]->type.dtype))
    return *why = "the anchor's result is not f32, f16 or bf16", false;
  return cuda_block_fits(b, why);
}

/* Widest access to the operand along the last dimension: 0 if it is one value for all columns. */
static int operand_width(const kernel_prep *p, int operand, const cuda_space *s, int index, int64_t columns,
                         int64_t step) {
  const tensor *x = &p->args.in[operand];
  int64_t numbers[KILN_MAX_RANK + 1];
  int count = 0;
  if (step == 0) return 0;
  if (step != 1) return 1;
  numbers[count++] = columns;
  for (int d = 0; d < s->rank; d++) {
    if (s->shape[d] != 1) numbers[count++] = s->strides[index][d];
  }
  return cuda_vector(8, (int)kiln_dtype_size(x->dtype), cuda_in_alignment(p, operand), count, numbers);
}

typedef struct epilogue_operand {
  int width;
  int64_t step; /* from column to column */
} epilogue_operand;

static void put_reads(text *t, const kernel_prep *p, const cuda_space *s, int own, int extra,
                      const epilogue_operand *o) {
  for (int i = 0; i < extra; i++) {
    const char *type = cuda_type(p->args.in[own + i].dtype);
    text_printf(t, "  const %s *p%d = (const %s *)e.p[%d] + ", type, i, type, i);
    cuda_offset(t, "r", s->rank, s->shape, s->strides[i]);
    if (o[i].width == 0) {
      text_printf(t, ";\n  const %s l%d = *p%d;\n", type, i, i);
    } else if (o[i].width > 1) {
      text_printf(
          t,
          " + col;\n  %s l%d[V];\n  {\n    constexpr int W = V < %d ? V : %d;\n#pragma unroll\n"
          "    for (int j = 0; j < V; j += W) {\n      const vec<%s, W> q = load_vec<%s, W>(p%d + j);\n#pragma unroll\n"
          "      for (int k = 0; k < W; k++) l%d[j + k] = q.v[k];\n    }\n  }\n",
          type, i, o[i].width, o[i].width, type, type, i, i);
    } else {
      text_printf(t,
                  " + (i64)col * %lldLL;\n  %s l%d[V];\n#pragma unroll\n  for (int k = 0; k < V; k++) l%d[k] = p%d[k * "
                  "%lldLL];\n",
                  (long long)o[i].step, type, i, i, i, (long long)o[i].step);
    }
  }
}

static void put_chain(text *t, const kernel_prep *p, int own, int extra, const epilogue_operand *o) {
  char names[CUDA_EPILOGUE_MAX + 1][16], result[64], element[32];
  const char *params[CUDA_EPILOGUE_MAX + 1];
  text_puts(t, "#pragma unroll\n  for (int k = 0; k < V; k++) {\n    const float x0 = v[k];\n");
  for (int i = 0; i <= extra; i++) {
    snprintf(names[i], sizeof names[i], "x%d", i);
    params[i] = names[i];
    if (i == 0) continue;
    const kiln_dtype d = p->args.in[own + i - 1].dtype;
    snprintf(element, sizeof element, o[i - 1].width ? "l%d[k]" : "l%d", i - 1);
    text_printf(t, "    const %s x%d = ", cuda_value_type(d), i);
    cuda_widen(t, d, element);
    text_puts(t, ";\n");
  }
  cuda_block_emit(t, p->args.node->epilogue, params, "e", result);
  text_printf(t, "    v[k] = (float)(%s);\n  }\n", result);
}

OVERRIDABLE kiln_status cuda_epilogue_text(const kernel_prep *p, const char **out_text) {
  const node *n = p->args.node;
  const tensor *y = &p->args.out[0];
  const int own = n->epilogue ? n->own_inputs : p->args.n_in, extra = p->args.n_in - own, last = y->rank - 1;
  epilogue_operand o[CUDA_EPILOGUE_MAX];
  cuda_space s = {.rank = last < 0 ? 0 : last, .n = extra + 1};
  if (extra > CUDA_EPILOGUE_MAX) return KILN_FAIL(KILN_UNSUPPORTED, "an epilogue of %d operands", extra);
  for (int d = 0; d < last; d++) s.shape[d] = y->shape[d];
  for (int i = 0; i <= extra; i++) {
    int64_t strides[KILN_MAX_RANK] = {0};
    if (i < extra) {
      cuda_broadcast_strides(&p->args.in[own + i], y->rank, y->shape, strides);
      o[i].step = last >= 0 ? strides[last] : 0;
    } else {
      for (int d = 0; d < y->rank; d++) strides[d] = y->strides[d];
    }
    for (int d = 0; d < last; d++) s.strides[i][d] = strides[d];
  }
  cuda_space_collapse(&s);
  if (last <= 0) {
    for (int i = 0; i <= extra; i++) s.strides[i][0] = 0;
  }
  for (int i = 0; i < extra; i++)
    o[i].width = operand_width(p, own + i, &s, i, last >= 0 ? y->shape[last] : 1, o[i].step);
  text t = {0};
  text_printf(&t,
              "struct kiln_epi { const void *p[%d]; };\n#define KILN_OUT_STEP %lldLL\nFN i64 kiln_out_row(i64 row) {\n",
              CUDA_EPILOGUE_MAX, (long long)(last >= 0 && y->shape[last] != 1 ? y->strides[last] : 1));
  cuda_coordinates(&t, "i64", "r", "row", s.rank, s.shape);
  text_puts(&t, "  return ");
  cuda_offset(&t, "r", s.rank, s.shape, s.strides[extra]);
  text_puts(&t, ";\n}\ntemplate <int V> FN void kiln_epilogue(float (&v)[V], const kiln_epi &e, i64 row, int col) {\n");
  if (n->epilogue) {
    if (extra > 0) cuda_coordinates(&t, "i64", "r", "row", s.rank, s.shape);
    put_reads(&t, p, &s, own, extra, o);
    put_chain(&t, p, own, extra, o);
  }
  text_puts(&t, "}\n");
  return cuda_text_keep((kernel_prep *)(uintptr_t)p, &t, out_text);
}

OVERRIDABLE void cuda_epilogue_fill(const kernel_args *a, cuda_epilogue_args *out) {
  memset(out, 0, sizeof *out);
  if (!a->node->epilogue) return;
  for (int i = a->node->own_inputs; i < a->n_in && i - a->node->own_inputs < CUDA_EPILOGUE_MAX; i++)
    out->p[i - a->node->own_inputs] = a->in[i].data;
}
