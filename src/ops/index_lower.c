/* PyTorch's indexing calls. Indices become i64 or i32 tensors; a boolean mask becomes indices if it is a constant, and
 * a `where` if one value is written through it; any other mask gives a result whose size depends on the data, which is
 * refused. */
#include "ops/index_lower.h"

#include "ops/ref.h"

static value *as_index(builder *b, value *v) {
  return v && (v->type.dtype == KILN_I64 || v->type.dtype == KILN_I32) ? v : lower_cast(b, v, KILN_I64);
}

/* Rank-0 tensors count as one element in indexing: makes them rank 1. */
static value *at_least_1d(builder *b, value *v) { return v && v->type.rank == 0 ? lowering_unsqueeze(b, v, 0) : v; }

static value *back_to(builder *b, value *v, int rank) {
  return v && rank == 0 && v->type.rank == 1 ? lowering_squeeze(b, v, 0) : v;
}

kiln_status lower_index_select(lower_call *c) {
  value *x, *index;
  int axis;
  builder *b = &c->b;
  KILN_TRY(lowering_tensor(c, "self", &x));
  KILN_TRY(lowering_tensor(c, "index", &index));
  KILN_TRY(lowering_axis(c, "dim", x->type.rank, &axis));
  const int rank = x->type.rank;
  value *y =
      build(b, "index_select", IN(at_least_1d(b, x), at_least_1d(b, as_index(b, index))), ATTRS(A_INT("axis", axis)));
  call_return(c, 0, back_to(b, y, rank));
  return KILN_OK;
}

kiln_status lower_gather(lower_call *c) {
  value *x, *index;
  int axis;
  builder *b = &c->b;
  KILN_TRY(lowering_tensor(c, "self", &x));
  KILN_TRY(lowering_tensor(c, "index", &index));
  KILN_TRY(lowering_axis(c, "dim", x->type.rank, &axis));
  const int rank = index->type.rank;
  if (type_numel(b->graph, &index->type) == 0) { /* of any rank */
    call_return(c, 0, lowering_full(b, x->type.dtype, rank, index->type.dims, 0));
    return KILN_OK;
  }
  value *y = build(b, "gather", IN(at_least_1d(b, x), at_least_1d(b, as_index(b, index))), ATTRS(A_INT("axis", axis)));
  call_return(c, 0, back_to(b, y, rank));
  return KILN_OK;
}

/* gather after broadcasting both to each other on the other axes. */
kiln_status lower_take_along_dim(lower_call *c) {
  value *x, *index;
  int axis = 0;
  builder *b = &c->b;
  KILN_TRY(lowering_tensor(c, "self", &x));
  KILN_TRY(lowering_tensor(c, "indices", &index));
  if (call_is_none(c, "dim")) {
    const dim n = type_numel(b->graph, &x->type), m = type_numel(b->graph, &index->type);
    x = lower_reshape(b, x, 1, &n);
    index = lower_reshape(b, index, 1, &m);
  } else {
    KILN_TRY(lowering_axis(c, "dim", x->type.rank, &axis));
    if (x->type.rank != index->type.rank) return LOWER_FAIL(c, "self and indices have different ranks");
    dim x_dims[KILN_MAX_RANK], index_dims[KILN_MAX_RANK];
    for (int i = 0; i < x->type.rank; i++) {
      x_dims[i] = x->type.dims[i];
      index_dims[i] = index->type.dims[i];
      if (i != axis && x_dims[i] == 1) x_dims[i] = index_dims[i];
      if (i != axis && index_dims[i] == 1) index_dims[i] = x_dims[i];
    }
    x = lower_expand(b, x, x->type.rank, x_dims);
    index = lower_expand(b, index, index->type.rank, index_dims);
  }
  LOWER_NEED(c, x);
  index = as_index(b, index);
  /* Unlike gather, this takes negative indices. */
  value *size = lower_cast(b, lower_size_tensor(b, x->type.dims[axis]), index ? index->type.dtype : KILN_I64);
  value *negative = build(b, "lt", IN(index, lowering_scalar_like(b, index, 0)), NO_ATTRS);
  index = build(b, "where", IN(negative, lower_binary(b, "add", index, size), index), NO_ATTRS);
  call_return(c, 0, build(b, "gather", IN(x, index), ATTRS(A_INT("axis", axis))));
  return KILN_OK;
}

/* ---- advanced indexing ------------------------------------------------------------------------------------------- */

static bool is_mask(const value *v) { return v->type.dtype == KILN_BOOL || v->type.dtype == KILN_U8; }

static bool constant_tensor(const value *v, tensor *out) {
  if (!v->constant || v->constant->packing || !type_is_static(&v->type)) return false;
  constant_fix(v);
  *out = (tensor){.data = (void *)(uintptr_t)v->constant->data, .dtype = v->type.dtype, .rank = v->type.rank};
  for (int i = 0; i < out->rank; i++) out->shape[i] = v->type.dims[i];
  tensor_make_contiguous_strides(out);
  return true;
}

/* One i64 vector for each axis of a constant: where it is not zero. */
static kiln_status constant_nonzero(lower_call *c, const tensor *t, value **out) {
  graph *g = c->b.graph;
  int64_t count = 0;
  for (ref_iter it = ref_begin(t->rank, t->shape); ref_valid(&it); ref_next(&it)) count += ref_load(t, it.linear) != 0;
  for (int axis = 0; axis < t->rank; axis++) {
    int64_t *at = ARENA_ARRAY(&g->arena, int64_t, count + 1), n = 0;
    if (!at) return KILN_NO_MEMORY("indices of a mask");
    for (ref_iter it = ref_begin(t->rank, t->shape); ref_valid(&it); ref_next(&it)) {
      if (ref_load(t, it.linear) != 0) at[n++] = it.index[axis];
    }
    const tensor_type type = type_of(KILN_I64, 1, &count);
    out[axis] = graph_constant(g, &type, at);
  }
  return KILN_OK;
}

/* The same for a tensor that is known at run time: the vectors have a size that depends on the data. */
static kiln_status nonzero_columns(lower_call *c, value *v, value **out) {
  builder *b = &c->b;
  const int rank = v->type.rank;
  value *places = build(b, "nonzero", IN(v), NO_ATTRS);
  LOWER_NEED(c, places);
  for (int axis = 0; axis < rank; axis++)
    out[axis] = lowering_squeeze(b, lowering_slice(b, places, 1, axis, axis + 1, 1), 1);
  return graph_check(b->graph);
}

static kiln_status mask_columns(lower_call *c, value *v, value **out) {
  tensor t;
  return constant_tensor(v, &t) ? constant_nonzero(c, &t, out) : nonzero_columns(c, v, out);
}

typedef struct indices {
  int count, next_axis; /* index tensors; the first axis of x that none was given for */
  value *v[KILN_MAX_RANK];
  int64_t axes[KILN_MAX_RANK];
  int masks;   /* that are no constants and stay masks; the last one: */
  value *mask; /* at axis mask_axis */
  int mask_axis;
} indices;

/* A mask has the sizes of the axes that it covers. */
static kiln_status check_mask(lower_call *c, const tensor_type *x, const value *mask, int axis) {
  if (axis + mask->type.rank > x->rank) return LOWER_FAIL(c, "more indices than the input has dimensions");
  for (int i = 0; i < mask->type.rank; i++) {
    const dim have = mask->type.dims[i], want = x->dims[axis + i];
    const int equal = dim_compare_equal(c->b.graph->dims, have, want);
    if (equal == 0) return LOWER_FAIL(c, "dimension %d of a mask has another size than the input", i);
    if (equal < 0) graph_guard_equal(c->b.graph, have, want);
  }
  return KILN_OK;
}

/* `whole`: a mask that is no constant stays one, for writes through it. */
static kiln_status add_index(lower_call *c, indices *s, value *v, const tensor_type *x, bool whole) {
  value *parts[KILN_MAX_RANK];
  tensor t;
  int n = 1;
  if (!is_mask(v)) {
    parts[0] = as_index(&c->b, v);
  } else if (v->type.rank > 0 && (!whole || constant_tensor(v, &t))) {
    n = v->type.rank;
    KILN_TRY(check_mask(c, x, v, s->next_axis));
    KILN_TRY(mask_columns(c, v, parts));
  } else {
    KILN_TRY(check_mask(c, x, v, s->next_axis));
    s->masks++;
    s->mask = v;
    s->mask_axis = s->next_axis;
    s->next_axis += v->type.rank;
    return KILN_OK;
  }
  if (s->next_axis + n > x->rank) return LOWER_FAIL(c, "more indices than the input has dimensions");
  for (int i = 0; i < n; i++) {
    s->axes[s->count] = s->next_axis++;
    s->v[s->count++] = parts[i];
  }
  return KILN_OK;
}

static kiln_status read_indices(lower_call *c, const tensor_type *x, indices *s, bool whole) {
  value *list[KILN_MAX_RANK];
  const int n = call_tensors(c, "indices", list, KILN_MAX_RANK);
  if (n < 0) return LOWER_FAIL(c, "more than %d indices", KILN_MAX_RANK);
  KILN_TRY(graph_check(c->b.graph));
  for (int i = 0; i < n; i++) {
    if (list[i]) {
      KILN_TRY(add_index(c, s, list[i], x, whole));
    } else {
      s->next_axis++;
    }
  }
  return KILN_OK;
}

/* x[:, mask]: the axes that the mask covers become one, from which its places are taken. */
static value *select_by_mask(builder *b, value *x, value *mask, int axis) {
  graph *g = b->graph;
  if (!x || !mask) return NULL;
  dim dims[KILN_MAX_RANK];
  const int covered = mask->type.rank, rank = x->type.rank - covered + 1;
  const dim all = dim_product(g->dims, x->type.dims + axis, covered);
  for (int i = 0; i < rank; i++) dims[i] = i < axis ? x->type.dims[i] : i == axis ? all : x->type.dims[i + covered - 1];
  value *places = build(b, "nonzero", IN(lower_reshape(b, mask, 1, &all)), NO_ATTRS);
  value *index = places ? lower_reshape(b, places, 1, places->type.dims) : NULL;
  return build(b, "index_select", IN(lower_reshape(b, x, rank, dims), index), ATTRS(A_INT("axis", axis)));
}

kiln_status lower_index(lower_call *c) {
  value *x, *operands[KILN_MAX_RANK + 1];
  indices s = {0};
  KILN_TRY(lowering_tensor(c, "self", &x));
  KILN_TRY(read_indices(c, &x->type, &s, true));
  if (s.masks == 1 && s.mask->type.rank > 0 && s.count == 0) {
    call_return(c, 0, select_by_mask(&c->b, x, s.mask, s.mask_axis));
    return KILN_OK;
  }
  if (s.masks > 0) { /* beside other indices: the places, axis by axis */
    s = (indices){0};
    KILN_TRY(read_indices(c, &x->type, &s, false));
  }
  if (s.masks > 0) return LOWER_FAIL(c, "indexing with one bool is not supported");
  operands[0] = x;
  for (int i = 0; i < s.count; i++) operands[i + 1] = s.v[i];
  call_return(c, 0,
              s.count == 0 ? x : build(&c->b, "index", s.count + 1, operands, ATTRS(A_INTS("axes", s.axes, s.count))));
  return KILN_OK;
}

/* x[indices] where the mask is true, `fill` elsewhere; indices under a false mask may be out of range, so they are
 * taken as 0. */
kiln_status lower_masked_index(lower_call *c) {
  value *x, *mask, *fill, *operands[KILN_MAX_RANK + 1];
  indices s = {0};
  builder *b = &c->b;
  KILN_TRY(lowering_tensor(c, "self", &x));
  KILN_TRY(lowering_tensor(c, "mask", &mask));
  KILN_TRY(lowering_tensor(c, "fill", &fill));
  KILN_TRY(read_indices(c, &x->type, &s, true));
  if (s.mask || s.count == 0) return LOWER_FAIL(c, "expected index tensors");
  mask = lower_cast(b, mask, KILN_BOOL);
  operands[0] = x;
  for (int i = 0; i < s.count; i++) {
    operands[i + 1] = build(b, "where", IN(mask, s.v[i], lowering_scalar_like(b, s.v[i], 0)), NO_ATTRS);
  }
  value *y = build(b, "index", s.count + 1, operands, ATTRS(A_INTS("axes", s.axes, s.count)));
  call_return(c, 0, build(b, "where", IN(mask, y, lower_cast(b, fill, x->type.dtype)), NO_ATTRS));
  return KILN_OK;
}

/* For each place of the mask, the row of `values` that goes there if it is true: as many rows come before it as places
 * are true. A row of zeros at the end is there where there may be none. */
static value *rows_for_mask(builder *b, const value *mask, value *values) {
  graph *g = b->graph;
  if (!values) return NULL;
  const int covered = mask->type.rank, trailing = values->type.rank - 1;
  const dim n = type_numel(g, &mask->type);
  dim rows = values->type.dims[0];
  dim dims[KILN_MAX_RANK] = {1};
  for (int i = 0; i < trailing; i++) dims[i + 1] = values->type.dims[i + 1];
  int64_t least, most;
  dim_range(g->dims, rows, &least, &most);
  if (least < 1) {
    value *zeros = lowering_full(b, values->type.dtype, trailing + 1, dims, 0);
    values = build(b, "concat", IN(values, zeros), ATTRS(A_INT("axis", 0)));
    rows = dim_add(g->dims, rows, 1);
  }
  value *flat = lower_cast(b, lower_reshape(b, (value *)(uintptr_t)mask, 1, &n), KILN_I64);
  value *at =
      lower_binary(b, "sub", build(b, "cumsum", IN(flat), ATTRS(A_INT("axis", 0))), graph_scalar_int(g, KILN_I64, 1));
  at = lower_binary(b, "minimum", build(b, "clamp", IN(at), ATTRS(A_FLOAT("min", 0))),
                    lower_size_tensor(b, dim_sub(g->dims, rows, 1)));
  value *taken = build(b, "index_select", IN(values, at), ATTRS(A_INT("axis", 0)));
  for (int i = 0; i < covered; i++) dims[i] = mask->type.dims[i];
  for (int i = 0; values && i < trailing; i++) dims[covered + i] = values->type.dims[i + 1];
  return lower_reshape(b, taken, covered + trailing, dims);
}

/* x[mask] = v: where(mask, v, x), with rows of v in their places if it has several; added if `accumulate`. */
static kiln_status put_through_mask(lower_call *c, value *x, const indices *s, value *values, bool accumulate) {
  builder *b = &c->b;
  if (s->count > 0 || s->masks != 1)
    return LOWER_FAIL(c, "writing through a boolean mask beside other indices is not supported");
  dim dims[KILN_MAX_RANK];
  const int after = s->mask_axis + s->mask->type.rank, n = x->type.rank - s->mask_axis;
  if (after > x->type.rank) return LOWER_FAIL(c, "the mask has more dimensions than the input");
  for (int i = 0; i < n; i++) dims[i] = i < s->mask->type.rank ? s->mask->type.dims[i] : 1;
  /* Values may have axes after the mask's (they broadcast there), but none of the masked elements' own. */
  const int trailing = x->type.rank - after;
  if (s->mask_axis == 0 && values->type.rank == trailing + 1 && values->type.dims[0] != 1 && s->mask->type.rank > 0) {
    values = rows_for_mask(b, s->mask, values);
  } else {
    for (int i = 0; i < values->type.rank - trailing; i++) {
      if (values->type.dims[i] != 1)
        return LOWER_FAIL(c, "writing several values through a mask that does not come first is not supported");
    }
    while (values && values->type.rank > trailing) values = lowering_squeeze(b, values, 0);
  }
  value *mask = lower_reshape(b, lower_cast(b, s->mask, KILN_BOOL), n, dims);
  if (accumulate) values = lower_binary(b, "add", x, values);
  call_return(c, 0, build(b, "where", IN(mask, values, x), NO_ATTRS));
  return KILN_OK;
}

kiln_status lower_index_put(lower_call *c) {
  value *x, *values, *operands[KILN_MAX_RANK + 2];
  indices s = {0};
  builder *b = &c->b;
  KILN_TRY(lowering_tensor(c, "self", &x));
  KILN_TRY(lowering_tensor(c, "values", &values));
  KILN_TRY(read_indices(c, &x->type, &s, true));
  const bool accumulate = call_bool(c, "accumulate");
  values = lower_cast(b, values, x->type.dtype);
  LOWER_NEED(c, values);
  if (s.mask) return put_through_mask(c, x, &s, values, accumulate);
  if (s.count == 0) {
    call_return(c, 0, lower_expand(b, values, x->type.rank, x->type.dims));
    return KILN_OK;
  }
  operands[0] = x;
  operands[1] = values;
  for (int i = 0; i < s.count; i++) operands[i + 2] = s.v[i];
  call_return(c, 0,
              build(b, "index_put", s.count + 2, operands,
                    ATTRS(A_INTS("axes", s.axes, s.count), A_BOOL("accumulate", accumulate))));
  return KILN_OK;
}

/* As index_put into the tensor as one line. */
kiln_status lower_put(lower_call *c) {
  value *x, *index, *source;
  builder *b = &c->b;
  const int64_t axis = 0;
  KILN_TRY(lowering_tensor(c, "self", &x));
  KILN_TRY(lowering_tensor(c, "index", &index));
  KILN_TRY(lowering_tensor(c, "source", &source));
  const dim all = type_numel(b->graph, &x->type), count = type_numel(b->graph, &index->type);
  value *operands[3] = {lower_reshape(b, x, 1, &all), lower_reshape(b, lower_cast(b, source, x->type.dtype), 1, &count),
                        lower_reshape(b, index, 1, &count)};
  value *y = build(b, "index_put", 3, operands,
                   ATTRS(A_INTS("axes", &axis, 1), A_BOOL("accumulate", call_bool(c, "accumulate"))));
  call_return(c, 0, lower_reshape(b, y, x->type.rank, x->type.dims));
  return KILN_OK;
}

/* Element i of the mask's true ones takes source element i: where(mask, source[cumsum(mask) - 1], x). */
kiln_status lower_masked_scatter(lower_call *c) {
  value *x, *mask, *source;
  builder *b = &c->b;
  graph *g = b->graph;
  KILN_TRY(lowering_tensor(c, "self", &x));
  KILN_TRY(lowering_tensor(c, "mask", &mask));
  KILN_TRY(lowering_tensor(c, "source", &source));
  value *both[2] = {x, lower_cast(b, mask, KILN_BOOL)};
  lowering_broadcast(b, 2, both);
  x = both[0];
  mask = both[1];
  LOWER_NEED(c, x);
  const dim m = type_numel(g, &source->type);
  value *taken = lower_cast(b, rows_for_mask(b, mask, lower_reshape(b, source, 1, &m)), x->type.dtype);
  call_return(c, 0, build(b, "where", IN(mask, taken, x), NO_ATTRS));
  return KILN_OK;
}

/* The flattened input at these places. */
kiln_status lower_take(lower_call *c) {
  value *x, *index;
  builder *b = &c->b;
  KILN_TRY(lowering_tensor(c, "self", &x));
  KILN_TRY(lowering_tensor(c, "index", &index));
  const dim n = type_numel(b->graph, &x->type);
  const int64_t axes[1] = {0};
  call_return(c, 0,
              build(b, "index", IN(lower_reshape(b, x, 1, &n), as_index(b, index)), ATTRS(A_INTS("axes", axes, 1))));
  return KILN_OK;
}

/* ---- scatter ----------------------------------------------------------------------------------------------------- */

static value *scatter(lower_call *c, value *x, int axis, value *index, value *src, const char *mode,
                      bool include_self) {
  builder *b = &c->b;
  if (!x || !index || !src) return NULL;
  const int rank = x->type.rank;
  index = at_least_1d(b, as_index(b, index));
  src = at_least_1d(b, lower_cast(b, src, x->type.dtype));
  for (int i = 0; index && src && i < src->type.rank && i < index->type.rank;
       i++) { /* src may be larger than the indices */
    if (src->type.dims[i] != index->type.dims[i]) src = lowering_slice(b, src, i, 0, index->type.dims[i], 1);
  }
  value *y = build(b, "scatter", IN(at_least_1d(b, x), index, src),
                   ATTRS(A_INT("axis", axis), A_STR("reduce", mode), A_BOOL("include_self", include_self)));
  return back_to(b, y, rank);
}

/* PyTorch's word for a reduction as the row's. */
static const char *mode_of(const char *word) {
  static const char *const words[][2] = {{"add", "add"},       {"sum", "add"},   {"multiply", "multiply"},
                                         {"prod", "multiply"}, {"mean", "mean"}, {"amax", "amax"},
                                         {"amin", "amin"}};
  for (size_t i = 0; i < KILN_COUNT(words); i++) {
    if (str_eq(word, words[i][0])) return words[i][1];
  }
  return NULL;
}

kiln_status lower_scatter(lower_call *c) {
  value *x, *index, *src;
  int axis;
  const char *overload = c->schema->overload, *mode = "none";
  const bool from_value = str_starts(overload, "value"), two = str_eq(overload, "two");
  KILN_TRY(lowering_tensor(c, "self", &x));
  KILN_TRY(lowering_tensor(c, "index", &index));
  KILN_TRY(lowering_axis(c, "dim", x->type.rank, &axis));
  KILN_TRY(lowering_tensor(c, from_value ? "value" : "src", &src));
  if (from_value) src = lower_expand(&c->b, lower_cast(&c->b, src, x->type.dtype), index->type.rank, index->type.dims);
  if (two || str_ends(overload, "reduce")) mode = mode_of(call_str(c, "reduce"));
  if (!mode) return LOWER_FAIL(c, "argument reduce is none of the known reductions");
  call_return(c, 0, scatter(c, x, axis, index, src, mode, two ? call_bool(c, "include_self") : true));
  return KILN_OK;
}

kiln_status lower_scatter_add(lower_call *c) {
  value *x, *index, *src;
  int axis;
  KILN_TRY(lowering_tensor(c, "self", &x));
  KILN_TRY(lowering_tensor(c, "index", &index));
  KILN_TRY(lowering_tensor(c, "src", &src));
  KILN_TRY(lowering_axis(c, "dim", x->type.rank, &axis));
  call_return(c, 0, scatter(c, x, axis, index, src, "add", true));
  return KILN_OK;
}

/* index_add and its kin: a vector of places along one axis, which becomes an index tensor of the source's shape. */
static kiln_status scatter_along(lower_call *c, value *source, const char *mode, bool include_self) {
  value *x, *index;
  int axis;
  builder *b = &c->b;
  KILN_TRY(lowering_tensor(c, "self", &x));
  KILN_TRY(lowering_tensor(c, "index", &index));
  KILN_TRY(lowering_axis(c, "dim", x->type.rank, &axis));
  index = at_least_1d(b, as_index(b, index));
  LOWER_NEED(c, index);
  dim full[KILN_MAX_RANK] = {1}, thin[KILN_MAX_RANK];
  const int rank = x->type.rank ? x->type.rank : 1;
  for (int i = 0; i < rank; i++) {
    if (x->type.rank) full[i] = x->type.dims[i];
    if (i == axis) full[i] = index->type.dims[0];
    thin[i] = i == axis ? full[i] : 1;
  }
  source = lower_expand(b, at_least_1d(b, source), rank, full);
  index = lower_expand(b, lower_reshape(b, index, rank, thin), rank, full);
  call_return(c, 0, scatter(c, x, axis, index, source, mode, include_self));
  return KILN_OK;
}

kiln_status lower_index_add(lower_call *c) {
  value *source;
  builder *b = &c->b;
  KILN_TRY(lowering_tensor(c, "source", &source));
  const ivalue *alpha = call_arg(c, "alpha");
  if (!(alpha->kind == IV_INT && alpha->u.i == 1) && !(alpha->kind == IV_FLOAT && alpha->u.f == 1)) {
    value *factor;
    KILN_TRY(lowering_tensor(c, "alpha", &factor));
    source = lower_binary(b, "mul", source, lower_cast(b, factor, source->type.dtype));
  }
  return scatter_along(c, source, "add", true);
}

kiln_status lower_index_copy(lower_call *c) {
  value *source;
  KILN_TRY(lowering_tensor(c, "source", &source));
  return scatter_along(c, source, "none", true);
}

kiln_status lower_index_fill(lower_call *c) {
  value *fill;
  KILN_TRY(lowering_tensor(c, "value", &fill));
  return scatter_along(c, fill, "none", true);
}

kiln_status lower_index_reduce(lower_call *c) {
  value *source;
  KILN_TRY(lowering_tensor(c, "source", &source));
  const char *mode = mode_of(call_str(c, "reduce"));
  if (!mode) return LOWER_FAIL(c, "argument reduce is none of prod, mean, amax, amin");
  return scatter_along(c, source, mode, call_bool(c, "include_self"));
}

/* ---- slice_scatter, select_scatter ------------------------------------------------------------------------------- */

kiln_status lower_slice_scatter(lower_call *c) {
  value *x, *src;
  int axis;
  builder *b = &c->b;
  dim_table *t = b->graph->dims;
  KILN_TRY(lowering_tensor(c, "self", &x));
  KILN_TRY(lowering_tensor(c, "src", &src));
  if (x->type.rank == 0) return LOWER_FAIL(c, "the input has no dimensions");
  KILN_TRY(lowering_axis(c, "dim", x->type.rank, &axis));
  const dim size = x->type.dims[axis], step = call_int(c, "step");
  if (!dim_is_const(step) || step < 1) return LOWER_FAIL(c, "argument step must be a positive constant");
  dim start = call_is_none(c, "start") ? 0 : lowering_wrap_index(t, call_int(c, "start"), size);
  dim end = call_is_none(c, "end") ? size : call_int(c, "end");
  end = dim_is_const(end) && end > INT64_MAX / 2 ? size : lowering_wrap_index(t, end, size);
  start = lowering_min(t, lowering_max(t, start, 0), size);
  end = lowering_min(t, lowering_max(t, end, start), size);
  dim dims[KILN_MAX_RANK];
  for (int i = 0; i < x->type.rank; i++) dims[i] = x->type.dims[i];
  dims[axis] = dim_floordiv(t, dim_add(t, dim_sub(t, end, start), step - 1), step);
  src = lower_expand(b, lower_cast(b, src, x->type.dtype), x->type.rank, dims);
  call_return(c, 0,
              build(b, "slice_scatter", IN(x, src),
                    ATTRS(A_INT("axis", axis), A_INT("start", start), A_INT("end", end), A_INT("step", step))));
  return KILN_OK;
}

kiln_status lower_select_scatter(lower_call *c) {
  value *x, *src;
  int axis;
  builder *b = &c->b;
  dim_table *t = b->graph->dims;
  KILN_TRY(lowering_tensor(c, "self", &x));
  KILN_TRY(lowering_tensor(c, "src", &src));
  if (x->type.rank == 0) return LOWER_FAIL(c, "the input has no dimensions");
  KILN_TRY(lowering_axis(c, "dim", x->type.rank, &axis));
  const dim start = lowering_wrap_index(t, call_int(c, "index"), x->type.dims[axis]);
  src = lowering_unsqueeze(b, lower_cast(b, src, x->type.dtype), axis);
  call_return(c, 0,
              build(b, "slice_scatter", IN(x, src),
                    ATTRS(A_INT("axis", axis), A_INT("start", start), A_INT("end", dim_add(t, start, 1)))));
  return KILN_OK;
}

/* ---- narrow at a place that is known at run time ----------------------------------------------------------------- */

kiln_status lower_narrow_at(lower_call *c) {
  value *x, *start;
  int axis;
  builder *b = &c->b;
  KILN_TRY(lowering_tensor(c, "self", &x));
  KILN_TRY(lowering_tensor(c, "start", &start));
  if (x->type.rank == 0) return LOWER_FAIL(c, "the input has no dimensions");
  KILN_TRY(lowering_axis(c, "dim", x->type.rank, &axis));
  call_return_view(c, 0, "self",
                   build(b, "narrow", IN(x, as_index(b, start)),
                         ATTRS(A_INT("axis", axis), A_INT("length", call_int(c, "length")))));
  return KILN_OK;
}

/* ---- nonzero, masked_select -------------------------------------------------------------------------------------- */

kiln_status lower_nonzero(lower_call *c) {
  value *x, *columns[KILN_MAX_RANK];
  tensor t;
  builder *b = &c->b;
  KILN_TRY(lowering_tensor(c, "self", &x));
  if (x->type.rank == 0) { /* one row without coordinates, or none */
    value *places = build(b, "nonzero", IN(lowering_unsqueeze(b, x, 0)), NO_ATTRS);
    call_return(c, 0, lowering_slice(b, places, 1, 0, 0, 1));
    return KILN_OK;
  }
  if (!constant_tensor(x, &t)) {
    call_return(c, 0, build(b, "nonzero", IN(x), NO_ATTRS));
    return KILN_OK;
  }
  KILN_TRY(constant_nonzero(c, &t, columns));
  for (int i = 0; i < t.rank; i++) columns[i] = lowering_unsqueeze(b, columns[i], 1);
  call_return(c, 0, t.rank == 1 ? columns[0] : build(b, "concat", t.rank, columns, ATTRS(A_INT("axis", 1))));
  return KILN_OK;
}

/* where(condition): the places as one vector for each axis. */
kiln_status lower_where_true(lower_call *c) {
  value *x, *columns[KILN_MAX_RANK];
  KILN_TRY(lowering_tensor(c, c->schema->args[0].name, &x));
  if (x->type.rank == 0) x = lowering_unsqueeze(&c->b, x, 0);
  LOWER_NEED(c, x);
  KILN_TRY(mask_columns(c, x, columns));
  call_return_list(c, 0, x->type.rank, columns);
  return KILN_OK;
}

kiln_status lower_masked_select(lower_call *c) {
  value *both[2];
  builder *b = &c->b;
  KILN_TRY(lowering_tensor(c, "self", &both[0]));
  KILN_TRY(lowering_tensor(c, "mask", &both[1]));
  lowering_broadcast(b, 2, both);
  for (int i = 0; i < 2; i++) {
    LOWER_NEED(c, both[i]);
    if (both[i]->type.rank == 0) both[i] = lowering_unsqueeze(b, both[i], 0);
    LOWER_NEED(c, both[i]);
  }
  call_return(c, 0, select_by_mask(b, both[0], both[1], 0));
  return KILN_OK;
}

/* ---- unique ------------------------------------------------------------------------------------------------------ */

/* True where a value (or, of more than one axis, a slice) differs from the one before, and at the first: each group's start. */
static value *group_starts(builder *b, value *line, int axis, dim n) {
  int64_t others[KILN_MAX_RANK];
  const int64_t one = 1, along = axis;
  int count = 0;
  value *before = build(b, "roll", IN(line), ATTRS(A_INTS("shifts", &one, 1), A_INTS("axes", &along, 1)));
  value *differ = build(b, "ne", IN(line, before), NO_ATTRS);
  for (int i = 0; line && i < line->type.rank; i++)
    if (i != axis) others[count++] = i;
  if (count) differ = build(b, "any", IN(differ), ATTRS(A_INTS("axes", others, count)));
  value *places = build(b, "arange", 0, NULL,
                        ATTRS(A_FLOAT("start", 0), A_FLOAT("step", 1), A_INT("count", n), A_DTYPE("dtype", KILN_I64)));
  value *first = places ? build(b, "eq", IN(places, graph_scalar_int(b->graph, KILN_I64, 0)), NO_ATTRS) : NULL;
  return build(b, "logical_or", IN(differ, first), NO_ATTRS);
}

static value *filled(builder *b, const dim *size, double v) {
  return build(b, "full", 0, NULL, ATTRS(A_INTS("shape", size, 1), A_FLOAT("value", v), A_DTYPE("dtype", KILN_I64)));
}

/* The elements of each group's start; which group each element is in; how many are in each group. Sorted before, except for
 * unique_consecutive. */
kiln_status lower_unique(lower_call *c) {
  value *x, *order = NULL;
  builder *b = &c->b;
  const dim none = 0;
  const bool sorted = !str_eq(c->schema->name, "aten::unique_consecutive");
  KILN_TRY(lowering_tensor(c, "self", &x));
  const bool slices = !sorted && !call_is_none(c, "dim");
  int axis = 0;
  if (slices) KILN_TRY(lowering_axis(c, "dim", x->type.rank, &axis));
  if (slices && x->type.rank == 0) return LOWER_FAIL(c, "unique_consecutive along a dimension of no dimensions");
  const dim n = slices ? x->type.dims[axis] : type_numel(b->graph, &x->type);
  const tensor_type shape = slices ? type_of(KILN_I64, 1, &n) : x->type;
  value *line = slices ? x : lower_reshape(b, x, 1, &n);
  LOWER_NEED(c, line);
  if (sorted) {
    node *s = build_node(b, "sort", IN(line), ATTRS(A_INT("axis", 0)));
    if (!s) return graph_check(b->graph);
    line = s->outputs[0];
    order = s->outputs[1];
  }
  value *starts = group_starts(b, line, axis, n);
  value *places = build(b, "nonzero", IN(starts), NO_ATTRS);
  LOWER_NEED(c, places);
  const dim groups = places->type.dims[0];
  call_return(c, 0,
              build(b, "index_select", IN(line, lower_reshape(b, places, 1, &groups)), ATTRS(A_INT("axis", axis))));
  value *group = build(b, "cumsum", IN(lower_cast(b, starts, KILN_I64)), ATTRS(A_INT("axis", 0)));
  group = build(b, "sub", IN(group, graph_scalar_int(b->graph, KILN_I64, 1)), NO_ATTRS);
  value *inverse = filled(b, &none, 0), *counts = filled(b, &none, 0);
  if (call_bool(c, "return_inverse") || slices) { /* along a dimension, PyTorch computes it in any case */
    value *back = order ? build(b, "scatter", IN(filled(b, &n, 0), order, group), ATTRS(A_INT("axis", 0))) : group;
    inverse = lower_reshape(b, back, shape.rank, shape.dims);
  }
  if (call_bool(c, "return_counts"))
    counts = build(b, "scatter", IN(filled(b, &groups, 0), group, filled(b, &n, 1)),
                   ATTRS(A_INT("axis", 0), A_STR("reduce", "add")));
  call_return(c, 1, inverse);
  call_return(c, 2, counts);
  return graph_check(b->graph);
}

/* ---- repeat_interleave by a tensor ------------------------------------------------------------------------------- */

kiln_status lower_repeat_index(lower_call *c) {
  value *counts;
  KILN_TRY(lowering_tensor(c, "repeats", &counts));
  call_return(c, 0, build(&c->b, "repeat_index", IN(as_index(&c->b, counts)), NO_ATTRS));
  return KILN_OK;
}

kiln_status lower_repeat_by(lower_call *c) {
  value *x, *counts;
  int axis = 0;
  builder *b = &c->b;
  KILN_TRY(lowering_tensor(c, "self", &x));
  KILN_TRY(lowering_tensor(c, "repeats", &counts));
  if (call_is_none(c, "dim")) {
    const dim all = type_numel(b->graph, &x->type);
    x = lower_reshape(b, x, 1, &all);
  } else {
    KILN_TRY(lowering_axis(c, "dim", x->type.rank, &axis));
  }
  LOWER_NEED(c, x);
  if (x->type.rank == 0) x = lowering_unsqueeze(b, x, 0);
  LOWER_NEED(c, x);
  counts = as_index(b, counts);
  LOWER_NEED(c, counts);
  if (counts->type.rank > 1) return LOWER_FAIL(c, "argument repeats has more than one dimension");
  if (counts->type.rank == 0 || counts->type.dims[0] == 1) { /* one count for all */
    counts = lower_reshape(b, counts, 1, (const dim[]){1});
    counts = lower_expand(b, counts, 1, &x->type.dims[axis]);
  } else if (dim_compare_equal(b->graph->dims, counts->type.dims[0], x->type.dims[axis]) == 0) {
    return LOWER_FAIL(c, "argument repeats has another size than dimension %d", axis);
  }
  value *index = build(b, "repeat_index", IN(counts), NO_ATTRS);
  call_return(c, 0, build(b, "index_select", IN(x, index), ATTRS(A_INT("axis", axis))));
  return KILN_OK;
}

/* ---- one_hot ----------------------------------------------------------------------------------------------------- */

kiln_status lower_one_hot(lower_call *c) {
  value *x;
  builder *b = &c->b;
  KILN_TRY(lowering_tensor(c, "self", &x));
  const dim classes = call_int(c, "num_classes");
  if (dim_is_const(classes) && classes < 1)
    return LOWER_FAIL(c, "argument num_classes must be given: it depends on the data otherwise");
  x = lower_cast(b, x, KILN_I64);
  LOWER_NEED(c, x);
  value *is = lower_binary(b, "eq", lowering_unsqueeze(b, x, x->type.rank), lowering_iota(b, classes));
  call_return(c, 0, lower_cast(b, is, KILN_I64));
  return KILN_OK;
}
