/* Matrix product and implicit-GEMM convolution with fused multiply-adds in f32, for operands of any type: strict f32.
 *
 * Macros as in gemm.cu: IN_TYPE OUT_TYPE BIAS_TYPE HAS_BIAS GEMM_M GEMM_N GEMM_K LDA LDB A_OFFSET B_OFFSET C_AT B_KN VEC_A VEC_B (4 at
 * most) VEC_C (divides TN) SPLIT (through `ws` and `counters`) GROUPED CONV... EPILOGUE...; and BM BN BK, TM TN (results of a thread).
 * Grid: (tiles_m * tiles_n * batches, SPLIT); block: THREADS = BM / TM * BN / TN. */

#define THREADS (BM / TM * (BN / TN))
#define AV (VEC_A < 4 ? VEC_A : 4)
#define BV (VEC_B < 4 ? VEC_B : 4)
#define A_VECS (BM * BK / AV)
#define B_VECS (BN * BK / BV)
#define A_ITERS ((A_VECS + THREADS - 1) / THREADS)
#define B_ITERS ((B_VECS + THREADS - 1) / THREADS)
#define PITCH_A (BM + 4)
#define PITCH_B (BN + 4)
#define SMEM_BYTES (2 * BK * (PITCH_A + PITCH_B) * 4 + 16)
#define K_TILES ((GEMM_K + BK - 1) / BK)
#define TILES_N ((GEMM_N + BN - 1) / BN)
#define ESIZE_IN (IN_TYPE == MX_F32 ? 4 : 2)
#ifndef EPILOGUE
#define EPILOGUE(v, z, row, col)
#endif
#ifndef EPILOGUE_PARAMS
#define EPILOGUE_PARAMS
#endif
#ifndef BIAS_OFFSET
#define BIAS_OFFSET(z) 0
#endif
#ifndef BIAS_COL
#define BIAS_COL(n) (n)
#endif
#ifndef C_AT
#define C_AT(z, row, col) (C_OFFSET(z) + (row) * (long long)LDC + (col))
#endif
#ifndef KERNEL_NAME
#define KERNEL_NAME kiln_gemm_simt
#endif

extern "C" __global__ void __launch_bounds__(THREADS)
    KERNEL_NAME(const void *a, const void *b, void *__restrict__ c, BIAS_PARAM,
                float *__restrict__ ws, mx_u32 *__restrict__ counters, int m_arg EPILOGUE_PARAMS) {
  extern __shared__ __align__(16) unsigned char smem[];
  const int tid = threadIdx.x, split = blockIdx.y, n0 = blockIdx.x % TILES_N * BN;
  const int tm = tid / (BN / TN) * TM, tn = tid % (BN / TN) * TN;
  mx_grid_wait();
#if GROUPED
  int z, m0, m_end;
  if (!mx_group_tile(ends, blockIdx.x / TILES_N, m_arg, z, m0, m_end)) return;
  const int k_first = 0, k_last = z < N_GROUPS ? K_TILES : 0;
#else
  const int tiles = (GEMM_M + BM - 1) / BM * TILES_N, z = blockIdx.x / tiles, m0 = blockIdx.x % tiles / TILES_N * BM;
  const int k_first = (int)((long long)K_TILES * split / SPLIT), k_last = (int)((long long)K_TILES * (split + 1) / SPLIT);
#endif
  const long long a0 = A_OFFSET((long long)z), b0 = B_OFFSET((long long)z);

  float fa[A_ITERS][AV], fb[B_ITERS][BV];
  auto load = [&](int slice) {
#pragma unroll
    for (int i = 0; i < A_ITERS; i++) {
      const int e = tid + i * THREADS, r = e / (BK / AV), k = slice * BK + e % (BK / AV) * AV, m = m0 + r;
      bool ok = e < A_VECS && m < GEMM_M && k < GEMM_K;
      long long at = a0;
#if CONV
      const int tap = k / CONV_C, ch = k % CONV_C, image = m / (OUT_H * OUT_W), p = m % (OUT_H * OUT_W);
      const int y = p / OUT_W * STRIDE_H - PAD_H + tap / KERNEL_W * DILATION_H;
      const int x = p % OUT_W * STRIDE_W - PAD_W + tap % KERNEL_W * DILATION_W;
      ok = ok && (mx_u32)y < IMG_H && (mx_u32)x < IMG_W;
      at += (((long long)image * IMG_H + y) * IMG_W + x) * LDA + ch;
#else
      at += (long long)m * LDA + k;
#endif
#pragma unroll
      for (int j = 0; j < AV; j++) fa[i][j] = 0.0f;
      if (ok) mx_load<IN_TYPE, AV>(a, at, fa[i]);
    }
#pragma unroll
    for (int i = 0; i < B_ITERS; i++) {
      const int e = tid + i * THREADS;
#if B_KN
      const int k = slice * BK + e / (BN / BV), n = n0 + e % (BN / BV) * BV;
      const long long at = b0 + (long long)k * LDB + n;
#else
      const int n = n0 + e / (BK / BV), k = slice * BK + e % (BK / BV) * BV;
      const long long at = b0 + (long long)n * LDB + k;
#endif
#pragma unroll
      for (int j = 0; j < BV; j++) fb[i][j] = 0.0f;
      if (e < B_VECS && n < GEMM_N && k < GEMM_K) mx_load<IN_TYPE, BV>(b, at, fb[i]);
    }
  };
  auto keep = [&](int stage) {
    float *sa = (float *)smem + stage * BK * (PITCH_A + PITCH_B), *sb = sa + BK * PITCH_A;
#pragma unroll
    for (int i = 0; i < A_ITERS; i++) {
      const int e = tid + i * THREADS;
      if (e >= A_VECS) break;
#pragma unroll
      for (int j = 0; j < AV; j++) sa[(e % (BK / AV) * AV + j) * PITCH_A + e / (BK / AV)] = fa[i][j];
    }
#pragma unroll
    for (int i = 0; i < B_ITERS; i++) {
      const int e = tid + i * THREADS;
      if (e >= B_VECS) break;
#pragma unroll
      for (int j = 0; j < BV; j++) {
#if B_KN
        sb[e / (BN / BV) * PITCH_B + e % (BN / BV) * BV + j] = fb[i][j];
#else
        sb[(e % (BK / BV) * BV + j) * PITCH_B + e / (BK / BV)] = fb[i][j];
#endif
      }
    }
  };

  float acc[TM][TN];
#pragma unroll
  for (int i = 0; i < TM; i++)
#pragma unroll
    for (int j = 0; j < TN; j++) acc[i][j] = 0.0f;
  if (k_first < k_last) {
    load(k_first);
    keep(0);
  }
  __syncthreads();
  for (int s = k_first; s < k_last; s++) {
    const int stage = (s - k_first) & 1;
    if (s + 1 < k_last) load(s + 1);
    const float *sa = (const float *)smem + stage * BK * (PITCH_A + PITCH_B) + tm, *sb = sa - tm + BK * PITCH_A + tn;
#pragma unroll
    for (int k = 0; k < BK; k++) {
      float ra[TM], rb[TN];
      mx_load<MX_F32, TM>(sa, k * PITCH_A, ra);
      mx_load<MX_F32, TN>(sb, k * PITCH_B, rb);
#pragma unroll
      for (int i = 0; i < TM; i++)
#pragma unroll
        for (int j = 0; j < TN; j++) acc[i][j] += ra[i] * rb[j];
    }
    if (s + 1 < k_last) keep(stage ^ 1);
    __syncthreads();
  }

#if SPLIT > 1
  const long long tile = blockIdx.x;
  float *parts = ws + tile * SPLIT * (BM * BN);
#pragma unroll
  for (int i = 0; i < TM; i++) mx_store<MX_F32, TN>(parts, (long long)split * (BM * BN) + (tm + i) * BN + tn, acc[i]);
  __threadfence();
  __syncthreads();
  mx_u32 *last = (mx_u32 *)(smem + SMEM_BYTES - 16);
  if (tid == 0) {
    mx_u32 before = atomicAdd(counters + tile, 1u);
    if (before == SPLIT - 1) counters[tile] = 0;
    *last = before == SPLIT - 1;
  }
  __syncthreads();
  if (!*last) return;
  __threadfence();
#pragma unroll
  for (int i = 0; i < TM; i++)
#pragma unroll
    for (int j = 0; j < TN; j++) {
      acc[i][j] = 0.0f;
      for (int s = 0; s < SPLIT; s++) acc[i][j] += __ldcg(parts + (long long)s * (BM * BN) + (tm + i) * BN + tn + j);
    }
#endif
#pragma unroll
  for (int i = 0; i < TM; i++)
#pragma unroll
    for (int j = 0; j < TN; j += VEC_C) {
      const int row = m0 + tm + i, n = n0 + tn + j;
      if (row >= GEMM_M || n >= GEMM_N) continue;
      float v[VEC_C];
#pragma unroll
      for (int e = 0; e < VEC_C; e++) v[e] = acc[i][j + e];
#if HAS_BIAS
      float q[VEC_C];
      mx_load<BIAS_TYPE, VEC_C>(bias, BIAS_OFFSET((long long)z) + BIAS_COL(n), q);
#pragma unroll
      for (int e = 0; e < VEC_C; e++) v[e] += q[e];
#endif
      EPILOGUE(v, z, row, n)
      mx_store<OUT_TYPE, VEC_C>(c, C_AT((long long)z, row, n), v);
    }
}
