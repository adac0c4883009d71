/* All heap memory of the library passes here: hooks for hosts, failure injection and live-block counts for tests. */
#ifndef KILN_BASE_MEMORY_H
#define KILN_BASE_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <kiln/kiln.h>

/* What kiln_set_allocator forwards to: NULL restores malloc and free. Before the first allocation only. */
void mem_set_allocator(const kiln_allocator *allocator);

/* NULL when out of memory (or when a test asked for that); size 0 gives a block too. Aligned to 16. */
void *mem_alloc(size_t size);
void *mem_calloc(size_t count, size_t size); /* zeroed; NULL also when count * size overflows */
/* Grows or shrinks; on NULL the old block is untouched. `old_size` bytes are kept. */
void *mem_realloc(void *block, size_t old_size, size_t new_size);
void mem_free(void *block); /* NULL is fine */
/* Blocks aligned to 64, for tensors. Release with mem_free_aligned. */
void *mem_alloc_aligned(size_t size);
void mem_free_aligned(void *block);

/* out = a * b (or a + b); false on overflow. */
static inline bool size_mul(size_t a, size_t b, size_t *out) { return !__builtin_mul_overflow(a, b, out); }
static inline bool size_add(size_t a, size_t b, size_t *out) { return !__builtin_add_overflow(a, b, out); }
static inline size_t size_align(size_t n, size_t alignment) { return (n + alignment - 1) / alignment * alignment; }

/* Tests: the allocation after `n` more fails (and only that one if `once`); -1 turns it off. Process-wide. */
void mem_test_fail_after(int64_t n);
/* What is left of that n; -1 after the failure. Objects cut from arenas count as allocations here, and fail like
 * them. */
int64_t mem_test_fail_left(void);
/* Counts down by one; true when this allocation must be refused. For allocators that sit on mem_alloc. */
bool mem_test_refuses(void);
int64_t mem_test_live_blocks(void);
int64_t mem_test_total_allocations(void);

#endif
