/* Arena: many small objects, freed together. A failed allocation is sticky: every later one fails too, so code that
 * builds a graph may check once at the end. */
#ifndef KILN_BASE_ARENA_H
#define KILN_BASE_ARENA_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct arena_block arena_block;
typedef struct arena {
  arena_block *blocks;
  size_t used, capacity; /* of the newest block */
  bool failed;
} arena; /* zero-initialized is empty */

void *arena_alloc(arena *a, size_t size);               /* zeroed, aligned to 16; NULL when out of memory */
void *arena_array(arena *a, size_t count, size_t size); /* same; NULL also on overflow */
void *arena_copy(arena *a, const void *bytes, size_t size);
char *arena_strdup(arena *a, const char *text);
char *arena_strndup(arena *a, const char *text, size_t length);
char *arena_printf(arena *a, const char *fmt, ...) KILN_PRINTF(2, 3);
void arena_free(arena *a); /* frees all; the arena is empty and usable again */

#define ARENA_NEW(a, type) ((type *)arena_alloc((a), sizeof(type)))
#define ARENA_ARRAY(a, type, count) ((type *)arena_array((a), (size_t)(count), sizeof(type)))

#endif
