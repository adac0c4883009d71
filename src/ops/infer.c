/* Helpers for shape inference. */
#include "ops/infer.h"

#include <stdio.h>

kiln_status infer_fail(const node *n, const char *file, int line, const char *fmt, ...) {
  char message[512];
  va_list args;
  va_start(args, fmt);
  vsnprintf(message, sizeof message, fmt, args);
  va_end(args);
  const bool place = n->source && *n->source;
  return error_raise(KILN_INVALID_ARGUMENT, file, line, "%s%s%s: %s", n->op->name, place ? " at " : "",
                     place ? n->source : "", message);
}

static const char *operand_name(const node *n, int operand) {
  const op_schema *s = op_schema_of(n->op);
  return s->in[operand < s->n_in ? operand : s->n_in - 1].name;
}

kiln_status infer_rank_between(const node *n, int operand, int min, int max) {
  const int rank = in_type(n, operand)->rank;
  if (rank >= min && rank <= max) return KILN_OK;
  if (min == max)
    return INFER_FAIL(n, "operand %s has %d dimensions, expected %d", operand_name(n, operand), rank, min);
  return INFER_FAIL(n, "operand %s has %d dimensions, expected %d to %d", operand_name(n, operand), rank, min, max);
}

kiln_status infer_float(const node *n, int operand) {
  const kiln_dtype d = in_type(n, operand)->dtype;
  if (dtype_is_float(d)) return KILN_OK;
  return INFER_FAIL(n, "operand %s is %s, expected a floating-point type", operand_name(n, operand),
                    kiln_dtype_name(d));
}

kiln_status infer_axis(const node *n, const char *attribute, int64_t axis, int rank, int *out) {
  const int64_t limit = rank ? rank : 1;
  if (axis < -limit || axis >= limit)
    return INFER_FAIL(n, "%s is %lld, expected %lld to %lld", attribute, (long long)axis, (long long)-limit,
                      (long long)limit - 1);
  *out = (int)(axis < 0 ? axis + limit : axis);
  return KILN_OK;
}

kiln_status infer_same_dim(graph *g, const node *n, const char *what, dim a, dim b) {
  if (a == DIM_ERROR || b == DIM_ERROR)
    return KILN_FAIL(KILN_INVALID_ARGUMENT, "%s: a size cannot be computed", n->op->name);
  const int equal = dim_compare_equal(g->dims, a, b);
  if (equal < 0) graph_guard_equal(g, a, b);
  if (equal != 0) return KILN_OK;
  text t = {0};
  dim_print(g->dims, a, &t);
  text_puts(&t, " and ");
  dim_print(g->dims, b, &t);
  const kiln_status status = INFER_FAIL(n, "%s differ: %s", what, t.data ? t.data : "?");
  text_free(&t);
  return status;
}

kiln_status infer_broadcast(graph *g, const node *n, const tensor_type *a, const tensor_type *b, tensor_type *out) {
  const int rank = a->rank > b->rank ? a->rank : b->rank;
  dim dims[KILN_MAX_RANK] = {0};
  for (int i = 0; i < rank; i++) {
    const int ia = i - (rank - a->rank), ib = i - (rank - b->rank);
    const dim da = ia >= 0 ? a->dims[ia] : 1, db = ib >= 0 ? b->dims[ib] : 1;
    if (da == 1) {
      dims[i] = db;
    } else if (db == 1) {
      dims[i] = da;
    } else {
      KILN_TRY(infer_same_dim(g, n, "sizes that must broadcast", da, db));
      dims[i] = dim_is_const(da) ? da : db;
    }
  }
  out->rank = rank;
  for (int i = 0; i < rank; i++) out->dims[i] = dims[i];
  return KILN_OK;
}

void set_out(node *n, int i, kiln_dtype dtype, int rank, const dim *dims) {
  n->outputs[i]->type = type_of(dtype, rank, dims);
}

kiln_status infer_same(graph *g, node *n) {
  (void)g;
  n->outputs[0]->type = *in_type(n, 0);
  return KILN_OK;
}

dim infer_window(graph *g, dim size, int64_t kernel, int64_t stride, int64_t pad_before, int64_t pad_after,
                 int64_t dilation, bool ceil) {
  dim_table *t = g->dims;
  if (stride < 1) return DIM_ERROR;
  const dim span = dim_add(t, size, pad_before + pad_after - dilation * (kernel - 1) - 1 + (ceil ? stride - 1 : 0));
  dim n = dim_add(t, dim_floordiv(t, span, stride), 1);
  /* PyTorch drops a last window that would start in the right padding (aten/native/Pool.h,
   * pooling_output_shape_pad_lr). */
  if (ceil && n != DIM_ERROR) {
    const dim start = dim_mul(t, dim_sub(t, n, 1), stride), limit = dim_add(t, size, pad_before);
    if (dim_is_const(start) && dim_is_const(limit) && start >= limit) n = dim_sub(t, n, 1);
  }
  return n;
}
