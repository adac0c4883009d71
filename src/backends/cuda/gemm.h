/* Matrix products on GPUs: what linear, matmul and convolution have in common. A problem is described once; the planner
 * orders ways to cut it (tile, split of k) by a cost model, writes the kernel text and launches it. */
#ifndef KILN_BACKENDS_CUDA_GEMM_H
#define KILN_BACKENDS_CUDA_GEMM_H

#include "backends/cuda/codegen.h"
#include "backends/cuda/cuda.h"

/* How a kernel is cut; see the macros of its text. bk counts 2-byte elements. */
typedef enum gemm_kind { GEMM_MMA, GEMM_WGMMA, GEMM_TMA } gemm_kind; /* gemm.cu, gemm.cu, gemm_tma.cu */
typedef struct gemm_tile {
  short bm, bn, bk, stages, warps_m, warps_n, warps_k, blocks;
  gemm_kind kind;
} gemm_tile;

/* An implicit convolution: A is a channels-last image. */
typedef struct gemm_image {
  const char *macros;                      /* of its geometry */
  int64_t images, height, width, channels; /* of A; channels of one group */
  int64_t taps;
  int64_t pad[2], pad_end[2], stride[2], reach[2]; /* height, width; reach: dilation * (kernel - 1) */
} gemm_image;

/* C[z][m][n] = sum of A[z][m][k] * B[z][k][n] (+ bias[n]). Pitches in elements. */
typedef struct gemm_problem {
  kiln_dtype dtype;
  int64_t m, n, k, batches;
  int64_t lda, ldb;
  bool b_kn;                       /* B is [K, N]; else [N, K] */
  const char *a_offset, *b_offset; /* expressions in z, of type long long */
  int vec_a, vec_b, vec_c;
  bool a_aligned, b_aligned; /* addresses are multiples of 16 */
  bool has_bias, bias_constant;
  const char *out_row, *out_col, *bias_offset; /* in z, row, col: where a result is in the node's result seen as rows */
  bool b_constant;                             /* B is a weight */
  const gemm_image *image;                     /* NULL: A is a matrix */
  int64_t a_elements;                          /* that A has in memory */
  int64_t bias_period; /* > 0: columns are several times those of the bias, and elsewhere (out_row reads `col`) */
  int64_t groups;      /* > 0: rows are of so many groups, each with a B (batch z of it); their ends are: */
  kiln_dtype ends_dtype;
  int64_t ends_step;
} gemm_problem;

typedef struct gemm_plan {
  const cuda_function *function, *zero;
  unsigned grid[2], threads;
  size_t shared;
  size_t counters_at, counters, partials_at; /* of the workspace; counters 0: none */
  int m;
  bool overlap;
  bool tma;             /* the tensor maps of the operands are made from: */
  gemm_problem problem; /* (`image` is a copy) */
  gemm_image image;
  int box_a, box_b;
  bool ordered; /* the map of B has its rows in another order */
  bool classes; /* that of A takes every eighth row */
} gemm_plan;

/* The `rank`-th best way (0: best); ranks beyond the last way give the last. */
kiln_status gemm_plan_make(kernel_prep *p, const gemm_problem *problem, int rank, gemm_plan *out);
kiln_status gemm_plan_run(const kernel_args *args, const gemm_plan *plan, const void *a, const void *b,
                          const void *bias);
/* The same for a product in groups. */
kiln_status gemm_plan_run_groups(const kernel_args *args, const gemm_plan *plan, const void *a, const void *b,
                                 const void *ends);

/* An operand copied to contiguous workspace before the kernel runs. */
typedef struct dense_copy {
  const cuda_function *function; /* NULL: not needed */
  int64_t blocks;
  size_t at;
} dense_copy;
/* `view`: an operand, maybe with its dimensions in another order. */
kiln_status dense_copy_prepare(kernel_prep *p, const tensor *view, dense_copy *out);
/* Data of operand `operand`, copied if need be. */
kiln_status dense_copy_run(const kernel_args *a, const dense_copy *c, int operand, const void **out);

/* Appends `bytes` to the workspace. */
kiln_status workspace_reserve(kernel_prep *p, size_t bytes, size_t *out_at);
/* Is `t` a matrix whose rows are all dimensions but the last, with one pitch and contiguous columns? */
bool cuda_matrix(const tensor *t, int64_t *out_pitch);
/* Largest power of two up to `most` elements of `size` bytes that fits `alignment` bytes and divides all of
 * numbers[0..count). */
int cuda_vector(int most, int size, int alignment, int count, const int64_t *numbers);
/* The same for the result of the node: its width, strides and alignment. `columns`: a group's. */
int cuda_result_vector(const kernel_prep *p, int most, int64_t columns);
/* A bias that is read in vectors as wide as the results may narrow these. */
int cuda_bias_vector(const kernel_prep *p, int operand, int vector);
const char *cuda_mx_type(kiln_dtype d); /* "MX_F16" */

#endif
