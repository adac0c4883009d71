/* Blobs, see blob.h: the bytes lie in an anonymous memory file that is mapped once for reading, and once more,
 * copy-on-write, for each copy. Mappings keep the memory alive on their own, also in child processes. */
#define _GNU_SOURCE
#include "torch_op/blob.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* A process has few file descriptors (1,024 by default): with more blobs than this, their copies are real. */
enum { LARGEST_DESCRIPTOR = 256 };

static void *map(size_t size, int protection, int flags, int file) {
  void *at = mmap(NULL, size, protection, flags, file, 0);
  return at == MAP_FAILED ? NULL : at;
}

static bool write_all(int file, const char *bytes, size_t size) {
  while (size > 0) {
    const ssize_t n = write(file, bytes, size < ((size_t)1 << 30) ? size : (size_t)1 << 30);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    bytes += n;
    size -= (size_t)n;
  }
  return true;
}

bool blob_create(const void *bytes, size_t size, blob *out) {
  blob b = {.size = size, .file = -1};
  if (size == 0) return false;
#ifdef MFD_CLOEXEC
  b.file = memfd_create("kiln engine", MFD_CLOEXEC);
  if (b.file >= 0 && write_all(b.file, bytes, size)) b.data = map(size, PROT_READ, MAP_SHARED, b.file);
  if (b.file >= 0 && (!b.data || b.file > LARGEST_DESCRIPTOR)) {
    close(b.file);
    b.file = -1;
  }
#endif
  if (!b.data) {
    void *plain = map(size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    if (!plain) return false;
    memcpy(plain, bytes, size);
    b.data = plain;
  }
  *out = b;
  return true;
}

void blob_destroy(blob *b) {
  if (b->data) munmap((void *)(size_t)b->data, b->size);
  if (b->file >= 0) close(b->file);
  *b = (blob){.file = -1};
}

void *blob_copy(const blob *b) {
  void *copy = NULL;
  if (b->file >= 0) copy = map(b->size, PROT_READ | PROT_WRITE, MAP_PRIVATE, b->file);
  if (copy) return copy;
  copy = map(b->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
  if (copy) memcpy(copy, b->data, b->size);
  return copy;
}

void blob_copy_free(void *copy, size_t size) {
  if (copy) munmap(copy, size);
}
