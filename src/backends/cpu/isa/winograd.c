/* Tile transforms of F(4x4, 3x3) with the points 0, +-1/sqrt(2), +-sqrt(2), infinity. Of the usual choices these give
 * the smallest error: about twice that of direct summation, where 0, +-1, +-2 give seven times (on why points matter:
 * Barabasz et al., "Error Analysis and Improving the Accuracy of Winograd Convolution for Deep Neural Networks", 2020).
 * Vectors run over channels. */
#include "backends/cpu/winograd.h"

#include "backends/cpu/simd/f32.h"

#define UNROLL _Pragma("GCC unroll 6")
#define A 0.70710678118654752f
#define B 1.41421356237309505f

/* out = B^T d: rows are the polynomials prod (x - q) over the other points q. */
VF_INLINE void input_1d(const vf d[6], vf out[6]) {
  const vf c25 = vf_set1(2.5f), two = vf_set1(2.0f), half = vf_set1(0.5f), a = vf_set1(A), b = vf_set1(B);
  out[0] = vf_add(d[0], vf_fnma(c25, d[2], d[4]));
  const vf even_a = vf_fnma(two, d[2], d[4]), odd_a = vf_fnma(two, d[1], d[3]);
  out[1] = vf_fma(a, odd_a, even_a);
  out[2] = vf_fnma(a, odd_a, even_a);
  const vf even_b = vf_fnma(half, d[2], d[4]), odd_b = vf_fnma(half, d[1], d[3]);
  out[3] = vf_fma(b, odd_b, even_b);
  out[4] = vf_fnma(b, odd_b, even_b);
  out[5] = vf_add(d[1], vf_fnma(c25, d[3], d[5]));
}

/* out = A^T m: row i holds the points' i-th powers. */
VF_INLINE void output_1d(const vf m[6], vf out[4]) {
  const vf a = vf_set1(A), b = vf_set1(B), half = vf_set1(0.5f), two = vf_set1(2.0f), a3 = vf_set1(0.5f * A),
           b3 = vf_set1(2.0f * B);
  const vf sum_a = vf_add(m[1], m[2]), diff_a = vf_sub(m[1], m[2]), sum_b = vf_add(m[3], m[4]),
           diff_b = vf_sub(m[3], m[4]);
  out[0] = vf_add(m[0], vf_add(sum_a, sum_b));
  out[1] = vf_fma(a, diff_a, vf_mul(b, diff_b));
  out[2] = vf_fma(half, sum_a, vf_mul(two, sum_b));
  out[3] = vf_fma(a3, diff_a, vf_fma(b3, diff_b, m[5]));
}

VF_INLINE void input_vector(const float *const *x, int64_t c, float *v, int64_t plane, vm mask, bool masked) {
  vf t[6][6];
  UNROLL for (int j = 0; j < 6; j++) {
    vf d[6], out[6];
    UNROLL for (int i = 0; i < 6; i++) d[i] = masked ? vf_load_mask(x[i * 6 + j] + c, mask) : vf_load(x[i * 6 + j] + c);
    input_1d(d, out);
    UNROLL for (int i = 0; i < 6; i++) t[i][j] = out[i];
  }
  UNROLL for (int i = 0; i < 6; i++) {
    vf out[6];
    input_1d(t[i], out);
    UNROLL for (int j = 0; j < 6; j++) {
      float *to = v + (i * 6 + j) * plane + c;
      if (masked) {
        vf_store_mask(to, mask, out[j]);
      } else {
        vf_store(to, out[j]);
      }
    }
  }
}

static void input(const float *const *x, int64_t channels, float *v, int64_t plane) {
  int64_t c = 0;
  for (; c + VF <= channels; c += VF) input_vector(x, c, v, plane, vf_tail(VF), false);
  if (c < channels) input_vector(x, c, v, plane, vf_tail(channels - c), true);
}

VF_INLINE void output_vector(const float *m, int64_t plane, int64_t c, const float *bias, float *const *y, vf lo, vf hi,
                             vm mask, bool masked) {
  vf t[4][6];
  UNROLL for (int j = 0; j < 6; j++) {
    vf d[6], out[4];
    UNROLL for (int i = 0; i < 6; i++) {
      const float *from = m + (i * 6 + j) * plane + c;
      d[i] = masked ? vf_load_mask(from, mask) : vf_load(from);
    }
    output_1d(d, out);
    UNROLL for (int i = 0; i < 4; i++) t[i][j] = out[i];
  }
  vf add = vf_zero();
  if (bias) add = masked ? vf_load_mask(bias + c, mask) : vf_load(bias + c);
  UNROLL for (int i = 0; i < 4; i++) {
    vf out[4];
    output_1d(t[i], out);
    UNROLL for (int j = 0; j < 4; j++) {
      const vf r = vf_clamp(vf_add(out[j], add), lo, hi);
      if (masked) {
        vf_store_mask(y[i * 4 + j] + c, mask, r);
      } else {
        vf_store(y[i * 4 + j] + c, r);
      }
    }
  }
}

static void output(const float *m, int64_t plane, int64_t channels, const float *bias, float *const *y, float lo,
                   float hi) {
  const vf lov = vf_set1(lo), hiv = vf_set1(hi);
  int64_t c = 0;
  for (; c + VF <= channels; c += VF) output_vector(m, plane, c, bias, y, lov, hiv, vf_tail(VF), false);
  if (c < channels) output_vector(m, plane, c, bias, y, lov, hiv, vf_tail(channels - c), true);
}

/* ---- Weights ----------------------------------------------------------------------------------------------------- */

/* WL output channels at once, in double: transformed weights are as exact as floats can be. */
#if defined(KILN_ISA_scalar)
enum { WL = 4 };
#else
enum { WL = WINOGRAD_WEIGHTS }; /* whole cache lines are written */
#endif
typedef double wl __attribute__((vector_size(WL * sizeof(double))));
typedef float wl_float __attribute__((vector_size(WL * sizeof(float)), aligned(4), may_alias));

/* u = G g: rows of G are (1, p, p^2) over the product of p's distances to the other points. */
VF_INLINE void weights_1d(const wl g[3], wl u[6]) {
  const double a = 0.70710678118654752440, b = 1.41421356237309504880, third = -2.0 / 3.0, sixth = 1.0 / 6.0;
  const wl even_a = (g[0] + 0.5 * g[2]) * third, odd_a = (a * third) * g[1];
  const wl even_b = (g[0] + 2.0 * g[2]) * sixth, odd_b = (b * sixth) * g[1];
  u[0] = g[0];
  u[1] = even_a + odd_a;
  u[2] = even_a - odd_a;
  u[3] = even_b + odd_b;
  u[4] = even_b - odd_b;
  u[5] = g[2];
}

static void weights(const float *plain, int64_t out, int64_t in, int nr, int64_t panel, float *packed) {
  const int64_t plane = (out + nr - 1) / nr * nr * in;
  for (int64_t c = 0; c < nr; c += WL) {
    const int64_t o = panel * nr + c, n = out - o < WL ? out - o : WL;
    for (int64_t i = 0; i < in; i++) {
      wl g[9] = {{0}}, columns[3][6], t[3], u[6];
      for (int64_t lane = 0; lane < n; lane++) {
        for (int k = 0; k < 9; k++) g[k][lane] = (double)plain[((o + lane) * in + i) * 9 + k];
      }
      UNROLL for (int col = 0; col < 3; col++) {
        for (int row = 0; row < 3; row++) t[row] = g[row * 3 + col];
        weights_1d(t, columns[col]);
      }
      UNROLL for (int row = 0; row < 6; row++) {
        for (int col = 0; col < 3; col++) t[col] = columns[col][row];
        weights_1d(t, u);
        float *to = packed + row * 6 * plane + panel * in * nr + i * nr + c;
        UNROLL for (int col = 0; col < 6; col++) {
          *(wl_float *)(void *)(to + col * plane) = __builtin_convertvector(u[col], wl_float);
        }
      }
    }
  }
}

const winograd_isa KERNEL(winograd_isa) = {input, output, weights};
