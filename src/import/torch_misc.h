/* Rows of PyTorch operators that belong to no family: conversions, copies and other things that are mostly not
 * there. */
#ifndef KILN_IMPORT_TORCH_MISC_H
#define KILN_IMPORT_TORCH_MISC_H

#include "import/lower.h"

extern const torch_row torch_misc[];

/* Functions that PyTorch itself writes in terms of others (torch_composite.c). */
kiln_status lower_diag(lower_call *c);
kiln_status lower_diag_embed(lower_call *c);
kiln_status lower_diagonal_scatter_call(lower_call *c);
kiln_status lower_fill_diagonal(lower_call *c);
kiln_status lower_elementwise_loss(lower_call *c);
kiln_status lower_nll_loss(lower_call *c);
kiln_status lower_cross_entropy_loss(lower_call *c);
kiln_status lower_search(lower_call *c);
kiln_status lower_is_in(lower_call *c);
kiln_status lower_median(lower_call *c);
kiln_status lower_as_strided_scatter(lower_call *c);
kiln_status lower_weight_norm(lower_call *c);
kiln_status lower_kron(lower_call *c);
kiln_status lower_dist(lower_call *c);
kiln_status lower_ldexp(lower_call *c);
kiln_status lower_cross(lower_call *c);
kiln_status lower_multi_dot(lower_call *c);
kiln_status lower_window(lower_call *c);
kiln_status lower_matrix_exp(lower_call *c);
kiln_status lower_histogram(lower_call *c);
kiln_status lower_multilabel_margin_loss(lower_call *c);

#endif
