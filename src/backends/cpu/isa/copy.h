/* Strided copies (isa/movement.c), for kernels of the same instruction set. */
#ifndef KILN_BACKENDS_CPU_ISA_COPY_H
#define KILN_BACKENDS_CPU_ISA_COPY_H

#include "backends/cpu/simd/f32.h"
#include "base/threads.h"

enum { COPY_MAX_RANK = 16 };

typedef struct copy_space {
  int32_t rank;
  int64_t shape[COPY_MAX_RANK];
  int64_t to[COPY_MAX_RANK], from[COPY_MAX_RANK]; /* strides in elements; `from` may be 0 or negative */
} copy_space;

/* to[i] = from[i] for all i of the space, elements of `size` bytes (1, 2, 4 or 8). The two do not overlap. */
DECLARE_KERNEL(void, copy_strided, (pool * p, void *to, const void *from, int64_t size, const copy_space *space));

#endif
