/* Recurrences. The inputs' share of all gates of all steps, x w_ih^T + b_ih, is made before by one matrix product: `gates`, [steps, batch,
 * GATES * HIDDEN]. What is left is the chain of steps h -> gates + h w_hh^T -> cell, written five times (KIND):
 *
 *   RNN_STEP     one launch a step, any type and size: a warp makes one hidden unit for up to ITEMS sequences, so that rows of w_hh are read
 *                once for them.
 *   RNN_TILE     one launch a step, f16 and bf16: a block makes 16 units for COLUMNS sequences on the tensor cores; its warps share k. Where
 *                w_hh is a constant, its rows are on their way to registers before the step before has ended.
 *   RNN_CLUSTER  one launch in all, f16 and bf16: a cluster of CLUSTER blocks takes COLUMNS sequences through all steps. A block owns UNITS
 *                hidden units in all gates, whose rows of w_hh stay in its registers or shared memory; products run on the tensor cores
 *                (rows: units, columns: sequences); the new state goes to all blocks of the cluster through shared memory, twice buffered, with
 *                one cluster barrier a step. Cell states stay in registers in f32.
 *   RNN_ROWS     the same for f32 and any number of units: a thread has one row of w_hh, or a share of it, in registers.
 *   RNN_BLOCK    one launch in all, f16 and bf16, few units: a block takes 8 sequences through all steps. A warp owns 16 units in all gates,
 *                whose rows of w_hh are in its registers, and finds the sums of all gates of a cell in one thread: one barrier a step.
 *
 * Order of gates as in PyTorch: lstm i f g o, gru r z n. */
#define RNN_STEP 0
#define RNN_TILE 1
#define RNN_CLUSTER 2
#define RNN_ROWS 3
#define RNN_BLOCK 4

/* For results of 16 bits divisions of 2 ulp do; a step's time is the latency of such a chain. */
FN float rnn_sigmoid(float v) {
  const float below = 1.0f + __expf(-v);
  return sizeof(IN) == 2 ? __fdividef(1.0f, below) : 1.0f / below;
}
FN float rnn_tanh(float v) {
  if (sizeof(IN) != 2) return tanhf(v);
  const float square = v * v, large = copysignf(1.0f - __fdividef(2.0f, __expf(2.0f * fabsf(v)) + 1.0f), v);
  return fabsf(v) < 0.05f ? v * (1.0f - square * (1.0f / 3.0f - square * (2.0f / 15.0f))) : large;
}

/* g: the inputs' share with b_ih; u: the state's with b_hh; h: the state before; c: the cell state, changed. */
FN float rnn_cell(const float (&g)[GATES], const float (&u)[GATES], float h, float &c) {
#if GATES == 4
  c = rnn_sigmoid(g[1] + u[1]) * c + rnn_sigmoid(g[0] + u[0]) * rnn_tanh(g[2] + u[2]);
  return rnn_sigmoid(g[3] + u[3]) * rnn_tanh(c);
#elif GATES == 3
  const float r = rnn_sigmoid(g[0] + u[0]), z = rnn_sigmoid(g[1] + u[1]);
  return (1 - z) * rnn_tanh(g[2] + r * u[2]) + z * h;
#else
  const float v = g[0] + u[0];
  return RELU ? (v < 0 ? 0.0f : v) : rnn_tanh(v);
#endif
}

/* Eight elements of a tensor whose address may be any (ALIGNED 0): those at the borders of a graph. */
FN uint4 rnn_load(const IN *p) {
#if ALIGNED
  return *(const uint4 *)p;
#else
  union { uint4 all; unsigned short one[8]; } v;
#pragma unroll
  for (int k = 0; k < 8; k++) v.one[k] = ((const unsigned short *)p)[k];
  return v.all;
#endif
}
FN void rnn_store(IN *p, const uint4 &from) {
#if ALIGNED
  *(uint4 *)p = from;
#else
  union { uint4 all; unsigned short one[8]; } v;
  v.all = from;
#pragma unroll
  for (int k = 0; k < 8; k++) ((unsigned short *)p)[k] = v.one[k];
#endif
}

FN void rnn_mma(float (&d)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." MX "." MX ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

#if KIND == RNN_STEP

extern "C" __global__ void __launch_bounds__(128) rnn_step(const IN *gates, const IN *h, const IN *w_hh, const IN *b_hh, const IN *c0,
                                                           float *c, IN *y, IN *h_last, IN *c_last, int first, int last) {
  KILN_WAIT;
  const int lane = threadIdx.x % 32, warp = blockIdx.x * 4 + threadIdx.x / 32;
  const int i = warp % HIDDEN, n0 = warp / HIDDEN * ITEMS;
  if (n0 >= BATCH) return;
  float sum[GATES][ITEMS];
#pragma unroll
  for (int g = 0; g < GATES; g++)
#pragma unroll
    for (int n = 0; n < ITEMS; n++) sum[g][n] = 0;
  for (int k = lane * V; k < HIDDEN; k += 32 * V) {
    float w[GATES][V];
#pragma unroll
    for (int g = 0; g < GATES; g++) load_floats<IN, V>(w[g], w_hh + (i64)(g * HIDDEN + i) * HIDDEN + k);
#pragma unroll
    for (int n = 0; n < ITEMS; n++) {
      if (n0 + n >= BATCH) break;
      float s[V];
      load_floats<IN, V>(s, h + (i64)(n0 + n) * HIDDEN + k);
#pragma unroll
      for (int g = 0; g < GATES; g++)
#pragma unroll
        for (int j = 0; j < V; j++) sum[g][n] += w[g][j] * s[j];
    }
  }
#pragma unroll
  for (int n = 0; n < ITEMS; n++) {
    float mine[GATES];
#pragma unroll
    for (int g = 0; g < GATES; g++) mine[g] = warp_sum(sum[g][n]) + (HAS_B_HH ? to_float(b_hh[g * HIDDEN + i]) : 0.0f);
    if (lane || n0 + n >= BATCH) continue;
    const int item = (n0 + n) * HIDDEN + i;
    float in[GATES];
#pragma unroll
    for (int g = 0; g < GATES; g++) in[g] = to_float(gates[(i64)(n0 + n) * GATES * HIDDEN + g * HIDDEN + i]);
    float cell = GATES != 4 ? 0.0f : first ? to_float(c0[item]) : c[item];
    const IN v = from_float<IN>(rnn_cell(in, mine, GATES == 3 ? to_float(h[item]) : 0.0f, cell));
    y[item] = v;
    if (last) h_last[item] = v;
    if (GATES == 4) c[item] = cell;
    if (GATES == 4 && last) c_last[item] = from_float<IN>(cell);
  }
}

#elif KIND == RNN_TILE

#define CHUNKS (HIDDEN / 32)                    /* of k: a thread reads 16 bytes of each row, which feed two products */
#define MINE ((CHUNKS + WARPS - 1) / WARPS)     /* of a warp */
#define TILES (COLUMNS / 8)
#define PART_PITCH 20
#define CELLS ((COLUMNS * 16 + WARPS * 32 - 1) / (WARPS * 32)) /* of a thread */

/* Which elements of k a thread holds does not matter as long as it holds the same ones of both operands. */
extern "C" __global__ void __launch_bounds__(WARPS * 32) rnn_tile(const IN *gates, const IN *h, const IN *w_hh, const IN *b_hh,
                                                                  const IN *c0, float *c, IN *y, IN *h_last, IN *c_last, int first,
                                                                  int last) {
  extern __shared__ __align__(16) float part[]; /* [WARPS][GATES][COLUMNS][PART_PITCH] */
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, u0 = blockIdx.x * 16, n0 = blockIdx.y * COLUMNS;
#if !CONSTANT
  KILN_WAIT;
#endif
#if IN_REGISTERS
  uint4 a[MINE][GATES][2];
#pragma unroll
  for (int s = 0; s < MINE; s++)
#pragma unroll
    for (int g = 0; g < GATES; g++)
#pragma unroll
      for (int j = 0; j < 2; j++) {
        const int chunk = s * WARPS + warp;
        if (chunk < CHUNKS)
          a[s][g][j] = *(const uint4 *)(w_hh + (i64)(g * HIDDEN + u0 + lane / 4 + j * 8) * HIDDEN + chunk * 32 + lane % 4 * 8);
      }
#endif
#if CONSTANT
  KILN_WAIT;
#endif
  /* What the cells take is on its way while the product is made: it is not converted before. */
  IN asked[CELLS][GATES], added[CELLS][GATES], before[CELLS];
  float cell[CELLS];
#pragma unroll
  for (int j = 0; j < CELLS; j++) {
    const int i = threadIdx.x + j * WARPS * 32, n = n0 + i / 16, unit = u0 + i % 16;
    if (i >= COLUMNS * 16 || n >= BATCH) break;
    const i64 item = (i64)n * HIDDEN + unit;
#pragma unroll
    for (int g = 0; g < GATES; g++) {
      asked[j][g] = gates[((i64)n * GATES + g) * HIDDEN + unit];
      if (HAS_B_HH) added[j][g] = b_hh[g * HIDDEN + unit];
    }
    if (GATES == 3) before[j] = h[item];
    cell[j] = GATES != 4 ? 0.0f : first ? to_float(c0[item]) : c[item];
  }
  float sum[GATES][TILES][4];
#pragma unroll
  for (int g = 0; g < GATES; g++)
#pragma unroll
    for (int t = 0; t < TILES; t++)
#pragma unroll
      for (int j = 0; j < 4; j++) sum[g][t][j] = 0;
#pragma unroll
  for (int s = 0; s < MINE; s++) {
    const int chunk = s * WARPS + warp, k = chunk * 32 + lane % 4 * 8;
    if (chunk >= CHUNKS) break;
    uint4 b[TILES];
#pragma unroll
    for (int t = 0; t < TILES; t++) {
      const int n = n0 + t * 8 + lane / 4;
      const uint4 none = {0, 0, 0, 0};
      b[t] = n < BATCH ? rnn_load(h + (i64)n * HIDDEN + k) : none;
    }
#pragma unroll
    for (int g = 0; g < GATES; g++) {
#if IN_REGISTERS
      const uint4 low = a[s][g][0], high = a[s][g][1];
#else
      const IN *w = w_hh + (i64)(g * HIDDEN + u0 + lane / 4) * HIDDEN + k;
      const uint4 low = *(const uint4 *)w, high = *(const uint4 *)(w + 8 * HIDDEN);
#endif
#pragma unroll
      for (int t = 0; t < TILES; t++) {
        rnn_mma(sum[g][t], low.x, high.x, low.y, high.y, b[t].x, b[t].y);
        rnn_mma(sum[g][t], low.z, high.z, low.w, high.w, b[t].z, b[t].w);
      }
    }
  }
#pragma unroll
  for (int g = 0; g < GATES; g++)
#pragma unroll
    for (int t = 0; t < TILES; t++)
#pragma unroll
      for (int j = 0; j < 4; j++)
        part[((warp * GATES + g) * COLUMNS + t * 8 + lane % 4 * 2 + j % 2) * PART_PITCH + lane / 4 + j / 2 * 8] = sum[g][t][j];
  __syncthreads();
#pragma unroll
  for (int j = 0; j < CELLS; j++) {
    const int i = threadIdx.x + j * WARPS * 32, n = n0 + i / 16;
    if (i >= COLUMNS * 16 || n >= BATCH) break;
    const i64 item = (i64)n * HIDDEN + u0 + i % 16;
    float in[GATES], mine[GATES];
#pragma unroll
    for (int g = 0; g < GATES; g++) {
      in[g] = to_float(asked[j][g]);
      mine[g] = HAS_B_HH ? to_float(added[j][g]) : 0.0f;
#pragma unroll
      for (int w = 0; w < WARPS; w++) mine[g] += part[((w * GATES + g) * COLUMNS + i / 16) * PART_PITCH + i % 16];
    }
    const IN v = from_float<IN>(rnn_cell(in, mine, GATES == 3 ? to_float(before[j]) : 0.0f, cell[j]));
    y[item] = v;
    if (last) h_last[item] = v;
    if (GATES == 4) c[item] = cell[j];
    if (GATES == 4 && last) c_last[item] = from_float<IN>(cell[j]);
  }
}

#elif KIND == RNN_BLOCK

#define PITCH (HIDDEN + 8) /* of rows in shared memory: 16 bytes off, so that eight rows lie in different banks */
#define SLICES (HIDDEN / 16) /* of k */

/* A thread has four cells (e): unit lane / 4 + e / 2 * 8 of its warp, sequence lane % 4 * 2 + e % 2. */
extern "C" __global__ void __launch_bounds__(THREADS) rnn_block(const IN *gates, const IN *h0, const IN *w_hh, const IN *b_hh, const IN *c0,
                                                                IN *__restrict__ y, IN *h_last, IN *c_last) {
  __shared__ __align__(16) IN state[2][8 * PITCH];
  const int lane = threadIdx.x % 32, u0 = threadIdx.x / 32 * 16 + lane / 4, n0 = blockIdx.x * 8 + lane % 4 * 2;
  KILN_WAIT;
  u32 a[GATES][SLICES][4];
#pragma unroll
  for (int g = 0; g < GATES; g++)
#pragma unroll
    for (int s = 0; s < SLICES; s++)
#pragma unroll
      for (int j = 0; j < 4; j++)
        a[g][s][j] = *(const u32 *)(w_hh + (i64)(g * HIDDEN + u0 + j % 2 * 8) * HIDDEN + s * 16 + lane % 4 * 2 + j / 2 * 8);
  for (int i = threadIdx.x; i < 8 * HIDDEN; i += THREADS) {
    const int n = blockIdx.x * 8 + i / HIDDEN;
    const IN v = n < BATCH ? h0[(i64)n * HIDDEN + i % HIDDEN] : from_float<IN>(0.0f);
    state[0][i / HIDDEN * PITCH + i % HIDDEN] = v;
    state[1][i / HIDDEN * PITCH + i % HIDDEN] = v;
  }
  float cell[4], before[4], bias[2][GATES];
  IN ahead[4][GATES];
  bool live[4];
#pragma unroll
  for (int e = 0; e < 4; e++) {
    live[e] = (BATCH > 1 || e % 2 == 0) && n0 + e % 2 < BATCH;
    const i64 item = (i64)(n0 + e % 2) * HIDDEN + u0 + e / 2 * 8;
    cell[e] = GATES == 4 && live[e] ? to_float(c0[item]) : 0.0f;
    before[e] = live[e] ? to_float(h0[item]) : 0.0f;
  }
#pragma unroll
  for (int e = 0; e < 2; e++)
#pragma unroll
    for (int g = 0; g < GATES; g++) bias[e][g] = HAS_B_HH ? to_float(b_hh[g * HIDDEN + u0 + e * 8]) : 0.0f;
  /* The inputs' share of a step, asked for while the step before is made, and converted when it is there. */
  auto inputs = [&](int step) {
    const i64 at = (REVERSE ? STEPS - 1 - step : step) * (i64)BATCH;
#pragma unroll
    for (int e = 0; e < 4; e++)
#pragma unroll
      for (int g = 0; g < GATES; g++)
        if (live[e]) ahead[e][g] = gates[((at + n0 + e % 2) * GATES + g) * HIDDEN + u0 + e / 2 * 8];
  };
  inputs(0);
  __syncthreads();

  for (int step = 0; step < STEPS; step++) {
    const i64 at = (REVERSE ? STEPS - 1 - step : step) * (i64)BATCH;
    const IN *now = state[step % 2] + lane / 4 * PITCH + lane % 4 * 2;
    IN *next = state[(step + 1) % 2];
    float sum[GATES][4], in[4][GATES];
#pragma unroll
    for (int e = 0; e < 4; e++)
#pragma unroll
      for (int g = 0; g < GATES; g++) {
        in[e][g] = live[e] ? to_float(ahead[e][g]) : 0.0f;
        sum[g][e] = bias[e / 2][g];
      }
    if (step + 1 < STEPS) inputs(step + 1);
#pragma unroll
    for (int s = 0; s < SLICES; s++) {
      const u32 low = *(const u32 *)(now + s * 16), high = *(const u32 *)(now + s * 16 + 8);
#pragma unroll
      for (int g = 0; g < GATES; g++) rnn_mma(sum[g], a[g][s][0], a[g][s][1], a[g][s][2], a[g][s][3], low, high);
    }
#pragma unroll
    for (int e = 0; e < 4; e++) {
      if (!live[e]) continue;
      float u[GATES];
#pragma unroll
      for (int g = 0; g < GATES; g++) u[g] = sum[g][e];
      const IN v = from_float<IN>(rnn_cell(in[e], u, before[e], cell[e]));
      before[e] = to_float(v);
      next[(lane % 4 * 2 + e % 2) * PITCH + u0 + e / 2 * 8] = v;
      y[(at + n0 + e % 2) * HIDDEN + u0 + e / 2 * 8] = v;
    }
    __syncthreads();
  }
#pragma unroll
  for (int e = 0; e < 4; e++) {
    if (!live[e]) continue;
    const i64 item = (i64)(n0 + e % 2) * HIDDEN + u0 + e / 2 * 8;
    h_last[item] = from_float<IN>(before[e]);
    if (GATES == 4) c_last[item] = from_float<IN>(cell[e]);
  }
}

#else

FN u32 rnn_shared(const void *p) { return (u32)__cvta_generic_to_shared(p); }

FN void rnn_cluster_sync() {
#if CLUSTER > 1
  asm volatile("barrier.cluster.arrive.release.aligned;\n barrier.cluster.wait.acquire.aligned;" ::: "memory");
#else
  __syncthreads();
#endif
}

/* 16 bytes to the same place of block `rank` of the cluster. */
FN void rnn_send(void *place, int rank, const uint4 &v) {
#if CLUSTER > 1
  u32 there;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(rnn_shared(place)), "r"(rank));
  asm volatile("st.shared::cluster.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(there), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
#else
  *(uint4 *)place = v;
#endif
}

#if KIND == RNN_CLUSTER

#define PITCH (HIDDEN + 8) /* of rows in shared memory: 16 bytes off, so that eight rows lie in different banks */
#define SLICES (HIDDEN / 16 / SPLIT) /* of k, of one warp */
#define PART_PITCH (UNITS + 4)
#define CELLS ((COLUMNS * UNITS + THREADS - 1) / THREADS) /* of a thread */
#define CHUNKS (COLUMNS * UNITS / 8) /* of 16 bytes, of the state that a block makes */
#define TILES (COLUMNS / 8)

extern "C" __global__ void __launch_bounds__(THREADS) rnn_cluster(const IN *gates, const IN *h0, const IN *w_hh, const IN *b_hh,
                                                                  const IN *c0, IN *y, IN *h_last, IN *c_last) {
  extern __shared__ __align__(16) unsigned char memory[];
  IN *state = (IN *)memory;                                                 /* [2][COLUMNS][PITCH] */
  IN *fresh = state + 2 * COLUMNS * PITCH;                                  /* [COLUMNS][UNITS]: what this block made */
  float *part = (float *)(fresh + COLUMNS * UNITS);                         /* [SPLIT][GATES][COLUMNS][PART_PITCH] */
  IN *weights = (IN *)(part + SPLIT * GATES * COLUMNS * PART_PITCH);        /* [GATES][UNITS][PITCH], unless in registers */
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int group = warp / SPLIT, split = warp % SPLIT;                     /* 16 units; a share of k */
  const int rank = blockIdx.x % CLUSTER, n0 = blockIdx.x / CLUSTER * COLUMNS, u0 = rank * UNITS;
  KILN_WAIT;
#if IN_REGISTERS
  u32 a[GATES][SLICES][4];
#pragma unroll
  for (int g = 0; g < GATES; g++)
#pragma unroll
    for (int s = 0; s < SLICES; s++)
#pragma unroll
      for (int j = 0; j < 4; j++) {
        const int row = g * HIDDEN + u0 + group * 16 + lane / 4 + j % 2 * 8, k = (split * SLICES + s) * 16 + lane % 4 * 2 + j / 2 * 8;
        a[g][s][j] = *(const u32 *)(w_hh + (i64)row * HIDDEN + k);
      }
#else
  for (int i = threadIdx.x; i < GATES * UNITS * (HIDDEN / 8); i += THREADS) {
    const int row = i / (HIDDEN / 8), k = i % (HIDDEN / 8) * 8;
    *(uint4 *)(weights + row * PITCH + k) = *(const uint4 *)(w_hh + (i64)(row / UNITS * HIDDEN + u0 + row % UNITS) * HIDDEN + k);
  }
#endif
  for (int i = threadIdx.x; i < COLUMNS * (HIDDEN / 8); i += THREADS) {
    const int n = i / (HIDDEN / 8), k = i % (HIDDEN / 8) * 8;
    const uint4 none = {0, 0, 0, 0};
    *(uint4 *)(state + n * PITCH + k) = n0 + n < BATCH ? rnn_load(h0 + (i64)(n0 + n) * HIDDEN + k) : none;
  }
  float cell[CELLS], before[CELLS], bias[CELLS][GATES];
#pragma unroll
  for (int j = 0; j < CELLS; j++) {
    const int item = threadIdx.x + j * THREADS, n = item / UNITS, u = u0 + item % UNITS;
    const bool live = item < COLUMNS * UNITS && n0 + n < BATCH;
    cell[j] = GATES == 4 && live ? to_float(c0[(i64)(n0 + n) * HIDDEN + u]) : 0.0f;
    before[j] = live ? to_float(h0[(i64)(n0 + n) * HIDDEN + u]) : 0.0f;
#pragma unroll
    for (int g = 0; g < GATES; g++) bias[j][g] = HAS_B_HH && item < COLUMNS * UNITS ? to_float(b_hh[g * HIDDEN + u]) : 0.0f;
  }
  rnn_cluster_sync(); /* all blocks are there before one writes to another */

  /* The inputs' share of a step, asked for while the step before is made, and converted when it is there. */
  IN ahead[CELLS][GATES];
  auto inputs = [&](int step) {
    const i64 at = REVERSE ? STEPS - 1 - step : step;
#pragma unroll
    for (int j = 0; j < CELLS; j++) {
      const int item = threadIdx.x + j * THREADS, n = item / UNITS, u = u0 + item % UNITS;
      const bool live = item < COLUMNS * UNITS && n0 + n < BATCH;
#pragma unroll
      for (int g = 0; g < GATES; g++)
        ahead[j][g] = live ? gates[((at * BATCH + n0 + n) * GATES + g) * HIDDEN + u] : from_float<IN>(0.0f);
    }
  };
  inputs(0);
  for (int step = 0; step < STEPS; step++) {
    const i64 at = REVERSE ? STEPS - 1 - step : step;
    const IN *now = state + step % 2 * COLUMNS * PITCH;
    IN *next = state + (step + 1) % 2 * COLUMNS * PITCH;
    float in[CELLS][GATES];
#pragma unroll
    for (int j = 0; j < CELLS; j++)
#pragma unroll
      for (int g = 0; g < GATES; g++) in[j][g] = to_float(ahead[j][g]);
    if (step + 1 < STEPS) inputs(step + 1);
    float sum[GATES][TILES][4];
#pragma unroll
    for (int g = 0; g < GATES; g++)
#pragma unroll
      for (int t = 0; t < TILES; t++)
#pragma unroll
        for (int j = 0; j < 4; j++) sum[g][t][j] = 0;
#pragma unroll
    for (int s = 0; s < SLICES; s++) {
      const int k = (split * SLICES + s) * 16 + lane % 4 * 2;
      u32 b[TILES][2];
#pragma unroll
      for (int t = 0; t < TILES; t++) {
        const IN *from = now + (t * 8 + lane / 4) * PITCH + k;
        b[t][0] = *(const u32 *)from;
        b[t][1] = *(const u32 *)(from + 8);
      }
#pragma unroll
      for (int g = 0; g < GATES; g++) {
#if IN_REGISTERS
        const u32(&w)[4] = a[g][s];
#else
        u32 w[4];
#pragma unroll
        for (int j = 0; j < 4; j++)
          w[j] = *(const u32 *)(weights + (g * UNITS + group * 16 + lane / 4 + j % 2 * 8) * PITCH + k + j / 2 * 8);
#endif
#pragma unroll
        for (int t = 0; t < TILES; t++) rnn_mma(sum[g][t], w[0], w[1], w[2], w[3], b[t][0], b[t][1]);
      }
    }
#pragma unroll
    for (int g = 0; g < GATES; g++)
#pragma unroll
      for (int t = 0; t < TILES; t++)
#pragma unroll
        for (int j = 0; j < 4; j++)
          part[((split * GATES + g) * COLUMNS + t * 8 + lane % 4 * 2 + j % 2) * PART_PITCH + group * 16 + lane / 4 + j / 2 * 8] =
              sum[g][t][j];
    __syncthreads();
#pragma unroll
    for (int j = 0; j < CELLS; j++) {
      const int item = threadIdx.x + j * THREADS;
      if (item >= COLUMNS * UNITS) break;
      float u[GATES];
#pragma unroll
      for (int g = 0; g < GATES; g++) {
        u[g] = bias[j][g];
#pragma unroll
        for (int s = 0; s < SPLIT; s++) u[g] += part[((s * GATES + g) * COLUMNS + item / UNITS) * PART_PITCH + item % UNITS];
      }
      const IN v = from_float<IN>(rnn_cell(in[j], u, before[j], cell[j]));
      before[j] = to_float(v);
      fresh[item] = v;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < CHUNKS * CLUSTER; i += THREADS) {
      const int chunk = i % CHUNKS, n = chunk / (UNITS / 8), u = chunk % (UNITS / 8) * 8;
      const uint4 v = *(const uint4 *)(fresh + chunk * 8);
      rnn_send(next + n * PITCH + u0 + u, i / CHUNKS, v);
      if (i >= CHUNKS || n0 + n >= BATCH) continue;
      rnn_store(y + (at * BATCH + n0 + n) * HIDDEN + u0 + u, v);
      if (step == STEPS - 1) rnn_store(h_last + (i64)(n0 + n) * HIDDEN + u0 + u, v);
    }
    rnn_cluster_sync();
  }
#if GATES == 4
#pragma unroll
  for (int j = 0; j < CELLS; j++) {
    const int item = threadIdx.x + j * THREADS, n = item / UNITS, u = u0 + item % UNITS;
    if (item < COLUMNS * UNITS && n0 + n < BATCH) c_last[(i64)(n0 + n) * HIDDEN + u] = from_float<IN>(cell[j]);
  }
#endif
}

#else

#define SLICE ((HIDDEN + SPLIT - 1) / SPLIT) /* of k, of one thread */
#define ROWS (GATES * UNITS)
#define CELLS ((COLUMNS * UNITS + THREADS - 1) / THREADS)
#define CHUNKS (UNITS * COLUMNS / 4)

extern "C" __global__ void __launch_bounds__(THREADS) rnn_rows(const float *gates, const float *h0, const float *w_hh, const float *b_hh,
                                                               const float *c0, float *y, float *h_last, float *c_last) {
  extern __shared__ __align__(16) float state[];        /* [2][SPLIT * SLICE or all units][COLUMNS] */
  constexpr int HIGH = SPLIT * SLICE > CLUSTER * UNITS ? SPLIT * SLICE : CLUSTER * UNITS;
  float *fresh = state + 2 * HIGH * COLUMNS;            /* [UNITS][COLUMNS] */
  float *part = fresh + UNITS * COLUMNS;                /* [SPLIT][ROWS][COLUMNS] */
  const int rank = blockIdx.x % CLUSTER, n0 = blockIdx.x / CLUSTER * COLUMNS, u0 = rank * UNITS;
  const int row = threadIdx.x % ROWS, split = threadIdx.x / ROWS; /* threads behind the last share only help to copy */
  KILN_WAIT;
  float w[SLICE];
#pragma unroll
  for (int k = 0; k < SLICE; k++) {
    const int unit = u0 + row % UNITS, at = split * SLICE + k;
    w[k] = split < SPLIT && unit < HIDDEN && at < HIDDEN ? w_hh[(i64)(row / UNITS * HIDDEN + unit) * HIDDEN + at] : 0.0f;
  }
  for (int i = threadIdx.x; i < 2 * HIGH * COLUMNS; i += THREADS) {
    const int n = n0 + i % COLUMNS, k = i / COLUMNS;
    state[i] = k < HIDDEN && n < BATCH ? h0[(i64)n * HIDDEN + k] : 0.0f;
  }
  float cell[CELLS], before[CELLS], bias[CELLS][GATES];
#pragma unroll
  for (int j = 0; j < CELLS; j++) {
    const int item = threadIdx.x + j * THREADS, n = n0 + item % COLUMNS, u = u0 + item / COLUMNS;
    const bool live = item < COLUMNS * UNITS && n < BATCH && u < HIDDEN;
    cell[j] = GATES == 4 && live ? c0[(i64)n * HIDDEN + u] : 0.0f;
    before[j] = live ? h0[(i64)n * HIDDEN + u] : 0.0f;
#pragma unroll
    for (int g = 0; g < GATES; g++) bias[j][g] = HAS_B_HH && live ? b_hh[g * HIDDEN + u] : 0.0f;
  }
  rnn_cluster_sync();

  /* The inputs' share of a step, asked for while the step before is made. */
  float ahead[CELLS][GATES];
  auto inputs = [&](int step) {
    const i64 at = REVERSE ? STEPS - 1 - step : step;
#pragma unroll
    for (int j = 0; j < CELLS; j++) {
      const int item = threadIdx.x + j * THREADS, n = n0 + item % COLUMNS, u = u0 + item / COLUMNS;
      const bool live = item < COLUMNS * UNITS && n < BATCH && u < HIDDEN;
#pragma unroll
      for (int g = 0; g < GATES; g++) ahead[j][g] = live ? gates[((at * BATCH + n) * GATES + g) * HIDDEN + u] : 0.0f;
    }
  };
  inputs(0);
  for (int step = 0; step < STEPS; step++) {
    const i64 at = REVERSE ? STEPS - 1 - step : step;
    const float *now = state + step % 2 * HIGH * COLUMNS;
    float *next = state + (step + 1) % 2 * HIGH * COLUMNS;
    float in[CELLS][GATES];
#pragma unroll
    for (int j = 0; j < CELLS; j++)
#pragma unroll
      for (int g = 0; g < GATES; g++) in[j][g] = ahead[j][g];
    if (step + 1 < STEPS) inputs(step + 1);
    if (split < SPLIT) {
      float sum[COLUMNS];
#pragma unroll
      for (int n = 0; n < COLUMNS; n++) sum[n] = 0;
#pragma unroll
      for (int k = 0; k < SLICE; k++)
#pragma unroll
        for (int n = 0; n < COLUMNS; n += 4) {
          const float4 v = *(const float4 *)(now + (split * SLICE + k) * COLUMNS + n);
          sum[n] += w[k] * v.x, sum[n + 1] += w[k] * v.y, sum[n + 2] += w[k] * v.z, sum[n + 3] += w[k] * v.w;
        }
#pragma unroll
      for (int n = 0; n < COLUMNS; n += 4)
        *(float4 *)(part + (split * ROWS + row) * COLUMNS + n) = make_float4(sum[n], sum[n + 1], sum[n + 2], sum[n + 3]);
    }
    __syncthreads();
#pragma unroll
    for (int j = 0; j < CELLS; j++) {
      const int item = threadIdx.x + j * THREADS, n = n0 + item % COLUMNS, u = u0 + item / COLUMNS;
      if (item >= COLUMNS * UNITS) break;
      float mine[GATES];
#pragma unroll
      for (int g = 0; g < GATES; g++) {
        mine[g] = bias[j][g];
#pragma unroll
        for (int s = 0; s < SPLIT; s++) mine[g] += part[(s * ROWS + g * UNITS + item / COLUMNS) * COLUMNS + item % COLUMNS];
      }
      const float v = rnn_cell(in[j], mine, before[j], cell[j]);
      before[j] = v;
      fresh[item] = u < HIDDEN ? v : 0.0f;
      if (n >= BATCH || u >= HIDDEN) continue;
      y[(at * BATCH + n) * HIDDEN + u] = v;
      if (step == STEPS - 1) h_last[(i64)n * HIDDEN + u] = v;
      if (GATES == 4 && step == STEPS - 1) c_last[(i64)n * HIDDEN + u] = cell[j];
    }
    __syncthreads();
    for (int i = threadIdx.x; i < CHUNKS * CLUSTER; i += THREADS)
      rnn_send(next + u0 * COLUMNS + i % CHUNKS * 4, i / CHUNKS, *(const uint4 *)(fresh + i % CHUNKS * 4));
    rnn_cluster_sync();
  }
}

#endif
#endif
