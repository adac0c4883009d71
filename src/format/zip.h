/* ZIP archives in memory, read-only: zip64, data descriptors, stored and deflated entries. The bytes may come from a
 * stranger: overlaps, duplicate names, entries outside the file and decompression bombs are refused. */
#ifndef KILN_FORMAT_ZIP_H
#define KILN_FORMAT_ZIP_H

#include "base/arena.h"
#include "base/status.h"

typedef struct zip_entry {
  const char *name; /* NUL-terminated, no NUL inside */
  const void *data; /* the entry's bytes as they lie in the archive */
  size_t stored_size, size;
  size_t header; /* offset of its local header */
  uint32_t crc;
  uint16_t method; /* 0 stored, 8 deflated */
} zip_entry;

typedef struct zip {
  zip_entry *entries; /* sorted by name */
  size_t count;
  size_t prefix; /* length of the folder that all names begin with ("model/"), 0 if there is none */
  arena arena;
} zip;

/* Borrows `bytes` until zip_close. */
kiln_status zip_open(const void *bytes, size_t size, zip *out_zip);
void zip_close(zip *z);
/* The entry of exactly this name, else the one of this name inside the archive's folder; NULL if there is none. */
const zip_entry *zip_find(const zip *z, const char *name);
/* The same, but absence is an error that names the entry. */
kiln_status zip_require(const zip *z, const char *name, const zip_entry **out_entry);
/* The entry's name without the archive's folder. */
static inline const char *zip_short_name(const zip *z, const zip_entry *e) { return e->name + z->prefix; }
/* The entry's contents: in place for stored entries (checksum tested up to 1 MiB only, so that large weights are not
 * paged in), else inflated into `a` and tested. */
kiln_status zip_read(const zip_entry *e, arena *a, const void **out_bytes, size_t *out_size);

#endif
