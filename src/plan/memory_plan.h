/* Memory planner: places buffers with known lifetimes in one arena so that no two live ones overlap. */
#ifndef KILN_PLAN_MEMORY_PLAN_H
#define KILN_PLAN_MEMORY_PLAN_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct memory_block {
  size_t size;         /* bytes */
  int32_t first, last; /* steps in which it is live, inclusive */
  size_t offset;       /* out: multiple of 64 */
} memory_block;

/* Greedy by size: largest first, each at the lowest offset (best fit among gaps) that is free during its life (as in
 * "Efficient Memory Management for Deep Neural Net Inference", Pisarchyk and Lee, 2020, greedy-by-size). O(n^2). */
kiln_status memory_plan(memory_block *blocks, size_t count, size_t *out_total);

#endif
