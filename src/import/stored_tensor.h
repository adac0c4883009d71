/* A tensor as PyTorch's archives store it: a view, given by offset, sizes and strides, of a storage, which is an entry of raw bytes. */
#ifndef KILN_IMPORT_STORED_TENSOR_H
#define KILN_IMPORT_STORED_TENSOR_H

#include "format/zip.h"
#include "graph/graph.h"

typedef struct stored_tensor {
  const char *what;  /* names it in texts: "weight `fc.bias`" */
  const char *entry; /* of the storage */
  tensor_type type;  /* static */
  int64_t strides[KILN_MAX_RANK];
  int64_t offset; /* in elements, as the strides */
  int64_t numel;  /* these two by stored_tensor_measure */
  int64_t reach;  /* elements of the storage that it touches, from 0 */
} stored_tensor;

/* Fills numel and reach from sizes, strides and offset, none of which may be negative. KILN_INVALID_FILE if they overflow. */
kiln_status stored_tensor_measure(stored_tensor *t);
/* Complex numbers are pairs of real ones: a last dimension more, of 2. Measures it too. KILN_UNSUPPORTED if there is no room for it. */
kiln_status stored_tensor_as_pairs(stored_tensor *t);
/* The same for all that describe the same memory in the same way, in `a`; NULL when out of memory. */
char *stored_tensor_key(const stored_tensor *t, arena *a);
/* Its value in `g`: borrowed from the archive's bytes where it is contiguous and aligned there, else copied. An empty tensor needs no
 * entry. */
kiln_status stored_tensor_constant(const stored_tensor *t, const zip *z, graph *g, value **out);

#endif
