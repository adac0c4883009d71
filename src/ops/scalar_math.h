/* Functions that pointwise expressions (ops/pointwise_rows.h) may call, over double and int64_t: the reference's
 * version. Other backends give the same names over their own types, branch-free where that makes loops vectorize. K(v)
 * is a literal of the backend's scalar type; k_i* are the integer forms, which wrap instead of overflowing. */
#ifndef KILN_OPS_SCALAR_MATH_H
#define KILN_OPS_SCALAR_MATH_H

#include <math.h>
#include <stdint.h>

#define K(v) ((double)(v))
#define K_INF ((double)INFINITY)

static inline double k_exp(double x) { return exp(x); }
static inline double k_exp2(double x) { return exp2(x); }
static inline double k_expm1(double x) { return expm1(x); }
static inline double k_log(double x) { return log(x); }
static inline double k_log2(double x) { return log2(x); }
static inline double k_log10(double x) { return log10(x); }
static inline double k_log1p(double x) { return log1p(x); }
static inline double k_sqrt(double x) { return sqrt(x); }
static inline double k_sin(double x) { return sin(x); }
static inline double k_cos(double x) { return cos(x); }
static inline double k_tan(double x) { return tan(x); }
static inline double k_asin(double x) { return asin(x); }
static inline double k_acos(double x) { return acos(x); }
static inline double k_atan(double x) { return atan(x); }
static inline double k_sinh(double x) { return sinh(x); }
static inline double k_cosh(double x) { return cosh(x); }
static inline double k_tanh(double x) { return tanh(x); }
static inline double k_asinh(double x) { return asinh(x); }
static inline double k_acosh(double x) { return acosh(x); }
static inline double k_atanh(double x) { return atanh(x); }
static inline double k_erf(double x) { return erf(x); }
static inline double k_erfc(double x) { return erfc(x); }
static inline double k_floor(double x) { return floor(x); }
static inline double k_ceil(double x) { return ceil(x); }
static inline double k_trunc(double x) { return trunc(x); }
static inline double k_round(double x) { return rint(x); } /* half to even */
static inline double k_abs(double x) { return fabs(x); }
static inline double k_sigmoid(double x) { return 1.0 / (1.0 + exp(-x)); }
static inline double k_pow(double x, double y) { return pow(x, y); }
static inline double k_atan2(double y, double x) { return atan2(y, x); }
static inline double k_fmod(double x, double y) { return fmod(x, y); }
/* The larger (smaller) one; NaN if either is. */
static inline double k_max(double x, double y) { return x > y || x != x ? x : y; }
static inline double k_min(double x, double y) { return x < y || x != x ? x : y; }

/* Python's %: the sign of the divisor. */
static inline double k_remainder(double x, double y) {
  const double r = fmod(x, y);
  return r != 0 && (r < 0) != (y < 0) ? r + y : r;
}

/* Python's //, exact where the quotient is (as CPython's float_divmod). */
static inline double k_floor_div(double x, double y) {
  if (y == 0) return x / y;
  const double r = fmod(x, y);
  double q = (x - r) / y;
  if (r != 0 && (r < 0) != (y < 0)) q -= 1;
  if (q == 0) return copysign(0.0, x / y);
  const double f = floor(q);
  return q - f > 0.5 ? f + 1 : f;
}

static inline int64_t k_iadd(int64_t x, int64_t y) { return (int64_t)((uint64_t)x + (uint64_t)y); }
static inline int64_t k_isub(int64_t x, int64_t y) { return (int64_t)((uint64_t)x - (uint64_t)y); }
static inline int64_t k_imul(int64_t x, int64_t y) { return (int64_t)((uint64_t)x * (uint64_t)y); }
static inline int64_t k_ineg(int64_t x) { return (int64_t)(0 - (uint64_t)x); }
static inline int64_t k_iabs(int64_t x) { return x < 0 ? k_ineg(x) : x; }
static inline int64_t k_imax(int64_t x, int64_t y) { return x > y ? x : y; }
static inline int64_t k_imin(int64_t x, int64_t y) { return x < y ? x : y; }
/* Division by zero gives 0 (PyTorch raises an error, which a fused kernel cannot). */
static inline int64_t k_itrunc_div(int64_t x, int64_t y) { return y == 0 ? 0 : y == -1 ? k_ineg(x) : x / y; }
static inline int64_t k_ifmod(int64_t x, int64_t y) { return y == 0 || y == -1 ? 0 : x % y; }
static inline int64_t k_ifloor_div(int64_t x, int64_t y) {
  const int64_t q = k_itrunc_div(x, y), r = k_ifmod(x, y);
  return r != 0 && (r < 0) != (y < 0) ? q - 1 : q;
}
static inline int64_t k_iremainder(int64_t x, int64_t y) {
  const int64_t r = k_ifmod(x, y);
  return r != 0 && (r < 0) != (y < 0) ? r + y : r;
}
/* Negative exponents: the truncated result, as PyTorch (1 and -1 have one, others give 0). */
static inline int64_t k_ipow(int64_t x, int64_t y) {
  if (y < 0) return x == 1 ? 1 : x == -1 ? (y % 2 == 0 ? 1 : -1) : 0;
  uint64_t result = 1, base = (uint64_t)x;
  for (uint64_t e = (uint64_t)y; e != 0; e >>= 1) {
    if (e & 1) result *= base;
    base *= base;
  }
  return (int64_t)result;
}
/* Shifts by a count outside the width give what an unbounded shift would. */
static inline int64_t k_ishl(int64_t x, int64_t y) { return y < 0 || y > 63 ? 0 : (int64_t)((uint64_t)x << y); }
static inline int64_t k_ishr(int64_t x, int64_t y) { return x >> (y < 0 || y > 63 ? 63 : y); }
/* Bounds are attributes, so floats, possibly infinite. */
static inline int64_t k_iclamp(int64_t x, double low, double high) {
  if ((double)x < low) x = low >= 0x1p63 ? INT64_MAX : (int64_t)low;
  if ((double)x > high) x = high < -0x1p63 ? INT64_MIN : (int64_t)high;
  return x;
}

#endif
