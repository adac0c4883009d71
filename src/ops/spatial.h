/* Shared by convolution, pooling and resize: activations with 1 to 3 spatial dimensions, as [N, C, spatial...] or
 * [N, spatial..., C]; and buffers of doubles for the reference kernels of heavy operators. */
#ifndef KILN_OPS_SPATIAL_H
#define KILN_OPS_SPATIAL_H

#include "import/lower.h"
#include "ops/infer.h"
#include "ops/op.h"
#include "ops/ref.h"

enum { SPATIAL_MAX = 3 };

/* ---- inference --------------------------------------------------------------------------------------------------- */

/* The list attribute `name` must have `count` constants in [min, 2^30]. */
kiln_status spatial_ints(const node *n, const char *name, int count, int64_t min, int64_t *out);
/* Operand 0 is [N, C, 1 to 3 sizes]: the number of sizes, and where channels and the first size are. */
kiln_status spatial_axes(const node *n, bool channels_last, int *out_count, int *out_channel, int *out_first);

/* ---- concrete tensors -------------------------------------------------------------------------------------------- */

typedef struct spatial { /* sizes and strides (in elements) of a concrete tensor, missing dimensions as 1 and 0 */
  int count;
  int64_t batch, channels, size[SPATIAL_MAX];
  int64_t batch_stride, channel_stride, stride[SPATIAL_MAX];
} spatial;
spatial spatial_of(const tensor *t, bool channels_last);
/* A list attribute, missing places filled. */
void spatial_attr(const kernel_args *a, const char *name, int64_t fill, int64_t *out);

/* Next index of a box in row-major order; false after the last. Start at zeros; empty boxes have no first index. */
bool spatial_next(const int64_t *size, int64_t *index);
static inline bool spatial_empty(const int64_t *size) { return size[0] <= 0 || size[1] <= 0 || size[2] <= 0; }

/* All elements in row-major order as doubles; release with mem_free. NULL `t` data gives NULL. */
kiln_status ref_to_doubles(const tensor *t, double **out);
void ref_from_doubles(const double *values, const tensor *t);

/* ---- lowering ---------------------------------------------------------------------------------------------------- */

/* Operand without a batch dimension (rank `rank` - 1): a batch of 1 in front. *added says whether. */
value *spatial_batched(lower_call *c, value *x, int rank, bool *added);
value *spatial_unbatched(lower_call *c, value *y, bool added);
/* An int list argument as constants: one value stands for all; an empty list gives `fallback` (or an error if that is
 * NULL). */
kiln_status spatial_arg(lower_call *c, const char *name, int count, const int64_t *fallback, int64_t *out);

#endif
