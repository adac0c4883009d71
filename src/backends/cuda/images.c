/* Compiled kernels as one block of bytes, which engine files keep: opened on the same kind of GPU, they need no compiler.
 *
 *   0  "KCUB"  count:u32  then entries of {key[32] offset:u64 size:u64}, then the code, at multiples of 16.
 * A key is the hash of text, architecture and entry (compile.c), so code for other shapes is never mistaken. Plans of cuDNN lie there too. */
#include <stdio.h>
#include <string.h>

#include "backends/cuda/internal.h"
#include "base/memory.h"

enum { KEY = 32, ALIGN = 16 };
static const char magic[4] = "KCUB";

typedef struct images_head {
  char magic[4];
  uint32_t count;
} images_head;

typedef struct image_entry {
  char key[KEY];
  uint64_t offset, size;
} image_entry;

typedef struct cuda_images {
  const char *bytes;
  size_t size;
  uint32_t count;
  int references;
  struct cuda_images *next;
} cuda_images;

static image_entry entry_of(const cuda_images *x, uint32_t i) {
  image_entry e;
  memcpy(&e, x->bytes + sizeof(images_head) + i * sizeof e, sizeof e);
  return e;
}

/* ---- making --------------------------------------------------------------------------------------------------------- */

/* Which of those before `f` has the same code; -1: none. */
static int64_t same_before(const device *d, const cuda_function *f) {
  int64_t i = 0;
  for (const cuda_function *other = d->functions; other != f; other = other->next) {
    if (other->image == f->image) return i;
    i += other->image != NULL;
  }
  return -1;
}

static void measure(const device *d, uint32_t *out_count, size_t *out_bytes) {
  *out_count = 0;
  *out_bytes = 0;
  for (const cuda_function *f = d->functions; f; f = f->next) {
    if (!f->image) continue;
    ++*out_count;
    if (same_before(d, f) < 0) *out_bytes += size_align(f->image_bytes, ALIGN);
  }
}

kiln_status cuda_images_make(device *d, void **out_bytes, size_t *out_size) {
  uint32_t count = 0, i = 0;
  size_t code = 0;
  pthread_mutex_lock(&d->lock);
  measure(d, &count, &code);
  const size_t table = size_align(sizeof(images_head) + count * sizeof(image_entry), ALIGN);
  char *bytes = mem_calloc(1, table + code);
  if (!bytes) {
    pthread_mutex_unlock(&d->lock);
    return KILN_NO_MEMORY("compiled kernels");
  }
  images_head head = {.count = count};
  memcpy(head.magic, magic, sizeof magic);
  memcpy(bytes, &head, sizeof head);
  size_t at = table;
  for (const cuda_function *f = d->functions; f; f = f->next) {
    if (!f->image) continue;
    image_entry e = {.offset = at, .size = f->image_bytes};
    const int64_t same = same_before(d, f);
    if (same >= 0) memcpy(&e, bytes + sizeof head + (size_t)same * sizeof e, sizeof e);
    memcpy(e.key, f->key, KEY);
    memcpy(bytes + sizeof head + i++ * sizeof e, &e, sizeof e);
    if (same >= 0) continue; /* compiled together */
    memcpy(bytes + at, f->image, f->image_bytes);
    at += size_align(f->image_bytes, ALIGN);
  }
  pthread_mutex_unlock(&d->lock);
  *out_bytes = bytes;
  *out_size = at;
  return KILN_OK;
}

kiln_status cuda_images_add(device *d, const char *key, const void *bytes, size_t size) {
  cuda_function *f = mem_calloc(1, sizeof *f);
  if (f) f->image = mem_alloc(size ? size : 1);
  if (!f || !f->image) {
    mem_free(f);
    return KILN_NO_MEMORY("compiled kernels");
  }
  snprintf(f->key, sizeof f->key, "%s", key);
  memcpy(f->image, bytes, size);
  f->image_bytes = size;
  f->owns_image = true;
  f->done = true;
  pthread_mutex_lock(&d->lock);
  const cuda_function *same = d->functions;
  while (same && !(same->image && memcmp(same->key, key, KEY) == 0)) same = same->next;
  if (same) {
    mem_free(f->image);
    mem_free(f);
  } else {
    f->next = d->functions;
    d->functions = f;
  }
  pthread_mutex_unlock(&d->lock);
  return KILN_OK;
}

/* ---- offering ------------------------------------------------------------------------------------------------------- */

static bool plausible(const char *bytes, size_t size, uint32_t *out_count) {
  images_head head;
  if (size < sizeof head) return false;
  memcpy(&head, bytes, sizeof head);
  *out_count = head.count;
  return memcmp(head.magic, magic, sizeof magic) == 0 && head.count <= (size - sizeof head) / sizeof(image_entry);
}

kiln_status cuda_images_offer(device *d, const void *bytes, size_t size) {
  uint32_t count = 0;
  if (!bytes || !plausible(bytes, size, &count)) return KILN_OK; /* nothing of use: they are compiled */
  pthread_mutex_lock(&d->lock);
  cuda_images *x = d->images;
  while (x && x->bytes != bytes) x = x->next;
  if (x) {
    x->references++;
  } else if ((x = mem_calloc(1, sizeof *x))) {
    *x = (cuda_images){bytes, size, count, 1, d->images};
    d->images = x;
  }
  pthread_mutex_unlock(&d->lock);
  return x ? KILN_OK : KILN_NO_MEMORY("compiled kernels");
}

void cuda_images_withdraw(device *d, const void *bytes) {
  pthread_mutex_lock(&d->lock);
  for (cuda_images **at = &d->images; *at; at = &(*at)->next) {
    cuda_images *x = *at;
    if (x->bytes != bytes) continue;
    if (--x->references == 0) {
      *at = x->next;
      mem_free(x);
    }
    break;
  }
  pthread_mutex_unlock(&d->lock);
}

const void *cuda_images_find(const device *d, const char *key, size_t *out_size) {
  for (const cuda_images *x = d->images; x; x = x->next) {
    for (uint32_t i = 0; i < x->count; i++) {
      const image_entry e = entry_of(x, i);
      if (memcmp(e.key, key, KEY) != 0) continue;
      if (e.offset > x->size || e.size > x->size - e.offset) break;
      *out_size = (size_t)e.size;
      return x->bytes + e.offset;
    }
  }
  return NULL;
}

const void *cuda_images_first(const device *d) { return d->images ? d->images->bytes : NULL; }
