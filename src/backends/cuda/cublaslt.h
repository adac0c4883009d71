/* Matrix products by cuBLASLt, where it is installed: tactics that only the tuner chooses. */
#ifndef KILN_BACKENDS_CUDA_CUBLASLT_H
#define KILN_BACKENDS_CUDA_CUBLASLT_H

#include "backends/cuda/gemm.h"
#include "backends/cuda/loader.h"

/* Variants of rows from here on are the library's: its heuristic's best algorithm, the next one, ... */
enum { CUBLASLT_VARIANT = 100, CUBLASLT_ALGORITHMS = 8 };

/* Epilogues that libraries know. */
typedef enum library_activation {
  LIBRARY_NONE,
  LIBRARY_RELU,
  LIBRARY_GELU_TANH, /* up to here cuBLASLt has them */
  LIBRARY_GELU,
  LIBRARY_SILU,
  LIBRARY_SIGMOID
} library_activation;
/* Operands of the node; 0: there is none. */
typedef struct library_epilogue {
  int scale, shift;              /* f32, one for each channel: the result times one, plus the other */
  int residual;                  /* like the result, is added, */
  library_activation activation; /* and then this is applied */
} library_epilogue;
bool library_epilogue_of(const node *n, library_epilogue *out);

typedef struct cublaslt_plan {
  const cuda_cublaslt *library; /* NULL: it has no algorithm, or the operands do not lie as it wants */
  void *handle;
  cublaslt_matmul matmul;
  cublaslt_layout a, b, c, d;
  cublaslt_algorithm algorithm;
  size_t workspace_at, workspace_bytes;
  int residual; /* operand that is added; -1: none */
  bool bias;
} cublaslt_plan;

/* Strides from matrix to matrix of a batch, in elements. */
typedef struct cublaslt_batch {
  int64_t a, b, d;
} cublaslt_batch;

/* For rows: */
kiln_status cublaslt_needs(device *d);
void cublaslt_close(device *d);
bool cublaslt_fits(const node *n, const char **why);

/* The kernel's variant says which algorithm. `batch` NULL: one product. */
kiln_status cublaslt_plan_make(kernel_prep *p, const gemm_problem *q, const cublaslt_batch *batch, cublaslt_plan *out);
kiln_status cublaslt_plan_run(const kernel_args *args, cublaslt_plan *plan, const void *a, const void *b,
                              const void *bias);

#endif
