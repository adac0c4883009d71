/* Large matrix products on sm_90a: C[m, n] = epilogue(bias[n] + sum over k of A[m, k] * B[n, k]).
 *
 * One warp feeds tiles through the bulk tensor copy engine, GROUPS warpgroups multiply with wgmma (64 rows each); blocks stay and
 * take tile after tile, so that the copies for the next tile run while this one is written. Accumulators leave through a small
 * buffer of each warp as f32, so that bias, epilogue and stores work on vectors of one row without a barrier of the block.
 *
 * Macros as in gemm.cu: IN_TYPE OUT_TYPE BIAS_TYPE HAS_BIAS GEMM_M GEMM_N GEMM_K BN STAGES VEC_C C_AT EPILOGUE.. PDL B_CONST and, for
 * CONV, its geometry; BM is GROUPS * 64, rows of a slice are 128 bytes. MIN_CTAS blocks share a multiprocessor. Boxes of the tensor maps: A [BM, 128 bytes], B [BN, 128 bytes], 128-byte
 * swizzle; of an image, BM pixels of im2col with 128 bytes of channels each.
 * Grid: any number of blocks up to the number of tiles; block: THREADS. Shared memory: SMEM_BYTES. */

#define THREADS (GROUPS * 128 + 32)
#define BM (GROUPS * 64)
#if IN_TYPE == MX_F32
#define ESIZE 4
#else
#define ESIZE 2
#endif
#if OUT_TYPE == MX_F32
typedef float out_t;
#else
typedef mx_u16 out_t;
#endif
#define BK (128 / ESIZE)
#define A_BYTES (BM * 128)
#define B_BYTES (BN * 128)
#define STAGE_BYTES (A_BYTES + B_BYTES)
#define PITCH 40                                /* of a warp's 16 x 32 buffer */
#define WARP_BYTES (16 * PITCH * 4)
#define BARRIERS (STAGES * STAGE_BYTES + GROUPS * 4 * WARP_BYTES)
#define SMEM_BYTES (BARRIERS + STAGES * 16)
#if CONV
#define TAP_SLICES ((CONV_C + BK - 1) / BK) /* the last may reach into the next tap's weights: A has zeros there */
#define SLICES (KERNEL_H * KERNEL_W * TAP_SLICES)
#else
#define SLICES ((GEMM_K + BK - 1) / BK)
#endif
#define TILES_M ((GEMM_M + BM - 1) / BM)
#define TILES_N ((GEMM_N + BN - 1) / BN)
#ifndef GROUP_M
#define GROUP_M 8
#endif
#ifndef STAGGER /* 1: the second warpgroup starts late, so that one multiplies while the other writes */
#define STAGGER 0
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

struct __align__(64) tensor_map {
  unsigned char bytes[128];
};

__device__ __forceinline__ void barrier_init(mx_u32 bar, int count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(bar), "r"(count) : "memory");
}
__device__ __forceinline__ void barrier_expect(mx_u32 bar, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes) : "memory");
}
__device__ __forceinline__ void barrier_arrive(mx_u32 bar) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(bar) : "memory");
}
__device__ __forceinline__ void barrier_wait(mx_u32 bar, int parity) {
  asm volatile(
      "{\n.reg .pred p;\nagain:\nmbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n@p bra done;\nbra again;\ndone:\n}" ::"r"(bar),
      "r"(parity)
      : "memory");
}
__device__ __forceinline__ void copy_box(mx_u32 dst, const tensor_map *map, int x, int y, mx_u32 bar) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(dst), "l"(map), "r"(x),
      "r"(y), "r"(bar)
      : "memory");
}

#if CONV
__device__ __forceinline__ void copy_pixels(mx_u32 dst, const tensor_map *map, int c, int x, int y, int n, int dx, int dy, mx_u32 bar) {
  asm volatile(
      "cp.async.bulk.tensor.4d.im2col.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4, %5}], [%6], {%7, %8};" ::"r"(dst),
      "l"(map), "r"(c), "r"(x), "r"(y), "r"(n), "r"(bar), "h"((mx_u16)dx), "h"((mx_u16)dy)
      : "memory");
}
#endif

extern "C" __global__ void __launch_bounds__(THREADS, MIN_CTAS)
    kiln_gemm_tma(const __grid_constant__ tensor_map map_a, const __grid_constant__ tensor_map map_b, out_t *__restrict__ c,
                  const void *__restrict__ bias EPILOGUE_PARAMS) {
  extern __shared__ __align__(1024) unsigned char smem[];
  const mx_u32 smem0 = mx_shared(smem), full = smem0 + BARRIERS, empty = full + STAGES * 8;
  const int tid = threadIdx.x, lane = tid & 31, warp = tid >> 5;
  const int tiles = TILES_M * TILES_N;
  mx_grid_trigger();
  if (tid == 0) {
    for (int s = 0; s < STAGES; s++) {
      barrier_init(full + s * 8, 1);
      barrier_init(empty + s * 8, GROUPS * 4);
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();
  auto place = [&](int t, int &m0, int &n0) {
    const int in_group = GROUP_M * TILES_N, first = t / in_group * GROUP_M, rest = t % in_group, rows = min(TILES_M - first, GROUP_M);
    m0 = (first + rest % rows) * BM;
    n0 = rest / rows * BN;
  };
  auto copy_a = [&](mx_u32 at, int s, int m0, mx_u32 bar) {
#if CONV
    const int image = m0 / (OUT_H * OUT_W), pixel = m0 % (OUT_H * OUT_W), tap = s / TAP_SLICES;
    copy_pixels(at, &map_a, s % TAP_SLICES * BK, pixel % OUT_W * STRIDE_W - PAD_W, pixel / OUT_W * STRIDE_H - PAD_H, image,
                tap % KERNEL_W * DILATION_W, tap / KERNEL_W * DILATION_H, bar);
#else
    copy_box(at, &map_a, s * BK, m0, bar);
#endif
  };
  auto copy_b = [&](mx_u32 at, int s, int n0, mx_u32 bar) {
#if CONV
    copy_box(at, &map_b, s / TAP_SLICES * CONV_C + s % TAP_SLICES * BK, n0, bar);
#else
    copy_box(at, &map_b, s * BK, n0, bar);
#endif
  };

  if (warp >= GROUPS * 4) { /* the copying warp */
    if (lane == 0) {
      int stage = 0, phase = 0, ahead = 0, m0, n0;
#if PDL && B_CONST
      /* Slices of B for the first tile do not depend on the kernel before. */
      if (blockIdx.x < tiles) {
        place(blockIdx.x, m0, n0);
        for (; ahead < STAGES && ahead < SLICES; ahead++) {
          barrier_expect(full + ahead * 8, STAGE_BYTES);
          copy_b(smem0 + ahead * STAGE_BYTES + A_BYTES, ahead, n0, full + ahead * 8);
        }
      }
#endif
      mx_grid_wait();
      for (int t = blockIdx.x; t < tiles; t += gridDim.x) {
        place(t, m0, n0);
        for (int s = 0; s < SLICES; s++) {
          const mx_u32 at = smem0 + stage * STAGE_BYTES, bar = full + stage * 8;
          if (ahead > 0) {
            ahead--;
            copy_a(at, s, m0, bar);
          } else {
            barrier_wait(empty + stage * 8, phase ^ 1);
            barrier_expect(bar, STAGE_BYTES);
            copy_a(at, s, m0, bar);
            copy_b(at + A_BYTES, s, n0, bar);
          }
          if (++stage == STAGES) stage = 0, phase ^= 1;
        }
      }
    }
  } else {
    const int group = warp >> 2;
    float *buffer = (float *)(smem + STAGES * STAGE_BYTES + warp * WARP_BYTES);
    int stage = 0, phase = 0;
    mx_grid_wait(); /* before the epilogue reads anything */
    if (STAGGER && group == 1 && SLICES >= STAGES) barrier_wait(full + (STAGES - 1) * 8, 0);
    for (int t = blockIdx.x; t < tiles; t += gridDim.x) {
      int m0, n0;
      place(t, m0, n0);
      float acc[BN / 8][4];
#pragma unroll
      for (int j = 0; j < BN / 8; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) acc[j][e] = 0.0f;
      int before = 0;
      for (int s = 0; s < SLICES; s++) {
        barrier_wait(full + stage * 8, phase);
        const mx_u32 at = smem0 + stage * STAGE_BYTES;
        const mx_u64 da = wg_descriptor(at + group * (64 * 128)), db = wg_descriptor(at + A_BYTES);
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
        for (int kk = 0; kk < 4; kk++) wg_mma(&acc[0][0], da + kk * 2, db + kk * 2);
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
        asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
        if (s > 0 && lane == 0) barrier_arrive(empty + before * 8);
        before = stage;
        if (++stage == STAGES) stage = 0, phase ^= 1;
      }
      asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
      if (SLICES > 0 && lane == 0) barrier_arrive(empty + before * 8);
#pragma unroll
      for (int j = 0; j < BN / 8; j++)
        asm volatile("" : "+f"(acc[j][0]), "+f"(acc[j][1]), "+f"(acc[j][2]), "+f"(acc[j][3])::"memory");

      const int r0 = m0 + group * 64 + (warp & 3) * 16;
      constexpr int ROW_VECS = 32 / VEC_C;
#pragma unroll
      for (int g = 0; g < BN / 32; g++) {
        __syncwarp();
#pragma unroll
        for (int j = 0; j < 4; j++) {
          float *p = buffer + (lane >> 2) * PITCH + j * 8 + (lane & 3) * 2;
          *(float2 *)p = make_float2(acc[g * 4 + j][0], acc[g * 4 + j][1]);
          *(float2 *)(p + 8 * PITCH) = make_float2(acc[g * 4 + j][2], acc[g * 4 + j][3]);
        }
        __syncwarp();
#pragma unroll
        for (int e = lane; e < 16 * ROW_VECS; e += 32) {
          const int r = e / ROW_VECS, col = e % ROW_VECS * VEC_C, row = r0 + r, n = n0 + g * 32 + col;
          if (row >= GEMM_M || n >= GEMM_N) continue;
          float v[VEC_C];
          mx_load<MX_F32, VEC_C>(buffer, r * PITCH + col, v);
#if HAS_BIAS
          float q[VEC_C];
          mx_load<BIAS_TYPE, VEC_C>(bias, n, q);
#pragma unroll
          for (int i = 0; i < VEC_C; i++) v[i] += q[i];
#endif
          EPILOGUE(v, 0, row, n)
          mx_store<OUT_TYPE, VEC_C>(c, C_AT(0LL, row, n), v);
        }
      }
    }
  }
}
