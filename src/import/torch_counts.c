/* PyTorch functions that count, or list places: mode, bincount, nonzero_static, pdist; and linspace between tensors. */
#include "import/torch_counts.h"

#include <math.h>

#include "import/handles.h"
#include "ops/lowering.h"

static value *binary(lower_call *c, const char *name, value *x, value *y) { return lower_binary(&c->b, name, x, y); }
static value *with_number(lower_call *c, const char *name, value *x, double number) {
  return x ? binary(c, name, x, lowering_scalar_like(&c->b, x, number)) : NULL;
}
static value *pick(lower_call *c, value *condition, value *x, value *y) {
  return build(&c->b, "where", IN(condition, x, y), NO_ATTRS);
}
static value *reduce(lower_call *c, const char *name, value *x, int64_t axis) {
  return build(&c->b, name, IN(x), ATTRS(A_INTS("axes", &axis, 1)));
}
static value *scattered(lower_call *c, value *into, value *places, value *from, const char *how) {
  return build(&c->b, "scatter", IN(into, places, from), ATTRS(A_INT("axis", 0), A_STR("reduce", how)));
}

/* ---- mode ---------------------------------------------------------------------------------------- */

/* In sorted order, equal elements are a run; the first of the longest runs is the least of the most frequent values. */
kiln_status lower_mode(lower_call *c) {
  builder *b = &c->b;
  value *x;
  int axis;
  KILN_TRY(lowering_tensor(c, "self", &x));
  KILN_TRY(lowering_axis(c, "dim", x->type.rank, &axis));
  const bool scalar = x->type.rank == 0;
  if (scalar) x = lowering_unsqueeze(b, x, 0);
  LOWER_NEED(c, x);
  const dim size = x->type.dims[axis];
  dim shape[KILN_MAX_RANK], first[KILN_MAX_RANK];
  for (int i = 0; i < x->type.rank; i++) {
    shape[i] = i == axis ? size : 1;
    first[i] = i == axis ? 1 : x->type.dims[i];
  }
  if (dim_compare_equal(b->graph->dims, size, 0) == 1) return LOWER_FAIL(c, "the mode of no elements");
  node *sorted = build_node(b, "sort", IN(x), ATTRS(A_INT("axis", axis)));
  if (!sorted) return graph_check(b->graph);
  value *s = sorted->outputs[0], *place = lower_reshape(b, lowering_iota(b, size), x->type.rank, shape);
  value *changes = binary(c, "ne", lowering_slice(b, s, axis, 1, size, 1),
                          lowering_slice(b, s, axis, 0, dim_sub(b->graph->dims, size, 1), 1));
  value *starts =
      build(b, "concat", IN(lowering_full(b, KILN_BOOL, x->type.rank, first, 1), changes), ATTRS(A_INT("axis", axis)));
  LOWER_NEED(c, place);
  value *begun = pick(c, starts, place, lowering_scalar_like(b, place, 0));
  node *latest = begun ? build_node(b, "cummax", IN(begun), ATTRS(A_INT("axis", axis))) : NULL;
  if (!latest) return graph_check(b->graph);
  value *at = build(b, "argmax", IN(binary(c, "sub", place, latest->outputs[0])),
                    ATTRS(A_INT("axis", axis), A_BOOL("keepdim", true)));
  for (int i = 0; i < 2; i++) {
    value *v = build(b, "gather", IN(sorted->outputs[i], at), ATTRS(A_INT("axis", axis)));
    call_return(c, i, scalar || !call_bool(c, "keepdim") ? lowering_squeeze(b, v, axis) : v);
  }
  return KILN_OK;
}

/* ---- bincount ------------------------------------------------------------------------------------ */

/* As many zeros as the data say: index 0, repeated. */
static value *zeros_of(lower_call *c, value *count) {
  const dim one = 1;
  return build(&c->b, "repeat_index", IN(lower_reshape(&c->b, count, 1, &one)), NO_ATTRS);
}

kiln_status lower_bincount(lower_call *c) {
  builder *b = &c->b;
  value *x, *ones;
  const dim one = 1, least = call_int(c, "minlength");
  KILN_TRY(lowering_tensor(c, "self", &x));
  if (x->type.rank != 1 || dtype_is_float(x->type.dtype) || !dim_is_const(least) || least < 0)
    return LOWER_FAIL(c, "expected a vector of integers, and a constant minlength");
  x = lower_cast(b, x, KILN_I64);
  LOWER_NEED(c, x);
  /* With -1 among them, so that there is something even if x is empty. */
  value *all = build(b, "concat", IN(x, lowering_full(b, KILN_I64, 1, &one, -1)), ATTRS(A_INT("axis", 0)));
  value *size = with_number(c, "maximum", with_number(c, "add", reduce(c, "amax", all, 0), 1), (double)least);
  value *zeros = zeros_of(c, size);
  if (call_is_none(c, "weights")) {
    ones = lowering_full(b, KILN_I64, 1, x->type.dims, 1);
  } else {
    KILN_TRY(lowering_tensor(c, "weights", &ones));
    ones = lower_cast(b, ones, ones->type.dtype == KILN_F32 ? KILN_F32 : KILN_F64);
    LOWER_NEED(c, ones);
    zeros = lower_cast(b, zeros, ones->type.dtype);
  }
  call_return(c, 0, scattered(c, zeros, x, ones, "add"));
  return KILN_OK;
}

/* ---- nonzero_static ------------------------------------------------------------------------------ */

/* Each true element knows how many came before it; those within `size` write their place there. */
static value *first_places(lower_call *c, value *x, dim size) {
  builder *b = &c->b;
  const dim all = type_numel(b->graph, &x->type), room = dim_add(b->graph->dims, size, 1);
  x = lower_reshape(b, x, 1, &all);
  value *is = x && x->type.dtype == KILN_BOOL ? x : with_number(c, "ne", x, 0);
  value *count = lower_cast(b, is, KILN_I64);
  value *rank = with_number(c, "sub", count ? build(b, "cumsum", IN(count), ATTRS(A_INT("axis", 0))) : NULL, 1);
  value *limit = lower_size_tensor(b, size);
  value *to = pick(c, binary(c, "logical_and", is, binary(c, "lt", rank, limit)), rank, limit);
  value *places = scattered(c, lowering_full(b, KILN_I64, 1, &room, -1), to, lowering_iota(b, all), "none");
  return lowering_slice(b, places, 0, 0, size, 1);
}

kiln_status lower_nonzero_static(lower_call *c) {
  builder *b = &c->b;
  dim_table *t = b->graph->dims;
  value *x, *columns[KILN_MAX_RANK];
  const dim size = call_int(c, "size");
  KILN_TRY(lowering_tensor(c, "self", &x));
  const int rank = x->type.rank;
  if (rank == 0) { /* rows without coordinates */
    const dim shape[2] = {size, 0};
    call_return(c, 0, lowering_full(b, KILN_I64, 2, shape, 0));
    return KILN_OK;
  }
  value *at = first_places(c, x, size), *rest = at;
  LOWER_NEED(c, at);
  value *none = with_number(c, "lt", at, 0), *fill = graph_scalar_int(b->graph, KILN_I64, call_int(c, "fill_value"));
  for (int i = rank - 1; i >= 0; i--) {
    value *length = lower_size_tensor(b, lowering_max(t, x->type.dims[i], 1));
    columns[i] = lowering_unsqueeze(b, pick(c, none, fill, binary(c, "remainder", rest, length)), 1);
    rest = binary(c, "floor_div", rest, length);
  }
  call_return(c, 0, rank == 1 ? columns[0] : build(b, "concat", rank, columns, ATTRS(A_INT("axis", 1))));
  return KILN_OK;
}

/* ---- pdist --------------------------------------------------------------------------------------- */

kiln_status lower_pdist(lower_call *c) {
  builder *b = &c->b;
  value *x, *rows[2];
  const double p = call_float(c, "p");
  KILN_TRY(lowering_tensor(c, "self", &x));
  const dim n = x->type.rank == 2 ? x->type.dims[0] : -1;
  if (!dim_is_const(n) || n < 0 || n > 4096) return LOWER_FAIL(c, "expected a matrix of at most 4096 rows");
  const dim pairs = n * (n - 1) / 2 > 0 ? n * (n - 1) / 2 : 0;
  const tensor_type type = type_of(KILN_I64, 1, &pairs);
  for (int side = 0; side < 2; side++) {
    int64_t *at = ARENA_ARRAY(&b->graph->arena, int64_t, pairs + 1), count = 0;
    if (!at) return KILN_NO_MEMORY("pdist");
    for (int64_t i = 0; i < n; i++)
      for (int64_t k = i + 1; k < n; k++) at[count++] = side ? k : i;
    rows[side] = build(b, "index_select", IN(x, graph_constant(b->graph, &type, at)), ATTRS(A_INT("axis", 0)));
  }
  const int64_t axis = 1;
  value *d = build(b, "abs", IN(binary(c, "sub", rows[0], rows[1])), NO_ATTRS);
  if (p == 0)
    call_return(c, 0,
                lower_cast(b, reduce(c, "sum", lower_cast(b, with_number(c, "ne", d, 0), KILN_F32), 1), x->type.dtype));
  else if (isinf(p) && dim_compare_equal(b->graph->dims, x->type.dims[1], 0) == 0)
    call_return(c, 0, reduce(c, "amax", d, 1));
  else
    call_return(c, 0, build(b, "norm", IN(d), ATTRS(A_FLOAT("p", p), A_INTS("axes", &axis, 1))));
  return KILN_OK;
}

/* ---- embedding_renorm_ --------------------------------------------------------------------------- */

/* The rows that the indices name, where they are longer than max_norm, are scaled to it. */
kiln_status lower_embedding_renorm(lower_call *c) {
  builder *b = &c->b;
  value *w, *at;
  KILN_TRY(lowering_tensor(c, "self", &w));
  KILN_TRY(lowering_tensor(c, "indices", &at));
  if (w->type.rank != 2) return LOWER_FAIL(c, "expected a matrix of weights");
  const dim all = type_numel(b->graph, &at->type), column[2] = {w->type.dims[0], 1};
  const int64_t axis = 1;
  const double limit = call_float(c, "max_norm");
  at = lower_reshape(b, lower_cast(b, at, KILN_I64), 1, &all);
  value *named =
      scattered(c, lowering_full(b, KILN_BOOL, 1, column, 0), at, lowering_full(b, KILN_BOOL, 1, &all, 1), "none");
  value *norm = build(b, "norm", IN(w), ATTRS(A_FLOAT("p", call_float(c, "norm_type")), A_INTS("axes", &axis, 1)));
  value *change = lower_reshape(b, binary(c, "logical_and", named, with_number(c, "gt", norm, limit)), 2, column);
  value *scale = binary(c, "div", lowering_scalar_like(b, norm, limit), with_number(c, "add", norm, 1e-7));
  call_return(c, 0, pick(c, change, binary(c, "mul", w, lower_reshape(b, scale, 2, column)), w));
  return KILN_OK;
}

/* ---- linspace between tensors -------------------------------------------------------------------- */

/* From both ends to the middle, as PyTorch computes it. */
kiln_status lower_linspace_between(lower_call *c) {
  builder *b = &c->b;
  value *ends[2];
  kiln_dtype dtype;
  const dim steps = call_int(c, "steps");
  KILN_TRY(lowering_dtype(c, "dtype", KILN_F32, &dtype));
  if (!dim_is_const(steps) || steps < 0) return LOWER_FAIL(c, "argument steps must be a constant of 0 or more");
  const kiln_dtype inside = dtype == KILN_F32 ? KILN_F32 : KILN_F64;
  for (int i = 0; i < 2; i++) {
    KILN_TRY(lowering_tensor(c, c->schema->args[i].name, &ends[i]));
    if (ends[i]->type.rank != 0) return LOWER_FAIL(c, "start and end must have no dimensions");
    ends[i] = lower_cast(b, ends[i], inside);
  }
  value *at = lower_cast(b, lowering_iota(b, steps), inside);
  value *step = with_number(c, "div", binary(c, "sub", ends[1], ends[0]), steps > 1 ? (double)(steps - 1) : 1);
  LOWER_NEED(c, at);
  value *back = binary(c, "sub", lowering_scalar_like(b, at, (double)(steps - 1)), at);
  value *rising = binary(c, "add", ends[0], binary(c, "mul", step, at));
  value *falling = binary(c, "sub", ends[1], binary(c, "mul", step, back));
  value *low = with_number(c, "lt", at, steps == 1 ? 1 : (double)(steps / 2));
  call_return(c, 0, lower_cast(b, pick(c, low, rising, falling), dtype));
  return KILN_OK;
}
