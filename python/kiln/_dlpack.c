/* Tensors of DLPack and of the buffer protocol, described; see _dlpack.h. */
#include "_dlpack.h"

#include <string.h>

bool dl_as_pairs(kiln_tensor *t, int64_t *shape, int64_t *strides) {
  const int32_t n = t->ndim;
  if (n >= KILN_MAX_RANK) return false;
  int64_t dense = 1;
  for (int32_t i = n - 1; i >= 0; i--) {
    const int64_t size = t->shape[i];
    strides[i] = 2 * (t->strides ? t->strides[i] : dense);
    dense *= size;
    shape[i] = size;
  }
  shape[n] = 2;
  strides[n] = 1;
  t->shape = shape;
  t->strides = strides;
  t->ndim = n + 1;
  t->dtype.code = DL_FLOAT;
  t->dtype.bits /= 2;
  return true;
}

kiln_tensor dl_as_complex(const kiln_tensor *t) {
  kiln_tensor z = *t;
  z.ndim--;
  z.dtype.code = DL_COMPLEX;
  z.dtype.bits = (uint8_t)(2 * z.dtype.bits);
  return z;
}

bool dl_dtype_from_format(const char *format, ptrdiff_t size, kiln_tensor *t) {
  if (format && (*format == '@' || *format == '=' || *format == '<')) format++;
  if (format && *format == 'Z' && (format[1] == 'f' || format[1] == 'd') && format[2] == '\0') { /* complex */
    t->dtype.code = DL_COMPLEX;
    t->dtype.bits = (uint8_t)(8 * size);
    t->dtype.lanes = 1;
    return size == (format[1] == 'f' ? 8 : 16);
  }
  const char kind = format ? *format : 'B';
  if (kind == '\0' || (format && format[1] != '\0') || size < 1 || size > 8) return false;
  uint8_t code;
  if (strchr("bhilqn", kind))
    code = 0;
  else if (strchr("BHILQN", kind))
    code = 1;
  else if (strchr("efd", kind))
    code = 2;
  else if (kind == '?')
    code = 6;
  else
    return false;
  t->dtype.code = code;
  t->dtype.bits = (uint8_t)(8 * size);
  t->dtype.lanes = 1;
  return true;
}
