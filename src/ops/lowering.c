/* Small pieces that lowerings share: arguments to axes and sizes, Python's slice bounds, axis shuffling. */
#include "ops/lowering.h"

#include <string.h>

kiln_status lowering_missing(lower_call *c, const char *what) {
  KILN_TRY(graph_check(c->b.graph));
  return LOWER_FAIL(c, "tensor `%s` is missing (None where a tensor is needed)", what);
}

kiln_status lowering_tensor(lower_call *c, const char *name, value **out) {
  *out = call_tensor(c, name);
  return *out ? KILN_OK : lowering_missing(c, name);
}

bool lowering_is_number(const lower_call *c, const char *name) {
  const ivalue *v = call_arg(c, name);
  return v && (v->kind == IV_INT || v->kind == IV_FLOAT || v->kind == IV_BOOL);
}

bool lowering_is_float_number(const lower_call *c, const char *name) {
  const ivalue *v = call_arg(c, name);
  return v && v->kind == IV_FLOAT;
}

kiln_status lowering_dtype(lower_call *c, const char *name, kiln_dtype fallback, kiln_dtype *out) {
  const ivalue *v = call_arg(c, name);
  *out = fallback;
  if (!v || v->kind == IV_NONE) return KILN_OK;
  if ((v->kind != IV_DTYPE && v->kind != IV_INT) || v->u.i < 0 || v->u.i >= KILN_DTYPE_COUNT) {
    return LOWER_FAIL(c, "argument %s: this dtype is not supported (complex, quantized or unsigned wider than 8 bits)",
                      name);
  }
  *out = (kiln_dtype)v->u.i;
  return KILN_OK;
}

kiln_status lowering_wrap_axis(lower_call *c, const char *name, dim axis, int rank, int *out) {
  const int64_t limit = rank > 0 ? rank : 1;
  if (!dim_is_const(axis) || axis < -limit || axis >= limit) {
    return LOWER_FAIL(c, "argument %s: axis %lld is outside a tensor of rank %d", name, (long long)axis, rank);
  }
  *out = (int)(axis < 0 ? axis + limit : axis);
  return KILN_OK;
}

kiln_status lowering_axis(lower_call *c, const char *name, int rank, int *out) {
  return lowering_wrap_axis(c, name, call_int(c, name), rank, out);
}

kiln_status lowering_axes(lower_call *c, const char *name, int rank, bool empty_is_all, int64_t *out, int *count) {
  dim given[KILN_MAX_RANK] = {0};
  const ivalue *v = call_arg(c, name);
  const bool none = !v || v->kind == IV_NONE;
  const int n = none ? 0 : call_ints(c, name, given, KILN_MAX_RANK);
  if (n < 0 || n > KILN_MAX_RANK) return LOWER_FAIL(c, "argument %s: more than %d axes", name, KILN_MAX_RANK);
  *count = 0;
  if (none || (n == 0 && empty_is_all)) {
    for (int i = 0; i < rank; i++) out[i] = i;
    *count = rank;
    return KILN_OK;
  }
  uint32_t seen = 0;
  for (int i = 0; i < n; i++) {
    int axis = 0;
    KILN_TRY(lowering_wrap_axis(c, name, given[i], rank, &axis));
    if (seen & (1u << axis)) return LOWER_FAIL(c, "argument %s: axis %d appears twice", name, axis);
    seen |= 1u << axis;
    if (rank > 0) out[(*count)++] = axis; /* axis 0 of a scalar is no axis */
  }
  return KILN_OK;
}

kiln_status lowering_sizes(lower_call *c, const char *name, dim *out, int *count) {
  const int n = call_ints(c, name, out, KILN_MAX_RANK);
  if (n < 0 || n > KILN_MAX_RANK) return LOWER_FAIL(c, "argument %s: more than %d dimensions", name, KILN_MAX_RANK);
  *count = n;
  return KILN_OK;
}

dim lowering_min(dim_table *t, dim a, dim b) {
  if (a == b || dim_compare_le(t, a, b) == 1) return a;
  if (dim_compare_le(t, b, a) == 1) return b;
  return dim_min(t, a, b);
}

dim lowering_max(dim_table *t, dim a, dim b) {
  if (a == b || dim_compare_le(t, a, b) == 1) return b;
  if (dim_compare_le(t, b, a) == 1) return a;
  return dim_max(t, a, b);
}

dim lowering_wrap_index(dim_table *t, dim index, dim size) {
  if (index == DIM_ERROR || size == DIM_ERROR) return DIM_ERROR;
  if (dim_is_const(index)) return index < 0 ? dim_add(t, size, index) : index;
  int64_t low = 0, high = 0;
  dim_range(t, index, &low, &high);
  return high < 0 ? dim_add(t, size, index)
                  : index; /* sizes and indices computed from sizes are not negative otherwise */
}

value *lowering_float(builder *b, value *v) {
  if (!v || dtype_is_float(v->type.dtype)) return v;
  return lower_cast(b, v, KILN_F32);
}

value *lowering_slice(builder *b, value *v, int axis, dim start, dim end, int64_t step) {
  if (!v) return NULL;
  dim_table *t = b->graph->dims;
  const dim size = v->type.dims[axis];
  const int64_t huge = INT64_MAX / 2;
  start = dim_is_const(start) && start >= huge ? size : lowering_wrap_index(t, start, size);
  end = dim_is_const(end) && end >= huge ? size : lowering_wrap_index(t, end, size);
  if (!dim_is_const(start) || start != 0) start = lowering_min(t, lowering_max(t, start, 0), size);
  if (end != size) end = lowering_min(t, lowering_max(t, end, start), size);
  if (start == 0 && end == size && step == 1) return v;
  return build(b, "slice", IN(v),
               ATTRS(A_INT("axis", axis), A_INT("start", start), A_INT("end", end), A_INT("step", step)));
}

value *lowering_squeeze(builder *b, value *v, int axis) {
  if (!v) return NULL;
  dim dims[KILN_MAX_RANK];
  int rank = 0;
  for (int i = 0; i < v->type.rank; i++) {
    if (i != axis) dims[rank++] = v->type.dims[i];
  }
  return lower_reshape(b, v, rank, dims);
}

value *lowering_unsqueeze(builder *b, value *v, int axis) {
  if (!v) return NULL;
  dim dims[KILN_MAX_RANK + 1];
  int rank = 0;
  for (int i = 0; i <= v->type.rank; i++) {
    if (i == axis) dims[rank++] = 1;
    if (i < v->type.rank) dims[rank++] = v->type.dims[i];
  }
  return lower_reshape(b, v, rank, dims);
}

void lowering_broadcast(builder *b, int count, value **list) {
  dim dims[KILN_MAX_RANK];
  int rank = 0;
  for (int i = 0; i < count; i++) {
    if (!list[i]) return;
    if (list[i]->type.rank > rank) rank = list[i]->type.rank;
  }
  for (int k = 0; k < rank; k++) {
    dims[k] = 1;
    for (int i = 0; i < count; i++) {
      const int at = k - (rank - list[i]->type.rank);
      if (at >= 0 && list[i]->type.dims[at] != 1) dims[k] = list[i]->type.dims[at];
    }
  }
  for (int i = 0; i < count; i++) list[i] = lower_expand(b, list[i], rank, dims);
}

value *lowering_select(builder *b, value *v, int axis, dim index) {
  if (!v) return NULL;
  dim_table *t = b->graph->dims;
  const dim start = lowering_wrap_index(t, index, v->type.dims[axis]);
  value *s =
      build(b, "slice", IN(v), ATTRS(A_INT("axis", axis), A_INT("start", start), A_INT("end", dim_add(t, start, 1))));
  return lowering_squeeze(b, s, axis);
}

value *lowering_move_axis(builder *b, value *v, int from, int to) {
  if (!v || from == to) return v;
  dim order[KILN_MAX_RANK];
  int n = 0;
  for (int i = 0; i < v->type.rank; i++) {
    if (i != from) order[n++] = i;
  }
  memmove(order + to + 1, order + to, (size_t)(n - to) * sizeof *order);
  order[to] = from;
  return lower_permute(b, v, v->type.rank, order);
}

value *lowering_scalar_like(builder *b, const value *like, double v) {
  if (!like) return NULL;
  return graph_scalar(b->graph, like->type.dtype, v);
}

value *lowering_full(builder *b, kiln_dtype dtype, int rank, const dim *dims, double v) {
  return build(b, "full", 0, NULL, ATTRS(A_INTS("shape", dims, rank), A_FLOAT("value", v), A_DTYPE("dtype", dtype)));
}

value *lowering_iota(builder *b, dim count) {
  return build(b, "arange", 0, NULL,
               ATTRS(A_FLOAT("start", 0), A_FLOAT("step", 1), A_INT("count", count), A_DTYPE("dtype", KILN_I64)));
}
