/* Arena: a list of blocks, each twice as large as the last; objects are cut from the newest. */
#include "base/arena.h"

#include <stdio.h>
#include <string.h>

#include "base/memory.h"

enum { ALIGNMENT = 16, FIRST_BLOCK = 4096, LARGEST_BLOCK = 1 << 20 };

struct arena_block {
  arena_block *next;
  size_t size;
};

static bool add_block(arena *a, size_t size) {
  size_t bytes;
  if (!size_add(size, sizeof(arena_block), &bytes)) return false;
  arena_block *block = mem_alloc(bytes);
  if (block == NULL) return false;
  block->next = a->blocks;
  block->size = size;
  a->blocks = block;
  a->used = 0;
  a->capacity = size;
  return true;
}

/* A large object gets a block of its own behind the newest one, so that the newest one's rest is not wasted. */
static void *alloc_large(arena *a, size_t size) {
  if (a->blocks == NULL && !add_block(a, FIRST_BLOCK)) return NULL;
  size_t bytes;
  if (!size_add(size, sizeof(arena_block), &bytes)) return NULL;
  arena_block *block = mem_calloc(1, bytes);
  if (block == NULL) return NULL;
  block->size = size;
  block->next = a->blocks->next;
  a->blocks->next = block;
  return block + 1;
}

void *arena_alloc(arena *a, size_t size) {
  if (a->failed) return NULL;
  if (mem_test_refuses()) {
    a->failed = true;
    return NULL;
  }
  void *object = NULL;
  if (size > LARGEST_BLOCK / 4) {
    object = alloc_large(a, size);
  } else {
    size = size_align(size == 0 ? 1 : size, ALIGNMENT);
    if (a->capacity - a->used < size) {
      size_t next = a->capacity == 0 ? FIRST_BLOCK : a->capacity * 2;
      if (next > LARGEST_BLOCK) next = LARGEST_BLOCK;
      while (next < size) next *= 2;
      if (!add_block(a, next)) {
        a->failed = true;
        return NULL;
      }
    }
    object = (char *)(a->blocks + 1) + a->used;
    a->used += size;
    memset(object, 0, size);
  }
  if (object == NULL) a->failed = true;
  return object;
}

void *arena_array(arena *a, size_t count, size_t size) {
  size_t bytes;
  if (!size_mul(count, size, &bytes)) {
    a->failed = true;
    return NULL;
  }
  return arena_alloc(a, bytes);
}

void *arena_copy(arena *a, const void *bytes, size_t size) {
  void *copy = arena_alloc(a, size);
  if (copy != NULL && size > 0) memcpy(copy, bytes, size);
  return copy;
}

char *arena_strndup(arena *a, const char *text, size_t length) {
  size_t bytes;
  if (!size_add(length, 1, &bytes)) {
    a->failed = true;
    return NULL;
  }
  char *copy = arena_alloc(a, bytes);
  if (copy != NULL && length > 0) memcpy(copy, text, length);
  return copy;
}

char *arena_strdup(arena *a, const char *text) { return arena_strndup(a, text, strlen(text)); }

char *arena_printf(arena *a, const char *fmt, ...) {
  va_list args, again;
  va_start(args, fmt);
  va_copy(again, args);
  const int length = vsnprintf(NULL, 0, fmt, args);
  va_end(args);
  char *out = length < 0 ? NULL : arena_alloc(a, (size_t)length + 1);
  if (out != NULL) vsnprintf(out, (size_t)length + 1, fmt, again);
  va_end(again);
  return out;
}

void arena_free(arena *a) {
  for (arena_block *block = a->blocks; block != NULL;) {
    arena_block *next = block->next;
    mem_free(block);
    block = next;
  }
  *a = (arena){0};
}
