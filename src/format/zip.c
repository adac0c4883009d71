/* ZIP reader. Only the central directory is believed; local headers serve to find the data and must agree with it on
 * name and method. Layout from PKWARE's APPNOTE 6.3.10: sections 4.3.7 (local header), 4.3.12 (central
 * directory), 4.3.14-16 (ends). */
#include "format/zip.h"

#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "base/memory.h"

enum {
  LOCAL_HEADER = 30,
  CENTRAL_HEADER = 46,
  END_RECORD = 22,
  END64_LOCATOR = 20,
  END64_RECORD = 56,
  LONGEST_COMMENT = 65535,
  TESTED_STORED_SIZE = 1 << 20
};
/* Deflate cannot exceed 1032:1. Model code and JSON stay below 100:1; small entries may do as they like. */
#define LARGEST_INFLATED ((size_t)1 << 30)
#define HARMLESS_INFLATED ((size_t)4 << 20)
#define LARGEST_RATIO 250u

typedef struct reader {
  const uint8_t *bytes;
  size_t size;
} reader;

static uint16_t u16(const uint8_t *p) { return (uint16_t)(p[0] | p[1] << 8); }
static uint32_t u32(const uint8_t *p) { return (uint32_t)u16(p) | (uint32_t)u16(p + 2) << 16; }
static uint64_t u64(const uint8_t *p) { return (uint64_t)u32(p) | (uint64_t)u32(p + 4) << 32; }

static bool has_signature(const uint8_t *p, uint8_t a, uint8_t b) {
  return p[0] == 'P' && p[1] == 'K' && p[2] == a && p[3] == b;
}

/* The span [offset, offset + length) lies in the file. */
static bool inside(const reader *r, uint64_t offset, uint64_t length) {
  return offset <= r->size && length <= r->size - offset;
}

static kiln_status damaged(const char *what) {
  return KILN_FAIL(KILN_INVALID_FILE, "zip archive: %s; the file is damaged or cut short", what);
}

typedef struct directory {
  uint64_t offset, size, count;
} directory;

static kiln_status find_end(const reader *r, size_t *out) {
  if (r->size < END_RECORD) return damaged("too short for an end record");
  const size_t last = r->size - END_RECORD;
  for (size_t back = 0; back <= LONGEST_COMMENT && back <= last; back++) {
    const uint8_t *p = r->bytes + last - back;
    if (has_signature(p, 5, 6) && u16(p + 20) == back) {
      *out = last - back;
      return KILN_OK;
    }
  }
  return damaged("no end record found");
}

static kiln_status read_end64(const reader *r, size_t end, directory *out) {
  if (end < END64_LOCATOR || !has_signature(r->bytes + end - END64_LOCATOR, 6, 7)) {
    return damaged("the zip64 end locator is missing");
  }
  const uint64_t at = u64(r->bytes + end - END64_LOCATOR + 8);
  if (!inside(r, at, END64_RECORD) || at > end - END64_LOCATOR || !has_signature(r->bytes + at, 6, 6)) {
    return damaged("the zip64 end record is not where its locator says");
  }
  const uint8_t *p = r->bytes + at;
  if (u32(p + 16) != 0 || u32(p + 20) != 0) return damaged("it spans several disks");
  *out = (directory){.offset = u64(p + 48), .size = u64(p + 40), .count = u64(p + 32)};
  return KILN_OK;
}

static kiln_status find_directory(const reader *r, directory *out) {
  size_t end = 0;
  KILN_TRY(find_end(r, &end));
  const uint8_t *p = r->bytes + end;
  *out = (directory){.offset = u32(p + 16), .size = u32(p + 12), .count = u16(p + 10)};
  if (out->offset == UINT32_MAX || out->size == UINT32_MAX || out->count == UINT16_MAX) {
    KILN_TRY(read_end64(r, end, out));
  } else if (u16(p + 4) != 0 || u16(p + 6) != 0) {
    return damaged("it spans several disks");
  }
  if (!inside(r, out->offset, out->size) || out->offset + out->size > end) {
    return damaged("its directory lies outside the file");
  }
  if (out->count > out->size / CENTRAL_HEADER)
    return damaged("its directory is smaller than its number of entries needs");
  return KILN_OK;
}

/* Sizes and offsets that did not fit 32 bits stand in extra field 1, in this order, and only those. */
static bool read_zip64_extra(const uint8_t *extra, size_t length, uint64_t *size, uint64_t *stored_size,
                             uint64_t *header) {
  uint64_t *const wanted[3] = {size, stored_size, header};
  const uint8_t *field = NULL;
  size_t left = 0;
  for (size_t i = 0; length - i >= 4;) {
    const size_t field_size = u16(extra + i + 2);
    if (field_size > length - i - 4) return false;
    if (u16(extra + i) == 1) {
      field = extra + i + 4;
      left = field_size;
      break;
    }
    i += 4 + field_size;
  }
  for (int i = 0; i < 3; i++) {
    if (*wanted[i] != UINT32_MAX) continue;
    if (left < 8) return false;
    *wanted[i] = u64(field);
    field += 8;
    left -= 8;
  }
  return true;
}

static kiln_status check_sizes(const zip_entry *e) {
  if (e->method == 0) {
    if (e->size == e->stored_size) return KILN_OK;
    return KILN_FAIL(KILN_INVALID_FILE, "zip entry '%s': stored, but its sizes %zu and %zu differ; the file is damaged",
                     e->name, e->stored_size, e->size);
  }
  if (e->method != 8) {
    return KILN_FAIL(KILN_UNSUPPORTED,
                     "zip entry '%s': compression method %d; only stored (0) and deflated (8) are read", e->name,
                     (int)e->method);
  }
  if (e->size > LARGEST_INFLATED || (e->size > HARMLESS_INFLATED && e->size / LARGEST_RATIO > e->stored_size)) {
    return KILN_FAIL(KILN_INVALID_FILE,
                     "zip entry '%s': %zu bytes claim to inflate to %zu; refused as a decompression bomb", e->name,
                     e->stored_size, e->size);
  }
  return KILN_OK;
}

/* Finds an entry's data behind its local header. */
static kiln_status locate_data(const reader *r, uint64_t directory_offset, const uint8_t *name, size_t name_length,
                               zip_entry *e) {
  const uint8_t *p = r->bytes + e->header;
  if (!inside(r, e->header, LOCAL_HEADER) || !has_signature(p, 3, 4)) {
    return KILN_FAIL(KILN_INVALID_FILE, "zip entry '%s': no local header at offset %zu; the file is damaged", e->name,
                     e->header);
  }
  const uint64_t data = (uint64_t)e->header + LOCAL_HEADER + u16(p + 26) + u16(p + 28);
  if (data > directory_offset || e->stored_size > directory_offset - data) {
    return KILN_FAIL(KILN_INVALID_FILE,
                     "zip entry '%s': its %zu bytes reach outside the file; it is damaged or cut short", e->name,
                     e->stored_size);
  }
  if (u16(p + 8) != e->method || u16(p + 26) != name_length || memcmp(p + LOCAL_HEADER, name, name_length) != 0) {
    return KILN_FAIL(KILN_INVALID_FILE, "zip entry '%s': its local header tells of another entry; the file is damaged",
                     e->name);
  }
  e->data = r->bytes + data;
  return KILN_OK;
}

static kiln_status read_entry(const reader *r, const directory *dir, uint64_t *at, zip *z, zip_entry *e) {
  const uint64_t end = dir->offset + dir->size;
  if (end - *at < CENTRAL_HEADER || !has_signature(r->bytes + *at, 1, 2)) return damaged("its directory is broken off");
  const uint8_t *p = r->bytes + *at;
  const size_t name_length = u16(p + 28), extra_length = u16(p + 30), comment_length = u16(p + 32);
  const size_t length = CENTRAL_HEADER + name_length + extra_length + comment_length;
  if (end - *at < length) return damaged("its directory is broken off");
  *at += length;
  const uint8_t *name = p + CENTRAL_HEADER;
  if (name_length == 0 || memchr(name, 0, name_length) != NULL)
    return damaged("an entry has an empty name or a NUL in it");
  e->name = arena_strndup(&z->arena, (const char *)name, name_length);
  if (e->name == NULL) return KILN_NO_MEMORY("zip directory");
  if ((u16(p + 8) & 1) != 0) return KILN_FAIL(KILN_UNSUPPORTED, "zip entry '%s' is encrypted", e->name);
  uint64_t size = u32(p + 24), stored_size = u32(p + 20), header = u32(p + 42);
  if (!read_zip64_extra(name + name_length, extra_length, &size, &stored_size, &header)) {
    return KILN_FAIL(KILN_INVALID_FILE, "zip entry '%s': its extra fields are damaged", e->name);
  }
  if (!inside(r, header, stored_size) || size > SIZE_MAX / 2) {
    return KILN_FAIL(KILN_INVALID_FILE,
                     "zip entry '%s': its %llu bytes reach outside the file; it is damaged or cut short", e->name,
                     (unsigned long long)stored_size);
  }
  e->size = (size_t)size;
  e->stored_size = (size_t)stored_size;
  e->header = (size_t)header;
  e->crc = u32(p + 16);
  e->method = u16(p + 10);
  KILN_TRY(locate_data(r, dir->offset, name, name_length, e));
  return check_sizes(e);
}

static int by_offset(const void *a, const void *b) {
  const zip_entry *x = a, *y = b;
  return (x->header > y->header) - (x->header < y->header);
}

static int by_name(const void *a, const void *b) {
  return strcmp(((const zip_entry *)a)->name, ((const zip_entry *)b)->name);
}

/* Leaves the entries sorted by name. */
static kiln_status check_entries(const reader *r, zip *z) {
  size_t inflated = 0;
  if (z->count > 1) qsort(z->entries, z->count, sizeof *z->entries, by_offset);
  for (size_t i = 0; i < z->count; i++) {
    const zip_entry *e = &z->entries[i];
    if (i + 1 < z->count && (const uint8_t *)e->data + e->stored_size > r->bytes + z->entries[i + 1].header) {
      return KILN_FAIL(KILN_INVALID_FILE, "zip entries '%s' and '%s' overlap; the archive is damaged or hostile",
                       e->name, z->entries[i + 1].name);
    }
    if (e->method == 8 && !size_add(inflated, e->size, &inflated)) inflated = SIZE_MAX;
  }
  if (inflated > 2 * LARGEST_INFLATED) {
    return KILN_FAIL(KILN_INVALID_FILE,
                     "zip archive: its entries claim to inflate to %zu bytes; refused as a decompression bomb",
                     inflated);
  }
  if (z->count > 1) qsort(z->entries, z->count, sizeof *z->entries, by_name);
  for (size_t i = 0; i + 1 < z->count; i++) {
    if (strcmp(z->entries[i].name, z->entries[i + 1].name) == 0) {
      return KILN_FAIL(KILN_INVALID_FILE, "zip archive: two entries are named '%s'; the archive is damaged or hostile",
                       z->entries[i].name);
    }
  }
  return KILN_OK;
}

/* PyTorch puts all entries into one folder named after the file. */
static size_t common_folder(const zip *z) {
  const char *slash = z->count > 0 ? strchr(z->entries[0].name, '/') : NULL;
  if (slash == NULL) return 0;
  const size_t length = (size_t)(slash - z->entries[0].name) + 1;
  for (size_t i = 1; i < z->count; i++) {
    if (strncmp(z->entries[i].name, z->entries[0].name, length) != 0) return 0;
  }
  return length;
}

static kiln_status open_entries(const reader *r, zip *z) {
  directory dir;
  KILN_TRY(find_directory(r, &dir));
  z->count = (size_t)dir.count;
  z->entries = ARENA_ARRAY(&z->arena, zip_entry, z->count);
  if (z->entries == NULL) return KILN_NO_MEMORY("zip directory");
  uint64_t at = dir.offset;
  for (size_t i = 0; i < z->count; i++) KILN_TRY(read_entry(r, &dir, &at, z, &z->entries[i]));
  KILN_TRY(check_entries(r, z));
  z->prefix = common_folder(z);
  return KILN_OK;
}

kiln_status zip_open(const void *bytes, size_t size, zip *out_zip) {
  const reader r = {bytes, size};
  zip z = {0};
  const kiln_status status = open_entries(&r, &z);
  if (status != KILN_OK) {
    zip_close(&z);
    return status;
  }
  *out_zip = z;
  return KILN_OK;
}

void zip_close(zip *z) {
  arena_free(&z->arena);
  *z = (zip){0};
}

/* Binary search; all names share the first `skip` bytes when skip > 0, so their order is that of what follows. */
static const zip_entry *find_sorted(const zip *z, size_t skip, const char *name) {
  size_t low = 0, high = z->count;
  while (low < high) {
    const size_t middle = low + (high - low) / 2;
    const int order = strcmp(z->entries[middle].name + skip, name);
    if (order == 0) return &z->entries[middle];
    if (order < 0) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return NULL;
}

const zip_entry *zip_find(const zip *z, const char *name) {
  const zip_entry *e = find_sorted(z, 0, name);
  return e == NULL && z->prefix > 0 ? find_sorted(z, z->prefix, name) : e;
}

kiln_status zip_require(const zip *z, const char *name, const zip_entry **out_entry) {
  const zip_entry *e = zip_find(z, name);
  if (e == NULL) {
    return KILN_FAIL(KILN_INVALID_FILE, "zip archive: no entry '%s' among its %zu entries", name, z->count);
  }
  *out_entry = e;
  return KILN_OK;
}

static void *zlib_alloc(void *user, unsigned count, unsigned size) {
  (void)user;
  return mem_calloc(count, size);
}

static void zlib_free(void *user, void *block) {
  (void)user;
  mem_free(block);
}

static kiln_status test_checksum(const zip_entry *e, const void *bytes) {
  uLong crc = crc32(0, NULL, 0);
  const Bytef *p = bytes;
  for (size_t left = e->size; left > 0;) {
    const uInt n = left < ((uInt)1 << 30) ? (uInt)left : (uInt)1 << 30;
    crc = crc32(crc, p, n);
    p += n;
    left -= n;
  }
  if ((uint32_t)crc == e->crc) return KILN_OK;
  return KILN_FAIL(KILN_INVALID_FILE, "zip entry '%s': its checksum is %08x, expected %08x; the file is damaged",
                   e->name, (unsigned)crc, (unsigned)e->crc);
}

/* Inflates to exactly e->size bytes. Sizes fit 32 bits: check_sizes limits one, and deflate never grows more than a
 * bit. */
static kiln_status inflate_entry(const zip_entry *e, uint8_t *out) {
  if (e->stored_size > UINT32_MAX)
    return KILN_FAIL(KILN_INVALID_FILE, "zip entry '%s' is too large to inflate", e->name);
  z_stream stream = {.zalloc = zlib_alloc, .zfree = zlib_free};
  const int begun = inflateInit2(&stream, -MAX_WBITS);
  if (begun == Z_MEM_ERROR) return KILN_NO_MEMORY("inflating a zip entry");
  if (begun != Z_OK) return KILN_FAIL(KILN_INTERNAL, "zlib refuses to start (%d)", begun);
  stream.next_in = (z_const Bytef *)e->data;
  stream.avail_in = (uInt)e->stored_size;
  stream.next_out = out;
  stream.avail_out = (uInt)e->size;
  const int result = inflate(&stream, Z_FINISH);
  const bool complete = result == Z_STREAM_END && stream.avail_out == 0 && stream.avail_in == 0;
  (void)inflateEnd(&stream);
  if (result == Z_MEM_ERROR) return KILN_NO_MEMORY("inflating a zip entry");
  if (complete) return KILN_OK;
  return KILN_FAIL(KILN_INVALID_FILE,
                   "zip entry '%s': its compressed data do not inflate to %zu bytes; the file is damaged", e->name,
                   e->size);
}

kiln_status zip_read(const zip_entry *e, arena *a, const void **out_bytes, size_t *out_size) {
  const void *bytes = e->data;
  if (e->method == 8) {
    uint8_t *inflated = arena_alloc(a, e->size + 1); /* one more: zlib wants an output buffer also for nothing */
    if (inflated == NULL) return KILN_NO_MEMORY(e->name);
    KILN_TRY(inflate_entry(e, inflated));
    bytes = inflated;
  }
  if (e->method == 8 || e->size <= TESTED_STORED_SIZE) KILN_TRY(test_checksum(e, bytes));
  *out_bytes = bytes;
  *out_size = e->size;
  return KILN_OK;
}
