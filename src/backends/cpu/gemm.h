/* The one matrix micro-kernel family that linear, matmul, convolution and recurrent layers are made of.
 *
 * C[m, n] = bias[n] + sum over taps t and k of A_t[m][k] * B[t][k][n]. Rows of A are given by pointers (one for each
 * tap and row), so a convolution needs no im2col: its taps are the places of the filter window, as in "The Indirect
 * Convolution Algorithm" (Dukhan, 2019). B is packed in panels of NR columns: [N / NR][taps][k][NR], zero-filled at the
 * right; C has unit column stride and any row pitch, so it may be a slice of a concatenation. */
#ifndef KILN_BACKENDS_CPU_GEMM_H
#define KILN_BACKENDS_CPU_GEMM_H

#include "backends/backend.h"
#include "backends/cpu/epilogue.h"
#include "backends/cpu/kernels.h"
#include "base/cpu_features.h"

enum { GEMM_MAX_MR = 14, GEMM_MAX_NR = 32 };

/* mr rows of C over n columns. */
typedef struct gemm_strip {
  const float *const *a; /* [taps][mr], each kc floats */
  const int32_t *tap;    /* which tap of B each of `taps` is; NULL: 0, 1, 2, ... */
  int64_t taps, kc;
  int64_t a_offset; /* added to every pointer of `a` (the group's first channel) */
  const float *b;
  int64_t b_k, b_tap, b_panel; /* floats between k's, taps and panels; rows not in panels have b_panel = NR */
  float *c;
  int64_t ldc, n;
  float *const *c_rows; /* not NULL: row i of C is at c_rows[i] + c_col instead */
  int64_t c_col;
  const float *bias; /* NULL: none */
  bool accumulate;   /* C += instead (bias must be NULL) */
  bool fetch;        /* B is not in L2: asks for it ahead of its use */
  float lo, hi;      /* the result is clamped to this */
} gemm_strip;
typedef void (*gemm_strip_fn)(const gemm_strip *s, int mr);

typedef struct gemm_isa {
  int mr, nr;
  gemm_strip_fn strip;
} gemm_isa;
extern const gemm_isa gemm_isa_scalar, gemm_isa_avx2, gemm_isa_avx512;
const gemm_isa *gemm_isa_of(int isa); /* a cpu_isa */

/* Floats of a packed B of N columns and K = taps * kc; false on overflow. */
bool gemm_packed_floats(int64_t k, int64_t n, int nr, size_t *out);
/* Packs panel `panel`: element (t, k, n) is at plain[t * s_tap + k * s_k + n * s_n]. */
void gemm_pack_panel(const float *plain, int64_t s_tap, int64_t s_k, int64_t s_n, int64_t taps, int64_t kc, int64_t n,
                     int nr, int64_t panel, float *packed);

/* ---- The driver: blocks, threads, epilogues ---------------------------------------------------------------------- */

typedef struct gemm_job gemm_job;
/* Fills a[t * mr + i] for rows m0 .. m0 + mr of batch `batch`. `scratch` is the worker's row_scratch bytes, 64-byte
 * aligned. */
typedef void (*gemm_rows_fn)(const gemm_job *j, int64_t batch, int64_t m0, int mr, const float **a, void *scratch);

/* A batch of products. prepare fills what it knows and calls gemm_job_plan; run copies it, sets the pointers and calls
 * gemm_job_run. */
struct gemm_job {
  const gemm_isa *isa;
  int64_t batches, m, n; /* n: columns of all groups */
  int64_t taps, kc, groups;
  gemm_rows_fn rows; /* NULL: row m of batch b is at a + a_batch[b] + m * lda */
  /* NULL: row m of C of batch b is at c + c_batch[b] + m * ldc. Else fills pointers to rows (column 0); no epilogue but
   * clamping then. */
  void (*out_rows)(const gemm_job *j, int64_t batch, int64_t m0, int mr, float **c);
  const void *user;
  size_t row_scratch; /* bytes for `rows` */
  const float *a;
  int64_t lda;
  const int64_t *a_batch, *b_batch, *c_batch; /* offsets in floats; NULL: 0 */
  const int32_t *tap;
  /* B packed for isa->nr: panels of all groups' columns, b_panel floats each; or plain (pack is true): element (t, k,
   * n) at b[t * s_tap + k * s_k + n * s_n], which every task packs for itself, or reads in place when m is small and
   * s_n is 1. */
  const float *b;
  int64_t b_tap, b_panel;
  bool b_by_group; /* panels hold one group's columns; group g is at k = g * kc within each tap (gemm_bt) */
  bool pack;
  int64_t s_tap, s_k, s_n;
  const float *bias;
  float *c;
  int64_t ldc;
  /* Set by gemm_job_plan. */
  int64_t m_block, n_block, m_tasks, n_tasks;
  bool fetch_each; /* a block's columns of B do not stay in L2 from strip to strip */
  epilogue *chain; /* NULL when lo and hi do all of it */
  float lo, hi;
  int64_t epilogue_row; /* row of the epilogue's matrix that row 0 of batch b is: epilogue_row + b * m */
  size_t scratch_each;  /* bytes for one thread */
  const kernel_args *args;
  char *scratch;
};

/* Compiles the node's epilogue: bounds to clamp to, or a chain to apply (else NULL) with bounds that change nothing. */
kiln_status gemm_epilogue(kernel_prep *p, epilogue **out_chain, float *out_lo, float *out_hi);
/* Compiles the node's epilogue, chooses blocks for p->threads and computes scratch_each. */
kiln_status gemm_job_plan(gemm_job *j, kernel_prep *p);
size_t gemm_job_scratch(const gemm_job *j, int threads); /* bytes that `scratch` must have */
void gemm_job_run(const gemm_job *j, pool *workers);

/* ---- Tensors as matrices ----------------------------------------------------------------------------------------- */

/* Is `t` a matrix whose columns are its last `inner` dimensions, contiguous, and whose rows (all other dimensions) have
 * one pitch? */
bool tensor_as_matrix(const tensor *t, int inner, int64_t *out_pitch);
/* Between any strides and contiguous memory, f32. */
void tensor_gather_f32(const tensor *from, float *to, pool *workers);
void tensor_scatter_f32(const float *from, const tensor *to, pool *workers);
bool node_operand_f32(const node *n, int index); /* present and f32 */
/* All own operands and results are f32, and the epilogue (if any) can be done. */
bool gemm_fits_f32(const node *n, const char **why);
/* Data of optional operand `index`, or NULL. */
const float *gemm_optional(const kernel_args *a, int index);

#endif
