/* Convolutions of images with one to three channels (the first layers of networks) on tensor cores, in 16 bits. An output is little work
 * here and the image is small: what costs is to write the results. A block keeps all weights in shared memory and takes tile after tile
 * of TH x TW results; a tile's part of the image is brought once, in any strides, as pixels of four channels (the last are 0), while the
 * tile before is multiplied.
 *
 * k runs over (row of the window, groups of four columns, channel). The order of k within a fragment is free as long as both operands
 * have it: thread t of a row takes column t of the group with all its channels, which is one 8-byte read. Likewise n is ordered so
 * that a thread has 8 results side by side.
 *
 * Macros: IN_TYPE (MX_F16, MX_BF16) OUT_TYPE BIAS_TYPE HAS_BIAS; IN_C (1 to 3) OUT_C (a multiple of 32); IMG_H IMG_W OUT_H OUT_W
 * KERNEL_H KERNEL_W STRIDE_H STRIDE_W PAD_H PAD_W; X_N X_C X_H X_W: strides; C_AT(z, row, col), EPILOGUE, EPILOGUE_PARAMS, PDL, B_CONST
 * as in gemm.cu. Weights: [OUT_C][KERNEL_H][KERNEL_W][4]. Grid: any number of blocks up to `tiles`; block: THREADS. Shared memory:
 * SMEM_BYTES. */

#define WARPS 4
#define THREADS (WARPS * 32)
#define ROWS 2 /* of results for a warp */
#define TH (WARPS * ROWS)
#define TW 16
#define QUADS ((KERNEL_W + 3) / 4)
#define STEPS (KERNEL_H * QUADS)
#define PATCH_H ((TH - 1) * STRIDE_H + KERNEL_H)
#define PATCH_W ((TW - 1) * STRIDE_W + QUADS * 4)
#define PATCH (PATCH_H * PATCH_W)
#define PIXELS ((PATCH + THREADS - 1) / THREADS)
#define WEIGHTS (STEPS * OUT_C * 4)
#define SMEM_BYTES ((WEIGHTS + PATCH) * 8)
#define TILES_X ((OUT_W + TW - 1) / TW)
#define TILES_Y ((OUT_H + TH - 1) / TH)
#define NT (OUT_C / 8)
#ifndef MIN_CTAS
#define MIN_CTAS 3
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

extern "C" __global__ void __launch_bounds__(THREADS, MIN_CTAS)
    kiln_conv_stem(const mx_u16 *x, const uint2 *w, void *__restrict__ y, BIAS_PARAM, int tiles EPILOGUE_PARAMS) {
  extern __shared__ __align__(16) unsigned char smem[];
  uint2 *const weights = (uint2 *)smem, *const patch = weights + WEIGHTS;
  const int tid = threadIdx.x, lane = tid & 31, warp = tid >> 5, g = lane >> 2, t = lane & 3;
#if !B_CONST
  mx_grid_wait();
#endif
  for (int i = tid; i < WEIGHTS; i += THREADS) {
    const int n = i / 4 % OUT_C, step = i / (4 * OUT_C), j = n / 8, e = n % 8, column = step % QUADS * 4 + i % 4;
    const int channel = j / 4 * 32 + e / 2 * 8 + j % 4 * 2 + e % 2;
    const bool inside = column < KERNEL_W; /* what is not becomes 0 */
    mx_copy_async<8>(mx_shared(weights + i), w + (channel * KERNEL_H + step / QUADS) * KERNEL_W + (inside ? column : 0), inside);
  }
  mx_commit();
  mx_grid_wait();

  auto place = [&](int tile, int &image, int &oy, int &ox) {
    image = tile / (TILES_X * TILES_Y);
    oy = tile / TILES_X % TILES_Y * TH;
    ox = tile % TILES_X * TW;
  };
  uint2 next[PIXELS];
  auto load = [&](int tile) {
    int image, oy, ox;
    place(tile, image, oy, ox);
    const mx_u16 *from = x + (long long)image * X_N;
#pragma unroll
    for (int i = 0; i < PIXELS; i++) {
      const int p = tid + i * THREADS, row = oy * STRIDE_H - PAD_H + p / PATCH_W, col = ox * STRIDE_W - PAD_W + p % PATCH_W;
      next[i] = make_uint2(0, 0);
      if (p < PATCH && (mx_u32)row < IMG_H && (mx_u32)col < IMG_W) {
        const mx_u16 *at = from + row * (long long)(X_H) + col * (long long)(X_W);
        next[i].x = at[0];
        if (IN_C > 1) next[i].x |= (mx_u32)at[X_C] << 16;
        if (IN_C > 2) next[i].y = at[2 * (X_C)];
      }
    }
  };

  int tile = blockIdx.x;
  if (tile < tiles) load(tile);
  mx_wait<0>();
  for (; tile < tiles; tile += gridDim.x) {
    __syncthreads(); /* nobody reads the tile before any more */
#pragma unroll
    for (int i = 0; i < PIXELS; i++)
      if (tid + i * THREADS < PATCH) patch[tid + i * THREADS] = next[i];
    __syncthreads();
    if (tile + gridDim.x < tiles) load(tile + gridDim.x);

    float acc[ROWS][NT][4];
#pragma unroll
    for (int r = 0; r < ROWS; r++)
#pragma unroll
      for (int j = 0; j < NT; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) acc[r][j][e] = 0.0f;
#pragma unroll 2
    for (int kh = 0; kh < KERNEL_H; kh++) {
#pragma unroll
      for (int quad = 0; quad < QUADS; quad++) {
        mx_u32 a[ROWS][4];
#pragma unroll
        for (int r = 0; r < ROWS; r++)
#pragma unroll
          for (int h = 0; h < 2; h++) {
            uint2 q = patch[((warp * ROWS + r) * STRIDE_H + kh) * PATCH_W + (g + h * 8) * STRIDE_W + quad * 4 + t];
            if (quad * 4 + t >= KERNEL_W) q = make_uint2(0, 0); /* not of the window: it may be infinite */
            a[r][h] = q.x;
            a[r][2 + h] = q.y;
          }
#pragma unroll
        for (int j = 0; j < NT; j++) {
          const uint2 b = weights[((kh * QUADS + quad) * OUT_C + j * 8 + g) * 4 + t];
#pragma unroll
          for (int r = 0; r < ROWS; r++) mx_mma<IN_TYPE>(acc[r][j], a[r], b.x, b.y);
        }
      }
    }

    int image, oy, ox;
    place(tile, image, oy, ox);
#pragma unroll
    for (int b = 0; b < OUT_C / 32; b++) {
      const int n = b * 32 + t * 8;
#if HAS_BIAS
      float q[8];
      mx_load<BIAS_TYPE, 8>(bias, n, q);
#endif
#pragma unroll
      for (int r = 0; r < ROWS; r++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
          const int line = oy + warp * ROWS + r, col = ox + g + h * 8;
          if (line >= OUT_H || col >= OUT_W) continue;
          const long long row = ((long long)image * OUT_H + line) * OUT_W + col;
          float v[8];
#pragma unroll
          for (int i = 0; i < 8; i++) {
            v[i] = acc[r][b * 4 + i / 2][h * 2 + i % 2];
#if HAS_BIAS
            v[i] += q[i];
#endif
          }
          EPILOGUE(v, 0, row, n)
          mx_store<OUT_TYPE, 8>(y, C_AT(0LL, row, n), v);
        }
    }
  }
}
