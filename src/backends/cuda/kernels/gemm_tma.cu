/* Large matrix products on sm_90a: C[m, n] = epilogue(bias[n] + sum over k of A[m, k] * B[n, k]).
 *
 * One warp feeds tiles through the bulk tensor copy engine, GROUPS warpgroups multiply with wgmma (64 rows each); blocks stay and
 * take tile after tile, so that the copies for the next tile run while this one is written.
 *
 * LEAVE says how accumulators become results. 0: through a small buffer of each warp as f32, so that bias, epilogue and stores work
 * on vectors of one row. 1 (GEMM_N a multiple of 32): the tensor map of B orders its rows so that each thread's accumulators are
 * vectors of 8 columns already. 2 (16-bit results whose rows are contiguous but not aligned): rows are laid out in shared memory
 * with the same alignment as in memory, and the copy engine stores them while the next tile is multiplied. 3: SPLIT blocks of a
 * cluster share a tile's slices; each lays its sums out in shared memory as f32 and adds up its share of the rows of all. 4 (as 2, of
 * contiguous results, GEMM_M a multiple of 8): a tile has every eighth row, which all lie alike to multiples of 16 bytes, and begins at
 * such a multiple, so that rows need not be shifted. Tensor map of A: [K, 8, M / 8], box [128 bytes, 1, BM].
 *
 * Macros as in gemm.cu: IN_TYPE OUT_TYPE BIAS_TYPE HAS_BIAS GEMM_M GEMM_N GEMM_K BN STAGES VEC_C C_AT EPILOGUE.. PDL B_CONST and, for
 * CONV, its geometry; BM is GROUPS * 64, rows of a slice are 128 bytes. MIN_CTAS blocks share a multiprocessor; GROUP_M tiles below
 * each other are taken together. Boxes of the tensor maps: A [BM, 128 bytes], B [BN, 128 bytes], 128-byte swizzle (with LEAVE 1 of
 * rank 5: [128 bytes, 2, 4, 4, BN / 32], see copy_rows); of an image, BM pixels of im2col with 128 bytes of channels each.
 * Grid: any number of blocks up to the number of tiles (LEAVE 3: tiles * SPLIT); block: THREADS. Shared memory: SMEM_BYTES. */

#ifndef LEAVE /* how accumulators leave, see above */
#define LEAVE 0
#endif
/* Registers move from the copying warpgroup, of which one warp works, to the others. */
#if LEAVE > 0 && MIN_CTAS == 1 && (GROUPS == 2 || (GROUPS == 3 && BN > 128))
#define SHIFT_REGISTERS 1
#define THREADS (GROUPS * 128 + 128)
#else
#define SHIFT_REGISTERS 0
#define THREADS (GROUPS * 128 + 32)
#endif
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
#ifndef B_STAYS /* 1 (one tile of columns only): all slices of B are brought once, and stay */
#define B_STAYS 0
#endif
#if B_STAYS
#define STAGE_BYTES A_BYTES
#define STAY_BYTES (SLICES * B_BYTES)
#else
#define STAGE_BYTES (A_BYTES + B_BYTES)
#define STAY_BYTES 0
#endif
#if LEAVE == 0
#define PITCH 40 /* of a warp's 16 x 32 buffer */
#define WARP_BYTES (16 * PITCH * 4)
#elif LEAVE == 1
#define WARP_BYTES 0
#elif LEAVE == 3
#define PITCH (BN + 8) /* of the f32 tile, which takes the slices' place */
#define WARP_BYTES 0
#else /* 2 and 4 */
#define PITCH (BN + 8) /* of a warp's 16 rows; with LEAVE 2 a row begins as far behind a multiple of 16 bytes as in memory */
#define WARP_BYTES (16 * PITCH * 2)
#endif
#define BUFFERS (STAGES * STAGE_BYTES + STAY_BYTES)
#define BARRIERS (BUFFERS + GROUPS * 4 * WARP_BYTES)
#define SMEM_BYTES (BARRIERS + STAGES * 16 + B_STAYS * 16)
#if CONV
#define TAP_SLICES ((CONV_C + BK - 1) / BK) /* the last may reach into the next tap's weights: A has zeros there */
#define SLICES (KERNEL_H * KERNEL_W * TAP_SLICES)
#else
#define SLICES ((GEMM_K + BK - 1) / BK)
#endif
#if LEAVE == 4
#define CLASS_TILES ((GEMM_M / 8 + BM - 1) / BM) /* of rows that are alike */
#define TILES_M (8 * CLASS_TILES)
#define TILES_N ((GEMM_N + 7 + BN - 1) / BN)
#define ROW(m) ((m) % (CLASS_TILES * BM) * 8 + (m) / (CLASS_TILES * BM))
#define ROW_EXISTS(m) ((m) % (CLASS_TILES * BM) < GEMM_M / 8)
#else
#define TILES_M ((GEMM_M + BM - 1) / BM)
#define TILES_N ((GEMM_N + BN - 1) / BN)
#endif
#ifndef GROUP_M
#define GROUP_M 8
#endif
#ifndef SPLIT
#define SPLIT 1
#endif
#ifndef STAGGER /* 1: the second warpgroup starts late, so that one multiplies while the other writes */
#define STAGGER 0
#endif
#ifndef B_CONST
#define B_CONST 0
#endif
#ifndef EPILOGUE
#define HAS_EPILOGUE 0
#define EPILOGUE(v, z, row, col)
#else
#define HAS_EPILOGUE 1
#endif
#ifndef BIAS_COL
#define BIAS_COL(n) (n)
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

#if LEAVE == 4
__device__ __forceinline__ void copy_class(mx_u32 dst, const tensor_map *map, int x, int row, int y, mx_u32 bar) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4}], [%5];" ::"r"(dst), "l"(map), "r"(x),
      "r"(row), "r"(y), "r"(bar)
      : "memory");
}
#endif
#if LEAVE == 1
/* Rows of B in such an order that a thread's accumulators are 8 columns side by side: row (e, q, j, block) of the tile is row
 * block * 32 + q * 8 + j * 2 + e of B. */
__device__ __forceinline__ void copy_rows(mx_u32 dst, const tensor_map *map, int x, int y, mx_u32 bar) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %3, %3, %4}], [%5];" ::"r"(dst),
      "l"(map), "r"(x), "r"(0), "r"(y / 32), "r"(bar)
      : "memory");
}
#else
#define copy_rows copy_box
#endif
#if LEAVE == 2 || LEAVE == 4
/* Elements from the last multiple of 16 bytes to `p`. */
__device__ __forceinline__ int row_shift(const out_t *p) { return (int)((mx_u64)p >> 1 & 7); }
__device__ __forceinline__ void store_bytes(out_t *to, mx_u32 from, int bytes) {
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(to), "r"(from), "r"(bytes) : "memory");
}
/* Up to 7 elements, ONE_FIRST: those before a multiple of 16 bytes; else those behind one. */
template <bool ONE_FIRST>
__device__ __forceinline__ void store_end(out_t *to, const out_t *from, int n) {
  int i = 0;
#pragma unroll
  for (int j = 0; j < 3; j++) {
    const int size = ONE_FIRST ? 1 << j : 4 >> j;
    if (!(n & size)) continue;
    if (size == 4) *(uint2 *)(to + i) = *(const uint2 *)(from + i);
    if (size == 2) *(mx_u32 *)(to + i) = *(const mx_u32 *)(from + i);
    if (size == 1) to[i] = from[i];
    i += size;
  }
}
#endif
#if CONV
__device__ __forceinline__ void copy_pixels(mx_u32 dst, const tensor_map *map, int c, int x, int y, int n, int dx, int dy, mx_u32 bar) {
  asm volatile(
      "cp.async.bulk.tensor.4d.im2col.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4, %5}], [%6], {%7, %8};" ::"r"(dst),
      "l"(map), "r"(c), "r"(x), "r"(y), "r"(n), "r"(bar), "h"((mx_u16)dx), "h"((mx_u16)dy)
      : "memory");
}
#endif

#if LEAVE == 3
#define CLUSTER_DIMS __cluster_dims__(SPLIT, 1, 1)
/* Adds N floats of shared memory of block `rank` of the cluster. */
template <int N>
__device__ __forceinline__ void add_remote(mx_u32 addr, int rank, float *v) {
  mx_u32 at;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(at) : "r"(addr), "r"(rank));
  if (N % 4 == 0) {
#pragma unroll
    for (int j = 0; j < N; j += 4) {
      float4 q;
      asm volatile("ld.shared::cluster.v4.f32 {%0,%1,%2,%3}, [%4];" : "=f"(q.x), "=f"(q.y), "=f"(q.z), "=f"(q.w) : "r"(at + j * 4));
      v[j] += q.x; v[j + 1] += q.y; v[j + 2] += q.z; v[j + 3] += q.w;
    }
  } else {
#pragma unroll
    for (int j = 0; j < N; j++) {
      float q;
      asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(q) : "r"(at + j * 4));
      v[j] += q;
    }
  }
}
__device__ __forceinline__ void cluster_barrier() {
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}
#else
#define CLUSTER_DIMS
#endif

extern "C" __global__ void CLUSTER_DIMS __launch_bounds__(THREADS, MIN_CTAS)
    kiln_gemm_tma(const __grid_constant__ tensor_map map_a, const __grid_constant__ tensor_map map_b, out_t *__restrict__ c,
                  BIAS_PARAM EPILOGUE_PARAMS) {
  extern __shared__ __align__(1024) unsigned char smem[];
  const mx_u32 smem0 = mx_shared(smem), full = smem0 + BARRIERS, empty = full + STAGES * 8;
#if B_STAYS
  const mx_u32 stay = smem0 + STAGES * STAGE_BYTES, stay_full = empty + STAGES * 8;
#endif
  const int tid = threadIdx.x, lane = tid & 31, warp = tid >> 5;
#if LEAVE == 3
  const int tiles = TILES_M * TILES_N, split = blockIdx.x % SPLIT;
  const int tile_first = blockIdx.x / SPLIT, tile_step = tiles; /* one tile for each cluster */
  const int slice_first = SLICES * split / SPLIT, slice_last = SLICES * (split + 1) / SPLIT;
#else
  const int tiles = TILES_M * TILES_N, tile_first = blockIdx.x, tile_step = gridDim.x;
  constexpr int slice_first = 0, slice_last = SLICES;
#endif
  if (tid == 0) {
    for (int s = 0; s < STAGES; s++) {
      barrier_init(full + s * 8, 1);
      barrier_init(empty + s * 8, GROUPS * 4);
    }
#if B_STAYS
    barrier_init(stay_full, 1);
#endif
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();
  auto place = [&](int t, int &m0, int &n0) {
    const int in_group = GROUP_M * TILES_N, first = t / in_group * GROUP_M, rest = t % in_group, rows = min(TILES_M - first, GROUP_M);
    m0 = (first + rest % rows) * BM;
    n0 = rest / rows * BN;
#if LEAVE == 4
    n0 -= row_shift(c + C_AT(0LL, ROW(m0), 0));
#endif
  };
  auto copy_a = [&](mx_u32 at, int s, int m0, mx_u32 bar) {
#if CONV
    const int image = m0 / (OUT_H * OUT_W), pixel = m0 % (OUT_H * OUT_W), tap = s / TAP_SLICES;
    copy_pixels(at, &map_a, s % TAP_SLICES * BK, pixel % OUT_W * STRIDE_W - PAD_W, pixel / OUT_W * STRIDE_H - PAD_H, image,
                tap % KERNEL_W * DILATION_W, tap / KERNEL_W * DILATION_H, bar);
#elif LEAVE == 4
    copy_class(at, &map_a, s * BK, m0 / (CLASS_TILES * BM), m0 % (CLASS_TILES * BM), bar);
#else
    copy_box(at, &map_a, s * BK, m0, bar);
#endif
  };
  auto copy_b = [&](mx_u32 at, int s, int n0, mx_u32 bar) {
#if CONV
    copy_rows(at, &map_b, s / TAP_SLICES * CONV_C + s % TAP_SLICES * BK, n0, bar);
#else
    copy_rows(at, &map_b, s * BK, n0, bar);
#endif
  };

  if (warp >= GROUPS * 4) { /* the copying warp */
#if SHIFT_REGISTERS
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(GROUPS == 2 ? 40 : 32));
#endif
    if (warp == GROUPS * 4 && lane == 0) {
      int stage = 0, phase = 0, ahead = 0, m0, n0;
#if B_STAYS
#if !B_CONST
      mx_grid_wait();
#endif
      barrier_expect(stay_full, STAY_BYTES);
      for (int i = 0; i < SLICES; i++) copy_b(stay + i * B_BYTES, i, 0, stay_full);
#elif PDL && B_CONST
      /* Slices of B for the first tile do not depend on the kernel before. */
      if (tile_first < tiles) {
        place(tile_first, m0, n0);
        for (; ahead < STAGES && ahead < slice_last - slice_first; ahead++) {
          barrier_expect(full + ahead * 8, STAGE_BYTES);
          copy_b(smem0 + ahead * STAGE_BYTES + A_BYTES, slice_first + ahead, n0, full + ahead * 8);
        }
      }
#endif
      mx_grid_wait();
      for (int t = tile_first; t < tiles; t += tile_step) {
        place(t, m0, n0);
        for (int s = slice_first; s < slice_last; s++) {
          const mx_u32 at = smem0 + stage * STAGE_BYTES, bar = full + stage * 8;
          if (ahead > 0) {
            ahead--;
            copy_a(at, s, m0, bar);
          } else {
            barrier_wait(empty + stage * 8, phase ^ 1);
            barrier_expect(bar, STAGE_BYTES);
            copy_a(at, s, m0, bar);
#if !B_STAYS
            copy_b(at + A_BYTES, s, n0, bar);
#endif
          }
          if (++stage == STAGES) stage = 0, phase ^= 1;
        }
      }
    }
  } else {
#if SHIFT_REGISTERS
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(GROUPS == 2 ? 232 : 160));
#endif
    const int group = warp >> 2;
#if LEAVE == 0
    float *buffer = (float *)(smem + BUFFERS + warp * WARP_BYTES);
#elif LEAVE == 2 || LEAVE == 4
    out_t *buffer = (out_t *)(smem + BUFFERS + warp * WARP_BYTES);
#endif
    int stage = 0, phase = 0;
    mx_grid_wait(); /* before the epilogue reads anything */
#if B_STAYS
    barrier_wait(stay_full, 0);
#endif
    if (STAGGER && group == 1 && SLICES >= STAGES) barrier_wait(full + (STAGES - 1) * 8, 0);
    for (int t = tile_first; t < tiles; t += tile_step) {
      int m0, n0;
      place(t, m0, n0);
      float acc[BN / 8][4];
#pragma unroll
      for (int j = 0; j < BN / 8; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) acc[j][e] = 0.0f;
      int before = 0;
      for (int s = slice_first; s < slice_last; s++) {
        barrier_wait(full + stage * 8, phase);
        const mx_u32 at = smem0 + stage * STAGE_BYTES;
        const mx_u64 da = wg_descriptor(at + group * (64 * 128)), db = wg_descriptor(B_STAYS ? smem0 + STAGES * STAGE_BYTES + s * B_BYTES : at + A_BYTES);
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
        for (int kk = 0; kk < 4; kk++) wg_mma(&acc[0][0], da + kk * 2, db + kk * 2);
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
        asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
        if (s > slice_first && lane == 0) barrier_arrive(empty + before * 8);
        before = stage;
        if (++stage == STAGES) stage = 0, phase ^= 1;
      }
      asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
      if (SLICES > 0 && lane == 0) barrier_arrive(empty + before * 8);
#pragma unroll
      for (int j = 0; j < BN / 8; j++)
        asm volatile("" : "+f"(acc[j][0]), "+f"(acc[j][1]), "+f"(acc[j][2]), "+f"(acc[j][3])::"memory");

#if LEAVE != 3
      const int r0 = m0 + group * 64 + (warp & 3) * 16;
#endif
#if LEAVE == 0
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
          mx_load<BIAS_TYPE, VEC_C>(bias, BIAS_COL(n), q);
#pragma unroll
          for (int i = 0; i < VEC_C; i++) v[i] += q[i];
#endif
          EPILOGUE(v, 0, row, n)
          mx_store<OUT_TYPE, VEC_C>(c, C_AT(0LL, row, n), v);
        }
      }
#elif LEAVE == 1
      /* All results first, then all stores: the epilogue's reads need not wait for stores that the compiler cannot tell apart. */
      auto vector_at = [&](int g, int part, int h, int &row, int &n) {
        row = r0 + (lane >> 2) + h * 8;
        n = n0 + g * 32 + (lane & 3) * 8 + part * VEC_C;
        return GEMM_N % BN == 0 || n < GEMM_N;
      };
#pragma unroll
      for (int g = 0; g < BN / 32; g++)
#pragma unroll
        for (int part = 0; part < 8 / VEC_C; part++) {
          int row, n;
          if (!vector_at(g, part, 0, row, n)) break;
#if HAS_BIAS
          float q[VEC_C];
          mx_load<BIAS_TYPE, VEC_C>(bias, BIAS_COL(n), q);
#endif
#pragma unroll
          for (int h = 0; h < 2; h++) {
            float v[VEC_C];
            vector_at(g, part, h, row, n);
#pragma unroll
            for (int i = 0; i < VEC_C; i++) {
              v[i] = acc[g * 4 + (part * VEC_C + i) / 2][h * 2 + (part * VEC_C + i) % 2];
#if HAS_BIAS
              v[i] += q[i];
#endif
            }
            const int in = GEMM_M % BM != 0 ? min(row, GEMM_M - 1) : row;
            EPILOGUE(v, 0, in, n)
#pragma unroll
            for (int i = 0; i < VEC_C; i++) acc[g * 4 + (part * VEC_C + i) / 2][h * 2 + (part * VEC_C + i) % 2] = v[i];
          }
        }
#pragma unroll
      for (int g = 0; g < BN / 32; g++)
#pragma unroll
        for (int part = 0; part < 8 / VEC_C; part++)
#pragma unroll
          for (int h = 0; h < 2; h++) {
            int row, n;
            float v[VEC_C];
            if (!vector_at(g, part, h, row, n)) break;
#pragma unroll
            for (int i = 0; i < VEC_C; i++) v[i] = acc[g * 4 + (part * VEC_C + i) / 2][h * 2 + (part * VEC_C + i) % 2];
            if (GEMM_M % BM == 0 || row < GEMM_M) mx_store<OUT_TYPE, VEC_C>(c, C_AT(0LL, row, n), v);
          }
#elif LEAVE == 3
      constexpr int ROW_VECS = BN / VEC_C, VECS = BM * ROW_VECS;
      float *tile = (float *)smem;
      asm volatile("bar.sync 1, %0;" ::"n"(GROUPS * 128) : "memory"); /* nobody reads slices any more */
#pragma unroll
      for (int j = 0; j < BN / 8; j++) {
        float *p = tile + (group * 64 + (warp & 3) * 16 + (lane >> 2)) * PITCH + j * 8 + (lane & 3) * 2;
        *(float2 *)p = make_float2(acc[j][0], acc[j][1]);
        *(float2 *)(p + 8 * PITCH) = make_float2(acc[j][2], acc[j][3]);
      }
      cluster_barrier();
#pragma unroll 4
      for (int e = VECS * split / SPLIT + tid; e < VECS * (split + 1) / SPLIT; e += GROUPS * 128) {
        const int r = e / ROW_VECS, col = e % ROW_VECS * VEC_C, row = m0 + r, n = n0 + col;
        if (row >= GEMM_M || n >= GEMM_N) continue;
        float v[VEC_C];
#pragma unroll
        for (int i = 0; i < VEC_C; i++) v[i] = 0.0f;
#pragma unroll
        for (int k = 0; k < SPLIT; k++) add_remote<VEC_C>(mx_shared(tile + r * PITCH + col), k, v);
#if HAS_BIAS
        float q[VEC_C];
        mx_load<BIAS_TYPE, VEC_C>(bias, BIAS_COL(n), q);
#pragma unroll
        for (int i = 0; i < VEC_C; i++) v[i] += q[i];
#endif
        EPILOGUE(v, 0, row, n)
        mx_store<OUT_TYPE, VEC_C>(c, C_AT(0LL, row, n), v);
      }
      cluster_barrier(); /* nobody leaves while another reads its tile */
#elif LEAVE == 4
      if (lane < 16) asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory"); /* of the tile before */
      __syncwarp();
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const int r = (lane >> 2) + h * 8;
#pragma unroll
        for (int j = 0; j < BN / 8; j++) {
          float v[2] = {acc[j][h * 2], acc[j][h * 2 + 1]};
#if HAS_BIAS || HAS_EPILOGUE
          const int row = ROW_EXISTS(r0 + r) ? ROW(r0 + r) : 0;
#pragma unroll
          for (int e = 0; e < 2; e++) {
            const int n = max(0, min(n0 + j * 8 + (lane & 3) * 2 + e, GEMM_N - 1));
            float u[1] = {v[e]};
#if HAS_BIAS
            u[0] += mx_load1<BIAS_TYPE>(bias, n);
#endif
            EPILOGUE(u, 0, row, n)
            v[e] = u[0];
          }
#endif
          *(mx_u32 *)(buffer + r * PITCH + j * 8 + (lane & 3) * 2) = mx_pack2<OUT_TYPE>(v[0], v[1]);
        }
      }
      asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
      __syncwarp();
      const int first = n0 < 0 ? 8 : 0, columns = min(BN, GEMM_N - n0), body = columns & ~7;
      if (lane < 16 && ROW_EXISTS(r0 + lane) && body > first)
        store_bytes(c + C_AT(0LL, ROW(r0 + lane), n0 + first), mx_shared(buffer + lane * PITCH + first), (body - first) * 2);
      if (lane < 16) asm volatile("cp.async.bulk.commit_group;" ::: "memory");
      if ((first > 0 || body < columns) && ROW_EXISTS(r0 + (lane >> 1))) { /* the ends of rows */
        out_t *row = c + C_AT(0LL, ROW(r0 + (lane >> 1)), 0);
        const out_t *from = buffer + (lane >> 1) * PITCH;
        if (lane & 1) {
          for (int i = max(body, first); i < columns; i++) row[n0 + i] = from[i];
        } else if (first > 0) {
          for (int i = -n0; i < min(first, columns); i++) row[n0 + i] = from[i];
        }
      }
#else
      if (lane < 16) asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory"); /* of the tile before */
      __syncwarp();
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const int r = (lane >> 2) + h * 8, row = min(r0 + r, GEMM_M - 1);
        out_t *to = buffer + r * PITCH + row_shift(c + C_AT(0LL, row, n0)) + (lane & 3) * 2;
#pragma unroll
        for (int j = 0; j < BN / 8; j++)
#pragma unroll
          for (int e = 0; e < 2; e++) {
            const int n = min(n0 + j * 8 + (lane & 3) * 2 + e, GEMM_N - 1);
            float v[1] = {acc[j][h * 2 + e]};
#if HAS_BIAS
            v[0] += mx_load1<BIAS_TYPE>(bias, n);
#endif
            EPILOGUE(v, 0, row, n)
            to[j * 8 + e] = OUT_TYPE == MX_F16 ? mx_to_f16(v[0]) : mx_to_bf16(v[0]);
          }
      }
      asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
      __syncwarp();
      const int columns = min(BN, GEMM_N - n0);
      if (lane < 16 && r0 + lane < GEMM_M) { /* what is whole 16 bytes of a row, by the copy engine */
        out_t *row = c + C_AT(0LL, r0 + lane, n0);
        const int shift = row_shift(row), skip = -shift & 7, body = (columns - skip) & ~7;
        if (columns >= skip + 8) store_bytes(row + skip, mx_shared(buffer + lane * PITCH + shift + skip), body * 2);
      }
      if (lane < 16) asm volatile("cp.async.bulk.commit_group;" ::: "memory");
      if (r0 + (lane >> 1) < GEMM_M) { /* the ends of the rows */
        out_t *row = c + C_AT(0LL, r0 + (lane >> 1), n0);
        const int shift = row_shift(row), skip = min(-shift & 7, columns), body = (columns - skip) & ~7;
        const out_t *from = buffer + (lane >> 1) * PITCH + shift;
        if (lane & 1) {
          store_end<false>(row + skip + body, from + skip + body, columns - skip - body);
        } else if (skip + shift == 8 || skip == 0) {
          store_end<true>(row, from, skip);
        } else { /* a row that does not reach the next 16 bytes */
          for (int i = 0; i < skip; i++) row[i] = from[i];
        }
      }
#endif
    }
#if LEAVE == 2 || LEAVE == 4
    if (lane < 16) asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
#endif
  }
}
