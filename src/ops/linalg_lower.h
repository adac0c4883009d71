/* How PyTorch calls linear algebra: rows for ops/linalg.c, one array for each of its operators. */
#ifndef KILN_OPS_LINALG_LOWER_H
#define KILN_OPS_LINALG_LOWER_H

#include "ops/lowering.h"

extern const torch_row linalg_torch_infer_lu[], linalg_torch_infer_pivot_order[], linalg_torch_infer_cholesky[],
    linalg_torch_infer_solve_triangular[], linalg_torch_infer_qr_factor[], linalg_torch_infer_householder[],
    linalg_torch_infer_eigh[], linalg_torch_infer_eig[], linalg_torch_infer_svd[];

/* Result 0: the norm of the matrices in two dimensions. `order` 0: nuclear. */
kiln_status lower_matrix_norm(lower_call *c, value *x, double order, int row_axis, int column_axis, bool keep);

#endif
