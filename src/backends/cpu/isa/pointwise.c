/* The vector loops of pointwise programs: one per operator and register kind, expanded from the operators' own
 * expressions, and the conversions on load and store. Loops are plain C over branch-free functions, which the compiler
 * vectorizes; lengths are multiples of PW_LANES, so there are no remainders. */
#include "backends/cpu/pointwise.h"
#include "backends/cpu/simd/f32.h"
#include "backends/cpu/simd/math.h"
#include "ops/ref.h"

#pragma GCC diagnostic ignored "-Wfloat-conversion"
#pragma GCC diagnostic ignored "-Wunused-parameter"

/* `out` may be an operand, element for element; no other overlap. */
#if defined(__clang__)
#define PW_INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#pragma clang diagnostic ignored "-Wpass-failed" /* loops with library calls */
#else
#define PW_INDEPENDENT _Pragma("GCC ivdep")
#endif
#define PW_ARGS void *out, const void *xs, const void *ys, const void *zs, int64_t count, const double *p
#define PW_LENGTH(count) ((count) & ~(int64_t)(PW_LANES - 1))

/* ---- Operators --------------------------------------------------------------------------------------------------- */

#define PW_FLOAT_LOOP(name, expression)                               \
  static void pwf_##name(PW_ARGS) {                                   \
    float *o = out;                                                   \
    const float *xp = xs, *yp = ys, *zp = zs;                         \
    const float p0 = (float)p[0], p1 = (float)p[1], p2 = (float)p[2]; \
    (void)p0, (void)p1, (void)p2;                                     \
    const int64_t n = PW_LENGTH(count);                               \
    PW_INDEPENDENT for (int64_t i = 0; i < n; ++i) {                  \
      const float x = xp[i], y = yp[i], z = zp[i];                    \
      (void)x, (void)y, (void)z;                                      \
      o[i] = (float)(expression);                                     \
    }                                                                 \
  }
#define PW_INT_LOOP(name, expression)                \
  static void pwi_##name(PW_ARGS) {                  \
    int64_t *o = out;                                \
    const int64_t *xp = xs, *yp = ys, *zp = zs;      \
    const double p0 = p[0], p1 = p[1], p2 = p[2];    \
    (void)p0, (void)p1, (void)p2;                    \
    const int64_t n = PW_LENGTH(count);              \
    PW_INDEPENDENT for (int64_t i = 0; i < n; ++i) { \
      const int64_t x = xp[i], y = yp[i], z = zp[i]; \
      (void)x, (void)y, (void)z;                     \
      o[i] = (int64_t)(expression);                  \
    }                                                \
  }
#define PW_F(name, arity, result, attrs, flags, tolerance, cases, expression) PW_FLOAT_LOOP(name, expression)
#define PW_FI(name, arity, result, attrs, flags, tolerance, cases, expression, integers) \
  PW_FLOAT_LOOP(name, expression) PW_INT_LOOP(name, integers)
#define PW_I(name, arity, result, attrs, flags, tolerance, cases, integers) PW_INT_LOOP(name, integers)
#include "ops/pointwise_rows.h"
POINTWISE_ROWS(PW_F, PW_FI, PW_I)

/* ---- Operators that are faster by hand --------------------------------------------------------------------------- */

#if !defined(KILN_ISA_scalar) /* there a vector is one float, and the expanded loops use the baseline's registers */
#define PW_VECTOR_LOOP(name, call)                                                             \
  static void pwv_##name(PW_ARGS) {                                                            \
    float *o = out;                                                                            \
    const float *xp = xs;                                                                      \
    for (int64_t i = 0; i < PW_LENGTH(count); i += VF) vf_store(o + i, call(vf_load(xp + i))); \
  }
PW_VECTOR_LOOP(exp, vf_exp)
PW_VECTOR_LOOP(sigmoid, vf_sigmoid)
PW_VECTOR_LOOP(tanh, vf_tanh)
PW_VECTOR_LOOP(erf, vf_erf)

/* 1 / a, to about 1 ulp: an estimate and one step of Newton's. */
VF_INLINE vf pw_reciprocal(vf a) {
#if defined(KILN_ISA_avx512)
  const vf r = _mm512_rcp14_ps(a);
#else
  const vf r = _mm256_rcp_ps(a);
#endif
  return vf_fma(r, vf_fnma(a, r, vf_set1(1.0f)), r);
}

/* x Phi(x), with Phi(x) - 1/2 as x P(x^2) / Q(x^2): minimax on |x| < 5.6, weighted for the error of the product. Below,
 * the result is smaller than the error of Phi: 0 (and NaN for -inf). */
VF_INLINE vf pw_gelu(vf x) {
  const vf limit = vf_set1(5.6f), c = vf_clamp(x, vf_set1(-5.6f), limit), s = vf_mul(c, c);
  vf p = vf_set1(2.199851046e-08f), q = vf_set1(1.180721884e-06f);
  p = vf_fma(p, s, vf_set1(6.420460101e-06f));
  q = vf_fma(q, s, vf_set1(7.678437550e-05f));
  p = vf_fma(p, s, vf_set1(1.785530882e-04f));
  q = vf_fma(q, s, vf_set1(1.939158982e-03f));
  p = vf_fma(p, s, vf_set1(4.735702722e-03f));
  q = vf_fma(q, s, vf_set1(2.919097570e-02f));
  p = vf_fma(p, s, vf_set1(3.480395482e-02f));
  q = vf_fma(q, s, vf_set1(2.539055405e-01f));
  p = vf_fma(p, s, vf_set1(3.989421438e-01f));
  q = vf_fma(q, s, vf_set1(1.0f));
  const vf phi = vf_fma(vf_mul(c, p), pw_reciprocal(q), vf_set1(0.5f));
  return vf_mul(x, vf_select(vf_lt(x, vf_set1(-5.6f)), vf_zero(), phi));
}
PW_VECTOR_LOOP(gelu, pw_gelu)
PW_VECTOR_LOOP(gelu_tanh, vf_gelu_tanh)
PW_VECTOR_LOOP(silu, vf_silu)
#endif

/* The compiler leaves this one alone: it does not know that p0 and p1 stay. */
static void pwv_clamp(PW_ARGS) {
  float *o = out;
  const float *xp = xs;
  const vf lo = vf_set1((float)p[0]), hi = vf_set1((float)p[1]);
  for (int64_t i = 0; i < PW_LENGTH(count); i += VF) vf_store(o + i, vf_clamp(vf_load(xp + i), lo, hi));
}

/* Large arguments are rare: a second look finds them. The input is kept, as `out` may be it. */
#define PW_TRIGONOMETRIC(name, library)                                                          \
  static void pwv_##name(PW_ARGS) {                                                              \
    float kept[PW_TILE];                                                                         \
    const float *xp = xs;                                                                        \
    float *o = out;                                                                              \
    for (int64_t done = 0; done < count; done += PW_TILE) {                                      \
      const int64_t n = count - done < PW_TILE ? count - done : PW_TILE;                         \
      memcpy(kept, xp + done, (size_t)n * sizeof *kept);                                         \
      pwf_##name(o + done, kept, kept, kept, n, p);                                              \
      float large = 0.0f;                                                                        \
      for (int64_t i = 0; i < n; ++i) large = kf_abs(kept[i]) < KF_SIN_COS_LIMIT ? large : 1.0f; \
      for (int64_t i = 0; i < n && large != 0.0f; ++i) {                                         \
        if (!(fabsf(kept[i]) < KF_SIN_COS_LIMIT)) o[done + i] = library(kept[i]);                \
      }                                                                                          \
    }                                                                                            \
  }
PW_TRIGONOMETRIC(sin, sinf)
PW_TRIGONOMETRIC(cos, cosf)

static bool pw_all_equal(const float *y, int64_t n) {
  float differs = 0.0f;
  for (int64_t i = 1; i < n; ++i) differs = y[i] != y[0] ? 1.0f : differs;
  return differs == 0.0f;
}
/* Exponents are nearly always one small constant. */
static void pwv_pow(PW_ARGS) {
  float *o = out;
  const float *x = xs, *y = ys;
  const int64_t n = PW_LENGTH(count);
  const float e = pw_all_equal(y, n) ? y[0] : NAN;
#define PW_POW(value, expression)                                              \
  if (e == (value)) {                                                          \
    PW_INDEPENDENT for (int64_t i = 0; i < n; ++i) o[i] = (float)(expression); \
    return;                                                                    \
  }
  PW_POW(2.0f, x[i] * x[i])
  PW_POW(3.0f, x[i] * x[i] * x[i])
  PW_POW(4.0f, (x[i] * x[i]) * (x[i] * x[i]))
  PW_POW(-1.0f, 1.0f / x[i])
  PW_POW(-2.0f, 1.0f / (x[i] * x[i]))
  PW_POW(0.5f, x[i] == -INFINITY ? INFINITY : sqrtf(x[i] + 0.0f))
  pwf_pow(out, xs, ys, zs, count, p);
}

/* ---- Between registers ------------------------------------------------------------------------------------------- */

static void pw_copy_float(PW_ARGS) { memmove(out, xs, (size_t)count * sizeof(float)); }
static void pw_copy_int(PW_ARGS) { memmove(out, xs, (size_t)count * sizeof(int64_t)); }

#define PW_CONVERT(name, to, from, expression)       \
  static void name(PW_ARGS) {                        \
    to *o = out;                                     \
    const from *xp = xs;                             \
    for (int64_t i = 0; i < PW_LENGTH(count); ++i) { \
      const from x = xp[i];                          \
      o[i] = (to)(expression);                       \
    }                                                \
  }
PW_CONVERT(pw_nonzero_float, float, float, x != 0.0f)
PW_CONVERT(pw_nonzero_int, int64_t, int64_t, x != 0)
PW_CONVERT(pw_int_to_float, float, int64_t, x)
/* What x86 gives for NaN and values out of range, made explicit because C leaves it undefined. */
PW_CONVERT(pw_float_to_i64, int64_t, float, ((x >= -0x1p63f) & (x < 0x1p63f)) ? (int64_t)x : INT64_MIN)
PW_CONVERT(pw_float_to_i32, int64_t, float,
           ((x >= -0x1p31f) & (x < 0x1p31f)) ? (int64_t)(int32_t)x : (int64_t)INT32_MIN)
PW_CONVERT(pw_float_to_i16, int64_t, float,
           ((x >= -0x1p31f) & (x < 0x1p31f)) ? (int64_t)(int16_t)(int32_t)x : (int64_t)(int16_t)INT32_MIN)
PW_CONVERT(pw_float_to_i8, int64_t, float,
           ((x >= -0x1p31f) & (x < 0x1p31f)) ? (int64_t)(int8_t)(int32_t)x : (int64_t)(int8_t)INT32_MIN)
PW_CONVERT(pw_float_to_u8, int64_t, float,
           ((x >= -0x1p31f) & (x < 0x1p31f)) ? (int64_t)(uint8_t)(int32_t)x : (int64_t)(uint8_t)INT32_MIN)
PW_CONVERT(pw_wrap_i32, int64_t, int64_t, (int32_t)x)
PW_CONVERT(pw_wrap_i16, int64_t, int64_t, (int16_t)x)
PW_CONVERT(pw_wrap_i8, int64_t, int64_t, (int8_t)x)
PW_CONVERT(pw_wrap_u8, int64_t, int64_t, (uint8_t)x)

#if defined(KILN_ISA_scalar)
VF_INLINE float pw_from_half(uint16_t h) { return half_to_float(h); }
VF_INLINE uint16_t pw_to_half(float f) { return float_to_half(f); }
#else
VF_INLINE float pw_from_half(uint16_t h) { return _cvtsh_ss(h); }
VF_INLINE uint16_t pw_to_half(float f) { return _cvtss_sh(f, 0); }
#endif
VF_INLINE float pw_from_bf16(uint16_t h) { return kf_from_bits((uint32_t)h << 16); }
VF_INLINE uint16_t pw_to_bf16(float f) {
  const uint32_t bits = kf_to_bits(f), rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return (uint16_t)(f == f ? rounded : (bits >> 16) | 0x40u);
}
#if defined(KILN_ISA_scalar)
PW_CONVERT(pwv_wrap_f16, float, float, pw_from_half(pw_to_half(x)))
#endif
PW_CONVERT(pw_wrap_bf16, float, float, pw_from_bf16(pw_to_bf16(x)))

/* ---- Load and store ---------------------------------------------------------------------------------------------- */

#define PW_LOAD(name, to, from, expression)                                              \
  static void pw_load_##name(void *out, const void *source, int64_t stride, int64_t n) { \
    to *restrict o = out;                                                                \
    const from *restrict s = source;                                                     \
    if (stride == 1) {                                                                   \
      for (int64_t i = 0; i < n; ++i) {                                                  \
        const from x = s[i];                                                             \
        o[i] = (to)(expression);                                                         \
      }                                                                                  \
    } else if (stride == 0) {                                                            \
      const from x = s[0];                                                               \
      const to v = (to)(expression);                                                     \
      for (int64_t i = 0; i < n; ++i) o[i] = v;                                          \
    } else {                                                                             \
      for (int64_t i = 0; i < n; ++i) {                                                  \
        const from x = s[i * stride];                                                    \
        o[i] = (to)(expression);                                                         \
      }                                                                                  \
    }                                                                                    \
  }
#define PW_STORE(name, to, from, expression)                                                  \
  static void pw_store_##name(void *to_data, int64_t stride, const void *source, int64_t n) { \
    to *restrict o = to_data;                                                                 \
    const from *restrict s = source;                                                          \
    if (stride == 1) {                                                                        \
      for (int64_t i = 0; i < n; ++i) {                                                       \
        const from x = s[i];                                                                  \
        o[i] = (to)(expression);                                                              \
      }                                                                                       \
    } else {                                                                                  \
      for (int64_t i = 0; i < n; ++i) {                                                       \
        const from x = s[i];                                                                  \
        o[i * stride] = (to)(expression);                                                     \
      }                                                                                       \
    }                                                                                         \
  }
PW_LOAD(f32, float, float, x)
PW_LOAD(f16, float, uint16_t, pw_from_half(x))
PW_LOAD(bf16, float, uint16_t, pw_from_bf16(x))
PW_LOAD(bool_float, float, uint8_t, x != 0)
PW_LOAD(bool_int, int64_t, uint8_t, x != 0)
PW_LOAD(i64, int64_t, int64_t, x)
PW_LOAD(i32, int64_t, int32_t, x)
PW_LOAD(i16, int64_t, int16_t, x)
PW_LOAD(i8, int64_t, int8_t, x)
PW_LOAD(u8, int64_t, uint8_t, x)
PW_STORE(f32, float, float, x)
PW_STORE(f16, uint16_t, float, pw_to_half(x))
PW_STORE(bf16, uint16_t, float, pw_to_bf16(x))
PW_STORE(bool_float, uint8_t, float, x != 0.0f)
PW_STORE(bool_int, uint8_t, int64_t, x != 0)
PW_STORE(i64, int64_t, int64_t, x)
PW_STORE(i32, int32_t, int64_t, x)
PW_STORE(i16, int16_t, int64_t, x)
PW_STORE(i8, int8_t, int64_t, x)
PW_STORE(u8, uint8_t, int64_t, x)

/* Many halves at once: the compiler does not make vectors of the loops above. */
#if defined(KILN_ISA_scalar)
#define pwv_load_f16 pw_load_f16
#define pwv_store_f16 pw_store_f16
#else
#if defined(KILN_ISA_avx512)
typedef __m256i vh;
VF_INLINE vh vh_load(const uint16_t *h) { return _mm256_loadu_si256((const void *)h); }
VF_INLINE void vh_store(uint16_t *h, vh x) { _mm256_storeu_si256((void *)h, x); }
VF_INLINE vf vf_of_halves(vh x) { return _mm512_cvtph_ps(x); }
VF_INLINE vh vf_to_halves(vf x) { return _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT); }
#else
typedef __m128i vh;
VF_INLINE vh vh_load(const uint16_t *h) { return _mm_loadu_si128((const void *)h); }
VF_INLINE void vh_store(uint16_t *h, vh x) { _mm_storeu_si128((void *)h, x); }
VF_INLINE vf vf_of_halves(vh x) { return _mm256_cvtph_ps(x); }
VF_INLINE vh vf_to_halves(vf x) { return _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT); }
#endif

static void pwv_wrap_f16(PW_ARGS) {
  float *o = out;
  const float *xp = xs;
  for (int64_t i = 0; i < PW_LENGTH(count); i += VF) vf_store(o + i, vf_of_halves(vf_to_halves(vf_load(xp + i))));
}

static void pwv_load_f16(void *out, const void *source, int64_t stride, int64_t n) {
  float *o = out;
  const uint16_t *s = source;
  int64_t i = 0;
  for (; stride == 1 && i + VF <= n; i += VF) vf_store(o + i, vf_of_halves(vh_load(s + i)));
  pw_load_f16(o + i, s + i, stride, n - i);
}

static void pwv_store_f16(void *to, int64_t stride, const void *source, int64_t n) {
  uint16_t *o = to;
  const float *s = source;
  int64_t i = 0;
  for (; stride == 1 && i + VF <= n; i += VF) vh_store(o + i, vf_to_halves(vf_load(s + i)));
  pw_store_f16(o + i, stride, s + i, n - i);
}
#endif

/* ---- Table ------------------------------------------------------------------------------------------------------- */

enum {
#define PW_INDEX_F(name, arity, result, attrs, flags, tolerance, cases, expression) PW_OP_##name,
#define PW_INDEX_FI(name, arity, result, attrs, flags, tolerance, cases, expression, integers) PW_OP_##name,
#define PW_INDEX_I(name, arity, result, attrs, flags, tolerance, cases, integers) PW_OP_##name,
  POINTWISE_ROWS(PW_INDEX_F, PW_INDEX_FI, PW_INDEX_I) PW_OP_COUNT
};
_Static_assert((int)PW_OP_COUNT <= (int)PW_OP_MAX, "raise PW_OP_MAX");

#define PW_FLOAT_F(name, arity, result, attrs, flags, tolerance, cases, expression) [PW_OP_##name] = pwf_##name,
#define PW_FLOAT_FI(name, arity, result, attrs, flags, tolerance, cases, expression, integers) \
  [PW_OP_##name] = pwf_##name,
#define PW_NONE(name, arity, result, attrs, flags, tolerance, cases, expression)
#define PW_INT_FI(name, arity, result, attrs, flags, tolerance, cases, expression, integers) \
  [PW_OP_##name] = pwi_##name,
#define PW_INT_I(name, arity, result, attrs, flags, tolerance, cases, integers) [PW_OP_##name] = pwi_##name,

#pragma GCC diagnostic ignored "-Woverride-init" /* by-hand loops replace expanded ones */
/* clang-format off */
const pw_table KERNEL(pw_table) = {
    .op = {[PW_FLOAT] = {POINTWISE_ROWS(PW_FLOAT_F, PW_FLOAT_FI, PW_NONE)
#if !defined(KILN_ISA_scalar)
                         [PW_OP_exp] = pwv_exp, [PW_OP_sigmoid] = pwv_sigmoid, [PW_OP_tanh] = pwv_tanh, [PW_OP_erf] = pwv_erf,
                         [PW_OP_gelu] = pwv_gelu, [PW_OP_gelu_tanh] = pwv_gelu_tanh, [PW_OP_silu] = pwv_silu,
#endif
                         [PW_OP_clamp] = pwv_clamp,
                         [PW_OP_sin] = pwv_sin, [PW_OP_cos] = pwv_cos, [PW_OP_pow] = pwv_pow},
           [PW_INT] = {POINTWISE_ROWS(PW_NONE, PW_INT_FI, PW_INT_I)}},
    .copy = {pw_copy_float, pw_copy_int},
    .nonzero = {pw_nonzero_float, pw_nonzero_int},
    .int_to_float = pw_int_to_float,
    .float_to_int = {[KILN_I64] = pw_float_to_i64,
                     [KILN_I32] = pw_float_to_i32,
                     [KILN_I16] = pw_float_to_i16,
                     [KILN_I8] = pw_float_to_i8,
                     [KILN_U8] = pw_float_to_u8},
    .wrap = {[KILN_F16] = pwv_wrap_f16,
             [KILN_BF16] = pw_wrap_bf16,
             [KILN_I32] = pw_wrap_i32,
             [KILN_I16] = pw_wrap_i16,
             [KILN_I8] = pw_wrap_i8,
             [KILN_U8] = pw_wrap_u8},
    .load = {[PW_FLOAT] = {[KILN_F32] = pw_load_f32,
                           [KILN_F16] = pwv_load_f16,
                           [KILN_BF16] = pw_load_bf16,
                           [KILN_BOOL] = pw_load_bool_float},
             [PW_INT] = {[KILN_I64] = pw_load_i64,
                         [KILN_I32] = pw_load_i32,
                         [KILN_I16] = pw_load_i16,
                         [KILN_I8] = pw_load_i8,
                         [KILN_U8] = pw_load_u8,
                         [KILN_BOOL] = pw_load_bool_int}},
    .store = {[PW_FLOAT] = {[KILN_F32] = pw_store_f32,
                            [KILN_F16] = pwv_store_f16,
                            [KILN_BF16] = pw_store_bf16,
                            [KILN_BOOL] = pw_store_bool_float},
              [PW_INT] = {[KILN_I64] = pw_store_i64,
                          [KILN_I32] = pw_store_i32,
                          [KILN_I16] = pw_store_i16,
                          [KILN_I8] = pw_store_i8,
                          [KILN_U8] = pw_store_u8,
                          [KILN_BOOL] = pw_store_bool_int}},
};
/* clang-format on */
