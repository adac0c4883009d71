/* Heap memory: the host's allocator, counters and failure injection. The counters are relaxed atomics; they cost little
 * beside an allocation and let every build run the allocation-failure tests. */
#define _DEFAULT_SOURCE
#include "base/memory.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#ifdef __linux__
#include <sys/mman.h>
#endif

static void *default_allocate(void *user, size_t size) {
  (void)user;
  return malloc(size);
}

static void default_release(void *user, void *block) {
  (void)user;
  free(block);
}

static kiln_allocator hooks = {default_allocate, default_release, NULL};
static atomic_int_fast64_t live_blocks, total_allocations;
static atomic_int_fast64_t fail_countdown = -1;

void mem_set_allocator(const kiln_allocator *allocator) {
  const kiln_allocator standard = {default_allocate, default_release, NULL};
  hooks = allocator != NULL ? *allocator : standard;
}

/* Counts one allocation down; true when this is the one to refuse. Later ones pass, as the countdown is then off. */
bool mem_test_refuses(void) {
  int_fast64_t left = atomic_load_explicit(&fail_countdown, memory_order_relaxed);
  while (left >= 0) {
    if (atomic_compare_exchange_weak_explicit(&fail_countdown, &left, left - 1, memory_order_relaxed,
                                              memory_order_relaxed)) {
      return left == 0;
    }
  }
  return false;
}

void *mem_alloc(size_t size) {
  atomic_fetch_add_explicit(&total_allocations, 1, memory_order_relaxed);
  if (mem_test_refuses() || size > PTRDIFF_MAX) return NULL;
  void *block = hooks.allocate(hooks.user, size == 0 ? 1 : size);
  if (block != NULL) atomic_fetch_add_explicit(&live_blocks, 1, memory_order_relaxed);
  return block;
}

void *mem_calloc(size_t count, size_t size) {
  size_t bytes;
  if (!size_mul(count, size, &bytes)) return NULL;
  void *block = mem_alloc(bytes);
  if (block != NULL) memset(block, 0, bytes);
  return block;
}

void *mem_realloc(void *block, size_t old_size, size_t new_size) {
  void *bigger = mem_alloc(new_size);
  if (bigger == NULL) return NULL;
  if (block != NULL) memcpy(bigger, block, old_size < new_size ? old_size : new_size);
  mem_free(block);
  return bigger;
}

void mem_free(void *block) {
  if (block == NULL) return;
  atomic_fetch_sub_explicit(&live_blocks, 1, memory_order_relaxed);
  hooks.release(hooks.user, block);
}

/* Weights and arenas in pages of 2 MiB, where the system has them: filling them for the first time takes a third less time, and a
 * product of few rows, which reads weights from beyond L2, up to half. Only a hint, and only for memory of our own. */
enum { ALIGNMENT = 64, LARGE_PAGE = 2 << 20 };

#if defined(__linux__) && defined(MADV_HUGEPAGE)
static bool wants_large_pages(size_t size) {
  return size >= 2 * (size_t)LARGE_PAGE && hooks.allocate == default_allocate;
}
/* Small pages that the allocator had in use before are given back first, since they would stay. */
static void prefer_large_pages(char *block, size_t size) {
  if (madvise(block, size, MADV_HUGEPAGE) == 0) (void)madvise(block, size, MADV_DONTNEED);
}
#else
static bool wants_large_pages(size_t size) { return (void)size, false; }
static void prefer_large_pages(char *block, size_t size) { (void)block, (void)size; }
#endif

/* The word before an aligned block holds the block to release. Large blocks are whole large pages. */
void *mem_alloc_aligned(size_t size) {
  const bool large = wants_large_pages(size);
  const size_t alignment = large ? LARGE_PAGE : ALIGNMENT;
  size_t whole = size, bytes;
  if (large && !size_add(size, LARGE_PAGE - 1, &whole)) return NULL;
  if (large) whole = whole / LARGE_PAGE * LARGE_PAGE;
  if (!size_add(whole, alignment + sizeof(void *), &bytes)) return NULL;
  char *block = mem_alloc(bytes);
  if (block == NULL) return NULL;
  char *first = block + sizeof(void *);
  char *aligned = first + (alignment - (uintptr_t)first % alignment) % alignment;
  if (large) prefer_large_pages(aligned, whole);
  memcpy(aligned - sizeof(void *), &block, sizeof block);
  return aligned;
}

void mem_free_aligned(void *block) {
  if (block == NULL) return;
  void *origin;
  memcpy(&origin, (char *)block - sizeof(void *), sizeof origin);
  mem_free(origin);
}

void mem_test_fail_after(int64_t n) { atomic_store(&fail_countdown, n < 0 ? -1 : n); }
int64_t mem_test_fail_left(void) { return atomic_load(&fail_countdown); }
int64_t mem_test_live_blocks(void) { return atomic_load(&live_blocks); }
int64_t mem_test_total_allocations(void) { return atomic_load(&total_allocations); }
