/* Convolution of any kind, one thread for each output element: 1 to 3 dimensions, groups, dilation, transposed, any layout and
 * strides. The kernel for what the fast ones do not take.
 *
 * Macros: IN_TYPE OUT_TYPE BIAS_TYPE HAS_BIAS TRANSPOSED; sizes as of a 3-d convolution (missing leading dimensions are 1):
 * IN_D IN_H IN_W OUT_D OUT_H OUT_W OUT_C GROUP_IN GROUP_OUT (channels of one group) KERNEL_* STRIDE_* PAD_* DILATION_*;
 * X_N X_C X_D X_H X_W: strides of x; W_O W_I W_D W_H W_W: of the filter, by output channel within the group and input channel within
 * the group, and W_G: from group to group; Y_AT(n, c, d, h, w): element offset of a result.
 * EPILOGUE(v, n, c, d, h, w): v is float[1]; there is none if IN_TYPE is MX_F64. Grid: 1-d over all results, channel fastest. */

#if IN_TYPE == MX_F64
typedef double sum_t;
#define LOAD(type, p, i) ((const double *)(p))[i]
#define STORE(p, i, v) ((double *)(p))[i] = (v)
#undef EPILOGUE
#else
typedef float sum_t;
#define LOAD(type, p, i) mx_load1<type>(p, i)
#define STORE(p, i, v) mx_store1<OUT_TYPE>(p, i, v)
#endif

#ifndef EPILOGUE
#define EPILOGUE(v, n, c, d, h, w)
#endif
#ifndef EPILOGUE_PARAMS
#define EPILOGUE_PARAMS
#endif
#ifndef KERNEL_NAME
#define KERNEL_NAME kiln_conv_direct
#endif

/* Input position for output position `o` and filter position `k`; false: there is none. */
__device__ __forceinline__ bool conv_position(int o, int k, int stride, int pad, int dilation, int size, int *out) {
#if TRANSPOSED
  int p = o + pad - k * dilation;
  if (p < 0 || p % stride != 0) return false;
  *out = p / stride;
#else
  *out = o * stride - pad + k * dilation;
#endif
  return *out >= 0 && *out < size;
}

extern "C" __global__ void __launch_bounds__(256)
    KERNEL_NAME(const void *x, const void *f, void *__restrict__ y, BIAS_PARAM, long long total EPILOGUE_PARAMS) {
  mx_grid_wait();
  const long long t = (long long)blockIdx.x * 256 + threadIdx.x;
  if (t >= total) return;
  const int c = (int)(t % OUT_C);
  long long p = t / OUT_C;
  const int ow = (int)(p % OUT_W), oh = (int)(p / OUT_W % OUT_H), od = (int)(p / ((long long)OUT_W * OUT_H) % OUT_D);
  const long long n = p / ((long long)OUT_W * OUT_H * OUT_D);
  const int group = c / GROUP_OUT, co = c % GROUP_OUT;
  sum_t v[1] = {0};
  for (int kd = 0; kd < KERNEL_D; kd++) {
    int d;
    if (!conv_position(od, kd, STRIDE_D, PAD_D, DILATION_D, IN_D, &d)) continue;
    for (int kh = 0; kh < KERNEL_H; kh++) {
      int h;
      if (!conv_position(oh, kh, STRIDE_H, PAD_H, DILATION_H, IN_H, &h)) continue;
      for (int kw = 0; kw < KERNEL_W; kw++) {
        int w;
        if (!conv_position(ow, kw, STRIDE_W, PAD_W, DILATION_W, IN_W, &w)) continue;
        const long long xi = n * X_N + (long long)group * GROUP_IN * X_C + d * (long long)X_D + h * (long long)X_H + w * (long long)X_W;
        const long long fi = (long long)group * W_G + (long long)co * W_O + kd * (long long)W_D + kh * (long long)W_H + kw * (long long)W_W;
        for (int ci = 0; ci < GROUP_IN; ci++)
          v[0] += LOAD(IN_TYPE, x, xi + ci * (long long)X_C) * LOAD(IN_TYPE, f, fi + ci * (long long)W_I);
      }
    }
  }
#if HAS_BIAS
  v[0] += LOAD(BIAS_TYPE, bias, c);
#endif
  EPILOGUE(v, n, c, od, oh, ow)
  STORE(y, Y_AT(n, c, od, oh, ow), v[0]);
}
