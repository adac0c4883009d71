/* Indexing: gathers and scatters by index tensors. The reference refuses indices out of range with a text that names
 * the place. */

#include "base/memory.h"
#include "ops/index_lower.h"
#include "ops/infer.h"
#include "ops/lowering.h"
#include "ops/op.h"
#include "ops/ref.h"

/* ---- inference --------------------------------------------------------------------------------------------------- */

static kiln_status infer_indices(const node *n, int operand) {
  const kiln_dtype d = in_type(n, operand)->dtype;
  if (d == KILN_I64 || d == KILN_I32) return KILN_OK;
  return INFER_FAIL(n, "operand %d is %s, expected i64 or i32 indices", operand, kiln_dtype_name(d));
}

static kiln_status infer_own_axis(const node *n, int rank, int *out) {
  const int64_t axis = node_int(n, "axis");
  *out = 0;
  if (axis < 0 || axis >= rank) return INFER_FAIL(n, "axis is %lld, expected 0 to %d", (long long)axis, rank - 1);
  *out = (int)axis;
  return KILN_OK;
}

static kiln_status infer_embedding(graph *g, node *n) {
  (void)g;
  const tensor_type *w = in_type(n, 0), *indices = in_type(n, 1);
  KILN_TRY(infer_indices(n, 1));
  KILN_TRY(infer_rank_between(n, 0, 1, KILN_MAX_RANK));
  if (indices->rank + w->rank - 1 > KILN_MAX_RANK)
    return INFER_FAIL(n, "the result would have more than %d dimensions", KILN_MAX_RANK);
  dim dims[KILN_MAX_RANK];
  int rank = 0;
  for (int i = 0; i < indices->rank; i++) dims[rank++] = indices->dims[i];
  for (int i = 1; i < w->rank; i++) dims[rank++] = w->dims[i];
  set_out(n, 0, w->dtype, rank, dims);
  return KILN_OK;
}

static kiln_status infer_index_select(graph *g, node *n) {
  (void)g;
  int axis;
  tensor_type out = *in_type(n, 0);
  KILN_TRY(infer_indices(n, 1));
  KILN_TRY(infer_rank_between(n, 1, 1, 1));
  KILN_TRY(infer_own_axis(n, out.rank, &axis));
  out.dims[axis] = in_type(n, 1)->dims[0];
  n->outputs[0]->type = out;
  return KILN_OK;
}

/* Indices must fit x on all axes but their own. */
static kiln_status infer_index_fits(graph *g, const node *n, int axis) {
  const tensor_type *x = in_type(n, 0), *indices = in_type(n, 1);
  if (indices->rank != x->rank) return INFER_FAIL(n, "indices have %d dimensions, expected %d", indices->rank, x->rank);
  for (int i = 0; i < x->rank; i++) {
    if (i != axis && dim_compare_le(g->dims, indices->dims[i], x->dims[i]) == 0)
      return INFER_FAIL(n, "indices are larger than x on axis %d", i);
  }
  return KILN_OK;
}

static kiln_status infer_gather(graph *g, node *n) {
  int axis;
  KILN_TRY(infer_indices(n, 1));
  KILN_TRY(infer_own_axis(n, in_type(n, 0)->rank, &axis));
  KILN_TRY(infer_index_fits(g, n, axis));
  set_out(n, 0, in_type(n, 0)->dtype, in_type(n, 1)->rank, in_type(n, 1)->dims);
  return KILN_OK;
}

static kiln_status infer_scatter(graph *g, node *n) {
  int axis;
  const tensor_type *x = in_type(n, 0), *indices = in_type(n, 1), *src = in_type(n, 2);
  KILN_TRY(infer_indices(n, 1));
  KILN_TRY(infer_own_axis(n, x->rank, &axis));
  KILN_TRY(infer_index_fits(g, n, axis));
  if (src->dtype != x->dtype || src->rank != x->rank) {
    return INFER_FAIL(n, "src is %s with %d dimensions, expected %s with %d", kiln_dtype_name(src->dtype), src->rank,
                      kiln_dtype_name(x->dtype), x->rank);
  }
  for (int i = 0; i < src->rank; i++)
    KILN_TRY(infer_same_dim(g, n, "sizes of indices and src", indices->dims[i], src->dims[i]));
  static const char *const modes[] = {"none", "add", "multiply", "mean", "amax", "amin"};
  for (size_t i = 0; i < KILN_COUNT(modes); i++) {
    if (str_eq(node_str(n, "reduce"), modes[i])) return infer_same(g, n);
  }
  return INFER_FAIL(n, "reduce \"%s\" is none of none, add, multiply, mean, amax, amin", node_str(n, "reduce"));
}

/* The shape of x[.., indices, ..]: the broadcast indices replace their axes if those are neighbours, else they come
 * first. */
static kiln_status infer_indexed(graph *g, const node *n, int first_index, tensor_type *out) {
  const tensor_type *x = in_type(n, 0);
  const attr *axes = node_attr(n, "axes");
  tensor_type at = type_of(KILN_I64, 0, NULL);
  if (axes->count < 1 || axes->count != n->n_inputs - first_index) {
    return INFER_FAIL(n, "axes has %d entries for %d index tensors, expected as many and at least 1", axes->count,
                      n->n_inputs - first_index);
  }
  uint32_t mask = 0;
  for (int i = 0; i < axes->count; i++) {
    const int64_t axis = axes->u.ints[i];
    if (axis < 0 || axis >= x->rank || (i > 0 && axis <= axes->u.ints[i - 1]))
      return INFER_FAIL(n, "axes are not ascending axes of x");
    mask |= 1u << axis;
    KILN_TRY(infer_indices(n, first_index + i));
    KILN_TRY(infer_broadcast(g, n, &at, in_type(n, first_index + i), &at));
  }
  if (x->rank - axes->count + at.rank > KILN_MAX_RANK)
    return INFER_FAIL(n, "the result would have more than %d dimensions", KILN_MAX_RANK);
  const bool neighbours = axes->u.ints[axes->count - 1] - axes->u.ints[0] == axes->count - 1;
  const int64_t place = neighbours ? axes->u.ints[0] : 0;
  dim dims[KILN_MAX_RANK];
  int rank = 0;
  for (int i = 0; i <= x->rank; i++) {
    for (int k = 0; i == place && k < at.rank; k++) dims[rank++] = at.dims[k];
    if (i < x->rank && !(mask >> i & 1)) dims[rank++] = x->dims[i];
  }
  *out = type_of(x->dtype, rank, dims);
  return KILN_OK;
}

static kiln_status infer_index(graph *g, node *n) { return infer_indexed(g, n, 1, &n->outputs[0]->type); }

static kiln_status infer_index_put(graph *g, node *n) {
  tensor_type part;
  const tensor_type *values = in_type(n, 1);
  KILN_TRY(infer_indexed(g, n, 2, &part));
  if (values->dtype != part.dtype)
    return INFER_FAIL(n, "values are %s, expected %s", kiln_dtype_name(values->dtype), kiln_dtype_name(part.dtype));
  if (values->rank > part.rank)
    return INFER_FAIL(n, "values have %d dimensions, expected at most %d", values->rank, part.rank);
  for (int i = 0; i < values->rank; i++) {
    const dim have = values->dims[i];
    if (have != 1)
      KILN_TRY(infer_same_dim(g, n, "sizes of values and of the indexed part", have,
                              part.dims[part.rank - values->rank + i]));
  }
  return infer_same(g, n);
}

static kiln_status infer_slice_scatter(graph *g, node *n) {
  int axis;
  dim_table *t = g->dims;
  const tensor_type *x = in_type(n, 0), *src = in_type(n, 1);
  KILN_TRY(infer_own_axis(n, x->rank, &axis));
  const dim start = node_int(n, "start"), end = node_int(n, "end"), step = node_int(n, "step");
  if (!dim_is_const(step) || step < 1) return INFER_FAIL(n, "step is %lld, expected 1 or more", (long long)step);
  if (dim_compare_le(t, 0, start) == 0 || dim_compare_le(t, start, end) == 0 ||
      dim_compare_le(t, end, x->dims[axis]) == 0) {
    return INFER_FAIL(n, "start and end are not within the size of axis %d", axis);
  }
  if (src->dtype != x->dtype || src->rank != x->rank) {
    return INFER_FAIL(n, "src is %s with %d dimensions, expected %s with %d", kiln_dtype_name(src->dtype), src->rank,
                      kiln_dtype_name(x->dtype), x->rank);
  }
  for (int i = 0; i < x->rank; i++) {
    dim want = x->dims[i];
    if (i == axis) want = dim_floordiv(t, dim_add(t, dim_sub(t, end, start), step - 1), step);
    KILN_TRY(infer_same_dim(g, n, "sizes of src and of the slice", src->dims[i], want));
  }
  return infer_same(g, n);
}

/* The start of narrow and narrow_scatter: one integer. */
static kiln_status infer_start(graph *g, const node *n, int operand) {
  const tensor_type *start = in_type(n, operand);
  const dim count = type_numel(g, start);
  if (start->dtype != KILN_I64 && start->dtype != KILN_I32)
    return INFER_FAIL(n, "start is %s, expected i64 or i32", kiln_dtype_name(start->dtype));
  return infer_same_dim(g, n, "the number of elements of start and 1", count, 1);
}

static kiln_status infer_narrow(graph *g, node *n) {
  int axis;
  const tensor_type *x = in_type(n, 0);
  const dim length = node_int(n, "length");
  KILN_TRY(infer_own_axis(n, x->rank, &axis));
  KILN_TRY(infer_start(g, n, 1));
  if (x->rank == 0) return INFER_FAIL(n, "x has no dimensions");
  if (dim_compare_le(g->dims, 0, length) == 0 || dim_compare_le(g->dims, length, x->dims[axis]) == 0)
    return INFER_FAIL(n, "length is not within the size of axis %d", axis);
  dim dims[KILN_MAX_RANK];
  for (int i = 0; i < x->rank; i++) dims[i] = i == axis ? length : x->dims[i];
  set_out(n, 0, x->dtype, x->rank, dims);
  return KILN_OK;
}

static kiln_status infer_narrow_scatter(graph *g, node *n) {
  int axis;
  const tensor_type *x = in_type(n, 0), *src = in_type(n, 1);
  KILN_TRY(infer_own_axis(n, x->rank, &axis));
  KILN_TRY(infer_start(g, n, 2));
  if (src->dtype != x->dtype || src->rank != x->rank || x->rank == 0)
    return INFER_FAIL(n, "src is %s with %d dimensions, expected %s with %d (at least 1)", kiln_dtype_name(src->dtype),
                      src->rank, kiln_dtype_name(x->dtype), x->rank);
  if (dim_compare_le(g->dims, src->dims[axis], x->dims[axis]) == 0)
    return INFER_FAIL(n, "src is longer than x on axis %d", axis);
  for (int i = 0; i < x->rank; i++)
    if (i != axis) KILN_TRY(infer_same_dim(g, n, "sizes of src and x", src->dims[i], x->dims[i]));
  return infer_same(g, n);
}

/* A symbol for a size that the data decides: made by the first inference, kept by later ones. */
static dim own_size(graph *g, const node *n, int rank, const char *prefix) {
  const tensor_type *had = &n->outputs[0]->type;
  return had->rank == rank && !dim_is_const(had->dims[0]) ? had->dims[0] : dim_fresh(g->dims, prefix, 0, DIM_UNBOUNDED);
}

static kiln_status infer_nonzero(graph *g, node *n) {
  const tensor_type *x = in_type(n, 0);
  const dim dims[2] = {own_size(g, n, 2, "nonzero"), x->rank};
  set_out(n, 0, KILN_I64, 2, dims);
  return KILN_OK;
}

static kiln_status infer_repeat_index(graph *g, node *n) {
  const tensor_type *counts = in_type(n, 0);
  if (counts->rank != 1 || (counts->dtype != KILN_I64 && counts->dtype != KILN_I32))
    return INFER_FAIL(n, "counts are %s with %d dimensions, expected i64 or i32 with 1", kiln_dtype_name(counts->dtype),
                      counts->rank);
  const dim size = own_size(g, n, 1, "repeat");
  set_out(n, 0, KILN_I64, 1, &size);
  return KILN_OK;
}

static kiln_status infer_data_size(graph *g, node *n) {
  KILN_TRY(infer_start(g, n, 0));
  if (dim_symbol_index(g->dims, node_int(n, "size")) < 0) return INFER_FAIL(n, "size is no symbol");
  set_out(n, 0, KILN_I64, 0, NULL);
  return KILN_OK;
}

/* ---- reference --------------------------------------------------------------------------------------------------- */

/* Loads an index and checks it against the axis. */
static kiln_status load_index(const kernel_args *a, const tensor *indices, int64_t at, int64_t size, bool wraps,
                              int64_t *out) {
  const int64_t given = ref_load_int(indices, at);
  *out = wraps && given < 0 ? given + size : given;
  if (*out >= 0 && *out < size) return KILN_OK;
  return KILN_FAIL(KILN_INVALID_ARGUMENT, "%s: index %lld is outside an axis of size %lld", a->node->op->name,
                   (long long)given, (long long)size);
}

static kiln_status embedding_ref(const kernel_args *a) {
  const tensor *w = &a->in[0], *indices = &a->in[1], *out = &a->out[0];
  for (ref_iter it = ref_begin(out->rank, out->shape); ref_valid(&it); ref_next(&it)) {
    int64_t row, from = 0;
    KILN_TRY(load_index(a, indices, tensor_offset(indices, it.index), w->shape[0], false, &row));
    for (int i = 1; i < w->rank; i++) from += it.index[indices->rank + i - 1] * w->strides[i];
    ref_copy_element(w, from + row * w->strides[0], out, tensor_offset(out, it.index));
  }
  return KILN_OK;
}

static kiln_status index_select_ref(const kernel_args *a) {
  const tensor *x = &a->in[0], *indices = &a->in[1], *out = &a->out[0];
  const int64_t axis = arg_int(a, "axis");
  for (ref_iter it = ref_begin(out->rank, out->shape); ref_valid(&it); ref_next(&it)) {
    int64_t place;
    KILN_TRY(load_index(a, indices, it.index[axis] * indices->strides[0], x->shape[axis], false, &place));
    const int64_t from = tensor_offset(x, it.index) + (place - it.index[axis]) * x->strides[axis];
    ref_copy_element(x, from, out, tensor_offset(out, it.index));
  }
  return KILN_OK;
}

static kiln_status gather_ref(const kernel_args *a) {
  const tensor *x = &a->in[0], *indices = &a->in[1], *out = &a->out[0];
  const int64_t axis = arg_int(a, "axis");
  for (ref_iter it = ref_begin(out->rank, out->shape); ref_valid(&it); ref_next(&it)) {
    int64_t place;
    KILN_TRY(load_index(a, indices, tensor_offset(indices, it.index), x->shape[axis], false, &place));
    const int64_t from = tensor_offset(x, it.index) + (place - it.index[axis]) * x->strides[axis];
    ref_copy_element(x, from, out, tensor_offset(out, it.index));
  }
  return KILN_OK;
}

/* What advanced indexing with `first_index`... as index operands means for concrete tensors. */
typedef struct indexing {
  const tensor *x, *indices;
  const attr *axes;
  int rank, place, at_rank; /* of the indexed part; where the index dimensions start in it, and how many they are */
  int64_t shape[KILN_MAX_RANK];
  int kept[KILN_MAX_RANK]; /* for each dimension of the part that is none of the index dimensions: its axis in x */
} indexing;

static indexing indexing_of(const kernel_args *a, int first_index) {
  indexing s = {.x = &a->in[0], .indices = &a->in[first_index], .axes = arg_attr(a, "axes")};
  int64_t at_shape[KILN_MAX_RANK];
  uint32_t mask = 0;
  for (int i = 0; i < s.axes->count; i++) {
    mask |= 1u << s.axes->u.ints[i];
    if (s.indices[i].rank > s.at_rank) s.at_rank = s.indices[i].rank;
  }
  for (int k = 0; k < s.at_rank; k++) {
    at_shape[k] = 1;
    for (int i = 0; i < s.axes->count; i++) {
      const int from = k - (s.at_rank - s.indices[i].rank);
      if (from >= 0 && s.indices[i].shape[from] != 1) at_shape[k] = s.indices[i].shape[from];
    }
  }
  const int64_t span = s.axes->u.ints[s.axes->count - 1] - s.axes->u.ints[0];
  s.place = span == s.axes->count - 1 ? (int)s.axes->u.ints[0] : 0;
  for (int i = 0; i <= s.x->rank; i++) {
    for (int k = 0; i == s.place && k < s.at_rank; k++) s.shape[s.rank++] = at_shape[k];
    if (i == s.x->rank || (mask >> i & 1)) continue;
    s.kept[s.rank] = i;
    s.shape[s.rank++] = s.x->shape[i];
  }
  return s;
}

/* Offset in `x` (or a tensor of its shape) of element `it` of the indexed part. */
static kiln_status indexed_offset(const kernel_args *a, const indexing *s, const tensor *x, const ref_iter *it,
                                  int64_t *out) {
  ref_iter at = {.rank = s->at_rank};
  int64_t offset = 0;
  for (int k = 0; k < s->rank; k++) {
    if (k >= s->place && k < s->place + s->at_rank) {
      at.index[k - s->place] = it->index[k];
      at.shape[k - s->place] = s->shape[k];
    } else {
      offset += it->index[k] * x->strides[s->kept[k]];
    }
  }
  for (int i = 0; i < s->axes->count; i++) {
    const int64_t axis = s->axes->u.ints[i];
    int64_t place;
    KILN_TRY(load_index(a, &s->indices[i], ref_offset(&s->indices[i], &at), x->shape[axis], true, &place));
    offset += place * x->strides[axis];
  }
  *out = offset;
  return KILN_OK;
}

static kiln_status index_ref(const kernel_args *a) {
  const tensor *out = &a->out[0];
  const indexing s = indexing_of(a, 1);
  for (ref_iter it = ref_begin(out->rank, out->shape); ref_valid(&it); ref_next(&it)) {
    int64_t from;
    KILN_TRY(indexed_offset(a, &s, s.x, &it, &from));
    ref_copy_element(s.x, from, out, tensor_offset(out, it.index));
  }
  return KILN_OK;
}

static void copy_all(const tensor *in, const tensor *out) {
  for (ref_iter it = ref_begin(out->rank, out->shape); ref_valid(&it); ref_next(&it)) {
    ref_copy_element(in, tensor_offset(in, it.index), out, tensor_offset(out, it.index));
  }
}

static void add_element(const tensor *from, int64_t at, const tensor *to, int64_t to_at) {
  if (dtype_is_float(to->dtype)) {
    ref_store(to, to_at, ref_load(to, to_at) + ref_load(from, at));
  } else {
    ref_store_int(to, to_at, (int64_t)((uint64_t)ref_load_int(to, to_at) + (uint64_t)ref_load_int(from, at)));
  }
}

static kiln_status index_put_ref(const kernel_args *a) {
  const tensor *values = &a->in[1], *out = &a->out[0];
  const indexing s = indexing_of(a, 2);
  const bool accumulate = arg_bool(a, "accumulate");
  copy_all(s.x, out);
  for (ref_iter it = ref_begin(s.rank, s.shape); ref_valid(&it); ref_next(&it)) {
    int64_t to;
    KILN_TRY(indexed_offset(a, &s, out, &it, &to));
    if (accumulate) {
      add_element(values, ref_offset(values, &it), out, to);
    } else {
      ref_copy_element(values, ref_offset(values, &it), out, to);
    }
  }
  return KILN_OK;
}

/* ---- scatter ----------------------------------------------------------------------------------------------------- */

typedef enum scatter_mode {
  SCATTER_NONE,
  SCATTER_ADD,
  SCATTER_MULTIPLY,
  SCATTER_MEAN,
  SCATTER_AMAX,
  SCATTER_AMIN
} scatter_mode;

static scatter_mode scatter_mode_of(const char *s) {
  static const char *const names[] = {"none", "add", "multiply", "mean", "amax", "amin"};
  int i = 0;
  while (i < SCATTER_AMIN && !str_eq(s, names[i])) i++;
  return (scatter_mode)i;
}

static void combine(scatter_mode mode, const tensor *src, int64_t from, const tensor *out, int64_t to) {
  if (mode == SCATTER_ADD || mode == SCATTER_MEAN) {
    add_element(src, from, out, to);
  } else if (dtype_is_float(out->dtype)) {
    const double x = ref_load(src, from), y = ref_load(out, to);
    const bool take = y == y && (x != x || (mode == SCATTER_AMAX ? x > y : x < y));
    ref_store(out, to, mode == SCATTER_MULTIPLY ? x * y : take ? x : y);
  } else {
    const int64_t x = ref_load_int(src, from), y = ref_load_int(out, to);
    const int64_t extreme = (mode == SCATTER_AMAX ? x > y : x < y) ? x : y;
    ref_store_int(out, to, mode == SCATTER_MULTIPLY ? (int64_t)((uint64_t)x * (uint64_t)y) : extreme);
  }
}

/* Divides the sums of `mean` by how many values went into each; integers round down. */
static void divide(const tensor *out, const int64_t *counts, bool self_counts) {
  for (ref_iter it = ref_begin(out->rank, out->shape); ref_valid(&it); ref_next(&it)) {
    const int64_t n = counts[it.linear] + (self_counts ? 1 : 0), at = tensor_offset(out, it.index);
    if (counts[it.linear] == 0) continue;
    if (dtype_is_float(out->dtype)) {
      ref_store(out, at, ref_load(out, at) / (double)n);
    } else {
      const int64_t x = ref_load_int(out, at);
      ref_store_int(out, at, x / n - (x % n < 0));
    }
  }
}

static kiln_status scatter_into(const kernel_args *a, scatter_mode mode, bool self, int64_t *counts) {
  const tensor *indices = &a->in[1], *src = &a->in[2], *out = &a->out[0];
  const int64_t axis = arg_int(a, "axis");
  for (ref_iter it = ref_begin(indices->rank, indices->shape); ref_valid(&it); ref_next(&it)) {
    int64_t place, linear = 0;
    KILN_TRY(load_index(a, indices, tensor_offset(indices, it.index), out->shape[axis], false, &place));
    const int64_t to = tensor_offset(out, it.index) + (place - it.index[axis]) * out->strides[axis];
    const int64_t from = tensor_offset(src, it.index);
    for (int i = 0; i < out->rank; i++) linear = linear * out->shape[i] + (i == axis ? place : it.index[i]);
    const bool first = !self && counts[linear] == 0;
    if (counts) counts[linear]++;
    if (mode == SCATTER_NONE || first) {
      ref_copy_element(src, from, out, to);
    } else {
      combine(mode, src, from, out, to);
    }
  }
  return KILN_OK;
}

static kiln_status scatter_ref(const kernel_args *a) {
  const tensor *out = &a->out[0];
  const scatter_mode mode = scatter_mode_of(arg_attr(a, "reduce")->u.s);
  const bool self = arg_bool(a, "include_self") || mode == SCATTER_NONE;
  copy_all(&a->in[0], out);
  if (self && mode != SCATTER_MEAN) return scatter_into(a, mode, true, NULL);
  int64_t *counts = mem_calloc((size_t)tensor_numel(out) + 1, sizeof *counts);
  if (!counts) return KILN_NO_MEMORY("scatter");
  const kiln_status status = scatter_into(a, mode, self, counts);
  if (status == KILN_OK && mode == SCATTER_MEAN) divide(out, counts, self);
  mem_free(counts);
  return status;
}

static kiln_status slice_scatter_ref(const kernel_args *a) {
  const tensor *src = &a->in[1], *out = &a->out[0];
  const int64_t axis = arg_int(a, "axis"), start = arg_int(a, "start"), step = arg_int(a, "step");
  copy_all(&a->in[0], out);
  for (ref_iter it = ref_begin(src->rank, src->shape); ref_valid(&it); ref_next(&it)) {
    const int64_t to = tensor_offset(out, it.index) + (start + it.index[axis] * (step - 1)) * out->strides[axis];
    ref_copy_element(src, tensor_offset(src, it.index), out, to);
  }
  return KILN_OK;
}

/* Where `length` places start: negative counts from the end; all must be within the axis. */
static kiln_status load_start(const kernel_args *a, const tensor *start, int64_t length, int64_t size, int64_t *out) {
  const int64_t given = ref_load_int(start, 0);
  *out = given < 0 ? given + size : given;
  if (*out >= 0 && *out <= size && length <= size - *out) return KILN_OK;
  return KILN_FAIL(KILN_INVALID_ARGUMENT, "%s: %lld places from %lld are not within an axis of size %lld",
                   a->node->op->name, (long long)length, (long long)given, (long long)size);
}

static kiln_status narrow_ref(const kernel_args *a) {
  tensor x = a->in[0];
  const tensor *out = &a->out[0];
  const int64_t axis = arg_int(a, "axis");
  int64_t start;
  KILN_TRY(load_start(a, &a->in[1], out->shape[axis], x.shape[axis], &start));
  for (ref_iter it = ref_begin(out->rank, out->shape); ref_valid(&it); ref_next(&it))
    ref_copy_element(&x, tensor_offset(&x, it.index) + start * x.strides[axis], out, tensor_offset(out, it.index));
  return KILN_OK;
}

static kiln_status narrow_scatter_ref(const kernel_args *a) {
  const tensor *src = &a->in[1], *out = &a->out[0];
  const int64_t axis = arg_int(a, "axis");
  int64_t start;
  KILN_TRY(load_start(a, &a->in[2], src->shape[axis], out->shape[axis], &start));
  copy_all(&a->in[0], out);
  for (ref_iter it = ref_begin(src->rank, src->shape); ref_valid(&it); ref_next(&it))
    ref_copy_element(src, tensor_offset(src, it.index), out, tensor_offset(out, it.index) + start * out->strides[axis]);
  return KILN_OK;
}

static kiln_status nonzero_measure(const kernel_args *a, int64_t *out_size) {
  const tensor *x = &a->in[0];
  const uint8_t *flags = x->data;
  const int64_t n = tensor_numel(x);
  *out_size = 0;
  if (x->dtype == KILN_BOOL && tensor_is_contiguous(x)) { /* masks can be large */
    for (int64_t i = 0; i < n; i++) *out_size += flags[i] != 0;
    return KILN_OK;
  }
  for (ref_iter it = ref_begin(x->rank, x->shape); ref_valid(&it); ref_next(&it))
    *out_size += ref_load(x, tensor_offset(x, it.index)) != 0;
  return KILN_OK;
}

/* counts [2, 0, 3] give places 0 0 2 2 2. */
static kiln_status repeat_index_measure(const kernel_args *a, int64_t *out_size) {
  const tensor *counts = &a->in[0];
  *out_size = 0;
  for (int64_t i = 0; i < counts->shape[0]; i++) {
    const int64_t n = ref_load_int(counts, i * counts->strides[0]);
    if (n < 0 || __builtin_add_overflow(*out_size, n, out_size))
      return KILN_FAIL(KILN_INVALID_ARGUMENT, "repeat_index: a count of %lld", (long long)n);
  }
  return KILN_OK;
}

static kiln_status repeat_index_ref(const kernel_args *a) {
  const tensor *counts = &a->in[0], *out = &a->out[0];
  int64_t at = 0;
  for (int64_t i = 0; i < counts->shape[0]; i++) {
    const int64_t n = ref_load_int(counts, i * counts->strides[0]);
    if (n < 0 || n > out->shape[0] - at)
      return KILN_FAIL(KILN_INVALID_ARGUMENT, "repeat_index: more than the %lld places that were planned",
                       (long long)out->shape[0]);
    for (int64_t k = 0; k < n; k++) ref_store_int(out, at++ * out->strides[0], i);
  }
  if (at == out->shape[0]) return KILN_OK;
  return KILN_FAIL(KILN_INVALID_ARGUMENT, "repeat_index: %lld places, %lld were planned", (long long)at,
                   (long long)out->shape[0]);
}

static kiln_status data_size_measure(const kernel_args *a, int64_t *out_size) {
  *out_size = ref_load_int(&a->in[0], 0);
  return KILN_OK;
}

static kiln_status data_size_ref(const kernel_args *a) {
  const int64_t size = ref_load_int(&a->in[0], 0);
  if (size != arg_int(a, "size"))
    return KILN_FAIL(KILN_INVALID_ARGUMENT, "data_size: %lld, %lld was planned", (long long)size,
                     (long long)arg_int(a, "size"));
  ref_store_int(&a->out[0], 0, size);
  return KILN_OK;
}

static kiln_status nonzero_ref(const kernel_args *a) {
  const tensor *x = &a->in[0], *out = &a->out[0];
  int64_t row = 0;
  for (ref_iter it = ref_begin(x->rank, x->shape); ref_valid(&it); ref_next(&it)) {
    if (ref_load(x, tensor_offset(x, it.index)) == 0) continue;
    if (row == out->shape[0])
      return KILN_FAIL(KILN_INVALID_ARGUMENT, "nonzero: more than the %lld elements that were planned", (long long)row);
    for (int i = 0; i < x->rank; i++) ref_store_int(out, row * out->strides[0] + i * out->strides[1], it.index[i]);
    row++;
  }
  if (row == out->shape[0]) return KILN_OK;
  return KILN_FAIL(KILN_INVALID_ARGUMENT, "nonzero: %lld elements, %lld were planned", (long long)row,
                   (long long)out->shape[0]);
}

/* ---- rows -------------------------------------------------------------------------------------------------------- */

static const torch_row torch_embedding[] = {{"aten::embedding(Tensor weight, Tensor indices, SymInt padding_idx=-1, "
                                             "bool scale_grad_by_freq=False, bool sparse=False) -> Tensor",
                                             "embedding(weight, indices)", NULL},
                                            {NULL, NULL, NULL}};
static const torch_row torch_index_select[] = {
    {"aten::index_select(Tensor self, int dim, Tensor index) -> Tensor", NULL, lower_index_select}, {NULL, NULL, NULL}};
static const torch_row torch_gather[] = {
    {"aten::gather(Tensor self, int dim, Tensor index, *, bool sparse_grad=False) -> Tensor", NULL, lower_gather},
    {"aten::take_along_dim(Tensor self, Tensor indices, int? dim=None) -> Tensor", NULL, lower_take_along_dim},
    {NULL, NULL, NULL}};
static const torch_row torch_index[] = {
    {"aten::index.Tensor(Tensor self, Tensor?[] indices) -> Tensor", NULL, lower_index},
    {"aten::index.Tensor_hacked_twin(Tensor self, Tensor[] indices) -> Tensor", NULL, lower_index},
    {"aten::_unsafe_index.Tensor(Tensor self, Tensor?[] indices) -> Tensor", NULL, lower_index},
    {"aten::_unsafe_index.Tensor_hacked_twin(Tensor self, Tensor[] indices) -> Tensor", NULL, lower_index},
    {"aten::_unsafe_masked_index(Tensor self, Tensor mask, Tensor?[] indices, Scalar fill) -> Tensor", NULL,
     lower_masked_index},
    {"aten::take(Tensor self, Tensor index) -> Tensor", NULL, lower_take},
    {NULL, NULL, NULL}};
static const torch_row torch_index_put[] = {
    {"aten::put(Tensor self, Tensor index, Tensor source, bool accumulate=False) -> Tensor", NULL, lower_put},
    {"aten::index_put(Tensor self, Tensor?[] indices, Tensor values, bool accumulate=False) -> Tensor", NULL,
     lower_index_put},
    {"aten::index_put.hacked_twin(Tensor self, Tensor[] indices, Tensor values, bool accumulate=False) -> Tensor", NULL,
     lower_index_put},
    {"aten::_unsafe_index_put(Tensor self, Tensor?[] indices, Tensor values, bool accumulate=False) -> Tensor", NULL,
     lower_index_put},
    {"aten::_unsafe_index_put.hacked_twin(Tensor self, Tensor[] indices, Tensor values, bool accumulate=False) -> "
     "Tensor",
     NULL, lower_index_put},
    {"aten::masked_scatter(Tensor self, Tensor mask, Tensor source) -> Tensor", NULL, lower_masked_scatter},
    {NULL, NULL, NULL}};
static const torch_row torch_scatter[] = {
    {"aten::scatter.src(Tensor self, int dim, Tensor index, Tensor src) -> Tensor", NULL, lower_scatter},
    {"aten::scatter.value(Tensor self, int dim, Tensor index, Scalar value) -> Tensor", NULL, lower_scatter},
    {"aten::scatter.reduce(Tensor self, int dim, Tensor index, Tensor src, *, str reduce) -> Tensor", NULL,
     lower_scatter},
    {"aten::scatter.value_reduce(Tensor self, int dim, Tensor index, Scalar value, *, str reduce) -> Tensor", NULL,
     lower_scatter},
    {"aten::scatter_add(Tensor self, int dim, Tensor index, Tensor src) -> Tensor", NULL, lower_scatter_add},
    {"aten::scatter_reduce.two(Tensor self, int dim, Tensor index, Tensor src, str reduce, *, bool include_self=True) "
     "-> Tensor",
     NULL, lower_scatter},
    {"aten::index_add(Tensor self, int dim, Tensor index, Tensor source, *, Scalar alpha=1) -> Tensor", NULL,
     lower_index_add},
    {"aten::index_copy(Tensor self, int dim, Tensor index, Tensor source) -> Tensor", NULL, lower_index_copy},
    {"aten::index_fill.int_Scalar(Tensor self, int dim, Tensor index, Scalar value) -> Tensor", NULL, lower_index_fill},
    {"aten::index_fill.int_Tensor(Tensor self, int dim, Tensor index, Tensor value) -> Tensor", NULL, lower_index_fill},
    {"aten::index_reduce(Tensor self, int dim, Tensor index, Tensor source, str reduce, *, bool include_self=True) -> "
     "Tensor",
     NULL, lower_index_reduce},
    {"aten::histc(Tensor self, int bins=100, Scalar min=0, Scalar max=0) -> Tensor", NULL, lower_histc},
    {NULL, NULL, NULL}};
static const torch_row torch_slice_scatter[] = {
    {"aten::slice_scatter(Tensor self, Tensor src, int dim=0, SymInt? start=None, SymInt? end=None, SymInt step=1) -> "
     "Tensor",
     NULL, lower_slice_scatter},
    {"aten::select_scatter(Tensor self, Tensor src, int dim, SymInt index) -> Tensor", NULL, lower_select_scatter},
    {NULL, NULL, NULL}};
static const torch_row torch_repeat_index[] = {
    {"aten::repeat_interleave.Tensor(Tensor repeats, *, SymInt? output_size=None) -> Tensor", NULL, lower_repeat_index},
    {"aten::repeat_interleave.self_Tensor(Tensor self, Tensor repeats, int? dim=None, *, SymInt? output_size=None) -> "
     "Tensor",
     NULL, lower_repeat_by},
    {NULL, NULL, NULL}};
static const torch_row torch_data_size[] = {{NULL, NULL, NULL}};
static const torch_row torch_narrow[] = {
    {"aten::narrow.Tensor(Tensor(a) self, int dim, Tensor start, SymInt length) -> Tensor(a)", NULL, lower_narrow_at},
    {NULL, NULL, NULL}};
static const torch_row torch_narrow_scatter[] = {{NULL, NULL, NULL}};
static const torch_row torch_nonzero[] = {
    {"aten::nonzero(Tensor self) -> Tensor", NULL, lower_nonzero},
    {"aten::nonzero_numpy(Tensor self) -> Tensor[]", NULL, lower_where_true},
    {"aten::where(Tensor condition) -> Tensor[]", NULL, lower_where_true},
    {"aten::masked_select(Tensor self, Tensor mask) -> Tensor", NULL, lower_masked_select},
    {"aten::_unique2(Tensor self, bool sorted=True, bool return_inverse=False, bool return_counts=False) -> (Tensor, "
     "Tensor, Tensor)",
     NULL, lower_unique},
    {"aten::unique_consecutive(Tensor self, bool return_inverse=False, bool return_counts=False, int? dim=None) -> "
     "(Tensor, Tensor, Tensor)",
     NULL, lower_unique},
    {"aten::one_hot(Tensor self, int num_classes=-1) -> Tensor", NULL, lower_one_hot},
    {NULL, NULL, NULL}};

static const char *const cases_embedding[] = {"w:f32[9,N] indices:i64[5]=range(0,8) N:1,7,16,64,65",
                                              "w:f32[9,4] indices:i32[2,3]=range(0,8)",
                                              "w:f16[9,4] indices:i64[3]=range(0,8)",
                                              "w:f32[9,4] indices:i64[]=range(0,8)",
                                              "w:f32[9,4] indices:i64[0]=range(0,8)",
                                              NULL};
static const char *const cases_index_select[] = {"x:f32[3,5,7] indices:i64[4]=range(0,4) axis=1",
                                                 "x:f32[9,64] indices:i64[5]=range(0,8) axis=0",
                                                 "x:i64[3,4]=range(-9,9) indices:i32[2]=range(0,3) axis=1",
                                                 "x:f16[5,3] indices:i64[9]=range(0,4) axis=0",
                                                 "x:f32[5,3] indices:i64[0]=range(0,4) axis=0",
                                                 NULL};
static const char *const cases_gather[] = {
    "x:f32[3,5,7] indices:i64[3,5,2]=range(0,6) axis=2",     "x:f32[3,5] indices:i64[2,5]=range(0,2) axis=0",
    "x:i64[4]=range(-9,9) indices:i64[9]=range(0,3) axis=0", "x:f16[3,5] indices:i64[3,1]=range(0,4) axis=1",
    "x:f32[3,5] indices:i64[0,5]=range(0,2) axis=0",         NULL};
static const char *const cases_index[] = {
    "x:f32[5,7] indices:i64[4]=range(-5,4) axes=[0]",
    "x:f32[5,7,3] indices:i64[2,1]=range(0,4) indices:i64[3]=range(0,6) axes=[0,1]",
    "x:f32[5,7,3] indices:i64[4]=range(0,4) indices:i64[4]=range(0,2) axes=[0,2]",
    "x:f32[2,5,7] indices:i64[2,2]=range(0,4) axes=[1]",
    "x:i64[5,7]=range(-9,9) indices:i64[]=range(0,6) axes=[1]",
    "x:f16[5,7] indices:i32[3]=range(0,4) axes=[0]",
    "x:f32[5,7] indices:i64[0]=range(0,4) axes=[0]",
    NULL};
static const char *const cases_index_put[] = {
    "x:f32[5,7] values:f32[7] indices:i64[1]=range(-5,4) axes=[0]",
    "x:f32[5,7,3] values:f32[] indices:i64[4]=range(0,4) axes=[1]",
    "x:f32[5,7] values:f32[9,7] indices:i64[9]=range(0,4) axes=[0] accumulate=1",
    "x:i64[5,7]=range(-9,9) values:i64[1]=range(0,9) indices:i64[2]=range(0,4) indices:i64[2]=range(0,6) axes=[0,1]",
    NULL};
static const char *const cases_scatter[] = {
    "x:f32[3,5] indices:i64[1,5]=range(0,2) src:f32[1,5] axis=0",
    "x:f32[3,5] indices:i64[3,9]=range(0,4) src:f32[3,9] axis=1 reduce=\"add\"",
    "x:f32[3,5] indices:i64[3,9]=range(0,4) src:f32[3,9] axis=1 reduce=\"mean\" include_self=0",
    "x:f32[3,5] indices:i64[3,9]=range(0,4) src:f32[3,9] axis=1 reduce=\"amax\"",
    "x:f32[3,5] indices:i64[3,9]=range(0,4) src:f32[3,9] axis=1 reduce=\"multiply\"",
    "x:f32[3,5] indices:i64[3,9]=range(0,4) src:f32[3,9] axis=1 reduce=\"amin\" include_self=0",
    "x:i64[4]=range(-9,9) indices:i64[9]=range(0,3) src:i64[9]=range(-9,9) axis=0 reduce=\"add\"",
    NULL};
static const char *const cases_slice_scatter[] = {
    "x:f32[10] src:f32[3] axis=0 start=2 end=5", "x:f32[3,10] src:f32[3,3] axis=1 start=1 end=10 step=3",
    "x:i64[3,4]=range(0,9) src:i64[0,4]=range(0,9) axis=0 start=1 end=1", NULL};

static const char *const cases_narrow[] = {"x:f32[10,N] start:i64[]=range(0,7) axis=0 length=3 N:1,7,16,65",
                                           "x:f32[3,10] start:i32[]=range(-4,-4) axis=1 length=4",
                                           "x:f16[3,5,7] start:i64[1]=range(1,3) axis=1 length=2",
                                           "x:i64[6]=range(-9,9) start:i64[]=range(6,6) axis=0 length=0",
                                           "x:bool[2,6]=bool start:i64[]=range(-6,-6) axis=1 length=6",
                                           NULL};
static const char *const cases_narrow_scatter[] = {
    "x:f32[10,N] src:f32[3,N] start:i64[]=range(0,7) axis=0 N:1,7,16,65",
    "x:f32[3,10] src:f32[3,4] start:i32[]=range(-4,-4) axis=1",
    "x:f16[3,5,7] src:f16[3,2,7] start:i64[1]=range(1,3) axis=1",
    "x:i64[6]=range(-9,9) src:i64[0]=range(0,9) start:i64[]=range(6,6) axis=0",
    "x:bool[2,6]=bool src:bool[2,6]=bool start:i64[]=range(-6,-6) axis=1",
    NULL};

#define INDEX_ROW(op_name, signature, attributes)                                                          \
  .name = #op_name, .sig = signature, .attrs = attributes, .infer = infer_##op_name, .ref = op_name##_ref, \
  .torch = torch_##op_name

static const op rows[] = {
    {INDEX_ROW(embedding, "w indices -> y", ""), .cases = cases_embedding},
    {INDEX_ROW(index_select, "x indices -> y", "axis:int"), .cases = cases_index_select},
    {INDEX_ROW(gather, "x indices -> y", "axis:int"), .cases = cases_gather},
    {INDEX_ROW(index, "x indices* -> y", "axes:ints"), .cases = cases_index},
    {INDEX_ROW(index_put, "x values indices* -> y", "axes:ints accumulate:bool=0"), .cases = cases_index_put},
    {INDEX_ROW(scatter, "x indices src -> y", "axis:int reduce:str=\"none\" include_self:bool=1"),
     .cases = cases_scatter, .tolerance = 1e-6f},
    {INDEX_ROW(slice_scatter, "x src -> y", "axis:int start:int end:int step:int=1"), .cases = cases_slice_scatter},
    {INDEX_ROW(narrow, "x start -> y", "axis:int length:int"), .cases = cases_narrow},
    {INDEX_ROW(narrow_scatter, "x src start -> y", "axis:int"), .cases = cases_narrow_scatter},
    {INDEX_ROW(nonzero, "x -> y", ""), .flags = OP_DATA_DEPENDENT, .measure = nonzero_measure},
    {INDEX_ROW(repeat_index, "counts -> y", ""), .flags = OP_DATA_DEPENDENT, .measure = repeat_index_measure},
    {INDEX_ROW(data_size, "x -> y", "size:int"), .flags = OP_DATA_DEPENDENT, .measure = data_size_measure},
};

OP_FAMILY(ops_index, rows);
