/* Engine bytes that cannot change, and copies of them that may: each copy has an address of its own but shares the
 * memory until somebody writes to it, so a tensor over a copy costs nothing and may be saved, read or spoilt without
 * touching the engine. */
#ifndef KILN_TORCH_OP_BLOB_H
#define KILN_TORCH_OP_BLOB_H

#include <stdbool.h>
#include <stddef.h>

typedef struct blob {
  const void *data; /* page-aligned, read-only */
  size_t size;
  int file; /* of the memory behind `data`; -1: plain memory, whose copies are real */
} blob;

/* A blob with these bytes. False: out of memory. */
bool blob_create(const void *bytes, size_t size, blob *out);
void blob_destroy(blob *b);
/* A writable copy, or NULL. The blob need not outlive it. */
void *blob_copy(const blob *b);
void blob_copy_free(void *copy, size_t size);

#endif
