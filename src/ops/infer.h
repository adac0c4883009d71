/* Helpers for shape inference. All failures name the operator, the operand and what was expected. */
#ifndef KILN_OPS_INFER_H
#define KILN_OPS_INFER_H

#include "ops/op.h"

/* "conv: operand w: ..." */
#define INFER_FAIL(n, ...) infer_fail((n), __FILE__, __LINE__, __VA_ARGS__)
kiln_status infer_fail(const node *n, const char *file, int line, const char *fmt, ...) KILN_PRINTF(4, 5);

static inline const tensor_type *in_type(const node *n, int i) { return &n->inputs[i].v->type; }
kiln_status infer_rank_between(const node *n, int operand, int min, int max);
kiln_status infer_float(const node *n, int operand);
/* Normalizes a possibly negative axis: 0 <= *axis < rank (rank 0 allows 0 and -1). */
kiln_status infer_axis(const node *n, const char *attribute, int64_t axis, int rank, int *out);
/* a == b for sure, or provably not (an error that names `what`), or unknown: assumed equal, as PyTorch's guards
 * promise. */
kiln_status infer_same_dim(graph *g, const node *n, const char *what, dim a, dim b);
/* NumPy broadcasting of two shapes. */
kiln_status infer_broadcast(graph *g, const node *n, const tensor_type *a, const tensor_type *b, tensor_type *out);
/* Output 0 gets the type of operand 0. */
kiln_status infer_same(graph *g, node *n);
void set_out(node *n, int i, kiln_dtype dtype, int rank, const dim *dims);
/* (size + 2*pad - dilation*(kernel-1) - 1 [+ stride-1 if ceil]) // stride + 1, and PyTorch's rule that with ceil the
 * last window must start inside the input or its left padding. */
dim infer_window(graph *g, dim size, int64_t kernel, int64_t stride, int64_t pad_before, int64_t pad_after,
                 int64_t dilation, bool ceil);

#endif
