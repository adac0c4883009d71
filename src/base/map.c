/* Hash map: open addressing with linear probing, at most half full. Number keys are mixed first, so that multiples of a
 * power of two (addresses) spread. */
#include "base/map.h"

#include <string.h>

#include "base/memory.h"

uint64_t hash_bytes(const void *bytes, size_t size, uint64_t seed) {
  const unsigned char *p = bytes;
  uint64_t hash = 0xcbf29ce484222325u ^ seed;
  for (size_t i = 0; i < size; i++) hash = (hash ^ p[i]) * 0x100000001b3u;
  return hash;
}

/* Finalizer of splitmix64. */
static uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

/* The slot that holds the key, or the free slot where it belongs. `key` is NULL for number keys. */
static map_entry *find_slot(const map *m, const char *key, uint64_t number) {
  const size_t mask = m->capacity - 1;
  for (size_t i = (size_t)mix(number) & mask;; i = (i + 1) & mask) {
    map_entry *entry = &m->entries[i];
    if (!entry->used) return entry;
    if (entry->number != number || (entry->key == NULL) != (key == NULL)) continue;
    if (key == NULL || strcmp(entry->key, key) == 0) return entry;
  }
}

static bool grow(map *m) {
  size_t capacity;
  if (!size_mul(m->capacity == 0 ? 8 : m->capacity, 2, &capacity)) return false;
  map bigger = {mem_calloc(capacity, sizeof(map_entry)), m->count, capacity};
  if (bigger.entries == NULL) return false;
  for (size_t i = 0; i < m->capacity; i++) {
    const map_entry *old = &m->entries[i];
    if (old->used) *find_slot(&bigger, old->key, old->number) = *old;
  }
  mem_free(m->entries);
  *m = bigger;
  return true;
}

static bool put(map *m, const char *key, uint64_t number, void *value) {
  if (m->capacity > 0) {
    map_entry *entry = find_slot(m, key, number);
    if (entry->used) {
      entry->value = value;
      return true;
    }
  }
  if (m->count >= m->capacity / 2 && !grow(m)) return false;
  *find_slot(m, key, number) = (map_entry){key, number, value, true};
  m->count++;
  return true;
}

static const map_entry *get(const map *m, const char *key, uint64_t number) {
  if (m->count == 0) return NULL;
  const map_entry *entry = find_slot(m, key, number);
  return entry->used ? entry : NULL;
}

bool map_put(map *m, const char *key, void *value) { return put(m, key, hash_bytes(key, strlen(key), 0), value); }

void *map_get(const map *m, const char *key) {
  const map_entry *entry = get(m, key, hash_bytes(key, strlen(key), 0));
  return entry != NULL ? entry->value : NULL;
}

bool map_has(const map *m, const char *key) { return get(m, key, hash_bytes(key, strlen(key), 0)) != NULL; }

bool map_put_number(map *m, uint64_t key, void *value) { return put(m, NULL, key, value); }

void *map_get_number(const map *m, uint64_t key) {
  const map_entry *entry = get(m, NULL, key);
  return entry != NULL ? entry->value : NULL;
}

void map_free(map *m) {
  mem_free(m->entries);
  *m = (map){0};
}
