/* The functions of pointwise expressions (ops/pointwise_rows.h) over float, for loops that the compiler vectorizes: hot
 * ones are branch-free and accurate to a few ulp, with NaN, infinities and denormals right; rare ones call the C
 * library per element. Redefines the names of ops/scalar_math.h, whose integer forms stay as they are. */
#ifndef KILN_BACKENDS_CPU_SIMD_MATH_H
#define KILN_BACKENDS_CPU_SIMD_MATH_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "ops/scalar_math.h"

#define KF_INLINE static inline __attribute__((always_inline, unused))

KF_INLINE float kf_from_bits(uint32_t bits) {
  float f;
  memcpy(&f, &bits, sizeof f);
  return f;
}
KF_INLINE uint32_t kf_to_bits(float f) {
  uint32_t bits;
  memcpy(&bits, &f, sizeof bits);
  return bits;
}

/* Nearest integer of |x| < 2^22 without a library call: adding 1.5 * 2^23 leaves no fraction bits. */
KF_INLINE float kf_nearest(float x) { return (x + 12582912.0f) - 12582912.0f; }
KF_INLINE float kf_pow2i(int32_t n) { return kf_from_bits((uint32_t)(n + 127) << 23); } /* n in [-126, 127] */

KF_INLINE float kf_max(float x, float y) { return ((x > y) | (x != x)) ? x : y; }
KF_INLINE float kf_min(float x, float y) { return ((x < y) | (x != x)) ? x : y; }
KF_INLINE float kf_abs(float x) { return kf_from_bits(kf_to_bits(x) & 0x7fffffffu); }
KF_INLINE float kf_copysign(float magnitude, float sign) {
  return kf_from_bits((kf_to_bits(magnitude) & 0x7fffffffu) | (kf_to_bits(sign) & 0x80000000u));
}

/* exp(r) - 1 for |r| <= ln2 / 2. */
KF_INLINE float kf_exp_reduced(float r) {
  float p = 1.395109575e-03f;
  p = p * r + 8.369239978e-03f;
  p = p * r + 4.166619852e-02f;
  p = p * r + 1.666651517e-01f;
  p = p * r + 0.5f;
  return (r * r) * p + r;
}
/* exp(r + n ln2): 2^n in two steps, so that results in the denormal range and n = 128 are right. NaN passes through
 * r. */
KF_INLINE float kf_exp_scaled(float r, float n) {
  const int32_t i = (int32_t)n, half = i >> 1;
  return (kf_exp_reduced(r) + 1.0f) * kf_pow2i(half) * kf_pow2i(i - half);
}
KF_INLINE float kf_clamp(float x, float lo, float hi) { /* NaN stays */
  const float a = x < lo ? lo : x;
  return a > hi ? hi : a;
}
/* Integral, and 0 for NaN, whose conversion to an integer is undefined. */
KF_INLINE float kf_steps(float x) {
  const float n = kf_nearest(x);
  return n == n ? n : 0.0f;
}
KF_INLINE float kf_exp(float x) {
  const float c = kf_clamp(x, -104.0f, 89.0f), n = kf_steps(c * 1.442695041f);
  const float r = (c - n * 0.693359375f) - n * -2.12194440e-4f;
  return kf_exp_scaled(r, n);
}
KF_INLINE float kf_exp2(float x) {
  const float c = kf_clamp(x, -151.0f, 129.0f), n = kf_steps(c);
  return kf_exp_scaled((c - n) * 0.693147181f, n);
}
KF_INLINE float kf_expm1(float x) {
  const float c = kf_clamp(x, -30.0f, 89.0f), n = kf_steps(c * 1.442695041f);
  const float r = (c - n * 0.693359375f) - n * -2.12194440e-4f;
  const int32_t i = (int32_t)n, half = i >> 1; /* two steps: 2^128 is not a float */
  const float a = kf_pow2i(half), b = kf_pow2i(i - half);
  return n == 0.0f ? kf_exp_reduced(r) : (kf_exp_reduced(r) * a + (a - kf_pow2i(half - i))) * b;
}

/* x = 2^e (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)); the logarithm of 1 + f. For x positive and finite. */
KF_INLINE float kf_log_parts(float x, float *out_e) {
  const int denormal = x < 1.17549435e-38f;
  const float y = denormal ? x * 16777216.0f : x;
  const uint32_t bits = kf_to_bits(y) - 0x3f3504f3u; /* of sqrt(1/2) */
  const int32_t e = (int32_t)bits >> 23;
  const float f = kf_from_bits((bits & 0x007fffffu) + 0x3f3504f3u) - 1.0f;
  *out_e = (float)e - (denormal ? 24.0f : 0.0f);
  float p = 6.915426519e-02f;
  p = p * f + -1.178982505e-01f;
  p = p * f + 1.187295882e-01f;
  p = p * f + -1.238434454e-01f;
  p = p * f + 1.421866011e-01f;
  p = p * f + -1.666925110e-01f;
  p = p * f + 2.000222651e-01f;
  p = p * f + -2.499998659e-01f;
  p = p * f + 3.333331044e-01f;
  const float s = f * f;
  return f + (s * -0.5f + (s * f) * p);
}
KF_INLINE float kf_log_special(float x, float y) { /* y where x is positive and finite */
  const float low = x == 0.0f ? -INFINITY : NAN;
  const float high = x > 3.402823466e38f ? INFINITY : y;
  return x > 0.0f ? high : low;
}
KF_INLINE float kf_log(float x) {
  float e;
  const float m = kf_log_parts(x, &e);
  return kf_log_special(x, e * 0.693359375f + (e * -2.12194440e-4f + m));
}
KF_INLINE float kf_log2(float x) {
  float e;
  const float m = kf_log_parts(x, &e);
  return kf_log_special(x, m * 1.442695041f + e);
}
KF_INLINE float kf_log10(float x) {
  float e;
  const float m = kf_log_parts(x, &e);
  return kf_log_special(x, m * 0.4342944819f + e * 0.3010299957f);
}
/* log of the rounded sum and a first-order correction of its rounding error. */
KF_INLINE float kf_log1p(float x) {
  const float u = 1.0f + x, d = u - 1.0f, c = x > 1.0f ? 1.0f - (u - x) : x - d;
  float e;
  const float m = kf_log_parts(u, &e);
  const float y = kf_log_special(u, e * 0.693359375f + (e * -2.12194440e-4f + m) + (u < 1e30f ? c / u : 0.0f));
  return kf_abs(x) < 1e-7f ? x : y; /* keeps -0 and denormals */
}

KF_INLINE float kf_sigmoid(float x) { return 1.0f / (1.0f + kf_exp(-x)); }
KF_INLINE float kf_tanh(float x) {
  const float a = kf_abs(x), s = x * x;
  float p = 2.147535328e-03f;
  p = p * s + -8.182671852e-03f;
  p = p * s + 2.170296572e-02f;
  p = p * s + -5.394720286e-02f;
  p = p * s + 1.333321035e-01f;
  p = p * s + -3.333333135e-01f;
  const float small = (p * s) * x + x;
  const float large = kf_copysign(1.0f - 2.0f / (kf_exp(a + a) + 1.0f), x);
  return a < 0.625f ? small : large;
}
/* x + x Q(x^2) below 0.93, else 1 - exp(R(|x|)), where R fits log(erfc) up to 4, beyond which erf rounds to 1. */
KF_INLINE float kf_erf(float x) {
  const float a = kf_abs(x), s = x * x, t = a > 4.0f ? 4.0f : a;
  float q = 8.345225069e-05f;
  q = q * s + -8.137437981e-04f;
  q = q * s + 5.200634245e-03f;
  q = q * s + -2.685927041e-02f;
  q = q * s + 1.128369421e-01f;
  q = q * s + -3.761263490e-01f;
  q = q * s + 1.283791661e-01f;
  float r = -2.109502748e-05f;
  r = r * t + 4.344623594e-04f;
  r = r * t + -4.171061795e-03f;
  r = r * t + 2.511942387e-02f;
  r = r * t + -1.082800850e-01f;
  r = r * t + -6.333469152e-01f;
  r = r * t + -1.129514933e+00f;
  r = r * t + 1.746839262e-04f;
  const float small = q * x + x, large = kf_copysign(1.0f - kf_exp(r), x);
  return a < 0.93f ? small : large;
}

/* sin and cos of |x| < 2^26, reduced by pi/2 in double; callers send larger arguments to the C library. */
KF_INLINE double kf_quadrant(float x, int32_t *out_quadrant) {
  const double n = ((double)x * 0.63661977236758134308 + 6755399441055744.0) - 6755399441055744.0;
  *out_quadrant = (int32_t)n;
  return ((double)x - n * 1.57079632673412561417) - n * 6.07710050650619224932e-11;
}
KF_INLINE float kf_sin_cos(double r, int32_t quadrant) {
  const float f = (float)r, s = f * f;
  float p = 2.72438907553531888e-06f;
  p = p * s + -1.98400398565154402e-04f;
  p = p * s + 8.33333178742600746e-03f;
  p = p * s + -1.66666666636301392e-01f;
  float q = -2.72959128538271217e-07f;
  q = q * s + 2.48005611636880576e-05f;
  q = q * s + -1.38888875989638476e-03f;
  q = q * s + 4.16666666641324485e-02f;
  const float sine = (p * s) * f + f, cosine = (q * s) * s + (1.0f - 0.5f * s);
  const float y = quadrant & 1 ? cosine : sine;
  return quadrant & 2 ? -y : y;
}
#define KF_SIN_COS_LIMIT 67108864.0f
KF_INLINE float kf_sin(float x) {
  int32_t q;
  const double r = kf_quadrant(x, &q);
  return kf_sin_cos(r, q);
}
KF_INLINE float kf_cos(float x) {
  int32_t q;
  const double r = kf_quadrant(x, &q);
  return kf_sin_cos(r, q + 1);
}

KF_INLINE float kf_sqrt(float x) { return sqrtf(x); }
KF_INLINE float kf_floor(float x) { return floorf(x); }
KF_INLINE float kf_ceil(float x) { return ceilf(x); }
KF_INLINE float kf_trunc(float x) { return truncf(x); }
KF_INLINE float kf_round(float x) { return rintf(x); }
KF_INLINE float kf_tan(float x) { return tanf(x); }
KF_INLINE float kf_asin(float x) { return asinf(x); }
KF_INLINE float kf_acos(float x) { return acosf(x); }
KF_INLINE float kf_atan(float x) { return atanf(x); }
KF_INLINE float kf_sinh(float x) { return sinhf(x); }
KF_INLINE float kf_cosh(float x) { return coshf(x); }
KF_INLINE float kf_asinh(float x) { return asinhf(x); }
KF_INLINE float kf_acosh(float x) { return acoshf(x); }
KF_INLINE float kf_atanh(float x) { return atanhf(x); }
KF_INLINE float kf_erfc(float x) { return erfcf(x); }
KF_INLINE float kf_pow(float x, float y) { return powf(x, y); }
KF_INLINE float kf_atan2(float y, float x) { return atan2f(y, x); }
KF_INLINE float kf_fmod(float x, float y) { return fmodf(x, y); }
/* Through double, so that quotients and sums are rounded once, as in the reference. */
KF_INLINE float kf_remainder(float x, float y) { return (float)k_remainder((double)x, (double)y); }
KF_INLINE float kf_floor_div(float x, float y) { return (float)k_floor_div((double)x, (double)y); }

#undef K
#undef K_INF
#define K(v) ((float)(v))
#define K_INF INFINITY
#define k_exp kf_exp
#define k_exp2 kf_exp2
#define k_expm1 kf_expm1
#define k_log kf_log
#define k_log2 kf_log2
#define k_log10 kf_log10
#define k_log1p kf_log1p
#define k_sqrt kf_sqrt
#define k_sin kf_sin
#define k_cos kf_cos
#define k_tan kf_tan
#define k_asin kf_asin
#define k_acos kf_acos
#define k_atan kf_atan
#define k_sinh kf_sinh
#define k_cosh kf_cosh
#define k_tanh kf_tanh
#define k_asinh kf_asinh
#define k_acosh kf_acosh
#define k_atanh kf_atanh
#define k_erf kf_erf
#define k_erfc kf_erfc
#define k_floor kf_floor
#define k_ceil kf_ceil
#define k_trunc kf_trunc
#define k_round kf_round
#define k_abs kf_abs
#define k_sigmoid kf_sigmoid
#define k_pow kf_pow
#define k_atan2 kf_atan2
#define k_fmod kf_fmod
#define k_max kf_max
#define k_min kf_min
#define k_remainder kf_remainder
#define k_floor_div kf_floor_div

#endif
