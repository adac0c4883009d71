/* Vectors of floats for the instruction set that this file is compiled for (KILN_ISA_scalar, _avx2 or _avx512 is
 * defined): type `vf` with VF lanes, masks `vm`, and functions vf_*. Sources under cpu/isa/ are compiled once for each
 * set; name a kernel with KERNEL(name), declare all three with DECLARE_KERNEL.
 *
 * NaN: vf_min(a, b) and vf_max(a, b) give `b` if either operand is NaN (as the x86 instructions do), so write
 * vf_max(zero, x) to let a NaN in x through. vf_exp and its family return NaN for NaN. */
#ifndef KILN_BACKENDS_CPU_SIMD_F32_H
#define KILN_BACKENDS_CPU_SIMD_F32_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define KERNEL_PASTE2(a, b) a##_##b
#define KERNEL_PASTE(a, b) KERNEL_PASTE2(a, b)
#define KERNEL(name) KERNEL_PASTE(name, KILN_ISA) /* gemm -> gemm_avx512 */
/* DECLARE_KERNEL(void, gemm, (const float *a)): prototypes of gemm_scalar, gemm_avx2 and gemm_avx512. */
#define DECLARE_KERNEL(result, name, args) \
  result name##_scalar args;               \
  result name##_avx2 args;                 \
  result name##_avx512 args

#define VF_INLINE static inline __attribute__((always_inline, unused))

#if defined(KILN_ISA_avx512)
#include <immintrin.h>
#define VF 16
typedef __m512 vf;
typedef __mmask16 vm;

VF_INLINE vf vf_set1(float x) { return _mm512_set1_ps(x); }
VF_INLINE vf vf_zero(void) { return _mm512_setzero_ps(); }
VF_INLINE vf vf_load(const float *p) { return _mm512_loadu_ps(p); }
VF_INLINE void vf_store(float *p, vf a) { _mm512_storeu_ps(p, a); }
/* Lanes [0, n), n in [0, VF]; memory outside is not touched. */
VF_INLINE vm vf_tail(int64_t n) { return (__mmask16)((1u << n) - 1u); }
VF_INLINE vf vf_load_mask(const float *p, vm m) { return _mm512_maskz_loadu_ps(m, p); }
VF_INLINE void vf_store_mask(float *p, vm m, vf a) { _mm512_mask_storeu_ps(p, m, a); }
VF_INLINE vf vf_add(vf a, vf b) { return _mm512_add_ps(a, b); }
VF_INLINE vf vf_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
VF_INLINE vf vf_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
VF_INLINE vf vf_div(vf a, vf b) { return _mm512_div_ps(a, b); }
VF_INLINE vf vf_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }   /* a * b + c */
VF_INLINE vf vf_fnma(vf a, vf b, vf c) { return _mm512_fnmadd_ps(a, b, c); } /* c - a * b */
VF_INLINE vf vf_min(vf a, vf b) { return _mm512_min_ps(a, b); }
VF_INLINE vf vf_max(vf a, vf b) { return _mm512_max_ps(a, b); }
VF_INLINE vf vf_sqrt(vf a) { return _mm512_sqrt_ps(a); }
VF_INLINE vf vf_abs(vf a) { return _mm512_andnot_ps(_mm512_set1_ps(-0.0f), a); }
VF_INLINE vf vf_neg(vf a) { return _mm512_xor_ps(_mm512_set1_ps(-0.0f), a); }
VF_INLINE vf vf_copysign(vf magnitude, vf sign) {
  const vf bit = _mm512_set1_ps(-0.0f);
  return _mm512_or_ps(_mm512_andnot_ps(bit, magnitude), _mm512_and_ps(bit, sign));
}
VF_INLINE vf vf_round(vf a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
VF_INLINE vf vf_floor(vf a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC); }
VF_INLINE vf vf_ceil(vf a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC); }
VF_INLINE vf vf_trunc(vf a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC); }
VF_INLINE vm vf_lt(vf a, vf b) {
  return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ);
} /* false for NaN, as are le, gt, ge, eq */
VF_INLINE vm vf_le(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_LE_OQ); }
VF_INLINE vm vf_eq(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
VF_INLINE vf vf_select(vm m, vf a, vf b) { return _mm512_mask_blend_ps(m, b, a); } /* m ? a : b */
VF_INLINE float vf_reduce_add(vf a) { return _mm512_reduce_add_ps(a); }
VF_INLINE float vf_reduce_max(vf a) { return _mm512_reduce_max_ps(a); }
VF_INLINE float vf_reduce_min(vf a) { return _mm512_reduce_min_ps(a); }
VF_INLINE vf vf_pow2(vf n) { /* 2^n for integral n in [-126, 127] */
  const __m512i i = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
  return _mm512_castsi512_ps(_mm512_slli_epi32(i, 23));
}
VF_INLINE void vf_prefetch(const void *p) { _mm_prefetch((const char *)p, _MM_HINT_T0); }

#elif defined(KILN_ISA_avx2)
#include <immintrin.h>
#define VF 8
typedef __m256 vf;
typedef __m256i vm;

VF_INLINE vf vf_set1(float x) { return _mm256_set1_ps(x); }
VF_INLINE vf vf_zero(void) { return _mm256_setzero_ps(); }
VF_INLINE vf vf_load(const float *p) { return _mm256_loadu_ps(p); }
VF_INLINE void vf_store(float *p, vf a) { _mm256_storeu_ps(p, a); }
VF_INLINE vm vf_tail(int64_t n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
VF_INLINE vf vf_load_mask(const float *p, vm m) { return _mm256_maskload_ps(p, m); }
VF_INLINE void vf_store_mask(float *p, vm m, vf a) { _mm256_maskstore_ps(p, m, a); }
VF_INLINE vf vf_add(vf a, vf b) { return _mm256_add_ps(a, b); }
VF_INLINE vf vf_sub(vf a, vf b) { return _mm256_sub_ps(a, b); }
VF_INLINE vf vf_mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
VF_INLINE vf vf_div(vf a, vf b) { return _mm256_div_ps(a, b); }
VF_INLINE vf vf_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
VF_INLINE vf vf_fnma(vf a, vf b, vf c) { return _mm256_fnmadd_ps(a, b, c); }
VF_INLINE vf vf_min(vf a, vf b) { return _mm256_min_ps(a, b); }
VF_INLINE vf vf_max(vf a, vf b) { return _mm256_max_ps(a, b); }
VF_INLINE vf vf_sqrt(vf a) { return _mm256_sqrt_ps(a); }
VF_INLINE vf vf_abs(vf a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
VF_INLINE vf vf_neg(vf a) { return _mm256_xor_ps(_mm256_set1_ps(-0.0f), a); }
VF_INLINE vf vf_copysign(vf magnitude, vf sign) {
  const vf bit = _mm256_set1_ps(-0.0f);
  return _mm256_or_ps(_mm256_andnot_ps(bit, magnitude), _mm256_and_ps(bit, sign));
}
VF_INLINE vf vf_round(vf a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
VF_INLINE vf vf_floor(vf a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC); }
VF_INLINE vf vf_ceil(vf a) { return _mm256_round_ps(a, _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC); }
VF_INLINE vf vf_trunc(vf a) { return _mm256_round_ps(a, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC); }
VF_INLINE vm vf_lt(vf a, vf b) { return _mm256_castps_si256(_mm256_cmp_ps(a, b, _CMP_LT_OQ)); }
VF_INLINE vm vf_le(vf a, vf b) { return _mm256_castps_si256(_mm256_cmp_ps(a, b, _CMP_LE_OQ)); }
VF_INLINE vm vf_eq(vf a, vf b) { return _mm256_castps_si256(_mm256_cmp_ps(a, b, _CMP_EQ_OQ)); }
VF_INLINE vf vf_select(vm m, vf a, vf b) { return _mm256_blendv_ps(b, a, _mm256_castsi256_ps(m)); }
VF_INLINE float vf_reduce_add(vf a) {
  __m128 h = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  h = _mm_add_ps(h, _mm_movehl_ps(h, h));
  return _mm_cvtss_f32(_mm_add_ss(h, _mm_movehdup_ps(h)));
}
VF_INLINE float vf_reduce_max(vf a) {
  __m128 h = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  h = _mm_max_ps(h, _mm_movehl_ps(h, h));
  return _mm_cvtss_f32(_mm_max_ss(h, _mm_movehdup_ps(h)));
}
VF_INLINE float vf_reduce_min(vf a) {
  __m128 h = _mm_min_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  h = _mm_min_ps(h, _mm_movehl_ps(h, h));
  return _mm_cvtss_f32(_mm_min_ss(h, _mm_movehdup_ps(h)));
}
VF_INLINE vf vf_pow2(vf n) {
  const __m256i i = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
  return _mm256_castsi256_ps(_mm256_slli_epi32(i, 23));
}
VF_INLINE void vf_prefetch(const void *p) { _mm_prefetch((const char *)p, _MM_HINT_T0); }

#else
#define VF 1
typedef float vf;
typedef bool vm;

VF_INLINE vf vf_set1(float x) { return x; }
VF_INLINE vf vf_zero(void) { return 0.0f; }
VF_INLINE vf vf_load(const float *p) { return *p; }
VF_INLINE void vf_store(float *p, vf a) { *p = a; }
VF_INLINE vm vf_tail(int64_t n) { return n > 0; }
VF_INLINE vf vf_load_mask(const float *p, vm m) { return m ? *p : 0.0f; }
VF_INLINE void vf_store_mask(float *p, vm m, vf a) {
  if (m) *p = a;
}
VF_INLINE vf vf_add(vf a, vf b) { return a + b; }
VF_INLINE vf vf_sub(vf a, vf b) { return a - b; }
VF_INLINE vf vf_mul(vf a, vf b) { return a * b; }
VF_INLINE vf vf_div(vf a, vf b) { return a / b; }
VF_INLINE vf vf_fma(vf a, vf b, vf c) { return a * b + c; } /* fmaf would be a library call here */
VF_INLINE vf vf_fnma(vf a, vf b, vf c) { return c - a * b; }
VF_INLINE vf vf_min(vf a, vf b) { return a < b ? a : b; }
VF_INLINE vf vf_max(vf a, vf b) { return a > b ? a : b; }
VF_INLINE vf vf_sqrt(vf a) { return sqrtf(a); }
VF_INLINE vf vf_abs(vf a) { return fabsf(a); }
VF_INLINE vf vf_neg(vf a) { return -a; }
VF_INLINE vf vf_copysign(vf magnitude, vf sign) { return copysignf(magnitude, sign); }
VF_INLINE vf vf_round(vf a) { return rintf(a); }
VF_INLINE vf vf_floor(vf a) { return floorf(a); }
VF_INLINE vf vf_ceil(vf a) { return ceilf(a); }
VF_INLINE vf vf_trunc(vf a) { return truncf(a); }
VF_INLINE vm vf_lt(vf a, vf b) { return a < b; }
VF_INLINE vm vf_le(vf a, vf b) { return a <= b; }
VF_INLINE vm vf_eq(vf a, vf b) { return a == b; }
VF_INLINE vf vf_select(vm m, vf a, vf b) { return m ? a : b; }
VF_INLINE float vf_reduce_add(vf a) { return a; }
VF_INLINE float vf_reduce_max(vf a) { return a; }
VF_INLINE float vf_reduce_min(vf a) { return a; }
VF_INLINE vf vf_pow2(vf n) {
  const uint32_t bits =
      n == n ? (uint32_t)((int32_t)n + 127) << 23 : 0; /* a NaN has no integer; callers multiply by it anyway */
  float out;
  memcpy(&out, &bits, sizeof out);
  return out;
}
VF_INLINE void vf_prefetch(const void *p) { __builtin_prefetch(p); }
#endif

VF_INLINE vm vf_gt(vf a, vf b) { return vf_lt(b, a); }
VF_INLINE vm vf_ge(vf a, vf b) { return vf_le(b, a); }
/* The first n lanes (n in [0, VF]); the others are 0, or not stored. */
VF_INLINE vf vf_load_n(const float *p, int64_t n) { return vf_load_mask(p, vf_tail(n)); }
VF_INLINE void vf_store_n(float *p, int64_t n, vf a) { vf_store_mask(p, vf_tail(n), a); }
/* min(max(x, lo), hi), NaN stays. */
VF_INLINE vf vf_clamp(vf x, vf lo, vf hi) { return vf_min(hi, vf_max(lo, x)); }

/* exp: x = n ln2 + r, |r| <= ln2 / 2, and a minimax polynomial of degree 6 in r. ln2 is split so that n * ln2_high is
 * exact without FMA. 2^n is applied in two steps, so that results in the denormal range and n = 128 are right. */
VF_INLINE vf vf_exp_reduced(vf r) {
  vf p = vf_set1(1.395109575e-03f);
  p = vf_fma(p, r, vf_set1(8.369239978e-03f));
  p = vf_fma(p, r, vf_set1(4.166619852e-02f));
  p = vf_fma(p, r, vf_set1(1.666651517e-01f));
  p = vf_fma(p, r, vf_set1(0.5f));
  return vf_fma(vf_mul(r, r), p, r); /* exp(r) - 1 */
}
VF_INLINE vf vf_exp(vf x) {
  const vf c = vf_clamp(x, vf_set1(-104.0f), vf_set1(89.0f));
  const vf n = vf_round(vf_mul(c, vf_set1(1.442695041f)));
  vf r = vf_fnma(n, vf_set1(0.693359375f), c);
  r = vf_fnma(n, vf_set1(-2.12194440e-4f), r);
  const vf e = vf_add(vf_exp_reduced(r), vf_set1(1.0f));
#if defined(KILN_ISA_avx512)
  return _mm512_scalef_ps(e, n);
#else
  const vf half = vf_floor(vf_mul(n, vf_set1(0.5f)));
  return vf_mul(vf_mul(e, vf_pow2(half)), vf_pow2(vf_sub(n, half)));
#endif
}
/* exp where the argument is known to be in [-87, 88] or -inf .. -87, which give about 1e-38 (softmax after subtracting
 * the maximum): one step less. NaN stays NaN. */
VF_INLINE vf vf_exp_nonpositive(vf x) {
  const vf c = vf_max(vf_set1(-87.0f), x);
  const vf n = vf_round(vf_mul(c, vf_set1(1.442695041f)));
  vf r = vf_fnma(n, vf_set1(0.693359375f), c);
  r = vf_fnma(n, vf_set1(-2.12194440e-4f), r);
  const vf e = vf_mul(vf_add(vf_exp_reduced(r), vf_set1(1.0f)), vf_pow2(n));
  return vf_select(vf_lt(x, vf_set1(-87.0f)), vf_zero(), e);
}

/* exp(x) - 1 without cancellation near 0: 2^n (exp(r) - 1) + (2^n - 1). */
VF_INLINE vf vf_expm1(vf x) {
  const vf c = vf_clamp(x, vf_set1(-30.0f), vf_set1(88.0f));
  const vf n = vf_round(vf_mul(c, vf_set1(1.442695041f)));
  vf r = vf_fnma(n, vf_set1(0.693359375f), c);
  r = vf_fnma(n, vf_set1(-2.12194440e-4f), r);
  const vf s = vf_pow2(n);
  const vf e = vf_fma(vf_exp_reduced(r), s, vf_sub(s, vf_set1(1.0f)));
  return vf_select(vf_gt(x, vf_set1(88.0f)), vf_exp(x), e);
}

VF_INLINE vf vf_sigmoid(vf x) { return vf_div(vf_set1(1.0f), vf_add(vf_set1(1.0f), vf_exp(vf_neg(x)))); }

/* tanh: x + x^3 P(x^2) below 0.625, else 1 - 2 / (exp(2|x|) + 1). */
VF_INLINE vf vf_tanh(vf x) {
  const vf a = vf_abs(x), s = vf_mul(x, x);
  vf p = vf_set1(2.147535328e-03f);
  p = vf_fma(p, s, vf_set1(-8.182671852e-03f));
  p = vf_fma(p, s, vf_set1(2.170296572e-02f));
  p = vf_fma(p, s, vf_set1(-5.394720286e-02f));
  p = vf_fma(p, s, vf_set1(1.333321035e-01f));
  p = vf_fma(p, s, vf_set1(-3.333333135e-01f));
  const vf small = vf_fma(vf_mul(p, s), x, x);
  const vf e = vf_exp(vf_add(a, a));
  const vf large = vf_copysign(vf_sub(vf_set1(1.0f), vf_div(vf_set1(2.0f), vf_add(e, vf_set1(1.0f)))), x);
  return vf_select(vf_lt(a, vf_set1(0.625f)), small, large);
}

/* erf: x + x Q(x^2) below 0.93, else 1 - exp(R(|x|)) where R fits log(erfc) up to 4, beyond which erf rounds to 1. */
VF_INLINE vf vf_erf(vf x) {
  const vf a = vf_abs(x), s = vf_mul(x, x);
  vf q = vf_set1(8.345225069e-05f);
  q = vf_fma(q, s, vf_set1(-8.137437981e-04f));
  q = vf_fma(q, s, vf_set1(5.200634245e-03f));
  q = vf_fma(q, s, vf_set1(-2.685927041e-02f));
  q = vf_fma(q, s, vf_set1(1.128369421e-01f));
  q = vf_fma(q, s, vf_set1(-3.761263490e-01f));
  q = vf_fma(q, s, vf_set1(1.283791661e-01f));
  const vf small = vf_fma(q, x, x);
  const vf t = vf_min(vf_set1(4.0f), a);
  vf r = vf_set1(-2.109502748e-05f);
  r = vf_fma(r, t, vf_set1(4.344623594e-04f));
  r = vf_fma(r, t, vf_set1(-4.171061795e-03f));
  r = vf_fma(r, t, vf_set1(2.511942387e-02f));
  r = vf_fma(r, t, vf_set1(-1.082800850e-01f));
  r = vf_fma(r, t, vf_set1(-6.333469152e-01f));
  r = vf_fma(r, t, vf_set1(-1.129514933e+00f));
  r = vf_fma(r, t, vf_set1(1.746839262e-04f));
  const vf large = vf_copysign(vf_sub(vf_set1(1.0f), vf_exp(r)), x);
  return vf_select(vf_lt(a, vf_set1(0.93f)), small, large);
}

/* x Phi(x), and its tanh form. */
VF_INLINE vf vf_gelu(vf x) {
  const vf half = vf_mul(x, vf_set1(0.5f));
  return vf_fma(half, vf_erf(vf_mul(x, vf_set1(0.707106781f))), half);
}
VF_INLINE vf vf_gelu_tanh(vf x) {
  const vf u = vf_mul(x, vf_fma(vf_mul(x, x), vf_set1(0.0356774081f), vf_set1(0.7978845608f)));
  const vf half = vf_mul(x, vf_set1(0.5f));
  return vf_fma(half, vf_tanh(u), half);
}
VF_INLINE vf vf_silu(vf x) { return vf_div(x, vf_add(vf_set1(1.0f), vf_exp(vf_neg(x)))); }

#endif
