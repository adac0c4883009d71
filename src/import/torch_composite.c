/* Functions that PyTorch itself writes in terms of others: losses, diagonals, searches, windows, products. */
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "import/handles.h"
#include "import/torch_misc.h"
#include "ops/lowering.h"
#include "ops/ref.h"

static kiln_status need(lower_call *c, const char *name, value **out) {
  *out = call_tensor(c, name);
  return *out ? KILN_OK : LOWER_FAIL(c, "argument %s: expected a tensor", name);
}

static value *unary(lower_call *c, const char *op_name, value *x) {
  return x ? build(&c->b, op_name, IN(x), NO_ATTRS) : NULL;
}
static value *binary(lower_call *c, const char *op_name, value *x, value *y) {
  return lower_binary(&c->b, op_name, x, y);
}
/* x op number, the number in x's dtype. */
static value *with_number(lower_call *c, const char *op_name, value *x, double number) {
  return x ? binary(c, op_name, x, lowering_scalar_like(&c->b, x, number)) : NULL;
}
static value *pick(lower_call *c, value *condition, value *x, value *y) {
  return build(&c->b, "where", IN(condition, x, y), NO_ATTRS);
}

static value *reduce(lower_call *c, const char *op_name, value *x, int axis) { /* axis -1: all of them */
  int64_t axes[KILN_MAX_RANK] = {axis};
  if (!x) return NULL;
  if (axis < 0)
    for (int i = 0; i < x->type.rank; i++) axes[i] = i;
  return build(&c->b, op_name, IN(x), ATTRS(A_INTS("axes", axes, axis < 0 ? x->type.rank : 1)));
}

static value *operand(lower_call *c, const char *op_name, value *x, value *y) { /* promotes */
  lower_promote(&c->b, &x, false, &y, false);
  return binary(c, op_name, x, y);
}

/* ---- diagonals ---------------------------------------------------------------------------------- */

kiln_status lower_diagonal_scatter_call(lower_call *c) {
  value *x, *src;
  int axis1, axis2;
  KILN_TRY(need(c, "self", &x));
  KILN_TRY(need(c, "src", &src));
  KILN_TRY(lowering_wrap_axis(c, "dim1", call_int(c, "dim1"), x->type.rank, &axis1));
  KILN_TRY(lowering_wrap_axis(c, "dim2", call_int(c, "dim2"), x->type.rank, &axis2));
  if (axis1 == axis2 || src->type.rank != x->type.rank - 1)
    return LOWER_FAIL(c, "expected two axes, and a source with one dimension less");
  call_return(
      c, 0,
      lower_diagonal_scatter(&c->b, x, lower_cast(&c->b, src, x->type.dtype), call_int(c, "offset"), axis1, axis2));
  return KILN_OK;
}

/* A matrix for each vector in x's last axis, at two new axes. */
static kiln_status embed(lower_call *c, value *x, int64_t offset, int axis1, int axis2) {
  const int rank = x->type.rank + 1;
  const dim length = x->type.dims[rank - 2], side = dim_add(c->b.graph->dims, length, offset < 0 ? -offset : offset);
  dim dims[KILN_MAX_RANK];
  if (rank > KILN_MAX_RANK) return LOWER_FAIL(c, "the result would have more than %d dimensions", KILN_MAX_RANK);
  for (int i = 0, next = 0; i < rank; i++) dims[i] = i == axis1 || i == axis2 ? side : x->type.dims[next++];
  value *zeros = lowering_full(&c->b, x->type.dtype, rank, dims, 0);
  call_return(c, 0, lower_diagonal_scatter(&c->b, zeros, x, offset, axis1, axis2));
  return KILN_OK;
}

kiln_status lower_diag_embed(lower_call *c) {
  value *x;
  int axis1, axis2;
  KILN_TRY(need(c, "self", &x));
  if (x->type.rank == 0) return LOWER_FAIL(c, "expected a tensor with dimensions");
  KILN_TRY(lowering_wrap_axis(c, "dim1", call_int(c, "dim1"), x->type.rank + 1, &axis1));
  KILN_TRY(lowering_wrap_axis(c, "dim2", call_int(c, "dim2"), x->type.rank + 1, &axis2));
  if (axis1 == axis2) return LOWER_FAIL(c, "dim1 and dim2 are the same axis");
  const bool swapped = axis1 > axis2; /* a negative offset below is a positive one above */
  return embed(c, x, swapped ? -call_int(c, "offset") : call_int(c, "offset"), swapped ? axis2 : axis1,
               swapped ? axis1 : axis2);
}

kiln_status lower_diag(lower_call *c) {
  value *x;
  KILN_TRY(need(c, "self", &x));
  const int64_t offset = call_int(c, "diagonal");
  if (x->type.rank == 1) return embed(c, x, offset, 0, 1);
  if (x->type.rank != 2) return LOWER_FAIL(c, "expected a vector or a matrix");
  call_return(c, 0,
              build(&c->b, "diagonal", IN(x), ATTRS(A_INT("offset", offset), A_INT("axis1", 0), A_INT("axis2", 1))));
  return KILN_OK;
}

kiln_status lower_fill_diagonal(lower_call *c) {
  value *x, *fill = call_tensor(c, "fill_value");
  KILN_TRY(need(c, "self", &x));
  if (x->type.rank != 2 || call_bool(c, "wrap")) return LOWER_FAIL(c, "only matrices, and wrap=False, are supported");
  value *diagonal = build(&c->b, "diagonal", IN(x), ATTRS(A_INT("offset", 0), A_INT("axis1", 0), A_INT("axis2", 1)));
  if (!diagonal) return LOWER_FAIL(c, "no diagonal");
  value *filled = lower_expand(&c->b, lower_cast(&c->b, fill, x->type.dtype), 1, diagonal->type.dims);
  call_return(c, 0, lower_diagonal_scatter(&c->b, x, filled, 0, 0, 1));
  return KILN_OK;
}

/* Element i of src goes where as_strided would read it from: a scatter at indices that are known now. */
kiln_status lower_as_strided_scatter(lower_call *c) {
  value *x, *src;
  dim sizes[KILN_MAX_RANK], strides[KILN_MAX_RANK];
  KILN_TRY(need(c, "self", &x));
  KILN_TRY(need(c, "src", &src));
  const int rank = call_ints(c, "size", sizes, KILN_MAX_RANK);
  const dim offset = call_int(c, "storage_offset"), flat = type_numel(c->b.graph, &x->type);
  if (rank < 0 || call_ints(c, "stride", strides, KILN_MAX_RANK) != rank)
    return LOWER_FAIL(c, "expected as many strides as sizes");
  dim count = 1, last = offset;
  bool fits = dim_is_const(flat) && dim_is_const(offset) && offset >= 0;
  for (int i = 0; i < rank; i++) {
    fits = fits && dim_is_const(sizes[i]) && dim_is_const(strides[i]) && sizes[i] > 0 && sizes[i] <= 1 << 24 &&
           strides[i] >= 0 && strides[i] <= 1 << 24;
    if (!fits || count > 1 << 24) return LOWER_FAIL(c, "only static sizes and strides are supported");
    count *= sizes[i];
    last += (sizes[i] - 1) * strides[i];
  }
  if (!fits || last >= flat || count > 1 << 24) return LOWER_FAIL(c, "sizes and strides reach beyond the tensor");
  int64_t *at = mem_alloc_aligned((size_t)count * sizeof *at);
  if (!at) return KILN_NO_MEMORY("as_strided_scatter");
  for (ref_iter it = ref_begin(rank, sizes); ref_valid(&it); ref_next(&it)) {
    at[it.linear] = offset;
    for (int i = 0; i < rank; i++) at[it.linear] += it.index[i] * strides[i];
  }
  const tensor_type type = type_of(KILN_I64, 1, &count);
  value *index = graph_constant_take(c->b.graph, &type, at);
  const int64_t axis = 0;
  value *line = lower_reshape(&c->b, lower_cast(&c->b, src, x->type.dtype), 1, &count);
  value *put =
      build(&c->b, "index_put", IN(lower_reshape(&c->b, x, 1, &flat), line, index), ATTRS(A_INTS("axes", &axis, 1)));
  call_return(c, 0, lower_reshape(&c->b, put, x->type.rank, x->type.dims));
  return KILN_OK;
}

/* ---- losses ------------------------------------------------------------------------------------- */

enum { REDUCE_NONE, REDUCE_MEAN, REDUCE_SUM };

static value *reduced(lower_call *c, value *loss) {
  const dim reduction = call_int(c, "reduction");
  return reduction == REDUCE_NONE ? loss : reduce(c, reduction == REDUCE_SUM ? "sum" : "mean", loss, -1);
}

/* 0.5 d^2 within `width` and linear outside; huber and smooth_l1 differ by a factor. */
static value *rounded(lower_call *c, value *d, double width, bool huber) {
  if (!d || (width == 0 && !huber)) return d;
  value *square = with_number(c, "mul", binary(c, "mul", d, d), huber ? 0.5 : 0.5 / width);
  value *line = with_number(c, "sub", d, 0.5 * width);
  if (huber) line = with_number(c, "mul", line, width);
  return pick(c, with_number(c, "lt", d, width), square, line);
}

static value *clamped_log(lower_call *c, value *x) { return with_number(c, "maximum", unary(c, "log", x), -100); }

static value *one_minus(lower_call *c, value *x) {
  return x ? binary(c, "sub", lowering_scalar_like(&c->b, x, 1), x) : NULL;
}

/* -(w y log sigmoid(x) + (1 - y) log(1 - sigmoid(x))), by softplus so that nothing overflows. */
static value *logistic(lower_call *c, value *x, value *y) {
  const named_attr options[] = {A_FLOAT("beta", 1), A_FLOAT("threshold", 40)};
  value *above = build(&c->b, "softplus", 1, &x, 2, options);
  value *negative = unary(c, "neg", x);
  value *below = build(&c->b, "softplus", 1, &negative, 2, options);
  value *first = binary(c, "mul", y, below);
  if (!call_is_none(c, "pos_weight")) first = operand(c, "mul", first, call_tensor(c, "pos_weight"));
  return binary(c, "add", first, binary(c, "mul", one_minus(c, y), above));
}

static value *divergence(lower_call *c, value *x, value *y) {
  if (call_bool(c, "log_target")) return binary(c, "mul", unary(c, "exp", y), binary(c, "sub", y, x));
  value *term = binary(c, "mul", y, binary(c, "sub", unary(c, "log", y), x));
  return y ? pick(c, with_number(c, "gt", y, 0), term, lowering_scalar_like(&c->b, y, 0)) : NULL;
}

static value *elementwise_loss(lower_call *c, const char *name, value *x, value *y) {
  if (str_eq(name, "aten::mse_loss")) {
    value *d = binary(c, "sub", x, y);
    return d ? binary(c, "mul", d, d) : NULL;
  }
  if (str_eq(name, "aten::l1_loss")) return unary(c, "abs", binary(c, "sub", x, y));
  if (str_eq(name, "aten::smooth_l1_loss"))
    return rounded(c, unary(c, "abs", binary(c, "sub", x, y)), call_float(c, "beta"), false);
  if (str_eq(name, "aten::huber_loss"))
    return rounded(c, unary(c, "abs", binary(c, "sub", x, y)), call_float(c, "delta"), true);
  if (str_eq(name, "aten::kl_div")) return divergence(c, x, y);
  if (str_eq(name, "aten::binary_cross_entropy_with_logits")) return logistic(c, x, y);
  value *yes = binary(c, "mul", y, clamped_log(c, x)),
        *no = binary(c, "mul", one_minus(c, y), clamped_log(c, one_minus(c, x)));
  return unary(c, "neg", binary(c, "add", yes, no));
}

kiln_status lower_elementwise_loss(lower_call *c) {
  value *x, *y;
  KILN_TRY(need(c, "self", &x));
  KILN_TRY(need(c, "target", &y));
  lower_promote(&c->b, &x, false, &y, false);
  value *loss = elementwise_loss(c, c->schema->name, x, y);
  if (str_starts(c->schema->name, "aten::binary") && !call_is_none(c, "weight"))
    loss = operand(c, "mul", loss, call_tensor(c, "weight"));
  call_return(c, 0, reduced(c, loss));
  return KILN_OK;
}

/* x times the weight of each class, if there are weights. */
static value *weighted(lower_call *c, value *x, int axis) {
  dim shape[KILN_MAX_RANK];
  if (!x || call_is_none(c, "weight")) return x;
  for (int i = 0; i < x->type.rank; i++) shape[i] = i == axis ? x->type.dims[i] : 1;
  return operand(c, "mul", x, lower_reshape(&c->b, call_tensor(c, "weight"), x->type.rank, shape));
}

/* -w[t] logp[..., t, ...] with classes at axis 1 (or 0 of a vector); ignored targets count for nothing, also in the
 * mean. */
static kiln_status negative_log_likelihood(lower_call *c, value *logp, value *target, double smoothing) {
  builder *b = &c->b;
  const int axis = logp->type.rank == 1 ? 0 : 1;
  target = lower_cast(b, target, KILN_I64);
  value *keep = with_number(c, "ne", target, (double)call_int(c, "ignore_index"));
  if (!keep) return LOWER_FAIL(c, "target");
  value *safe = pick(c, keep, target, lowering_scalar_like(b, target, 0));
  value *taken = build(b, "gather", IN(logp, lowering_unsqueeze(b, safe, axis)), ATTRS(A_INT("axis", axis)));
  value *weights = lower_cast(b, keep, logp->type.dtype);
  if (!call_is_none(c, "weight")) {
    const dim flat = type_numel(b->graph, &safe->type);
    value *w = build(b, "index_select", IN(call_tensor(c, "weight"), lower_reshape(b, safe, 1, &flat)),
                     ATTRS(A_INT("axis", 0)));
    weights = binary(c, "mul", weights, lower_reshape(b, w, safe->type.rank, safe->type.dims));
  }
  value *loss = unary(c, "neg", binary(c, "mul", taken ? lowering_squeeze(b, taken, axis) : NULL, weights));
  if (smoothing != 0 && loss) { /* a part of all classes alike */
    value *others = reduce(c, "sum", weighted(c, logp, axis), axis), *zero = lowering_scalar_like(b, loss, 0);
    others = pick(c, keep, with_number(c, "mul", others, -smoothing / (double)logp->type.dims[axis]), zero);
    loss = binary(c, "add", with_number(c, "mul", loss, 1 - smoothing), others);
  }
  if (call_int(c, "reduction") == REDUCE_MEAN)
    loss = binary(c, "div", reduce(c, "sum", loss, -1), reduce(c, "sum", weights, -1));
  else
    loss = reduced(c, loss);
  call_return(c, 0, loss);
  return KILN_OK;
}

kiln_status lower_nll_loss(lower_call *c) {
  value *x, *y;
  KILN_TRY(need(c, "self", &x));
  KILN_TRY(need(c, "target", &y));
  if (x->type.rank == 0 || y->type.rank != x->type.rank - 1)
    return LOWER_FAIL(c, "expected a target with one dimension less than the input");
  return negative_log_likelihood(c, x, y, 0);
}

kiln_status lower_cross_entropy_loss(lower_call *c) {
  value *x, *y;
  KILN_TRY(need(c, "self", &x));
  KILN_TRY(need(c, "target", &y));
  const int axis = x->type.rank == 1 ? 0 : 1;
  if (x->type.rank == 0) return LOWER_FAIL(c, "expected an input with dimensions");
  const double smoothing = call_float(c, "label_smoothing");
  if (smoothing != 0 && !dim_is_const(x->type.dims[axis]))
    return LOWER_FAIL(c, "label_smoothing needs a fixed number of classes");
  value *logp = build(&c->b, "log_softmax", IN(x), ATTRS(A_INT("axis", axis)));
  if (!dtype_is_float(y->type.dtype)) {
    return logp ? negative_log_likelihood(c, logp, y, smoothing) : LOWER_FAIL(c, "input");
  }
  if (smoothing != 0)
    y = with_number(c, "add", with_number(c, "mul", y, 1 - smoothing), smoothing / (double)x->type.dims[axis]);
  value *loss = unary(c, "neg", reduce(c, "sum", weighted(c, operand(c, "mul", logp, y), axis), axis));
  const dim reduction = call_int(c, "reduction"); /* the mean is over samples */
  call_return(c, 0,
              reduction == REDUCE_NONE || !loss || loss->type.rank == 0
                  ? loss
                  : reduce(c, reduction == REDUCE_SUM ? "sum" : "mean", loss, -1));
  return KILN_OK;
}

/* ---- searching ---------------------------------------------------------------------------------- */

/* How many boundaries lie before each value: counted, which suits the few boundaries that models have. */
kiln_status lower_search(lower_call *c) {
  value *bounds, *x;
  const bool buckets = str_eq(c->schema->name, "aten::bucketize");
  KILN_TRY(need(c, buckets ? "boundaries" : "sorted_sequence", &bounds));
  KILN_TRY(need(c, "self", &x));
  bool right = call_bool(c, "right");
  if (!buckets) {
    if (!call_is_none(c, "sorter") && bounds->type.rank > 0)
      bounds =
          build(&c->b, "gather", IN(bounds, call_tensor(c, "sorter")), ATTRS(A_INT("axis", bounds->type.rank - 1)));
    LOWER_NEED(c, bounds);
    if (str_eq(call_str(c, "side"), "right")) right = true;
  }
  const int rank = bounds->type.rank;
  if (rank == 0 || x->type.rank >= KILN_MAX_RANK || (rank > 1 && rank != x->type.rank))
    return LOWER_FAIL(c, "expected a vector of boundaries, or one for each vector of values");
  if (rank > 1) bounds = lowering_unsqueeze(&c->b, bounds, rank - 1);
  value *wide = lowering_unsqueeze(&c->b, x, x->type.rank);
  lower_promote(&c->b, &bounds, false, &wide, false);
  value *before = lower_cast(&c->b, binary(c, right ? "le" : "lt", bounds, wide), KILN_I64);
  value *count = before ? reduce(c, "sum", before, before->type.rank - 1) : NULL;
  call_return(c, 0, lower_cast(&c->b, count, call_bool(c, "out_int32") ? KILN_I32 : KILN_I64));
  return KILN_OK;
}

kiln_status lower_is_in(lower_call *c) {
  value *x;
  const bool number = str_eq(c->schema->overload, "Tensor_Scalar");
  value *set = call_tensor(c, number ? "test_element" : "test_elements");
  KILN_TRY(need(c, "elements", &x));
  if (!set || x->type.rank >= KILN_MAX_RANK) return LOWER_FAIL(c, "expected elements to look for");
  const dim flat = type_numel(c->b.graph, &set->type);
  value *wide = lowering_unsqueeze(&c->b, x, x->type.rank), *list = lower_reshape(&c->b, set, 1, &flat);
  lower_promote(&c->b, &wide, false, &list, number);
  value *equal = binary(c, "eq", wide, list);
  value *any = equal ? reduce(c, "any", equal, equal->type.rank - 1) : NULL;
  call_return(c, 0, call_bool(c, "invert") ? unary(c, "logical_not", any) : any);
  return KILN_OK;
}

/* Where the median stands in sorted order, of which NaN is the end: the lower of the two middle ones, as PyTorch chooses, or the first NaN; of
 * nanmedian in front of the NaNs. */
static value *median_place(lower_call *c, value *x, int axis) {
  builder *b = &c->b;
  const dim size = x->type.dims[axis];
  const int64_t axes = axis;
  value *bad = lower_cast(b, unary(c, "isnan", x), KILN_I64);
  value *count = build(b, "sum", IN(bad), ATTRS(A_INTS("axes", &axes, 1), A_BOOL("keepdim", true)));
  value *left = binary(c, "sub", lower_size_tensor(b, size), count), *one = graph_scalar_int(b->graph, KILN_I64, 1);
  value *two = graph_scalar_int(b->graph, KILN_I64, 2), *zero = graph_scalar_int(b->graph, KILN_I64, 0);
  if (str_eq(c->schema->name, "aten::nanmedian"))
    return binary(c, "maximum", binary(c, "floor_div", binary(c, "sub", left, one), two), zero);
  value *middle = lower_size_tensor(b, dim_floordiv(b->graph->dims, dim_sub(b->graph->dims, size, 1), 2));
  return build(b, "where", IN(binary(c, "gt", count, zero), left, middle), NO_ATTRS);
}

kiln_status lower_median(lower_call *c) {
  builder *b = &c->b;
  value *x, *place = NULL;
  int axis = 0;
  const bool all = str_eq(c->schema->overload, "");
  KILN_TRY(need(c, "self", &x));
  if (all) {
    const dim flat = type_numel(b->graph, &x->type);
    x = lower_reshape(b, x, 1, &flat);
  } else {
    KILN_TRY(lowering_axis(c, "dim", x->type.rank, &axis));
  }
  const bool scalar = x && x->type.rank == 0;
  if (scalar) x = lowering_unsqueeze(b, x, 0);
  node *sorted = x ? build_node(b, "sort", IN(x), ATTRS(A_INT("axis", axis))) : NULL;
  if (!sorted) return LOWER_FAIL(c, "cannot sort");
  if (dtype_is_float(x->type.dtype)) place = median_place(c, x, axis);
  const dim middle = dim_floordiv(b->graph->dims, dim_sub(b->graph->dims, x->type.dims[axis], 1), 2);
  for (int i = 0; i < c->n_results; i++) {
    value *v = place ? build(b, "gather", IN(sorted->outputs[i], place), ATTRS(A_INT("axis", axis)))
                     : lowering_select(b, sorted->outputs[i], axis, middle);
    const bool keep = !all && !scalar && call_bool(c, "keepdim");
    if (place && v && !keep) v = lowering_squeeze(b, v, axis);
    call_return(c, i, v && !place && keep ? lowering_unsqueeze(b, v, axis) : v);
  }
  return KILN_OK;
}

/* ---- products ----------------------------------------------------------------------------------- */

kiln_status lower_kron(lower_call *c) {
  value *v[2];
  dim spread[2][KILN_MAX_RANK], dims[KILN_MAX_RANK];
  KILN_TRY(need(c, "self", &v[0]));
  KILN_TRY(need(c, "other", &v[1]));
  const int rank = v[0]->type.rank > v[1]->type.rank ? v[0]->type.rank : v[1]->type.rank;
  if (2 * rank > KILN_MAX_RANK) return LOWER_FAIL(c, "more than %d dimensions", KILN_MAX_RANK / 2);
  for (int k = 0; k < 2; k++) {
    for (int i = 0; i < rank; i++) {
      const int from = i - (rank - v[k]->type.rank);
      spread[k][2 * i + k] = from < 0 ? 1 : v[k]->type.dims[from];
      spread[k][2 * i + 1 - k] = 1;
    }
  }
  for (int i = 0; i < rank; i++) dims[i] = dim_mul(c->b.graph->dims, spread[0][2 * i], spread[1][2 * i + 1]);
  value *x = lower_reshape(&c->b, v[0], 2 * rank, spread[0]), *y = lower_reshape(&c->b, v[1], 2 * rank, spread[1]);
  lower_promote(&c->b, &x, false, &y, false);
  call_return(c, 0, lower_reshape(&c->b, binary(c, "mul", x, y), rank, dims));
  return KILN_OK;
}

kiln_status lower_dist(lower_call *c) {
  value *x, *y;
  int64_t axes[KILN_MAX_RANK];
  KILN_TRY(need(c, "self", &x));
  KILN_TRY(need(c, "other", &y));
  value *d = operand(c, "sub", x, y);
  for (int i = 0; i < KILN_MAX_RANK; i++) axes[i] = i;
  call_return(
      c, 0,
      d ? build(&c->b, "norm", IN(d), ATTRS(A_FLOAT("p", call_float(c, "p")), A_INTS("axes", axes, d->type.rank)))
        : NULL);
  return KILN_OK;
}

kiln_status lower_ldexp(lower_call *c) {
  value *x, *e;
  KILN_TRY(need(c, "self", &x));
  KILN_TRY(need(c, "other", &e));
  value *power = unary(c, "exp2", lowering_float(&c->b, e));
  call_return(c, 0, operand(c, "mul", x, power));
  return KILN_OK;
}

kiln_status lower_cross(lower_call *c) {
  value *x, *y, *turned[2][2];
  int axis;
  KILN_TRY(need(c, "self", &x));
  KILN_TRY(need(c, "other", &y));
  lower_promote(&c->b, &x, false, &y, false);
  if (x->type.rank != y->type.rank) return LOWER_FAIL(c, "operands of different ranks");
  KILN_TRY(lowering_axis(c, "dim", x->type.rank, &axis));
  const int64_t axes = axis;
  for (int k = 0; k < 2; k++) { /* roll by -1 and -2 */
    const int64_t shift = -1 - k;
    turned[0][k] = build(&c->b, "roll", IN(x), ATTRS(A_INTS("shifts", &shift, 1), A_INTS("axes", &axes, 1)));
    turned[1][k] = build(&c->b, "roll", IN(y), ATTRS(A_INTS("shifts", &shift, 1), A_INTS("axes", &axes, 1)));
  }
  call_return(
      c, 0,
      binary(c, "sub", binary(c, "mul", turned[0][0], turned[1][1]), binary(c, "mul", turned[0][1], turned[1][0])));
  return KILN_OK;
}

kiln_status lower_multi_dot(lower_call *c) {
  value *v[32];
  const int n = call_tensors(c, "tensors", v, (int)KILN_COUNT(v));
  if (n < 2) return LOWER_FAIL(c, "expected 2 to %d matrices", (int)KILN_COUNT(v));
  value *product = v[0];
  for (int i = 0; i < n; i++)
    if (!v[i] || v[i]->type.rank != 2) return LOWER_FAIL(c, "argument tensors: only matrices are supported");
  for (int i = 1; i < n; i++) product = binary(c, "matmul", product, v[i]);
  call_return(c, 0, product);
  return KILN_OK;
}

/* v scaled so that its slices along `dim` have norm g (torch.nn.utils.weight_norm). */
kiln_status lower_weight_norm(lower_call *c) {
  value *v, *g;
  int64_t axes[KILN_MAX_RANK];
  int count = 0;
  KILN_TRY(need(c, "v", &v));
  KILN_TRY(need(c, "g", &g));
  const dim kept = call_int(c, "dim");
  for (int i = 0; i < v->type.rank; i++)
    if (i != kept) axes[count++] = i;
  value *norm = build(&c->b, "norm", IN(v), ATTRS(A_FLOAT("p", 2), A_INTS("axes", axes, count), A_BOOL("keepdim", 1)));
  call_return(c, 0, binary(c, "mul", v, binary(c, "div", g, norm)));
  if (c->n_results > 1) call_return(c, 1, norm);
  return KILN_OK;
}

/* ---- windows ------------------------------------------------------------------------------------ */

kiln_status lower_window(lower_call *c) {
  const double pi = 3.14159265358979323846;
  const dim n = call_int(c, "window_length");
  const bool periodic = str_eq(c->schema->overload, "") || call_bool(c, "periodic");
  kiln_dtype dtype;
  KILN_TRY(lowering_dtype(c, "dtype", KILN_F32, &dtype));
  if (!dim_is_const(n) || n < 1 || n > 1 << 24) return LOWER_FAIL(c, "expected a constant length of at least 1");
  const tensor_type type = type_of(dtype, 1, &n);
  tensor t = {.data = mem_alloc_aligned((size_t)n * kiln_dtype_size(dtype)), .dtype = dtype};
  if (!t.data) return KILN_NO_MEMORY("window");
  for (int64_t i = 0; i < n; i++) {
    const double angle = n == 1 ? 0 : 2 * pi * (double)i / (double)(periodic ? n : n - 1);
    double w = 0.5 - 0.5 * cos(angle);
    if (str_eq(c->schema->name, "aten::hamming_window")) w = 0.54 - 0.46 * cos(angle);
    if (str_eq(c->schema->name, "aten::blackman_window")) w = 0.42 - 0.5 * cos(angle) + 0.08 * cos(2 * angle);
    ref_store(&t, i, n == 1 ? 1 : w);
  }
  call_return(c, 0, graph_constant_take(c->b.graph, &type, t.data));
  return KILN_OK;
}

/* ---- matrices ----------------------------------------------------------------------------------- */

/* exp(A) = exp(A / 2^s)^(2^s): a polynomial of degree 18 where the norm is at most 1, and s squarings, of which each matrix takes as many as
 * its norm asks for. */
kiln_status lower_matrix_exp(lower_call *c) {
  enum { DEGREE = 18, SQUARINGS = 24 };
  builder *b = &c->b;
  value *x;
  KILN_TRY(need(c, "self", &x));
  const kiln_dtype given = x->type.dtype;
  const int rank = x->type.rank;
  if (rank < 2 || !dtype_is_float(given)) return LOWER_FAIL(c, "expected matrices of floats");
  if (dim_compare_equal(b->graph->dims, x->type.dims[rank - 1], 0) != 0)
    return LOWER_FAIL(c, "expected matrices that have elements");
  if (given != KILN_F64) x = lower_cast(b, x, KILN_F32);
  const int64_t row = rank - 2, column = rank - 1;
  value *sums = build(b, "sum", IN(unary(c, "abs", x)), ATTRS(A_INTS("axes", &row, 1), A_BOOL("keepdim", true)));
  value *norm = sums ? build(b, "amax", IN(sums), ATTRS(A_INTS("axes", &column, 1), A_BOOL("keepdim", true))) : NULL;
  value *times = unary(c, "ceil", unary(c, "log2", norm));
  times = with_number(c, "minimum", with_number(c, "maximum", times, 0), SQUARINGS);
  if (!times) return LOWER_FAIL(c, "no result");
  value *small = binary(c, "mul", x, unary(c, "exp2", unary(c, "neg", times)));
  value *one = build(
      b, "eye", 0, NULL,
      ATTRS(A_INT("rows", x->type.dims[row]), A_INT("cols", x->type.dims[column]), A_DTYPE("dtype", x->type.dtype)));
  value *y = binary(c, "add", with_number(c, "mul", small, 1.0 / DEGREE), one);
  for (int k = DEGREE - 1; k > 0 && y; k--)
    y = binary(c, "add", with_number(c, "mul", build(b, "matmul", IN(small, y), NO_ATTRS), 1.0 / k), one);
  for (int k = 0; k < SQUARINGS && y; k++)
    y = pick(c, with_number(c, "gt", times, k), build(b, "matmul", IN(y, y), NO_ATTRS), y);
  call_return(c, 0, lower_cast(b, y, given));
  return KILN_OK;
}

/* ---- histograms --------------------------------------------------------------------------------- */

/* Edges of equal parts of a range: as given, or that of the data, one wider where they are all the same. */
static kiln_status histogram_edges(lower_call *c, value *x, value **out) {
  builder *b = &c->b;
  const ivalue *range = call_arg(c, "range");
  const dim bins = call_int(c, "bins");
  value *low, *high;
  if (!dim_is_const(bins) || bins < 1 || bins > 1 << 20) return LOWER_FAIL(c, "argument bins must be 1 to 2^20");
  if (range->kind == IV_LIST && range->count == 2) {
    double ends[2];
    for (int i = 0; i < 2; i++)
      ends[i] = range->u.items[i].kind == IV_FLOAT ? range->u.items[i].u.f : (double)range->u.items[i].u.i;
    if (!(ends[0] <= ends[1])) return LOWER_FAIL(c, "argument range has its ends in the wrong order");
    low = lowering_scalar_like(b, x, ends[0] < ends[1] ? ends[0] : ends[0] - 0.5);
    high = lowering_scalar_like(b, x, ends[0] < ends[1] ? ends[1] : ends[1] + 0.5);
  } else {
    low = reduce(c, "amin", x, -1);
    high = reduce(c, "amax", x, -1);
    value *same = low && high ? binary(c, "eq", low, high) : NULL;
    value *lower = with_number(c, "sub", low, 0.5), *higher = with_number(c, "add", high, 0.5);
    low = pick(c, same, lower, low);
    high = pick(c, same, higher, high);
  }
  if (!low || !high) return LOWER_FAIL(c, "no range");
  value *step = with_number(c, "div", binary(c, "sub", high, low), (double)bins);
  value *up =
      build(b, "arange", 0, NULL,
            ATTRS(A_FLOAT("start", 0), A_FLOAT("step", 1), A_INT("count", bins + 1), A_DTYPE("dtype", KILN_I64)));
  up = lower_cast(b, up, x->type.dtype);
  value *down = with_number(c, "add", unary(c, "neg", up), (double)bins);
  value *first = binary(c, "add", low, binary(c, "mul", up, step)),
        *second = binary(c, "sub", high, binary(c, "mul", down, step));
  *out = pick(c, with_number(c, "lt", up, (double)(bins + 1) / 2), first, second);
  return *out ? KILN_OK : LOWER_FAIL(c, "no edges");
}

/* The bin of each element is the number of edges that are not above it; the last edge belongs to the last bin. */
kiln_status lower_histogram(lower_call *c) {
  builder *b = &c->b;
  value *x, *edges = NULL, *weight = call_tensor(c, "weight");
  KILN_TRY(need(c, "self", &x));
  if (!dtype_is_float(x->type.dtype)) return LOWER_FAIL(c, "expected floats");
  const dim n = type_numel(b->graph, &x->type);
  x = lower_reshape(b, x, 1, &n);
  if (str_eq(c->schema->overload, "bins_tensor"))
    KILN_TRY(need(c, "bins", &edges));
  else
    KILN_TRY(histogram_edges(c, x, &edges));
  if (!x || !edges || edges->type.rank != 1 || edges->type.dtype != x->type.dtype ||
      !dim_is_const(edges->type.dims[0]) || edges->type.dims[0] < 2)
    return LOWER_FAIL(c, "expected at least two edges of the data's type");
  const dim bins = edges->type.dims[0] - 1;
  value *wide = lowering_unsqueeze(b, x, 1), *low = lowering_select(b, edges, 0, 0),
        *high = lowering_select(b, edges, 0, bins);
  value *below = reduce(c, "sum", lower_cast(b, binary(c, "le", edges, wide), KILN_I64), 1);
  value *place =
      with_number(c, "minimum", with_number(c, "maximum", with_number(c, "sub", below, 1), 0), (double)bins - 1);
  value *inside = binary(c, "logical_and", binary(c, "ge", x, low), binary(c, "le", x, high));
  value *each = inside ? lower_cast(b, inside, x->type.dtype) : NULL;
  if (weight) each = pick(c, inside, lower_reshape(b, weight, 1, &n), lowering_scalar_like(b, x, 0));
  value *counts = build(b, "scatter", IN(lowering_full(b, x->type.dtype, 1, &bins, 0), place, each),
                        ATTRS(A_INT("axis", 0), A_STR("reduce", "add"), A_BOOL("include_self", true)));
  if (call_bool(c, "density") && counts) {
    value *widths =
        binary(c, "sub", lowering_slice(b, edges, 0, 1, bins + 1, 1), lowering_slice(b, edges, 0, 0, bins, 1));
    counts = binary(c, "div", binary(c, "div", counts, reduce(c, "sum", counts, -1)), widths);
  }
  call_return(c, 0, counts);
  call_return(c, 1, edges);
  return KILN_OK;
}

/* ---- multilabel_margin_loss --------------------------------------------------------------------- */

/* Targets stand before the first -1 of a row: sums of relu(1 - x[target] + x[i]) over the i that are no targets. */
kiln_status lower_multilabel_margin_loss(lower_call *c) {
  builder *b = &c->b;
  value *x, *target;
  KILN_TRY(need(c, "self", &x));
  KILN_TRY(need(c, "target", &target));
  const tensor_type given = x->type;
  if (given.rank > 2 || target->type.rank != given.rank) return LOWER_FAIL(c, "expected at most two axes");
  if (given.rank < 2) {
    const dim one_row[2] = {1, type_numel(b->graph, &given)};
    x = lower_reshape(b, x, 2, one_row);
    target = lower_reshape(b, target, 2, one_row);
  }
  if (!x || !target) return LOWER_FAIL(c, "no result");
  const dim classes = x->type.dims[1];
  value *valid =
      build(b, "cumprod", IN(lower_cast(b, with_number(c, "ge", target, 0), KILN_I64)), ATTRS(A_INT("axis", 1)));
  value *index = with_number(c, "maximum", target, 0), *is_valid = with_number(c, "ne", valid, 0);
  value *each = lowering_iota(b, classes);
  value *hit = binary(c, "eq", lowering_unsqueeze(b, target, 2), each);
  value *is_target = reduce(c, "any", binary(c, "logical_and", hit, lowering_unsqueeze(b, is_valid, 2)), 1);
  value *wanted = build(b, "gather", IN(x, index), ATTRS(A_INT("axis", 1)));
  value *margin =
      with_number(c, "add", binary(c, "sub", lowering_unsqueeze(b, x, 1), lowering_unsqueeze(b, wanted, 2)), 1);
  value *counted = binary(c, "logical_and", lowering_unsqueeze(b, is_valid, 2),
                          lowering_unsqueeze(b, unary(c, "logical_not", is_target), 1));
  value *losses = pick(c, counted, unary(c, "relu", margin), lowering_scalar_like(b, x, 0));
  losses = reduce(c, "sum", reduce(c, "sum", losses, 2), 1);
  value *count = lower_cast(b, lower_size_tensor(b, classes), given.dtype);
  losses = losses && count ? binary(c, "div", losses, count) : NULL;
  const dim reduction = call_int(c, "reduction");
  if (reduction) losses = reduce(c, reduction == 1 ? "mean" : "sum", losses, -1);
  if (losses && !reduction && given.rank < 2) losses = lowering_squeeze(b, losses, 0);
  call_return(c, 0, losses);
  call_return(c, 1, lower_reshape(b, lower_cast(b, is_target, given.dtype), given.rank, given.dims));
  return KILN_OK;
}
