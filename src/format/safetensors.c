/* Safetensors: 8 bytes little-endian length N, N bytes of JSON {"name": {"dtype", "shape", "data_offsets": [begin,
 * end]}, ...,
 * "__metadata__": {text: text}}, then the data. The spans must tile the data exactly: no hole, no overlap, nothing
 * behind. */
#include "format/safetensors.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/text.h"
#include "format/json.h"

enum { LENGTH_FIELD = 8, LARGEST_HEADER = 100 * 1000 * 1000 }; /* the limit of the reference implementation */

static const struct {
  const char *name;
  size_t bits;
  kiln_dtype dtype;
} dtypes[] = {
    {"F32", 32, KILN_F32},
    {"F64", 64, KILN_F64},
    {"F16", 16, KILN_F16},
    {"BF16", 16, KILN_BF16},
    {"I8", 8, KILN_I8},
    {"U8", 8, KILN_U8},
    {"I16", 16, KILN_I16},
    {"I32", 32, KILN_I32},
    {"I64", 64, KILN_I64},
    {"BOOL", 8, KILN_BOOL},
    {"U16", 16, KILN_DTYPE_COUNT},
    {"U32", 32, KILN_DTYPE_COUNT},
    {"U64", 64, KILN_DTYPE_COUNT},
    {"C64", 64, KILN_DTYPE_COUNT},
    {"F8_E4M3", 8, KILN_DTYPE_COUNT},
    {"F8_E5M2", 8, KILN_DTYPE_COUNT},
    {"F8_E8M0", 8, KILN_DTYPE_COUNT},
    {"F4", 4, KILN_DTYPE_COUNT},
};

typedef struct data_span {
  const uint8_t *bytes;
  size_t size;
} data_span;

/* dtype and shape; *out_bytes is the size that they need. */
static kiln_status read_type(const jnode *member, safetensor *t, size_t *out_bytes) {
  jnode node, shape;
  const char *name;
  KILN_TRY(jnode_get(member, "dtype", &node));
  KILN_TRY(jnode_string(&node, &name));
  size_t type = 0;
  while (type < KILN_COUNT(dtypes) && strcmp(dtypes[type].name, name) != 0) type++;
  if (type == KILN_COUNT(dtypes)) return JNODE_FAIL(&node, "unknown data type '%s'", name);
  t->dtype_name = dtypes[type].name;
  t->dtype = dtypes[type].dtype;
  KILN_TRY(jnode_get_array(member, "shape", &shape));
  if (jnode_count(&shape) > KILN_MAX_RANK) {
    return JNODE_FAIL(&shape, "%zu dimensions; at most %d are supported", jnode_count(&shape), KILN_MAX_RANK);
  }
  t->rank = (int32_t)jnode_count(&shape);
  size_t bits = dtypes[type].bits;
  bool fits = true;
  for (int32_t i = 0; i < t->rank; i++) {
    jnode dim;
    KILN_TRY(jnode_at(&shape, (size_t)i, &dim));
    KILN_TRY(jnode_int(&dim, &t->shape[i]));
    if (t->shape[i] < 0) return JNODE_FAIL(&dim, "negative size %lld", (long long)t->shape[i]);
    fits = size_mul(bits, (size_t)t->shape[i], &bits) && fits;
  }
  if (!fits) return JNODE_FAIL(&shape, "the product of the sizes overflows");
  if (bits % 8 != 0) return JNODE_FAIL(&shape, "elements of %zu bits do not fill whole bytes", dtypes[type].bits);
  *out_bytes = bits / 8;
  return KILN_OK;
}

static kiln_status read_tensor(const jnode *member, data_span data, arena *a, safetensor *t) {
  size_t needed;
  int64_t ends[2];
  jnode offsets;
  t->name = arena_strdup(a, member->key);
  if (t->name == NULL) return KILN_NO_MEMORY("safetensors header");
  KILN_TRY(read_type(member, t, &needed));
  KILN_TRY(jnode_get_array(member, "data_offsets", &offsets));
  if (jnode_count(&offsets) != 2) return JNODE_FAIL(&offsets, "expected [begin, end]");
  for (size_t i = 0; i < 2; i++) {
    jnode offset;
    KILN_TRY(jnode_at(&offsets, i, &offset));
    KILN_TRY(jnode_int(&offset, &ends[i]));
  }
  if (ends[0] < 0 || ends[1] < ends[0] || (uint64_t)ends[1] > data.size) {
    return JNODE_FAIL(&offsets, "[%lld, %lld] is not inside the file's %zu bytes of data", (long long)ends[0],
                      (long long)ends[1], data.size);
  }
  t->data = data.bytes + ends[0];
  t->size = (size_t)(ends[1] - ends[0]);
  if (t->size == needed) return KILN_OK;
  return JNODE_FAIL(&offsets, "%zu bytes, but its type and shape need %zu", t->size, needed);
}

static kiln_status read_metadata(const jnode *member, safetensors *file) {
  if (jnode_is(member, JNULL)) return KILN_OK;
  KILN_TRY(jnode_expect(member, JOBJECT));
  file->metadata = ARENA_ARRAY(&file->arena, const char *, 2 * jnode_count(member));
  if (file->metadata == NULL) return KILN_NO_MEMORY("safetensors header");
  void *iterator = NULL;
  for (jnode item; jnode_next(member, &iterator, &item);) {
    const char *value, **pair = file->metadata + 2 * file->n_metadata;
    KILN_TRY(jnode_string(&item, &value));
    pair[0] = arena_strdup(&file->arena, item.key);
    pair[1] = arena_strdup(&file->arena, value);
    if (pair[0] == NULL || pair[1] == NULL) return KILN_NO_MEMORY("safetensors header");
    file->n_metadata++;
  }
  return KILN_OK;
}

static int by_place(const void *a, const void *b) {
  const safetensor *x = a, *y = b;
  if (x->data != y->data) return x->data < y->data ? -1 : 1;
  if (x->size != y->size) return x->size < y->size ? -1 : 1;
  return strcmp(x->name, y->name);
}

static kiln_status check_tiling(const safetensors *file, data_span data) {
  const uint8_t *end = data.bytes;
  const char *before = "the beginning";
  for (size_t i = 0; i < file->count; i++) {
    const safetensor *t = &file->tensors[i];
    const uint8_t *begin = t->data;
    if (begin != end) {
      return KILN_FAIL(KILN_INVALID_FILE, "safetensors: the data of '%s' %s those of %s%s%s; the file is damaged",
                       t->name, begin < end ? "overlap" : "do not follow directly on", i > 0 ? "'" : "", before,
                       i > 0 ? "'" : "");
    }
    end = begin + t->size;
    before = t->name;
  }
  const size_t left = data.size - (size_t)(end - data.bytes);
  if (left == 0) return KILN_OK;
  return KILN_FAIL(KILN_INVALID_FILE, "safetensors: %zu bytes of data belong to no tensor; the file is damaged", left);
}

static kiln_status read_header(const jdoc *doc, data_span data, safetensors *file) {
  const jnode root = jdoc_root(doc);
  KILN_TRY(jnode_expect(&root, JOBJECT));
  file->tensors = ARENA_ARRAY(&file->arena, safetensor, jnode_count(&root));
  if (file->tensors == NULL) return KILN_NO_MEMORY("safetensors header");
  void *iterator = NULL;
  for (jnode member; jnode_next(&root, &iterator, &member);) {
    if (str_eq(member.key, "__metadata__")) {
      KILN_TRY(read_metadata(&member, file));
    } else {
      KILN_TRY(read_tensor(&member, data, &file->arena, &file->tensors[file->count]));
      file->count++;
    }
  }
  if (file->count > 1) qsort(file->tensors, file->count, sizeof *file->tensors, by_place);
  return check_tiling(file, data);
}

kiln_status safetensors_open(const void *bytes, size_t size, safetensors *out_file) {
  const uint8_t *p = bytes;
  if (size < LENGTH_FIELD) return KILN_FAIL(KILN_INVALID_FILE, "safetensors: %zu bytes are too few for a header", size);
  uint64_t length = 0;
  for (int i = 0; i < LENGTH_FIELD; i++) length |= (uint64_t)p[i] << (8 * i);
  if (length > LARGEST_HEADER || length > size - LENGTH_FIELD) {
    return KILN_FAIL(KILN_INVALID_FILE,
                     "safetensors: a header of %llu bytes in a file of %zu; the file is damaged or cut short",
                     (unsigned long long)length, size);
  }
  const size_t start = LENGTH_FIELD + (size_t)length;
  const data_span data = {p + start, size - start};
  safetensors file = {0};
  jdoc doc;
  KILN_TRY(jdoc_parse(p + LENGTH_FIELD, (size_t)length, "safetensors header", &doc));
  const kiln_status status = read_header(&doc, data, &file);
  jdoc_free(&doc);
  if (status != KILN_OK) {
    safetensors_close(&file);
    return status;
  }
  *out_file = file;
  return KILN_OK;
}

void safetensors_close(safetensors *file) {
  arena_free(&file->arena);
  *file = (safetensors){0};
}

const safetensor *safetensors_find(const safetensors *file, const char *name) {
  for (size_t i = 0; i < file->count; i++) {
    if (strcmp(file->tensors[i].name, name) == 0) return &file->tensors[i];
  }
  return NULL;
}
