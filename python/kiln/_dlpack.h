/* DLPack, version 1 (dmlc/dlpack, dlpack.h). */
#ifndef KILN_PYTHON_DLPACK_H
#define KILN_PYTHON_DLPACK_H

#include <kiln/kiln.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct dl_version {
  uint32_t major, minor;
} dl_version;

typedef struct dl_managed { /* DLManagedTensorVersioned; kiln_tensor has DLTensor's layout */
  dl_version version;
  void *owner;
  void (*release)(struct dl_managed *);
  uint64_t flags;
  kiln_tensor tensor;
} dl_managed;

typedef struct dl_managed_old { /* DLManagedTensor */
  kiln_tensor tensor;
  void *owner;
  void (*release)(struct dl_managed_old *);
} dl_managed_old;

typedef void (*dl_error_fn)(void *user, const char *kind, const char *message);

typedef struct dl_exchange { /* DLPackExchangeAPI */
  dl_version version;
  const void *previous;
  int (*allocate)(kiln_tensor *prototype, dl_managed **out, void *user, dl_error_fn error);
  int (*managed_from_object)(void *object, dl_managed **out);
  int (*object_from_managed)(dl_managed *tensor, void **out_object); /* takes the tensor */
  int (*view_from_object)(void *object, kiln_tensor *out);           /* lends the object's memory */
  int (*stream)(int32_t device, int32_t id, void **out);
} dl_exchange;

enum { DL_FLOAT = 2, DL_COMPLEX = 5 };

/* Turns a complex tensor into one of pairs. The shape and strides are copied to where there is room for one more. False: too many
 * dimensions. */
bool dl_as_pairs(kiln_tensor *t, int64_t *shape, int64_t *strides);
/* The other way round, for a dense tensor. */
kiln_tensor dl_as_complex(const kiln_tensor *t);
/* Sets the type of elements of `size` bytes with a format of the buffer protocol (NULL: bytes). False: there is none. */
bool dl_dtype_from_format(const char *format, ptrdiff_t size, kiln_tensor *t);

#endif
