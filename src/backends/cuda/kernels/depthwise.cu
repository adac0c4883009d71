/* Depthwise convolution of channels-last images: one filter for each channel. Bound by memory: a thread makes VEC channels of
 * PY x PX output pixels, so that each input row is read once for PX + KERNEL_W - 1 columns; sums are f32.
 *
 * Macros: IN_TYPE OUT_TYPE BIAS_TYPE HAS_BIAS; VEC (1, 2, 4 or 8 channels, dividing CHANNELS and all pitches), PX PY;
 * IMG_H IMG_W OUT_H OUT_W CHANNELS KERNEL_H KERNEL_W STRIDE_H STRIDE_W PAD_H PAD_W DILATION_H DILATION_W; X_PIXEL, X_IMAGE (elements
 * from pixel to pixel and image to image); Y_AT(row, col): element offset of column col of output pixel `row`; THREADS.
 * Weights: [tap][channel]; B_CONST 1: they do not depend on the kernel before. EPILOGUE(v, row, col), EPILOGUE_PARAMS as in gemm.cu
 * (v: float[VEC]). INDEX: type of a thread's number.
 * Grid: 1-d over batch * ceil(OUT_H / PY) * ceil(OUT_W / PX) * CHANNELS / VEC threads. */

#ifndef EPILOGUE
#define EPILOGUE(v, row, col)
#endif
#ifndef EPILOGUE_PARAMS
#define EPILOGUE_PARAMS
#endif
#ifndef KERNEL_NAME
#define KERNEL_NAME kiln_depthwise
#endif
#define IN_ROWS ((PY - 1) * STRIDE_H + (KERNEL_H - 1) * DILATION_H + 1)
#define IN_COLS ((PX - 1) * STRIDE_W + (KERNEL_W - 1) * DILATION_W + 1)

#ifndef B_CONST
#define B_CONST 0
#endif
#ifndef INDEX
#define INDEX long long
#endif
#define ESIZE (IN_TYPE == MX_F32 ? 4 : 2)
#define WORDS ((VEC * ESIZE + 3) / 4)
#define TAPS (KERNEL_H * KERNEL_W)
#define FEW_TAPS (TAPS * WORDS <= 36) /* all weights of a thread are kept */
#define FEW_PIXELS (IN_ROWS * IN_COLS * WORDS <= 64)

/* VEC elements as they are in memory: reads that do not wait for each other, since nothing is converted between them. */
__device__ __forceinline__ void load_words(const void *p, long long at, mx_u32 *w) {
  const char *from = (const char *)p + at * ESIZE;
  if (VEC * ESIZE == 2) {
    w[0] = *(const mx_u16 *)from;
  } else if (VEC * ESIZE == 4) {
    w[0] = *(const mx_u32 *)from;
  } else if (VEC * ESIZE == 8) {
    const uint2 q = *(const uint2 *)from;
    w[0] = q.x;
    w[WORDS > 1 ? 1 : 0] = q.y;
  } else {
#pragma unroll
    for (int i = 0; i + 3 < WORDS; i += 4) {
      const uint4 q = *(const uint4 *)(from + i * 4);
      w[i] = q.x; w[i + 1] = q.y; w[i + 2] = q.z; w[i + 3] = q.w;
    }
  }
}
__device__ __forceinline__ void widen(const mx_u32 *w, float *v) {
#pragma unroll
  for (int i = 0; i < WORDS; i++) {
    if (IN_TYPE == MX_F32) {
      v[i] = __uint_as_float(w[i]);
    } else if (VEC == 1) {
      v[0] = IN_TYPE == MX_F16 ? mx_from_f16((mx_u16)w[0]) : mx_from_bf16((mx_u16)w[0]);
    } else {
      mx_unpack2<IN_TYPE>(w[i], v[i * 2], v[i * 2 + 1]);
    }
  }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    KERNEL_NAME(const void *x, const void *w, void *__restrict__ y, BIAS_PARAM, int batch EPILOGUE_PARAMS) {
  constexpr int CV = CHANNELS / VEC, GX = (OUT_W + PX - 1) / PX, GY = (OUT_H + PY - 1) / PY;
  const INDEX t = (INDEX)blockIdx.x * THREADS + threadIdx.x, p = t / CV;
  const int c = (int)(t % CV) * VEC, gx = (int)(p % GX), gy = (int)(p / GX % GY), image = (int)(p / ((INDEX)GX * GY));
#if !B_CONST
  mx_grid_wait();
#endif
  mx_u32 kept[FEW_TAPS ? TAPS : 1][WORDS];
  if (FEW_TAPS) {
#pragma unroll
    for (int i = 0; i < TAPS; i++) load_words(w, (long long)i * CHANNELS + c, kept[FEW_TAPS ? i : 0]);
  } else if (B_CONST) {
#pragma unroll
    for (int i = 0; i < TAPS; i++) asm volatile("prefetch.global.L2 [%0];" ::"l"((const char *)w + ((long long)i * CHANNELS + c) * ESIZE));
  }
#if B_CONST
  mx_grid_wait();
#endif
  if (image >= batch) return;
  const int ox = gx * PX, oy = gy * PY, x0 = ox * STRIDE_W - PAD_W, y0 = oy * STRIDE_H - PAD_H;

  float acc[PY][PX][VEC];
#pragma unroll
  for (int i = 0; i < PY; i++)
#pragma unroll
    for (int j = 0; j < PX; j++)
#pragma unroll
      for (int e = 0; e < VEC; e++) acc[i][j][e] = 0.0f;

  mx_u32 raw[FEW_PIXELS ? IN_ROWS : 2][IN_COLS][WORDS]; /* all rows, or the current and the next */
  auto used = [&](int iy) {
    bool any = false;
#pragma unroll
    for (int i = 0; i < PY; i++) {
      const int d = iy - i * STRIDE_H;
      if (d >= 0 && d % DILATION_H == 0 && d / DILATION_H < KERNEL_H) any = true;
    }
    return any;
  };
  auto load_row = [&](int iy) {
    const bool row_ok = (mx_u32)(y0 + iy) < IMG_H;
    const long long at = image * (long long)(X_IMAGE) + ((long long)(y0 + iy) * IMG_W + x0) * X_PIXEL + c;
#pragma unroll
    for (int ix = 0; ix < IN_COLS; ix++) {
      mx_u32 *to = raw[FEW_PIXELS ? iy : iy & 1][ix];
#pragma unroll
      for (int e = 0; e < WORDS; e++) to[e] = 0;
      if (row_ok && (mx_u32)(x0 + ix) < IMG_W) load_words(x, at + ix * (long long)(X_PIXEL), to);
    }
  };
#pragma unroll
  for (int iy = 0; iy < (FEW_PIXELS ? IN_ROWS : 1); iy++)
    if (used(iy)) load_row(iy);
#pragma unroll
  for (int iy = 0; iy < IN_ROWS; iy++) {
    if (!FEW_PIXELS && iy + 1 < IN_ROWS && used(iy + 1)) load_row(iy + 1);
    if (!used(iy)) continue;
    float in[IN_COLS][VEC];
#pragma unroll
    for (int ix = 0; ix < IN_COLS; ix++) widen(raw[FEW_PIXELS ? iy : iy & 1][ix], in[ix]);
#pragma unroll
    for (int i = 0; i < PY; i++) {
      const int d = iy - i * STRIDE_H;
      if (d < 0 || d % DILATION_H != 0 || d / DILATION_H >= KERNEL_H) continue;
#pragma unroll
      for (int kw = 0; kw < KERNEL_W; kw++) {
        const int tap = d / DILATION_H * KERNEL_W + kw;
        float f[VEC];
        if (FEW_TAPS) {
          widen(kept[FEW_TAPS ? tap : 0], f);
        } else {
          mx_u32 words[WORDS];
          load_words(w, (long long)tap * CHANNELS + c, words);
          widen(words, f);
        }
#pragma unroll
        for (int j = 0; j < PX; j++)
#pragma unroll
          for (int e = 0; e < VEC; e++) acc[i][j][e] += in[j * STRIDE_W + kw * DILATION_W][e] * f[e];
      }
    }
  }
  float b[VEC];
#pragma unroll
  for (int e = 0; e < VEC; e++) b[e] = 0.0f;
#if HAS_BIAS
  mx_load<BIAS_TYPE, VEC>(bias, c, b);
#endif
#pragma unroll
  for (int i = 0; i < PY; i++)
#pragma unroll
    for (int j = 0; j < PX; j++) {
      if (oy + i >= OUT_H || ox + j >= OUT_W) continue;
      const long long row = ((long long)image * OUT_H + oy + i) * OUT_W + ox + j;
#pragma unroll
      for (int e = 0; e < VEC; e++) acc[i][j][e] += b[e];
      EPILOGUE(acc[i][j], row, c)
      mx_store<OUT_TYPE, VEC>(y, Y_AT(row, c), acc[i][j]);
    }
}
