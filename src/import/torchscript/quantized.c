/* Quantized tensors: making and reading them, and operators that take them without packed parameters.
 *
 * PyTorch's CPU kernels quantize with x * (1 / scale) in f32, rounded half to even, plus zero_point, clamped;
 * quantize_per_tensor and quantize_per_channel add zero_point before they round. Reading back is
 * (q - zero_point) * scale in f32. Operators that have no exact form here read, compute in f32, and quantize:
 * PyTorch's own vectorized kernels do the same up to one step. */
#include "import/torchscript/quantized.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define LOW_SCALE 6.1e-5 /* scales below are raised to it, so that the reciprocal stays in range */

/* ---- Pieces
 * ----------------------------------------------------------------------------------------------------------------- */

ts_value quantized_arg(const ts_call *c, int at, const char *name) {
  const ts_value *v = interp_arg(c, at, name);
  return v ? *v : of_none();
}

kiln_status quantized_tensor(interp *it, const ts_call *c, int at, const char *name, ts_qtensor **out) {
  const ts_value v = quantized_arg(c, at, name);
  if (v.kind != TSV_QTENSOR)
    return IT_FAIL(it, KILN_INVALID_FILE, "%s: argument %s is %s, expected a quantized tensor", c->name, name,
                   interp_kind_name(&v));
  *out = v.u.qtensor;
  return KILN_OK;
}

kiln_status quantized_wrap(interp *it, value *v, ts_value *out) { return interp_new_tensor(it, v, out); }

kiln_status quantized_aten(interp *it, const char *name, int n, const ts_value *args, value **out) {
  ts_value result = of_none(), copy[10];
  bool found = false;
  if (n > (int)KILN_COUNT(copy)) return KILN_FAIL(KILN_INTERNAL, "%s: too many arguments", name);
  memcpy(copy, args, (size_t)n * sizeof *args);
  const ts_call call = {.name = name, .n = n, .args = copy};
  KILN_TRY(interp_call_schema(it, name, &call, &found, &result));
  if (!found) return IT_FAIL(it, KILN_UNSUPPORTED, "operator %s is not supported", name);
  if (result.kind != TSV_TENSOR) return IT_FAIL(it, KILN_INTERNAL, "%s gave %s", name, interp_kind_name(&result));
  *out = lower_value(&it->b, result.u.tensor);
  return *out ? KILN_OK : interp_no_memory(it);
}

/* A number or tensor argument as a rank-0 (or, for lists of channels, rank-1) tensor. */
static kiln_status param_tensor(interp *it, const ts_call *c, const ts_value *v, bool channels, itensor **out) {
  value *x;
  if (v->kind == TSV_TENSOR) {
    x = lower_value(&it->b, v->u.tensor);
    if (x && !channels && x->type.rank != 0) x = lower_reshape(&it->b, x, 0, NULL);
  } else if (interp_is_number(v) && !channels) {
    KILN_TRY(interp_number_tensor(it, v, &x));
  } else {
    return IT_FAIL(it, KILN_INVALID_FILE, "%s: a scale or zero point is %s", c->name, interp_kind_name(v));
  }
  *out = x ? lower_tensor(&it->a->im, x) : NULL;
  return *out ? KILN_OK : interp_no_memory(it);
}

kiln_status quantized_params_of(interp *it, const ts_call *c, int at, kiln_dtype dtype, quantized_params *out) {
  const ts_value scale = quantized_arg(c, at, "scale"), zero = quantized_arg(c, at + 1, "zero_point");
  const ts_value other_scale = quantized_arg(c, at, "output_scale"),
                 other_zero = quantized_arg(c, at + 1, "output_zero_point");
  out->dtype = dtype;
  KILN_TRY(param_tensor(it, c, scale.kind != TSV_NONE ? &scale : &other_scale, false, &out->scale));
  return param_tensor(it, c, zero.kind != TSV_NONE ? &zero : &other_zero, false, &out->zero_point);
}

static kiln_dtype integers_of(int64_t code) {
  return code == 12 ? KILN_I8 : code == 13 ? KILN_U8 : code == 14 ? KILN_I32 : KILN_DTYPE_COUNT;
}

static int64_t code_of(kiln_dtype integers) { return integers == KILN_I8 ? 12 : integers == KILN_U8 ? 13 : 14; }

static kiln_status dtype_arg(interp *it, const ts_call *c, int at, kiln_dtype *out) {
  const ts_value v = quantized_arg(c, at, "dtype");
  *out = v.kind == TSV_INT && dim_is_const(v.u.i) ? integers_of(v.u.i) : KILN_DTYPE_COUNT;
  if (*out == KILN_DTYPE_COUNT)
    return IT_FAIL(it, KILN_UNSUPPORTED, "%s: this dtype is not supported, expected qint8, quint8 or qint32", c->name);
  return KILN_OK;
}

static quantized_params params_like(const ts_qtensor *q) {
  return (quantized_params){q->scale, q->zero_point, q->integers->v->type.dtype};
}

static value *param_f32(interp *it, itensor *t, int rank, int axis) {
  value *v = lower_cast(&it->b, lower_value(&it->b, t), KILN_F32);
  dim shape[KILN_MAX_RANK];
  if (!v || axis < 0 || v->type.rank == 0 || axis == rank - 1) return v;
  const int tail = rank - axis;
  if (v->type.rank != 1 || tail < 1 || tail > KILN_MAX_RANK) return v;
  for (int i = 0; i < tail; i++) shape[i] = i == 0 ? v->type.dims[0] : 1;
  return lower_reshape(&it->b, v, tail, shape);
}

value *quantized_scale(interp *it, const ts_qtensor *q, int rank, int axis) {
  return param_f32(it, q->scale, rank, axis);
}
value *quantized_zero(interp *it, const ts_qtensor *q, int rank, int axis) {
  return param_f32(it, q->zero_point, rank, axis);
}

/* Zero points of weights are mostly 0; then nothing is to be subtracted. */
static bool all_zero(interp *it, itensor *t) {
  value *v = lower_value(&it->b, t);
  const value *c = v ? interp_fold(it, v) : NULL;
  if (!c || !c->constant || c->constant->packing) return false;
  constant_fix(c);
  const unsigned char *bytes = c->constant->data;
  for (size_t i = 0; i < c->constant->size; i++)
    if (bytes[i]) return false;
  return true;
}

value *quantized_steps(interp *it, const ts_qtensor *q) {
  value *v = lower_cast(&it->b, lower_value(&it->b, q->integers), KILN_F32);
  if (!v || all_zero(it, q->zero_point)) return v;
  return lower_binary(&it->b, "sub", v, quantized_zero(it, q, v->type.rank, q->axis));
}

value *quantized_real(interp *it, const ts_qtensor *q) {
  value *v = quantized_steps(it, q);
  return v ? lower_binary(&it->b, "mul", v, quantized_scale(it, q, v->type.rank, q->axis)) : NULL;
}

static kiln_status new_qtensor(interp *it, itensor *integers, itensor *scale, itensor *zero_point, int axis,
                               ts_value *out) {
  ts_qtensor *q = ARENA_NEW(it->arena, ts_qtensor);
  if (!q || !integers || !scale || !zero_point) return interp_no_memory(it);
  *q = (ts_qtensor){integers, scale, zero_point, axis};
  *out = (ts_value){.kind = TSV_QTENSOR, .u = {.qtensor = q}};
  return KILN_OK;
}

/* round(v) + zero, or round(v + zero) with `zero_first`, clamped to the integers' range; qint32 does not fit f32. */
static value *to_integers(interp *it, value *v, value *zero, bool zero_first, kiln_dtype dtype) {
  builder *b = &it->b;
  const double low = dtype == KILN_U8 ? 0 : dtype == KILN_I8 ? -128 : -2147483648.0;
  const double high = dtype == KILN_U8 ? 255 : dtype == KILN_I8 ? 127 : 2147483647.0;
  if (dtype == KILN_I32) {
    v = lower_cast(b, v, KILN_F64);
    zero = lower_cast(b, zero, KILN_F64);
  }
  if (zero_first) v = v && zero ? lower_binary(b, "add", v, zero) : NULL;
  v = build(b, "round", IN(v), NO_ATTRS);
  if (!zero_first) v = v && zero ? lower_binary(b, "add", v, zero) : NULL;
  v = build(b, "clamp", IN(v), ATTRS(A_FLOAT("min", low), A_FLOAT("max", high)));
  return v ? lower_cast(b, v, dtype) : NULL;
}

static kiln_status from_steps(interp *it, value *scaled, bool zero_first, const quantized_params *p, ts_value *out) {
  value *v = to_integers(it, scaled, param_f32(it, p->zero_point, 0, -1), zero_first, p->dtype);
  return new_qtensor(it, v ? lower_tensor(&it->a->im, v) : NULL, p->scale, p->zero_point, -1, out);
}

kiln_status quantized_from_steps(interp *it, value *scaled, const quantized_params *p, ts_value *out) {
  return from_steps(it, scaled, false, p, out);
}

static value *reciprocal(interp *it, value *scale) { return build(&it->b, "reciprocal", IN(scale), NO_ATTRS); }

static value *in_steps(interp *it, value *real, const quantized_params *p) {
  value *inverse = reciprocal(it, param_f32(it, p->scale, 0, -1));
  value *x = real ? lower_cast(&it->b, real, KILN_F32) : NULL;
  return x && inverse ? lower_binary(&it->b, "mul", x, inverse) : NULL;
}

kiln_status quantized_from_real(interp *it, value *real, const quantized_params *p, ts_value *out) {
  return from_steps(it, in_steps(it, real, p), false, p, out);
}

static value *f64_binary(interp *it, const char *op_name, value *x, double y) {
  value *c = graph_scalar(it->g, KILN_F64, y);
  return x && c ? lower_binary(&it->b, op_name, x, c) : NULL;
}

static value *select_value(interp *it, value *condition, value *x, value *y) {
  return build(&it->b, "where", IN(condition, x, y), NO_ATTRS);
}

/* quant_utils::ChooseQuantizationParams, in double as there. */
kiln_status quantized_choose(interp *it, value *x, bool reduce_range, quantized_params *out) {
  builder *b = &it->b;
  const double top = reduce_range ? 127 : 255;
  int64_t axes[KILN_MAX_RANK];
  if (!x) return interp_no_memory(it);
  for (int i = 0; i < x->type.rank; i++) axes[i] = i;
  value *low = build(b, "amin", IN(x), ATTRS(A_INTS("axes", axes, x->type.rank)));
  value *high = build(b, "amax", IN(x), ATTRS(A_INTS("axes", axes, x->type.rank)));
  low = f64_binary(it, "minimum", lower_cast(b, low, KILN_F64), 0);
  high = f64_binary(it, "maximum", lower_cast(b, high, KILN_F64), 0);
  if (!low || !high) return interp_no_memory(it);
  value *scale = f64_binary(it, "div", lower_binary(b, "sub", high, low), top);
  /* 0.1 where the scale is 0 or its reciprocal is not finite in f32 */
  scale = select_value(it, f64_binary(it, "lt", scale, 2.9387361e-39), graph_scalar(it->g, KILN_F64, 0.1), scale);
  value *tiny = f64_binary(it, "lt", scale, LOW_SCALE);
  value *floor_scale = graph_scalar(it->g, KILN_F64, (double)(float)LOW_SCALE);
  if (!scale || !tiny || !floor_scale) return interp_no_memory(it);
  value *ratio = lower_binary(b, "div", floor_scale, scale);
  if (!ratio) return interp_no_memory(it);
  low = select_value(it, tiny, lower_binary(b, "mul", low, ratio), low);
  high = select_value(it, tiny, lower_binary(b, "mul", high, ratio), high);
  scale = select_value(it, tiny, floor_scale, scale);
  if (!scale || !low || !high) return interp_no_memory(it);
  low = lower_binary(b, "div", low, scale);
  high = lower_binary(b, "div", high, scale);
  if (!low || !high) return interp_no_memory(it);
  /* the end whose zero point is the more exact one */
  value *from_low = build(b, "neg", IN(low), NO_ATTRS);
  value *top_value = graph_scalar(it->g, KILN_F64, top);
  value *from_high = top_value ? lower_binary(b, "sub", top_value, high) : NULL;
  value *error_low = build(b, "neg", IN(build(b, "abs", IN(low), NO_ATTRS)), NO_ATTRS);
  value *error_high = build(b, "abs", IN(high), NO_ATTRS);
  error_high = error_high && top_value ? lower_binary(b, "sub", top_value, error_high) : NULL;
  value *first = error_low && error_high ? lower_binary(b, "lt", error_low, error_high) : NULL;
  value *zero = select_value(it, first, from_low, from_high);
  zero = build(b, "clamp", IN(zero), ATTRS(A_FLOAT("min", 0), A_FLOAT("max", top)));
  zero = build(b, "round", IN(zero), NO_ATTRS);
  if (!zero) return interp_no_memory(it);
  out->dtype = KILN_U8;
  out->scale = lower_tensor(&it->a->im, lower_cast(b, scale, KILN_F32));
  out->zero_point = lower_tensor(&it->a->im, lower_cast(b, zero, KILN_I64));
  return out->scale && out->zero_point ? KILN_OK : interp_no_memory(it);
}

/* ---- Making and reading
 * ------------------------------------------------------------------------------------------------------ */

static kiln_status float_arg(interp *it, const ts_call *c, int at, const char *name, value **out) {
  const ts_value v = quantized_arg(c, at, name);
  if (v.kind != TSV_TENSOR)
    return IT_FAIL(it, KILN_INVALID_FILE, "%s: argument %s is %s, expected a tensor", c->name, name,
                   interp_kind_name(&v));
  *out = lower_value(&it->b, v.u.tensor);
  return *out ? KILN_OK : interp_no_memory(it);
}

static kiln_status quantize_per_tensor(interp *it, const ts_call *c, ts_value *out) {
  quantized_params p;
  value *x;
  KILN_TRY(float_arg(it, c, 0, "self", &x));
  KILN_TRY(dtype_arg(it, c, 3, &p.dtype));
  KILN_TRY(quantized_params_of(it, c, 1, p.dtype, &p));
  return from_steps(it, in_steps(it, x, &p), true, &p, out);
}

static kiln_status quantize_dynamic(interp *it, const ts_call *c, ts_value *out) {
  quantized_params p;
  kiln_dtype dtype;
  value *x;
  const ts_value reduce = quantized_arg(c, 2, "reduce_range");
  KILN_TRY(float_arg(it, c, 0, "self", &x));
  KILN_TRY(dtype_arg(it, c, 1, &dtype));
  if (dtype != KILN_U8) return IT_FAIL(it, KILN_UNSUPPORTED, "%s: only quint8 is supported", c->name);
  KILN_TRY(quantized_choose(it, x, reduce.kind == TSV_BOOL && reduce.u.i, &p));
  return from_steps(it, in_steps(it, x, &p), true, &p, out);
}

static kiln_status quantize_per_channel(interp *it, const ts_call *c, ts_value *out) {
  const ts_value scales = quantized_arg(c, 1, "scales"), zeros = quantized_arg(c, 2, "zero_points");
  kiln_dtype dtype;
  int64_t axis;
  ts_qtensor q;
  value *x;
  KILN_TRY(float_arg(it, c, 0, "self", &x));
  KILN_TRY(interp_arg_int(it, c, 3, "axis", 0, &axis));
  KILN_TRY(dtype_arg(it, c, 4, &dtype));
  KILN_TRY(param_tensor(it, c, &scales, true, &q.scale));
  KILN_TRY(param_tensor(it, c, &zeros, true, &q.zero_point));
  const int rank = x->type.rank;
  if (axis < 0) axis += rank;
  if (axis < 0 || axis >= rank)
    return IT_FAIL(it, KILN_INVALID_FILE, "%s: axis %lld of rank %d", c->name, (long long)axis, rank);
  value *inverse = reciprocal(it, quantized_scale(it, &q, rank, (int)axis)),
        *zero = quantized_zero(it, &q, rank, (int)axis);
  value *v = inverse ? lower_binary(&it->b, "mul", lower_cast(&it->b, x, KILN_F32), inverse) : NULL;
  v = v && zero ? to_integers(it, v, zero, true, dtype) : NULL;
  return new_qtensor(it, v ? lower_tensor(&it->a->im, v) : NULL, q.scale, q.zero_point, (int)axis, out);
}

/* From integers that are there: _make_per_tensor_quantized_tensor(input, scale, zero_point). */
static kiln_status make_per_tensor(interp *it, const ts_call *c, ts_value *out) {
  quantized_params p;
  value *x;
  KILN_TRY(float_arg(it, c, 0, "input", &x));
  KILN_TRY(quantized_params_of(it, c, 1, x->type.dtype, &p));
  if (x->type.dtype != KILN_I8 && x->type.dtype != KILN_U8 && x->type.dtype != KILN_I32)
    return IT_FAIL(it, KILN_INVALID_FILE, "%s: integers of type %s", c->name, kiln_dtype_name(x->type.dtype));
  return new_qtensor(it, lower_tensor(&it->a->im, x), p.scale, p.zero_point, -1, out);
}

static kiln_status dequantize(interp *it, const ts_call *c, ts_value *out) {
  const ts_value v = quantized_arg(c, 0, "self");
  ts_qtensor *q;
  if (v.kind == TSV_TENSOR)
    return quantized_wrap(it, lower_cast(&it->b, lower_value(&it->b, v.u.tensor), KILN_F32), out);
  KILN_TRY(quantized_tensor(it, c, 0, "self", &q));
  return quantized_wrap(it, quantized_real(it, q), out);
}

static kiln_status int_repr(interp *it, const ts_call *c, ts_value *out) {
  ts_qtensor *q;
  KILN_TRY(quantized_tensor(it, c, 0, "self", &q));
  return quantized_wrap(it, lower_value(&it->b, q->integers), out);
}

static kiln_status q_scale(interp *it, const ts_call *c, ts_value *out) {
  ts_qtensor *q;
  KILN_TRY(quantized_tensor(it, c, 0, "self", &q));
  return interp_scalar(it, lower_value(&it->b, q->scale), TST_FLOAT, out);
}

static kiln_status q_zero_point(interp *it, const ts_call *c, ts_value *out) {
  ts_qtensor *q;
  KILN_TRY(quantized_tensor(it, c, 0, "self", &q));
  return interp_scalar(it, lower_value(&it->b, q->zero_point), TST_INT, out);
}

static kiln_status q_per_channel(interp *it, const ts_call *c, ts_value *out) {
  ts_qtensor *q;
  KILN_TRY(quantized_tensor(it, c, 0, "self", &q));
  if (q->axis < 0) return IT_FAIL(it, KILN_INVALID_FILE, "%s: the tensor is quantized per tensor", c->name);
  if (str_ends(c->name, "axis")) {
    *out = of_int(q->axis);
    return KILN_OK;
  }
  const bool scales = str_ends(c->name, "scales");
  value *v = lower_value(&it->b, scales ? q->scale : q->zero_point);
  return quantized_wrap(it, lower_cast(&it->b, v, scales ? KILN_F64 : KILN_I64), out);
}

static kiln_status scheme(interp *it, const ts_call *c, ts_value *out) {
  ts_qtensor *q;
  KILN_TRY(quantized_tensor(it, c, 0, "self", &q));
  *out = of_int(q->axis >= 0 ? 1 : 0); /* c10::QScheme */
  return KILN_OK;
}

static kiln_status is_quantized(interp *it, const ts_call *c, ts_value *out) {
  (void)it;
  *out = of_bool(quantized_arg(c, 0, "a").kind == TSV_QTENSOR);
  return KILN_OK;
}

static kiln_status element_type(interp *it, const ts_call *c, ts_value *out) {
  ts_qtensor *q;
  KILN_TRY(quantized_tensor(it, c, 0, "a", &q));
  *out = of_int(code_of(q->integers->v->type.dtype));
  return KILN_OK;
}

static kiln_status is_not_float(interp *it, const ts_call *c, ts_value *out) {
  (void)it, (void)c;
  *out = of_bool(false);
  return KILN_OK;
}

/* ---- Operators of float tensors, on quantized ones
 * ----------------------------------------------------------------------------- */

/* The call with its quantized tensors replaced, by their integers or by their values. */
static kiln_status plain_argument(interp *it, bool integers, const ts_value *v, ts_value *out) {
  *out = *v;
  if (v->kind == TSV_QTENSOR) {
    if (!integers) return quantized_wrap(it, quantized_real(it, v->u.qtensor), out);
    *out = of_tensor(v->u.qtensor->integers);
    return KILN_OK;
  }
  if (v->kind != TSV_LIST && v->kind != TSV_TUPLE) return KILN_OK;
  bool any = false;
  const ts_list *l = v->u.list;
  for (int i = 0; i < l->count; i++) any = any || l->items[i].kind == TSV_QTENSOR;
  if (!any) return KILN_OK;
  ts_value *items = ARENA_ARRAY(it->arena, ts_value, l->count ? l->count : 1);
  if (!items) return interp_no_memory(it);
  for (int i = 0; i < l->count; i++) KILN_TRY(plain_argument(it, integers, &l->items[i], &items[i]));
  return interp_list_new(it, v->kind, l->count, items, out);
}

static kiln_status plain_call(interp *it, const ts_call *c, bool integers, ts_value *out) {
  ts_value args[TS_MAX_ARGS];
  if (c->n > TS_MAX_ARGS) return IT_FAIL(it, KILN_UNSUPPORTED, "%s: more than %d arguments", c->name, TS_MAX_ARGS);
  for (int i = 0; i < c->n; i++) KILN_TRY(plain_argument(it, integers, &c->args[i], &args[i]));
  const ts_call plain = {.name = c->name, .n = c->n, .args = args, .names = c->names};
  return interp_call_operator(it, &plain, out);
}

static ts_qtensor *first_quantized(const ts_call *c) {
  for (int i = 0; i < c->n; i++) {
    const ts_value *v = &c->args[i];
    if (v->kind == TSV_QTENSOR) return v->u.qtensor;
    if (v->kind != TSV_LIST && v->kind != TSV_TUPLE) continue;
    for (int k = 0; k < v->u.list->count; k++)
      if (v->u.list->items[k].kind == TSV_QTENSOR) return v->u.list->items[k].u.qtensor;
  }
  return NULL;
}

/* Each tensor of a result is quantized as `like` is: its integers are there, or it has the real values. */
static kiln_status quantize_results(interp *it, const ts_qtensor *like, bool integers, ts_value *v) {
  const quantized_params p = params_like(like);
  if (v->kind == TSV_TENSOR && integers)
    return new_qtensor(it, v->u.tensor, like->scale, like->zero_point, like->axis, v);
  if (v->kind == TSV_TENSOR) {
    value *x = lower_value(&it->b, v->u.tensor);
    if (!x) return interp_no_memory(it);
    return x->type.dtype == KILN_F32 ? quantized_from_real(it, x, &p, v) : KILN_OK; /* indices stay */
  }
  if (v->kind != TSV_LIST && v->kind != TSV_TUPLE) return KILN_OK;
  for (int i = 0; i < v->u.list->count; i++) KILN_TRY(quantize_results(it, like, integers, &v->u.list->items[i]));
  return KILN_OK;
}

/* Sizes and other facts of the integers. */
static kiln_status on_integers(interp *it, const ts_call *c, ts_value *out) { return plain_call(it, c, true, out); }

/* Results that are not quantized, such as those of comparisons. */
static kiln_status on_values(interp *it, const ts_call *c, ts_value *out) { return plain_call(it, c, false, out); }

static kiln_status moves_integers(interp *it, const ts_call *c, ts_value *out) {
  const ts_qtensor *q = first_quantized(c);
  if (!q) return IT_FAIL(it, KILN_INTERNAL, "%s without a quantized tensor", c->name);
  const bool still = str_eq(c->name, "clone") || str_eq(c->name, "contiguous") || str_eq(c->name, "detach");
  if (q->axis >= 0 && !still)
    return IT_FAIL(it, KILN_UNSUPPORTED, "%s: of a tensor that is quantized per channel is not supported", c->name);
  KILN_TRY(plain_call(it, c, true, out));
  return quantize_results(it, q, true, out);
}

/* A write to argument 0 is a write to its integers. */
static kiln_status write_back(interp *it, const ts_qtensor *target, ts_value *v) {
  value *x = v->kind == TSV_QTENSOR ? lower_value(&it->b, v->u.qtensor->integers) : NULL;
  if (!x) return interp_no_memory(it);
  KILN_TRY(lower_write(&it->b, target->integers, x));
  return new_qtensor(it, target->integers, target->scale, target->zero_point, target->axis, v);
}

/* Results quantized as the first argument is. */
static kiln_status keeps_params(interp *it, const ts_call *c, ts_value *out) {
  const ts_qtensor *q = first_quantized(c);
  char name[64];
  const size_t length = strlen(c->name);
  if (!q || q->axis >= 0)
    return IT_FAIL(it, KILN_UNSUPPORTED, "%s: of a tensor that is quantized per channel is not supported", c->name);
  const bool in_place = length && length < sizeof name && c->name[length - 1] == '_';
  ts_call call = *c;
  if (in_place) {
    memcpy(name, c->name, length - 1);
    name[length - 1] = 0;
    call.name = name;
  }
  KILN_TRY(plain_call(it, &call, false, out));
  KILN_TRY(quantize_results(it, q, false, out));
  return in_place ? write_back(it, q, out) : KILN_OK;
}

static kiln_status fixed_params(interp *it, double scale, int64_t zero, kiln_dtype dtype, quantized_params *out) {
  value *s = graph_scalar(it->g, KILN_F64, scale), *z = graph_scalar_int(it->g, KILN_I64, zero);
  out->dtype = dtype;
  out->scale = s ? lower_tensor(&it->a->im, s) : NULL;
  out->zero_point = z ? lower_tensor(&it->a->im, z) : NULL;
  return out->scale && out->zero_point ? KILN_OK : interp_no_memory(it);
}

/* sigmoid, hardsigmoid, tanh: what they are quantized to is fixed by the range of their results. */
static kiln_status bounded(interp *it, const ts_call *c, ts_value *out) {
  const bool tanh = str_starts(c->name, "tanh");
  quantized_params p;
  ts_qtensor *q;
  KILN_TRY(quantized_tensor(it, c, 0, "self", &q));
  const kiln_dtype d = q->integers->v->type.dtype;
  const double steps = d == KILN_I32 ? 4294967296.0 : 256;
  KILN_TRY(fixed_params(it, (tanh ? 2 : 1) / steps, tanh ? (d == KILN_U8 ? 128 : 0) : d == KILN_I8 ? -128 : 0, d, &p));
  ts_value result;
  KILN_TRY(plain_call(it, c, false, &result));
  value *x = result.kind == TSV_TENSOR ? lower_value(&it->b, result.u.tensor) : NULL;
  return quantized_from_real(it, x, &p, out);
}

static kiln_status copy_into(interp *it, const ts_call *c, ts_value *out) {
  const ts_value target = quantized_arg(c, 0, "self"), source = quantized_arg(c, 1, "src");
  value *x = source.kind == TSV_QTENSOR  ? quantized_real(it, source.u.qtensor)
             : source.kind == TSV_TENSOR ? lower_value(&it->b, source.u.tensor)
                                         : NULL;
  if (!x) return IT_FAIL(it, KILN_INVALID_FILE, "%s: the source is %s", c->name, interp_kind_name(&source));
  if (target.kind == TSV_TENSOR) {
    *out = target;
    return lower_write(&it->b, target.u.tensor, x);
  }
  const quantized_params p = params_like(target.u.qtensor);
  KILN_TRY(quantized_from_real(it, x, &p, out));
  return write_back(it, target.u.qtensor, out);
}

/* ---- ops.quantized.* without packed parameters
 * ----------------------------------------------------------------------------------- */

static bool fused_relu(const ts_call *c) { return str_ends(c->name, "_relu") && !str_ends(c->name, "leaky_relu"); }

/* aten::`name` on the values of x and what else, then relu if the name says so, then quantized to arguments `at`, `at +
 * 1`. */
static kiln_status through(interp *it, const ts_call *c, const char *name, int n, const ts_value *args, int at,
                           ts_value *out) {
  const ts_qtensor *q = first_quantized(c);
  quantized_params p;
  value *x;
  if (!q) return IT_FAIL(it, KILN_INVALID_FILE, "%s: there is no quantized tensor among the arguments", c->name);
  KILN_TRY(quantized_params_of(it, c, at, q->integers->v->type.dtype, &p));
  KILN_TRY(quantized_aten(it, name, n, args, &x));
  if (fused_relu(c)) x = build(&it->b, "relu", IN(x), NO_ATTRS);
  return quantized_from_real(it, x, &p, out);
}

static kiln_status real_arg(interp *it, const ts_call *c, int at, const char *name, ts_value *out) {
  ts_qtensor *q;
  KILN_TRY(quantized_tensor(it, c, at, name, &q));
  return quantized_wrap(it, quantized_real(it, q), out);
}

/* x + number and x * number change how the same integers are read, and requantize only where those would leave their
 * range. */
static kiln_status add_number(interp *it, const ts_call *c, ts_qtensor *q, double y, ts_value *out) {
  const kiln_dtype dtype = q->integers->v->type.dtype;
  const double low = dtype == KILN_U8 ? 0 : -128, high = dtype == KILN_U8 ? 255 : 127;
  ts_value scale, zero;
  quantized_params p;
  KILN_TRY(interp_scalar(it, lower_value(&it->b, q->scale), TST_FLOAT, &scale));
  KILN_TRY(interp_scalar(it, lower_value(&it->b, q->zero_point), TST_INT, &zero));
  if (scale.kind != TSV_FLOAT || zero.kind != TSV_INT || !dim_is_const(zero.u.i) || dtype == KILN_I32)
    return IT_FAIL(it, KILN_UNSUPPORTED, "%s: of a number and a tensor whose scale depends on data is not supported",
                   c->name);
  const double moved = (double)zero.u.i - nearbyint(y / scale.u.f);
  double new_scale = scale.u.f, new_zero = moved;
  if (low > moved) {
    new_scale = (high - moved) / (high - low) * scale.u.f;
    new_zero = low;
  } else if (high < moved) {
    new_scale = (moved - low) / (high - low) * scale.u.f;
    new_zero = high;
  }
  KILN_TRY(fixed_params(it, new_scale, (int64_t)new_zero, dtype, &p));
  value *steps = lower_cast(&it->b, lower_value(&it->b, q->integers), KILN_F32);
  steps = steps ? lower_binary(&it->b, "sub", steps, graph_scalar(it->g, KILN_F32, moved)) : NULL;
  if (new_scale != scale.u.f && steps)
    steps = lower_binary(&it->b, "mul", lower_binary(&it->b, "mul", steps, graph_scalar(it->g, KILN_F32, scale.u.f)),
                         graph_scalar(it->g, KILN_F32, (double)(1.0F / (float)new_scale)));
  if (fused_relu(c)) steps = build(&it->b, "relu", IN(steps), NO_ATTRS);
  return quantized_from_steps(it, steps, &p, out);
}

static kiln_status multiply_number(interp *it, const ts_call *c, ts_qtensor *q, double y, ts_value *out) {
  const kiln_dtype dtype = q->integers->v->type.dtype;
  const double ends = dtype == KILN_U8 ? 255 : -1; /* smallest + largest */
  ts_value scale, zero;
  quantized_params p;
  KILN_TRY(interp_scalar(it, lower_value(&it->b, q->scale), TST_FLOAT, &scale));
  KILN_TRY(interp_scalar(it, lower_value(&it->b, q->zero_point), TST_INT, &zero));
  if (scale.kind != TSV_FLOAT || zero.kind != TSV_INT || !dim_is_const(zero.u.i) || dtype == KILN_I32)
    return IT_FAIL(it, KILN_UNSUPPORTED, "%s: of a number and a tensor whose scale depends on data is not supported",
                   c->name);
  const double z = (double)zero.u.i, new_zero = y < 0 ? ends - z : y == 0 ? 0 : z;
  KILN_TRY(fixed_params(it, y == 0 ? 0.1 : scale.u.f * fabs(y), (int64_t)new_zero, dtype, &p));
  value *steps = lower_cast(&it->b, lower_value(&it->b, q->integers), KILN_F32);
  steps = steps ? lower_binary(&it->b, "sub", steps, graph_scalar(it->g, KILN_F32, z)) : NULL;
  if (steps && y <= 0) steps = lower_binary(&it->b, "mul", steps, graph_scalar(it->g, KILN_F32, y < 0 ? -1 : 0));
  if (fused_relu(c)) steps = build(&it->b, "relu", IN(steps), NO_ATTRS);
  return quantized_from_steps(it, steps, &p, out);
}

static kiln_status add_or_multiply(interp *it, const ts_call *c, ts_value *out) {
  const bool add = str_starts(c->name, "quantized.add");
  const ts_value y = quantized_arg(c, 1, c->n > 2 ? "qb" : "b");
  ts_qtensor *q;
  ts_value args[2];
  KILN_TRY(quantized_tensor(it, c, 0, "qa", &q));
  if (y.kind == TSV_INT || y.kind == TSV_FLOAT) {
    if (y.kind == TSV_INT && !dim_is_const(y.u.i))
      return IT_FAIL(it, KILN_UNSUPPORTED, "%s: the number depends on a size", c->name);
    const double number = y.kind == TSV_INT ? (double)y.u.i : y.u.f;
    return add ? add_number(it, c, q, number, out) : multiply_number(it, c, q, number, out);
  }
  KILN_TRY(real_arg(it, c, 0, "qa", &args[0]));
  KILN_TRY(real_arg(it, c, 1, "qb", &args[1]));
  return through(it, c, add ? "aten::add" : "aten::mul", 2, args, 2, out);
}

static kiln_status matmul_values(interp *it, const ts_call *c, ts_value *out) {
  ts_value args[2];
  KILN_TRY(real_arg(it, c, 0, "qa", &args[0]));
  KILN_TRY(real_arg(it, c, 1, "qb", &args[1]));
  return through(it, c, "aten::matmul", 2, args, 2, out);
}

static kiln_status concatenate(interp *it, const ts_call *c, ts_value *out) {
  const ts_value list = quantized_arg(c, 0, "qx"), scale = quantized_arg(c, 2, "scale");
  const ts_qtensor *first = first_quantized(c);
  ts_value args[2] = {of_none(), quantized_arg(c, 1, "dim")};
  quantized_params p;
  value *x;
  if (!first || (list.kind != TSV_LIST && list.kind != TSV_TUPLE))
    return IT_FAIL(it, KILN_INVALID_FILE, "%s: expected a list of quantized tensors", c->name);
  KILN_TRY(plain_argument(it, false, &list, &args[0]));
  KILN_TRY(quantized_aten(it, "aten::cat", 2, args, &x));
  if (fused_relu(c)) x = build(&it->b, "relu", IN(x), NO_ATTRS);
  p = params_like(first);
  if (scale.kind != TSV_NONE) KILN_TRY(quantized_params_of(it, c, 2, p.dtype, &p));
  return quantized_from_real(it, x, &p, out);
}

/* Activations whose other arguments follow the output's scale and zero point. */
static kiln_status activation(interp *it, const ts_call *c, ts_value *out) {
  const char *name = c->name + strlen("quantized.");
  ts_value args[4];
  int n = 1;
  KILN_TRY(real_arg(it, c, 0, "input", &args[0]));
  for (int i = 3; i < c->n && n < 4; i++) args[n++] = c->args[i];
  char qualified[64];
  (void)snprintf(qualified, sizeof qualified, "aten::%s", name);
  return through(it, c, qualified, n, args, 1, out);
}

static kiln_status leaky_relu(interp *it, const ts_call *c, ts_value *out) {
  ts_value args[2] = {of_none(), quantized_arg(c, 1, "negative_slope")};
  KILN_TRY(real_arg(it, c, 0, "qx", &args[0]));
  return through(it, c, "aten::leaky_relu", 2, args, 3, out);
}

static kiln_status softmax(interp *it, const ts_call *c, ts_value *out) {
  ts_value args[2] = {of_none(), quantized_arg(c, 1, "dim")};
  KILN_TRY(real_arg(it, c, 0, "qx", &args[0]));
  return through(it, c, "aten::softmax", 2, args, 2, out);
}

/* layer_norm(input, shape, weight, bias, eps, scale, zero_point); group_norm is the same with a number of groups. */
static kiln_status layer_or_group_norm(interp *it, const ts_call *c, ts_value *out) {
  const bool layer = str_ends(c->name, "layer_norm");
  ts_value args[5] = {of_none(), quantized_arg(c, 1, layer ? "normalized_shape" : "num_groups"),
                      quantized_arg(c, 2, "weight"), quantized_arg(c, 3, "bias"), quantized_arg(c, 4, "eps")};
  KILN_TRY(real_arg(it, c, 0, layer ? "input" : "qx", &args[0]));
  return through(it, c, layer ? "aten::layer_norm" : "aten::group_norm", 5, args, 5, out);
}

static kiln_status instance_norm(interp *it, const ts_call *c, ts_value *out) {
  ts_value args[9] = {of_none(),
                      quantized_arg(c, 1, "weight"),
                      quantized_arg(c, 2, "bias"),
                      of_none(),
                      of_none(),
                      of_bool(true),
                      of_float(0),
                      quantized_arg(c, 3, "eps"),
                      of_bool(false)};
  KILN_TRY(real_arg(it, c, 0, "input", &args[0]));
  return through(it, c, "aten::instance_norm", 9, args, 4, out);
}

/* batch_norm2d(qx, weight, bias, mean, var, eps, scale, zero_point) */
static kiln_status batch_norm(interp *it, const ts_call *c, ts_value *out) {
  ts_value args[9] = {of_none(),
                      quantized_arg(c, 1, "weight"),
                      quantized_arg(c, 2, "bias"),
                      quantized_arg(c, 3, "mean"),
                      quantized_arg(c, 4, "var"),
                      of_bool(false),
                      of_float(0),
                      quantized_arg(c, 5, "eps"),
                      of_bool(false)};
  KILN_TRY(real_arg(it, c, 0, "qx", &args[0]));
  return through(it, c, "aten::batch_norm", 9, args, 6, out);
}

/* relu6, threshold, clamp: quantized as their argument. */
static kiln_status same_params(interp *it, const ts_call *c, ts_value *out) {
  const bool relu6 = str_ends(c->name, "relu6");
  const ts_call call = {
      .name = c->name + strlen("quantized."), .n = relu6 ? 1 : c->n, .args = c->args, .names = c->names};
  return keeps_params(it, &call, out);
}

static kiln_status identity(interp *it, const ts_call *c, ts_value *out) {
  (void)it;
  *out = quantized_arg(c, 0, "input");
  return KILN_OK;
}

/* ---- Rows
 * --------------------------------------------------------------------------------------------------------------------------
 */

/* These are about quantized tensors whatever their arguments are. */
static const quantized_row own_rows[] = {{"quantize_per_tensor", quantize_per_tensor},
                                         {"quantize_per_tensor_dynamic", quantize_dynamic},
                                         {"quantize_per_channel", quantize_per_channel},
                                         {"_make_per_tensor_quantized_tensor", make_per_tensor},
                                         {"dequantize", dequantize},
                                         {"int_repr", int_repr},
                                         {"q_scale", q_scale},
                                         {"q_zero_point", q_zero_point},
                                         {"q_per_channel_scales", q_per_channel},
                                         {"q_per_channel_zero_points", q_per_channel},
                                         {"q_per_channel_axis", q_per_channel},
                                         {"qscheme", scheme},
                                         {"prim.is_quantized", is_quantized},
                                         {"quantized.add", add_or_multiply},
                                         {"quantized.add_relu", add_or_multiply},
                                         {"quantized.add_scalar", add_or_multiply},
                                         {"quantized.add_scalar_relu", add_or_multiply},
                                         {"quantized.mul", add_or_multiply},
                                         {"quantized.mul_relu", add_or_multiply},
                                         {"quantized.mul_scalar", add_or_multiply},
                                         {"quantized.mul_scalar_relu", add_or_multiply},
                                         {"quantized.matmul", matmul_values},
                                         {"quantized.cat", concatenate},
                                         {"quantized.cat_relu", concatenate},
                                         {"quantized.hardswish", activation},
                                         {"quantized.elu", activation},
                                         {"quantized.celu", activation},
                                         {"quantized.sigmoid", activation},
                                         {"quantized.leaky_relu", leaky_relu},
                                         {"quantized.softmax", softmax},
                                         {"quantized.layer_norm", layer_or_group_norm},
                                         {"quantized.group_norm", layer_or_group_norm},
                                         {"quantized.instance_norm", instance_norm},
                                         {"quantized.batch_norm", batch_norm},
                                         {"quantized.batch_norm_relu", batch_norm},
                                         {"quantized.batch_norm1d", batch_norm},
                                         {"quantized.batch_norm1d_relu", batch_norm},
                                         {"quantized.batch_norm2d", batch_norm},
                                         {"quantized.batch_norm2d_relu", batch_norm},
                                         {"quantized.batch_norm3d", batch_norm},
                                         {"quantized.batch_norm3d_relu", batch_norm},
                                         {"quantized.relu6", same_params},
                                         {"quantized.threshold", same_params},
                                         {"quantized.clamp", same_params},
                                         {"quantized.dropout", identity},
                                         {NULL, NULL}};

/* These, when one of their arguments is quantized. */
static const struct {
  const char *names; /* between spaces */
  quantized_fn fn;
} other_rows[] = {
    {" size sizes dim len numel stride is_contiguous prim.device prim.is_cuda prim.layout prim.requires_grad "
     "is_complex prim.shape "
     "prim.ndim prim.is_sparse prim.is_mkldnn ",
     on_integers},
    {" prim.dtype ", element_type},
    {" is_floating_point ", is_not_float},
    {" view reshape flatten unflatten permute transpose t unsqueeze squeeze select slice narrow expand expand_as "
     "unbind chunk split "
     "split_with_sizes tensor_split contiguous clone detach alias repeat index_select flip roll movedim swapaxes "
     "swapdims pixel_shuffle "
     "pixel_unshuffle channel_shuffle view_as reshape_as ravel numpy_T index gather unfold ",
     moves_integers},
    {" relu relu_ relu6 relu6_ hardtanh hardtanh_ clamp clamp_ clamp_min clamp_max leaky_relu leaky_relu_ threshold "
     "threshold_ gelu "
     "max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d "
     "adaptive_avg_pool3d "
     "mean max min amax amin sort topk median upsample_nearest1d upsample_nearest2d upsample_nearest3d "
     "_upsample_nearest_exact2d "
     "upsample_linear1d upsample_bilinear2d upsample_trilinear3d constant_pad_nd pad reflection_pad1d reflection_pad2d "
     "replication_pad1d "
     "replication_pad2d cat stack masked_fill masked_fill_ fill_ zero_ where dropout feature_dropout index_put_ ",
     keeps_params},
    {" sigmoid hardsigmoid tanh ", bounded},
    {" copy_ ", copy_into},
    {" eq ne lt le gt ge equal argmax argmin isnan isinf item to_mkldnn ", on_values},
};

/* As the interpreter names it: "aten::relu" is "relu", "quantized::linear" is "quantized.linear". */
static quantized_fn row_fn(const char *name) {
  for (const quantized_row *r = own_rows; r->name; r++)
    if (str_eq(r->name, name)) return r->fn;
  for (const quantized_row *r = quantized_layer_rows; r->name; r++)
    if (str_eq(r->name, name)) return r->fn;
  return NULL;
}

bool quantized_takes(const ts_call *c) {
  if (str_starts(c->name, "quantized.") || row_fn(c->name)) return true;
  /* Containers and comparisons with None are not about what is in them. */
  if (c->n < 1 || str_starts(c->name, "__is") || str_eq(c->name, "_unwrap_optional")) return false;
  if (c->args[0].kind == TSV_QTENSOR || str_eq(c->name, "copy_")) return first_quantized(c) != NULL;
  return (str_eq(c->name, "cat") || str_eq(c->name, "stack")) && first_quantized(c);
}

bool quantized_exists(const char *qualified) {
  char name[96];
  if (str_starts(qualified, "aten::")) return row_fn(qualified + 6) != NULL;
  const char *colons = strstr(qualified, "::");
  const int n = snprintf(name, sizeof name, "%.*s.%s", colons ? (int)(colons - qualified) : 0, qualified,
                         colons ? colons + 2 : "");
  return colons && n > 0 && (size_t)n < sizeof name && row_fn(name);
}

/* to(dtype, ...), to(device, ...): quantized tensors stay what they are. */
static kiln_status converted(interp *it, const ts_call *c, ts_value *out) {
  const ts_value type = quantized_arg(c, 1, "dtype");
  const ts_qtensor *q = first_quantized(c);
  if (!q || c->args[0].kind != TSV_QTENSOR || (type.kind == TSV_INT && type.u.i != code_of(q->integers->v->type.dtype)))
    return IT_FAIL(it, KILN_UNSUPPORTED, "%s: conversion of a quantized tensor; use dequantize()", c->name);
  *out = c->args[0];
  return KILN_OK;
}

static bool has_word(const char *words, const char *word) {
  const size_t length = strlen(word);
  if (!length) return false;
  for (const char *p = words + 1; (p = strstr(p, word)); p++)
    if (p[-1] == ' ' && p[length] == ' ') return true;
  return false;
}

kiln_status quantized_call(interp *it, const ts_call *c, ts_value *out) {
  const quantized_fn fn = row_fn(c->name);
  if (fn) return fn(it, c, out);
  if (str_starts(c->name, "quantized.")) return IT_FAIL(it, KILN_UNSUPPORTED, "operator %s is not supported", c->name);
  if (str_eq(c->name, "to") || str_eq(c->name, "cpu")) return converted(it, c, out);
  for (size_t i = 0; i < KILN_COUNT(other_rows); i++)
    if (has_word(other_rows[i].names, c->name)) return other_rows[i].fn(it, c, out);
  return IT_FAIL(it, KILN_UNSUPPORTED, "operator %s is not supported for quantized tensors; dequantize() its arguments",
                 c->name);
}
