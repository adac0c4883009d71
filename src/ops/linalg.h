/* Linear algebra: what its reference kernels and those of GPUs share. */
#ifndef KILN_OPS_LINALG_H
#define KILN_OPS_LINALG_H

#include "ops/op.h"

/* la_<name> of ops/linalg_math.h on one matrix: how operands and results of a batch split into matrices. */
typedef struct linalg_layout {
  int64_t count;       /* of matrices */
  int64_t sizes[5];    /* `d` of the functions */
  int64_t in[2], x[3]; /* elements of each operand and result; x[k] also where there is no such result */
  int64_t total;       /* all of them */
  int flags;
} linalg_layout;

kiln_status linalg_layout_of(const kernel_args *a, linalg_layout *out);

#endif
