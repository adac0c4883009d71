/* Tensor-core matrix product and implicit-GEMM convolution: C[m, n] = epilogue(bias[n] + sum over k of A[m, k] * B[k, n]).
 *
 * One text; macros (written in front by gemm.c and conv.c) choose everything:
 *   IN_TYPE, OUT_TYPE, BIAS_TYPE   MX_F16, MX_BF16 or MX_F32 (as input: tf32 arithmetic)
 *   MATH                           0: mma.sync (sm_80 and later); 1: wgmma (sm_90a; B as [N, K], BK rows of 128 bytes)
 *   BM BN BK STAGES                tile, and how many of its k-slices are in flight or in use
 *   WARPS_M WARPS_N WARPS_K        how warps share the tile; WARPS_K of them split each k-slice
 *   MIN_CTAS                       blocks per multiprocessor that registers must allow
 *   GEMM_M GEMM_N GEMM_K           sizes; GEMM_M may be m_arg (run-time)
 *   LDA LDB                        row pitches in elements; A_OFFSET(z) B_OFFSET(z): of batch or group z
 *   C_AT(z, row, col)              element offset of a result
 *   B_KN                           0: B is stored [N, K]; 1: [K, N]
 *   VEC_A VEC_B VEC_C              elements per access that alignment and sizes allow (16 bytes at most; 1 is always right)
 *   SPLIT SPLIT_CLUSTER            k is shared by SPLIT blocks, which add up through distributed shared memory (SPLIT_CLUSTER 1,
 *                                  sm_90, SPLIT <= 8) or through `ws` (floats: batches * tiles * SPLIT * BM * BN) and
 *                                  `counters` (batches * tiles words, zero at first, left zero)
 *   HAS_BIAS                       bias[n] (BIAS_OFFSET(z) for groups)
 *   EPILOGUE(v, z, row, col)       optional text: float v[VEC_C] has columns col.. of row `row` of batch z, all within C
 *   EPILOGUE_PARAMS                optional: further kernel parameters for it, with a comma in front
 *   CONV                           1: A is an NHWC image (LDA between pixels), row m is output pixel m, k is (kh, kw, channel):
 *                                  IMG_H IMG_W OUT_H OUT_W CONV_C (channels of this group) KERNEL_H KERNEL_W STRIDE_H STRIDE_W
 *                                  PAD_H PAD_W DILATION_H DILATION_W
 *   GROUPED                        1: rows are of several groups with a B each: see mx_group_tile; `ends` is a parameter; no SPLIT
 *   PDL, B_CONST                   launched as a dependent launch; B is a weight, so loads of B start before the wait
 * Grid: (tiles_m * tiles_n * batches, SPLIT); block: THREADS. Shared memory: SMEM_BYTES, all dynamic.
 *
 * The idea: every tile row is 64 to 256 bytes of 16-byte chunks, stored swizzled, so that the copies, ldmatrix and wgmma all see
 * the same layout. Accumulators leave through shared memory as f32, so that bias, epilogue and stores work on whole vectors of
 * one row and split-K sums are a loop over slabs. */

#define WARPS (WARPS_M * WARPS_N * WARPS_K)
#define THREADS (WARPS * 32)
#if IN_TYPE == MX_F32
#define ESIZE 4
typedef float in_t;
#else
#define ESIZE 2
typedef mx_u16 in_t;
#endif
#if OUT_TYPE == MX_F32
typedef float out_t;
#else
typedef mx_u16 out_t;
#endif
#define EPC (16 / ESIZE)               /* elements of a chunk */
#define K_CHUNKS (BK / EPC)            /* chunks of a row of A, or of B as [N, K] */
#define N_CHUNKS (BN / EPC)            /* chunks of a row of B as [K, N] */
#define A_BYTES (BM * BK * ESIZE)
#define B_BYTES (BN * BK * ESIZE)
#define STAGE_BYTES (A_BYTES + B_BYTES)
#define PITCH (BN + 8)                 /* of the f32 tile at the end */
#define SLAB (BM * PITCH)
#define OUT_BYTES (WARPS_K * SLAB * 4 + 16)
#define SMEM_BYTES (STAGES * STAGE_BYTES > OUT_BYTES ? STAGES * STAGE_BYTES : OUT_BYTES)
#define A_ITERS ((BM * K_CHUNKS + THREADS - 1) / THREADS)
#define A_STEP (THREADS / K_CHUNKS)    /* rows between a thread's chunks */
#if B_KN
#define B_CHUNKS N_CHUNKS
#define B_ROWS BK
#else
#define B_CHUNKS K_CHUNKS
#define B_ROWS BN
#endif
#define B_ITERS ((B_ROWS * B_CHUNKS + THREADS - 1) / THREADS)
#define B_STEP (THREADS / B_CHUNKS)
#define WTM (BM / WARPS_M)
#define WTN (BN / WARPS_N)
#define MT (WTM / 16)
#define NT (WTN / 8)
#define KSTEPS (K_CHUNKS / 2)          /* matrix instructions along one k-slice */
#define K_TILES ((GEMM_K + BK - 1) / BK)
#define TILES_N ((GEMM_N + BN - 1) / BN)
#define GROUP_M 8                      /* tiles of so many rows of tiles run together, for the L2 cache */
#if MATH == 1
#define DISTANCE (STAGES - 2)          /* slices loaded ahead: the one before the current is still being read */
#else
#define DISTANCE (STAGES - 1)
#endif
#ifndef B_CONST
#define B_CONST 0
#endif
#ifndef EPILOGUE
#define EPILOGUE(v, z, row, col)
#endif
#ifndef EPILOGUE_PARAMS
#define EPILOGUE_PARAMS
#endif
#ifndef BIAS_OFFSET
#define BIAS_OFFSET(z) 0
#endif
#ifndef BIAS_COL /* of the bias, for column n */
#define BIAS_COL(n) (n)
#endif
#ifndef C_AT
#define C_AT(z, row, col) (C_OFFSET(z) + (row) * (long long)LDC + (col))
#endif
#ifndef KERNEL_NAME
#define KERNEL_NAME kiln_gemm
#endif

/* One chunk: VEC elements at a time, the j-th valid if j < valid (a multiple of VEC). */
template <int VEC>
__device__ __forceinline__ void copy_chunk(mx_u32 dst, const in_t *src, int valid, const in_t *safe) {
  if (VEC * ESIZE >= 4) {
    constexpr int BYTES = VEC * ESIZE >= 4 ? VEC * ESIZE : 4;
#pragma unroll
    for (int j = 0; j < EPC; j += VEC) {
      bool ok = j < valid;
      mx_copy_async<BYTES>(dst + j * ESIZE, ok ? (const void *)(src + j) : (const void *)safe, ok);
    }
  } else {
    mx_u32 w[4];
#pragma unroll
    for (int j = 0; j < EPC; j += 2) {
      mx_u32 lo = 0, hi = 0;
      if (j < valid) lo = *(const mx_u16 *)(src + j);
      if (j + 1 < valid) hi = *(const mx_u16 *)(src + j + 1);
      w[(j / 2) & 3] = lo | hi << 16;
    }
    asm volatile("st.shared.v4.b32 [%0], {%1,%2,%3,%4};" ::"r"(dst), "r"(w[0]), "r"(w[1]), "r"(w[2]), "r"(w[3]) : "memory");
  }
}

__device__ __forceinline__ int clamp_valid(int n) { return n < 0 ? 0 : n > EPC ? EPC : n; }

#if SPLIT > 1 && SPLIT_CLUSTER
__device__ __forceinline__ void cluster_barrier() {
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}
__device__ __forceinline__ mx_u32 cluster_address(mx_u32 addr, int rank) {
  mx_u32 r;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(r) : "r"(addr), "r"(rank));
  return r;
}
template <int N>
__device__ __forceinline__ void add_remote(mx_u32 addr, float *v) {
  if (N % 4 == 0) {
#pragma unroll
    for (int j = 0; j < N; j += 4) {
      float4 q;
      asm volatile("ld.shared::cluster.v4.f32 {%0,%1,%2,%3}, [%4];" : "=f"(q.x), "=f"(q.y), "=f"(q.z), "=f"(q.w) : "r"(addr + j * 4));
      v[j] += q.x; v[j + 1] += q.y; v[j + 2] += q.z; v[j + 3] += q.w;
    }
  } else {
#pragma unroll
    for (int j = 0; j < N; j++) {
      float q;
      asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(q) : "r"(addr + j * 4));
      v[j] += q;
    }
  }
}
#define CLUSTER_DIMS __cluster_dims__(1, SPLIT, 1)
#else
#define CLUSTER_DIMS
#endif

extern "C" __global__ void CLUSTER_DIMS __launch_bounds__(THREADS, MIN_CTAS)
    KERNEL_NAME(const in_t *a, const in_t *b, out_t *__restrict__ c, BIAS_PARAM,
                float *__restrict__ ws, mx_u32 *__restrict__ counters, int m_arg EPILOGUE_PARAMS) {
  extern __shared__ __align__(1024) unsigned char smem[];
  const mx_u32 smem0 = mx_shared(smem);
  const int tid = threadIdx.x, lane = tid & 31, warp = tid >> 5;
  const int wm = warp % WARPS_M, wn = warp / WARPS_M % WARPS_N, wk = warp / (WARPS_M * WARPS_N);
  const int split = blockIdx.y;

  /* Which tile. */
#if GROUPED
  int m0, m_end, z;
  mx_grid_wait();
  if (!mx_group_tile(ends, blockIdx.x / TILES_N, m_arg, z, m0, m_end)) return;
  const int n0 = blockIdx.x % TILES_N * BN, all_slices = z < N_GROUPS ? K_TILES : 0;
#else
  int tile_m, tile_n, z;
  {
    int tiles_m = (GEMM_M + BM - 1) / BM, t = blockIdx.x % (tiles_m * TILES_N), in_group = GROUP_M * TILES_N;
    z = blockIdx.x / (tiles_m * TILES_N);
    int first = t / in_group * GROUP_M, rest = t % in_group, rows = min(tiles_m - first, GROUP_M);
    tile_m = first + rest % rows;
    tile_n = rest / rows;
  }
  const int m0 = tile_m * BM, n0 = tile_n * BN, all_slices = K_TILES;
#endif
  const int k_first = SPLIT > 1 ? (int)((long long)K_TILES * split / SPLIT) : 0;
  const int k_last = SPLIT > 1 ? (int)((long long)K_TILES * (split + 1) / SPLIT) : all_slices;
  const int slices = k_last - k_first;
  a += A_OFFSET((long long)z);
  b += B_OFFSET((long long)z);

  /* What this thread copies of A: rows a_row + i * A_STEP, always the same chunk. */
  const int a_chunk = tid % K_CHUNKS, a_row = tid / K_CHUNKS;
#if CONV
  const in_t *a_at[A_ITERS]; /* the window's corner, perhaps outside of the image */
  int a_y[A_ITERS], a_x[A_ITERS];
#pragma unroll
  for (int i = 0; i < A_ITERS; i++) {
    int m = m0 + a_row + i * A_STEP;
    bool ok = m < GEMM_M && a_row + i * A_STEP < BM;
    int image = m / (OUT_H * OUT_W), p = m % (OUT_H * OUT_W);
    int y = p / OUT_W * STRIDE_H - PAD_H, x = p % OUT_W * STRIDE_W - PAD_W;
    a_y[i] = ok ? y : -(1 << 29);
    a_x[i] = x;
    a_at[i] = a + (((long long)image * IMG_H + y) * IMG_W + x) * LDA;
  }
#else
  const in_t *a_at[A_ITERS];
  int a_ok[A_ITERS];
#pragma unroll
  for (int i = 0; i < A_ITERS; i++) {
    int r = a_row + i * A_STEP, m = m0 + r;
    a_ok[i] = m < GEMM_M && r < BM;
    a_at[i] = a + (long long)(a_ok[i] ? m : 0) * LDA;
  }
#endif
  auto load_a = [&](int slice) {
    const mx_u32 base = smem0 + slice % STAGES * STAGE_BYTES;
    const int k = (k_first + slice) * BK + a_chunk * EPC;
#if CONV
    constexpr int VEC = VEC_A < EPC ? VEC_A : EPC;
#pragma unroll
    for (int j = 0; j < EPC; j += VEC) { /* VEC elements lie in one pixel */
      const int kj = k + j, tap = kj / CONV_C, ch = kj % CONV_C, kh = tap / KERNEL_W, kw = tap % KERNEL_W;
      const int dy = kh * DILATION_H, dx = kw * DILATION_W;
      const long long off = ((long long)dy * IMG_W + dx) * LDA + ch;
      const bool k_ok = kj < GEMM_K;
#pragma unroll
      for (int i = 0; i < A_ITERS; i++) {
        const int r = a_row + i * A_STEP;
        if (BM * K_CHUNKS % THREADS != 0 && r >= BM) break;
        const bool ok = k_ok && (mx_u32)(a_y[i] + dy) < IMG_H && (mx_u32)(a_x[i] + dx) < IMG_W;
        const mx_u32 dst = base + (r * K_CHUNKS + mx_swizzle<K_CHUNKS>(r, a_chunk)) * 16 + j * ESIZE;
        if (VEC * ESIZE >= 4) {
          constexpr int BYTES = VEC * ESIZE >= 4 ? VEC * ESIZE : 4;
          mx_copy_async<BYTES>(dst, ok ? (const void *)(a_at[i] + off) : (const void *)a, ok);
        } else {
          mx_u16 h = 0;
          if (ok) h = *(const mx_u16 *)(a_at[i] + off);
          asm volatile("st.shared.u16 [%0], %1;" ::"r"(dst), "h"(h) : "memory");
        }
      }
    }
#else
#pragma unroll
    for (int i = 0; i < A_ITERS; i++) {
      const int r = a_row + i * A_STEP;
      if (BM * K_CHUNKS % THREADS != 0 && r >= BM) break;
      copy_chunk<VEC_A>(base + (r * K_CHUNKS + mx_swizzle<K_CHUNKS>(r, a_chunk)) * 16, a_at[i] + k,
                        a_ok[i] ? clamp_valid(GEMM_K - k) : 0, a);
    }
#endif
  };

  const int b_chunk = tid % B_CHUNKS, b_row = tid / B_CHUNKS;
  auto load_b = [&](int slice) {
    const mx_u32 base = smem0 + slice % STAGES * STAGE_BYTES + A_BYTES;
    const int k0 = (k_first + slice) * BK;
#pragma unroll
    for (int i = 0; i < B_ITERS; i++) {
      const int r = b_row + i * B_STEP;
      if (B_ROWS * B_CHUNKS % THREADS != 0 && r >= B_ROWS) break;
      const mx_u32 dst = base + (r * B_CHUNKS + mx_swizzle<B_CHUNKS>(r, b_chunk)) * 16;
#if B_KN
      const int k = k0 + r, n = n0 + b_chunk * EPC;
      copy_chunk<VEC_B>(dst, b + (long long)k * LDB + n, k < GEMM_K ? clamp_valid(GEMM_N - n) : 0, b);
#else
      const int k = k0 + b_chunk * EPC, n = n0 + r;
      copy_chunk<VEC_B>(dst, b + (long long)n * LDB + k, n < GEMM_N ? clamp_valid(GEMM_K - k) : 0, b);
#endif
    }
  };

  float acc[MT][NT][4];
#pragma unroll
  for (int i = 0; i < MT; i++)
#pragma unroll
    for (int j = 0; j < NT; j++)
#pragma unroll
      for (int e = 0; e < 4; e++) acc[i][j][e] = 0.0f;

#if PDL && B_CONST
#pragma unroll
  for (int s = 0; s < DISTANCE; s++)
    if (s < slices) load_b(s);
  mx_grid_wait();
#pragma unroll
  for (int s = 0; s < DISTANCE; s++) {
    if (s < slices) load_a(s);
    mx_commit();
  }
#else
  mx_grid_wait();
#pragma unroll
  for (int s = 0; s < DISTANCE; s++) {
    if (s < slices) {
      load_a(s);
      load_b(s);
    }
    mx_commit();
  }
#endif

#if MATH == 1
  for (int s = 0; s < slices; s++) {
    mx_wait<DISTANCE - 1>();
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    __syncthreads(); /* slice s is there, and everybody is done with slice s - 2 */
    const mx_u32 base = smem0 + s % STAGES * STAGE_BYTES;
    const mx_u64 da = wg_descriptor(base + wm / 4 * (64 * 128)), db = wg_descriptor(base + A_BYTES);
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
    for (int kk = 0; kk < KSTEPS; kk++) wg_mma(&acc[0][0][0], da + kk * 2, db + kk * 2);
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
    if (s + DISTANCE < slices) {
      load_a(s + DISTANCE);
      load_b(s + DISTANCE);
    }
    mx_commit();
    asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
  }
  asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
#pragma unroll
  for (int j = 0; j < NT; j++)
    asm volatile("" : "+f"(acc[0][j][0]), "+f"(acc[0][j][1]), "+f"(acc[0][j][2]), "+f"(acc[0][j][3])::"memory");
#else
  for (int s = 0; s < slices; s++) {
    mx_wait<DISTANCE - 1>();
    __syncthreads(); /* slice s is there, and everybody is done with slice s - 1 */
    if (s + DISTANCE < slices) {
      load_a(s + DISTANCE);
      load_b(s + DISTANCE);
    }
    mx_commit();
    const mx_u32 base_a = smem0 + s % STAGES * STAGE_BYTES, base_b = base_a + A_BYTES;
#pragma unroll
    for (int k1 = 0; k1 < KSTEPS / WARPS_K; k1++) {
      const int kk = k1 * WARPS_K + wk;
      mx_u32 fa[MT][4], fb[NT][2];
#pragma unroll
      for (int i = 0; i < MT; i++) {
        const int r = wm * WTM + i * 16 + (lane & 15), chunk = kk * 2 + (lane >> 4);
        mx_ldmatrix4(fa[i], base_a + (r * K_CHUNKS + mx_swizzle<K_CHUNKS>(r, chunk)) * 16);
      }
#if !B_KN
#pragma unroll
      for (int j = 0; j < NT; j += 2) {
        const int r = wn * WTN + j * 8 + (lane & 7) + (lane >> 4) * 8, chunk = kk * 2 + (lane >> 3 & 1);
        mx_ldmatrix4(fb[j], base_b + (r * K_CHUNKS + mx_swizzle<K_CHUNKS>(r, chunk)) * 16);
      }
#elif IN_TYPE == MX_F32
#pragma unroll
      for (int j = 0; j < NT; j++) {
        const int col = wn * WTN + j * 8 + (lane >> 2);
#pragma unroll
        for (int h = 0; h < 2; h++) {
          const int r = kk * 8 + (lane & 3) + h * 4;
          asm volatile("ld.shared.b32 %0, [%1];"
                       : "=r"(fb[j][h])
                       : "r"(base_b + (r * N_CHUNKS + mx_swizzle<N_CHUNKS>(r, col / 4)) * 16 + col % 4 * 4)
                       : "memory");
        }
      }
#else
#pragma unroll
      for (int j = 0; j < NT; j += 2) {
        const int r = kk * 16 + (lane & 15), chunk = (wn * WTN + j * 8) / 8 + (lane >> 4);
        mx_ldmatrix4_trans(fb[j], base_b + (r * N_CHUNKS + mx_swizzle<N_CHUNKS>(r, chunk)) * 16);
      }
#endif
#if IN_TYPE == MX_F32
#pragma unroll
      for (int i = 0; i < MT; i++)
#pragma unroll
        for (int e = 0; e < 4; e++) fa[i][e] = mx_round_tf32(fa[i][e]);
#pragma unroll
      for (int j = 0; j < NT; j++)
#pragma unroll
        for (int e = 0; e < 2; e++) fb[j][e] = mx_round_tf32(fb[j][e]);
#endif
#pragma unroll
      for (int i = 0; i < MT; i++)
#pragma unroll
        for (int j = 0; j < NT; j++) mx_mma<IN_TYPE>(acc[i][j], fa[i], fb[j][0], fb[j][1]);
    }
  }
#endif

  /* Accumulators to shared memory: one slab for each of WARPS_K. */
  mx_wait<0>();
  __syncthreads();
  float *slab = (float *)smem;
#pragma unroll
  for (int i = 0; i < MT; i++)
#pragma unroll
    for (int j = 0; j < NT; j++) {
      const int r = wm * WTM + i * 16 + (lane >> 2), col = wn * WTN + j * 8 + (lane & 3) * 2;
      float *p = slab + wk * SLAB + r * PITCH + col;
      *(float2 *)p = make_float2(acc[i][j][0], acc[i][j][1]);
      *(float2 *)(p + 8 * PITCH) = make_float2(acc[i][j][2], acc[i][j][3]);
    }

  constexpr int ROW_VECS = BN / VEC_C, VECS = BM * ROW_VECS;
  int begin = 0, end = VECS;
#if SPLIT > 1 && SPLIT_CLUSTER
  cluster_barrier();
  begin = VECS * split / SPLIT;
  end = VECS * (split + 1) / SPLIT;
#else
  __syncthreads();
#endif
#if SPLIT > 1 && !SPLIT_CLUSTER
  const long long tile = blockIdx.x;
  float *parts = ws + tile * SPLIT * (BM * BN);
  for (int e = tid; e < VECS; e += THREADS) {
    const int r = e / ROW_VECS, col = e % ROW_VECS * VEC_C;
    float v[VEC_C];
    mx_load<MX_F32, VEC_C>(slab, r * PITCH + col, v);
#pragma unroll
    for (int w = 1; w < WARPS_K; w++)
#pragma unroll
      for (int j = 0; j < VEC_C; j++) v[j] += slab[w * SLAB + r * PITCH + col + j];
    mx_store<MX_F32, VEC_C>(parts, (long long)split * (BM * BN) + r * BN + col, v);
  }
  __threadfence();
  mx_u32 *last = (mx_u32 *)(smem + SMEM_BYTES - 16);
  __syncthreads();
  if (tid == 0) {
    mx_u32 before = atomicAdd(counters + tile, 1u);
    if (before == SPLIT - 1) counters[tile] = 0;
    *last = before == SPLIT - 1;
  }
  __syncthreads();
  if (!*last) return;
  __threadfence();
#endif
  for (int e = begin + tid; e < end; e += THREADS) {
    const int r = e / ROW_VECS, col = e % ROW_VECS * VEC_C, row = m0 + r, n = n0 + col;
    if (row >= GEMM_M || n >= GEMM_N) continue;
    float v[VEC_C];
#if SPLIT > 1 && !SPLIT_CLUSTER
#pragma unroll
    for (int j = 0; j < VEC_C; j++) v[j] = 0.0f;
    for (int s = 0; s < SPLIT; s++) {
      float q[VEC_C];
      const float *from = parts + (long long)s * (BM * BN) + r * BN + col;
#pragma unroll
      for (int j = 0; j < VEC_C; j++) asm volatile("ld.global.cg.f32 %0, [%1];" : "=f"(q[j]) : "l"(from + j));
#pragma unroll
      for (int j = 0; j < VEC_C; j++) v[j] += q[j];
    }
#elif SPLIT > 1
#pragma unroll
    for (int j = 0; j < VEC_C; j++) v[j] = 0.0f;
#pragma unroll
    for (int s = 0; s < SPLIT; s++) {
#pragma unroll
      for (int w = 0; w < WARPS_K; w++)
        add_remote<VEC_C>(cluster_address(smem0 + (w * SLAB + r * PITCH + col) * 4, s), v);
    }
#else
    mx_load<MX_F32, VEC_C>(slab, r * PITCH + col, v);
#pragma unroll
    for (int w = 1; w < WARPS_K; w++) {
      float q[VEC_C];
      mx_load<MX_F32, VEC_C>(slab, w * SLAB + r * PITCH + col, q);
#pragma unroll
      for (int j = 0; j < VEC_C; j++) v[j] += q[j];
    }
#endif
#if HAS_BIAS
    {
      float q[VEC_C];
      mx_load<BIAS_TYPE, VEC_C>(bias, BIAS_OFFSET((long long)z) + BIAS_COL(n), q);
#pragma unroll
      for (int j = 0; j < VEC_C; j++) v[j] += q[j];
    }
#endif
    EPILOGUE(v, z, row, n)
    mx_store<OUT_TYPE, VEC_C>(c, C_AT((long long)z, row, n), v);
  }
#if SPLIT > 1 && SPLIT_CLUSTER
  cluster_barrier(); /* nobody leaves while another reads its slab */
#endif
}
