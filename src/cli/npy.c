/* NumPy's .npy files (format versions 1 to 3; numpy.lib.format). The header is a Python dict literal; only the three
 * keys that the format defines are understood, in any order. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

typedef struct npy_type {
  const char *text; /* without byte order */
  kiln_dtype dtype;
  bool is_complex; /* pairs of it */
} npy_type;

static const npy_type npy_types[] = {{"f4", KILN_F32, false},  {"f8", KILN_F64, false}, {"f2", KILN_F16, false},
                                     {"i1", KILN_I8, false},   {"u1", KILN_U8, false},  {"i2", KILN_I16, false},
                                     {"i4", KILN_I32, false},  {"i8", KILN_I64, false}, {"c8", KILN_F32, true},
                                     {"b1", KILN_BOOL, false}, {"c16", KILN_F64, true}};

typedef struct npy_header {
  kiln_dtype dtype;
  bool column_major, is_complex;
  int32_t rank;
  int64_t shape[KILN_MAX_RANK];
} npy_header;

static bool npy_fail(const char *path, const char *why) {
  cli_error(CLI_FAILED, "%s: %s", path, why);
  return false;
}

/* The text after 'key': in `header`, or NULL. */
static const char *header_value(const char *header, const char *key) {
  const char *at = strstr(header, key);
  if (!at) return NULL;
  at = strchr(at + strlen(key), ':');
  return at ? at + 1 + strspn(at + 1, " ") : NULL;
}

static bool header_parse(const char *path, const char *text, npy_header *out) {
  const char *descr = header_value(text, "'descr'"), *order = header_value(text, "'fortran_order'");
  const char *shape = header_value(text, "'shape'");
  if (!descr || !order || !shape || *descr != '\'' || *shape != '(')
    return npy_fail(path, "the .npy header is damaged");
  out->dtype = KILN_DTYPE_COUNT;
  out->is_complex = false;
  for (size_t i = 0; i < sizeof npy_types / sizeof *npy_types; i++) {
    const size_t n = strlen(npy_types[i].text);
    if (!strchr("<|=", descr[1]) || strncmp(descr + 2, npy_types[i].text, n) != 0 || descr[2 + n] != '\'') continue;
    out->dtype = npy_types[i].dtype;
    out->is_complex = npy_types[i].is_complex;
  }
  if (out->dtype == KILN_DTYPE_COUNT) {
    cli_error(CLI_FAILED,
              "%s: element type %.8s is not supported; expected little-endian f2 f4 f8 i1 i2 i4 i8 u1 b1 c8 or c16",
              path, descr);
    return false;
  }
  out->column_major = strncmp(order, "True", 4) == 0;
  out->rank = 0;
  for (const char *p = shape + 1; *p != ')';) {
    char *end;
    const long long size = strtoll(p, &end, 10);
    if (end == p || size < 0) return npy_fail(path, "the shape in the .npy header is damaged");
    if (out->rank == KILN_MAX_RANK) return npy_fail(path, "the array has more than 8 dimensions");
    out->shape[out->rank++] = size;
    p = end + strspn(end, ", ");
  }
  if (!out->is_complex) return true;
  if (out->rank == KILN_MAX_RANK) return npy_fail(path, "the array has more than 7 dimensions of complex numbers");
  out->shape[out->rank++] = 2;
  return true;
}

static bool header_read(const char *path, FILE *file, npy_header *out) {
  unsigned char head[12];
  if (fread(head, 1, 10, file) != 10 || memcmp(head, "\x93NUMPY", 6) != 0) return npy_fail(path, "not a .npy file");
  size_t length = (size_t)head[8] | (size_t)head[9] << 8;
  if (head[6] < 1 || head[6] > 3) return npy_fail(path, ".npy format version is not 1, 2 or 3");
  if (head[6] >= 2) {
    if (fread(head + 10, 1, 2, file) != 2) return npy_fail(path, "the file ends in its header");
    length |= (size_t)head[10] << 16 | (size_t)head[11] << 24;
  }
  if (length > 1 << 16) return npy_fail(path, "the .npy header is longer than 64 kB");
  char *text = malloc(length + 1);
  if (!text) return npy_fail(path, "out of memory");
  bool ok = fread(text, 1, length, file) == length || npy_fail(path, "the file ends in its header");
  text[length] = '\0';
  ok = ok && header_parse(path, text, out);
  free(text);
  return ok;
}

/* Rewrites column-major data as row-major; complex numbers stay together. */
static bool npy_transpose(const char *path, bool is_complex, cli_tensor *t) {
  const int rank = t->tensor.ndim - is_complex, parts = is_complex ? 2 : 1;
  const size_t element = kiln_dtype_size(kiln_tensor_get_dtype(&t->tensor)) * (size_t)parts;
  const int64_t n = cli_tensor_numel(&t->tensor) / parts;
  char *from = t->tensor.data, *to = aligned_alloc(64, (t->bytes + 64) / 64 * 64);
  if (!to) return npy_fail(path, "out of memory");
  int64_t index[KILN_MAX_RANK] = {0};
  for (int64_t i = 0; i < n; i++) {
    int64_t source = 0;
    for (int d = rank - 1; d >= 0; d--) source = source * t->shape[d] + index[d];
    memcpy(to + (size_t)i * element, from + (size_t)source * element, element);
    for (int d = rank - 1; d >= 0 && ++index[d] == t->shape[d]; d--) index[d] = 0;
  }
  free(from);
  t->tensor.data = to;
  return true;
}

bool npy_read(const char *path, cli_tensor *out) {
  memset(out, 0, sizeof *out);
  FILE *file = fopen(path, "rb");
  if (!file) {
    cli_error(CLI_FAILED, "%s: %s", path, strerror(errno));
    return false;
  }
  npy_header header;
  bool ok = header_read(path, file, &header);
  if (ok) {
    /* A hostile header may claim any size: do not allocate more than the file holds. */
    const long start = ftell(file);
    ok = start >= 0 && fseek(file, 0, SEEK_END) == 0;
    const long end = ok ? ftell(file) : -1;
    size_t bytes = kiln_dtype_size(header.dtype);
    for (int i = 0; i < header.rank; i++) ok = ok && !__builtin_mul_overflow(bytes, (size_t)header.shape[i], &bytes);
    ok = ok && end >= start && bytes <= (size_t)(end - start) && fseek(file, start, SEEK_SET) == 0;
    if (!ok) npy_fail(path, "the file is shorter than its header says");
  }
  ok = ok && cli_tensor_create(out, header.dtype, header.rank, header.shape);
  if (ok && fread(out->tensor.data, 1, out->bytes, file) != out->bytes) ok = npy_fail(path, "the file ends early");
  if (ok && header.column_major && header.rank > 1) ok = npy_transpose(path, header.is_complex, out);
  fclose(file);
  if (!ok) cli_tensor_free(out);
  return ok;
}

static bool npy_write_header(FILE *file, const kiln_tensor *t, int rank, const char *descr) {
  char text[512];
  int n = snprintf(text, sizeof text, "{'descr': '%s', 'fortran_order': False, 'shape': (", descr);
  for (int i = 0; i < rank; i++) {
    n += snprintf(text + n, sizeof text - (size_t)n, "%lld,%s", (long long)t->shape[i], i + 1 < rank ? " " : "");
  }
  n += snprintf(text + n, sizeof text - (size_t)n, "), }");
  while ((n + 11) % 64 != 0) text[n++] = ' '; /* data starts at a multiple of 64 */
  text[n++] = '\n';
  const unsigned char head[10] = {
      0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0, (unsigned char)(n & 255), (unsigned char)(n >> 8)};
  return fwrite(head, 1, sizeof head, file) == sizeof head && fwrite(text, 1, (size_t)n, file) == (size_t)n;
}

bool npy_write(const char *path, const kiln_tensor *t, bool is_complex) {
  const kiln_dtype dtype = kiln_tensor_get_dtype(t);
  char descr[8] = "";
  for (size_t i = 0; i < sizeof npy_types / sizeof *npy_types; i++) {
    if (npy_types[i].dtype == dtype && npy_types[i].is_complex == is_complex) {
      snprintf(descr, sizeof descr, "%c%s", kiln_dtype_size(dtype) == 1 ? '|' : '<', npy_types[i].text);
    }
  }
  if (!*descr) {
    cli_error(CLI_FAILED, "%s: .npy has no element type for %s", path, kiln_dtype_name(dtype));
    return false;
  }
  FILE *file = fopen(path, "wb");
  if (!file) {
    cli_error(CLI_FAILED, "%s: %s", path, strerror(errno));
    return false;
  }
  const size_t bytes = (size_t)cli_tensor_numel(t) * kiln_dtype_size(dtype);
  bool ok = npy_write_header(file, t, t->ndim - is_complex, descr) &&
            fwrite((const char *)t->data + t->byte_offset, 1, bytes, file) == bytes;
  if (fclose(file) != 0) ok = false;
  if (!ok) {
    cli_error(CLI_FAILED, "%s: %s", path, strerror(errno));
    remove(path);
  }
  return ok;
}
