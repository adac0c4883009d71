/* From graph nodes to CUDA C: pointwise expressions, index arithmetic, loads. */
#ifndef KILN_BACKENDS_CUDA_CODEGEN_H
#define KILN_BACKENDS_CUDA_CODEGEN_H

#include "backends/cuda/cuda.h"

/* Could this node (a pointwise operator, `cast`, or `pointwise` with its body) or block be written as text? */
bool cuda_chain_fits(const node *n, const char **why);
bool cuda_block_fits(const block *b, const char **why);

/* "float", "double", "i64" or "bool": the type of a value of this dtype inside expressions. */
const char *cuda_value_type(kiln_dtype d);
/* Expression of value type for element `element` (an expression of the storage type). */
void cuda_widen(text *t, kiln_dtype d, const char *element);
/* Expression of storage type for `v` of value type. */
void cuda_narrow(text *t, kiln_dtype d, const char *v);

/* Statements that compute the chain. `params[i]` names a variable (of value type) for each parameter of the block (or operand of the
 * node); the result's name is written to `result` (64 bytes). `unique` keeps names apart if a text has several chains. */
void cuda_chain_emit(text *t, const node *n, const char *const *params, const char *unique, char *result);
void cuda_block_emit(text *t, const block *b, const char *const *params, const char *unique, char *result);

/* An iteration space in which neighbours that all tensors walk alike are joined. Operand k < n, then the result. */
enum { CUDA_SPACE_TENSORS = 40 };
typedef struct cuda_space {
  int rank; /* at least 1 */
  int64_t shape[KILN_MAX_RANK];
  int n;
  int64_t strides[CUDA_SPACE_TENSORS][KILN_MAX_RANK];
  int64_t total;
} cuda_space;
/* Strides of `t` broadcast against `shape`. */
void cuda_broadcast_strides(const tensor *t, int rank, const int64_t *shape, int64_t *out);
void cuda_space_collapse(cuda_space *s);

/* "c0*12LL+c1*1LL": offset from coordinates c0.. with these strides (prefix names the coordinates). */
void cuda_offset(text *t, const char *prefix, int rank, const int64_t *shape, const int64_t *strides);
/* Declares prefix0.. from `index` (an expression), of type `type` ("u32" or "i64"). */
void cuda_coordinates(text *t, const char *type, const char *prefix, const char *index, int rank, const int64_t *shape);

/* Bytes that the address of operand i (or result i) is surely a multiple of, up to 16. */
int cuda_in_alignment(const kernel_prep *p, int i);
int cuda_out_alignment(const kernel_prep *p, int i);

/* A literal. */
void cuda_literal(text *t, kiln_dtype d, double v, int64_t i);

/* Moves a text into the prepare arena. */
kiln_status cuda_text_keep(kernel_prep *p, text *t, const char **out);

/* What most rows keep between prepare and run. */
typedef struct cuda_simple {
  const cuda_function *f;
  int64_t blocks;
  int threads;
  size_t shared;
  int n_in, n_out; /* tensors whose addresses are the arguments */
  int in[CUDA_SPACE_TENSORS];
} cuda_simple;
/* Compiles `t` (freed) as kernel `entry` whose arguments are the addresses of in[..] and all results, and sets p->state. */
kiln_status cuda_simple_prepare(kernel_prep *p, const char *entry, text *t, int64_t blocks, int threads, size_t shared);
kiln_status cuda_simple_run(const kernel_args *a);

/* A mean over these axes of operand 0 (bits of a mask), for rows of other operators that come to that. */
kiln_status cuda_mean_prepare(kernel_prep *p, uint32_t axes);

static inline int64_t cuda_div_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

#endif
