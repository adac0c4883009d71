/* Splitting a kernel's work over the pool: ranges of units, no more tasks than are worth starting. */
#ifndef KILN_BACKENDS_CPU_PARALLEL_H
#define KILN_BACKENDS_CPU_PARALLEL_H

#include "base/threads.h"

enum { CPU_TASK_COST = 16384 }; /* a task should do at least so many element operations (a few microseconds) */

/* Works on units [begin, end). `worker` as in pool_fn. */
typedef void (*cpu_range_fn)(void *user, int64_t begin, int64_t end, int worker);

/* Calls fn over ranges that cover [0, units) exactly; `unit_cost` is the element operations of one unit. Small work
 * runs in the caller's thread as one range. */
void cpu_parallel(pool *p, int64_t units, int64_t unit_cost, cpu_range_fn fn, void *user);

#endif
