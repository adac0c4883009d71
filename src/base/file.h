/* Files: read-only maps and atomic writes. Errors name the path and the system's reason. */
#ifndef KILN_BASE_FILE_H
#define KILN_BASE_FILE_H

#include "base/status.h"

typedef struct file_map {
  const void *data; /* never NULL after a successful file_map_open, also for empty files */
  size_t size;
  void *mapping;
} file_map;

/* Maps a regular file (directories, devices and missing files are refused with a text). */
kiln_status file_map_open(const char *path, file_map *out_map);
void file_map_close(file_map *m);

/* Writes `count` spans one after another to a temporary file beside `path`, syncs it, and renames it to `path`. On
 * failure the temporary is removed and `path` is as it was. */
typedef struct file_span {
  const void *data;
  size_t size;
} file_span;
kiln_status file_write_atomic(const char *path, const file_span *spans, size_t count);

#endif
