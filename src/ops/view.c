/* View operators: the result is the operand's memory with another shape, strides or start. */
#include <string.h>

#include "ops/infer.h"
#include "ops/lowering.h"
#include "ops/op.h"
#include "ops/ref.h"

/* ---- views of concrete tensors ----------------------------------------------------------------------------------- */

static void *moved(const tensor *t, int64_t elements) {
  return t->data ? (char *)t->data + elements * (int64_t)kiln_dtype_size(t->dtype) : NULL;
}

/* Can [in] be read as `shape` without a copy? Dimensions of the old shape that are contiguous in memory are taken as
 * one run, and the new shape must cut each run evenly (as at::detail::computeStride). */
static bool reshape_view(const kernel_args *a, const tensor *in, tensor *out) {
  const attr *shape = arg_attr(a, "shape");
  tensor t = *in;
  t.rank = shape->count;
  for (int i = 0; i < t.rank; i++) t.shape[i] = shape->u.ints[i];
  tensor_make_contiguous_strides(&t);
  if (tensor_numel(&t) != tensor_numel(in)) return false;
  if (tensor_numel(in) > 0 && in->rank > 0) {
    int to = t.rank - 1;
    int64_t run_stride = in->strides[in->rank - 1], run = 1, taken = 1;
    for (int from = in->rank - 1; from >= 0; from--) {
      run *= in->shape[from];
      if (from > 0 && (in->shape[from - 1] == 1 || in->strides[from - 1] == run * run_stride)) continue;
      for (; to >= 0 && (taken < run || t.shape[to] == 1); to--) {
        t.strides[to] = taken * run_stride;
        taken *= t.shape[to];
      }
      if (taken != run) return false;
      if (from > 0) run_stride = in->strides[from - 1];
      run = taken = 1;
    }
    if (to != -1) return false;
  }
  *out = t;
  return true;
}

static bool permute_view(const kernel_args *a, const tensor *in, tensor *out) {
  const attr *order = arg_attr(a, "order");
  tensor t = *in;
  for (int i = 0; i < t.rank; i++) {
    t.shape[i] = in->shape[order->u.ints[i]];
    t.strides[i] = in->strides[order->u.ints[i]];
  }
  *out = t;
  return true;
}

static bool expand_view(const kernel_args *a, const tensor *in, tensor *out) {
  const attr *shape = arg_attr(a, "shape");
  tensor t = *in;
  t.rank = shape->count;
  for (int i = 0; i < t.rank; i++) {
    const int from = i - (t.rank - in->rank);
    t.shape[i] = shape->u.ints[i];
    if (from >= 0 && in->shape[from] != 1 && in->shape[from] != t.shape[i]) return false;
    t.strides[i] = from < 0 || (in->shape[from] == 1 && t.shape[i] != 1) ? 0 : in->strides[from];
  }
  *out = t;
  return true;
}

static int64_t slice_length(int64_t start, int64_t end, int64_t step) {
  return end > start ? (end - start + step - 1) / step : 0;
}

static bool slice_view(const kernel_args *a, const tensor *in, tensor *out) {
  const int64_t axis = arg_int(a, "axis"), start = arg_int(a, "start"), end = arg_int(a, "end"),
                step = arg_int(a, "step");
  tensor t = *in;
  if (start < 0 || start > end || end > in->shape[axis]) return false;
  t.shape[axis] = slice_length(start, end, step);
  t.strides[axis] *= step;
  if (t.shape[axis] > 0) t.data = moved(in, start * in->strides[axis]);
  *out = t;
  return true;
}

static bool diagonal_view(const kernel_args *a, const tensor *in, tensor *out) {
  const int64_t offset = arg_int(a, "offset"), axis1 = arg_int(a, "axis1"), axis2 = arg_int(a, "axis2");
  const int64_t start1 = offset < 0 ? -offset : 0, start2 = offset > 0 ? offset : 0;
  const int64_t left1 = in->shape[axis1] - start1, left2 = in->shape[axis2] - start2;
  tensor t = *in;
  t.rank = 0;
  for (int i = 0; i < in->rank; i++) {
    if (i == axis1 || i == axis2) continue;
    t.shape[t.rank] = in->shape[i];
    t.strides[t.rank++] = in->strides[i];
  }
  const int64_t length = left1 < left2 ? left1 : left2;
  t.shape[t.rank] = length > 0 ? length : 0;
  t.strides[t.rank++] = in->strides[axis1] + in->strides[axis2];
  if (length > 0) t.data = moved(in, start1 * in->strides[axis1] + start2 * in->strides[axis2]);
  *out = t;
  return true;
}

/* Copies the view; a reshape that cannot be one copies in row-major order. */
static kiln_status view_ref(const kernel_args *a) {
  const tensor *in = &a->in[0], *out = &a->out[0];
  tensor view = *out;
  if (a->node->op->view(a, in, &view)) {
    for (ref_iter it = ref_begin(out->rank, out->shape); ref_valid(&it); ref_next(&it)) {
      ref_copy_element(&view, tensor_offset(&view, it.index), out, tensor_offset(out, it.index));
    }
    return KILN_OK;
  }
  if (tensor_numel(in) != tensor_numel(out) || a->node->op->view != reshape_view) {
    return KILN_FAIL(KILN_INVALID_ARGUMENT, "%s: the sizes of this run do not fit", a->node->op->name);
  }
  ref_iter from = ref_begin(in->rank, in->shape);
  for (ref_iter to = ref_begin(out->rank, out->shape); ref_valid(&to); ref_next(&to), ref_next(&from)) {
    ref_copy_element(in, tensor_offset(in, from.index), out, tensor_offset(out, to.index));
  }
  return KILN_OK;
}

/* ---- inference --------------------------------------------------------------------------------------------------- */

static kiln_status infer_shape_attr(const node *n, const attr *shape) {
  if (shape->count > KILN_MAX_RANK)
    return INFER_FAIL(n, "shape has %d dimensions, at most %d are possible", shape->count, KILN_MAX_RANK);
  for (int i = 0; i < shape->count; i++) {
    const dim d = shape->u.ints[i];
    if (d == DIM_ERROR) return INFER_FAIL(n, "shape[%d] cannot be computed", i);
    if (dim_is_const(d) && d < 0) return INFER_FAIL(n, "shape[%d] is %lld, expected 0 or more", i, (long long)d);
  }
  return KILN_OK;
}

static kiln_status infer_reshape(graph *g, node *n) {
  const attr *shape = node_attr(n, "shape");
  KILN_TRY(infer_shape_attr(n, shape));
  const tensor_type *in = in_type(n, 0);
  const dim want = dim_product(g->dims, shape->u.ints, shape->count);
  KILN_TRY(infer_same_dim(g, n, "numbers of elements before and after", type_numel(g, in), want));
  set_out(n, 0, in->dtype, shape->count, shape->u.ints);
  return KILN_OK;
}

static kiln_status infer_permute(graph *g, node *n) {
  (void)g;
  const attr *order = node_attr(n, "order");
  const tensor_type *in = in_type(n, 0);
  if (order->count != in->rank) return INFER_FAIL(n, "order has %d entries, expected %d", order->count, in->rank);
  dim dims[KILN_MAX_RANK] = {0};
  uint32_t seen = 0;
  for (int i = 0; i < order->count; i++) {
    const int64_t from = order->u.ints[i];
    if (from < 0 || from >= in->rank || (seen >> from & 1))
      return INFER_FAIL(n, "order is not a permutation of the axes");
    seen |= 1u << from;
    dims[i] = in->dims[from];
  }
  set_out(n, 0, in->dtype, in->rank, dims);
  return KILN_OK;
}

static kiln_status infer_expand(graph *g, node *n) {
  const attr *shape = node_attr(n, "shape");
  KILN_TRY(infer_shape_attr(n, shape));
  const tensor_type *in = in_type(n, 0);
  if (shape->count < in->rank)
    return INFER_FAIL(n, "shape has %d dimensions, expected %d or more", shape->count, in->rank);
  for (int i = 0; i < in->rank; i++) {
    const dim to = shape->u.ints[shape->count - in->rank + i];
    if (in->dims[i] != 1) KILN_TRY(infer_same_dim(g, n, "size before and after", in->dims[i], to));
  }
  set_out(n, 0, in->dtype, shape->count, shape->u.ints);
  return KILN_OK;
}

static kiln_status infer_slice(graph *g, node *n) {
  const tensor_type *in = in_type(n, 0);
  int axis = 0;
  if (in->rank == 0) return INFER_FAIL(n, "operand x has no dimensions");
  KILN_TRY(infer_axis(n, "axis", node_int(n, "axis"), in->rank, &axis));
  if (axis != node_int(n, "axis")) return INFER_FAIL(n, "axis is negative");
  const dim start = node_int(n, "start"), end = node_int(n, "end"), step = node_int(n, "step"), size = in->dims[axis];
  dim_table *t = g->dims;
  if (!dim_is_const(step) || step < 1) return INFER_FAIL(n, "step is %lld, expected 1 or more", (long long)step);
  if (dim_compare_le(t, 0, start) == 0 || dim_compare_le(t, start, end) == 0 || dim_compare_le(t, end, size) == 0) {
    return INFER_FAIL(n, "start and end are not within the size of axis %d", axis);
  }
  dim dims[KILN_MAX_RANK];
  memcpy(dims, in->dims, sizeof dims);
  dims[axis] = dim_sub(t, end, start);
  if (step > 1) dims[axis] = dim_floordiv(t, dim_add(t, dims[axis], step - 1), step);
  set_out(n, 0, in->dtype, in->rank, dims);
  return KILN_OK;
}

static kiln_status infer_diagonal(graph *g, node *n) {
  const tensor_type *in = in_type(n, 0);
  const int64_t offset = node_int(n, "offset"), axis1 = node_int(n, "axis1"), axis2 = node_int(n, "axis2");
  if (axis1 < 0 || axis2 < 0 || axis1 >= in->rank || axis2 >= in->rank || axis1 == axis2) {
    return INFER_FAIL(n, "axes %lld and %lld are not two axes of a tensor of rank %d", (long long)axis1,
                      (long long)axis2, in->rank);
  }
  if (!dim_is_const(offset) || offset > INT32_MAX || offset < -INT32_MAX)
    return INFER_FAIL(n, "offset is out of range");
  dim dims[KILN_MAX_RANK];
  int rank = 0;
  for (int i = 0; i < in->rank; i++) {
    if (i != axis1 && i != axis2) dims[rank++] = in->dims[i];
  }
  dim_table *t = g->dims;
  const dim left1 = dim_sub(t, in->dims[axis1], offset < 0 ? -offset : 0);
  const dim left2 = dim_sub(t, in->dims[axis2], offset > 0 ? offset : 0);
  dims[rank++] = lowering_max(t, lowering_min(t, left1, left2), 0);
  set_out(n, 0, in->dtype, rank, dims);
  return KILN_OK;
}

/* ---- PyTorch: reshape and its relatives -------------------------------------------------------------------------- */

static kiln_status self_tensor(lower_call *c, value **out) { return lowering_tensor(c, c->schema->args[0].name, out); }

/* Does the call's result alias its argument? Told by the schema's "(a)". */
static bool aliases(const lower_call *c) { return strstr(c->schema->row->schema, "Tensor(a") != NULL; }

static kiln_status give(lower_call *c, value *v) {
  if (aliases(c)) {
    call_return_view(c, 0, c->schema->args[0].name, v);
  } else {
    call_return(c, 0, v);
  }
  return KILN_OK;
}

static kiln_status give_list(lower_call *c, int count, value *const *items) {
  if (aliases(c)) {
    call_return_view_list(c, 0, c->schema->args[0].name, count, items);
  } else {
    call_return_list(c, 0, count, items);
  }
  return KILN_OK;
}

/* Replaces the one -1 in dims[]: what is left of `total`. */
static kiln_status resolve(lower_call *c, dim total, int rank, dim *dims) {
  dim_table *t = c->b.graph->dims;
  int unknown = -1;
  for (int i = 0; i < rank; i++) {
    if (dims[i] != -1) continue;
    if (unknown >= 0) return LOWER_FAIL(c, "more than one size is -1");
    unknown = i;
  }
  if (unknown < 0) return KILN_OK;
  dim known = 1;
  for (int i = 0; i < rank; i++) {
    if (i != unknown) known = dim_mul(t, known, dims[i]);
  }
  if (known == 0) return LOWER_FAIL(c, "a size of -1 beside one of 0 is ambiguous");
  dims[unknown] = dim_floordiv(t, total, known);
  return KILN_OK;
}

static kiln_status lower_view(lower_call *c) {
  value *x;
  KILN_TRY(self_tensor(c, &x));
  dim dims[KILN_MAX_RANK];
  int rank;
  KILN_TRY(lowering_sizes(c, c->schema->args[1].name, dims, &rank));
  KILN_TRY(resolve(c, type_numel(c->b.graph, &x->type), rank, dims));
  return give(c, lower_reshape(&c->b, x, rank, dims));
}

static kiln_status lower_view_as(lower_call *c) {
  value *x, *other;
  KILN_TRY(self_tensor(c, &x));
  KILN_TRY(lowering_tensor(c, "other", &other));
  return give(c, lower_reshape(&c->b, x, other->type.rank, other->type.dims));
}

static kiln_status lower_flatten(lower_call *c) {
  value *x;
  KILN_TRY(self_tensor(c, &x));
  int from, to;
  KILN_TRY(lowering_axis(c, "start_dim", x->type.rank, &from));
  KILN_TRY(lowering_axis(c, "end_dim", x->type.rank, &to));
  if (from > to) return LOWER_FAIL(c, "start_dim %d is after end_dim %d", from, to);
  dim dims[KILN_MAX_RANK];
  int rank = 0;
  for (int i = 0; i < from; i++) dims[rank++] = x->type.dims[i];
  dims[rank++] = x->type.rank == 0 ? 1 : dim_product(c->b.graph->dims, x->type.dims + from, to - from + 1);
  for (int i = to + 1; i < x->type.rank; i++) dims[rank++] = x->type.dims[i];
  return give(c, lower_reshape(&c->b, x, rank, dims));
}

static kiln_status lower_ravel(lower_call *c) {
  value *x;
  KILN_TRY(self_tensor(c, &x));
  const dim count = type_numel(c->b.graph, &x->type);
  return give(c, lower_reshape(&c->b, x, 1, &count));
}

static kiln_status lower_unflatten(lower_call *c) {
  value *x;
  KILN_TRY(self_tensor(c, &x));
  int axis, count;
  dim sizes[KILN_MAX_RANK], dims[2 * KILN_MAX_RANK];
  KILN_TRY(lowering_axis(c, "dim", x->type.rank, &axis));
  if (x->type.rank == 0) return LOWER_FAIL(c, "the input has no dimensions");
  KILN_TRY(lowering_sizes(c, "sizes", sizes, &count));
  KILN_TRY(resolve(c, x->type.dims[axis], count, sizes));
  int rank = 0;
  for (int i = 0; i < x->type.rank; i++) {
    if (i != axis) dims[rank++] = x->type.dims[i];
    for (int k = 0; i == axis && k < count; k++) dims[rank++] = sizes[k];
  }
  if (rank > KILN_MAX_RANK)
    return LOWER_FAIL(c, "the result would have %d dimensions, at most %d are possible", rank, KILN_MAX_RANK);
  return give(c, lower_reshape(&c->b, x, rank, dims));
}

/* Drops the axes of `mask` whose size is 1. */
static kiln_status squeeze(lower_call *c, value *x, uint32_t mask) {
  dim dims[KILN_MAX_RANK];
  int rank = 0;
  for (int i = 0; i < x->type.rank; i++) {
    if (!(mask >> i & 1) || x->type.dims[i] != 1) dims[rank++] = x->type.dims[i];
  }
  return give(c, lower_reshape(&c->b, x, rank, dims));
}

static kiln_status lower_squeeze(lower_call *c) {
  value *x;
  KILN_TRY(self_tensor(c, &x));
  return squeeze(c, x, ~0u);
}

static kiln_status lower_squeeze_dims(lower_call *c) {
  value *x;
  KILN_TRY(self_tensor(c, &x));
  int64_t axes[KILN_MAX_RANK];
  int count;
  uint32_t mask = 0;
  KILN_TRY(lowering_axes(c, "dim", x->type.rank, false, axes, &count));
  for (int i = 0; i < count; i++) mask |= 1u << axes[i];
  return squeeze(c, x, mask);
}

static kiln_status lower_unsqueeze(lower_call *c) {
  value *x;
  KILN_TRY(self_tensor(c, &x));
  int axis;
  KILN_TRY(lowering_axis(c, "dim", x->type.rank + 1, &axis));
  return give(c, lowering_unsqueeze(&c->b, x, axis));
}

static kiln_status at_least(lower_call *c, int rank) {
  value *x;
  KILN_TRY(self_tensor(c, &x));
  while (x && x->type.rank < rank) {
    /* 3-d: [n] becomes [1, n, 1], and [n, m] becomes [n, m, 1]. */
    x = lowering_unsqueeze(&c->b, x, x->type.rank == 2 ? 2 : 0);
  }
  return give(c, x);
}
static kiln_status lower_atleast_1d(lower_call *c) { return at_least(c, 1); }
static kiln_status lower_atleast_2d(lower_call *c) { return at_least(c, 2); }
static kiln_status lower_atleast_3d(lower_call *c) { return at_least(c, 3); }

/* ---- PyTorch: permute -------------------------------------------------------------------------------------------- */

static kiln_status lower_permute_call(lower_call *c) {
  value *x;
  KILN_TRY(self_tensor(c, &x));
  dim order[KILN_MAX_RANK];
  int count;
  KILN_TRY(lowering_sizes(c, "dims", order, &count));
  if (count != x->type.rank) return LOWER_FAIL(c, "argument dims has %d entries, expected %d", count, x->type.rank);
  for (int i = 0; i < count; i++) {
    int axis;
    KILN_TRY(lowering_wrap_axis(c, "dims", order[i], count, &axis));
    order[i] = axis;
  }
  return give(c, lower_permute(&c->b, x, count, order));
}

static value *swapped(builder *b, value *x, int axis1, int axis2) {
  dim order[KILN_MAX_RANK];
  if (axis1 == axis2) return x;
  for (int i = 0; i < x->type.rank; i++) order[i] = i == axis1 ? axis2 : i == axis2 ? axis1 : i;
  return lower_permute(b, x, x->type.rank, order);
}

static kiln_status lower_transpose(lower_call *c) {
  value *x;
  KILN_TRY(self_tensor(c, &x));
  int axis1, axis2;
  KILN_TRY(lowering_axis(c, c->schema->args[1].name, x->type.rank, &axis1));
  KILN_TRY(lowering_axis(c, c->schema->args[2].name, x->type.rank, &axis2));
  return give(c, swapped(&c->b, x, axis1, axis2));
}

static kiln_status lower_t(lower_call *c) {
  value *x;
  KILN_TRY(self_tensor(c, &x));
  if (x->type.rank > 2) return LOWER_FAIL(c, "the input has %d dimensions, expected at most 2", x->type.rank);
  return give(c, x->type.rank < 2 ? x : swapped(&c->b, x, 0, 1));
}

/* mT, mH, adjoint: the last two axes. */
static kiln_status lower_matrix_t(lower_call *c) {
  value *x;
  KILN_TRY(self_tensor(c, &x));
  const int rank = x->type.rank;
  if (rank < 2) return LOWER_FAIL(c, "the input has %d dimensions, expected at least 2", rank);
  return give(c, swapped(&c->b, x, rank - 2, rank - 1));
}

static kiln_status lower_numpy_t(lower_call *c) {
  value *x;
  KILN_TRY(self_tensor(c, &x));
  dim order[KILN_MAX_RANK];
  for (int i = 0; i < x->type.rank; i++) order[i] = x->type.rank - 1 - i;
  return give(c, x->type.rank < 2 ? x : lower_permute(&c->b, x, x->type.rank, order));
}

static kiln_status lower_movedim(lower_call *c) {
  value *x;
  KILN_TRY(self_tensor(c, &x));
  const int rank = x->type.rank;
  int64_t from[KILN_MAX_RANK], to[KILN_MAX_RANK];
  int count, to_count;
  KILN_TRY(lowering_axes(c, "source", rank, false, from, &count));
  KILN_TRY(lowering_axes(c, "destination", rank, false, to, &to_count));
  if (count != to_count) return LOWER_FAIL(c, "source and destination have different lengths");
  dim order[KILN_MAX_RANK];
  uint32_t moved_axes = 0;
  for (int i = 0; i < rank; i++) order[i] = -1;
  for (int i = 0; i < count; i++) {
    order[to[i]] = from[i];
    moved_axes |= 1u << from[i];
  }
  for (int i = 0, next = 0; i < rank; i++) {
    if (order[i] >= 0) continue;
    while (moved_axes >> next & 1) next++;
    order[i] = next++;
  }
  return give(c, rank == 0 ? x : lower_permute(&c->b, x, rank, order));
}

/* ---- PyTorch: expand --------------------------------------------------------------------------------------------- */

static kiln_status lower_expand_call(lower_call *c) {
  value *x;
  KILN_TRY(self_tensor(c, &x));
  dim dims[KILN_MAX_RANK];
  int rank;
  KILN_TRY(lowering_sizes(c, "size", dims, &rank));
  if (rank < x->type.rank)
    return LOWER_FAIL(c, "argument size has %d entries, expected %d or more", rank, x->type.rank);
  for (int i = 0; i < rank; i++) {
    const int from = i - (rank - x->type.rank);
    if (dims[i] == -1 && from < 0) return LOWER_FAIL(c, "argument size: -1 for a new dimension");
    if (dims[i] == -1) dims[i] = x->type.dims[from];
  }
  return give(c, lower_expand(&c->b, x, rank, dims));
}

static kiln_status lower_expand_as(lower_call *c) {
  value *x, *other;
  KILN_TRY(self_tensor(c, &x));
  KILN_TRY(lowering_tensor(c, "other", &other));
  return give(c, lower_expand(&c->b, x, other->type.rank, other->type.dims));
}

/* ---- PyTorch: slices --------------------------------------------------------------------------------------------- */

/* The tensor and the axis argument that a slicing call has; rank 0 is refused. */
static kiln_status sliced(lower_call *c, value **x, int *axis) {
  KILN_TRY(self_tensor(c, x));
  if ((*x)->type.rank == 0) return LOWER_FAIL(c, "the input has no dimensions");
  return lowering_axis(c, "dim", (*x)->type.rank, axis);
}

static kiln_status lower_select(lower_call *c) {
  value *x;
  int axis;
  KILN_TRY(sliced(c, &x, &axis));
  const dim index = call_int(c, "index"), size = x->type.dims[axis];
  if (dim_is_const(index) && dim_is_const(size) && (index < -size || index >= size)) {
    return LOWER_FAIL(c, "index %lld is outside axis %d of size %lld", (long long)index, axis, (long long)size);
  }
  return give(c, lowering_select(&c->b, x, axis, index));
}

static kiln_status lower_slice(lower_call *c) {
  value *x;
  int axis;
  KILN_TRY(sliced(c, &x, &axis));
  const dim start = call_is_none(c, "start") ? 0 : call_int(c, "start");
  const dim end = call_is_none(c, "end") ? INT64_MAX : call_int(c, "end"), step = call_int(c, "step");
  if (!dim_is_const(step) || step < 1) return LOWER_FAIL(c, "argument step must be a positive constant");
  return give(c, lowering_slice(&c->b, x, axis, start, end, step));
}

static kiln_status lower_narrow(lower_call *c) {
  value *x;
  int axis;
  KILN_TRY(sliced(c, &x, &axis));
  dim_table *t = c->b.graph->dims;
  const dim start = lowering_wrap_index(t, call_int(c, "start"), x->type.dims[axis]);
  return give(c, lowering_slice(&c->b, x, axis, start, dim_add(t, start, call_int(c, "length")), 1));
}

/* Pieces [bounds[i], bounds[i + 1]) of an axis. */
static kiln_status pieces(lower_call *c, value *x, int axis, int count, const dim *bounds) {
  value **items = ARENA_ARRAY(c->im->arena, value *, count + 1);
  if (!items) return KILN_NO_MEMORY("pieces of a tensor");
  for (int i = 0; i < count; i++) items[i] = lowering_slice(&c->b, x, axis, bounds[i], bounds[i + 1], 1);
  return give_list(c, count, items);
}

/* A constant number of pieces of `length` (the last may be shorter). */
static kiln_status equal_pieces(lower_call *c, value *x, int axis, int64_t count, dim length) {
  if (count > 65536) return LOWER_FAIL(c, "%lld pieces are too many", (long long)count);
  dim *bounds = ARENA_ARRAY(c->im->arena, dim, count + 1);
  if (!bounds) return KILN_NO_MEMORY("pieces of a tensor");
  dim_table *t = c->b.graph->dims;
  for (int64_t i = 1; i <= count; i++) bounds[i] = lowering_min(t, dim_mul(t, length, i), x->type.dims[axis]);
  return pieces(c, x, axis, (int)count, bounds);
}

static kiln_status lower_split(lower_call *c) {
  value *x;
  int axis;
  KILN_TRY(sliced(c, &x, &axis));
  dim_table *t = c->b.graph->dims;
  const dim length = call_int(c, "split_size"), size = x->type.dims[axis];
  if (size == 0) return equal_pieces(c, x, axis, 1, 0);
  if (dim_is_const(length) && length < 1)
    return LOWER_FAIL(c, "argument split_size is %lld, expected 1 or more", (long long)length);
  dim count = dim_floordiv(t, dim_sub(t, dim_add(t, size, length), 1), length);
  const dim whole = dim_floordiv(t, size, length); /* of 4 b elements into pieces of b */
  if (!dim_is_const(count) && dim_is_const(whole) && whole > 0 &&
      dim_compare_equal(t, dim_mul(t, whole, length), size) == 1)
    count = whole;
  if (dim_is_const(count)) return equal_pieces(c, x, axis, count, length);
  /* torch.export fixed the number of pieces when it took the graph; a symbolic size must then lie in one piece's
   * range. */
  return LOWER_FAIL(c, "the number of pieces depends on the input's shape");
}

static kiln_status lower_split_sizes(lower_call *c) {
  value *x;
  int axis;
  KILN_TRY(sliced(c, &x, &axis));
  const char *name = c->schema->args[1].name;
  const int count = call_list_count(c, name);
  dim *bounds = ARENA_ARRAY(c->im->arena, dim, count + 1);
  if (!bounds) return KILN_NO_MEMORY("pieces of a tensor");
  if (call_ints(c, name, bounds + 1, count) != count) return LOWER_FAIL(c, "argument %s: expected a list", name);
  for (int i = 1; i <= count; i++) bounds[i] = dim_add(c->b.graph->dims, bounds[i - 1], bounds[i]);
  return pieces(c, x, axis, count, bounds);
}

static kiln_status lower_chunk(lower_call *c) {
  value *x;
  int axis;
  KILN_TRY(sliced(c, &x, &axis));
  dim_table *t = c->b.graph->dims;
  const dim chunks = call_int(c, "chunks"), size = x->type.dims[axis];
  if (!dim_is_const(chunks) || chunks < 1) return LOWER_FAIL(c, "argument chunks must be a positive constant");
  const dim length = dim_floordiv(t, dim_add(t, size, chunks - 1), chunks);
  if (size == 0 || !dim_is_const(length)) return equal_pieces(c, x, axis, chunks, length);
  return equal_pieces(c, x, axis, (size + length - 1) / length, length);
}

/* tensor_split: the first size % sections pieces are one longer. */
static kiln_status split_sections(lower_call *c, value *x, int axis, dim sections) {
  dim_table *t = c->b.graph->dims;
  if (!dim_is_const(sections) || sections < 1 || sections > 65536)
    return LOWER_FAIL(c, "the number of sections must be positive");
  const dim size = x->type.dims[axis], length = dim_floordiv(t, size, sections), longer = dim_mod(t, size, sections);
  dim *bounds = ARENA_ARRAY(c->im->arena, dim, sections + 1);
  if (!bounds) return KILN_NO_MEMORY("pieces of a tensor");
  for (int64_t i = 1; i <= sections; i++) bounds[i] = dim_add(t, dim_mul(t, length, i), lowering_min(t, longer, i));
  return pieces(c, x, axis, (int)sections, bounds);
}

static kiln_status split_indices(lower_call *c, value *x, int axis, const char *name) {
  dim_table *t = c->b.graph->dims;
  const int count = call_list_count(c, name);
  dim *bounds = ARENA_ARRAY(c->im->arena, dim, count + 2);
  if (!bounds) return KILN_NO_MEMORY("pieces of a tensor");
  if (call_ints(c, name, bounds + 1, count) != count) return LOWER_FAIL(c, "argument %s: expected a list", name);
  const dim size = x->type.dims[axis];
  value **items = ARENA_ARRAY(c->im->arena, value *, count + 1);
  if (!items) return KILN_NO_MEMORY("pieces of a tensor");
  for (int i = 1; i <= count; i++) bounds[i] = lowering_wrap_index(t, bounds[i], size);
  bounds[count + 1] = size;
  for (int i = 0; i <= count; i++) items[i] = lowering_slice(&c->b, x, axis, bounds[i], bounds[i + 1], 1);
  return give_list(c, count + 1, items);
}

static kiln_status lower_tensor_split(lower_call *c) {
  value *x;
  int axis;
  KILN_TRY(sliced(c, &x, &axis));
  if (str_eq(c->schema->overload, "sections")) return split_sections(c, x, axis, call_int(c, "sections"));
  return split_indices(c, x, axis, "indices");
}

/* hsplit, vsplit, dsplit: `axis` of a tensor that has it; hsplit of a vector splits axis 0. */
static kiln_status split_named(lower_call *c, int axis) {
  value *x;
  KILN_TRY(self_tensor(c, &x));
  if (axis == 1 && x->type.rank == 1) axis = 0;
  if (x->type.rank <= axis) return LOWER_FAIL(c, "the input has %d dimensions, expected more", x->type.rank);
  if (str_eq(c->schema->overload, "int")) return split_sections(c, x, axis, call_int(c, "sections"));
  return split_indices(c, x, axis, "indices");
}
static kiln_status lower_vsplit(lower_call *c) { return split_named(c, 0); }
static kiln_status lower_hsplit(lower_call *c) { return split_named(c, 1); }
static kiln_status lower_dsplit(lower_call *c) { return split_named(c, 2); }

static kiln_status lower_unbind(lower_call *c) {
  value *x;
  int axis;
  KILN_TRY(sliced(c, &x, &axis));
  const dim size = x->type.dims[axis];
  if (!dim_is_const(size) || size > 65536)
    return LOWER_FAIL(c, "the size of axis %d must be constant and at most 65536", axis);
  value **items = ARENA_ARRAY(c->im->arena, value *, size + 1);
  if (!items) return KILN_NO_MEMORY("pieces of a tensor");
  for (int64_t i = 0; i < size; i++) items[i] = lowering_select(&c->b, x, axis, i);
  return give_list(c, (int)size, items);
}

/* ---- PyTorch: diagonal, as_strided, unfold ----------------------------------------------------------------------- */

static kiln_status lower_diagonal(lower_call *c) {
  value *x;
  KILN_TRY(self_tensor(c, &x));
  int axis1, axis2;
  KILN_TRY(lowering_axis(c, "dim1", x->type.rank, &axis1));
  KILN_TRY(lowering_axis(c, "dim2", x->type.rank, &axis2));
  const dim offset = call_int(c, "offset");
  return give(
      c, build(&c->b, "diagonal", IN(x), ATTRS(A_INT("offset", offset), A_INT("axis1", axis1), A_INT("axis2", axis2))));
}

/* unfold and as_strided take places of their argument, and are views of it unless named _copy. */
static void return_strided(lower_call *c, value *v) {
  if (str_ends(c->schema->name, "_copy"))
    call_return(c, 0, v);
  else
    call_return_view(c, 0, "self", v);
}

/* Reads the input's memory, taken as contiguous, at constant offsets. The result is a copy. */
static kiln_status lower_as_strided(lower_call *c) {
  value *x;
  KILN_TRY(self_tensor(c, &x));
  dim size[KILN_MAX_RANK], stride[KILN_MAX_RANK];
  int rank, stride_rank;
  KILN_TRY(lowering_sizes(c, "size", size, &rank));
  KILN_TRY(lowering_sizes(c, "stride", stride, &stride_rank));
  dim total = type_numel(c->b.graph, &x->type), offset = call_int(c, "storage_offset"), count = 1, last = offset;
  bool known = rank == stride_rank && dim_is_const(total) && dim_is_const(offset) && offset >= 0;
  for (int i = 0; known && i < rank; i++) {
    known = dim_is_const(size[i]) && dim_is_const(stride[i]) && size[i] >= 0 && stride[i] >= 0 &&
            !__builtin_mul_overflow(count, size[i], &count) && (size[i] == 0 || stride[i] <= INT32_MAX) &&
            size[i] <= INT32_MAX;
    if (known && size[i] > 0) known = !__builtin_add_overflow(last, (size[i] - 1) * stride[i], &last);
  }
  if (!known || count > INT32_MAX || (count > 0 && last >= total)) {
    return LOWER_FAIL(c, "only constant sizes, strides and offsets within the input's elements are supported");
  }
  const tensor_type type = type_of(KILN_I64, 1, &count);
  int64_t *at = ARENA_ARRAY(&c->b.graph->arena, int64_t, count + 1);
  if (!at) return KILN_NO_MEMORY("as_strided");
  for (ref_iter it = ref_begin(rank, size); ref_valid(&it); ref_next(&it)) {
    at[it.linear] = offset;
    for (int i = 0; i < rank; i++) at[it.linear] += it.index[i] * stride[i];
  }
  value *flat = lower_reshape(&c->b, x, 1, &total);
  value *taken = build(&c->b, "index_select", IN(flat, graph_constant(c->b.graph, &type, at)), ATTRS(A_INT("axis", 0)));
  return_strided(c, lower_reshape(&c->b, taken, rank, size));
  return KILN_OK;
}

/* Windows of an axis: gathered, with the window's elements as a new last axis. The result is a copy. */
static kiln_status lower_unfold(lower_call *c) {
  value *x;
  KILN_TRY(self_tensor(c, &x));
  builder *b = &c->b;
  dim_table *t = b->graph->dims;
  int axis;
  KILN_TRY(lowering_axis(c, "dimension", x->type.rank, &axis));
  const bool scalar = x->type.rank == 0;
  if (scalar) x = lowering_unsqueeze(b, x, 0);
  LOWER_NEED(c, x);
  const dim size = call_int(c, "size"), step = call_int(c, "step"), full = x->type.dims[axis];
  if (!dim_is_const(size) || !dim_is_const(step) || size < 0 || step < 1 || dim_compare_le(t, size, full) == 0) {
    return LOWER_FAIL(c, "arguments size and step must be constants that fit axis %d", axis);
  }
  const dim count = dim_add(t, dim_floordiv(t, dim_sub(t, full, size), step), 1), column[2] = {count, 1};
  value *starts = build(
      b, "arange", 0, NULL,
      ATTRS(A_FLOAT("start", 0), A_FLOAT("step", (double)step), A_INT("count", count), A_DTYPE("dtype", KILN_I64)));
  value *at = lower_binary(b, "add", lower_reshape(b, starts, 2, column), lowering_iota(b, size));
  const dim all = dim_mul(t, count, size);
  value *taken = build(b, "index_select", IN(x, lower_reshape(b, at, 1, &all)), ATTRS(A_INT("axis", axis)));
  dim dims[KILN_MAX_RANK + 1];
  int rank = 0;
  for (int i = 0; i < x->type.rank; i++) {
    dims[rank++] = i == axis ? count : x->type.dims[i];
    if (i == axis) dims[rank++] = size;
  }
  if (rank > KILN_MAX_RANK)
    return LOWER_FAIL(c, "the result would have %d dimensions, at most %d are possible", rank, KILN_MAX_RANK);
  value *y = lowering_move_axis(b, lower_reshape(b, taken, rank, dims), axis + 1, rank - 1);
  return_strided(c, scalar ? lowering_squeeze(b, y, 0) : y);
  return KILN_OK;
}

/* [.., C * r * r, H, W] -> [.., C, H * r, W * r], or back. */
static kiln_status shuffle_pixels(lower_call *c, dim factor, bool back) {
  value *x;
  KILN_TRY(self_tensor(c, &x));
  builder *b = &c->b;
  dim_table *t = b->graph->dims;
  const int rank = x->type.rank, front = rank - 3;
  if (rank < 3 || rank > KILN_MAX_RANK - 2)
    return LOWER_FAIL(c, "the input has %d dimensions, expected 3 to %d", rank, KILN_MAX_RANK - 2);
  if (!dim_is_const(factor) || factor < 1 || factor > 65536)
    return LOWER_FAIL(c, "the factor must be a positive constant");
  const dim *d = x->type.dims + front;
  dim split[KILN_MAX_RANK], order[KILN_MAX_RANK], joined[KILN_MAX_RANK];
  for (int i = 0; i < front; i++) {
    split[i] = joined[i] = x->type.dims[i];
    order[i] = i;
  }
  const dim r2 = factor * factor;
  const dim up[] = {dim_floordiv(t, d[0], r2), factor, factor, d[1], d[2]};
  const dim down[] = {d[0], dim_floordiv(t, d[1], factor), factor, dim_floordiv(t, d[2], factor), factor};
  const dim up_joined[] = {up[0], dim_mul(t, d[1], factor), dim_mul(t, d[2], factor)};
  const dim down_joined[] = {dim_mul(t, d[0], r2), down[1], down[3]};
  static const int up_order[] = {0, 3, 1, 4, 2}, down_order[] = {0, 2, 4, 1, 3};
  for (int i = 0; i < 5; i++) {
    split[front + i] = back ? down[i] : up[i];
    order[front + i] = front + (back ? down_order[i] : up_order[i]);
  }
  for (int i = 0; i < 3; i++) joined[front + i] = back ? down_joined[i] : up_joined[i];
  value *y = lower_permute(b, lower_reshape(b, x, front + 5, split), front + 5, order);
  call_return(c, 0, lower_reshape(b, y, rank, joined));
  return KILN_OK;
}
static kiln_status lower_pixel_shuffle(lower_call *c) {
  return shuffle_pixels(c, call_int(c, "upscale_factor"), false);
}
static kiln_status lower_pixel_unshuffle(lower_call *c) {
  return shuffle_pixels(c, call_int(c, "downscale_factor"), true);
}

static kiln_status lower_channel_shuffle(lower_call *c) {
  value *x;
  KILN_TRY(self_tensor(c, &x));
  builder *b = &c->b;
  const int rank = x->type.rank;
  const dim groups = call_int(c, "groups");
  if (rank < 3 || rank >= KILN_MAX_RANK)
    return LOWER_FAIL(c, "the input has %d dimensions, expected 3 to %d", rank, KILN_MAX_RANK - 1);
  if (!dim_is_const(groups) || groups < 1) return LOWER_FAIL(c, "argument groups must be a positive constant");
  dim split[KILN_MAX_RANK], order[KILN_MAX_RANK];
  split[0] = x->type.dims[0];
  split[1] = groups;
  split[2] = dim_floordiv(b->graph->dims, x->type.dims[1], groups);
  for (int i = 2; i < rank; i++) split[i + 1] = x->type.dims[i];
  for (int i = 0; i <= rank; i++) order[i] = i == 1 ? 2 : i == 2 ? 1 : i;
  value *y = lower_permute(b, lower_reshape(b, x, rank + 1, split), rank + 1, order);
  call_return(c, 0, lower_reshape(b, y, rank, x->type.dims));
  return KILN_OK;
}

/* ---- rows -------------------------------------------------------------------------------------------------------- */

static const torch_row torch_reshape[] = {
    {"aten::view(Tensor(a) self, SymInt[] size) -> Tensor(a)", NULL, lower_view},
    {"aten::reshape(Tensor(a) self, SymInt[] shape) -> Tensor(a)", NULL, lower_view},
    {"aten::_unsafe_view(Tensor self, SymInt[] size) -> Tensor", NULL, lower_view},
    {"aten::view_copy(Tensor self, SymInt[] size) -> Tensor", NULL, lower_view},
    {"aten::_reshape_alias(Tensor(a) self, SymInt[] size, SymInt[] stride) -> Tensor(a)", NULL, lower_view},
    {"aten::view_as(Tensor(a) self, Tensor other) -> Tensor(a)", NULL, lower_view_as},
    {"aten::reshape_as(Tensor(a) self, Tensor other) -> Tensor(a)", NULL, lower_view_as},
    {"aten::flatten.using_ints(Tensor(a) self, int start_dim=0, int end_dim=-1) -> Tensor(a)", NULL, lower_flatten},
    {"aten::ravel(Tensor(a) self) -> Tensor(a)", NULL, lower_ravel},
    {"aten::unflatten.int(Tensor(a) self, int dim, SymInt[] sizes) -> Tensor(a)", NULL, lower_unflatten},
    {"aten::squeeze(Tensor(a) self) -> Tensor(a)", NULL, lower_squeeze},
    {"aten::squeeze.dim(Tensor(a) self, int dim) -> Tensor(a)", NULL, lower_squeeze_dims},
    {"aten::squeeze.dims(Tensor(a) self, int[] dim) -> Tensor(a)", NULL, lower_squeeze_dims},
    {"aten::squeeze_copy(Tensor self) -> Tensor", NULL, lower_squeeze},
    {"aten::squeeze_copy.dim(Tensor self, int dim) -> Tensor", NULL, lower_squeeze_dims},
    {"aten::squeeze_copy.dims(Tensor self, int[] dim) -> Tensor", NULL, lower_squeeze_dims},
    {"aten::unsqueeze(Tensor(a) self, int dim) -> Tensor(a)", NULL, lower_unsqueeze},
    {"aten::unsqueeze_copy(Tensor self, int dim) -> Tensor", NULL, lower_unsqueeze},
    {"aten::atleast_1d(Tensor self) -> Tensor", NULL, lower_atleast_1d},
    {"aten::atleast_2d(Tensor self) -> Tensor", NULL, lower_atleast_2d},
    {"aten::atleast_3d(Tensor self) -> Tensor", NULL, lower_atleast_3d},
    {NULL, NULL, NULL}};

static const torch_row torch_permute[] = {
    {"aten::permute(Tensor(a) self, int[] dims) -> Tensor(a)", NULL, lower_permute_call},
    {"aten::permute_copy(Tensor self, int[] dims) -> Tensor", NULL, lower_permute_call},
    {"aten::transpose.int(Tensor(a) self, int dim0, int dim1) -> Tensor(a)", NULL, lower_transpose},
    {"aten::transpose_copy.int(Tensor self, int dim0, int dim1) -> Tensor", NULL, lower_transpose},
    {"aten::swapaxes(Tensor(a) self, int axis0, int axis1) -> Tensor(a)", NULL, lower_transpose},
    {"aten::swapdims(Tensor(a) self, int dim0, int dim1) -> Tensor(a)", NULL, lower_transpose},
    {"aten::t(Tensor(a) self) -> Tensor(a)", NULL, lower_t},
    {"aten::t_copy(Tensor self) -> Tensor", NULL, lower_t},
    {"aten::numpy_T(Tensor(a) self) -> Tensor(a)", NULL, lower_numpy_t},
    {"aten::mT.a(Tensor(a) self) -> Tensor(a)", NULL, lower_matrix_t},
    {"aten::numpy_T.a(Tensor(a) self) -> Tensor(a)", NULL, lower_numpy_t},
    {"aten::matrix_H.a(Tensor(a) self) -> Tensor(a)", NULL, lower_matrix_t},
    {"aten::mT(Tensor(a) self) -> Tensor(a)", NULL, lower_matrix_t},
    {"aten::adjoint(Tensor(a) self) -> Tensor(a)", NULL, lower_matrix_t},
    {"aten::mH(Tensor(a) self) -> Tensor(a)", NULL, lower_matrix_t},
    {"aten::matrix_H(Tensor(a) self) -> Tensor(a)", NULL, lower_matrix_t},
    {"aten::movedim.int(Tensor(a) self, int source, int destination) -> Tensor(a)", NULL, lower_movedim},
    {"aten::movedim.intlist(Tensor(a) self, int[] source, int[] destination) -> Tensor(a)", NULL, lower_movedim},
    {"aten::moveaxis.int(Tensor(a) self, int source, int destination) -> Tensor(a)", NULL, lower_movedim},
    {"aten::moveaxis.intlist(Tensor(a) self, int[] source, int[] destination) -> Tensor(a)", NULL, lower_movedim},
    {"aten::pixel_shuffle(Tensor self, int upscale_factor) -> Tensor", NULL, lower_pixel_shuffle},
    {"aten::pixel_unshuffle(Tensor self, int downscale_factor) -> Tensor", NULL, lower_pixel_unshuffle},
    {"aten::channel_shuffle(Tensor self, SymInt groups) -> Tensor", NULL, lower_channel_shuffle},
    {"aten::native_channel_shuffle(Tensor self, SymInt groups) -> Tensor", NULL, lower_channel_shuffle},
    {NULL, NULL, NULL}};

static const torch_row torch_expand[] = {
    {"aten::expand(Tensor(a) self, SymInt[] size, *, bool implicit=False) -> Tensor(a)", NULL, lower_expand_call},
    {"aten::expand_copy(Tensor self, SymInt[] size, *, bool implicit=False) -> Tensor", NULL, lower_expand_call},
    {"aten::broadcast_to(Tensor(a) self, SymInt[] size) -> Tensor(a)", NULL, lower_expand_call},
    {"aten::expand_as(Tensor(a) self, Tensor other) -> Tensor(a)", NULL, lower_expand_as},
    {NULL, NULL, NULL}};

static const torch_row torch_slice[] = {
    {"aten::slice.Tensor(Tensor(a) self, int dim=0, SymInt? start=None, SymInt? end=None, SymInt step=1) -> Tensor(a)",
     NULL, lower_slice},
    {"aten::slice_copy.Tensor(Tensor self, int dim=0, SymInt? start=None, SymInt? end=None, SymInt step=1) -> Tensor",
     NULL, lower_slice},
    {"aten::select.int(Tensor(a) self, int dim, SymInt index) -> Tensor(a)", NULL, lower_select},
    {"aten::select_copy.int(Tensor self, int dim, SymInt index) -> Tensor", NULL, lower_select},
    {"aten::narrow(Tensor(a) self, int dim, SymInt start, SymInt length) -> Tensor(a)", NULL, lower_narrow},
    {"aten::narrow_copy(Tensor self, int dim, SymInt start, SymInt length) -> Tensor", NULL, lower_narrow},
    {"aten::split.Tensor(Tensor(a -> *) self, SymInt split_size, int dim=0) -> Tensor(a)[]", NULL, lower_split},
    {"aten::split_copy.Tensor(Tensor self, SymInt split_size, int dim=0) -> Tensor[]", NULL, lower_split},
    {"aten::unsafe_split.Tensor(Tensor self, SymInt split_size, int dim=0) -> Tensor[]", NULL, lower_split},
    {"aten::split(Tensor(a -> *) self, int[] split_sizes, int dim=0) -> Tensor(a)[]", NULL, lower_split_sizes},
    {"aten::split.sizes(Tensor(a -> *) self, SymInt[] split_size, int dim=0) -> Tensor(a)[]", NULL, lower_split_sizes},
    {"aten::split_with_sizes(Tensor(a -> *) self, SymInt[] split_sizes, int dim=0) -> Tensor(a)[]", NULL,
     lower_split_sizes},
    {"aten::split_with_sizes_copy(Tensor self, SymInt[] split_sizes, int dim=0) -> Tensor[]", NULL, lower_split_sizes},
    {"aten::unsafe_split_with_sizes(Tensor self, SymInt[] split_sizes, int dim=0) -> Tensor[]", NULL,
     lower_split_sizes},
    {"aten::chunk(Tensor(a -> *) self, int chunks, int dim=0) -> Tensor(a)[]", NULL, lower_chunk},
    {"aten::unsafe_chunk(Tensor self, int chunks, int dim=0) -> Tensor[]", NULL, lower_chunk},
    {"aten::unbind.int(Tensor(a -> *) self, int dim=0) -> Tensor(a)[]", NULL, lower_unbind},
    {"aten::unbind_copy.int(Tensor self, int dim=0) -> Tensor[]", NULL, lower_unbind},
    {"aten::tensor_split.sections(Tensor(a -> *) self, SymInt sections, int dim=0) -> Tensor(a)[]", NULL,
     lower_tensor_split},
    {"aten::tensor_split.indices(Tensor(a -> *) self, SymInt[] indices, int dim=0) -> Tensor(a)[]", NULL,
     lower_tensor_split},
    {"aten::hsplit.int(Tensor(a -> *) self, int sections) -> Tensor(a)[]", NULL, lower_hsplit},
    {"aten::hsplit.array(Tensor(a -> *) self, int[] indices) -> Tensor(a)[]", NULL, lower_hsplit},
    {"aten::vsplit.int(Tensor(a -> *) self, int sections) -> Tensor(a)[]", NULL, lower_vsplit},
    {"aten::vsplit.array(Tensor(a -> *) self, int[] indices) -> Tensor(a)[]", NULL, lower_vsplit},
    {"aten::dsplit.int(Tensor(a -> *) self, int sections) -> Tensor(a)[]", NULL, lower_dsplit},
    {"aten::dsplit.array(Tensor(a -> *) self, int[] indices) -> Tensor(a)[]", NULL, lower_dsplit},
    {"aten::as_strided(Tensor(a) self, SymInt[] size, SymInt[] stride, SymInt? storage_offset=None) -> Tensor(a)", NULL,
     lower_as_strided},
    {"aten::as_strided_copy(Tensor self, SymInt[] size, SymInt[] stride, SymInt? storage_offset=None) -> Tensor", NULL,
     lower_as_strided},
    {"aten::unfold(Tensor(a) self, int dimension, int size, int step) -> Tensor(a)", NULL, lower_unfold},
    {"aten::unfold_copy(Tensor self, int dimension, int size, int step) -> Tensor", NULL, lower_unfold},
    {NULL, NULL, NULL}};

static const torch_row torch_diagonal[] = {
    {"aten::diagonal(Tensor(a) self, int offset=0, int dim1=0, int dim2=1) -> Tensor(a)", NULL, lower_diagonal},
    {"aten::diagonal_copy(Tensor self, int offset=0, int dim1=0, int dim2=1) -> Tensor", NULL, lower_diagonal},
    {"aten::linalg_diagonal(Tensor(a) A, *, int offset=0, int dim1=-2, int dim2=-1) -> Tensor(a)", NULL,
     lower_diagonal},
    {NULL, NULL, NULL}};

static const char *const cases_reshape[] = {"x:f32[2,3,4] shape=[6,4]",
                                            "x:f32[2,3,4] shape=[4,3,2]",
                                            "x:f32[24] shape=[2,3,4]",
                                            "x:f32[] shape=[1,1]",
                                            "x:f32[1,1] shape=[]",
                                            "x:f32[0,3] shape=[3,0,2]",
                                            "x:i64[4,6]=range(-9,9) shape=[2,2,6,1]",
                                            "x:f16[3,5] shape=[15]",
                                            "x:bool[8]=bool shape=[2,4]",
                                            NULL};
static const char *const cases_permute[] = {"x:f32[2,3,4] order=[2,0,1]",
                                            "x:f32[2,3,4,5] order=[0,2,3,1]",
                                            "x:f32[2,3,4,5] order=[0,3,1,2]",
                                            "x:f32[33,17] order=[1,0]",
                                            "x:f32[] order=[]",
                                            "x:f16[3,5] order=[1,0]",
                                            "x:i64[3,5]=range(-9,9) order=[1,0]",
                                            "x:f32[0,3] order=[1,0]",
                                            "x:u8[3,5,2]=range(0,255) order=[1,2,0]",
                                            "x:f32[1,2,8,8,3] order=[0,1,4,2,3]",
                                            NULL};
static const char *const cases_expand[] = {"x:f32[3,1] shape=[3,4]",     "x:f32[1,5] shape=[2,4,5]",
                                           "x:f32[] shape=[2,2]",        "x:i64[1]=range(0,9) shape=[7]",
                                           "x:f32[2,1,3] shape=[2,0,3]", NULL};
static const char *const cases_slice[] = {"x:f32[10] axis=0 start=2 end=7",
                                          "x:f32[3,10] axis=1 start=1 end=10 step=3",
                                          "x:f32[3,10] axis=0 start=3 end=3",
                                          "x:f16[3,10] axis=1 start=0 end=9 step=2",
                                          "x:i64[5,4,3]=range(-9,9) axis=1 start=1 end=3",
                                          NULL};
static const char *const cases_diagonal[] = {
    "x:f32[4,4] offset=0 axis1=0 axis2=1",  "x:f32[3,5] offset=1 axis1=0 axis2=1",
    "x:f32[3,5] offset=-2 axis1=1 axis2=0", "x:f32[2,3,4,5] offset=1 axis1=1 axis2=3",
    "x:f32[2,2] offset=5 axis1=0 axis2=1",  NULL};

static const op rows[] = {
    {.name = "reshape",
     .sig = "x -> y",
     .attrs = "shape:ints",
     .flags = OP_VIEW,
     .infer = infer_reshape,
     .ref = view_ref,
     .view = reshape_view,
     .torch = torch_reshape,
     .cases = cases_reshape},
    {.name = "permute",
     .sig = "x -> y",
     .attrs = "order:ints",
     .flags = OP_VIEW,
     .infer = infer_permute,
     .ref = view_ref,
     .view = permute_view,
     .torch = torch_permute,
     .cases = cases_permute},
    {.name = "expand",
     .sig = "x -> y",
     .attrs = "shape:ints",
     .flags = OP_VIEW,
     .infer = infer_expand,
     .ref = view_ref,
     .view = expand_view,
     .torch = torch_expand,
     .cases = cases_expand},
    {.name = "slice",
     .sig = "x -> y",
     .attrs = "axis:int start:int end:int step:int=1",
     .flags = OP_VIEW,
     .infer = infer_slice,
     .ref = view_ref,
     .view = slice_view,
     .torch = torch_slice,
     .cases = cases_slice},
    {.name = "diagonal",
     .sig = "x -> y",
     .attrs = "offset:int=0 axis1:int axis2:int",
     .flags = OP_VIEW,
     .infer = infer_diagonal,
     .ref = view_ref,
     .view = diagonal_view,
     .torch = torch_diagonal,
     .cases = cases_diagonal},
};

OP_FAMILY(ops_view, rows);
