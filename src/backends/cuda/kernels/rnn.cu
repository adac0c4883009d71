/* Recurrences. The inputs' share of all gates of all steps, x w_ih^T + b_ih, is made before by one matrix product: `gates`, [steps, batch,
 * GATES * HIDDEN]. What is left is the chain of steps h -> gates + h w_hh^T -> cell, written twice:
 *
 *   rnn_step     one launch a step (any type and size): a warp makes one hidden unit for up to ITEMS sequences, so that rows of w_hh are
 *                read once for them.
 *   rnn_cluster  one launch in all, f16 and bf16 (CLUSTER > 0): a cluster of blocks takes COLUMNS sequences through all steps. A block owns
 *                UNITS hidden units in all gates, whose rows of w_hh stay in its registers or shared memory; products run on the tensor cores
 *                (rows: units, columns: sequences); the new state goes to all blocks of the cluster through shared memory, twice buffered, with
 *                one cluster barrier a step. Cell states stay in registers in f32.
 *
 * Order of gates as in PyTorch: lstm i f g o, gru r z n. */
FN float rnn_sigmoid(float v) { return 1.0f / (1.0f + __expf(-v)); }
FN float rnn_tanh(float v) { return tanhf(v); }

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

#if CLUSTER == 0

extern "C" __global__ void __launch_bounds__(128) rnn_step(const IN *__restrict__ gates, const IN *h, const IN *__restrict__ w_hh,
                                                           const IN *__restrict__ b_hh, const IN *c0, float *c, IN *y, IN *h_last,
                                                           IN *c_last, int first, int last) {
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

#else

#define PITCH (HIDDEN + 8) /* of rows in shared memory: 16 bytes off, so that eight rows lie in different banks */
#define SLICES (HIDDEN / 16 / SPLIT) /* of k, of one warp */
#define PART_PITCH (UNITS + 4)
#define CELLS ((COLUMNS * UNITS + THREADS - 1) / THREADS) /* of a thread */
#define CHUNKS (COLUMNS * UNITS / 8) /* of 16 bytes, of the state that a block makes */
#define TILES (COLUMNS / 8)

FN void rnn_mma(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." MX "." MX ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

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

/* Eight elements of a tensor whose address may be any (ALIGNED 0): those at the borders of a graph. */
FN uint4 rnn_load(const IN *p) {
#if ALIGNED
  return *(const uint4 *)p;
#else
  union { uint4 all; unsigned short one[8]; } v;
#pragma unroll
  for (int k = 0; k < 8; k++) v.one[k] = p[k].x;
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
  for (int k = 0; k < 8; k++) p[k].x = v.one[k];
#endif
}

extern "C" __global__ void __launch_bounds__(THREADS) rnn_cluster(const IN *__restrict__ gates, const IN *__restrict__ h0,
                                                                  const IN *__restrict__ w_hh, const IN *__restrict__ b_hh,
                                                                  const IN *__restrict__ c0, IN *y, IN *h_last, IN *c_last) {
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

  for (int step = 0; step < STEPS; step++) {
    const i64 at = REVERSE ? STEPS - 1 - step : step;
    const IN *now = state + step % 2 * COLUMNS * PITCH;
    IN *next = state + (step + 1) % 2 * COLUMNS * PITCH;
    float in[CELLS][GATES];
#pragma unroll
    for (int j = 0; j < CELLS; j++) {
      const int item = threadIdx.x + j * THREADS, n = item / UNITS, u = u0 + item % UNITS;
      const bool live = item < COLUMNS * UNITS && n0 + n < BATCH;
#pragma unroll
      for (int g = 0; g < GATES; g++)
        in[j][g] = live ? to_float(gates[((at * BATCH + n0 + n) * GATES + g) * HIDDEN + u]) : 0.0f;
    }
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
        for (int t = 0; t < TILES; t++) rnn_mma(sum[g][t], w, b[t][0], b[t][1]);
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

#endif
