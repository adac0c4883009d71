/* Element types and tensor types. */
#include <string.h>

#include "base/memory.h"
#include "graph/graph.h"
#include "ops/ref.h"

typedef struct dtype_row {
  const char *name;
  size_t size;
  uint8_t code, bits; /* DLPack */
} dtype_row;

static const dtype_row dtypes[KILN_DTYPE_COUNT] = {
    [KILN_F32] = {"f32", 4, 2, 32},   [KILN_F64] = {"f64", 8, 2, 64}, [KILN_F16] = {"f16", 2, 2, 16},
    [KILN_BF16] = {"bf16", 2, 4, 16}, [KILN_I8] = {"i8", 1, 0, 8},    [KILN_U8] = {"u8", 1, 1, 8},
    [KILN_I16] = {"i16", 2, 0, 16},   [KILN_I32] = {"i32", 4, 0, 32}, [KILN_I64] = {"i64", 8, 0, 64},
    [KILN_BOOL] = {"bool", 1, 6, 8},
};

static bool dtype_valid(kiln_dtype d) { return (unsigned)d < KILN_DTYPE_COUNT; }
const char *kiln_dtype_name(kiln_dtype d) { return dtype_valid(d) ? dtypes[d].name : "?"; }
size_t kiln_dtype_size(kiln_dtype d) { return dtype_valid(d) ? dtypes[d].size : 0; }

void kiln_tensor_set_dtype(kiln_tensor *t, kiln_dtype d) {
  if (!t || !dtype_valid(d)) return;
  t->dtype.code = dtypes[d].code;
  t->dtype.bits = dtypes[d].bits;
  t->dtype.lanes = 1;
}

kiln_dtype kiln_tensor_get_dtype(const kiln_tensor *t) {
  if (!t || t->dtype.lanes != 1) return KILN_DTYPE_COUNT;
  for (int d = 0; d < KILN_DTYPE_COUNT; d++) {
    if (dtypes[d].code == t->dtype.code && dtypes[d].bits == t->dtype.bits) return (kiln_dtype)d;
  }
  return KILN_DTYPE_COUNT;
}

bool dtype_is_float(kiln_dtype d) { return d == KILN_F32 || d == KILN_F64 || d == KILN_F16 || d == KILN_BF16; }
bool dtype_is_int(kiln_dtype d) { return d >= KILN_I8 && d <= KILN_I64; }

/* PyTorch's lattice: bool < integers < floats; u8 with a signed type gives the next signed type that holds both; f16
 * with bf16 gives f32 (torch/csrc, c10::promoteTypes). */
kiln_dtype dtype_promote(kiln_dtype a, kiln_dtype b) {
  if (a == b || b == KILN_BOOL) return a;
  if (a == KILN_BOOL) return b;
  const bool fa = dtype_is_float(a), fb = dtype_is_float(b);
  if (fa != fb) return fa ? a : b;
  if (fa) {
    if (a == KILN_F64 || b == KILN_F64) return KILN_F64;
    return KILN_F32;
  }
  if (a == KILN_U8 || b == KILN_U8) {
    const kiln_dtype other = a == KILN_U8 ? b : a;
    return other == KILN_I8 ? KILN_I16 : other;
  }
  return kiln_dtype_size(a) > kiln_dtype_size(b) ? a : b;
}

tensor_type type_of(kiln_dtype dtype, int rank, const dim *dims) {
  tensor_type t = {dtype, rank, {0}};
  for (int i = 0; i < rank; i++) t.dims[i] = dims[i];
  return t;
}

bool type_equal(const tensor_type *a, const tensor_type *b) {
  return a->dtype == b->dtype && a->rank == b->rank && memcmp(a->dims, b->dims, (size_t)a->rank * sizeof(dim)) == 0;
}

bool type_is_static(const tensor_type *t) {
  for (int i = 0; i < t->rank; i++) {
    if (!dim_is_const(t->dims[i])) return false;
  }
  return true;
}

bool type_bytes(const tensor_type *t, size_t *out) {
  size_t n = kiln_dtype_size(t->dtype);
  for (int i = 0; i < t->rank; i++) {
    if (!dim_is_const(t->dims[i]) || t->dims[i] < 0 || !size_mul(n, (size_t)t->dims[i], &n)) return false;
  }
  if (n > PTRDIFF_MAX) return false;
  *out = n;
  return true;
}

dim type_numel(graph *g, const tensor_type *t) { return dim_product(g->dims, t->dims, t->rank); }

void type_print(const graph *g, const tensor_type *t, text *out) {
  text_puts(out, kiln_dtype_name(t->dtype));
  text_putc(out, '[');
  for (int i = 0; i < t->rank; i++) {
    if (i) text_putc(out, ',');
    dim_print(g->dims, t->dims[i], out);
  }
  text_putc(out, ']');
}

void scalar_store(kiln_dtype dtype, void *data, double v) {
  const tensor t = {.data = data, .dtype = dtype};
  ref_store(&t, 0, v);
}
