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

/* The lower of the two middle ones, as PyTorch chooses. */
kiln_status lower_median(lower_call *c) {
  builder *b = &c->b;
  value *x;
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
  const dim middle = dim_floordiv(b->graph->dims, dim_sub(b->graph->dims, x->type.dims[axis], 1), 2);
  for (int i = 0; i < c->n_results; i++) {
    value *v = lowering_select(b, sorted->outputs[i], axis, middle);
    call_return(c, i, v && !all && !scalar && call_bool(c, "keepdim") ? lowering_unsqueeze(b, v, axis) : v);
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
