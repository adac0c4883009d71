/* Helpers for reference kernels and kernel arguments. */
#include "ops/ref.h"

#include <math.h>
#include <string.h>

/* ---- half types -------------------------------------------------------------------------------------------------- */

static float float_from_bits(uint32_t u) {
  float f;
  memcpy(&f, &u, sizeof f);
  return f;
}
static uint32_t float_bits(float f) {
  uint32_t u;
  memcpy(&u, &f, sizeof u);
  return u;
}

float half_to_float(uint16_t h) {
  const uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exponent = (h >> 10) & 31u, mantissa = h & 1023u;
  if (exponent == 31) return float_from_bits(sign | 0x7f800000u | (mantissa << 13));
  if (exponent) return float_from_bits(sign | ((exponent + 112u) << 23) | (mantissa << 13));
  const float tiny = (float)mantissa * 0x1p-24f;
  return sign ? -tiny : tiny;
}

uint16_t float_to_half(float f) {
  const uint32_t u = float_bits(f), sign = (u >> 16) & 0x8000u, magnitude = u & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return (uint16_t)(sign | 0x7e00u);
  if (magnitude >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u); /* rounds to 65520 or more */
  if (magnitude < 0x38800000u) { /* subnormal half: scale so that rounding is the FPU's */
    const float scaled = float_from_bits(magnitude) * 0x1p24f;
    return (uint16_t)(sign | (uint32_t)nearbyintf(scaled));
  }
  const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return (uint16_t)(sign | ((rounded - 0x38000000u) >> 13));
}

float bf16_to_float(uint16_t h) { return float_from_bits((uint32_t)h << 16); }
uint16_t float_to_bf16(float f) {
  const uint32_t u = float_bits(f);
  if ((u & 0x7fffffffu) > 0x7f800000u) return 0x7fc0u;
  return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

/* ---- elements ---------------------------------------------------------------------------------------------------- */

double ref_load(const tensor *t, int64_t at) {
  switch (t->dtype) {
    case KILN_F32:
      return ((const float *)t->data)[at];
    case KILN_F64:
      return ((const double *)t->data)[at];
    case KILN_F16:
      return half_to_float(((const uint16_t *)t->data)[at]);
    case KILN_BF16:
      return bf16_to_float(((const uint16_t *)t->data)[at]);
    default:
      return (double)ref_load_int(t, at);
  }
}

/* What x86's cvttsd2si gives: out-of-range and NaN become INT64_MIN. Plain C leaves it undefined. */
static int64_t to_int64(double v) { return v >= -0x1p63 && v < 0x1p63 ? (int64_t)v : INT64_MIN; }

void ref_store(const tensor *t, int64_t at, double v) {
  switch (t->dtype) {
    case KILN_F32:
      ((float *)t->data)[at] = (float)v;
      break;
    case KILN_F64:
      ((double *)t->data)[at] = v;
      break;
    case KILN_F16:
      ((uint16_t *)t->data)[at] = float_to_half((float)v);
      break;
    case KILN_BF16:
      ((uint16_t *)t->data)[at] = float_to_bf16((float)v);
      break;
    case KILN_BOOL:
      ((uint8_t *)t->data)[at] = v != 0;
      break;
    default:
      ref_store_int(t, at, to_int64(v));
      break;
  }
}

int64_t ref_load_int(const tensor *t, int64_t at) {
  switch (t->dtype) {
    case KILN_I8:
      return ((const int8_t *)t->data)[at];
    case KILN_U8:
      return ((const uint8_t *)t->data)[at];
    case KILN_I16:
      return ((const int16_t *)t->data)[at];
    case KILN_I32:
      return ((const int32_t *)t->data)[at];
    case KILN_I64:
      return ((const int64_t *)t->data)[at];
    case KILN_BOOL:
      return ((const uint8_t *)t->data)[at] != 0;
    default:
      return to_int64(ref_load(t, at));
  }
}

void ref_store_int(const tensor *t, int64_t at, int64_t v) {
  switch (t->dtype) {
    case KILN_I8:
      ((uint8_t *)t->data)[at] = (uint8_t)v;
      break;
    case KILN_U8:
      ((uint8_t *)t->data)[at] = (uint8_t)v;
      break;
    case KILN_I16:
      ((uint16_t *)t->data)[at] = (uint16_t)v;
      break;
    case KILN_I32:
      ((uint32_t *)t->data)[at] = (uint32_t)v;
      break;
    case KILN_I64:
      ((int64_t *)t->data)[at] = v;
      break;
    case KILN_BOOL:
      ((uint8_t *)t->data)[at] = v != 0;
      break;
    default:
      ref_store(t, at, (double)v);
      break;
  }
}

void ref_copy_element(const tensor *from, int64_t at, const tensor *to, int64_t to_at) {
  if (dtype_is_float(from->dtype)) {
    ref_store(to, to_at, ref_load(from, at));
  } else {
    ref_store_int(to, to_at, ref_load_int(from, at));
  }
}

/* ---- indices ----------------------------------------------------------------------------------------------------- */

ref_iter ref_begin(int rank, const int64_t *shape) {
  ref_iter it = {.rank = rank, .count = 1};
  for (int i = 0; i < rank; i++) {
    it.shape[i] = shape[i];
    it.count *= shape[i];
  }
  return it;
}

void ref_next(ref_iter *it) {
  it->linear++;
  for (int i = it->rank - 1; i >= 0; i--) {
    if (++it->index[i] < it->shape[i]) return;
    it->index[i] = 0;
  }
}

int64_t ref_offset(const tensor *t, const ref_iter *it) {
  int64_t at = 0;
  const int skip = it->rank - t->rank;
  for (int i = 0; i < t->rank; i++) {
    if (t->shape[i] != 1) at += it->index[i + skip] * t->strides[i];
  }
  return at;
}

int64_t tensor_offset(const tensor *t, const int64_t *index) {
  int64_t at = 0;
  for (int i = 0; i < t->rank; i++) at += index[i] * t->strides[i];
  return at;
}

int64_t tensor_numel(const tensor *t) {
  int64_t n = 1;
  for (int i = 0; i < t->rank; i++) n *= t->shape[i];
  return n;
}

bool tensor_is_contiguous(const tensor *t) {
  int64_t expected = 1;
  for (int i = t->rank - 1; i >= 0; i--) {
    if (t->shape[i] == 0) return true;
    if (t->shape[i] != 1 && t->strides[i] != expected) return false;
    expected *= t->shape[i];
  }
  return true;
}

void tensor_make_contiguous_strides(tensor *t) {
  int64_t stride = 1;
  for (int i = t->rank - 1; i >= 0; i--) {
    t->strides[i] = stride;
    stride *= t->shape[i] ? t->shape[i] : 1;
  }
}

/* ---- attributes of a running kernel ------------------------------------------------------------------------------ */

const attr *arg_attr(const kernel_args *a, const char *name) {
  static const attr absent = {ATTR_NONE, 0, {0}};
  const int i = op_attr_index(a->node->op, name);
  return i < 0 ? &absent : &a->attrs[i];
}
int64_t arg_int(const kernel_args *a, const char *name) { return arg_attr(a, name)->u.i; }
double arg_float(const kernel_args *a, const char *name) { return arg_attr(a, name)->u.f; }
bool arg_bool(const kernel_args *a, const char *name) { return arg_attr(a, name)->u.i != 0; }
