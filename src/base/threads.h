/* Thread pool: workers spin for a short while, then park. One caller at a time owns a pool. */
#ifndef KILN_BASE_THREADS_H
#define KILN_BASE_THREADS_H

#include <stdint.h>

#include "base/status.h"

typedef struct pool pool;

/* A pool that runs `threads` tasks at once, the caller's thread included (so threads - 1 workers are started).
 * threads <= 0: one per core this process may use. */
kiln_status pool_create(int threads, pool **out_pool);
void pool_destroy(pool *p);
int pool_threads(const pool *p); /* NULL counts as 1 */

/* Calls fn(user, i, worker) for each i in [0, count), in any order and in parallel, and returns when all are done.
 * `worker` is in [0, pool_threads): use it to pick scratch memory. Tasks are handed out in chunks from one atomic
 * counter. Nested calls and calls while another thread uses the pool run inline with worker 0. No allocation. */
typedef void (*pool_fn)(void *user, int64_t i, int worker);
void pool_run(pool *p, int64_t count, pool_fn fn, void *user);

/* Splits [0, n) into about `parts` ranges that are multiples of `grain` (except the last). */
static inline void range_split(int64_t n, int64_t parts, int64_t grain, int64_t part, int64_t *begin, int64_t *end) {
  const int64_t blocks = (n + grain - 1) / grain;
  const int64_t b = blocks * part / parts * grain, e = blocks * (part + 1) / parts * grain;
  *begin = b < n ? b : n;
  *end = e < n ? e : n;
}

int cpu_count(void);
double time_now(void); /* monotonic seconds */

#endif
