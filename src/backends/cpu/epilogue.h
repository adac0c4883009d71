/* Epilogues: the chain of pointwise operators that rewriting moved into an anchor (node.epilogue), applied to each tile
 * of the anchor's output while that is still in cache.
 *
 * The anchor sees its output as a matrix [rows, cols]: cols is the last output dimension, rows are all the others
 * together, so row r starts at element r * cols of a contiguous output. Operands of the chain (in[own_inputs...]) may
 * be anything that broadcasts to the output, with any strides. */
#ifndef KILN_BACKENDS_CPU_EPILOGUE_H
#define KILN_BACKENDS_CPU_EPILOGUE_H

#include "backends/backend.h"

typedef struct epilogue epilogue;

/* For kernels' fits: true if there is no epilogue, or one that epilogue_compile can do. */
bool epilogue_fits(const node *n, const char **why);

/* Compiles for the shapes and strides in `p`; allocates in p->arena. `chain` NULL gives *out NULL. */
kiln_status epilogue_compile(kernel_prep *p, const block *chain, epilogue **out);

/* True if the whole chain is max(lo, min(hi, x)) (relu, relu6, clamp), which the anchor may do itself instead of
 * calling apply. For `e` NULL: true with -inf and +inf. */
bool epilogue_clamp(const epilogue *e, float *lo, float *hi);

/* Bytes of `scratch` that one thread needs, a multiple of 64; 0 for NULL. */
size_t epilogue_scratch(const epilogue *e);

/* In place: `tile` has the anchor's values of rows row0.. and columns col0.., `ld` elements from row to row. `scratch`
 * is 64-byte aligned and used by one thread at a time. Fast when the tile is at least ~1000 elements and fits in L1.
 * [any thread] */
void epilogue_apply(const epilogue *e, const kernel_args *a, float *tile, int64_t row0, int64_t rows, int64_t col0,
                    int64_t cols, int64_t ld, void *scratch);

#endif
