/* Depthwise convolution: vectors run over channels; a tile of neighbouring outputs stays in registers so that each
 * input pixel is loaded once for all the places of the window that it is under. */
#include "backends/cpu/depthwise.h"
#include "backends/cpu/simd/f32.h"

#if defined(KILN_ISA_avx512)
enum { TILE = 8 };
#else
enum { TILE = 4 };
#endif
enum { MAX_KERNEL = 7, MAX_PIXELS = (TILE - 1) * 2 + MAX_KERNEL };
#define UNROLL _Pragma("GCC unroll 24")

/* `tile` outputs of one channel vector; kernel, stride and tile are constants where this is inlined. */
VF_INLINE void outputs(const depthwise_line *l, int64_t first, int64_t channel, vm mask, bool masked, int kernel,
                       int stride, int tile) {
  vf acc[TILE], bias = vf_zero();
  if (l->bias) bias = masked ? vf_load_mask(l->bias + channel, mask) : vf_load(l->bias + channel);
  UNROLL for (int t = 0; t < tile; t++) acc[t] = bias;
  const int64_t x_step = l->x_step;
  for (int r = 0; r < l->rows; r++) {
    const float *x = l->x[r] + first * stride * x_step + channel, *w = l->w[r] + channel;
    vf pixel[MAX_PIXELS];
    UNROLL for (int i = 0; i < (tile - 1) * stride + kernel; i++) {
      pixel[i] = masked ? vf_load_mask(x + i * x_step, mask) : vf_load(x + i * x_step);
    }
    UNROLL for (int k = 0; k < kernel; k++) {
      const vf wk = masked ? vf_load_mask(w + k * l->w_step, mask) : vf_load(w + k * l->w_step);
      UNROLL for (int t = 0; t < tile; t++) acc[t] = vf_fma(pixel[t * stride + k], wk, acc[t]);
    }
  }
  const vf lo = vf_set1(l->lo), hi = vf_set1(l->hi);
  float *y = l->y + first * l->y_step + channel;
  UNROLL for (int t = 0; t < tile; t++) {
    const vf v = vf_clamp(acc[t], lo, hi);
    if (masked) {
      vf_store_mask(y + t * l->y_step, mask, v);
    } else {
      vf_store(y + t * l->y_step, v);
    }
  }
}

/* `tile` outputs of all channels: pixels are read in the order in which they lie in memory. */
VF_INLINE void pixels(const depthwise_line *l, int64_t first, int kernel, int stride, int tile) {
  int64_t c = l->first;
  const int64_t end = c + l->channels;
  for (; c + VF <= end; c += VF) outputs(l, first, c, vf_tail(VF), false, kernel, stride, tile);
  if (c < end) outputs(l, first, c, vf_tail(end - c), true, kernel, stride, tile);
}

VF_INLINE void line(const depthwise_line *l, int kernel, int stride) {
  /* The last tile may overlap the one before: the same values again are cheaper than single outputs. */
  const int64_t count = l->count;
  int64_t i = 0;
  for (; i + TILE <= count; i += TILE) pixels(l, i, kernel, stride, TILE);
  if (i == count) return;
  if (count - i > TILE / 2 && count >= TILE) {
    pixels(l, count - TILE, kernel, stride, TILE);
  } else if (count >= TILE / 2) {
    if (count - i > TILE / 2) pixels(l, i, kernel, stride, TILE / 2);
    pixels(l, count - TILE / 2, kernel, stride, TILE / 2);
  } else {
    for (; i < count; i++) pixels(l, i, kernel, stride, 1);
  }
}

/* Any window: each place loads its own pixels. */
VF_INLINE void outputs_any(const depthwise_line *l, int64_t first, int64_t channel, vm mask, bool masked) {
  vf acc[TILE], bias = vf_zero();
  if (l->bias) bias = masked ? vf_load_mask(l->bias + channel, mask) : vf_load(l->bias + channel);
  UNROLL for (int t = 0; t < TILE; t++) acc[t] = bias;
  const int64_t step = l->stride * l->x_step;
  for (int r = 0; r < l->rows; r++) {
    const float *x = l->x[r] + first * step + channel, *w = l->w[r] + channel;
    for (int64_t k = 0; k < l->kernel; k++, x += l->dilation * l->x_step, w += l->w_step) {
      const vf wk = masked ? vf_load_mask(w, mask) : vf_load(w);
      UNROLL for (int t = 0; t < TILE; t++) {
        acc[t] = vf_fma(masked ? vf_load_mask(x + t * step, mask) : vf_load(x + t * step), wk, acc[t]);
      }
    }
  }
  const vf lo = vf_set1(l->lo), hi = vf_set1(l->hi);
  float *y = l->y + first * l->y_step + channel;
  UNROLL for (int t = 0; t < TILE; t++) {
    const vf v = vf_clamp(acc[t], lo, hi);
    if (masked) {
      vf_store_mask(y + t * l->y_step, mask, v);
    } else {
      vf_store(y + t * l->y_step, v);
    }
  }
}

static void line_other(const depthwise_line *l) {
  const int64_t end = l->first + l->channels;
  for (int64_t c = l->first; c < end; c += VF) {
    for (int64_t i = 0; i < l->count; i += TILE) {
      const int64_t first = i + TILE <= l->count ? i : l->count - TILE; /* the last tile may overlap */
      if (c + VF <= end) {
        outputs_any(l, first, c, vf_tail(VF), false);
      } else {
        outputs_any(l, first, c, vf_tail(end - c), true);
      }
    }
  }
}

static void line_3_1(const depthwise_line *l) { line(l, 3, 1); }
static void line_3_2(const depthwise_line *l) { line(l, 3, 2); }
static void line_5_1(const depthwise_line *l) { line(l, 5, 1); }
static void line_5_2(const depthwise_line *l) { line(l, 5, 2); }
static void line_7_1(const depthwise_line *l) { line(l, 7, 1); }
static void line_7_2(const depthwise_line *l) { line(l, 7, 2); }

static void line_any(const depthwise_line *l) {
  static void (*const lines[3][2])(const depthwise_line *) = {
      {line_3_1, line_3_2}, {line_5_1, line_5_2}, {line_7_1, line_7_2}};
  if (depthwise_line_is_common(l->kernel, l->stride, l->dilation)) {
    lines[(l->kernel - 3) / 2][l->stride - 1](l);
  } else {
    line_other(l);
  }
}

/* `count` channel vectors at once: independent sums hide the latency of FMA. */
VF_INLINE void pixel_vectors(const depthwise_pixel *p, int64_t channel, int count, vm mask, bool masked) {
  vf acc[4];
  UNROLL for (int v = 0; v < count; v++) {
    const int64_t at = channel + v * VF;
    acc[v] = vf_zero();
    if (p->bias) acc[v] = masked ? vf_load_mask(p->bias + at, mask) : vf_load(p->bias + at);
  }
  for (int64_t t = 0; t < p->taps; t++) {
    const float *x = p->x[t] + channel, *w = p->w[t] + channel;
    UNROLL for (int v = 0; v < count; v++) {
      const vf xv = masked ? vf_load_mask(x + v * VF, mask) : vf_load(x + v * VF);
      const vf wv = masked ? vf_load_mask(w + v * VF, mask) : vf_load(w + v * VF);
      acc[v] = vf_fma(xv, wv, acc[v]);
    }
  }
  const vf lo = vf_set1(p->lo), hi = vf_set1(p->hi);
  UNROLL for (int v = 0; v < count; v++) {
    const vf out = vf_clamp(acc[v], lo, hi);
    if (masked) {
      vf_store_mask(p->y + channel + v * VF, mask, out);
    } else {
      vf_store(p->y + channel + v * VF, out);
    }
  }
}

static void pixel_any(const depthwise_pixel *p) {
  int64_t c = p->first;
  const int64_t end = c + p->channels;
  const vm all = vf_tail(VF);
  for (; c + 4 * VF <= end; c += 4 * VF) pixel_vectors(p, c, 4, all, false);
  for (; c + VF <= end; c += VF) pixel_vectors(p, c, 1, all, false);
  if (c < end) pixel_vectors(p, c, 1, vf_tail(end - c), true);
}

const depthwise_isa KERNEL(depthwise_isa) = {line_any, pixel_any};
