/* Depthwise convolution of channels-last images: one filter for each channel. Bound by memory: a thread makes VEC channels of
 * PY x PX output pixels, so that each input row is read once for PX + KERNEL_W - 1 columns; sums are f32.
 *
 * Macros: IN_TYPE OUT_TYPE BIAS_TYPE HAS_BIAS; VEC (1, 2, 4 or 8 channels, dividing CHANNELS and all pitches), PX PY;
 * IMG_H IMG_W OUT_H OUT_W CHANNELS KERNEL_H KERNEL_W STRIDE_H STRIDE_W PAD_H PAD_W DILATION_H DILATION_W; X_PIXEL, X_IMAGE (elements
 * from pixel to pixel and image to image); Y_AT(row, col): element offset of column col of output pixel `row`; THREADS.
 * Weights: [tap][channel]. EPILOGUE(v, row, col), EPILOGUE_PARAMS as in gemm.cu (v: float[VEC]).
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

extern "C" __global__ void __launch_bounds__(THREADS)
    KERNEL_NAME(const void *__restrict__ x, const void *__restrict__ w, void *__restrict__ y, const void *__restrict__ bias,
                int batch EPILOGUE_PARAMS) {
  constexpr int CV = CHANNELS / VEC, GX = (OUT_W + PX - 1) / PX, GY = (OUT_H + PY - 1) / PY;
  mx_grid_trigger();
  const long long t = (long long)blockIdx.x * THREADS + threadIdx.x;
  const long long p = t / CV;
  const int c = (int)(t % CV) * VEC, gx = (int)(p % GX), gy = (int)(p / GX % GY), image = (int)(p / ((long long)GX * GY));
  mx_grid_wait();
  if (image >= batch) return;
  const int ox = gx * PX, oy = gy * PY, x0 = ox * STRIDE_W - PAD_W, y0 = oy * STRIDE_H - PAD_H;

  float acc[PY][PX][VEC];
#pragma unroll
  for (int i = 0; i < PY; i++)
#pragma unroll
    for (int j = 0; j < PX; j++)
#pragma unroll
      for (int e = 0; e < VEC; e++) acc[i][j][e] = 0.0f;

#pragma unroll
  for (int iy = 0; iy < IN_ROWS; iy++) {
    bool used = false;
#pragma unroll
    for (int i = 0; i < PY; i++) {
      const int d = iy - i * STRIDE_H;
      if (d >= 0 && d % DILATION_H == 0 && d / DILATION_H < KERNEL_H) used = true;
    }
    if (!used) continue;
    const bool row_ok = (mx_u32)(y0 + iy) < IMG_H;
    float in[IN_COLS][VEC];
#pragma unroll
    for (int ix = 0; ix < IN_COLS; ix++) {
      const bool ok = row_ok && (mx_u32)(x0 + ix) < IMG_W;
      if (ok) {
        mx_load<IN_TYPE, VEC>(x, image * (long long)(X_IMAGE) + ((long long)(y0 + iy) * IMG_W + x0 + ix) * X_PIXEL + c, in[ix]);
      } else {
#pragma unroll
        for (int e = 0; e < VEC; e++) in[ix][e] = 0.0f;
      }
    }
#pragma unroll
    for (int i = 0; i < PY; i++) {
      const int d = iy - i * STRIDE_H;
      if (d < 0 || d % DILATION_H != 0 || d / DILATION_H >= KERNEL_H) continue;
#pragma unroll
      for (int kw = 0; kw < KERNEL_W; kw++) {
        float f[VEC];
        mx_load<IN_TYPE, VEC>(w, (long long)(d / DILATION_H * KERNEL_W + kw) * CHANNELS + c, f);
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
