/* Fused attention: O = softmax(scale * Q K^T + mask) V, one pass over keys with a running maximum and sum ("FlashAttention-2",
 * Dao, 2023), on tensor cores with f16 or bf16 operands and f32 sums.
 *
 * Macros:
 *   IN_TYPE                MX_F16 or MX_BF16, of all operands and of the result
 *   BATCH HEADS GROUP      GROUP query heads share one of HEADS key heads; their rows are packed together: row r of a block row is
 *                          query r % LEN_Q of head key_head * GROUP + r / LEN_Q
 *   LEN_Q LEN_K            queries and keys; LEN_K may be len_arg (run-time)
 *   DIM DIM_V              head sizes; HD, HDV: rounded up to 16
 *   Q_AT(b,h) K_AT(b,h) V_AT(b,h) O_AT(b,h), Q_ROW K_ROW V_ROW O_ROW    element offset of a head's rows, and row pitches
 *   VEC_Q VEC_K VEC_V VEC_O  elements per access that alignment allows (8 at most)
 *   MASK_KIND              0 none, 1 bool (true: keep), 2 added (MASK_TYPE); MASK_AT(b,h) and strides MASK_ROW MASK_COL
 *   CAUSAL                 query i sees keys 0..i
 *   SCALE                  a float
 *   WARPS_Q WARPS_KV ROWS16  each of WARPS_Q warps has ROWS16 * 16 rows; WARPS_KV groups of them share each key tile
 *   MIN_CTAS               blocks per multiprocessor that registers must allow
 *   BKV STAGES             keys of a tile; tiles in flight or in use
 *   SPLIT                  keys are shared by SPLIT blocks, which merge through `ws` (floats: blocks * SPLIT * BQ * (HDV + 2)) and
 *                          `counters` (a word a block, zero at first, left zero)
 * Grid: (ceil(GROUP * LEN_Q / BQ) * BATCH * HEADS, SPLIT). A row that sees no key gives 0. */

#define WARPS (WARPS_Q * WARPS_KV)
#define THREADS (WARPS * 32)
typedef mx_u16 in_t;
#define BQ (WARPS_Q * ROWS16 * 16)
#define ROWS (GROUP * LEN_Q)
#define BLOCKS ((ROWS + BQ - 1) / BQ) /* of a head */
#define KW (BKV / WARPS_KV)       /* keys of a tile that one warp takes */
#define PITCH_QK (HD + 8)         /* an odd number of 16-byte chunks: ldmatrix without bank conflicts */
#define PITCH_V (HDV + 8)
#define PITCH_O (HDV + 4)
#define Q_BYTES (BQ * PITCH_QK * 2)
#define K_BYTES (BKV * PITCH_QK * 2)
#define V_BYTES (BKV * PITCH_V * 2)
#define KV_BYTES (K_BYTES + V_BYTES)
#define LOOP_BYTES (Q_BYTES + STAGES * KV_BYTES)
#define OUT_BYTES (WARPS_KV * BQ * (PITCH_O + 2) * 4 + 16)
#define SMEM_BYTES (LOOP_BYTES > OUT_BYTES ? LOOP_BYTES : OUT_BYTES)
#define KEEP_Q (HD <= 128 && HD * ROWS16 <= 128) /* fragments of Q stay in registers */
#ifndef MIN_CTAS
#define MIN_CTAS 1
#endif
#ifndef KERNEL_NAME
#define KERNEL_NAME kiln_attention
#endif

/* 8 elements from `from`, of which those from `valid` on are zero, to shared memory. */
template <int VEC>
__device__ __forceinline__ void load_chunk(mx_u32 to, const in_t *from, int valid, const in_t *safe) {
  if (VEC >= 2) {
    constexpr int BYTES = VEC >= 2 ? VEC * 2 : 4;
#pragma unroll
    for (int j = 0; j < 8; j += VEC) mx_copy_async<BYTES>(to + j * 2, j < valid ? (const void *)(from + j) : (const void *)safe, j < valid);
  } else {
#pragma unroll
    for (int j = 0; j < 8; j++) {
      mx_u16 h = 0;
      if (j < valid) h = from[j];
      asm volatile("st.shared.u16 [%0], %1;" ::"r"(to + j * 2), "h"(h) : "memory");
    }
  }
}

/* Columns of a chunk that are there. */
template <int COLS, int WIDTH>
__device__ __forceinline__ int chunk_columns(int c) {
  return COLS == WIDTH ? 8 : WIDTH - c;
}

/* TALL rows from row `row0` of a matrix with `len` rows and WIDTH columns, zeros outside, to shared memory. */
template <int VEC, int COLS, int WIDTH, int PITCH, int TALL>
__device__ __forceinline__ void load_tile(mx_u32 dst, const in_t *src, int row0, int len, long long pitch) {
  constexpr int CHUNKS = COLS / 8, ITERS = (TALL * CHUNKS + THREADS - 1) / THREADS;
  if (THREADS % CHUNKS == 0) { /* a thread stays in its column */
    constexpr int STEP = THREADS / CHUNKS;
    const int r0 = threadIdx.x / CHUNKS, c = threadIdx.x % CHUNKS * 8, valid = chunk_columns<COLS, WIDTH>(c);
    const in_t *from = src + (long long)(row0 + r0) * pitch + c;
    const mx_u32 to = dst + (r0 * PITCH + c) * 2;
#pragma unroll
    for (int i = 0; i < ITERS; i++) {
      if (TALL % STEP != 0 && r0 + i * STEP >= TALL) break;
      load_chunk<VEC>(to + i * STEP * PITCH * 2, from + i * STEP * pitch, row0 + r0 + i * STEP < len ? valid : 0, src);
    }
  } else {
    for (int e = threadIdx.x; e < TALL * CHUNKS; e += THREADS) {
      const int r = e / CHUNKS, c = e % CHUNKS * 8;
      load_chunk<VEC>(dst + (r * PITCH + c) * 2, src + (long long)(row0 + r) * pitch + c,
                      row0 + r < len ? chunk_columns<COLS, WIDTH>(c) : 0, src);
    }
  }
}

__device__ __forceinline__ float fast_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

extern "C" __global__ void __launch_bounds__(THREADS, MIN_CTAS)
    KERNEL_NAME(const in_t *q, const in_t *k, const in_t *v, in_t *__restrict__ o,
                const void *mask, float *__restrict__ ws, mx_u32 *__restrict__ counters, int len_arg) {
  extern __shared__ __align__(16) unsigned char smem[];
  const mx_u32 smem_q = mx_shared(smem), smem_kv = smem_q + Q_BYTES;
  const int tid = threadIdx.x, lane = tid & 31, warp = tid >> 5, wq = warp % WARPS_Q, wkv = warp / WARPS_Q;
  const int head = blockIdx.x / BLOCKS % HEADS, batch = blockIdx.x / BLOCKS / HEADS, split = blockIdx.y;
  const int row0 = (CAUSAL ? BLOCKS - 1 - blockIdx.x % BLOCKS : blockIdx.x % BLOCKS) * BQ; /* the longest first */
  mx_grid_wait();
  k += K_AT((long long)batch, head);
  v += V_AT((long long)batch, head);

  /* Key tiles of this block. */
  int tiles = (LEN_K + BKV - 1) / BKV;
  if (CAUSAL) tiles = min(tiles, (min(row0 % LEN_Q + BQ, LEN_Q) - 1) / BKV + 1);
  const int t_first = SPLIT > 1 ? tiles * split / SPLIT : 0, t_last = SPLIT > 1 ? tiles * (split + 1) / SPLIT : tiles;
  const int count = t_last - t_first;

  /* Q: rows of GROUP heads. */
#if GROUP == 1
  load_tile<VEC_Q, HD, DIM, PITCH_QK, BQ>(smem_q, q + Q_AT((long long)batch, head), row0, LEN_Q, Q_ROW);
#else
  for (int e = tid; e < BQ * (HD / 8); e += THREADS) {
    const int r = e / (HD / 8), c = e % (HD / 8) * 8, row = row0 + r;
    const in_t *from = q + Q_AT((long long)batch, head * GROUP + row / LEN_Q) + (long long)(row % LEN_Q) * Q_ROW + c;
    load_chunk<VEC_Q>(smem_q + (r * PITCH_QK + c) * 2, from, row < ROWS ? chunk_columns<HD, DIM>(c) : 0, q);
  }
#endif
  auto load_kv = [&](int t) {
    const mx_u32 base = smem_kv + t % STAGES * KV_BYTES;
    load_tile<VEC_K, HD, DIM, PITCH_QK, BKV>(base, k, (t_first + t) * BKV, LEN_K, K_ROW);
    load_tile<VEC_V, HDV, DIM_V, PITCH_V, BKV>(base + K_BYTES, v, (t_first + t) * BKV, LEN_K, V_ROW);
  };
#pragma unroll
  for (int s = 0; s < STAGES - 1; s++) {
    if (s < count) load_kv(s);
    mx_commit();
  }

  /* Where the mask of this thread's rows is, and their positions. Rows: lane / 4 (+ 8) of each 16. */
  int pos[ROWS16][2];
#if MASK_KIND
  long long mask_at[ROWS16][2];
#endif
#pragma unroll
  for (int i = 0; i < ROWS16; i++)
#pragma unroll
    for (int h = 0; h < 2; h++) {
      int row = min(row0 + (wq * ROWS16 + i) * 16 + (lane >> 2) + h * 8, ROWS - 1);
      pos[i][h] = row % LEN_Q;
#if MASK_KIND
      mask_at[i][h] = MASK_AT((long long)batch, head * GROUP + row / LEN_Q) + (long long)(row % LEN_Q) * MASK_ROW;
#endif
    }

  float acc[ROWS16][HDV / 8][4], top[ROWS16][2], sum[ROWS16][2];
#pragma unroll
  for (int i = 0; i < ROWS16; i++) {
#pragma unroll
    for (int j = 0; j < HDV / 8; j++)
#pragma unroll
      for (int e = 0; e < 4; e++) acc[i][j][e] = 0.0f;
    top[i][0] = top[i][1] = __int_as_float(0xff800000);
    sum[i][0] = sum[i][1] = 0.0f;
  }
#if KEEP_Q
  mx_u32 fq[HD / 16][ROWS16][4];
#endif
  auto load_q = [&](int kk, int i, mx_u32 *f) {
    const int r = (wq * ROWS16 + i) * 16 + (lane & 15), c = kk * 16 + (lane >> 4) * 8;
    mx_ldmatrix4(f, smem_q + (r * PITCH_QK + c) * 2);
  };
  /* Scores are kept in units of 1 / UNIT; weights are 2 to the power of score * UNIT. Without a mask, scaling waits until then. */
  constexpr float LOG2E = 1.4426950408889634f;
  constexpr bool LATE = MASK_KIND == 0 && (float)(SCALE) > 0.0f;
  constexpr float UNIT = LATE ? (float)(SCALE)*LOG2E : 1.0f;

  for (int t = 0; t < count; t++) {
    mx_wait<STAGES - 2>();
    __syncthreads();
    if (t + STAGES - 1 < count) load_kv(t + STAGES - 1);
    mx_commit();
    const mx_u32 base_k = smem_kv + t % STAGES * KV_BYTES, base_v = base_k + K_BYTES;
    const int key_first = (t_first + t) * BKV + wkv * KW;
    const int query_first = row0 + wq * ROWS16 * 16; /* of this warp, if GROUP is 1 */
    if (CAUSAL && GROUP == 1 && key_first > query_first + ROWS16 * 16 - 1) continue; /* all masked (the tile is loaded for others) */
#if KEEP_Q
    if (t == 0) {
#pragma unroll
      for (int kk = 0; kk < HD / 16; kk++)
#pragma unroll
        for (int i = 0; i < ROWS16; i++) load_q(kk, i, fq[kk][i]);
    }
#endif
    float s[ROWS16][KW / 8][4];
#pragma unroll
    for (int i = 0; i < ROWS16; i++)
#pragma unroll
      for (int j = 0; j < KW / 8; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) s[i][j][e] = 0.0f;
#pragma unroll
    for (int kk = 0; kk < HD / 16; kk++) {
#if !KEEP_Q
      mx_u32 fq1[ROWS16][4];
#pragma unroll
      for (int i = 0; i < ROWS16; i++) load_q(kk, i, fq1[i]);
#endif
#pragma unroll
      for (int j = 0; j < KW / 8; j += 2) {
        mx_u32 fk[4];
        const int r = wkv * KW + j * 8 + (lane & 7) + (lane >> 4) * 8, c = kk * 16 + (lane >> 3 & 1) * 8;
        mx_ldmatrix4(fk, base_k + (r * PITCH_QK + c) * 2);
#pragma unroll
        for (int i = 0; i < ROWS16; i++) {
#if KEEP_Q
          mx_u32 *f = fq[kk][i];
#else
          mx_u32 *f = fq1[i];
#endif
          mx_mma<IN_TYPE>(s[i][j], f, fk[0], fk[1]);
          mx_mma<IN_TYPE>(s[i][j + 1], f, fk[2], fk[3]);
        }
      }
    }
    /* Mask; then the running maximum. */
    const int key0 = key_first + (lane & 3) * 2;
    const bool edge = key_first + KW > LEN_K;
    const bool diagonal = CAUSAL && (GROUP != 1 || key_first + KW - 1 > query_first);
#pragma unroll
    for (int i = 0; i < ROWS16; i++) {
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const float none = __int_as_float(0xff800000);
        float high = top[i][h];
#pragma unroll
        for (int j = 0; j < KW / 8; j++)
#pragma unroll
          for (int e = 0; e < 2; e++) {
            float &x = s[i][j][h * 2 + e];
            if (!LATE) x *= (float)(SCALE)*LOG2E;
#if MASK_KIND
            const int key = key0 + j * 8 + e;
#endif
#if MASK_KIND == 1
            if (key < LEN_K && !((const unsigned char *)mask)[mask_at[i][h] + (long long)key * MASK_COL]) x = none;
#elif MASK_KIND == 2
            if (key < LEN_K) x += LOG2E * mx_load1<MASK_TYPE>(mask, mask_at[i][h] + (long long)key * MASK_COL);
#endif
          }
        if (edge || diagonal) {
          const int last = diagonal ? min(pos[i][h], LEN_K - 1) : LEN_K - 1;
#pragma unroll
          for (int j = 0; j < KW / 8; j++)
#pragma unroll
            for (int e = 0; e < 2; e++)
              if (key0 + j * 8 + e > last) s[i][j][h * 2 + e] = none;
        }
#pragma unroll
        for (int j = 0; j < KW / 8; j++) high = fmaxf(high, fmaxf(s[i][j][h * 2], s[i][j][h * 2 + 1]));
        high = fmaxf(high, __shfl_xor_sync(0xffffffffu, high, 1));
        high = fmaxf(high, __shfl_xor_sync(0xffffffffu, high, 2));
        const float from = high == none ? 0.0f : high, shrink = fast_exp2((top[i][h] - from) * UNIT), down = -from * UNIT;
        top[i][h] = high;
        sum[i][h] *= shrink;
#pragma unroll
        for (int j = 0; j < KW / 8; j++)
#pragma unroll
          for (int e = 0; e < 2; e++) {
            float &x = s[i][j][h * 2 + e];
            x = fast_exp2(fmaf(x, UNIT, down));
            sum[i][h] += x;
          }
#pragma unroll
        for (int j = 0; j < HDV / 8; j++) {
          acc[i][j][h * 2] *= shrink;
          acc[i][j][h * 2 + 1] *= shrink;
        }
      }
    }
    /* O += P V. */
#pragma unroll
    for (int kk = 0; kk < KW / 16; kk++) {
      mx_u32 fp[ROWS16][4];
#pragma unroll
      for (int i = 0; i < ROWS16; i++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
          fp[i][h * 2] = mx_pack2<IN_TYPE>(s[i][kk * 2 + h][0], s[i][kk * 2 + h][1]);
          fp[i][h * 2 + 1] = mx_pack2<IN_TYPE>(s[i][kk * 2 + h][2], s[i][kk * 2 + h][3]);
        }
#pragma unroll
      for (int j = 0; j < HDV / 8; j += 2) {
        mx_u32 fv[4];
        const int r = wkv * KW + kk * 16 + (lane & 15), c = j * 8 + (lane >> 4) * 8;
        mx_ldmatrix4_trans(fv, base_v + (r * PITCH_V + c) * 2);
#pragma unroll
        for (int i = 0; i < ROWS16; i++) {
          mx_mma<IN_TYPE>(acc[i][j], fp[i], fv[0], fv[1]);
          mx_mma<IN_TYPE>(acc[i][j + 1], fp[i], fv[2], fv[3]);
        }
      }
    }
  }

  /* Merge: every warp leaves its rows, maxima and sums in shared memory. */
  mx_wait<0>();
  __syncthreads();
  float *out = (float *)smem, *tops = out + WARPS_KV * BQ * PITCH_O, *sums = tops + WARPS_KV * BQ;
#pragma unroll
  for (int i = 0; i < ROWS16; i++)
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const int r = wkv * BQ + (wq * ROWS16 + i) * 16 + (lane >> 2) + h * 8;
      float all = sum[i][h];
      all += __shfl_xor_sync(0xffffffffu, all, 1);
      all += __shfl_xor_sync(0xffffffffu, all, 2);
      if ((lane & 3) == 0) {
        tops[r] = top[i][h] * UNIT;
        sums[r] = all;
      }
#pragma unroll
      for (int j = 0; j < HDV / 8; j++)
        *(float2 *)(out + r * PITCH_O + j * 8 + (lane & 3) * 2) = make_float2(acc[i][j][h * 2], acc[i][j][h * 2 + 1]);
    }
  __syncthreads();

  constexpr int VECS = HDV / 4;
#if SPLIT > 1
  const long long block = blockIdx.x;
  float *parts = ws + block * SPLIT * (BQ * (HDV + 2));
#endif
  constexpr float NONE_LIMIT = -3.0e38f;
#if SPLIT > 1
  for (int e = tid; e < BQ * VECS; e += THREADS) {
    const int r = e / VECS, col = e % VECS * 4;
    float high = tops[r];
    for (int w = 1; w < WARPS_KV; w++) high = fmaxf(high, tops[w * BQ + r]);
    float x[4] = {0.0f, 0.0f, 0.0f, 0.0f}, total = 0.0f;
    for (int w = 0; w < WARPS_KV; w++) {
      const float f = high < NONE_LIMIT ? 0.0f : fast_exp2(tops[w * BQ + r] - high);
      total += f * sums[w * BQ + r];
      for (int j = 0; j < 4; j++) x[j] += f * out[(w * BQ + r) * PITCH_O + col + j];
    }
    float *to = parts + (long long)split * (BQ * (HDV + 2));
    mx_store<MX_F32, 4>(to, r * HDV + col, x);
    if (col == 0) {
      to[BQ * HDV + r] = high;
      to[BQ * (HDV + 1) + r] = total;
    }
  }
  __threadfence();
  __syncthreads();
  mx_u32 *last = (mx_u32 *)(smem + SMEM_BYTES - 16);
  if (tid == 0) {
    mx_u32 before = atomicAdd(counters + block, 1u);
    if (before == SPLIT - 1) counters[block] = 0;
    *last = before == SPLIT - 1;
  }
  __syncthreads();
  if (!*last) return;
  __threadfence();
#endif
  for (int e = tid; e < BQ * VECS; e += THREADS) {
    const int r = e / VECS, col = e % VECS * 4, row = row0 + r;
    if (row >= ROWS || col >= DIM_V) continue;
    float x[4] = {0.0f, 0.0f, 0.0f, 0.0f}, total = 0.0f;
#if SPLIT > 1
    float high = __int_as_float(0xff800000);
    for (int s = 0; s < SPLIT; s++) high = fmaxf(high, __ldcg(parts + (long long)s * (BQ * (HDV + 2)) + BQ * HDV + r));
    for (int s = 0; s < SPLIT; s++) {
      const float *from = parts + (long long)s * (BQ * (HDV + 2));
      const float f = high < NONE_LIMIT ? 0.0f : fast_exp2(__ldcg(from + BQ * HDV + r) - high);
      total += f * __ldcg(from + BQ * (HDV + 1) + r);
      for (int j = 0; j < 4; j++) x[j] += f * __ldcg(from + r * HDV + col + j);
    }
#else
    float high = tops[r];
#pragma unroll
    for (int w = 1; w < WARPS_KV; w++) high = fmaxf(high, tops[w * BQ + r]);
#pragma unroll
    for (int w = 0; w < WARPS_KV; w++) {
      const float f = high < NONE_LIMIT ? 0.0f : fast_exp2(tops[w * BQ + r] - high);
      total += f * sums[w * BQ + r];
#pragma unroll
      for (int j = 0; j < 4; j++) x[j] += f * out[(w * BQ + r) * PITCH_O + col + j];
    }
#endif
    const float inverse = total > 0.0f ? 1.0f / total : 0.0f;
#pragma unroll
    for (int j = 0; j < 4; j++) x[j] *= inverse;
    const long long at = O_AT((long long)batch, head * GROUP + row / LEN_Q) + (long long)(row % LEN_Q) * O_ROW + col;
    if (VEC_O >= 4) {
      mx_store<IN_TYPE, 4>(o, at, x);
    } else {
#pragma unroll
      for (int j = 0; j < 4; j++)
        if (col + j < DIM_V) mx_store1<IN_TYPE>(o, at + j, x[j]);
    }
  }
}
