/* A heap with a ceiling, for targets where a hostile size may rightly lead to a large allocation: it then fails instead
 * of swapping the machine. */
#ifndef KILN_TESTS_FUZZ_BOUNDED_H
#define KILN_TESTS_FUZZ_BOUNDED_H

#include <kiln/kiln.h>
#include <stdlib.h>

enum { BOUNDED_CEILING = 64 << 20, BOUNDED_HEADER = 16 };

static size_t bounded_used;

static inline void *bounded_allocate(void *user, size_t size) {
  (void)user;
  if (size > BOUNDED_CEILING || bounded_used + size > BOUNDED_CEILING) return NULL;
  char *memory = malloc(size + BOUNDED_HEADER);
  if (memory == NULL) return NULL;
  *(size_t *)(void *)memory = size;
  bounded_used += size;
  return memory + BOUNDED_HEADER;
}

static inline void bounded_release(void *user, void *memory) {
  (void)user;
  if (memory == NULL) return;
  char *origin = (char *)memory - BOUNDED_HEADER;
  bounded_used -= *(size_t *)(void *)origin;
  free(origin);
}

/* Once, before anything else is called. */
static inline void bounded_install(void) {
  static const kiln_allocator bounded = {bounded_allocate, bounded_release, NULL};
  static int done;
  if (!done) kiln_set_allocator(&bounded);
  done = 1;
}

#endif
