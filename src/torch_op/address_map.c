/* See address_map.h. Open addressing with linear probing; a removed entry keeps its place (REMOVED) while entries
 * behind it may have been put there because of it. A writer publishes a value before its key, and a key never changes
 * while its owner lives, so a reader that sees its key sees its value. */
#include "torch_op/address_map.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

typedef struct entry {
  _Atomic(uintptr_t) key; /* 0: never used */
  _Atomic(void *) value;
} entry;

typedef struct table {
  size_t capacity;     /* a power of two, at least twice `used` */
  size_t used;         /* entries with a key, removed ones included */
  struct table *older; /* kept, so that leak checkers see that it is meant to be */
  entry entries[];
} table;

static const uintptr_t REMOVED = 1;
static _Atomic(table *) current;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static size_t hash(uintptr_t key) { /* Fibonacci hashing; tensors of engines start at pages */
  return (size_t)(((uint64_t)key >> 12) * UINT64_C(0x9e3779b97f4a7c15) >> 32);
}

static entry *find_entry(table *t, uintptr_t key) {
  for (size_t i = hash(key) & (t->capacity - 1);; i = (i + 1) & (t->capacity - 1)) {
    const uintptr_t found = atomic_load_explicit(&t->entries[i].key, memory_order_acquire);
    if (found == key) return &t->entries[i];
    if (found == 0) return NULL;
  }
}

void *address_map_find(const void *key) {
  table *t = atomic_load_explicit(&current, memory_order_acquire);
  entry *e = t && (uintptr_t)key > REMOVED ? find_entry(t, (uintptr_t)key) : NULL;
  return e ? atomic_load_explicit(&e->value, memory_order_relaxed) : NULL;
}

static void put(table *t, uintptr_t key, void *value) {
  size_t i = hash(key) & (t->capacity - 1);
  while (atomic_load_explicit(&t->entries[i].key, memory_order_relaxed) > REMOVED) i = (i + 1) & (t->capacity - 1);
  if (atomic_load_explicit(&t->entries[i].key, memory_order_relaxed) == 0) t->used++;
  atomic_store_explicit(&t->entries[i].value, value, memory_order_relaxed);
  atomic_store_explicit(&t->entries[i].key, key, memory_order_release);
}

static bool grow(void) {
  table *old = atomic_load_explicit(&current, memory_order_relaxed);
  const size_t capacity = old ? old->capacity * 2 : 64;
  table *t = calloc(1, sizeof *t + capacity * sizeof *t->entries);
  if (!t) return false;
  t->capacity = capacity;
  t->older = old;
  for (size_t i = 0; old && i < old->capacity; i++) {
    const uintptr_t key = atomic_load_explicit(&old->entries[i].key, memory_order_relaxed);
    if (key > REMOVED) put(t, key, atomic_load_explicit(&old->entries[i].value, memory_order_relaxed));
  }
  atomic_store_explicit(&current, t, memory_order_release);
  return true;
}

bool address_map_add(const void *key, void *value) {
  pthread_mutex_lock(&lock);
  const table *t = atomic_load_explicit(&current, memory_order_relaxed);
  const bool ok = (t && 2 * (t->used + 1) <= t->capacity) || grow();
  if (ok) put(atomic_load_explicit(&current, memory_order_relaxed), (uintptr_t)key, value);
  pthread_mutex_unlock(&lock);
  return ok;
}

/* Removed entries before a place that was never used are on no live key's path. */
static void clean(table *t, size_t i) {
  if (atomic_load_explicit(&t->entries[(i + 1) & (t->capacity - 1)].key, memory_order_relaxed) != 0) return;
  for (; atomic_load_explicit(&t->entries[i].key, memory_order_relaxed) == REMOVED; i = (i - 1) & (t->capacity - 1)) {
    atomic_store_explicit(&t->entries[i].key, 0, memory_order_relaxed);
    t->used--;
  }
}

void address_map_remove(const void *key) {
  pthread_mutex_lock(&lock);
  table *t = atomic_load_explicit(&current, memory_order_relaxed);
  entry *e = t ? find_entry(t, (uintptr_t)key) : NULL;
  if (e) {
    atomic_store_explicit(&e->key, REMOVED, memory_order_relaxed);
    clean(t, (size_t)(e - t->entries));
  }
  pthread_mutex_unlock(&lock);
}
