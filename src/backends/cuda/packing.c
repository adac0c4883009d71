/* Orders of convolution weights: they only move elements of 2 or 4 bytes, so undoing gives the same bytes. */
#include "backends/cuda/packing.h"

#include <string.h>

#include "base/memory.h"

typedef struct weight_dims {
  int64_t a, b, taps; /* of [a, b, k...] */
  size_t size;        /* of an element */
} weight_dims;

static bool weight_dims_of(const tensor_type *t, weight_dims *d) {
  size_t taps = 1, all, bytes;
  const size_t size = kiln_dtype_size(t->dtype);
  if ((size != 2 && size != 4) || t->rank < 3 || t->rank > 5) return false;
  for (int r = 0; r < t->rank; r++) {
    if (!dim_is_const(t->dims[r]) || t->dims[r] < 0) return false;
    if (r >= 2 && !size_mul(taps, (size_t)t->dims[r], &taps)) return false;
  }
  *d = (weight_dims){t->dims[0], t->dims[1], (int64_t)taps, size};
  return size_mul(taps ? taps : 1, d->b ? (size_t)d->b : 1, &all) && size_mul(all, d->a ? (size_t)d->a : 1, &all) &&
         size_mul(all, size, &bytes) && bytes <= PTRDIFF_MAX;
}

static bool packed_size(const tensor_type *type, size_t *out) {
  weight_dims d;
  if (!weight_dims_of(type, &d)) return false;
  *out = (size_t)d.a * (size_t)d.b * (size_t)d.taps * d.size;
  return true;
}

/* Between element (a, b, tap) of the plain weight and position a * s_a + b * s_b + tap * s_tap. */
static void move(const weight_dims *d, const void *from, void *to, const int64_t s[3], bool undo) {
  for (int64_t a = 0; a < d->a; a++) {
    for (int64_t b = 0; b < d->b; b++) {
      for (int64_t t = 0; t < d->taps; t++) {
        const size_t plain = (size_t)((a * d->b + b) * d->taps + t) * d->size;
        const size_t other = (size_t)(a * s[0] + b * s[1] + t * s[2]) * d->size;
        memcpy((char *)to + (undo ? plain : other), (const char *)from + (undo ? other : plain), d->size);
      }
    }
  }
}

#define ORDER(name, s_a, s_b, s_tap)                                                    \
  static void name(const tensor_type *type, const void *from, void *to, bool undo) {    \
    weight_dims d;                                                                      \
    if (!weight_dims_of(type, &d)) return;                                              \
    const int64_t s[3] = {s_a, s_b, s_tap};                                             \
    move(&d, from, to, s, undo);                                                        \
  }                                                                                     \
  static void name##_pack(const tensor_type *type, const void *plain, void *packed) {   \
    name(type, plain, packed, false);                                                   \
  }                                                                                     \
  static void name##_unpack(const tensor_type *type, const void *packed, void *plain) { \
    name(type, packed, plain, true);                                                    \
  }
ORDER(ohwi, d.b *d.taps, 1, d.b)
ORDER(hwo, d.b, 1, d.a *d.b)
ORDER(hwoi, 1, d.a, d.a *d.b)

static bool ohw4_size(const tensor_type *type, size_t *out) {
  weight_dims d;
  size_t n;
  return weight_dims_of(type, &d) && d.b >= 1 && d.b <= 3 && size_mul((size_t)d.a * (size_t)d.taps, 4 * d.size, &n) &&
         n <= PTRDIFF_MAX && (*out = n, true);
}

static void ohw4_pack(const tensor_type *type, const void *plain, void *packed) {
  weight_dims d;
  if (!weight_dims_of(type, &d)) return;
  memset(packed, 0, (size_t)d.a * (size_t)d.taps * 4 * d.size);
  const int64_t s[3] = {d.taps * 4, 1, 4};
  move(&d, plain, packed, s, false);
}

static void ohw4_unpack(const tensor_type *type, const void *packed, void *plain) {
  weight_dims d;
  if (!weight_dims_of(type, &d)) return;
  const int64_t s[3] = {d.taps * 4, 1, 4};
  move(&d, packed, plain, s, true);
}

const packing cuda_packings[] = {
    {.name = PACKING_OHW4, .size = ohw4_size, .pack = ohw4_pack, .unpack = ohw4_unpack},
    {.name = PACKING_OHWI, .size = packed_size, .pack = ohwi_pack, .unpack = ohwi_unpack},
    {.name = PACKING_HWO, .size = packed_size, .pack = hwo_pack, .unpack = hwo_unpack},
    {.name = PACKING_HWOI, .size = packed_size, .pack = hwoi_pack, .unpack = hwoi_unpack},
    {.name = NULL},
};
