/* PyTorch's pointwise calls that are more than one row: promotion, alpha, rounding modes, and those that have no
 * row. */
#include <float.h>
#include <math.h>
#include <stdlib.h>

#include "ops/pointwise_lower.h"

static const char *first(const lower_call *c) { return c->schema->args[0].name; }
static const char *second(const lower_call *c) { return c->schema->args[1].name; }
static const char *own_name(const lower_call *c) { return c->schema->op->name; }

static value *unary(builder *b, const char *name, value *x) { return build(b, name, IN(x), NO_ATTRS); }

/* lower_binary with a number of the dtype of x. */
static value *with_number(builder *b, const char *name, value *x, double number) {
  return lower_binary(b, name, x, lowering_scalar_like(b, x, number));
}

static value *where(builder *b, value *condition, value *x, value *y) {
  return build(b, "where", IN(condition, x, y), NO_ATTRS);
}

kiln_status lower_unary(lower_call *c) {
  value *x;
  KILN_TRY(lowering_tensor(c, first(c), &x));
  call_return(c, 0, unary(&c->b, own_name(c), x));
  return KILN_OK;
}

kiln_status lower_unary_float(lower_call *c) {
  value *x;
  KILN_TRY(lowering_tensor(c, first(c), &x));
  call_return(c, 0, unary(&c->b, own_name(c), lowering_float(&c->b, x)));
  return KILN_OK;
}

kiln_status lower_bitwise_not(lower_call *c) {
  value *x;
  KILN_TRY(lowering_tensor(c, first(c), &x));
  call_return(c, 0, unary(&c->b, x->type.dtype == KILN_BOOL ? "logical_not" : "bitwise_not", x));
  return KILN_OK;
}

/* The first two arguments, promoted. */
static kiln_status two(lower_call *c, value **x, value **y) {
  KILN_TRY(lowering_tensor(c, first(c), x));
  KILN_TRY(lowering_tensor(c, second(c), y));
  lower_promote(&c->b, x, lowering_is_number(c, first(c)), y, lowering_is_number(c, second(c)));
  LOWER_NEED(c, *x);
  LOWER_NEED(c, *y);
  return KILN_OK;
}

kiln_status lower_two(lower_call *c) {
  value *x, *y;
  KILN_TRY(two(c, &x, &y));
  call_return(c, 0, lower_binary(&c->b, own_name(c), x, y));
  return KILN_OK;
}

kiln_status lower_two_float(lower_call *c) {
  value *x, *y;
  KILN_TRY(two(c, &x, &y));
  call_return(c, 0, lower_binary(&c->b, own_name(c), lowering_float(&c->b, x), lowering_float(&c->b, y)));
  return KILN_OK;
}

/* y * alpha, in the dtype of y. */
static value *scaled(lower_call *c, value *y, const char *name) {
  const ivalue *alpha = call_arg(c, name);
  if (!alpha || (alpha->kind == IV_INT && alpha->u.i == 1) || (alpha->kind == IV_FLOAT && alpha->u.f == 1)) return y;
  value *a = call_tensor(c, name);
  return y && a ? lower_binary(&c->b, "mul", y, lower_cast(&c->b, a, y->type.dtype)) : NULL;
}

kiln_status lower_add_sub(lower_call *c) {
  value *x, *y;
  KILN_TRY(two(c, &x, &y));
  call_return(c, 0, lower_binary(&c->b, own_name(c), x, scaled(c, y, "alpha")));
  return KILN_OK;
}

kiln_status lower_rsub(lower_call *c) {
  value *x, *y;
  KILN_TRY(two(c, &x, &y));
  call_return(c, 0, lower_binary(&c->b, "sub", y, scaled(c, x, "alpha")));
  return KILN_OK;
}

kiln_status lower_div_mode(lower_call *c) {
  value *x, *y;
  KILN_TRY(two(c, &x, &y));
  const char *mode = call_str(c, "rounding_mode");
  if (!mode) {
    call_return(c, 0, lower_binary(&c->b, "div", lowering_float(&c->b, x), lowering_float(&c->b, y)));
  } else if (str_eq(mode, "floor")) {
    call_return(c, 0, lower_binary(&c->b, "floor_div", x, y));
  } else if (str_eq(mode, "trunc")) {
    call_return(c, 0, lower_binary(&c->b, "trunc_div", x, y));
  } else {
    return LOWER_FAIL(c, "argument rounding_mode is \"%s\", expected None, \"floor\" or \"trunc\"", mode);
  }
  return KILN_OK;
}

/* Small constant powers as PyTorch's CPU kernels do them. */
static value *power(builder *b, value *x, double e) {
  if (e == 1) return x;
  if (e == 2) return unary(b, "square", x);
  if (e == 3) return lower_binary(b, "mul", unary(b, "square", x), x);
  if (x && dtype_is_float(x->type.dtype)) {
    if (e == 0.5) return unary(b, "sqrt", x);
    if (e == -0.5) return unary(b, "rsqrt", x);
    if (e == -1) return unary(b, "reciprocal", x);
    if (e == -2) return unary(b, "reciprocal", unary(b, "square", x));
  }
  return with_number(b, "pow", x, e);
}

kiln_status lower_pow(lower_call *c) {
  value *x, *y;
  KILN_TRY(two(c, &x, &y));
  const ivalue *e = call_arg(c, second(c));
  if (e->kind == IV_FLOAT) {
    call_return(c, 0, power(&c->b, x, e->u.f));
  } else if (e->kind == IV_INT && dim_is_const(e->u.i) && llabs(e->u.i) < 1 << 20) {
    call_return(c, 0, power(&c->b, x, (double)e->u.i));
  } else {
    call_return(c, 0, lower_binary(&c->b, "pow", x, y));
  }
  return KILN_OK;
}

kiln_status lower_float_power(lower_call *c) {
  value *x, *y;
  KILN_TRY(two(c, &x, &y));
  call_return(c, 0, lower_binary(&c->b, "pow", lower_cast(&c->b, x, KILN_F64), lower_cast(&c->b, y, KILN_F64)));
  return KILN_OK;
}

/* ---- clamp ------------------------------------------------------------------------------------------------------- */

/* One bound of a clamp. A constant number that a float attribute holds exactly goes to *number, anything else is
 * applied to *x. */
static kiln_status bound(lower_call *c, const char *name, const char *op_name, value **x, double *number) {
  if (call_is_none(c, name)) return KILN_OK;
  const ivalue *v = call_arg(c, name);
  value *limit;
  KILN_TRY(lowering_tensor(c, name, &limit));
  lower_promote(&c->b, x, false, &limit, lowering_is_number(c, name));
  LOWER_NEED(c, *x);
  const bool small = v->kind == IV_INT && dim_is_const(v->u.i) && llabs(v->u.i) <= (INT64_C(1) << 53);
  if (v->kind == IV_FLOAT || v->kind == IV_BOOL || small) {
    *number = v->kind == IV_FLOAT ? v->u.f : (double)v->u.i;
  } else {
    *x = lower_binary(&c->b, op_name, *x, limit);
  }
  return KILN_OK;
}

static kiln_status clamp(lower_call *c, const char *low, const char *high) {
  value *x;
  KILN_TRY(lowering_tensor(c, first(c), &x));
  double min = -(double)INFINITY, max = (double)INFINITY;
  if (low) KILN_TRY(bound(c, low, "maximum", &x, &min));
  /* A tensor bound above a number below would be applied in the wrong order: min goes first. */
  if (min > -(double)INFINITY || min != min) {
    if (high && call_arg(c, high)->kind == IV_TENSOR) {
      x = build(&c->b, "clamp", IN(x), ATTRS(A_FLOAT("min", min)));
      min = -(double)INFINITY;
    }
  }
  if (high) KILN_TRY(bound(c, high, "minimum", &x, &max));
  if (min != -(double)INFINITY || max != (double)INFINITY) {
    x = build(&c->b, "clamp", IN(x), ATTRS(A_FLOAT("min", min), A_FLOAT("max", max)));
  }
  call_return(c, 0, x);
  return KILN_OK;
}

kiln_status lower_clamp(lower_call *c) { return clamp(c, "min", "max"); }
kiln_status lower_clamp_min(lower_call *c) { return clamp(c, "min", NULL); }
kiln_status lower_clamp_max(lower_call *c) { return clamp(c, NULL, "max"); }

kiln_status lower_hardtanh(lower_call *c) {
  value *x;
  KILN_TRY(lowering_tensor(c, first(c), &x));
  if (dtype_is_float(x->type.dtype)) return clamp(c, "min_val", "max_val");
  const double min = trunc(call_float(c, "min_val")), max = trunc(call_float(c, "max_val")); /* in the dtype of x */
  call_return(c, 0, build(&c->b, "clamp", IN(x), ATTRS(A_FLOAT("min", min), A_FLOAT("max", max))));
  return KILN_OK;
}

kiln_status lower_relu6(lower_call *c) {
  value *x;
  KILN_TRY(lowering_tensor(c, first(c), &x));
  call_return(c, 0, build(&c->b, "clamp", IN(x), ATTRS(A_FLOAT("min", 0), A_FLOAT("max", 6))));
  return KILN_OK;
}

/* ---- activations ------------------------------------------------------------------------------------------------- */

kiln_status lower_gelu(lower_call *c) {
  value *x;
  KILN_TRY(lowering_tensor(c, first(c), &x));
  call_return(c, 0, unary(&c->b, str_eq(call_str(c, "approximate"), "tanh") ? "gelu_tanh" : "gelu", x));
  return KILN_OK;
}

kiln_status lower_celu(lower_call *c) {
  value *x;
  KILN_TRY(lowering_tensor(c, first(c), &x));
  const double alpha = call_float(c, "alpha");
  if (alpha == 0) return LOWER_FAIL(c, "argument alpha is 0, expected another number");
  call_return(c, 0, build(&c->b, "elu", IN(x), ATTRS(A_FLOAT("alpha", alpha), A_FLOAT("input_scale", 1 / alpha))));
  return KILN_OK;
}

kiln_status lower_rrelu(lower_call *c) {
  value *x;
  KILN_TRY(lowering_tensor(c, first(c), &x));
  if (call_bool(c, "training")) return LOWER_FAIL(c, "training is True; call model.eval() before the export");
  const double slope = (call_float(c, "lower") + call_float(c, "upper")) / 2;
  call_return(c, 0, build(&c->b, "leaky_relu", IN(x), ATTRS(A_FLOAT("slope", slope))));
  if (c->n_results > 1) { /* rrelu_with_noise_functional hands the noise back */
    value *noise;
    KILN_TRY(lowering_tensor(c, "noise", &noise));
    call_return(c, 1, noise);
  }
  return KILN_OK;
}

/* prelu's weight has one element or one for each channel (axis 1). */
kiln_status lower_prelu(lower_call *c) {
  value *x, *w;
  KILN_TRY(lowering_tensor(c, first(c), &x));
  KILN_TRY(lowering_tensor(c, second(c), &w));
  if (w->type.rank == 1 && x->type.rank > 1) {
    dim dims[KILN_MAX_RANK];
    for (int i = 0; i < x->type.rank; i++) dims[i] = i == 1 ? w->type.dims[0] : 1;
    w = lower_reshape(&c->b, w, x->type.rank, dims);
  } else if (w->type.rank == 1 && x->type.rank == 0) {
    w = lowering_squeeze(&c->b, w, 0);
  }
  call_return(c, 0, lower_binary(&c->b, "prelu", x, w));
  return KILN_OK;
}

kiln_status lower_glu(lower_call *c) {
  value *x;
  KILN_TRY(lowering_tensor(c, first(c), &x));
  int axis;
  KILN_TRY(lowering_axis(c, "dim", x->type.rank, &axis));
  if (x->type.rank == 0) return LOWER_FAIL(c, "the input has no dimensions");
  const dim size = x->type.dims[axis], half = dim_floordiv(c->b.graph->dims, size, 2);
  value *left = lowering_slice(&c->b, x, axis, 0, half, 1), *right = lowering_slice(&c->b, x, axis, half, size, 1);
  call_return(c, 0, lower_binary(&c->b, "mul", left, unary(&c->b, "sigmoid", right)));
  return KILN_OK;
}

kiln_status lower_logit(lower_call *c) {
  value *x;
  KILN_TRY(lowering_tensor(c, first(c), &x));
  builder *b = &c->b;
  x = lowering_float(b, x);
  if (!call_is_none(c, "eps")) {
    const double eps = call_float(c, "eps");
    x = build(b, "clamp", IN(x), ATTRS(A_FLOAT("min", eps), A_FLOAT("max", 1 - eps)));
  }
  value *one = lowering_scalar_like(b, x, 1);
  call_return(c, 0, unary(b, "log", lower_binary(b, "div", x, lower_binary(b, "sub", one, x))));
  return KILN_OK;
}

/* ---- choosing ---------------------------------------------------------------------------------------------------- */

kiln_status lower_where(lower_call *c) {
  value *condition, *x, *y;
  KILN_TRY(lowering_tensor(c, "condition", &condition));
  KILN_TRY(lowering_tensor(c, "self", &x));
  KILN_TRY(lowering_tensor(c, "other", &y));
  lower_promote(&c->b, &x, lowering_is_number(c, "self"), &y, lowering_is_number(c, "other"));
  call_return(c, 0, where(&c->b, lower_cast(&c->b, condition, KILN_BOOL), x, y));
  return KILN_OK;
}

kiln_status lower_masked_fill(lower_call *c) {
  value *x, *mask, *fill;
  KILN_TRY(lowering_tensor(c, "self", &x));
  KILN_TRY(lowering_tensor(c, "mask", &mask));
  KILN_TRY(lowering_tensor(c, "value", &fill));
  fill = lower_cast(&c->b, fill, x->type.dtype);
  call_return(c, 0, where(&c->b, lower_cast(&c->b, mask, KILN_BOOL), fill, x));
  return KILN_OK;
}

/* The other operand where one is NaN. */
kiln_status lower_fmax_fmin(lower_call *c) {
  value *x, *y;
  KILN_TRY(two(c, &x, &y));
  builder *b = &c->b;
  value *both = lower_binary(b, own_name(c), x, y);
  if (dtype_is_float(x->type.dtype)) {
    both = where(b, unary(b, "isnan", x), y, where(b, unary(b, "isnan", y), x, both));
  }
  call_return(c, 0, both);
  return KILN_OK;
}

kiln_status lower_nan_to_num(lower_call *c) {
  value *x;
  KILN_TRY(lowering_tensor(c, "self", &x));
  builder *b = &c->b;
  if (dtype_is_float(x->type.dtype)) {
    static const double largest[] = {
        [KILN_F32] = FLT_MAX, [KILN_F64] = DBL_MAX, [KILN_F16] = 65504, [KILN_BF16] = 0x1.fep127};
    const double max = largest[x->type.dtype], inf = (double)INFINITY;
    const double nan_value = call_is_none(c, "nan") ? 0 : call_float(c, "nan");
    const double high = call_is_none(c, "posinf") ? max : call_float(c, "posinf");
    const double low = call_is_none(c, "neginf") ? -max : call_float(c, "neginf");
    value *y = where(b, unary(b, "isnan", x), lowering_scalar_like(b, x, nan_value), x);
    y = where(b, with_number(b, "eq", x, inf), lowering_scalar_like(b, x, high), y);
    x = where(b, with_number(b, "eq", x, -inf), lowering_scalar_like(b, x, low), y);
  }
  call_return(c, 0, x);
  return KILN_OK;
}

/* ---- tests ------------------------------------------------------------------------------------------------------- */

static value *is_finite(builder *b, value *x) {
  if (!x) return NULL;
  if (!dtype_is_float(x->type.dtype)) return lower_binary(b, "eq", x, x);
  return with_number(b, "lt", unary(b, "abs", x), (double)INFINITY);
}

kiln_status lower_isfinite(lower_call *c) {
  value *x;
  KILN_TRY(lowering_tensor(c, "self", &x));
  call_return(c, 0, is_finite(&c->b, x));
  return KILN_OK;
}

static kiln_status is_infinity(lower_call *c, double which) {
  value *x;
  KILN_TRY(lowering_tensor(c, "self", &x));
  call_return(c, 0, with_number(&c->b, "eq", lowering_float(&c->b, x), which));
  return KILN_OK;
}
kiln_status lower_isposinf(lower_call *c) { return is_infinity(c, (double)INFINITY); }
kiln_status lower_isneginf(lower_call *c) { return is_infinity(c, -(double)INFINITY); }

/* Of real numbers: pi for negative ones. */
kiln_status lower_angle(lower_call *c) {
  value *x;
  builder *b = &c->b;
  KILN_TRY(lowering_tensor(c, "self", &x));
  x = lowering_float(b, x);
  LOWER_NEED(c, x);
  value *pi = lowering_scalar_like(b, x, 3.14159265358979323846), *zero = lowering_scalar_like(b, x, 0);
  value *y = build(b, "where", IN(with_number(b, "lt", x, 0), pi, zero), NO_ATTRS);
  call_return(c, 0, build(b, "where", IN(build(b, "isnan", IN(x), NO_ATTRS), x, y), NO_ATTRS));
  return KILN_OK;
}

/* True for -0 too, whose reciprocal is -inf. (The sign of a NaN is not looked at.) */
static value *sign_bit(builder *b, value *x) {
  if (!x) return NULL;
  value *negative = with_number(b, "lt", x, 0);
  if (!dtype_is_float(x->type.dtype)) return negative;
  return lower_binary(b, "logical_or", negative, with_number(b, "lt", unary(b, "reciprocal", x), 0));
}

kiln_status lower_signbit(lower_call *c) {
  value *x;
  KILN_TRY(lowering_tensor(c, "self", &x));
  call_return(c, 0, sign_bit(&c->b, x));
  return KILN_OK;
}

kiln_status lower_copysign(lower_call *c) {
  value *x, *y;
  KILN_TRY(two(c, &x, &y));
  builder *b = &c->b;
  value *size = unary(b, "abs", lowering_float(b, x));
  call_return(c, 0, where(b, sign_bit(b, lowering_float(b, y)), unary(b, "neg", size), size));
  return KILN_OK;
}

kiln_status lower_isclose(lower_call *c) {
  value *x, *y;
  KILN_TRY(two(c, &x, &y));
  builder *b = &c->b;
  x = lowering_float(b, x);
  y = lowering_float(b, y);
  value *limit = with_number(b, "mul", unary(b, "abs", y), call_float(c, "rtol"));
  limit = with_number(b, "add", limit, call_float(c, "atol"));
  value *near = lower_binary(b, "le", unary(b, "abs", lower_binary(b, "sub", x, y)), limit);
  near =
      lower_binary(b, "logical_or", lower_binary(b, "eq", x, y), lower_binary(b, "logical_and", near, is_finite(b, y)));
  if (call_bool(c, "equal_nan")) {
    near =
        lower_binary(b, "logical_or", near, lower_binary(b, "logical_and", unary(b, "isnan", x), unary(b, "isnan", y)));
  }
  call_return(c, 0, near);
  return KILN_OK;
}

/* ---- arithmetic of several rows ---------------------------------------------------------------------------------- */

/* self + value * tensor1 (* or /) tensor2 */
static kiln_status addc(lower_call *c, const char *op_name) {
  value *x, *t1, *t2;
  KILN_TRY(lowering_tensor(c, "self", &x));
  KILN_TRY(lowering_tensor(c, "tensor1", &t1));
  KILN_TRY(lowering_tensor(c, "tensor2", &t2));
  builder *b = &c->b;
  lower_promote(b, &t1, false, &t2, false);
  value *product = lower_binary(b, op_name, scaled(c, t1, "value"), t2);
  lower_promote(b, &x, false, &product, false);
  call_return(c, 0, lower_binary(b, "add", x, product));
  return KILN_OK;
}
kiln_status lower_addcmul(lower_call *c) { return addc(c, "mul"); }
kiln_status lower_addcdiv(lower_call *c) { return addc(c, "div"); }

kiln_status lower_lerp(lower_call *c) {
  value *x, *end, *weight;
  KILN_TRY(lowering_tensor(c, "self", &x));
  KILN_TRY(lowering_tensor(c, "end", &end));
  KILN_TRY(lowering_tensor(c, "weight", &weight));
  builder *b = &c->b;
  weight = lower_cast(b, weight, x->type.dtype);
  value *difference = lower_binary(b, "sub", end, x);
  call_return(c, 0, lower_binary(b, "add", x, lower_binary(b, "mul", weight, difference)));
  return KILN_OK;
}

kiln_status lower_xlogy(lower_call *c) {
  value *x, *y;
  KILN_TRY(two(c, &x, &y));
  builder *b = &c->b;
  x = lowering_float(b, x);
  y = lowering_float(b, y);
  value *product = lower_binary(b, "mul", x, unary(b, "log", y));
  value *result = where(b, with_number(b, "eq", x, 0), lowering_scalar_like(b, x, 0), product);
  call_return(c, 0, where(b, unary(b, "isnan", y), y, result));
  return KILN_OK;
}

kiln_status lower_hypot(lower_call *c) {
  value *x, *y;
  KILN_TRY(two(c, &x, &y));
  builder *b = &c->b;
  call_return(c, 0, unary(b, "sqrt", lower_binary(b, "add", unary(b, "square", x), unary(b, "square", y))));
  return KILN_OK;
}

kiln_status lower_heaviside(lower_call *c) {
  value *x, *y;
  KILN_TRY(two(c, &x, &y));
  builder *b = &c->b;
  value *step = lower_cast(b, with_number(b, "gt", x, 0), x->type.dtype);
  call_return(c, 0, where(b, with_number(b, "eq", x, 0), y, step));
  return KILN_OK;
}

/* max + log(1 + exp(-|x - y|)), in natural or binary logarithms; equal infinities are their own result. */
static kiln_status log_add_exp(lower_call *c, double ln_base, const char *exp_name) {
  value *x, *y;
  KILN_TRY(two(c, &x, &y));
  builder *b = &c->b;
  value *distance = unary(b, "neg", unary(b, "abs", lower_binary(b, "sub", x, y)));
  value *tail = unary(b, "log1p", unary(b, exp_name, distance));
  if (ln_base != 1) tail = with_number(b, "mul", tail, 1 / ln_base);
  value *sum = lower_binary(b, "add", lower_binary(b, "maximum", x, y), tail);
  value *same = lower_binary(b, "logical_and", lower_binary(b, "eq", x, y), unary(b, "isinf", x));
  call_return(c, 0, where(b, same, x, sum));
  return KILN_OK;
}
kiln_status lower_logaddexp(lower_call *c) { return log_add_exp(c, 1, "exp"); }
kiln_status lower_logaddexp2(lower_call *c) { return log_add_exp(c, 0.69314718055994530942, "exp2"); }

kiln_status lower_sinc(lower_call *c) {
  value *x;
  KILN_TRY(lowering_tensor(c, "self", &x));
  builder *b = &c->b;
  value *px = with_number(b, "mul", lowering_float(b, x), 3.14159265358979323846);
  value *ratio = lower_binary(b, "div", unary(b, "sin", px), px);
  call_return(c, 0, where(b, with_number(b, "eq", px, 0), lowering_scalar_like(b, px, 1), ratio));
  return KILN_OK;
}

kiln_status lower_ndtr(lower_call *c) {
  value *x;
  KILN_TRY(lowering_tensor(c, "self", &x));
  builder *b = &c->b;
  x = with_number(b, "mul", lowering_float(b, x), -0.70710678118654752440);
  call_return(c, 0, with_number(b, "mul", unary(b, "erfc", x), 0.5));
  return KILN_OK;
}

static kiln_status times(lower_call *c, double factor) {
  value *x;
  KILN_TRY(lowering_tensor(c, "self", &x));
  call_return(c, 0, with_number(&c->b, "mul", lowering_float(&c->b, x), factor));
  return KILN_OK;
}
kiln_status lower_deg2rad(lower_call *c) { return times(c, 0.017453292519943295769); }
kiln_status lower_rad2deg(lower_call *c) { return times(c, 57.295779513082320877); }

kiln_status lower_round_decimals(lower_call *c) {
  value *x;
  KILN_TRY(lowering_tensor(c, "self", &x));
  const dim decimals = call_int(c, "decimals");
  if (!dim_is_const(decimals) || decimals < -300 || decimals > 300)
    return LOWER_FAIL(c, "argument decimals is out of range");
  builder *b = &c->b;
  const double ten = pow(10, (double)llabs(decimals));
  x = with_number(b, decimals < 0 ? "div" : "mul", x, ten);
  call_return(c, 0, with_number(b, decimals < 0 ? "mul" : "div", unary(b, "round", x), ten));
  return KILN_OK;
}
