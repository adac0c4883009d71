/* The matrix micro-kernel: an MR x NR block of C stays in registers while one panel of B streams past; each value of A
 * is broadcast from memory. AVX-512 has 14 x 32 (28 accumulators), AVX2 6 x 16, scalar 2 x 4. Every row count has its
 * own code because a run-time count would put the accumulators in memory. */
#include "backends/cpu/gemm.h"
#include "backends/cpu/simd/f32.h"

#if defined(KILN_ISA_avx512)
enum { MR = 14, NV = 2 };
#elif defined(KILN_ISA_avx2)
enum { MR = 6, NV = 2 };
#else
enum { MR = 2, NV = 4 };
#endif
enum { NR = NV * VF };

#define UNROLL _Pragma("GCC unroll 16")

/* One step of k: acc += a[k] (outer) b. */
VF_INLINE void step(vf (*acc)[NV], const float *const *rows, int64_t k, const float *b, const vm *mask, int mr, int nv,
                    bool masked) {
  vf bv[NV];
  UNROLL for (int j = 0; j < nv; j++) bv[j] = masked ? vf_load_mask(b + j * VF, mask[j]) : vf_load(b + j * VF);
  UNROLL for (int i = 0; i < mr; i++) {
    const vf av = vf_set1(rows[i][k]);
    UNROLL for (int j = 0; j < nv; j++) acc[i][j] = vf_fma(av, bv[j], acc[i][j]);
  }
}

/* Asks for the lines of four steps at b. */
VF_INLINE void fetch_steps(const float *b, int64_t b_k, int nv) {
  UNROLL for (int u = 0; u < 4; u++) {
    UNROLL for (int j = 0; j < nv * VF; j += 16) vf_prefetch((const char *)b + (u * b_k + j) * (int64_t)sizeof *b);
  }
}

/* mr, nv, masked and split are constants wherever this is inlined. `split` sums even and odd steps (or four ways)
 * apart, to hide the latency of FMA when there are few rows. */
VF_INLINE void tile(const gemm_strip *s, const float *b, int64_t col, const float *bias, int64_t cols, int mr, int nv,
                    bool masked, int split) {
  vm mask[NV];
  UNROLL for (int j = 0; j < nv; j++) {
    const int64_t left = cols - (int64_t)j * VF;
    mask[j] = vf_tail(left < 0 ? 0 : left > VF ? VF : left);
  }
  vf acc[4][MR][NV];
  UNROLL for (int u = 0; u < split; u++) {
    UNROLL for (int j = 0; j < nv; j++) {
      vf start = vf_zero();
      if (u == 0 && bias) start = masked ? vf_load_mask(bias + j * VF, mask[j]) : vf_load(bias + j * VF);
      UNROLL for (int i = 0; i < mr; i++) acc[u][i][j] = start;
    }
  }
  enum { AHEAD = 32 }; /* steps: one page of 4 KiB further, where the processor's own prefetching stops */
  const int64_t kc = s->kc, b_k = s->b_k, ahead = AHEAD * b_k;
  const bool fetch = s->fetch;
  for (int64_t t = 0; t < s->taps; t++) {
    const float *bt = b + (s->tap ? s->tap[t] : t) * s->b_tap;
    const float *rows[MR];
    UNROLL for (int i = 0; i < mr; i++) rows[i] = s->a[t * mr + i] + s->a_offset;
    int64_t k = 0;
    for (; k + 4 <= kc; k += 4) {
      if (fetch) fetch_steps(bt + ahead, b_k, nv);
      step(acc[0], rows, k, bt, mask, mr, nv, masked);
      step(acc[1 % split], rows, k + 1, bt + b_k, mask, mr, nv, masked);
      step(acc[2 % split], rows, k + 2, bt + 2 * b_k, mask, mr, nv, masked);
      step(acc[3 % split], rows, k + 3, bt + 3 * b_k, mask, mr, nv, masked);
      bt += 4 * b_k;
    }
    for (; k < kc; k++, bt += b_k) step(acc[0], rows, k, bt, mask, mr, nv, masked);
  }
  UNROLL for (int u = 1; u < split; u++) {
    UNROLL for (int i = 0; i < mr; i++) {
      UNROLL for (int j = 0; j < nv; j++) acc[0][i][j] = vf_add(acc[0][i][j], acc[u][i][j]);
    }
  }
  const vf lo = vf_set1(s->lo), hi = vf_set1(s->hi);
  const int64_t ldc = s->ldc;
  const bool accumulate = s->accumulate;
  UNROLL for (int i = 0; i < mr; i++) {
    float *row = (s->c_rows ? s->c_rows[i] + s->c_col : s->c + i * ldc) + col;
    UNROLL for (int j = 0; j < nv; j++) {
      float *to = row + j * VF;
      vf v = acc[0][i][j];
      if (accumulate) v = vf_add(v, masked ? vf_load_mask(to, mask[j]) : vf_load(to));
      v = vf_clamp(v, lo, hi);
      if (masked) {
        vf_store_mask(to, mask[j], v);
      } else {
        vf_store(to, v);
      }
    }
  }
}

/* All column panels of a strip of `mr` rows. */
VF_INLINE void strip(const gemm_strip *s, int mr) {
  const int split = mr == 1 ? 4 : mr * NV <= 4 ? 2 : 1;
  const float *b = s->b, *bias = s->bias;
  int64_t n = s->n, col = 0;
  for (; n >= NR; n -= NR) {
    tile(s, b, col, bias, NR, mr, NV, false, split);
    b += s->b_panel;
    col += NR;
    if (bias) bias += NR;
  }
  if (n > VF) {
    tile(s, b, col, bias, n, mr, NV, true, split);
  } else if (n > 0) {
    tile(s, b, col, bias, n, mr, 1, true, mr <= 2 ? 4 : mr <= 4 ? 2 : 1);
  }
}

#define STRIP(count) \
  static void strip_##count(const gemm_strip *s) { strip(s, count); }
STRIP(1)
STRIP(2)
#if defined(KILN_ISA_avx2) || defined(KILN_ISA_avx512)
STRIP(3)
STRIP(4)
STRIP(5)
STRIP(6)
#endif
#if defined(KILN_ISA_avx512)
STRIP(7)
STRIP(8)
STRIP(9)
STRIP(10)
STRIP(11)
STRIP(12)
STRIP(13)
STRIP(14)
#endif

static void (*const strips[MR])(const gemm_strip *s) = {
    strip_1, strip_2,
#if defined(KILN_ISA_avx2) || defined(KILN_ISA_avx512)
    strip_3, strip_4, strip_5, strip_6,
#endif
#if defined(KILN_ISA_avx512)
    strip_7, strip_8, strip_9, strip_10, strip_11, strip_12, strip_13, strip_14,
#endif
};

static void strip_any(const gemm_strip *s, int mr) { strips[mr - 1](s); }

const gemm_isa KERNEL(gemm_isa) = {MR, NR, strip_any};
