/* Files by POSIX calls. An atomic write is: a temporary beside the target (same file system), write, fsync, rename,
 * fsync of the folder. */
#define _GNU_SOURCE
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/memory.h"
#include "base/text.h"

enum { REASON_SIZE = 128 };

static const char *reason(int error, char *buffer) { return strerror_r(error, buffer, REASON_SIZE); }

static kiln_status fail_system(const char *what, const char *path, int error) {
  char buffer[REASON_SIZE];
  if (error == ENOMEM) return KILN_FAIL(KILN_OUT_OF_MEMORY, "cannot %s '%s': %s", what, path, reason(error, buffer));
  return KILN_FAIL(KILN_IO_ERROR, "cannot %s '%s': %s", what, path, reason(error, buffer));
}

static kiln_status map_descriptor(int fd, const char *path, file_map *out_map) {
  static const uint64_t nothing[8];
  struct stat info;
  if (fstat(fd, &info) != 0) return fail_system("read", path, errno);
  if (S_ISDIR(info.st_mode)) return KILN_FAIL(KILN_IO_ERROR, "cannot read '%s': it is a folder, not a file", path);
  if (!S_ISREG(info.st_mode)) {
    return KILN_FAIL(KILN_IO_ERROR, "cannot read '%s': it is not a regular file and cannot be mapped", path);
  }
  if (info.st_size == 0) {
    *out_map = (file_map){nothing, 0, NULL};
    return KILN_OK;
  }
  const size_t size = (size_t)info.st_size;
  void *mapping = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
  if (mapping == MAP_FAILED) return fail_system("map", path, errno);
  *out_map = (file_map){mapping, size, mapping};
  return KILN_OK;
}

kiln_status file_map_open(const char *path, file_map *out_map) {
  const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* non-blocking: a pipe must not hang us */
  if (fd < 0) return fail_system("open", path, errno);
  const kiln_status status = map_descriptor(fd, path, out_map);
  close(fd);
  return status;
}

void file_map_close(file_map *m) {
  if (m->mapping != NULL) munmap(m->mapping, m->size);
  *m = (file_map){0};
}

static kiln_status write_spans(int fd, const char *path, const file_span *spans, size_t count) {
  enum { LARGEST_WRITE = 1 << 30 };
  for (size_t i = 0; i < count; i++) {
    const char *bytes = spans[i].data;
    for (size_t left = spans[i].size; left > 0;) {
      const ssize_t n = write(fd, bytes, left < LARGEST_WRITE ? left : LARGEST_WRITE);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return fail_system("write", path, errno);
      if (n == 0) return fail_system("write", path, ENOSPC);
      bytes += n;
      left -= (size_t)n;
    }
  }
  if (fsync(fd) != 0 && errno != EINVAL) return fail_system("write", path, errno);
  return KILN_OK;
}

/* The rename is durable only after its folder is synced; a folder that refuses that is no failure of the write. */
static void sync_folder(const char *path) {
  const char *slash = strrchr(path, '/');
  text folder = {0};
  if (slash == NULL) {
    text_putc(&folder, '.');
  } else {
    text_append(&folder, path, slash == path ? 1 : (size_t)(slash - path));
  }
  const int fd = folder.failed ? -1 : open(folder.data, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  text_free(&folder);
  if (fd < 0) return;
  (void)fsync(fd);
  close(fd);
}

static kiln_status write_and_rename(int fd, const char *temporary, const char *path, const file_span *spans,
                                    size_t count) {
  const kiln_status status = write_spans(fd, path, spans, count);
  if (close(fd) != 0 && status == KILN_OK) return fail_system("write", path, errno);
  if (status != KILN_OK) return status;
  if (rename(temporary, path) != 0) return fail_system("replace", path, errno);
  return KILN_OK;
}

kiln_status file_write_atomic(const char *path, const file_span *spans, size_t count) {
  static atomic_uint counter;
  struct stat info;
  if (stat(path, &info) == 0 && !S_ISREG(info.st_mode)) {
    return KILN_FAIL(KILN_IO_ERROR, "cannot write '%s': it exists and is %s, not a regular file", path,
                     S_ISDIR(info.st_mode) ? "a folder" : "a device or pipe");
  }
  int fd = -1;
  text temporary = {0};
  for (int attempt = 0; attempt < 100; attempt++) {
    temporary.length = 0;
    text_printf(&temporary, "%s.tmp-%ld-%u", path, (long)getpid(), atomic_fetch_add(&counter, 1));
    if (temporary.failed) return text_free(&temporary), KILN_NO_MEMORY("name of a temporary file");
    fd = open(temporary.data, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd >= 0 || errno != EEXIST) break;
  }
  if (fd < 0) {
    const kiln_status status = fail_system("write", path, errno);
    text_free(&temporary);
    return status;
  }
  const kiln_status status = write_and_rename(fd, temporary.data, path, spans, count);
  if (status != KILN_OK) {
    unlink(temporary.data);
  } else {
    sync_folder(path);
  }
  text_free(&temporary);
  return status;
}
