/* Fused attention on sm_90a for many queries: wgmma with tiles that one warp brings through the bulk tensor copy engine. Each of
 * GROUPS warpgroups has 64 queries and runs freely: scores of the next keys and the product with the last values are multiplied while
 * it takes exponentials. Blocks stay and take item after item (an item: BQ queries of one head), so that the first tiles of the next
 * are on their way while this one is finished.
 *
 * Macros as in attention.cu: IN_TYPE HEADS GROUP LEN_Q LEN_K DIM DIM_V O_AT O_ROW VEC_O MASK_* CAUSAL SCALE BKV STAGES PDL; HD and
 * HDV are 64 or 128; BN is BKV (for wgmma.cu); GROUPS is 2 or 3. Tensor maps of q, k and v: dimensions (column, row, head, batch),
 * boxes of 64 columns and 64 (q) or BKV rows, 128-byte swizzle. `items`: ceil(LEN_Q / BQ) * heads * batches; `section`: in their order,
 * parts of so many heads (of all batches) lie beside each other (attention.c chooses it).
 * Grid: any number of blocks up to `items`; block: THREADS. Shared memory: SMEM_BYTES. */

#define THREADS (GROUPS * 128 + 128) /* the copying warpgroup, of which one warp works, gives its registers to the others */
#define BQ (GROUPS * 64)
#define BLOCKS ((LEN_Q + BQ - 1) / BQ) /* of a head */
#define DB (HD / 64)
#define VB (HDV / 64)
#define Q_BYTES (BQ * 128 * DB)
#define K_BYTES (BKV * 128 * DB)
#define V_BYTES (BKV * 128 * VB)
#define STAGE_BYTES (K_BYTES + V_BYTES)
#define PITCH_O (HDV + 8)
#define STAGING (2 * Q_BYTES + STAGES * STAGE_BYTES)
#define BARRIERS (STAGING + GROUPS * 4 * 16 * PITCH_O * 2)
#define SMEM_BYTES (BARRIERS + 32 + STAGES * 32)
typedef mx_u16 in_t;

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
__device__ __forceinline__ void copy_box(mx_u32 dst, const tensor_map *map, int col, int row, int head, int batch, mx_u32 bar) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4, %5}], [%6];" ::"r"(dst), "l"(map),
      "r"(col), "r"(row), "r"(head), "r"(batch), "r"(bar)
      : "memory");
}
__device__ __forceinline__ float fast_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
/* 64 columns: d += a (64 x 16, registers) * b (16 rows of 128 bytes: columns are contiguous). */
__device__ __forceinline__ void wg_mma_rows(float *d, const mx_u32 *a, mx_u64 b) {
#if IN_TYPE == MX_F16
#define ROWS_KIND "f32.f16.f16"
#else
#define ROWS_KIND "f32.bf16.bf16"
#endif
  asm volatile("wgmma.mma_async.sync.aligned.m64n64k16." ROWS_KIND " {"
               "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
               "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
               "}, {%32,%33,%34,%35}, %36, 1, 1, 1, 1;"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), "+f"(d[9]),
                 "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]),
                 "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]),
                 "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

/* The n-th item of this block. Every other turn goes backwards: items get shorter, so that who had a long one has a short one next. */
__device__ __forceinline__ int item_of(int n) {
  return n * gridDim.x + (CAUSAL && n % 2 ? gridDim.x - 1 - blockIdx.x : blockIdx.x);
}
/* An item's queries and head: `section` heads at a time, of all of them the last queries first. */
__device__ __forceinline__ void place(int item, int items, int section, int &row0, int &head, int &batch) {
  const int first = item / (section * BLOCKS) * section, heads = min(section, items / BLOCKS - first), at = item - first * BLOCKS;
  const int all = first + at % heads;
  row0 = (BLOCKS - 1 - at / heads) * BQ;
  head = all % (HEADS * GROUP);
  batch = all / (HEADS * GROUP);
}
/* Key tiles that queries up to row `last` need. */
__device__ __forceinline__ int tiles_for(int last) {
  const int tiles = (LEN_K + BKV - 1) / BKV;
  return CAUSAL ? min(tiles, min(last, LEN_Q - 1) / BKV + 1) : tiles;
}

#define KEEP_SCORES                                                                                                     \
  _Pragma("unroll") for (int j = 0; j < BKV / 8; j++)                                                                    \
      asm volatile("" : "+f"(s[j][0]), "+f"(s[j][1]), "+f"(s[j][2]), "+f"(s[j][3])::"memory")
#define KEEP_SUMS                                                                                                       \
  _Pragma("unroll") for (int d = 0; d < VB; d++) _Pragma("unroll") for (int j = 0; j < 8; j++)                           \
      asm volatile("" : "+f"(acc[d][j][0]), "+f"(acc[d][j][1]), "+f"(acc[d][j][2]), "+f"(acc[d][j][3])::"memory")

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    kiln_attention_wgmma(const __grid_constant__ tensor_map map_q, const __grid_constant__ tensor_map map_k,
                         const __grid_constant__ tensor_map map_v, in_t *__restrict__ o, const void *mask, int items, int section) {
  extern __shared__ __align__(1024) unsigned char smem[];
  const mx_u32 smem0 = mx_shared(smem), q_full = smem0 + BARRIERS, q_empty = q_full + 16, k_full = q_empty + 16;
  const mx_u32 v_full = k_full + STAGES * 8, k_empty = v_full + STAGES * 8, v_empty = k_empty + STAGES * 8, smem_kv = smem0 + 2 * Q_BYTES;
  const int tid = threadIdx.x, lane = tid & 31, warp = tid >> 5;
  int row0, head, batch;
  if (tid == 0) {
    for (int s = 0; s < 2; s++) {
      barrier_init(q_full + s * 8, 1);
      barrier_init(q_empty + s * 8, GROUPS * 4);
    }
    for (int s = 0; s < STAGES; s++) {
      barrier_init(k_full + s * 8, 1);
      barrier_init(v_full + s * 8, 1);
      barrier_init(k_empty + s * 8, GROUPS * 4);
      barrier_init(v_empty + s * 8, GROUPS * 4);
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();
  mx_grid_wait();

  if (warp >= GROUPS * 4) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(GROUPS == 2 ? 40 : 32));
    if (warp == GROUPS * 4 && lane == 0) { /* the copying thread */
      int stage = 0, phase = 0;
      for (int n = 0, item; (item = item_of(n)) < items; n++) {
        place(item, items, section, row0, head, batch);
        const int tiles = tiles_for(row0 + BQ - 1), slot = n & 1;
        barrier_wait(q_empty + slot * 8, (n >> 1 & 1) ^ 1);
        barrier_expect(q_full + slot * 8, Q_BYTES);
        for (int g = 0; g < GROUPS; g++)
          for (int d = 0; d < DB; d++)
            copy_box(smem0 + slot * Q_BYTES + (g * DB + d) * 8192, &map_q, d * 64, row0 + g * 64, head, batch, q_full + slot * 8);
        for (int t = 0; t < tiles; t++) {
          const mx_u32 at = smem_kv + stage * STAGE_BYTES;
          barrier_wait(k_empty + stage * 8, phase ^ 1);
          barrier_expect(k_full + stage * 8, K_BYTES);
          for (int d = 0; d < DB; d++) copy_box(at + d * BKV * 128, &map_k, d * 64, t * BKV, head / GROUP, batch, k_full + stage * 8);
          barrier_wait(v_empty + stage * 8, phase ^ 1);
          barrier_expect(v_full + stage * 8, V_BYTES);
          for (int d = 0; d < VB; d++)
            copy_box(at + K_BYTES + d * BKV * 128, &map_v, d * 64, t * BKV, head / GROUP, batch, v_full + stage * 8);
          if (++stage == STAGES) stage = 0, phase ^= 1;
        }
      }
    }
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(GROUPS == 2 ? 232 : 160));
    const int group = warp >> 2;
    const float none = __int_as_float(0xff800000);
    constexpr float LOG2E = 1.4426950408889634f;
    constexpr bool LATE = MASK_KIND == 0 && (float)(SCALE) > 0.0f;
    constexpr float UNIT = LATE ? (float)(SCALE)*LOG2E : 1.0f;
    in_t *buffer = (in_t *)(smem + STAGING + warp * (16 * PITCH_O * 2));
    int k_stage = 0, k_phase = 0, v_stage = 0, v_phase = 0;
    for (int n = 0, item; (item = item_of(n)) < items; n++) {
      place(item, items, section, row0, head, batch);
      const int tiles = tiles_for(row0 + BQ - 1), slot = n & 1, own = tiles_for(row0 + group * 64 + 63);
      const int first = row0 + group * 64 + (warp & 3) * 16; /* of this warp's rows */
      float s[BKV / 8][4], acc[VB][8][4], top[2] = {none, none}, sum[2] = {0.0f, 0.0f}, shrink[2];
      mx_u32 fp[BKV / 16][4];
      auto multiply_keys = [&]() {
        const mx_u32 at = smem_kv + k_stage * STAGE_BYTES;
        barrier_wait(k_full + k_stage * 8, k_phase);
#pragma unroll
        for (int j = 0; j < BKV / 8; j++)
#pragma unroll
          for (int e = 0; e < 4; e++) s[j][e] = 0.0f;
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
        for (int d = 0; d < DB; d++) {
          const mx_u64 dq = wg_descriptor(smem0 + slot * Q_BYTES + (group * DB + d) * 8192), dk = wg_descriptor(at + d * BKV * 128);
#pragma unroll
          for (int kk = 0; kk < 4; kk++) wg_mma(&s[0][0], dq + kk * 2, dk + kk * 2);
        }
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
      };
      auto multiply_values = [&]() {
        const mx_u32 at = smem_kv + v_stage * STAGE_BYTES + K_BYTES;
        barrier_wait(v_full + v_stage * 8, v_phase);
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
        for (int d = 0; d < VB; d++) {
          const mx_u64 dv = wg_descriptor(at + d * BKV * 128);
#pragma unroll
          for (int kk = 0; kk < BKV / 16; kk++) wg_mma_rows(&acc[d][0][0], fp[kk], dv + kk * 128);
        }
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
      };
      auto free_keys = [&]() {
        if (lane == 0) barrier_arrive(k_empty + k_stage * 8);
        if (++k_stage == STAGES) k_stage = 0, k_phase ^= 1;
      };
      auto free_values = [&]() {
        if (lane == 0) barrier_arrive(v_empty + v_stage * 8);
        if (++v_stage == STAGES) v_stage = 0, v_phase ^= 1;
      };
      /* Scores of tile t to exponentials; what the sums before shrink by. */
      auto exponentials = [&](int t) {
        const int key_first = t * BKV, key0 = key_first + (lane & 3) * 2;
        const bool edge = key_first + BKV > LEN_K || (CAUSAL && key_first + BKV - 1 > first);
#pragma unroll
        for (int h = 0; h < 2; h++) {
          const int pos = first + (lane >> 2) + h * 8;
          float high = top[h];
          if (!LATE) {
#if MASK_KIND
            const long long mask_at = MASK_AT((long long)batch, head) + (long long)min(pos, LEN_Q - 1) * MASK_ROW;
#endif
#pragma unroll
            for (int j = 0; j < BKV / 8; j++)
#pragma unroll
              for (int e = 0; e < 2; e++) {
                float &x = s[j][h * 2 + e];
                x *= (float)(SCALE)*LOG2E;
#if MASK_KIND
                const int key = key0 + j * 8 + e;
#endif
#if MASK_KIND == 1
                if (key < LEN_K && !((const unsigned char *)mask)[mask_at + (long long)key * MASK_COL]) x = none;
#elif MASK_KIND == 2
                if (key < LEN_K) x += LOG2E * mx_load1<MASK_TYPE>(mask, mask_at + (long long)key * MASK_COL);
#endif
              }
          }
          if (edge) {
            const int last = CAUSAL ? min(pos, LEN_K - 1) : LEN_K - 1;
#pragma unroll
            for (int j = 0; j < BKV / 8; j++)
#pragma unroll
              for (int e = 0; e < 2; e++)
                if (key0 + j * 8 + e > last) s[j][h * 2 + e] = none;
          }
#pragma unroll
          for (int j = 0; j < BKV / 8; j++) high = fmaxf(high, fmaxf(s[j][h * 2], s[j][h * 2 + 1]));
          high = fmaxf(high, __shfl_xor_sync(0xffffffffu, high, 1));
          high = fmaxf(high, __shfl_xor_sync(0xffffffffu, high, 2));
          const float from = high == none ? 0.0f : high, down = -from * UNIT;
          shrink[h] = fast_exp2((top[h] - from) * UNIT);
          top[h] = high;
          sum[h] *= shrink[h];
#pragma unroll
          for (int j = 0; j < BKV / 8; j++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
              float &x = s[j][h * 2 + e];
              x = fast_exp2(fmaf(x, UNIT, down));
              sum[h] += x;
            }
        }
      };
      auto pack = [&]() {
#pragma unroll
        for (int kk = 0; kk < BKV / 16; kk++)
#pragma unroll
          for (int h = 0; h < 2; h++) {
            fp[kk][h * 2] = mx_pack2<IN_TYPE>(s[kk * 2 + h][0], s[kk * 2 + h][1]);
            fp[kk][h * 2 + 1] = mx_pack2<IN_TYPE>(s[kk * 2 + h][2], s[kk * 2 + h][3]);
          }
      };
#pragma unroll
      for (int d = 0; d < VB; d++)
#pragma unroll
        for (int j = 0; j < 8; j++)
#pragma unroll
          for (int e = 0; e < 4; e++) acc[d][j][e] = 0.0f;

      barrier_wait(q_full + slot * 8, n >> 1 & 1);
      multiply_keys();
      asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
      KEEP_SCORES;
      free_keys();
      exponentials(0);
      pack();
      for (int t = 1; t < own; t++) {
        multiply_keys();
        multiply_values();
        asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
        KEEP_SCORES;
        free_keys();
        exponentials(t);
        asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
        KEEP_SUMS;
        free_values();
#pragma unroll
        for (int d = 0; d < VB; d++)
#pragma unroll
          for (int j = 0; j < 8; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) acc[d][j][e] *= shrink[e >> 1];
        pack();
      }
      if (lane == 0) barrier_arrive(q_empty + slot * 8);
      multiply_values();
      asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
      KEEP_SUMS;
      free_values();
      for (int t = own; t < tiles; t++) { /* of other warpgroups only */
        barrier_wait(k_full + k_stage * 8, k_phase);
        free_keys();
        barrier_wait(v_full + v_stage * 8, v_phase);
        free_values();
      }

      /* Rows through a buffer of the warp, then out in vectors. */
      __syncwarp();
#pragma unroll
      for (int h = 0; h < 2; h++) {
        float all = sum[h];
        all += __shfl_xor_sync(0xffffffffu, all, 1);
        all += __shfl_xor_sync(0xffffffffu, all, 2);
        const float inverse = all > 0.0f ? 1.0f / all : 0.0f;
#pragma unroll
        for (int d = 0; d < VB; d++)
#pragma unroll
          for (int j = 0; j < 8; j++)
            *(mx_u32 *)(buffer + ((lane >> 2) + h * 8) * PITCH_O + d * 64 + j * 8 + (lane & 3) * 2) =
                mx_pack2<IN_TYPE>(acc[d][j][h * 2] * inverse, acc[d][j][h * 2 + 1] * inverse);
      }
      __syncwarp();
      in_t *to = o + O_AT((long long)batch, head);
#pragma unroll
      for (int e = lane; e < 16 * (HDV / 8); e += 32) {
        const int r = e / (HDV / 8), col = e % (HDV / 8) * 8, row = first + r;
        if (row >= LEN_Q || col >= DIM_V) continue;
        if (VEC_O == 8) {
          *(uint4 *)(to + (long long)row * O_ROW + col) = *(const uint4 *)(buffer + r * PITCH_O + col);
        } else {
          for (int i = 0; i < 8 && col + i < DIM_V; i++) to[(long long)row * O_ROW + col + i] = buffer[r * PITCH_O + col + i];
        }
      }
    }
  }
}
