/* Lowerings of PyTorch calls that index.c lists. */
#ifndef KILN_OPS_INDEX_LOWER_H
#define KILN_OPS_INDEX_LOWER_H

#include "ops/lowering.h"

kiln_status lower_index_select(lower_call *c);
kiln_status lower_gather(lower_call *c);
kiln_status lower_take_along_dim(lower_call *c);
kiln_status lower_index(lower_call *c);
kiln_status lower_index_put(lower_call *c);
kiln_status lower_put(lower_call *c);
kiln_status lower_masked_index(lower_call *c);
kiln_status lower_masked_scatter(lower_call *c);
kiln_status lower_take(lower_call *c);
kiln_status lower_scatter(lower_call *c);
kiln_status lower_scatter_add(lower_call *c);
kiln_status lower_index_add(lower_call *c);
kiln_status lower_index_copy(lower_call *c);
kiln_status lower_index_fill(lower_call *c);
kiln_status lower_index_reduce(lower_call *c);
kiln_status lower_slice_scatter(lower_call *c);
kiln_status lower_select_scatter(lower_call *c);
kiln_status lower_narrow_at(lower_call *c);
kiln_status lower_nonzero(lower_call *c);
kiln_status lower_where_true(lower_call *c);
kiln_status lower_masked_select(lower_call *c);
kiln_status lower_unique(lower_call *c);
kiln_status lower_repeat_index(lower_call *c);
kiln_status lower_repeat_by(lower_call *c);
kiln_status lower_one_hot(lower_call *c);
kiln_status lower_histc(lower_call *c);

#endif
