/* What lowerings of many families need on top of import/lower.h. Calls that give values return NULL when one of theirs
 * is NULL. */
#ifndef KILN_OPS_LOWERING_H
#define KILN_OPS_LOWERING_H

#include "import/lower.h"

/* For the values that a lowering must look into: fails with the graph's failure, or says that the argument is
 * missing. */
#define LOWER_NEED(c, v)                        \
  do {                                          \
    if (!(v)) return lowering_missing((c), #v); \
  } while (0)
kiln_status lowering_missing(lower_call *c, const char *what);
/* call_tensor, which must be there. */
kiln_status lowering_tensor(lower_call *c, const char *name, value **out);
/* Is argument `name` a Python number (not a tensor)? */
bool lowering_is_number(const lower_call *c, const char *name);
bool lowering_is_float_number(const lower_call *c, const char *name);
/* Dtype argument, `fallback` for None; fails for a dtype that Kiln lacks. */
kiln_status lowering_dtype(lower_call *c, const char *name, kiln_dtype fallback, kiln_dtype *out);

/* Axes: normalized, in range, no duplicates. Rank 0 takes 0 and -1. */
kiln_status lowering_wrap_axis(lower_call *c, const char *name, dim axis, int rank, int *out);
kiln_status lowering_axis(lower_call *c, const char *name, int rank, int *out);
/* An int, a list, or None; None and (if `empty_is_all`) an empty list mean all axes. */
kiln_status lowering_axes(lower_call *c, const char *name, int rank, bool empty_is_all, int64_t *out, int *count);
/* A list of sizes, -1 allowed nowhere. Fails for more than KILN_MAX_RANK. */
kiln_status lowering_sizes(lower_call *c, const char *name, dim *out, int *count);

dim lowering_min(dim_table *t, dim a, dim b); /* simplified where the ranges decide */
dim lowering_max(dim_table *t, dim a, dim b);
/* Python's index: negative ones count from the end. */
dim lowering_wrap_index(dim_table *t, dim index, dim size);

value *lowering_float(builder *b, value *v); /* integers and bool become f32 */
value *lowering_slice(builder *b, value *v, int axis, dim start, dim end, int64_t step); /* Python's rules for bounds */
value *lowering_select(builder *b, value *v, int axis, dim index);
value *lowering_unsqueeze(builder *b, value *v, int axis);
/* Expands all to their common shape, in place; a NULL leaves them as they are. */
void lowering_broadcast(builder *b, int count, value **list);
value *lowering_squeeze(builder *b, value *v, int axis); /* drops that axis, whatever its size is said to be */
value *lowering_move_axis(builder *b, value *v, int from, int to);
value *lowering_scalar_like(builder *b, const value *like, double v); /* rank 0, dtype of `like` */
value *lowering_full(builder *b, kiln_dtype dtype, int rank, const dim *dims, double v);
value *lowering_iota(builder *b, dim count); /* i64 0, 1, ... count - 1 */

#endif
