/* Rounding weights to f16 and bf16: by the processor's own instructions where it has them, else by integer arithmetic. */
#include "base/halves.h"

#include <math.h>
#include <string.h>

#include "base/cpu_features.h"

#if defined(__x86_64__)
#include <immintrin.h>
#define WITH_AVX2 __attribute__((target("avx2,f16c")))
#endif

enum { F32_INFINITY = 0x7f800000, F16_MOST = 0x477fe000 /* 65504 */, BF16_MOST = 0x7f7f0000 };
enum { F16_NAN = 0x7e00, BF16_NAN = 0x7fc0, SIGN16 = 0x8000 };

static uint32_t bits_of(float f) {
  uint32_t u;
  memcpy(&u, &f, sizeof u);
  return u;
}

static float float_of(uint32_t u) {
  float f;
  memcpy(&f, &u, sizeof f);
  return f;
}

static uint16_t to_f16(float f) {
  const uint32_t u = bits_of(f), sign = (u >> 16) & SIGN16;
  uint32_t magnitude = u & 0x7fffffffu;
  if (magnitude > F32_INFINITY) return (uint16_t)(sign | F16_NAN);
  if (magnitude == F32_INFINITY) return (uint16_t)(sign | 0x7c00u);
  if (magnitude > F16_MOST) magnitude = F16_MOST;
  if (magnitude < 0x38800000u) /* subnormal half: scaled so that the rounding is the processor's */
    return (uint16_t)(sign | (uint32_t)nearbyintf(float_of(magnitude) * 0x1p24f));
  const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return (uint16_t)(sign | ((rounded - 0x38000000u) >> 13));
}

static uint16_t to_bf16(float f) {
  const uint32_t u = bits_of(f), sign = u & 0x80000000u;
  uint32_t magnitude = u & 0x7fffffffu;
  if (magnitude > F32_INFINITY) return BF16_NAN;
  if (magnitude > BF16_MOST && magnitude < F32_INFINITY) magnitude = BF16_MOST;
  return (uint16_t)((sign | (magnitude + 0x7fffu + ((magnitude >> 16) & 1u))) >> 16);
}

#if defined(__x86_64__)
/* All ones where x is a NaN. */
WITH_AVX2 static __m256i nans(__m256 x) { return _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q)); }

/* With finite numbers beyond +-most at +-most. */
WITH_AVX2 static __m256 saturated(__m256 x, float most) {
  const __m256 sign = _mm256_set1_ps(-0.0f), magnitude = _mm256_andnot_ps(sign, x);
  const __m256 finite = _mm256_cmp_ps(magnitude, _mm256_set1_ps(INFINITY), _CMP_LT_OQ);
  const __m256 clamped = _mm256_or_ps(_mm256_min_ps(magnitude, _mm256_set1_ps(most)), _mm256_and_ps(x, sign));
  return _mm256_blendv_ps(x, clamped, finite);
}

WITH_AVX2 static size_t f16_by_8(const float *in, uint16_t *out, size_t n) {
  size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const __m256 x = _mm256_loadu_ps(in + i);
    const __m128i made = _mm256_cvtps_ph(saturated(x, 65504.0f), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m256i wide = nans(x);
    const __m128i nan = _mm_packs_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
    const __m128i plain =
        _mm_or_si128(_mm_and_si128(made, _mm_set1_epi16((short)SIGN16)), _mm_set1_epi16((short)F16_NAN));
    _mm_storeu_si128((__m128i *)(void *)(out + i), _mm_blendv_epi8(made, plain, nan));
  }
  return i;
}

WITH_AVX2 static __m256i bf16_of_8(const float *in) {
  const __m256 x = _mm256_loadu_ps(in);
  const __m256i u = _mm256_castps_si256(saturated(x, float_of(BF16_MOST)));
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
  return _mm256_blendv_epi8(rounded, _mm256_set1_epi32(BF16_NAN), nans(x));
}

WITH_AVX2 static size_t bf16_by_16(const float *in, uint16_t *out, size_t n) {
  size_t i = 0;
  for (; i + 16 <= n; i += 16) {
    const __m256i both = _mm256_packus_epi32(bf16_of_8(in + i), bf16_of_8(in + i + 8)); /* quarters 0 2 1 3 */
    _mm256_storeu_si256((__m256i *)(void *)(out + i), _mm256_permute4x64_epi64(both, 0xd8));
  }
  return i;
}
#endif

void floats_to_f16(const float *in, uint16_t *out, size_t n) {
  size_t i = 0;
#if defined(__x86_64__)
  if (cpu_best_isa() >= ISA_AVX2) i = f16_by_8(in, out, n);
#endif
  for (; i < n; i++) out[i] = to_f16(in[i]);
}

void floats_to_bf16(const float *in, uint16_t *out, size_t n) {
  size_t i = 0;
#if defined(__x86_64__)
  if (cpu_best_isa() >= ISA_AVX2) i = bf16_by_16(in, out, n);
#endif
  for (; i < n; i++) out[i] = to_bf16(in[i]);
}
