/* The pointwise operators, one X-macro row each. No include guard: include it wherever the list is needed and expand
 *     POINTWISE_ROWS(F, FI, I)
 * with   F (name, arity, result, attrs, flags, tolerance, cases, expression)                      float operands only
 *        FI(name, arity, result, attrs, flags, tolerance, cases, expression, integer_expression)  any operands
 *        I (name, arity, result, attrs, flags, tolerance, cases, integer_expression)              integers and bool
 * only result is SAME (dtype of the last operand) or BOOL. Expressions are in x, y, z (operands) and p0, p1, p2 (float
 * attributes in order) over the functions of ops/scalar_math.h; literals are written K(0.5) so that each backend picks
 * its scalar type. Comparisons are written so that NaN comes out as PyTorch's CPU kernels give it. Tolerance: of f32
 * kernels, relative to 1 + |reference|. */

#define POINTWISE_UNARY_ROWS(F, FI, I)                                                                                 \
  FI(neg, 1, SAME, "", 0, 0, ANY1, -x, k_ineg(x))                                                                      \
  FI(abs, 1, SAME, "", 0, 0, ANY1, k_abs(x), k_iabs(x))                                                                \
  FI(relu, 1, SAME, "", 0, 0, ANY1, x < K(0) ? K(0) : x, x < 0 ? 0 : x)                                                \
  F(sigmoid, 1, SAME, "", 0, 1e-6f, FLOAT1, k_sigmoid(x))                                                              \
  F(tanh, 1, SAME, "", 0, 1e-6f, FLOAT1, k_tanh(x))                                                                    \
  F(exp, 1, SAME, "", 0, 1e-6f, FLOAT1, k_exp(x))                                                                      \
  F(exp2, 1, SAME, "", 0, 1e-6f, FLOAT1, k_exp2(x))                                                                    \
  F(expm1, 1, SAME, "", 0, 1e-6f, FLOAT1, k_expm1(x))                                                                  \
  F(log, 1, SAME, "", 0, 1e-6f, POSITIVE1, k_log(x))                                                                   \
  F(log2, 1, SAME, "", 0, 1e-6f, POSITIVE1, k_log2(x))                                                                 \
  F(log10, 1, SAME, "", 0, 1e-6f, POSITIVE1, k_log10(x))                                                               \
  F(log1p, 1, SAME, "", 0, 1e-6f, POSITIVE1, k_log1p(x))                                                               \
  F(sqrt, 1, SAME, "", 0, 1e-6f, POSITIVE1, k_sqrt(x))                                                                 \
  F(rsqrt, 1, SAME, "", 0, 1e-6f, POSITIVE1, K(1) / k_sqrt(x))                                                         \
  F(reciprocal, 1, SAME, "", 0, 1e-6f, FLOAT1, K(1) / x)                                                               \
  FI(square, 1, SAME, "", 0, 1e-6f, ANY1, x *x, k_imul(x, x))                                                          \
  F(sin, 1, SAME, "", 0, 1e-6f, FLOAT1, k_sin(x))                                                                      \
  F(cos, 1, SAME, "", 0, 1e-6f, FLOAT1, k_cos(x))                                                                      \
  F(tan, 1, SAME, "", 0, 2e-6f, UNIT1, k_tan(x))                                                                       \
  F(asin, 1, SAME, "", 0, 1e-6f, UNIT1, k_asin(x))                                                                     \
  F(acos, 1, SAME, "", 0, 1e-6f, UNIT1, k_acos(x))                                                                     \
  F(atan, 1, SAME, "", 0, 1e-6f, FLOAT1, k_atan(x))                                                                    \
  F(sinh, 1, SAME, "", 0, 1e-6f, FLOAT1, k_sinh(x))                                                                    \
  F(cosh, 1, SAME, "", 0, 1e-6f, FLOAT1, k_cosh(x))                                                                    \
  F(asinh, 1, SAME, "", 0, 1e-6f, FLOAT1, k_asinh(x))                                                                  \
  F(acosh, 1, SAME, "", 0, 2e-6f, POSITIVE1, k_acosh(x))                                                               \
  F(atanh, 1, SAME, "", 0, 1e-6f, UNIT1, k_atanh(x))                                                                   \
  F(erf, 1, SAME, "", 0, 1e-6f, FLOAT1, k_erf(x))                                                                      \
  F(erfc, 1, SAME, "", 0, 1e-6f, FLOAT1, k_erfc(x))                                                                    \
  F(gelu, 1, SAME, "", 0, 1e-6f, FLOAT1, K(0.5) * x * (K(1) + k_erf(x * K(0.70710678118654752440))))                   \
  F(gelu_tanh, 1, SAME, "", 0, 1e-6f, FLOAT1, x *k_sigmoid(K(1.59576912160573071176) * (x + K(0.044715) * x * x * x))) \
  F(silu, 1, SAME, "", 0, 1e-6f, FLOAT1, x *k_sigmoid(x))                                                              \
  F(mish, 1, SAME, "", 0, 1e-6f, FLOAT1, x *k_tanh(k_log1p(k_exp(x))))                                                 \
  F(hardswish, 1, SAME, "", 0, 1e-6f, FLOAT1, x *k_min(k_max(x + K(3), K(0)), K(6)) / K(6))                            \
  F(hardsigmoid, 1, SAME, "", 0, 1e-6f, FLOAT1, k_min(k_max(x + K(3), K(0)), K(6)) / K(6))                             \
  F(selu, 1, SAME, "", 0, 1e-6f, FLOAT1,                                                                               \
    x > K(0) ? K(1.0507009873554804934) * x : K(1.7580993408473768599) * k_expm1(x))                                   \
  F(log_sigmoid, 1, SAME, "", 0, 1e-6f, FLOAT1, k_min(x, K(0)) - k_log1p(k_exp(-k_abs(x))))                            \
  FI(floor, 1, SAME, "", 0, 0, ANY1, k_floor(x), x)                                                                    \
  FI(ceil, 1, SAME, "", 0, 0, ANY1, k_ceil(x), x)                                                                      \
  FI(round, 1, SAME, "", 0, 0, ANY1, k_round(x), x)                                                                    \
  FI(trunc, 1, SAME, "", 0, 0, ANY1, k_trunc(x), x)                                                                    \
  F(frac, 1, SAME, "", 0, 0, FINITE1, x - k_trunc(x))                                                                  \
  FI(sign, 1, SAME, "", 0, 0, ANY1, x > K(0) ? K(1) : x < K(0) ? K(-1) : K(0), (x > 0) - (x < 0))                      \
  FI(isnan, 1, BOOL, "", 0, 0, ANY1, x != x, x & 0)                                                                    \
  FI(isinf, 1, BOOL, "", 0, 0, ANY1, k_abs(x) == K_INF, x & 0)                                                         \
  FI(logical_not, 1, BOOL, "", 0, 0, ANY1, x == K(0), x == 0)                                                          \
  I(bitwise_not, 1, SAME, "", 0, 0, INT1, ~x)

#define POINTWISE_PARAMETER_ROWS(F, FI, I)                                                                    \
  F(leaky_relu, 1, SAME, "slope:float", 0, 1e-6f, LEAKY_RELU, x > K(0) ? x : x * p0)                          \
  F(elu, 1, SAME, "alpha:float=1 scale:float=1 input_scale:float=1", 0, 1e-6f, ELU,                           \
    x > K(0) ? x * p1 : k_expm1(x * p2) * (p0 * p1))                                                          \
  F(softplus, 1, SAME, "beta:float=1 threshold:float=20", 0, 1e-6f, SOFTPLUS,                                 \
    x *p0 > p1 ? x : k_log1p(k_exp(x * p0)) / p0)                                                             \
  F(hardshrink, 1, SAME, "lambda:float=0.5", 0, 0, SHRINK, x >= -p0 && x <= p0 ? K(0) : x)                    \
  F(softshrink, 1, SAME, "lambda:float=0.5", 0, 1e-6f, SHRINK, x > p0 ? x - p0 : x < -p0 ? x + p0 : x * K(0)) \
  FI(threshold, 1, SAME, "threshold:float value:float", 0, 0, THRESHOLD, x <= p0 ? p1 : x,                    \
     (double)x <= p0 ? (int64_t)p1 : x)                                                                       \
  FI(clamp, 1, SAME, "min:float=-inf max:float=inf", 0, 0, CLAMP, k_min(k_max(x, p0), p1), k_iclamp(x, p0, p1))

#define POINTWISE_BINARY_ROWS(F, FI, I)                                                                     \
  FI(add, 2, SAME, "", OP_COMMUTATIVE, 0, ANY2, x + y, k_iadd(x, y))                                        \
  FI(sub, 2, SAME, "", 0, 0, ANY2, x - y, k_isub(x, y))                                                     \
  FI(mul, 2, SAME, "", OP_COMMUTATIVE, 0, ANY2, x *y, k_imul(x, y))                                         \
  F(div, 2, SAME, "", 0, 1e-6f, FLOAT2, x / y)                                                              \
  FI(floor_div, 2, SAME, "", 0, 0, DIVIDE2, k_floor_div(x, y), k_ifloor_div(x, y))                          \
  FI(trunc_div, 2, SAME, "", 0, 0, DIVIDE2, k_trunc(x / y), k_itrunc_div(x, y))                             \
  FI(remainder, 2, SAME, "", 0, 0, DIVIDE2, k_remainder(x, y), k_iremainder(x, y))                          \
  FI(fmod, 2, SAME, "", 0, 0, DIVIDE2, k_fmod(x, y), k_ifmod(x, y))                                         \
  FI(pow, 2, SAME, "", 0, 3e-6f, POW2, k_pow(x, y), k_ipow(x, y))                                           \
  F(atan2, 2, SAME, "", 0, 1e-6f, FLOAT2, k_atan2(x, y))                                                    \
  FI(maximum, 2, SAME, "", OP_COMMUTATIVE, 0, ANY2, k_max(x, y), k_imax(x, y))                              \
  FI(minimum, 2, SAME, "", OP_COMMUTATIVE, 0, ANY2, k_min(x, y), k_imin(x, y))                              \
  FI(eq, 2, BOOL, "", OP_COMMUTATIVE, 0, COMPARE2, x == y, x == y)                                          \
  FI(ne, 2, BOOL, "", OP_COMMUTATIVE, 0, COMPARE2, x != y, x != y)                                          \
  FI(lt, 2, BOOL, "", 0, 0, COMPARE2, x < y, x < y)                                                         \
  FI(le, 2, BOOL, "", 0, 0, COMPARE2, x <= y, x <= y)                                                       \
  FI(gt, 2, BOOL, "", 0, 0, COMPARE2, x > y, x > y)                                                         \
  FI(ge, 2, BOOL, "", 0, 0, COMPARE2, x >= y, x >= y)                                                       \
  FI(logical_and, 2, BOOL, "", OP_COMMUTATIVE, 0, COMPARE2, (x != K(0)) & (y != K(0)), (x != 0) & (y != 0)) \
  FI(logical_or, 2, BOOL, "", OP_COMMUTATIVE, 0, COMPARE2, (x != K(0)) | (y != K(0)), (x != 0) | (y != 0))  \
  FI(logical_xor, 2, BOOL, "", OP_COMMUTATIVE, 0, COMPARE2, (x != K(0)) ^ (y != K(0)), (x != 0) ^ (y != 0)) \
  I(bitwise_and, 2, SAME, "", OP_COMMUTATIVE, 0, INT2, x &y)                                                \
  I(bitwise_or, 2, SAME, "", OP_COMMUTATIVE, 0, INT2, x | y)                                                \
  I(bitwise_xor, 2, SAME, "", OP_COMMUTATIVE, 0, INT2, x ^ y)                                               \
  I(shift_left, 2, SAME, "", 0, 0, SHIFT2, k_ishl(x, y))                                                    \
  I(shift_right, 2, SAME, "", 0, 0, SHIFT2, k_ishr(x, y))                                                   \
  F(prelu, 2, SAME, "", 0, 1e-6f, FLOAT2, x > K(0) ? x : x * y)

/* x is the condition, which is bool whatever the others are. */
#define POINTWISE_TERNARY_ROWS(F, FI, I) FI(where, 3, SAME, "", 0, 0, WHERE3, x != K(0) ? y : z, x != 0 ? y : z)

#define POINTWISE_ROWS(F, FI, I)     \
  POINTWISE_UNARY_ROWS(F, FI, I)     \
  POINTWISE_PARAMETER_ROWS(F, FI, I) \
  POINTWISE_BINARY_ROWS(F, FI, I)    \
  POINTWISE_TERNARY_ROWS(F, FI, I)
