/* Memory planner, see memory_plan.h. */
#include "plan/memory_plan.h"

#include <stdlib.h>

#include "base/memory.h"

static int compare_size(const void *a, const void *b) {
  const memory_block *x = *(const memory_block *const *)a, *y = *(const memory_block *const *)b;
  if (x->size != y->size) return x->size < y->size ? 1 : -1;
  return x < y ? -1 : x > y; /* stable, so that plans repeat */
}

static int compare_offset(const void *a, const void *b) {
  const memory_block *x = *(const memory_block *const *)a, *y = *(const memory_block *const *)b;
  if (x->offset != y->offset) return x->offset < y->offset ? -1 : 1;
  return x < y ? -1 : x > y;
}

/* Lowest-waste gap among placed blocks (sorted by offset) that overlap `b` in time. */
static size_t best_offset(const memory_block *b, memory_block **placed, size_t n) {
  size_t end = 0, best = SIZE_MAX, best_gap = SIZE_MAX;
  for (size_t i = 0; i < n; i++) {
    const memory_block *o = placed[i];
    if (o->last < b->first || o->first > b->last) continue;
    if (o->offset > end) {
      const size_t gap = o->offset - end;
      if (gap >= b->size && gap < best_gap) {
        best = end;
        best_gap = gap;
      }
    }
    const size_t after = size_align(o->offset + o->size, 64);
    if (after > end) end = after;
  }
  return best != SIZE_MAX ? best : end;
}

kiln_status memory_plan(memory_block *blocks, size_t count, size_t *out_total) {
  memory_block **order = mem_calloc(count + 1, sizeof *order), **placed = mem_calloc(count + 1, sizeof *placed);
  if (!order || !placed) {
    mem_free(order);
    mem_free(placed);
    return KILN_NO_MEMORY("memory plan");
  }
  for (size_t i = 0; i < count; i++) order[i] = &blocks[i];
  qsort(order, count, sizeof *order, compare_size);
  size_t total = 0;
  for (size_t i = 0; i < count; i++) {
    memory_block *b = order[i];
    b->offset = best_offset(b, placed, i);
    if (b->offset + b->size > total) total = b->offset + b->size;
    size_t at = i; /* insert by offset */
    while (at > 0 && compare_offset(&placed[at - 1], &b) > 0) {
      placed[at] = placed[at - 1];
      at--;
    }
    placed[at] = b;
  }
  mem_free(order);
  mem_free(placed);
  *out_total = total;
  return KILN_OK;
}
