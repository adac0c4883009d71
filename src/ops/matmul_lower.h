/* Lowerings of PyTorch's contractions that are more than one matmul: tensordot, embedding_bag and trilinear forms. */
#ifndef KILN_OPS_MATMUL_LOWER_H
#define KILN_OPS_MATMUL_LOWER_H

#include "ops/lowering.h"

/* a @ b, ranks of at least 2: linear where b is a constant matrix, else matmul. */
value *matmul_product(builder *b, value *x, value *y);

kiln_status lower_tensordot(lower_call *c);
kiln_status lower_embedding_bag(lower_call *c);
kiln_status lower_trilinear(lower_call *c);

#endif
