/* Reductions over axes. The reference accumulates in double, or in int64 for integers and bool. */
#include <math.h>
#include <string.h>

#include "ops/einsum.h"
#include "ops/infer.h"
#include "ops/linalg_lower.h"
#include "ops/lowering.h"
#include "ops/op.h"
#include "ops/ref.h"

/* ---- inference --------------------------------------------------------------------------------------------------- */

static kiln_status infer_reduced(node *n, int output, uint32_t mask, kiln_dtype dtype) {
  const tensor_type *in = in_type(n, 0);
  const bool keep = node_bool(n, "keepdim");
  dim dims[KILN_MAX_RANK];
  int rank = 0;
  for (int i = 0; i < in->rank; i++) {
    if (!(mask >> i & 1)) {
      dims[rank++] = in->dims[i];
    } else if (keep) {
      dims[rank++] = 1;
    }
  }
  set_out(n, output, dtype, rank, dims);
  return KILN_OK;
}

static kiln_status infer_axes_mask(const node *n, uint32_t *out) {
  const attr *axes = node_attr(n, "axes");
  const int rank = in_type(n, 0)->rank;
  *out = 0;
  for (int i = 0; i < axes->count; i++) {
    const int64_t axis = axes->u.ints[i];
    if (axis < 0 || axis >= rank)
      return INFER_FAIL(n, "axes[%d] is %lld, expected 0 to %d", i, (long long)axis, rank - 1);
    if (*out >> axis & 1) return INFER_FAIL(n, "axis %lld appears twice", (long long)axis);
    *out |= 1u << axis;
  }
  return KILN_OK;
}

static kiln_status infer_reduce(graph *g, node *n) {
  (void)g;
  uint32_t mask = 0;
  KILN_TRY(infer_axes_mask(n, &mask));
  return infer_reduced(n, 0, mask, in_type(n, 0)->dtype);
}

static kiln_status infer_reduce_float(graph *g, node *n) {
  KILN_TRY(infer_float(n, 0));
  return infer_reduce(g, n);
}

static kiln_status infer_reduce_bool(graph *g, node *n) {
  (void)g;
  uint32_t mask = 0;
  KILN_TRY(infer_axes_mask(n, &mask));
  return infer_reduced(n, 0, mask, KILN_BOOL);
}

static kiln_status infer_one_axis(const node *n, uint32_t *mask) {
  const int64_t axis = node_int(n, "axis");
  const int rank = in_type(n, 0)->rank;
  if (axis < 0 || axis >= (rank ? rank : 1))
    return INFER_FAIL(n, "axis is %lld, expected 0 to %d", (long long)axis, rank ? rank - 1 : 0);
  *mask = rank ? 1u << axis : 0;
  return KILN_OK;
}

static kiln_status infer_arg(graph *g, node *n) {
  (void)g;
  uint32_t mask = 0;
  KILN_TRY(infer_one_axis(n, &mask));
  return infer_reduced(n, 0, mask, KILN_I64);
}

static kiln_status infer_max_index(graph *g, node *n) {
  (void)g;
  uint32_t mask = 0;
  KILN_TRY(infer_one_axis(n, &mask));
  KILN_TRY(infer_reduced(n, 0, mask, in_type(n, 0)->dtype));
  return infer_reduced(n, 1, mask, KILN_I64);
}

/* ---- reference --------------------------------------------------------------------------------------------------- */

/* The axes of a tensor in two groups: those kept and those reduced, with the strides of the input in each, and the
 * strides that the kept ones have in an output. */
typedef struct split {
  int kept, reduced;
  int64_t kept_shape[KILN_MAX_RANK], kept_strides[KILN_MAX_RANK], kept_axes[KILN_MAX_RANK];
  int64_t shape[KILN_MAX_RANK], strides[KILN_MAX_RANK];
} split;

static split split_axes(const tensor *in, uint32_t mask) {
  split s = {0};
  for (int i = 0; i < in->rank; i++) {
    if (mask >> i & 1) {
      s.shape[s.reduced] = in->shape[i];
      s.strides[s.reduced++] = in->strides[i];
    } else {
      s.kept_axes[s.kept] = i;
      s.kept_shape[s.kept] = in->shape[i];
      s.kept_strides[s.kept++] = in->strides[i];
    }
  }
  return s;
}

static int64_t along(const ref_iter *it, const int64_t *strides) {
  int64_t at = 0;
  for (int i = 0; i < it->rank; i++) at += it->index[i] * strides[i];
  return at;
}

/* Where the output element of kept index `it` lies; the output may or may not have the reduced axes as ones. */
static int64_t out_offset(const split *s, const ref_iter *it, const tensor *out) {
  int64_t at = 0;
  const bool keep = out->rank != s->kept;
  for (int i = 0; i < s->kept; i++) at += it->index[i] * out->strides[keep ? s->kept_axes[i] : i];
  return at;
}

static uint32_t axes_mask(const kernel_args *a) {
  const attr *axes = arg_attr(a, "axes");
  uint32_t mask = 0;
  for (int i = 0; i < axes->count; i++) mask |= 1u << axes->u.ints[i];
  return mask;
}

typedef enum kind { SUM, MEAN, PROD, AMAX, AMIN, ANY, ALL } kind;

static double reduce_float(kind k, const tensor *in, int64_t base, const split *s) {
  double r = k == PROD || k == ALL ? 1 : 0;
  for (ref_iter it = ref_begin(s->reduced, s->shape); ref_valid(&it); ref_next(&it)) {
    const double x = ref_load(in, base + along(&it, s->strides));
    switch (k) {
      case SUM:
      case MEAN:
        r += x;
        break;
      case PROD:
        r *= x;
        break;
      case AMAX:
        r = it.linear == 0 || x > r || x != x ? (r != r ? r : x) : r;
        break;
      case AMIN:
        r = it.linear == 0 || x < r || x != x ? (r != r ? r : x) : r;
        break;
      case ANY:
        r = r != 0 || x != 0;
        break;
      case ALL:
        r = r != 0 && x != 0;
        break;
    }
  }
  if (k != MEAN) return r;
  return r / (double)ref_begin(s->reduced, s->shape).count;
}

static int64_t reduce_int(kind k, const tensor *in, int64_t base, const split *s) {
  uint64_t sum = 0, product = 1;
  int64_t max = INT64_MIN, min = INT64_MAX;
  for (ref_iter it = ref_begin(s->reduced, s->shape); ref_valid(&it); ref_next(&it)) {
    const int64_t x = ref_load_int(in, base + along(&it, s->strides));
    sum += (uint64_t)x;
    product *= (uint64_t)x;
    if (x > max) max = x;
    if (x < min) min = x;
  }
  return k == SUM ? (int64_t)sum : k == PROD ? (int64_t)product : k == AMAX ? max : min;
}

static kiln_status reduce(const kernel_args *a, kind k) {
  const tensor *in = &a->in[0], *out = &a->out[0];
  const split s = split_axes(in, axes_mask(a));
  if ((k == AMAX || k == AMIN) && ref_begin(s.reduced, s.shape).count == 0 && tensor_numel(out) > 0) {
    return KILN_FAIL(KILN_INVALID_ARGUMENT, "%s: nothing to take the extreme of (an axis has size 0)",
                     a->node->op->name);
  }
  const bool integer = !dtype_is_float(in->dtype) && k != ANY && k != ALL;
  for (ref_iter it = ref_begin(s.kept, s.kept_shape); ref_valid(&it); ref_next(&it)) {
    const int64_t base = along(&it, s.kept_strides), to = out_offset(&s, &it, out);
    if (integer) {
      ref_store_int(out, to, reduce_int(k, in, base, &s));
    } else {
      ref_store(out, to, reduce_float(k, in, base, &s));
    }
  }
  return KILN_OK;
}
static kiln_status sum_ref(const kernel_args *a) { return reduce(a, SUM); }
static kiln_status mean_ref(const kernel_args *a) { return reduce(a, MEAN); }
static kiln_status prod_ref(const kernel_args *a) { return reduce(a, PROD); }
static kiln_status amax_ref(const kernel_args *a) { return reduce(a, AMAX); }
static kiln_status amin_ref(const kernel_args *a) { return reduce(a, AMIN); }
static kiln_status any_ref(const kernel_args *a) { return reduce(a, ANY); }
static kiln_status all_ref(const kernel_args *a) { return reduce(a, ALL); }

/* Two passes: the mean, then the squares of the distances to it. */
static kiln_status var_ref(const kernel_args *a) {
  const tensor *in = &a->in[0], *out = &a->out[0];
  const split s = split_axes(in, axes_mask(a));
  const double correction = arg_float(a, "correction");
  for (ref_iter it = ref_begin(s.kept, s.kept_shape); ref_valid(&it); ref_next(&it)) {
    const int64_t base = along(&it, s.kept_strides);
    const double mean = reduce_float(MEAN, in, base, &s);
    double sum = 0;
    ref_iter r = ref_begin(s.reduced, s.shape);
    for (; ref_valid(&r); ref_next(&r)) {
      const double d = ref_load(in, base + along(&r, s.strides)) - mean;
      sum += d * d;
    }
    ref_store(out, out_offset(&s, &it, out), sum / fmax(0, (double)r.count - correction));
  }
  return KILN_OK;
}

static double norm(const tensor *in, int64_t base, const split *s, double p) {
  double r = p == -(double)INFINITY ? (double)INFINITY : 0;
  for (ref_iter it = ref_begin(s->reduced, s->shape); ref_valid(&it); ref_next(&it)) {
    const double x = fabs(ref_load(in, base + along(&it, s->strides)));
    if (p == (double)INFINITY) {
      r = x > r || x != x ? x : r;
    } else if (p == -(double)INFINITY) {
      r = x < r || x != x ? x : r;
    } else {
      r += p == 0 ? (double)(x != 0) : p == 1 ? x : p == 2 ? x * x : pow(x, p);
    }
  }
  return isinf(p) || p == 0 || p == 1 ? r : p == 2 ? sqrt(r) : pow(r, 1 / p);
}

static kiln_status norm_ref(const kernel_args *a) {
  const tensor *in = &a->in[0], *out = &a->out[0];
  const split s = split_axes(in, axes_mask(a));
  const double p = arg_float(a, "p");
  for (ref_iter it = ref_begin(s.kept, s.kept_shape); ref_valid(&it); ref_next(&it)) {
    ref_store(out, out_offset(&s, &it, out), norm(in, along(&it, s.kept_strides), &s, p));
  }
  return KILN_OK;
}

/* Place of the first largest (smallest) element along the axis; the first NaN if there is one. */
static int64_t find_extreme(const tensor *in, int64_t base, int64_t size, int64_t stride, bool largest) {
  int64_t best = 0;
  if (!dtype_is_float(in->dtype)) {
    for (int64_t i = 1; i < size; i++) {
      const int64_t x = ref_load_int(in, base + i * stride), y = ref_load_int(in, base + best * stride);
      if (largest ? x > y : x < y) best = i;
    }
    return best;
  }
  for (int64_t i = 1; i < size; i++) {
    const double x = ref_load(in, base + i * stride), y = ref_load(in, base + best * stride);
    if (y != y) break;
    if (x != x || (largest ? x > y : x < y)) best = i;
  }
  return best;
}

static kiln_status extreme(const kernel_args *a, bool largest, const tensor *values, const tensor *indices) {
  const tensor *in = &a->in[0];
  const int64_t axis = arg_int(a, "axis");
  const int64_t size = in->rank ? in->shape[axis] : 1, stride = in->rank ? in->strides[axis] : 0;
  const split s = split_axes(in, in->rank ? 1u << axis : 0);
  if (size == 0 && tensor_numel(indices) > 0) {
    return KILN_FAIL(KILN_INVALID_ARGUMENT, "%s: axis %lld has size 0", a->node->op->name, (long long)axis);
  }
  for (ref_iter it = ref_begin(s.kept, s.kept_shape); ref_valid(&it); ref_next(&it)) {
    const int64_t base = along(&it, s.kept_strides), best = find_extreme(in, base, size, stride, largest);
    ref_store_int(indices, out_offset(&s, &it, indices), best);
    if (values) ref_copy_element(in, base + best * stride, values, out_offset(&s, &it, values));
  }
  return KILN_OK;
}
static kiln_status argmax_ref(const kernel_args *a) { return extreme(a, true, NULL, &a->out[0]); }
static kiln_status argmin_ref(const kernel_args *a) { return extreme(a, false, NULL, &a->out[0]); }
static kiln_status max_index_ref(const kernel_args *a) { return extreme(a, true, &a->out[0], &a->out[1]); }
static kiln_status min_index_ref(const kernel_args *a) { return extreme(a, false, &a->out[0], &a->out[1]); }

/* ---- PyTorch ----------------------------------------------------------------------------------------------------- */

static const char *own_name(const lower_call *c) { return c->schema->op->name; }

static bool has_arg(const lower_call *c, const char *name) {
  for (int i = 0; i < c->schema->n_args; i++) {
    if (str_eq(c->schema->args[i].name, name)) return true;
  }
  return false;
}

/* What most calls have: a tensor, the axes (all if there is no such argument), keepdim. */
typedef struct reduction {
  value *x;
  int count;
  int64_t axes[KILN_MAX_RANK];
  bool keep;
} reduction;

static kiln_status reduction_of(lower_call *c, bool empty_is_all, reduction *r) {
  KILN_TRY(lowering_tensor(c, c->schema->args[0].name, &r->x));
  r->keep = has_arg(c, "keepdim") && call_bool(c, "keepdim");
  if (has_arg(c, "dim")) return lowering_axes(c, "dim", r->x->type.rank, empty_is_all, r->axes, &r->count);
  r->count = r->x->type.rank;
  for (int i = 0; i < r->count; i++) r->axes[i] = i;
  return KILN_OK;
}

static value *reduced(builder *b, const char *name, value *x, const reduction *r, bool keep) {
  return build(b, name, IN(x), ATTRS(A_INTS("axes", r->axes, r->count), A_BOOL("keepdim", keep)));
}

/* sum and prod: integers become i64 unless dtype says otherwise. */
static kiln_status lower_sum(lower_call *c) {
  reduction r;
  kiln_dtype dtype;
  KILN_TRY(reduction_of(c, true, &r));
  KILN_TRY(lowering_dtype(c, "dtype", dtype_is_float(r.x->type.dtype) ? r.x->type.dtype : KILN_I64, &dtype));
  call_return(c, 0, reduced(&c->b, own_name(c), lower_cast(&c->b, r.x, dtype), &r, r.keep));
  return KILN_OK;
}

static kiln_status lower_mean(lower_call *c) {
  reduction r;
  kiln_dtype dtype;
  KILN_TRY(reduction_of(c, true, &r));
  KILN_TRY(lowering_dtype(c, "dtype", r.x->type.dtype, &dtype));
  call_return(c, 0, reduced(&c->b, "mean", lower_cast(&c->b, r.x, dtype), &r, r.keep));
  return KILN_OK;
}

/* NaN counts as nothing. */
static kiln_status nan_sum(lower_call *c, bool mean) {
  reduction r;
  kiln_dtype dtype;
  builder *b = &c->b;
  KILN_TRY(reduction_of(c, true, &r));
  KILN_TRY(lowering_dtype(c, "dtype", dtype_is_float(r.x->type.dtype) ? r.x->type.dtype : KILN_I64, &dtype));
  value *x = lower_cast(b, r.x, dtype);
  if (!dtype_is_float(dtype)) {
    call_return(c, 0, reduced(b, "sum", x, &r, r.keep));
    return KILN_OK;
  }
  value *nan = build(b, "isnan", IN(x), NO_ATTRS);
  value *sum = reduced(b, "sum", build(b, "where", IN(nan, lowering_scalar_like(b, x, 0), x), NO_ATTRS), &r, r.keep);
  if (mean) {
    value *valid = lower_cast(b, build(b, "logical_not", IN(nan), NO_ATTRS), dtype);
    sum = lower_binary(b, "div", sum, reduced(b, "sum", valid, &r, r.keep));
  }
  call_return(c, 0, sum);
  return KILN_OK;
}
static kiln_status lower_nansum(lower_call *c) { return nan_sum(c, false); }
static kiln_status lower_nanmean(lower_call *c) { return nan_sum(c, true); }

static kiln_status lower_extreme(lower_call *c) {
  reduction r;
  KILN_TRY(reduction_of(c, true, &r));
  call_return(c, 0, reduced(&c->b, own_name(c), r.x, &r, r.keep));
  return KILN_OK;
}

/* any, all: bool, but u8 for u8. An empty list of axes reduces nothing. */
static kiln_status lower_any_all(lower_call *c) {
  reduction r;
  KILN_TRY(reduction_of(c, false, &r));
  value *y = reduced(&c->b, own_name(c), r.x, &r, r.keep);
  call_return(c, 0, r.x->type.dtype == KILN_U8 ? lower_cast(&c->b, y, KILN_U8) : y);
  return KILN_OK;
}

static kiln_status lower_aminmax(lower_call *c) {
  reduction r;
  KILN_TRY(reduction_of(c, true, &r));
  call_return(c, 0, reduced(&c->b, "amin", r.x, &r, r.keep));
  call_return(c, 1, reduced(&c->b, "amax", r.x, &r, r.keep));
  return KILN_OK;
}

static kiln_status lower_max_dim(lower_call *c) {
  value *x;
  int axis;
  KILN_TRY(lowering_tensor(c, "self", &x));
  KILN_TRY(lowering_axis(c, "dim", x->type.rank, &axis));
  node *n =
      build_node(&c->b, own_name(c), IN(x), ATTRS(A_INT("axis", axis), A_BOOL("keepdim", call_bool(c, "keepdim"))));
  if (!n) return graph_check(c->b.graph);
  call_return(c, 0, n->outputs[0]);
  call_return(c, 1, n->outputs[1]);
  return KILN_OK;
}

/* dim=None: of the flattened tensor. */
static kiln_status lower_argmax(lower_call *c) {
  value *x;
  int axis = 0;
  builder *b = &c->b;
  KILN_TRY(lowering_tensor(c, "self", &x));
  const bool keep = call_bool(c, "keepdim");
  if (!call_is_none(c, "dim")) {
    KILN_TRY(lowering_axis(c, "dim", x->type.rank, &axis));
    call_return(c, 0, build(b, own_name(c), IN(x), ATTRS(A_INT("axis", axis), A_BOOL("keepdim", keep))));
    return KILN_OK;
  }
  const dim total = type_numel(b->graph, &x->type), ones[KILN_MAX_RANK] = {1, 1, 1, 1, 1, 1, 1, 1};
  value *y = build(b, own_name(c), IN(lower_reshape(b, x, 1, &total)), ATTRS(A_INT("axis", 0)));
  call_return(c, 0, keep ? lower_reshape(b, y, x->type.rank, ones) : y);
  return KILN_OK;
}

/* var, std and their _mean forms; the correction is an argument, or 1 or 0 by `unbiased`. */
static kiln_status variance(lower_call *c, bool root, bool with_mean) {
  reduction r;
  builder *b = &c->b;
  KILN_TRY(reduction_of(c, true, &r));
  double correction = 1;
  if (has_arg(c, "correction")) {
    correction = call_is_none(c, "correction") ? 1 : call_float(c, "correction");
  } else if (has_arg(c, "unbiased")) {
    correction = call_bool(c, "unbiased") ? 1 : 0;
  }
  value *y =
      build(b, "var", IN(r.x),
            ATTRS(A_INTS("axes", r.axes, r.count), A_BOOL("keepdim", r.keep), A_FLOAT("correction", correction)));
  call_return(c, 0, root ? build(b, "sqrt", IN(y), NO_ATTRS) : y);
  if (with_mean) call_return(c, 1, reduced(b, "mean", r.x, &r, r.keep));
  return KILN_OK;
}
static kiln_status lower_var(lower_call *c) { return variance(c, false, false); }
static kiln_status lower_std(lower_call *c) { return variance(c, true, false); }
static kiln_status lower_var_mean(lower_call *c) { return variance(c, false, true); }
static kiln_status lower_std_mean(lower_call *c) { return variance(c, true, true); }

static value *norm_of(builder *b, value *x, const reduction *r, double p, bool keep) {
  return build(b, "norm", IN(x), ATTRS(A_FLOAT("p", p), A_INTS("axes", r->axes, r->count), A_BOOL("keepdim", keep)));
}

/* norm, linalg_vector_norm, frobenius_norm. */
static kiln_status lower_norm(lower_call *c) {
  reduction r;
  kiln_dtype dtype;
  KILN_TRY(reduction_of(c, true, &r));
  const char *name = has_arg(c, "p") ? "p" : "ord";
  const double p = has_arg(c, name) && !call_is_none(c, name) ? call_float(c, name) : 2;
  const kiln_dtype own = dtype_is_float(r.x->type.dtype) ? r.x->type.dtype : KILN_F32;
  dtype = own;
  if (has_arg(c, "dtype")) KILN_TRY(lowering_dtype(c, "dtype", own, &dtype));
  call_return(c, 0, norm_of(&c->b, lower_cast(&c->b, r.x, dtype), &r, p, r.keep));
  return KILN_OK;
}

/* Without `ord`, or over one axis: a vector norm. */
static kiln_status lower_linalg_norm(lower_call *c) {
  reduction r;
  kiln_dtype dtype;
  KILN_TRY(reduction_of(c, true, &r));
  KILN_TRY(lowering_dtype(c, "dtype", dtype_is_float(r.x->type.dtype) ? r.x->type.dtype : KILN_F32, &dtype));
  const ivalue *order = call_arg(c, "ord");
  const bool frobenius = order->kind == IV_NONE || (order->kind == IV_STR && str_eq(order->u.s, "fro"));
  if (!frobenius && (order->kind == IV_STR || r.count != 1)) {
    const bool nuclear = order->kind == IV_STR && str_eq(order->u.s, "nuc");
    if (r.count != 2 || (order->kind == IV_STR && !nuclear))
      return LOWER_FAIL(c, "argument ord: expected \"fro\", \"nuc\" or a number, over two axes");
    value *x = lower_cast(&c->b, r.x, dtype);
    return lower_matrix_norm(c, x, nuclear ? 0 : call_float(c, "ord"), (int)r.axes[0], (int)r.axes[1], r.keep);
  }
  call_return(c, 0, norm_of(&c->b, lower_cast(&c->b, r.x, dtype), &r, frobenius ? 2 : call_float(c, "ord"), r.keep));
  return KILN_OK;
}

/* max + log(sum(exp(x - max))), with infinite maxima taken as 0 in the differences. */
static kiln_status lower_logsumexp(lower_call *c) {
  reduction r;
  builder *b = &c->b;
  KILN_TRY(reduction_of(c, true, &r));
  value *x = lowering_float(b, r.x), *max = reduced(b, "amax", x, &r, true);
  max = build(b, "where", IN(build(b, "isinf", IN(max), NO_ATTRS), lowering_scalar_like(b, x, 0), max), NO_ATTRS);
  value *e = build(b, "exp", IN(lower_binary(b, "sub", x, max)), NO_ATTRS);
  value *y = lower_binary(b, "add", build(b, "log", IN(reduced(b, "sum", e, &r, true)), NO_ATTRS), max);
  LOWER_NEED(c, y);
  for (int i = r.x->type.rank - 1; !r.keep && i >= 0; i--) {
    for (int k = 0; k < r.count; k++) {
      if (r.axes[k] == i) y = lowering_squeeze(b, y, i);
    }
  }
  call_return(c, 0, y);
  return KILN_OK;
}

static kiln_status lower_count_nonzero(lower_call *c) {
  reduction r;
  builder *b = &c->b;
  KILN_TRY(reduction_of(c, true, &r));
  value *is = lower_cast(b, r.x, KILN_BOOL);
  call_return(c, 0, reduced(b, "sum", lower_cast(b, is, KILN_I64), &r, false));
  return KILN_OK;
}

static kiln_status lower_trace(lower_call *c) {
  value *x;
  builder *b = &c->b;
  KILN_TRY(lowering_tensor(c, "self", &x));
  value *d = build(b, "diagonal", IN(x), ATTRS(A_INT("axis1", 0), A_INT("axis2", 1)));
  if (!dtype_is_float(x->type.dtype)) d = lower_cast(b, d, KILN_I64);
  const reduction r = {.count = 1, .axes = {0}};
  call_return(c, 0, reduced(b, "sum", d, &r, false));
  return KILN_OK;
}

static kiln_status lower_dot(lower_call *c) {
  value *x, *y;
  builder *b = &c->b;
  KILN_TRY(lowering_tensor(c, c->schema->args[0].name, &x));
  KILN_TRY(lowering_tensor(c, c->schema->args[1].name, &y));
  const reduction r = {.count = 1, .axes = {0}};
  call_return(c, 0, reduced(b, "sum", lower_binary(b, "mul", x, y), &r, false));
  return KILN_OK;
}

static kiln_status lower_outer(lower_call *c) {
  value *x, *y;
  builder *b = &c->b;
  KILN_TRY(lowering_tensor(c, "self", &x));
  KILN_TRY(lowering_tensor(c, "vec2", &y));
  lower_promote(b, &x, false, &y, false);
  call_return(c, 0, lower_binary(b, "mul", lowering_unsqueeze(b, x, 1), y));
  return KILN_OK;
}

/* sum(x1 / max(|x1|, eps) * x2 / max(|x2|, eps)) */
static kiln_status lower_cosine_similarity(lower_call *c) {
  value *x[2];
  builder *b = &c->b;
  KILN_TRY(lowering_tensor(c, "x1", &x[0]));
  KILN_TRY(lowering_tensor(c, "x2", &x[1]));
  lower_promote(b, &x[0], false, &x[1], false);
  LOWER_NEED(c, x[0]);
  LOWER_NEED(c, x[1]);
  lowering_broadcast(b, 2, x); /* the norms count repeated elements, too */
  LOWER_NEED(c, x[0]);
  int axis;
  KILN_TRY(lowering_axis(c, "dim", x[0]->type.rank, &axis));
  const reduction r = {.count = x[0]->type.rank ? 1 : 0, .axes = {axis}};
  for (int i = 0; i < 2; i++) {
    value *size = build(b, "clamp", IN(norm_of(b, x[i], &r, 2, true)), ATTRS(A_FLOAT("min", call_float(c, "eps"))));
    x[i] = lower_binary(b, "div", x[i], size);
  }
  call_return(c, 0, reduced(b, "sum", lower_binary(b, "mul", x[0], x[1]), &r, false));
  return KILN_OK;
}

static kiln_status lower_pairwise_distance(lower_call *c) {
  value *x, *y;
  builder *b = &c->b;
  KILN_TRY(lowering_tensor(c, "x1", &x));
  KILN_TRY(lowering_tensor(c, "x2", &y));
  lower_promote(b, &x, false, &y, false);
  value *d = lowering_float(b, lower_binary(b, "sub", x, y));
  d = lower_binary(b, "add", d, lowering_scalar_like(b, d, call_float(c, "eps")));
  LOWER_NEED(c, d);
  const reduction r = {.count = d->type.rank ? 1 : 0, .axes = {d->type.rank - 1}};
  call_return(c, 0, norm_of(b, d, &r, call_float(c, "p"), call_bool(c, "keepdim")));
  return KILN_OK;
}

/* ---- rows -------------------------------------------------------------------------------------------------------- */

static const torch_row torch_sum[] = {
    {"aten::sum(Tensor self, *, ScalarType? dtype=None) -> Tensor", NULL, lower_sum},
    {"aten::sum.dim_IntList(Tensor self, int[1]? dim, bool keepdim=False, *, ScalarType? dtype=None) -> Tensor", NULL,
     lower_sum},
    {"aten::nansum(Tensor self, int[1]? dim=None, bool keepdim=False, *, ScalarType? dtype=None) -> Tensor", NULL,
     lower_nansum},
    {"aten::count_nonzero(Tensor self, int? dim=None) -> Tensor", NULL, lower_count_nonzero},
    {"aten::count_nonzero.dim_IntList(Tensor self, int[] dim) -> Tensor", NULL, lower_count_nonzero},
    {"aten::logsumexp(Tensor self, int[1] dim, bool keepdim=False) -> Tensor", NULL, lower_logsumexp},
    {"aten::special_logsumexp(Tensor self, int[1] dim, bool keepdim=False) -> Tensor", NULL, lower_logsumexp},
    {"aten::trace(Tensor self) -> Tensor", NULL, lower_trace},
    {"aten::dot(Tensor self, Tensor tensor) -> Tensor", NULL, lower_dot},
    {"aten::vdot(Tensor self, Tensor other) -> Tensor", NULL, lower_dot},
    {"aten::outer(Tensor self, Tensor vec2) -> Tensor", NULL, lower_outer},
    {"aten::ger(Tensor self, Tensor vec2) -> Tensor", NULL, lower_outer},
    {"aten::einsum(str equation, Tensor[] tensors, *, int[]? path=None) -> Tensor", NULL, lower_einsum},
    {"aten::cosine_similarity(Tensor x1, Tensor x2, int dim=1, float eps=1e-08) -> Tensor", NULL,
     lower_cosine_similarity},
    {NULL, NULL, NULL}};
static const torch_row torch_mean[] = {
    {"aten::mean(Tensor self, *, ScalarType? dtype=None) -> Tensor", NULL, lower_mean},
    {"aten::mean.dim(Tensor self, int[1]? dim, bool keepdim=False, *, ScalarType? dtype=None) -> Tensor", NULL,
     lower_mean},
    {"aten::nanmean(Tensor self, int[1]? dim=None, bool keepdim=False, *, ScalarType? dtype=None) -> Tensor", NULL,
     lower_nanmean},
    {NULL, NULL, NULL}};
static const torch_row torch_prod[] = {
    {"aten::prod(Tensor self, *, ScalarType? dtype=None) -> Tensor", NULL, lower_sum},
    {"aten::prod.dim_int(Tensor self, int dim, bool keepdim=False, *, ScalarType? dtype=None) -> Tensor", NULL,
     lower_sum},
    {NULL, NULL, NULL}};
static const torch_row torch_amax[] = {
    {"aten::amax(Tensor self, int[1] dim=[], bool keepdim=False) -> Tensor", NULL, lower_extreme},
    {"aten::max(Tensor self) -> Tensor", NULL, lower_extreme},
    {"aten::aminmax(Tensor self, *, int? dim=None, bool keepdim=False) -> (Tensor min, Tensor max)", NULL,
     lower_aminmax},
    {NULL, NULL, NULL}};
static const torch_row torch_amin[] = {
    {"aten::amin(Tensor self, int[1] dim=[], bool keepdim=False) -> Tensor", NULL, lower_extreme},
    {"aten::min(Tensor self) -> Tensor", NULL, lower_extreme},
    {NULL, NULL, NULL}};
static const torch_row torch_any[] = {
    {"aten::any(Tensor self) -> Tensor", NULL, lower_any_all},
    {"aten::_is_any_true(Tensor self) -> Tensor", NULL, lower_any_all},
    {"aten::any.dim(Tensor self, int dim, bool keepdim=False) -> Tensor", NULL, lower_any_all},
    {"aten::any.dims(Tensor self, int[]? dim=None, bool keepdim=False) -> Tensor", NULL, lower_any_all},
    {NULL, NULL, NULL}};
static const torch_row torch_all[] = {
    {"aten::all(Tensor self) -> Tensor", NULL, lower_any_all},
    {"aten::_is_all_true(Tensor self) -> Tensor", NULL, lower_any_all},
    {"aten::all.dim(Tensor self, int dim, bool keepdim=False) -> Tensor", NULL, lower_any_all},
    {"aten::all.dims(Tensor self, int[]? dim=None, bool keepdim=False) -> Tensor", NULL, lower_any_all},
    {NULL, NULL, NULL}};
static const torch_row torch_var[] = {
    {"aten::var(Tensor self, bool unbiased=True) -> Tensor", NULL, lower_var},
    {"aten::var.dim(Tensor self, int[1]? dim, bool unbiased=True, bool keepdim=False) -> Tensor", NULL, lower_var},
    {"aten::var.correction(Tensor self, int[1]? dim=None, *, Scalar? correction=None, bool keepdim=False) -> Tensor",
     NULL, lower_var},
    {"aten::std(Tensor self, bool unbiased=True) -> Tensor", NULL, lower_std},
    {"aten::std.dim(Tensor self, int[1]? dim, bool unbiased=True, bool keepdim=False) -> Tensor", NULL, lower_std},
    {"aten::std.correction(Tensor self, int[1]? dim=None, *, Scalar? correction=None, bool keepdim=False) -> Tensor",
     NULL, lower_std},
    {"aten::var_mean(Tensor self, bool unbiased=True) -> (Tensor, Tensor)", NULL, lower_var_mean},
    {"aten::var_mean.dim(Tensor self, int[1]? dim, bool unbiased=True, bool keepdim=False) -> (Tensor, Tensor)", NULL,
     lower_var_mean},
    {"aten::var_mean.correction(Tensor self, int[1]? dim=None, *, Scalar? correction=None, bool keepdim=False) -> "
     "(Tensor, Tensor)",
     NULL, lower_var_mean},
    {"aten::std_mean(Tensor self, bool unbiased=True) -> (Tensor, Tensor)", NULL, lower_std_mean},
    {"aten::std_mean.dim(Tensor self, int[1]? dim, bool unbiased=True, bool keepdim=False) -> (Tensor, Tensor)", NULL,
     lower_std_mean},
    {"aten::std_mean.correction(Tensor self, int[1]? dim=None, *, Scalar? correction=None, bool keepdim=False) -> "
     "(Tensor, Tensor)",
     NULL, lower_std_mean},
    {NULL, NULL, NULL}};
static const torch_row torch_norm[] = {
    {"aten::norm.Scalar(Tensor self, Scalar p=2) -> Tensor", NULL, lower_norm},
    {"aten::norm.ScalarOpt_dim(Tensor self, Scalar? p, int[1] dim, bool keepdim=False) -> Tensor", NULL, lower_norm},
    {"aten::norm.ScalarOpt_dim_dtype(Tensor self, Scalar? p, int[1] dim, bool keepdim, *, ScalarType dtype) -> Tensor",
     NULL, lower_norm},
    {"aten::norm.ScalarOpt_dtype(Tensor self, Scalar? p, *, ScalarType dtype) -> Tensor", NULL, lower_norm},
    {"aten::linalg_vector_norm(Tensor self, Scalar ord=2, int[1]? dim=None, bool keepdim=False, *, ScalarType? "
     "dtype=None) -> Tensor",
     NULL, lower_norm},
    {"aten::frobenius_norm.dim(Tensor self, int[1] dim, bool keepdim=False) -> Tensor", NULL, lower_norm},
    {"aten::linalg_norm(Tensor self, Scalar? ord=None, int[1]? dim=None, bool keepdim=False, *, ScalarType? "
     "dtype=None) -> Tensor",
     NULL, lower_linalg_norm},
    {"aten::linalg_norm.ord_str(Tensor self, str ord, int[1]? dim=None, bool keepdim=False, *, ScalarType? dtype=None) "
     "-> Tensor",
     NULL, lower_linalg_norm},
    {"aten::linalg_matrix_norm.str_ord(Tensor self, str ord=\"fro\", int[] dim=[-2, -1], bool keepdim=False, *, "
     "ScalarType? dtype=None) -> Tensor",
     NULL, lower_linalg_norm},
    {"aten::pairwise_distance(Tensor x1, Tensor x2, float p=2., float eps=9.9999999999999995e-07, bool keepdim=False) "
     "-> Tensor",
     NULL, lower_pairwise_distance},
    {NULL, NULL, NULL}};
static const torch_row torch_argmax[] = {
    {"aten::argmax(Tensor self, int? dim=None, bool keepdim=False) -> Tensor", NULL, lower_argmax}, {NULL, NULL, NULL}};
static const torch_row torch_argmin[] = {
    {"aten::argmin(Tensor self, int? dim=None, bool keepdim=False) -> Tensor", NULL, lower_argmax}, {NULL, NULL, NULL}};
static const torch_row torch_max_index[] = {
    {"aten::max.dim(Tensor self, int dim, bool keepdim=False) -> (Tensor values, Tensor indices)", NULL, lower_max_dim},
    {NULL, NULL, NULL}};
static const torch_row torch_min_index[] = {
    {"aten::min.dim(Tensor self, int dim, bool keepdim=False) -> (Tensor values, Tensor indices)", NULL, lower_max_dim},
    {NULL, NULL, NULL}};

#define SHAPES                                                                                                    \
  "x:f32[N] axes=[0] N:1,7,8,15,16,17,63,64,65,1000", "x:f32[3,5,7] axes=[1]", "x:f32[3,5,7] axes=[2] keepdim=1", \
      "x:f32[3,5,7] axes=[0,2]", "x:f32[3,5,7] axes=[0,1,2]", "x:f32[2,3,9,33] axes=[2,3] keepdim=1",             \
      "x:f32[65,4] axes=[0]", "x:f32[] axes=[]", "x:f32[3,4] axes=[]", "x:f32[2,3,65,33] axes=[1]"
/* Sizes of which GPU kernels read several elements at once, of one result or of several. */
#define WIDE \
  "x:f16[5,2048] axes=[1]", "x:f16[2,49,64] axes=[1]", "x:f32[3,4,33,512] axes=[1,2]", "x:bf16[3,8,256] axes=[0,2]"
static const char *const cases_sum[] = {SHAPES,
                                        WIDE,
                                        "x:f32[0,3] axes=[0]",
                                        "x:f32[3,0] axes=[0]",
                                        "x:f16[3,65] axes=[1]",
                                        "x:f64[3,65] axes=[1]",
                                        "x:i64[3,65]=range(-9,9) axes=[1]",
                                        "x:i32[3,7]=range(-9,9) axes=[0]",
                                        "x:f32[6,9]=inf axes=[1]",
                                        NULL};
static const char *const cases_mean[] = {
    SHAPES, WIDE, "x:f16[3,65] axes=[1]", "x:f64[3,65] axes=[1]", "x:f32[6,9]=inf axes=[1]", "x:f32[3,0] axes=[0]",
    NULL};
static const char *const cases_prod[] = {"x:f32[3,17]=uniform(0.8,1.2) axes=[1]",
                                         "x:f32[5,7]=uniform(-2,2) axes=[0] keepdim=1",
                                         "x:f32[0,3] axes=[0]",
                                         "x:i64[3,5]=range(-5,5) axes=[1]",
                                         "x:f32[6,9]=inf axes=[1]",
                                         NULL};
static const char *const cases_extreme[] = {SHAPES,
                                            WIDE,
                                            "x:f16[3,65] axes=[1]",
                                            "x:i64[3,65]=range(-99,99) axes=[1]",
                                            "x:u8[3,65]=range(0,255) axes=[1]",
                                            "x:f32[6,9]=inf axes=[1]",
                                            "x:f32[6,9]=inf axes=[0]",
                                            "x:f32[3,0] axes=[0]",
                                            NULL};
static const char *const cases_any[] = {"x:bool[3,65]=bool axes=[1]",
                                        "x:bool[5,7,3]=bool axes=[0,1] keepdim=1",
                                        "x:f32[6,9]=inf axes=[1]",
                                        "x:i64[4,5]=range(0,1) axes=[0]",
                                        "x:bool[0,3]=bool axes=[0]",
                                        "x:bool[]=bool axes=[]",
                                        NULL};
static const char *const cases_var[] = {SHAPES,
                                        "x:f32[3,65] axes=[1] correction=0",
                                        "x:f16[3,65] axes=[1]",
                                        "x:f64[3,65] axes=[1] correction=2",
                                        "x:f32[3,1] axes=[1]",
                                        "x:f32[4,100]=uniform(1000,1001) axes=[1]",
                                        NULL};
static const char *const cases_norm[] = {"x:f32[3,65] p=2 axes=[1]",
                                         "x:f32[3,65] p=1 axes=[1] keepdim=1",
                                         "x:f32[3,65] p=inf axes=[0]",
                                         "x:f32[3,65] p=-inf axes=[1]",
                                         "x:f32[3,65]=range(-1,1) p=0 axes=[1]",
                                         "x:f32[3,5,7] p=3 axes=[0,2]",
                                         "x:f16[3,65] p=2 axes=[1]",
                                         "x:f32[6,9]=inf p=2 axes=[1]",
                                         "x:f32[2,64,3] p=2 axes=[1] keepdim=1",
                                         NULL};
static const char *const cases_arg[] = {"x:f32[N] axis=0 N:1,7,16,17,65,1000",
                                        "x:f32[3,5,7] axis=1 keepdim=1",
                                        "x:f32[3,5,7] axis=2",
                                        "x:f32[5,65] axis=0",
                                        "x:i64[3,65]=range(-9,9) axis=1",
                                        "x:f32[6,9]=inf axis=1",
                                        "x:f32[]",
                                        "x:f32[3,0] axis=0",
                                        "x:f16[3,65] axis=1",
                                        NULL};

#define REDUCTION(op_name, infer_function, case_list)                                              \
  .name = #op_name, .sig = "x -> y", .attrs = "axes:ints keepdim:bool=0", .infer = infer_function, \
  .ref = op_name##_ref, .torch = torch_##op_name, .cases = case_list

static const op rows[] = {
    {REDUCTION(sum, infer_reduce, cases_sum), .tolerance = 1e-5f},
    {REDUCTION(mean, infer_reduce_float, cases_mean), .tolerance = 1e-5f},
    {REDUCTION(prod, infer_reduce, cases_prod), .tolerance = 1e-5f},
    {REDUCTION(amax, infer_reduce, cases_extreme)},
    {REDUCTION(amin, infer_reduce, cases_extreme)},
    {REDUCTION(any, infer_reduce_bool, cases_any)},
    {REDUCTION(all, infer_reduce_bool, cases_any)},
    {.name = "var",
     .sig = "x -> y",
     .attrs = "axes:ints correction:float=1 keepdim:bool=0",
     .infer = infer_reduce_float,
     .ref = var_ref,
     .torch = torch_var,
     .cases = cases_var,
     .tolerance = 1e-5f},
    {.name = "norm",
     .sig = "x -> y",
     .attrs = "p:float=2 axes:ints keepdim:bool=0",
     .infer = infer_reduce_float,
     .ref = norm_ref,
     .torch = torch_norm,
     .cases = cases_norm,
     .tolerance = 1e-5f},
    {.name = "argmax",
     .sig = "x -> y",
     .attrs = "axis:int=0 keepdim:bool=0",
     .infer = infer_arg,
     .ref = argmax_ref,
     .torch = torch_argmax,
     .cases = cases_arg},
    {.name = "argmin",
     .sig = "x -> y",
     .attrs = "axis:int=0 keepdim:bool=0",
     .infer = infer_arg,
     .ref = argmin_ref,
     .torch = torch_argmin,
     .cases = cases_arg},
    {.name = "max_index",
     .sig = "x -> values indices",
     .attrs = "axis:int=0 keepdim:bool=0",
     .infer = infer_max_index,
     .ref = max_index_ref,
     .torch = torch_max_index,
     .cases = cases_arg},
    {.name = "min_index",
     .sig = "x -> values indices",
     .attrs = "axis:int=0 keepdim:bool=0",
     .infer = infer_max_index,
     .ref = min_index_ref,
     .torch = torch_min_index,
     .cases = cases_arg},
};

OP_FAMILY(ops_reduce, rows);
