/* Fused attention with fused multiply-adds in f32, operands of any type: strict f32, and head sizes that the tensor-core kernel does
 * not take. A block makes 32 queries; four threads share a query, each with a quarter of the keys' scores and of the columns.
 *
 * Macros as in attention.cu: IN_TYPE BATCH HEADS GROUP LEN_Q LEN_K DIM DIM_V Q_AT.. Q_ROW.. MASK_* CAUSAL SCALE.
 * Grid: ceil(GROUP * LEN_Q / 32) * BATCH * HEADS; block: 128. Shared memory: SMEM_BYTES. */

#define ROWS (GROUP * LEN_Q)
#define BLOCKS ((ROWS + BQ - 1) / BQ) /* of a head */
#define BQ 32
#define BKV 32
#define PITCH_QK (DIM + 1)
#define COLS_V ((DIM_V + 3) / 4)
#define SMEM_BYTES ((BQ * PITCH_QK + BKV * PITCH_QK + BKV * DIM_V + BQ * (BKV + 1)) * 4)
#ifndef KERNEL_NAME
#define KERNEL_NAME kiln_attention_simt
#endif

extern "C" __global__ void __launch_bounds__(128)
    KERNEL_NAME(const void *q, const void *k, const void *v, void *__restrict__ o, const void *mask, int len_arg) {
  extern __shared__ __align__(16) unsigned char smem[];
  float *sq = (float *)smem, *sk = sq + BQ * PITCH_QK, *sv = sk + BKV * PITCH_QK, *sp = sv + BKV * DIM_V;
  const int tid = threadIdx.x, r = tid / 4, part = tid % 4;
  const int row0 = (CAUSAL ? BLOCKS - 1 - blockIdx.x % BLOCKS : blockIdx.x % BLOCKS) * BQ; /* the longest first */
  const int head = blockIdx.x / BLOCKS % HEADS, batch = blockIdx.x / BLOCKS / HEADS;
  const int row = min(row0 + r, ROWS - 1), query = row % LEN_Q;
  const float none = __int_as_float(0xff800000);
  mx_grid_wait();
  for (int e = tid; e < BQ * DIM; e += 128) {
    const int i = e / DIM, c = e % DIM, w = min(row0 + i, ROWS - 1);
    sq[i * PITCH_QK + c] =
        mx_load1<IN_TYPE>(q, Q_AT((long long)batch, head * GROUP + w / LEN_Q) + (long long)(w % LEN_Q) * Q_ROW + c);
  }
  float acc[COLS_V], top = none, sum = 0.0f;
#pragma unroll
  for (int j = 0; j < COLS_V; j++) acc[j] = 0.0f;
  int keys = LEN_K;
  if (CAUSAL) keys = min(keys, min(row0 % LEN_Q + BQ, LEN_Q));
  for (int k0 = 0; k0 < keys; k0 += BKV) {
    __syncthreads();
    for (int e = tid; e < BKV * DIM; e += 128) {
      const int i = e / DIM, c = e % DIM;
      sk[i * PITCH_QK + c] =
          k0 + i < LEN_K ? mx_load1<IN_TYPE>(k, K_AT((long long)batch, head) + (long long)(k0 + i) * K_ROW + c) : 0.0f;
    }
    for (int e = tid; e < BKV * DIM_V; e += 128) {
      const int i = e / DIM_V, c = e % DIM_V;
      sv[e] = k0 + i < LEN_K ? mx_load1<IN_TYPE>(v, V_AT((long long)batch, head) + (long long)(k0 + i) * V_ROW + c) : 0.0f;
    }
    __syncthreads();
    float s[BKV / 4], high = top;
#pragma unroll
    for (int j = 0; j < BKV / 4; j++) s[j] = 0.0f;
    for (int c = 0; c < DIM; c++) {
      const float x = sq[r * PITCH_QK + c];
#pragma unroll
      for (int j = 0; j < BKV / 4; j++) s[j] += x * sk[(part + j * 4) * PITCH_QK + c];
    }
#pragma unroll
    for (int j = 0; j < BKV / 4; j++) {
      const int key = k0 + part + j * 4;
      bool keep = key < LEN_K && !(CAUSAL && key > query);
      s[j] *= (float)(SCALE);
#if MASK_KIND
      if (key < LEN_K) {
        const long long at = MASK_AT((long long)batch, head * GROUP + row / LEN_Q) + (long long)query * MASK_ROW + (long long)key * MASK_COL;
#if MASK_KIND == 1
        keep = keep && ((const unsigned char *)mask)[at];
#else
        s[j] += mx_load1<MASK_TYPE>(mask, at);
#endif
      }
#endif
      if (!keep) s[j] = none;
      high = fmaxf(high, s[j]);
    }
    high = fmaxf(high, __shfl_xor_sync(0xffffffffu, high, 1));
    high = fmaxf(high, __shfl_xor_sync(0xffffffffu, high, 2));
    const float from = high == none ? 0.0f : high, shrink = __expf(top - from);
    top = high;
    sum *= shrink;
#pragma unroll
    for (int j = 0; j < BKV / 4; j++) {
      const float p = __expf(s[j] - from);
      sum += p;
      sp[r * (BKV + 1) + part + j * 4] = p;
    }
    __syncwarp();
#pragma unroll
    for (int j = 0; j < COLS_V; j++) acc[j] *= shrink;
    for (int key = 0; key < BKV; key++) {
      const float p = sp[r * (BKV + 1) + key];
#pragma unroll
      for (int j = 0; j < COLS_V; j++)
        if (DIM_V % 4 == 0 || part + j * 4 < DIM_V) acc[j] += p * sv[key * DIM_V + part + j * 4];
    }
  }
  sum += __shfl_xor_sync(0xffffffffu, sum, 1);
  sum += __shfl_xor_sync(0xffffffffu, sum, 2);
  const float inverse = sum > 0.0f ? 1.0f / sum : 0.0f;
  if (row0 + r >= ROWS) return;
  const long long at = O_AT((long long)batch, head * GROUP + row / LEN_Q) + (long long)query * O_ROW;
#pragma unroll
  for (int j = 0; j < COLS_V; j++)
    if (part + j * 4 < DIM_V) mx_store1<IN_TYPE>(o, at + part + j * 4, acc[j] * inverse);
}
