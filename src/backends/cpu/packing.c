/* How weights are stored for the matrix kernels. Each packing only moves floats, so that undoing it gives the same
 * bytes. */
#include <string.h>

#include "backends/cpu/gemm.h"
#include "backends/cpu/winograd.h"
#include "base/memory.h"

bool gemm_packed_floats(int64_t k, int64_t n, int nr, size_t *out) {
  const size_t panels = ((size_t)n + (size_t)nr - 1) / (size_t)nr;
  size_t floats;
  return k >= 0 && n >= 0 && size_mul(panels, (size_t)nr, &floats) && size_mul(floats, (size_t)k, out);
}

void gemm_pack_panel(const float *plain, int64_t s_tap, int64_t s_k, int64_t s_n, int64_t taps, int64_t kc, int64_t n,
                     int nr, int64_t panel, float *packed) {
  const int64_t n0 = panel * nr;
  const int64_t cols = n - n0 < nr ? n - n0 : nr;
  for (int64_t t = 0; t < taps; t++) {
    const float *from = plain + t * s_tap + n0 * s_n;
    float *to = packed + t * kc * nr;
    if (s_n == 1) {
      for (int64_t k = 0; k < kc; k++) {
        memcpy(to + k * nr, from + k * s_k, (size_t)cols * sizeof(float));
        for (int64_t c = cols; c < nr; c++) to[k * nr + c] = 0.0f;
      }
      continue;
    }
    for (int64_t k0 = 0; k0 < kc; k0 += 16) { /* blocks of k: the lines of `to` that a block writes stay in L1 */
      const int64_t k1 = k0 + 16 < kc ? k0 + 16 : kc;
      for (int64_t c = 0; c < cols; c++) {
        for (int64_t k = k0; k < k1; k++) to[k * nr + c] = from[c * s_n + k * s_k];
      }
      for (int64_t k = k0; k < k1; k++) {
        for (int64_t c = cols; c < nr; c++) to[k * nr + c] = 0.0f;
      }
    }
  }
}

/* ---- gemm_b:<NR>
 * ------------------------------------------------------------------------------------------------------------ Weights
 * [O, I, k...] (linear: [N, K]) as [O / NR][k...][I][NR]; O is padded with zeros. Groups need no care: group g is the
 * columns [g * O / groups, ...). */

typedef struct weight_dims {
  int64_t o, i, taps;
} weight_dims;

static bool weight_dims_of(const tensor_type *t, weight_dims *d) {
  if (t->dtype != KILN_F32 || t->rank < 2 || t->rank > 5) return false;
  for (int r = 0; r < t->rank; r++) {
    if (!dim_is_const(t->dims[r]) || t->dims[r] < 0) return false;
  }
  size_t taps = 1, all;
  for (int r = 2; r < t->rank; r++) {
    if (!size_mul(taps, (size_t)t->dims[r], &taps)) return false;
  }
  *d = (weight_dims){t->dims[0], t->dims[1], (int64_t)taps};
  /* No product of them may overflow, also where one of the others is 0. */
  return size_mul(taps ? taps : 1, d->i ? (size_t)d->i : 1, &all) && size_mul(all, d->o ? (size_t)d->o : 1, &all) &&
         size_mul(all, sizeof(float), &all) && all <= PTRDIFF_MAX;
}

static bool pack_b_size(const tensor_type *type, int nr, size_t *out) {
  weight_dims d;
  return weight_dims_of(type, &d) && gemm_packed_floats(d.i * d.taps, d.o, nr, out) &&
         size_mul(*out, sizeof(float), out);
}

static void pack_b(const tensor_type *type, const void *plain, void *packed, int nr) {
  weight_dims d;
  if (!weight_dims_of(type, &d)) return;
  for (int64_t p = 0; p * nr < d.o; p++) {
    gemm_pack_panel(plain, 1, d.taps, d.i * d.taps, d.taps, d.i, d.o, nr, p, (float *)packed + p * d.taps * d.i * nr);
  }
}

/* In pieces of a panel that stay in the cache while they are read across. */
static void unpack_b(const tensor_type *type, const void *packed, void *plain, int nr) {
  enum { PIECE = 16 };
  weight_dims d;
  if (!weight_dims_of(type, &d)) return;
  const int64_t k = d.i * d.taps;
  for (int64_t first = 0; first < d.o; first += nr) {
    const float *panel = (const float *)packed + first * k;
    float *to = (float *)plain + first * k;
    const int64_t rows = d.o - first < nr ? d.o - first : nr;
    for (int64_t start = 0; start < d.i; start += PIECE) {
      const int64_t end = d.i - start < PIECE ? d.i : start + PIECE;
      for (int64_t o = 0; o < rows; o++) {
        for (int64_t i = start; i < end; i++) {
          for (int64_t t = 0; t < d.taps; t++) to[o * k + i * d.taps + t] = panel[(t * d.i + i) * nr + o];
        }
      }
    }
  }
}

/* ---- gemm_bt:<NR>
 * ----------------------------------------------------------------------------------------------------------- Weights
 * of transposed convolutions [I, O / groups, k...] as [O / groups / NR][k...][I][NR]. */

static bool pack_bt_size(const tensor_type *type, int nr, size_t *out) {
  weight_dims d;
  return weight_dims_of(type, &d) && gemm_packed_floats(d.o * d.taps, d.i, nr, out) &&
         size_mul(*out, sizeof(float), out);
}

static void pack_bt(const tensor_type *type, const void *plain, void *packed, int nr) {
  weight_dims d; /* here d.o is the number of input channels and d.i that of outputs in a group */
  if (!weight_dims_of(type, &d)) return;
  for (int64_t p = 0; p * nr < d.i; p++) {
    gemm_pack_panel(plain, 1, d.i * d.taps, d.taps, d.taps, d.o, d.i, nr, p, (float *)packed + p * d.taps * d.o * nr);
  }
}

static void unpack_bt(const tensor_type *type, const void *packed, void *plain, int nr) {
  weight_dims d;
  if (!weight_dims_of(type, &d)) return;
  const float *from = packed;
  float *to = plain;
  for (int64_t i = 0; i < d.o; i++) {
    for (int64_t o = 0; o < d.i; o++) {
      const float *panel = from + o / nr * nr * d.taps * d.o + o % nr;
      for (int64_t t = 0; t < d.taps; t++) to[(i * d.i + o) * d.taps + t] = panel[(t * d.o + i) * nr];
    }
  }
}

/* ---- taps_first
 * -------------------------------------------------------------------------------------------------------------
 * Depthwise weights [C, 1, k...] as [k...][C]. */

static bool taps_first_size(const tensor_type *type, size_t *out) {
  weight_dims d;
  if (!weight_dims_of(type, &d) || d.i != 1) return false;
  return size_mul((size_t)d.o, (size_t)d.taps, out) && size_mul(*out, sizeof(float), out);
}

static void taps_first_pack(const tensor_type *type, const void *plain, void *packed) {
  weight_dims d;
  if (!weight_dims_of(type, &d)) return;
  const float *from = plain;
  float *to = packed;
  for (int64_t t = 0; t < d.taps; t++) {
    for (int64_t c = 0; c < d.o; c++) to[t * d.o + c] = from[c * d.taps + t];
  }
}

static void taps_first_unpack(const tensor_type *type, const void *packed, void *plain) {
  weight_dims d;
  if (!weight_dims_of(type, &d)) return;
  const float *from = packed;
  float *to = plain;
  for (int64_t c = 0; c < d.o; c++) {
    for (int64_t t = 0; t < d.taps; t++) to[c * d.taps + t] = from[t * d.o + c];
  }
}

#define GEMM_PACKING(nr)                                                                                               \
  static bool pack_b_size_##nr(const tensor_type *t, size_t *out) { return pack_b_size(t, nr, out); }                  \
  static void pack_b_##nr(const tensor_type *t, const void *plain, void *packed) { pack_b(t, plain, packed, nr); }     \
  static void unpack_b_##nr(const tensor_type *t, const void *packed, void *plain) { unpack_b(t, packed, plain, nr); } \
  static bool pack_bt_size_##nr(const tensor_type *t, size_t *out) { return pack_bt_size(t, nr, out); }                \
  static void pack_bt_##nr(const tensor_type *t, const void *plain, void *packed) { pack_bt(t, plain, packed, nr); }   \
  static void unpack_bt_##nr(const tensor_type *t, const void *packed, void *plain) {                                  \
    unpack_bt(t, packed, plain, nr);                                                                                   \
  }                                                                                                                    \
  static bool winograd_size_##nr(const tensor_type *t, size_t *out) { return winograd_pack_size(t, nr, out); }         \
  static void winograd_pack_##nr(const tensor_type *t, const void *plain, void *packed) {                              \
    winograd_pack(t, plain, packed, nr);                                                                               \
  }                                                                                                                    \
  static int64_t winograd_parts_##nr(const tensor_type *t) { return winograd_pack_parts(t, nr); }                      \
  static void winograd_part_##nr(const tensor_type *t, const void *plain, void *packed, int64_t part) {                \
    winograd_pack_part(t, plain, packed, nr, part);                                                                    \
  }                                                                                                                    \
  static bool by_size_size_##nr(const tensor_type *t, size_t *out) { return by_size_pack_size(t, nr, out); }           \
  static void by_size_pack_##nr(const tensor_type *t, const void *plain, void *packed) {                               \
    by_size_pack(t, plain, packed, nr);                                                                                \
  }                                                                                                                    \
  static int64_t by_size_parts_##nr(const tensor_type *t) { return by_size_pack_parts(t, nr); }                        \
  static void by_size_part_##nr(const tensor_type *t, const void *plain, void *packed, int64_t part) {                 \
    by_size_pack_part(t, plain, packed, nr, part);                                                                     \
  }
GEMM_PACKING(32)
GEMM_PACKING(16)
GEMM_PACKING(4)

#define UNDONE_ROW(packed_as, prefix, suffix) \
  { packed_as, prefix##_size##suffix, prefix##suffix, un##prefix##suffix, NULL, NULL }
#define WINOGRAD_ROW(nr) \
  { "winograd:" #nr, winograd_size_##nr, winograd_pack_##nr, NULL, winograd_parts_##nr, winograd_part_##nr }
#define BY_SIZE_ROW(nr) \
  { "winograd+gemm_b:" #nr, by_size_size_##nr, by_size_pack_##nr, NULL, by_size_parts_##nr, by_size_part_##nr }

const packing cpu_packings[] = {
    UNDONE_ROW("gemm_b:32", pack_b, _32),
    UNDONE_ROW("gemm_b:16", pack_b, _16),
    UNDONE_ROW("gemm_b:4", pack_b, _4),
    UNDONE_ROW("gemm_bt:32", pack_bt, _32),
    UNDONE_ROW("gemm_bt:16", pack_bt, _16),
    UNDONE_ROW("gemm_bt:4", pack_bt, _4),
    WINOGRAD_ROW(32),
    WINOGRAD_ROW(16),
    WINOGRAD_ROW(4),
    BY_SIZE_ROW(32),
    BY_SIZE_ROW(16),
    BY_SIZE_ROW(4),
    {"taps_first", taps_first_size, taps_first_pack, taps_first_unpack, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL, NULL},
};
