/* Makes a zip archive of stored entries, for tests of importers. */
#ifndef KILN_TESTS_ZIP_WRITER_H
#define KILN_TESTS_ZIP_WRITER_H

#include <zlib.h>

#include "base/text.h"

typedef struct zip_part {
  const char *name;
  const void *data;
  size_t size;
} zip_part;

static inline void zip_put(text *t, uint32_t v, int bytes) {
  for (int i = 0; i < bytes; i++) text_putc(t, (char)(v >> (8 * i) & 255));
}

static inline void zip_header(text *t, const zip_part *e, bool central, uint32_t offset) {
  const uint32_t crc = (uint32_t)crc32(0, e->data, (uInt)e->size);
  text_append(t, central ? "PK\1\2" : "PK\3\4", 4);
  if (central) zip_put(t, 20, 2);
  zip_put(t, 20, 2), zip_put(t, 0, 2), zip_put(t, 0, 2), zip_put(t, 0, 4); /* version, flags, method, time */
  zip_put(t, crc, 4), zip_put(t, (uint32_t)e->size, 4), zip_put(t, (uint32_t)e->size, 4);
  zip_put(t, (uint32_t)strlen(e->name), 2), zip_put(t, 0, 2);
  if (central) zip_put(t, 0, 2), zip_put(t, 0, 2), zip_put(t, 0, 2), zip_put(t, 0, 4), zip_put(t, offset, 4);
  text_puts(t, e->name);
}

static inline void zip_write(const zip_part *parts, int n, text *out) {
  text directory = {0};
  for (int i = 0; i < n; i++) {
    zip_header(&directory, &parts[i], true, (uint32_t)out->length);
    zip_header(out, &parts[i], false, 0);
    text_append(out, parts[i].data, parts[i].size);
  }
  const uint32_t start = (uint32_t)out->length;
  text_append(out, directory.data, directory.length);
  text_append(out, "PK\5\6", 4);
  zip_put(out, 0, 4), zip_put(out, (uint32_t)n, 2), zip_put(out, (uint32_t)n, 2);
  zip_put(out, (uint32_t)directory.length, 4), zip_put(out, start, 4), zip_put(out, 0, 2);
  text_free(&directory);
}

#endif
