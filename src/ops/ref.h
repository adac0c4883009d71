/* Helpers for reference kernels: any dtype, any strides, slow and plain. */
#ifndef KILN_OPS_REF_H
#define KILN_OPS_REF_H

#include "ops/op.h"

/* Element at `offset` (in elements from data). Integers beyond 2^53 need the _int forms. Stores round to nearest even,
 * saturate nothing (as C casts; NaN and out-of-range floats to integers give what PyTorch's CPU gives on x86), bool
 * stores x != 0. */
double ref_load(const tensor *t, int64_t offset);
void ref_store(const tensor *t, int64_t offset, double v);
int64_t ref_load_int(const tensor *t, int64_t offset);
void ref_store_int(const tensor *t, int64_t offset, int64_t v);
/* Copies one element, converting dtype the way Tensor.to does. */
void ref_copy_element(const tensor *from, int64_t from_offset, const tensor *to, int64_t to_offset);

float half_to_float(uint16_t h);
uint16_t float_to_half(float f);
float bf16_to_float(uint16_t h);
uint16_t float_to_bf16(float f);

/* Walks all indices of `shape` in row-major order: `for (ref_iter it = ref_begin(rank, shape); ref_valid(&it);
 * ref_next(&it))`. */
typedef struct ref_iter {
  int32_t rank;
  int64_t index[KILN_MAX_RANK];
  int64_t shape[KILN_MAX_RANK];
  int64_t linear, count;
} ref_iter;
ref_iter ref_begin(int rank, const int64_t *shape);
void ref_next(ref_iter *it);
static inline bool ref_valid(const ref_iter *it) { return it->linear < it->count; }
/* Offset of it->index in `t`, whose shape is broadcast to the iterator's (aligned at the right; size-1 dims repeat). */
int64_t ref_offset(const tensor *t, const ref_iter *it);
int64_t tensor_offset(const tensor *t, const int64_t *index);

#endif
