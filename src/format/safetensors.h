/* Safetensors files in memory: a JSON header and one span of bytes per tensor. */
#ifndef KILN_FORMAT_SAFETENSORS_H
#define KILN_FORMAT_SAFETENSORS_H

#include "base/arena.h"
#include "base/status.h"

typedef struct safetensor {
  const char *name, *dtype_name; /* "F32", "F8_E4M3", ... */
  kiln_dtype dtype;              /* KILN_DTYPE_COUNT: a type that Kiln lacks */
  int32_t rank;
  int64_t shape[KILN_MAX_RANK];
  const void *data; /* in the file's bytes; any alignment */
  size_t size;
} safetensor;

typedef struct safetensors {
  safetensor *tensors; /* in the order of their data */
  size_t count;
  const char **metadata; /* key, value, key, value...: 2 * n_metadata texts */
  size_t n_metadata;
  arena arena;
} safetensors;

/* Borrows `bytes` until safetensors_close. */
kiln_status safetensors_open(const void *bytes, size_t size, safetensors *out_file);
void safetensors_close(safetensors *file);
const safetensor *safetensors_find(const safetensors *file, const char *name); /* NULL if absent */

#endif
