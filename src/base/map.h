/* Hash map from strings or 64-bit keys to pointers. Keys are borrowed. Open addressing, FNV-1a. */
#ifndef KILN_BASE_MAP_H
#define KILN_BASE_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct map_entry {
  const char *key; /* NULL: empty slot (string maps) */
  uint64_t number; /* hash for string maps, the key itself for number maps */
  void *value;
  bool used;
} map_entry;

typedef struct map {
  map_entry *entries;
  size_t count, capacity;
} map; /* zero-initialized is empty */

/* Returns false when out of memory. A second put of a key replaces its value. */
bool map_put(map *m, const char *key, void *value);
void *map_get(const map *m, const char *key); /* NULL if absent */
bool map_has(const map *m, const char *key);
bool map_put_number(map *m, uint64_t key, void *value);
void *map_get_number(const map *m, uint64_t key);
void map_free(map *m);
uint64_t hash_bytes(const void *bytes, size_t size, uint64_t seed);

#endif
