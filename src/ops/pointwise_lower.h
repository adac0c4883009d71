/* Lowerings of PyTorch calls that pointwise.c lists. */
#ifndef KILN_OPS_POINTWISE_LOWER_H
#define KILN_OPS_POINTWISE_LOWER_H

#include "ops/lowering.h"

kiln_status lower_unary(lower_call *c);
kiln_status lower_unary_float(lower_call *c);
kiln_status lower_bitwise_not(lower_call *c);
kiln_status lower_two(lower_call *c);
kiln_status lower_two_float(lower_call *c);
kiln_status lower_add_sub(lower_call *c);
kiln_status lower_rsub(lower_call *c);
kiln_status lower_div_mode(lower_call *c);
kiln_status lower_pow(lower_call *c);
kiln_status lower_float_power(lower_call *c);
kiln_status lower_clamp(lower_call *c);
kiln_status lower_clamp_min(lower_call *c);
kiln_status lower_clamp_max(lower_call *c);
kiln_status lower_hardtanh(lower_call *c);
kiln_status lower_relu6(lower_call *c);
kiln_status lower_gelu(lower_call *c);
kiln_status lower_celu(lower_call *c);
kiln_status lower_rrelu(lower_call *c);
kiln_status lower_prelu(lower_call *c);
kiln_status lower_glu(lower_call *c);
kiln_status lower_logit(lower_call *c);
kiln_status lower_where(lower_call *c);
kiln_status lower_masked_fill(lower_call *c);
kiln_status lower_fmax_fmin(lower_call *c);
kiln_status lower_nan_to_num(lower_call *c);
kiln_status lower_isfinite(lower_call *c);
kiln_status lower_isposinf(lower_call *c);
kiln_status lower_isneginf(lower_call *c);
kiln_status lower_angle(lower_call *c);
kiln_status lower_signbit(lower_call *c);
kiln_status lower_copysign(lower_call *c);
kiln_status lower_isclose(lower_call *c);
kiln_status lower_addcmul(lower_call *c);
kiln_status lower_addcdiv(lower_call *c);
kiln_status lower_lerp(lower_call *c);
kiln_status lower_xlogy(lower_call *c);
kiln_status lower_hypot(lower_call *c);
kiln_status lower_heaviside(lower_call *c);
kiln_status lower_logaddexp(lower_call *c);
kiln_status lower_logaddexp2(lower_call *c);
kiln_status lower_sinc(lower_call *c);
kiln_status lower_ndtr(lower_call *c);
kiln_status lower_deg2rad(lower_call *c);
kiln_status lower_rad2deg(lower_call *c);
kiln_status lower_round_decimals(lower_call *c);

#endif
